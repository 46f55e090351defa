//! `films --health`, for containers: images need no other HTTP client.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest time of the check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The start of the answer of a healthy service.
const HEALTHY: &[u8] = b"HTTP/1.1 200";

/// Asks the service on this machine for `/health`.
///
/// # Errors
/// When it does not answer with 200 in time.
pub async fn check(listen: SocketAddr) -> io::Result<()> {
    tokio::time::timeout(CHECK_TIMEOUT, ask(reachable(listen))).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; HEALTHY.len()];
    stream.read_exact(&mut start).await?;
    if start == HEALTHY { Ok(()) } else { Err(io::Error::other("the answer is not 200")) }
}

/// The address at which this machine reaches a listener: one on all addresses is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
