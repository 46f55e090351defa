use std::time::Duration;

use super::super::{
    Machine, Message, Now, Tuning,
    machine::{Impostor, MemberState},
    message::{Applied, Forgotten, LogHead},
};
use super::*;
use schema::horizon::manual::horizon_at;

const LATER: Timestamp = Timestamp::from_millis(2_000_000);

fn now(ms: u64) -> Now {
    let wall = Timestamp::from_millis(1_000_000 + ms);
    Now { monotonic: Duration::from_millis(ms), wall, horizon: horizon_at(wall) }
}

const fn life(node: u8, incarnation: u64) -> Origin {
    Origin { incarnation, ..origin(node) }
}

fn facts(first: u64, last: u64) -> Vec<Fact> {
    (first..=last).map(|n| fact(n, LATER)).collect()
}

fn head(of: Origin, complete: u64) -> LogHead {
    LogHead { origin: of, complete, highest: complete, until: LATER, forgotten: Forgotten::default() }
}

/// A node that is linked with others.
fn linked(others: &[Origin], at: Now) -> Machine {
    let mut machine = Machine::new(origin(1), Tuning::default());
    machine.set_members(others.iter().map(|other| (*other, MemberState::Alive)));
    others.iter().for_each(|other| machine.linked(*other, 1, at));
    machine
}

/// All that it has to say now.
fn said(machine: &mut Machine, to: Origin, at: Now) -> Vec<Message> {
    std::iter::from_fn(|| machine.poll(to, at)).collect()
}

fn pings(said: &[Message]) -> Option<u64> {
    said.iter().find_map(|message| if let Message::Ping { nonce } = message { Some(*nonce) } else { None })
}

/// The peer answers the ping that there is.
fn pong(machine: &mut Machine, from: Origin, head: u64, sent: Now, at: Now) {
    let nonce = pings(&said(machine, from, sent)).expect("a ping");
    machine.receive(from, Message::Pong { nonce, head }, at).unwrap();
}

#[test]
fn freshness_is_of_when_the_question_was_sent_and_its_answer_applied() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.receive(peer, Message::Heads(Vec::new()), now(1)).unwrap();
    pong(&mut machine, peer, 3, now(10), now(50));
    assert_eq!(machine.fresh_at(now(50)), None);
    let message = |first, last| Message::Facts { origin: peer, first, facts: facts(first, last) };
    machine.receive(peer, message(1, 2), now(60)).unwrap();
    assert_eq!(machine.fresh_at(now(60)), None, "one is missing");
    machine.receive(peer, message(3, 3), now(70)).unwrap();
    assert_eq!(machine.fresh_at(now(70)), Some(Duration::from_millis(10)));
}

#[test]
fn nobody_is_fresh_of_a_peer_that_has_not_told_of_its_former_lives() {
    let peer = life(2, 5);
    let mut machine = linked(&[peer], now(0));
    pong(&mut machine, peer, 0, now(10), now(20));
    assert_eq!(machine.fresh_at(now(20)), None, "the answer came first");
    let former = [head(life(2, 3), 1), head(life(2, 4), 2)];
    machine.receive(peer, Message::Heads(former.to_vec()), now(30)).unwrap();
    assert_eq!(machine.fresh_at(now(30)), None);
    for (incarnation, last) in [(3, 1), (4, 2)] {
        assert_eq!(machine.fresh_at(now(40)), None, "{incarnation} is missing");
        let message = Message::Facts { origin: life(2, incarnation), first: 1, facts: facts(1, last) };
        machine.receive(peer, message, now(40)).unwrap();
    }
    assert_eq!(machine.fresh_at(now(40)), Some(Duration::from_millis(10)));
}

#[test]
fn who_left_counts_until_all_of_it_is_applied() {
    let (left, peer) = (origin(2), origin(3));
    let mut machine = linked(&[left, peer], now(0));
    machine.receive(left, Message::Leaving { head: 1 }, now(1)).unwrap();
    machine.receive(peer, Message::Heads(Vec::new()), now(1)).unwrap();
    pong(&mut machine, peer, 0, now(10), now(20));
    machine.unlinked(left);
    assert_eq!(machine.fresh_at(now(20)), None);
    machine.receive(peer, Message::Facts { origin: left, first: 1, facts: facts(1, 1) }, now(30)).unwrap();
    assert_eq!(machine.fresh_at(now(30)), Some(Duration::from_millis(10)));
}

