//! How many connections an address may have of all that there are.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

/// Where a connection comes from, as it is counted: an IPv4 address, or the /64 of an IPv6 address, of which
/// one customer has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// Of this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

/// The connections of a listener.
#[derive(Debug)]
pub struct Admission {
    all: usize,
    share: usize,
    /// Whose connections are those of many clients.
    proxies: Vec<IpNet>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_source: HashMap<Source, usize>,
}

impl Admission {
    /// For so many connections, of which an address that is no proxy may have a share.
    #[must_use]
    pub fn new(all: usize, share: usize, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { all, share, proxies, open: Mutex::default() })
    }

    /// A place for one more connection of this address; `None` when there is none.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.open();
        if open.all >= self.all {
            return None;
        }
        let address = address.to_canonical();
        let source =
            (!self.proxies.iter().any(|network| network.contains(&address))).then(|| Source::of(address));
        if let Some(source) = source {
            let taken = open.by_source.entry(source).or_default();
            if *taken >= self.share {
                return None;
            }
            *taken += 1;
        }
        open.all += 1;
        Some(Place { admission: self.clone(), source })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    source: Option<Source>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.all -= 1;
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
    fn address_gets_its_share_and_leaves_the_rest_to_others() {
        let admission = Admission::new(5, 2, Vec::new());
        let counted = || {
            let open = admission.open();
            (open.all, open.by_source.len())
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
    fn addresses_of_one_network_share_where_one_client_has_it() {
        let admission = Admission::new(10, 1, Vec::new());
        let _first = admission.admit(address("2001:db8::1")).unwrap();
        assert!(admission.admit(address("2001:db8::ffff:2")).is_none(), "the same /64");
        assert!(admission.admit(address("2001:db8:0:1::1")).is_some(), "another /64");
        let _v4 = admission.admit(address("192.0.2.1")).unwrap();
        assert!(admission.admit(address("::ffff:192.0.2.1")).is_none(), "the same, mapped");
    }

    #[test]
    fn proxies_have_no_share_and_yet_a_bound() {
        let admission = Admission::new(3, 1, vec!["10.0.0.0/8".parse().unwrap()]);
        let many: Vec<_> = (0..10).filter_map(|_| admission.admit(address("::ffff:10.1.2.3"))).collect();
        assert_eq!(many.len(), 3);
        assert!(admission.admit(address("192.0.2.1")).is_none(), "all are taken");
    }
}
