//! Up to when a node knows everything.

use super::*;

#[test]
fn freshness_is_the_send_time_of_an_applied_ping() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.receive(peer, Message::Heads(Vec::new()), now(1)).unwrap();
    pong(&mut replicator, peer, 3, now(10), now(50));
    assert_eq!(replicator.fresh_at(now(50)), None);
    let message = |first, last| Message::Facts { origin: peer, first, facts: facts(first, last) };
    replicator.receive(peer, message(1, 2), now(60)).unwrap();
    assert_eq!(replicator.fresh_at(now(60)), None, "one entry is missing");
    replicator.receive(peer, message(3, 3), now(70)).unwrap();
    assert_eq!(replicator.fresh_at(now(70)), Some(Duration::from_millis(10)));
}

#[test]
fn peer_is_not_fresh_before_its_former_lives_are_known() {
    let peer = life(2, 5);
    let mut replicator = linked(&[peer], now(0));
    pong(&mut replicator, peer, 0, now(10), now(20));
    assert_eq!(replicator.fresh_at(now(20)), None, "the pong came before the heads");
    let former = [head(life(2, 3), 1), head(life(2, 4), 2)];
    replicator.receive(peer, Message::Heads(former.to_vec()), now(30)).unwrap();
    assert_eq!(replicator.fresh_at(now(30)), None);
    for (incarnation, last) in [(3, 1), (4, 2)] {
        assert_eq!(replicator.fresh_at(now(40)), None, "{incarnation} is missing");
        let message = Message::Facts { origin: life(2, incarnation), first: 1, facts: facts(1, last) };
        replicator.receive(peer, message, now(40)).unwrap();
    }
    assert_eq!(replicator.fresh_at(now(40)), Some(Duration::from_millis(10)));
}

#[test]
fn departed_member_counts_until_its_log_is_applied() {
    let left = origin(2);
    let peer = origin(3);
    let mut replicator = linked(&[left, peer], now(0));
    replicator.receive(left, Message::Leaving { head: 1 }, now(1)).unwrap();
    replicator.receive(peer, Message::Heads(Vec::new()), now(1)).unwrap();
    pong(&mut replicator, peer, 0, now(10), now(20));
    replicator.remove_link(left);
    assert_eq!(replicator.fresh_at(now(20)), None);
    replicator.receive(peer, Message::Facts { origin: left, first: 1, facts: facts(1, 1) }, now(30)).unwrap();
    assert_eq!(replicator.fresh_at(now(30)), Some(Duration::from_millis(10)));
}