#[test]
fn a_log_of_which_only_the_head_is_known_stays_until_it_is_pulled() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    machine.receive(peer, Message::Heads(vec![head(dead, 7)]), now(1)).unwrap();
    machine.upkeep(now(2));
    assert!(!machine.is_caught_up());
    let asked = said(&mut machine, peer, now(200));
    assert!(asked.contains(&Message::Pull { origin: dead, first: 1, last: 7 }), "{asked:?}");
}

#[test]
fn a_gap_is_asked_from_its_origin_first_and_from_one_at_a_time() {
    let (writer, peer) = (origin(2), origin(3));
    let mut machine = linked(&[writer, peer], now(0));
    let heads = |of| Message::Heads(vec![head(of, 100)]);
    machine.receive(peer, heads(writer), now(1)).unwrap();
    machine.receive(writer, Message::Heads(Vec::new()), now(1)).unwrap();
    let is_pull = |message: &Message| matches!(message, Message::Pull { .. });
    assert!(!said(&mut machine, peer, now(2)).iter().any(is_pull));
    machine
        .receive(writer, Message::Facts { origin: writer, first: 50, facts: facts(50, 60) }, now(3))
        .unwrap();
    let asked = said(&mut machine, writer, now(3));
    assert!(asked.contains(&Message::Pull { origin: writer, first: 1, last: 60 }), "{asked:?}");
    let asked: Vec<_> = said(&mut machine, peer, now(300)).into_iter().filter(is_pull).collect();
    assert_eq!(
        asked,
        [Message::Pull { origin: writer, first: 61, last: 100 }],
        "not what another is asked for"
    );
}

#[test]
fn what_was_forgotten_is_skipped_by_our_own_clock_and_passed_on() {
    let (dead, peer, newcomer) = (origin(2), origin(3), origin(4));
    let mut machine = linked(&[peer, newcomer], now(0));
    let forgotten = Forgotten { seq: 256, until: now(0).wall };
    let told = Message::Heads(vec![LogHead { forgotten, ..head(dead, 300) }]);
    machine.receive(peer, told.clone(), now(1)).unwrap();
    assert_eq!(machine.complete(dead), 0, "it matters still, by this clock");
    machine.receive(peer, told, now(60_001)).unwrap();
    assert_eq!(machine.complete(dead), 256);
    machine.receive(newcomer, Message::Pull { origin: dead, first: 1, last: 256 }, now(60_002)).unwrap();
    let answer = said(&mut machine, newcomer, now(60_002));
    assert!(answer.contains(&Message::Pulled { origin: dead, last: 256, forgotten }), "{answer:?}");
}

#[test]
fn what_the_ledger_had_forgotten_is_waited_for_by_nobody() {
    let (dead, newcomer) = (origin(2), origin(3));
    let mut machine = linked(&[newcomer], now(0));
    machine.learn(dead, 11, &facts(11, 20));
    machine.ledger_has(dead, 20);
    machine.upkeep(now(1));
    machine.receive(newcomer, Message::Pull { origin: dead, first: 1, last: 20 }, now(2)).unwrap();
    let answer = said(&mut machine, newcomer, now(2));
    assert!(answer.contains(&Message::Facts { origin: dead, first: 11, facts: facts(11, 20) }), "{answer:?}");
    let forgets =
        |message: &Message| matches!(message, Message::Pulled { forgotten, .. } if forgotten.seq == 10);
    assert!(answer.iter().any(forgets), "{answer:?}");
}

#[test]
fn visible_is_who_has_acknowledged_in_this_life() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.publish(1, &facts(1, 3));
    assert_eq!(machine.visible(1, 3), (0, 1));
    machine.receive(peer, Message::Ack(Applied { complete: 0, newest: (2, 3) }), now(1)).unwrap();
    assert_eq!((machine.visible(2, 3), machine.visible(1, 3)), ((1, 1), (0, 1)));
    machine.receive(peer, Message::Ack(Applied { complete: 3, newest: (0, 0) }), now(1)).unwrap();
    assert_eq!(machine.visible(1, 3), (1, 1));
    // It has started again, and the link of its former life has not broken yet.
    machine.set_members([(life(2, 2), MemberState::Alive)]);
    assert_eq!(machine.visible(1, 3), (0, 1));
    machine.set_members([(life(2, 2), MemberState::Dead)]);
    assert_eq!(machine.visible(1, 3), (0, 0));
}

#[test]
fn who_is_behind_is_told_the_present_and_asked_no_less() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.receive(peer, Message::Heads(vec![head(origin(3), 9)]), now(1)).unwrap();
    said(&mut machine, peer, now(1));
    let mut others = Vec::new();
    // There is always something to push.
    for seq in 1..=100 {
        machine.publish(seq, &facts(seq, seq));
        match machine.poll(peer, now(5_000 + seq)) {
            Some(Message::Facts { .. }) => {}
            Some(message) => others.push(message),
            None => panic!("there is something to say"),
        }
    }
    assert!(
        pings(&others).is_some() && others.iter().any(|one| matches!(one, Message::Pull { .. })),
        "{others:?}"
    );
}

