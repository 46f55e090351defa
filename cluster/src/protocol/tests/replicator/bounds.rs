//! Memory is bounded whatever peers send.

use super::*;

#[test]
fn entries_and_logs_are_bounded_at_every_moment() {
    let peer = origin(2);
    let tuning = Tuning { bytes_max: 64 * 1024, logs_max: 4, ..Tuning::default() };
    let mut replicator = Replicator::new(origin(1), tuning);
    replicator.add_link(peer, 1, now(0));
    for batch in 0..100 {
        let first = batch * 100 + 1;
        let last = first + 99;
        replicator
            .receive(peer, Message::Facts { origin: peer, first, facts: facts(first, last) }, now(1))
            .unwrap();
        assert!(replicator.bytes() <= 72 * 1024 + BLOCK_BYTES_MAX, "{}", replicator.bytes());
    }
    assert_eq!(replicator.complete(peer), 10_000);
    let heads = (10..100).map(|node| head(origin(node), 5)).collect();
    replicator.receive(peer, Message::Heads(heads), now(2)).unwrap();
    assert_eq!(replicator.logs().len(), 4);
}

proptest! {
    /// Whatever a peer sends, in any order, nothing panics and memory is bounded.
    #[test]
    fn any_messages_are_survived(
        messages in prop::collection::vec((super::message::any_message(), 0..5_u8), 0..60),
    ) {
        let peers = [origin(2), origin(3)];
        let tuning = Tuning { bytes_max: 32 * 1024, logs_max: 8, ..Tuning::default() };
        let mut replicator = Replicator::new(origin(1), tuning);
        replicator.set_members(peers.map(|peer| (peer, MemberState::Alive)));
        peers.iter().for_each(|peer| replicator.add_link(*peer, 1, now(0)));
        replicator.publish(1, &facts(1, 300));
        for (at, (mut message, whose)) in (0..).zip(messages) {
            // Most messages name logs that exist.
            if let Message::Heads(heads) = &mut message {
                heads.iter_mut().for_each(|head| head.origin = origin(whose));
            }
            if let Message::Facts { origin: of, .. }
            | Message::Pull { origin: of, .. }
            | Message::Pulled { origin: of, .. }
            | Message::Digests { origin: of, .. } = &mut message
            {
                *of = origin(whose);
            }
            let at = now(at * 300);
            let from = peers[usize::from(whose % 2)];
            _ = replicator.receive(from, message, at);
            for peer in peers {
                for _ in 0..20 {
                    replicator.poll(peer, at);
                }
            }
            replicator.upkeep(at);
            _ = (replicator.fresh_at(at), replicator.visible(1, 300), replicator.peers(), replicator.is_caught_up());
            let logs = replicator.logs();
            prop_assert!(logs.len() <= 8);
            prop_assert_eq!(replicator.kept(), logs.iter().map(|log| log.kept).sum::<usize>());
            prop_assert!(replicator.bytes() <= 36 * 1024 + BLOCK_BYTES_MAX);
        }
    }
}

#[test]
fn badly_chosen_numbers_take_little_memory() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    for n in 1..=20_000 {
        let message = Message::Facts { origin: peer, first: 256 * n, facts: facts(n, n) };
        replicator.receive(peer, message, now(1)).unwrap();
    }
    // Entries beyond the reach are refused.
    assert_eq!(replicator.kept(), 2_097_152 / 256);
    assert_eq!(replicator.counters().refused, 20_000 - 2_097_152 / 256);
    assert!(replicator.bytes() < 8 * 1024 * 1024, "{}", replicator.bytes());
}

#[test]
fn memory_is_bounded_however_many_logs_there_are() {
    let peer = origin(2);
    let tuning = Tuning { bytes_max: 64 * 1024, ..Tuning::default() };
    let mut replicator = Replicator::new(origin(1), tuning);
    replicator.add_link(peer, 1, now(0));
    replicator.publish(1, &facts(1, 50));
    for n in 1..=2_000 {
        let of = life(9, n);
        replicator
            .receive(peer, Message::Facts { origin: of, first: 1, facts: facts(1, 3) }, now(1))
            .unwrap();
        assert!(replicator.bytes() <= 72 * 1024 + BLOCK_BYTES_MAX, "{}", replicator.bytes());
    }
    assert_eq!(replicator.complete(life(9, 2_000)), 3);
    assert_eq!(replicator.head(), 50);
    let pull = Message::Pull { origin: origin(1), first: 1, last: 50 };
    replicator.receive(peer, pull, now(2)).unwrap();
    let answer = sent_to(&mut replicator, peer, now(2));
    assert!(answer.contains(&Message::Facts { origin: origin(1), first: 1, facts: facts(1, 50) }));
}

#[test]
fn linked_peer_gets_a_log_when_all_logs_are_taken() {
    let peer = origin(2);
    let other = origin(3);
    let mut replicator = Replicator::new(origin(1), Tuning { logs_max: 8, ..Tuning::default() });
    replicator.add_link(peer, 1, now(0));
    replicator
        .receive(peer, Message::Heads((1..100).map(|n| head(life(9, n), 5)).collect()), now(1))
        .unwrap();
    assert_eq!(replicator.logs().len(), 8);
    replicator.add_link(other, 1, now(2));
    let message = Message::Facts { origin: other, first: 1, facts: facts(1, 3) };
    replicator.receive(other, message, now(3)).unwrap();
    assert_eq!(replicator.complete(other), 3);
    assert_eq!(replicator.logs().len(), 8);
}

#[test]
fn tracked_logs_of_peers_are_bounded() {
    let peers: Vec<_> = (2..130).map(origin).collect();
    let mut replicator = linked(&peers, now(0));
    for peer in &peers {
        for from in (1..2_561).step_by(512) {
            let heads = (from..from + 512).map(|n| head(life(200, n), 5)).collect();
            replicator.receive(*peer, Message::Heads(heads), now(1)).unwrap();
        }
    }
    let (has, pushed) = replicator.tracked_logs();
    assert!(has <= TRACKED_LOGS_MAX && pushed <= TRACKED_LOGS_MAX, "{has} {pushed}");
}
