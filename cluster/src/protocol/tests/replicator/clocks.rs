//! The clocks of peers.

use super::*;

/// Lets a peer report a clock that is ahead.
fn report_clock(replicator: &mut Replicator, from: Origin, ahead: Duration, at: Now) {
    replicator.receive(from, Message::Clock { at: at.wall.plus(ahead) }, at).unwrap();
}

#[test]
fn furthest_clock_counts_until_the_own_one_reaches_it() {
    let [first, second] = [origin(2), origin(3)];
    let mut replicator = linked(&[first, second], now(0));
    assert_eq!(replicator.clock_ahead(now(5)), Duration::ZERO, "no peer has reported a clock");
    let [none, some, more] = [0, 90, 3_600].map(Duration::from_secs);
    for (from, told, ahead) in [
        (first, some, some),
        (second, more, more),
        (first, none, more),
        // The clock is right again: tokens that it issued before live on.
        (second, none, more),
    ] {
        report_clock(&mut replicator, from, told, now(5));
        assert_eq!(replicator.clock_ahead(now(5)), ahead);
    }
    // The node is forgotten after it has been gone for long.
    replicator.remove_link(second);
    replicator.set_members([]);
    replicator.expire_members(Duration::ZERO);
    replicator.expire_members(Tuning::default().member_expiry * 2);
    assert_eq!(replicator.clock_ahead(now(5)), more);
    assert_eq!(replicator.clock_ahead(now(600_005)), more.saturating_sub(Duration::from_secs(600)));
    assert_eq!(replicator.clock_ahead(now(3_600_005)), Duration::ZERO);
    // A clock that is wrong by years counts as one that is a day ahead.
    report_clock(&mut replicator, first, Duration::from_secs(1 << 30), now(5));
    assert_eq!(replicator.clock_ahead(now(5)), schema::horizon::MAX_AHEAD);
}

#[test]
fn slowest_clock_counts_until_its_node_is_forgotten() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    assert_eq!(replicator.clock_behind(), schema::horizon::MAX_AHEAD, "it has not reported its clock");
    let behind = Duration::from_secs(90);
    replicator.receive(peer, Message::Clock { at: now(5).wall.minus(behind) }, now(5)).unwrap();
    assert_eq!((replicator.clock_behind(), replicator.clock_ahead(now(5))), (behind, Duration::ZERO));
    report_clock(&mut replicator, peer, Duration::ZERO, now(6));
    assert_eq!(replicator.clock_behind(), Duration::ZERO);
    replicator.receive(peer, Message::Clock { at: Timestamp::EPOCH }, now(7)).unwrap();
    assert!(replicator.clock_behind() > behind);
    replicator.remove_link(peer);
    assert!(replicator.clock_behind() > behind, "a link may break at any time");
    replicator.set_members([]);
    replicator.expire_members(Duration::ZERO);
    replicator.expire_members(Tuning::default().member_expiry * 2);
    assert_eq!(replicator.clock_behind(), Duration::ZERO);
}

#[test]
fn clock_agrees_with_the_majority_of_peers() {
    let [first, second, third] = [origin(2), origin(3), origin(4)];
    let mut replicator = linked(&[first, second, third], now(0));
    assert!(!replicator.clock_agrees(now(1)), "no peer has reported its clock");
    report_clock(&mut replicator, first, Duration::ZERO, now(1));
    assert!(replicator.clock_agrees(now(1)));
    report_clock(&mut replicator, second, Duration::from_secs(90), now(1));
    assert!(!replicator.clock_agrees(now(1)), "one and one");
    report_clock(&mut replicator, third, Duration::from_secs(1), now(1));
    assert!(replicator.clock_agrees(now(1)));
    // The reported time is extrapolated, so a jump of this node's clock shows.
    assert!(replicator.clock_agrees(now(900)));
    let jumped = Now { monotonic: now(900).monotonic, ..now(3_600_900) };
    assert!(!replicator.clock_agrees(jumped));
    replicator.remove_link(first);
    replicator.remove_link(third);
    assert!(!replicator.clock_agrees(now(900)));
}