#[test]
fn a_newcomer_knows_when_it_has_heard_all_heads_however_many_there_are() {
    for count in [0_u64, 1, 511, 512, 513, 1_024] {
        let (old, new) = (origin(1), origin(2));
        let mut machine = linked(&[new], now(0));
        (1..=count).for_each(|n| machine.learn(life(9, n), 1, &facts(1, 1)));
        let mut newcomer = Machine::new(new, Tuning::default());
        newcomer.set_members([(old, MemberState::Alive)]);
        newcomer.linked(old, 1, now(0));
        let messages = said(&mut machine, new, now(0));
        let heads = messages.into_iter().filter(|message| matches!(message, Message::Heads(_)));
        for message in heads {
            assert!(!newcomer.is_caught_up());
            newcomer.receive(old, message, now(1)).unwrap();
        }
        (1..=count).for_each(|n| newcomer.learn(life(9, n), 1, &facts(1, 1)));
        assert!(newcomer.is_caught_up(), "{count}");
    }
}

#[test]
fn what_it_holds_is_bounded_at_every_moment() {
    let peer = origin(2);
    let tuning = Tuning { max_kept: 1_000, max_logs: 4, ..Tuning::default() };
    let mut machine = Machine::new(origin(1), tuning);
    machine.linked(peer, 1, now(0));
    for batch in 0..100 {
        let (first, last) = (batch * 100 + 1, batch * 100 + 100);
        machine
            .receive(peer, Message::Facts { origin: peer, first, facts: facts(first, last) }, now(1))
            .unwrap();
        assert!(machine.kept() <= 1_000 + 125 + 256, "{}", machine.kept());
    }
    assert_eq!(machine.complete(peer), 10_000);
    let heads = (10..100).map(|node| head(origin(node), 5)).collect();
    machine.receive(peer, Message::Heads(heads), now(2)).unwrap();
    assert_eq!(machine.logs().len(), 4);
}

#[test]
fn who_claims_more_of_this_nodes_log_than_there_is_is_found_out() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.publish(1, &facts(1, 2));
    for (message, seq) in [
        (Message::Heads(vec![head(origin(1), 3)]), 3),
        (Message::Ack(Applied { complete: 3, newest: (0, 0) }), 3),
        (Message::Ack(Applied { complete: 0, newest: (2, 4) }), 4),
        (Message::Facts { origin: origin(1), first: 2, facts: facts(2, 6) }, 6),
    ] {
        assert_eq!(machine.receive(peer, message, now(1)), Err(Impostor(seq)));
    }
    assert_eq!(machine.receive(peer, Message::Heads(vec![head(origin(1), 2)]), now(1)), Ok(()));
}

proptest! {
    /// Whatever a peer says, in any order, nothing panics and memory is bounded.
    #[test]
    fn any_messages_are_survived(
        messages in prop::collection::vec((super::message::any_message(), 0..5_u8), 0..60),
    ) {
        let peers = [origin(2), origin(3)];
        let tuning = Tuning { max_kept: 600, max_logs: 8, ..Tuning::default() };
        let mut machine = Machine::new(origin(1), tuning);
        machine.set_members(peers.map(|peer| (peer, MemberState::Alive)));
        peers.iter().for_each(|peer| machine.linked(*peer, 1, now(0)));
        machine.publish(1, &facts(1, 300));
        for (at, (mut message, whose)) in (0..).zip(messages) {
            // Mostly about logs that there are.
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
            _ = machine.receive(from, message, at);
            for peer in peers {
                for _ in 0..20 {
                    machine.poll(peer, at);
                }
            }
            machine.upkeep(at);
            _ = (machine.fresh_at(at), machine.visible(1, 300), machine.peers(), machine.is_caught_up());
            let logs = machine.logs();
            prop_assert!(logs.len() <= 8);
            prop_assert_eq!(machine.kept(), logs.iter().map(|log| log.kept).sum::<usize>());
            prop_assert!(machine.kept() <= 675 + 8 * 256);
        }
    }
}

#[test]
fn each_entry_is_acknowledged_at_once() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    said(&mut machine, peer, now(0));
    for seq in [1, 2, 5] {
        let message = Message::Facts { origin: peer, first: seq, facts: facts(seq, seq) };
        machine.receive(peer, message, now(seq)).unwrap();
        let newest = if seq > 2 { (seq, seq) } else { (0, 0) };
        let applied = Applied { complete: seq.min(2), newest };
        assert_eq!(machine.poll(peer, now(seq)), Some(Message::Ack(applied)));
    }
}

