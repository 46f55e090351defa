//! Seeds: names that are looked up again and again; and the address at which other nodes reach this one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UdpSocket, lookup_host},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::Shared;

/// How long a look-up may take before it is logged.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between look-ups while no other member is alive.
const LOOKUP_INTERVAL_ALONE: Duration = Duration::from_secs(1);
/// The pause between look-ups otherwise.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// Looks up one seed for as long as the node runs. A look-up that hangs delays no other seed, and is not
/// repeated before it returns, because every look-up takes a thread.
pub(super) async fn follow(seed: String, shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        let mut lookup = pin!(lookup_host(&seed));
        let found = match timeout(LOOKUP_TIMEOUT, &mut lookup).await {
            Ok(found) => found,
            Err(_) => {
                if !failing {
                    warn!(seed, "seed look-up is slow");
                }
                failing = true;
                lookup.await
            }
        };
        match found {
            Ok(addresses) => {
                if failing {
                    info!(seed, "seed resolves again");
                }
                failing = false;
                for address in addresses {
                    shared.meet(address);
                }
            }
            Err(error) => {
                if !failing {
                    warn!(seed, %error, "seed does not resolve");
                }
                failing = true;
            }
        }
        sleep(if shared.is_alone() { LOOKUP_INTERVAL_ALONE } else { LOOKUP_INTERVAL }).await;
    }
}

/// The address at which other nodes reach this one: the given `host:port`, else the address that the node
/// listens on. If the node listens on all addresses: the one from which it would send to the first seed that
/// resolves, else the one that this machine's name resolves to.
///
/// # Errors
/// When none of these is known. The message names the setting.
pub async fn advertised(
    listen: SocketAddr,
    advertise: Option<&str>,
    seeds: &[String],
) -> io::Result<SocketAddr> {
    if let Some(given) = advertise {
        let found = look_up(given).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("PALISADE_CLUSTER_ADVERTISE={given} does not resolve: {error}"),
            )
        })?;
        let usable = |address: &SocketAddr| !address.ip().is_unspecified() && address.port() != 0;
        return best(listen, found.into_iter().filter(usable)).ok_or_else(|| {
            let problem =
                format!("PALISADE_CLUSTER_ADVERTISE={given} is not an address that other nodes can reach");
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        });
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    for seed in seeds {
        for address in look_up(seed).await.unwrap_or_default() {
            if let Some(ip) = local_address_towards(address).await
                && reachable(listen, ip)
            {
                return Ok(SocketAddr::new(ip, listen.port()));
            }
        }
    }
    if let Some(name) = hostname() {
        let found = look_up(&format!("{name}:{}", listen.port())).await.unwrap_or_default();
        // Some systems give their own name a loopback address.
        let known = found.into_iter().filter(|address| !address.ip().is_loopback());
        if let Some(address) = known.into_iter().find(|address| reachable(listen, address.ip())) {
            return Ok(address);
        }
    }
    let problem = "the address at which other nodes reach this one is not known: set PALISADE_CLUSTER_ADVERTISE to host:port";
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, problem))
}

async fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(timeout(LOOKUP_TIMEOUT, lookup_host(name)).await??.collect())
}

/// Whether a socket that listens at `listen` receives what is sent to `ip`.
fn reachable(listen: SocketAddr, ip: IpAddr) -> bool {
    !ip.is_unspecified() && (listen.is_ipv6() || ip.is_ipv4())
}

/// The first address at which the socket is reachable, else the first of all.
fn best(listen: SocketAddr, mut found: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = found.next()?;
    if reachable(listen, first.ip()) {
        return Some(first);
    }
    Some(found.find(|address| reachable(listen, address.ip())).unwrap_or(first))
}

/// The local address from which the system would send to `address`. No packet is sent.
async fn local_address_towards(address: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(address).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn given_address_is_advertised() {
        let any = address("0.0.0.0:7100");
        let given = advertised(any, Some("localhost:7200"), &[]).await.unwrap();
        assert_eq!(given, address("127.0.0.1:7200"));
        for bad in ["nowhere.invalid:7200", "localhost", "0.0.0.0:7200", "127.0.0.1:0", ""] {
            let error = advertised(any, Some(bad), &[]).await.unwrap_err();
            assert!(error.to_string().contains("PALISADE_CLUSTER_ADVERTISE"), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn listening_address_is_advertised_by_default() {
        let one = address("127.0.0.9:7100");
        assert_eq!(advertised(one, None, &["nowhere.invalid:1".into()]).await.unwrap(), one);
    }

    #[tokio::test]
    async fn address_towards_first_resolving_seed_is_advertised() {
        let seeds = ["nowhere.invalid:7100".to_owned(), "127.0.0.7:7100".to_owned()];
        let found = advertised(address("0.0.0.0:7100"), None, &seeds).await.unwrap();
        assert_eq!(found, address("127.0.0.1:7100"));
    }

    #[tokio::test]
    async fn host_name_is_the_last_resort() {
        match advertised(address("0.0.0.0:7100"), None, &[]).await {
            Ok(found) => assert!(!found.ip().is_loopback() && found.port() == 7100, "{found}"),
            Err(error) => assert!(error.to_string().contains("PALISADE_CLUSTER_ADVERTISE"), "{error}"),
        }
    }
}