#[test]
fn clock_set_back_reports_its_furthest_time() {
    let peer = origin(2);
    let clocks = |replicator: &mut Replicator, at| -> Vec<Timestamp> {
        let told = sent_to(replicator, peer, at).into_iter().filter_map(|message| match message {
            Message::Clock { at } => Some(at),
            _ => None,
        });
        // The first ping of a link sends the clock as well.
        told.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let mut replicator = linked(&[peer], now(0));
    assert_eq!(clocks(&mut replicator, now(0)), [now(0).wall]);
    let ahead = Now { monotonic: now(10).monotonic, ..now(3_600_000) };
    assert_eq!(clocks(&mut replicator, ahead), []);
    assert_eq!(clocks(&mut replicator, now(20)), [ahead.wall], "as soon as the clock is right again");
    assert_eq!(clocks(&mut replicator, now(30)), []);
    replicator.remove_link(peer);
    replicator.add_link(peer, 1, now(40));
    assert_eq!(clocks(&mut replicator, now(40)), [now(40).wall, ahead.wall], "and on every new link");
}

#[test]
fn latency_is_no_clock_difference() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    for (ms, ahead) in [(0, 0), (1, 0), (1_999, 0), (2_000, 2_000), (2_001, 2_001)] {
        report_clock(&mut replicator, peer, Duration::from_millis(ms), now(5));
        assert_eq!(replicator.clock_ahead(now(5)), Duration::from_millis(ahead));
    }
}

#[test]
fn clock_ahead_is_bounded() {
    let liar = origin(2);
    let most = Duration::from_secs(25 * 3_600);
    let mut replicator = linked(&[liar], now(0));
    for told in [most, most + Duration::from_millis(1), 2 * most, Duration::MAX] {
        report_clock(&mut replicator, liar, told, now(5));
        assert_eq!(replicator.clock_ahead(now(5)), most, "{told:?}");
    }
    report_clock(&mut replicator, liar, Duration::ZERO, now(5));
    assert_eq!(replicator.clock_ahead(now(5)), most, "tokens that it issued live on");
}

#[test]
fn clock_is_believed_only_from_a_linked_peer() {
    let peer = life(2, 2);
    let stranger = origin(4);
    let mut replicator = linked(&[peer], now(0));
    let some = Duration::from_secs(90);
    for from in [stranger, life(2, 1), life(2, 3)] {
        report_clock(&mut replicator, from, some, now(5));
        assert_eq!(replicator.clock_ahead(now(5)), Duration::ZERO, "{from:?}");
    }
    replicator.remove_link(peer);
    report_clock(&mut replicator, peer, some, now(5));
    assert_eq!(replicator.clock_ahead(now(5)), Duration::ZERO);
}

/// The tokens that it issued are still valid by its clock.
#[test]
fn furthest_clock_outlives_its_node() {
    let peer = life(2, 1);
    let some = Duration::from_secs(90);
    let mut replicator = linked(&[peer], now(0));
    report_clock(&mut replicator, peer, some, now(5));
    replicator.remove_link(peer);
    assert_eq!(replicator.clock_ahead(now(5)), some, "cut off");
    replicator.set_members([(peer, MemberState::Dead)]);
    assert_eq!(replicator.clock_ahead(now(5)), some, "dead");
    replicator.set_members([]);
    assert_eq!(replicator.clock_ahead(now(5)), some, "unknown to gossip");
    replicator.set_members([(life(2, 2), MemberState::Alive)]);
    replicator.add_link(life(2, 2), 1, now(10));
    assert_eq!(replicator.clock_ahead(now(5)), some, "started again, and has not reported its clock yet");
    replicator.receive(life(2, 2), Message::Leaving { head: 0 }, now(11)).unwrap();
    assert_eq!(replicator.clock_ahead(now(5)), some, "leaving");
    replicator.remove_link(life(2, 2));
    replicator.set_members([(life(2, 2), MemberState::Left)]);
    assert_eq!(replicator.clock_ahead(now(5)), some, "left");
}

#[test]
fn clock_is_sent_first_and_every_few_pings() {
    let peers = [origin(2), origin(3)];
    let mut replicator = linked(&peers, now(0));
    for peer in peers {
        let mut silent = 0;
        for ms in (0..20_000).step_by(250) {
            let told = sent_to(&mut replicator, peer, now(ms));
            let time = Message::Clock { at: now(ms).wall };
            assert!(ms > 0 || told.first() == Some(&time), "{told:?}");
            silent = if told.contains(&time) { 0 } else { silent + 1 };
            assert!(silent < 8, "{told:?}");
            let nonce = pings(&told).expect("a ping");
            replicator.receive(peer, Message::Pong { nonce, head: 0 }, now(ms)).unwrap();
        }
    }
}