#[test]
fn who_has_nothing_is_not_asked_again_soon() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    machine.receive(peer, Message::Heads(vec![head(dead, 7)]), now(1)).unwrap();
    let pull = Message::Pull { origin: dead, first: 1, last: 7 };
    assert!(said(&mut machine, peer, now(200)).contains(&pull));
    let nothing = Message::Pulled { origin: dead, last: 7, forgotten: Forgotten::default() };
    machine.receive(peer, nothing, now(201)).unwrap();
    assert!(!said(&mut machine, peer, now(1_000)).contains(&pull));
    assert!(said(&mut machine, peer, now(2_300)).contains(&pull));
}

/// A peer says what its clock says.
fn tell_time(machine: &mut Machine, from: Origin, ahead: Duration, at: Now) {
    machine.receive(from, Message::Clock { at: at.wall.plus(ahead) }, at).unwrap();
}

#[test]
fn a_clock_that_was_ahead_counts_until_ours_gets_there() {
    let [first, second] = [origin(2), origin(3)];
    let mut machine = linked(&[first, second], now(0));
    assert_eq!(machine.clock_ahead(now(5)), Duration::ZERO, "nobody has said anything");
    let [none, some, more] = [0, 90, 3_600].map(Duration::from_secs);
    for (from, told, ahead) in [
        (first, some, some),
        (second, more, more),
        (first, none, more),
        // It is right again: what it issued before lasts.
        (second, none, more),
    ] {
        tell_time(&mut machine, from, told, now(5));
        assert_eq!(machine.clock_ahead(now(5)), ahead);
    }
    // Its node is forgotten, as one that is gone for long.
    machine.unlinked(second);
    machine.set_members([]);
    machine.forget_gone(Duration::ZERO);
    machine.forget_gone(Tuning::default().forget * 2);
    assert_eq!(machine.clock_ahead(now(5)), more);
    assert_eq!(machine.clock_ahead(now(600_005)), more.saturating_sub(Duration::from_secs(600)));
    assert_eq!(machine.clock_ahead(now(3_600_005)), Duration::ZERO);
    // One that is wrong by years counts as one that is a day ahead.
    tell_time(&mut machine, first, Duration::from_secs(1 << 30), now(5));
    assert_eq!(machine.clock_ahead(now(5)), schema::horizon::MAX_AHEAD);
}

#[test]
fn a_clock_that_is_behind_counts_while_its_node_is_linked() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    let behind = Duration::from_secs(90);
    machine.receive(peer, Message::Clock { at: now(5).wall.minus(behind) }, now(5)).unwrap();
    assert_eq!((machine.clock_behind(), machine.clock_ahead(now(5))), (behind, Duration::ZERO));
    tell_time(&mut machine, peer, Duration::ZERO, now(6));
    assert_eq!(machine.clock_behind(), Duration::ZERO);
    machine.receive(peer, Message::Clock { at: Timestamp::EPOCH }, now(7)).unwrap();
    assert!(machine.clock_behind() > behind);
    machine.unlinked(peer);
    assert_eq!(machine.clock_behind(), Duration::ZERO);
}

#[test]
fn a_clock_that_was_set_back_tells_how_far_it_was() {
    let peer = origin(2);
    let clocks = |machine: &mut Machine, at| -> Vec<Timestamp> {
        let told = said(machine, peer, at).into_iter().filter_map(|message| match message {
            Message::Clock { at } => Some(at),
            _ => None,
        });
        told.collect()
    };
    let mut machine = linked(&[peer], now(0));
    assert_eq!(clocks(&mut machine, now(0)), [now(0).wall]);
    let ahead = Now { monotonic: now(10).monotonic, ..now(3_600_000) };
    assert_eq!(clocks(&mut machine, ahead), []);
    assert_eq!(clocks(&mut machine, now(20)), [ahead.wall], "as soon as it is right again");
    assert_eq!(clocks(&mut machine, now(30)), []);
    machine.unlinked(peer);
    machine.linked(peer, 1, now(40));
    assert_eq!(clocks(&mut machine, now(40)), [now(40).wall, ahead.wall], "and on every new link");
}

#[test]
fn the_way_of_a_message_is_no_difference_of_clocks() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    for (ms, ahead) in [(0, 0), (1, 0), (1_999, 0), (2_000, 2_000), (2_001, 2_001)] {
        tell_time(&mut machine, peer, Duration::from_millis(ms), now(5));
        assert_eq!(machine.clock_ahead(now(5)), Duration::from_millis(ahead));
    }
}

