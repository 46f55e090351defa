//! The gate: which handshakes stay, and which make room.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn ipv4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Whether the gate has not closed the connection.
fn stays(permit: &mut Permit) -> bool {
    permit.made_room.try_recv() == Err(oneshot::error::TryRecvError::Empty)
}

#[test]
fn gate_bounds_all_and_each_address() {
    let gate = Gate::new(5, 2);
    let mapped = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    let mut first = gate.enter(ipv4(1));
    let mut second = gate.enter(mapped);
    assert!(stays(&mut first) && stays(&mut second));
    let mut third = gate.enter(ipv4(1));
    assert!(!stays(&mut first) && stays(&mut second) && stays(&mut third), "the oldest of it makes room");
    let mut others = [2, 2, 3].map(|n| gate.enter(ipv4(n)));
    assert_eq!(gate.inside(), 5);
    let mut newest = gate.enter(ipv4(4));
    assert_eq!(gate.inside(), 5);
    assert!(!stays(&mut second), "the oldest of the address with the most");
    assert!(stays(&mut third) && stays(&mut newest) && others.iter_mut().all(stays));
    drop((first, second, third, newest, others));
    assert_eq!(gate.inside(), 0);
}

#[test]
fn addresses_of_one_ipv6_network_are_one_source() {
    let gate = Gate::new(100, 2);
    let address = |network: u16, host| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
    let mut ours: Vec<_> = (0..50).map(|host| gate.enter(address(1, host))).collect();
    let mut other = gate.enter(address(2, 1));
    assert_eq!(ours.iter_mut().filter_map(|permit| stays(permit).then_some(())).count(), 2);
    assert!(stays(&mut other));
    assert_eq!(gate.inside(), 3);
}

#[test]
fn connection_that_has_come_further_stays() {
    let gate = Gate::new(8, 4);
    let mut peer = gate.enter(ipv4(1));
    peer.progress().reached(Progress::STEP_PREAMBLE);
    let mut silent: Vec<_> = (0..3).map(|_| gate.enter(ipv4(1))).collect();
    for _ in 0..100 {
        silent.push(gate.enter(ipv4(1)));
        assert!(stays(&mut peer));
    }
    peer.progress().reached(Progress::STEP_SECRET);
    // Many connections from many addresses that send the preamble.
    for n in 0..200 {
        let permit = gate.enter(ipv4(n));
        permit.progress().reached(Progress::STEP_PREAMBLE);
        silent.push(permit);
        assert!(stays(&mut peer), "{n}");
        assert!(gate.inside() <= 8);
    }
}

proptest! {
    /// Whatever connections arrive, prove themselves or leave: bounds hold, the newest is always in, and a
    /// connection that has proved itself makes room only for others that have.
    #[test]
    fn any_crowd_of_connections_is_bounded(
        steps in prop::collection::vec((0..6_u8, 0..4_u8, any::<prop::sample::Index>()), 1..200),
    ) {
        let gate = Gate::new(6, 3);
        let mut permits: Vec<(u8, Permit)> = Vec::new();
        for (n, what, which) in steps {
            if what == 0 && !permits.is_empty() {
                drop(permits.swap_remove(which.index(permits.len())));
            } else if what == 1 && !permits.is_empty() {
                permits[which.index(permits.len())].1.progress().reached(Progress::STEP_SECRET);
            } else {
                permits.push((n, gate.enter(ipv4(n))));
                prop_assert!(stays(&mut permits.last_mut().unwrap().1));
            }
            permits.retain_mut(|(_, permit)| stays(permit));
            prop_assert_eq!(gate.inside(), permits.len());
            prop_assert!(permits.len() <= 6);
            for n in 0..6 {
                prop_assert!(permits.iter().filter(|(whose, _)| *whose == n).count() <= 3);
            }
        }
    }
}
