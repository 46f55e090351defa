//! Which peers count as having entries: acknowledged, or on their disks.

use super::*;

#[test]
fn visible_counts_acknowledgements_of_the_current_life() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.publish(1, &facts(1, 3));
    assert_eq!(replicator.visible(1, 3), count(0, 1));
    replicator.receive(peer, Message::Ack(Applied { complete: 0, newest: (2, 3) }), now(1)).unwrap();
    assert_eq!((replicator.visible(2, 3), replicator.visible(1, 3)), (count(1, 1), count(0, 1)));
    replicator.receive(peer, Message::Ack(Applied { complete: 3, newest: (0, 0) }), now(1)).unwrap();
    assert_eq!(replicator.visible(1, 3), count(1, 1));
    // The peer has started again, and the link to its former life has not broken yet.
    replicator.set_members([(life(2, 2), MemberState::Alive)]);
    assert_eq!(replicator.visible(1, 3), count(0, 1));
    replicator.set_members([(life(2, 2), MemberState::Dead)]);
    assert_eq!(replicator.visible(1, 3), count(0, 0));
}

#[test]
fn each_entry_is_acknowledged_at_once() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    sent_to(&mut replicator, peer, now(0));
    for seq in [1, 2, 5] {
        let message = Message::Facts { origin: peer, first: seq, facts: facts(seq, seq) };
        replicator.receive(peer, message, now(seq)).unwrap();
        let newest = if seq > 2 { (seq, seq) } else { (0, 0) };
        let applied = Applied { complete: seq.min(2), newest };
        assert_eq!(replicator.poll(peer, now(seq)), Some(Message::Ack(applied)));
    }
}

/// Two replicators that speak version 2.
fn keeping() -> (Replicator, Replicator) {
    let a = origin(1);
    let b = origin(2);
    let mut replicators = [a, b].map(|own| Replicator::new(own, Tuning::default()));
    let [first, second] = &mut replicators;
    first.set_members([(b, MemberState::Alive)]);
    second.set_members([(a, MemberState::Alive)]);
    first.add_link(b, 2, now(0));
    second.add_link(a, 2, now(0));
    replicators.into()
}

#[test]
fn on_disk_counts_what_a_peer_confirms() {
    let (mut a, mut b) = keeping();
    let own = origin(1);
    let peer = origin(2);
    sent_to(&mut a, peer, now(0));
    a.publish(1, &facts(1, 3));
    a.ask_to_keep(1, 3);
    assert_eq!(a.on_disk(1, 3), count(0, 1));
    let told = sent_to(&mut a, peer, now(1));
    let place = |wanted: &Message| told.iter().position(|message| message == wanted);
    let pushed = place(&Message::Facts { origin: own, first: 1, facts: facts(1, 3) });
    let asked = place(&Message::Keep { first: 1, last: 3 });
    assert!(pushed.is_some() && pushed < asked, "the entries come first: {told:?}");
    for message in told {
        b.receive(own, message, now(2)).unwrap();
    }
    for message in sent_to(&mut b, own, now(3)) {
        assert!(!matches!(message, Message::Kept { .. }), "nothing is on the disk yet");
        a.receive(peer, message, now(3)).unwrap();
    }
    assert_eq!((a.visible(1, 3), a.on_disk(1, 3)), (count(1, 1), count(0, 1)));
    b.confirm_kept(own, SeqRange { first: 1, last: 2 });
    b.confirm_kept(own, SeqRange { first: 3, last: 3 });
    let told = sent_to(&mut b, own, now(4));
    assert!(told.contains(&Message::Kept { first: 1, last: 3 }), "{told:?}");
    told.into_iter().for_each(|message| a.receive(peer, message, now(5)).unwrap());
    assert_eq!((a.on_disk(1, 3), a.on_disk(2, 2), a.on_disk(1, 4)), (count(1, 1), count(1, 1), count(0, 1)));
    // A confirmation does not outlive its link.
    a.remove_link(peer);
    a.add_link(peer, 2, now(6));
    assert_eq!(a.on_disk(1, 3), count(0, 1));
}

#[test]
fn peer_of_version_1_is_not_asked_to_keep() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.publish(1, &facts(1, 1));
    replicator.ask_to_keep(1, 1);
    let told = sent_to(&mut replicator, peer, now(1));
    assert!(!told.iter().any(|message| matches!(message, Message::Keep { .. })), "{told:?}");
}

proptest! {
    /// Whatever ranges a peer confirms, it counts only for numbers within one of them, or within several that
    /// touch.
    #[test]
    fn kept_range_is_never_more_than_was_confirmed(
        said in prop::collection::vec((1..60_u64, 0..20_u64), 1..30), asked in (1..60_u64, 0..20_u64),
    ) {
        let peer = origin(2);
        let mut replicator = linked(&[peer], now(0));
        replicator.publish(1, &facts(1, 100));
        let mut ever = [false; 101];
        for (first, length) in said {
            let last = first + length;
            (first..=last).for_each(|seq| ever[usize::try_from(seq).unwrap()] = true);
            replicator.receive(peer, Message::Kept { first, last }, now(1)).unwrap();
            prop_assert_eq!(replicator.on_disk(first, last), count(1, 1), "the newest range counts");
        }
        let first = asked.0;
        let last = first + asked.1;
        if replicator.on_disk(first, last) == count(1, 1) {
            prop_assert!((first..=last).all(|seq| ever[usize::try_from(seq).unwrap()]));
        }
    }
}