#[test]
fn a_clock_that_is_ahead_beyond_measure_is_bounded_until_it_is_set_right() {
    let (liar, peer) = (origin(2), origin(3));
    let most = Duration::from_secs(25 * 3_600);
    let mut machine = linked(&[liar, peer], now(0));
    for told in [most, most + Duration::from_millis(1), 2 * most, Duration::MAX] {
        tell_time(&mut machine, liar, told, now(5));
        assert_eq!(machine.clock_ahead(), most, "{told:?}");
    }
    let some = Duration::from_secs(90);
    tell_time(&mut machine, peer, some, now(5));
    tell_time(&mut machine, liar, Duration::ZERO, now(5));
    assert_eq!(machine.clock_ahead(), some);
}

#[test]
fn a_clock_is_believed_only_of_who_is_linked() {
    let (peer, stranger) = (life(2, 2), origin(4));
    let mut machine = linked(&[peer], now(0));
    let some = Duration::from_secs(90);
    for from in [stranger, life(2, 1), life(2, 3)] {
        tell_time(&mut machine, from, some, now(5));
        assert_eq!(machine.clock_ahead(), Duration::ZERO, "{from:?}");
    }
    machine.unlinked(peer);
    tell_time(&mut machine, peer, some, now(5));
    assert_eq!(machine.clock_ahead(), Duration::ZERO);
}

/// Its tokens are still there, and live by its clock.
#[test]
fn a_clock_counts_on_when_its_node_is_cut_off_dies_leaves_or_starts_again() {
    let peer = life(2, 1);
    let some = Duration::from_secs(90);
    let mut machine = linked(&[peer], now(0));
    tell_time(&mut machine, peer, some, now(5));
    machine.unlinked(peer);
    assert_eq!(machine.clock_ahead(), some, "cut off");
    machine.set_members([(peer, MemberState::Dead)]);
    assert_eq!(machine.clock_ahead(), some, "dead");
    machine.set_members([]);
    assert_eq!(machine.clock_ahead(), some, "of whom nobody hears anything");
    machine.set_members([(life(2, 2), MemberState::Alive)]);
    machine.linked(life(2, 2), 1, now(10));
    assert_eq!(machine.clock_ahead(), some, "started again, and has not told its time yet");
    machine.receive(life(2, 2), Message::Leaving { head: 0 }, now(11)).unwrap();
    assert_eq!(machine.clock_ahead(), some, "leaving");
    machine.unlinked(life(2, 2));
    machine.set_members([(life(2, 2), MemberState::Left)]);
    assert_eq!(machine.clock_ahead(), some, "left");
}

#[test]
fn the_clock_of_who_is_forgotten_no_longer_counts() {
    let [left, dead] = [origin(2), origin(3)];
    let [some, more] = [90, 3_600].map(Duration::from_secs);
    let forget = Tuning::default().forget;
    let mut machine = linked(&[left, dead], now(0));
    tell_time(&mut machine, left, more, now(5));
    tell_time(&mut machine, dead, some, now(5));
    machine.receive(left, Message::Leaving { head: 0 }, now(6)).unwrap();
    [left, dead].into_iter().for_each(|peer| machine.unlinked(peer));
    machine.set_members([(dead, MemberState::Dead)]);
    assert_eq!(machine.clock_ahead(), some, "gossip has forgotten who left");
    let gone = now(1_000).monotonic;
    machine.forget_gone(gone);
    machine.forget_gone(gone + forget - Duration::from_millis(1));
    assert_eq!(machine.clock_ahead(), some, "it may come back");
    machine.forget_gone(gone + forget);
    assert_eq!(machine.clock_ahead(), Duration::ZERO);
}

#[test]
fn every_peer_is_told_the_time_first_and_again_after_a_few_pings() {
    let peers = [origin(2), origin(3)];
    let mut machine = linked(&peers, now(0));
    for peer in peers {
        let mut silent = 0;
        for ms in (0..20_000).step_by(250) {
            let told = said(&mut machine, peer, now(ms));
            let time = Message::Clock { at: now(ms).wall };
            assert!(ms > 0 || told.first() == Some(&time), "{told:?}");
            silent = if told.contains(&time) { 0 } else { silent + 1 };
            assert!(silent < 8, "{told:?}");
            let nonce = pings(&told).expect("a ping");
            machine.receive(peer, Message::Pong { nonce, head: 0 }, now(ms)).unwrap();
        }
    }
}
