//! `palisade health`: asks the node of this configuration for its health, for container health checks.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::Failure;
use crate::{operator::Done, settings::Settings};

/// How long the node may take to answer: less than container health checks usually allow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks whether the node is ready, or with `live` only whether it is alive.
pub(super) async fn health(settings: &Settings, live: bool) -> Result<Done, Failure> {
    let listen = settings.operator_listen.as_ref().unwrap_or(&settings.listen);
    let Some(address) = reachable(listen) else {
        return Err(Failure::Failed(format!(
            "the port of {listen} is chosen when the node starts; set PALISADE_LISTEN to one that is known"
        )));
    };
    let path = if live { "/health/live" } else { "/health/ready" };
    let state = if live { "alive" } else { "ready" };
    let failed = |why: String| Failure::Failed(format!("the node at {address} is not {state}: {why}"));
    let answer = timeout(ANSWER_TIMEOUT, get(&address, path)).await;
    let answer = answer.map_err(|_| failed(format!("no answer in {ANSWER_TIMEOUT:?}; look at its log")))?;
    let (status, body) = answer.map_err(|error| failed(format!("{error}; is it running?")))?;
    if status != 200 {
        return Err(failed(format!("{status} {body}")));
    }
    let result: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    if result["status"] != if live { "live" } else { "ready" } {
        return Err(failed("what answers there is not a node".into()));
    }
    Ok(Done { msg: state.into(), result })
}

/// The address at which a node that listens on `listen` is reachable from its own machine; `None` if the port
/// is not known.
fn reachable(listen: &str) -> Option<String> {
    if listen.ends_with(":0") {
        return None;
    }
    let Ok(mut address) = listen.parse::<SocketAddr>() else { return Some(listen.to_owned()) };
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Some(address.to_string())
}

async fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let malformed = || std::io::Error::other("the answer is not that of a node");
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(&bytes).map_err(|_| malformed())?;
        if let httparse::Status::Complete(head) = head {
            let length =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
            let length: usize = length.unwrap_or(0);
            if let Some(body) = bytes.get(head..head.saturating_add(length)) {
                let status = response.code.ok_or_else(malformed)?;
                return Ok((status, String::from_utf8_lossy(body).into_owned()));
            }
        }
        if bytes.len() > ANSWER_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0 {
            return Err(malformed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_on_all_addresses_is_reached_on_loopback() {
        for (listen, address) in [
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("0.0.0.0:8080", Some("127.0.0.1:8080")),
            ("[::]:8080", Some("[::1]:8080")),
            ("10.0.0.7:80", Some("10.0.0.7:80")),
            ("localhost:8080", Some("localhost:8080")),
            ("127.0.0.1:0", None),
        ] {
            assert_eq!(reachable(listen).as_deref(), address, "{listen}");
        }
    }
}
