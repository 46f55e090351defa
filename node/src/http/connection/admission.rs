//! The share of a listener's connections that one address may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use schema::Network;

/// Counts the open connections of a listener, in total and by source.
#[derive(Debug)]
pub struct Admission {
    total_max: usize,
    share_max: usize,
    /// Networks of trusted proxies, which have no share: their connections carry many clients.
    proxies: Vec<IpNet>,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    total: usize,
    by_source: HashMap<Network, usize>,
}

impl Admission {
    /// Admits `total_max` connections, and `share_max` of them to a source that is no proxy.
    #[must_use]
    pub fn new(total_max: usize, share_max: usize, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { total_max, share_max, proxies, open: Mutex::default() })
    }

    /// Admits one more connection of this address; `None` if the share or the total is used up.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let mut open = self.open();
        if open.total >= self.total_max {
            return None;
        }
        let address = address.to_canonical();
        let source =
            (!self.proxies.iter().any(|network| network.contains(&address))).then(|| Network::from(address));
        if let Some(source) = source {
            let taken = open.by_source.entry(source).or_default();
            if *taken >= self.share_max {
                return None;
            }
            *taken += 1;
        }
        open.total += 1;
        Some(ConnectionPermit { admission: self.clone(), source })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one connection, released on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<Admission>,
    source: Option<Network>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.total -= 1;
        if let Some(source) = self.source
            && let Some(taken) = open.by_source.get_mut(&source)
        {
            *taken -= 1;
            if *taken == 0 {
                open.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_gets_its_share_and_no_more() {
        let admission = Admission::new(5, 2, Vec::new());
        let counted = || {
            let open = admission.open();
            (open.total, open.by_source.len())
        };
        let one: Vec<_> = (0..10).filter_map(|_| admission.admit(address("192.0.2.1"))).collect();
        assert_eq!(one.len(), 2);
        let other = admission.admit(address("192.0.2.2")).unwrap();
        drop(one);
        assert_eq!(counted(), (1, 1));
        drop(other);
        assert_eq!(counted(), (0, 0));
    }

    #[test]
    fn ipv6_addresses_of_one_64_share_their_limit() {
        let admission = Admission::new(10, 1, Vec::new());
        let _first = admission.admit(address("2001:db8::1")).unwrap();
        assert!(admission.admit(address("2001:db8::ffff:2")).is_none(), "the same /64");
        assert!(admission.admit(address("2001:db8:0:1::1")).is_some(), "another /64");
        let _v4 = admission.admit(address("192.0.2.1")).unwrap();
        assert!(admission.admit(address("::ffff:192.0.2.1")).is_none(), "the same, mapped");
    }

    #[test]
    fn proxies_are_limited_by_the_total_only() {
        let admission = Admission::new(3, 1, vec!["10.0.0.0/8".parse().unwrap()]);
        let many: Vec<_> = (0..10).filter_map(|_| admission.admit(address("::ffff:10.1.2.3"))).collect();
        assert_eq!(many.len(), 3);
        assert!(admission.admit(address("192.0.2.1")).is_none(), "all are taken");
    }
}
