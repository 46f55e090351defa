use std::{collections::BTreeSet, time::Duration};

use super::super::{
    Machine, Message, Now, Tuning,
    log::MAX_BLOCK_BYTES,
    machine::{Impostor, MemberState},
    message::{Applied, Forgotten, LogHead, MAX_SEQ, MAX_TIME},
    peer::MAX_NOTES,
};
use super::*;
use schema::{horizon::manual::horizon_at, time::CLOCK_SKEW};

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
    assert!(asked.contains(&Message::Pull { origin: writer, first: 1, last: 49 }), "{asked:?}");
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
    let tuning = Tuning { max_bytes: 64 * 1024, max_logs: 4, ..Tuning::default() };
    let mut machine = Machine::new(origin(1), tuning);
    machine.linked(peer, 1, now(0));
    for batch in 0..100 {
        let (first, last) = (batch * 100 + 1, batch * 100 + 100);
        machine
            .receive(peer, Message::Facts { origin: peer, first, facts: facts(first, last) }, now(1))
            .unwrap();
        assert!(machine.bytes() <= 72 * 1024 + MAX_BLOCK_BYTES, "{}", machine.bytes());
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
        let tuning = Tuning { max_bytes: 32 * 1024, max_logs: 8, ..Tuning::default() };
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
            prop_assert!(machine.bytes() <= 36 * 1024 + MAX_BLOCK_BYTES);
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
    assert!(!said(&mut machine, peer, now(59_000)).contains(&pull));
    said(&mut machine, peer, now(61_000));
    assert!(said(&mut machine, peer, now(61_001)).contains(&pull), "it may have got it");
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
fn a_clock_that_is_behind_counts_until_its_node_is_forgotten() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    assert_eq!(machine.clock_behind(), schema::horizon::MAX_AHEAD, "it has not told its clock");
    let behind = Duration::from_secs(90);
    machine.receive(peer, Message::Clock { at: now(5).wall.minus(behind) }, now(5)).unwrap();
    assert_eq!((machine.clock_behind(), machine.clock_ahead(now(5))), (behind, Duration::ZERO));
    tell_time(&mut machine, peer, Duration::ZERO, now(6));
    assert_eq!(machine.clock_behind(), Duration::ZERO);
    machine.receive(peer, Message::Clock { at: Timestamp::EPOCH }, now(7)).unwrap();
    assert!(machine.clock_behind() > behind);
    machine.unlinked(peer);
    assert!(machine.clock_behind() > behind, "a link may break at any time");
    machine.set_members([]);
    machine.forget_gone(Duration::ZERO);
    machine.forget_gone(Tuning::default().forget * 2);
    assert_eq!(machine.clock_behind(), Duration::ZERO);
}

#[test]
fn clocks_agree_when_more_peers_show_the_same_time_than_another() {
    let [first, second, third] = [origin(2), origin(3), origin(4)];
    let mut machine = linked(&[first, second, third], now(0));
    assert!(!machine.clock_agrees(now(1)), "no peer has reported its clock");
    tell_time(&mut machine, first, Duration::ZERO, now(1));
    assert!(machine.clock_agrees(now(1)));
    tell_time(&mut machine, second, Duration::from_secs(90), now(1));
    assert!(!machine.clock_agrees(now(1)), "one and one");
    tell_time(&mut machine, third, Duration::from_secs(1), now(1));
    assert!(machine.clock_agrees(now(1)));
    // The reported time is extrapolated, so a jump of our own clock shows.
    assert!(machine.clock_agrees(now(900)));
    let jumped = Now { monotonic: now(900).monotonic, ..now(3_600_900) };
    assert!(!machine.clock_agrees(jumped));
    machine.unlinked(first);
    machine.unlinked(third);
    assert!(!machine.clock_agrees(now(900)));
}

#[test]
fn a_clock_that_was_set_back_tells_how_far_it_was() {
    let peer = origin(2);
    let clocks = |machine: &mut Machine, at| -> Vec<Timestamp> {
        let told = said(machine, peer, at).into_iter().filter_map(|message| match message {
            Message::Clock { at } => Some(at),
            _ => None,
        });
        // The first ping of a link tells the time as well.
        told.collect::<BTreeSet<_>>().into_iter().collect()
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
fn a_clock_that_is_ahead_beyond_measure_is_bounded() {
    let liar = origin(2);
    let most = Duration::from_secs(25 * 3_600);
    let mut machine = linked(&[liar], now(0));
    for told in [most, most + Duration::from_millis(1), 2 * most, Duration::MAX] {
        tell_time(&mut machine, liar, told, now(5));
        assert_eq!(machine.clock_ahead(now(5)), most, "{told:?}");
    }
    tell_time(&mut machine, liar, Duration::ZERO, now(5));
    assert_eq!(machine.clock_ahead(now(5)), most, "what it issued lasts");
}

#[test]
fn a_clock_is_believed_only_of_who_is_linked() {
    let (peer, stranger) = (life(2, 2), origin(4));
    let mut machine = linked(&[peer], now(0));
    let some = Duration::from_secs(90);
    for from in [stranger, life(2, 1), life(2, 3)] {
        tell_time(&mut machine, from, some, now(5));
        assert_eq!(machine.clock_ahead(now(5)), Duration::ZERO, "{from:?}");
    }
    machine.unlinked(peer);
    tell_time(&mut machine, peer, some, now(5));
    assert_eq!(machine.clock_ahead(now(5)), Duration::ZERO);
}

/// Its tokens are still there, and live by its clock.
#[test]
fn a_clock_counts_on_when_its_node_is_cut_off_dies_leaves_or_starts_again() {
    let peer = life(2, 1);
    let some = Duration::from_secs(90);
    let mut machine = linked(&[peer], now(0));
    tell_time(&mut machine, peer, some, now(5));
    machine.unlinked(peer);
    assert_eq!(machine.clock_ahead(now(5)), some, "cut off");
    machine.set_members([(peer, MemberState::Dead)]);
    assert_eq!(machine.clock_ahead(now(5)), some, "dead");
    machine.set_members([]);
    assert_eq!(machine.clock_ahead(now(5)), some, "of whom nobody hears anything");
    machine.set_members([(life(2, 2), MemberState::Alive)]);
    machine.linked(life(2, 2), 1, now(10));
    assert_eq!(machine.clock_ahead(now(5)), some, "started again, and has not told its time yet");
    machine.receive(life(2, 2), Message::Leaving { head: 0 }, now(11)).unwrap();
    assert_eq!(machine.clock_ahead(now(5)), some, "leaving");
    machine.unlinked(life(2, 2));
    machine.set_members([(life(2, 2), MemberState::Left)]);
    assert_eq!(machine.clock_ahead(now(5)), some, "left");
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

#[test]
fn badly_chosen_numbers_take_little_memory() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    for n in 1..=20_000 {
        let message = Message::Facts { origin: peer, first: 256 * n, facts: facts(n, n) };
        machine.receive(peer, message, now(1)).unwrap();
    }
    // Beyond its reach nothing is taken.
    assert_eq!(machine.kept(), 2_097_152 / 256);
    assert_eq!(machine.counters().refused, 20_000 - 2_097_152 / 256);
    assert!(machine.bytes() < 8 * 1024 * 1024, "{}", machine.bytes());
}

#[test]
fn entry_beyond_reach_is_asked_for_from_the_gap_on() {
    let peer = origin(2);
    let mut machine = Machine::new(origin(1), Tuning { reach: 1_000, ..Tuning::default() });
    machine.linked(peer, 1, now(0));
    let message = |first, last| Message::Facts { origin: peer, first, facts: facts(first, last) };
    machine.receive(peer, message(1, 10), now(1)).unwrap();
    machine.receive(peer, message(1_005, 1_011), now(2)).unwrap();
    assert_eq!((machine.kept(), machine.complete(peer)), (10, 10), "one of them lies too far");
    let asked = said(&mut machine, peer, now(3));
    assert!(asked.contains(&Message::Pull { origin: peer, first: 11, last: 1_010 }), "{asked:?}");
    machine.receive(peer, message(11, 600), now(4)).unwrap();
    machine.receive(peer, message(1_005, 1_011), now(5)).unwrap();
    assert_eq!(machine.kept(), 607, "now it does not");
}

#[test]
fn memory_is_bounded_however_many_logs_there_are() {
    let peer = origin(2);
    let tuning = Tuning { max_bytes: 64 * 1024, ..Tuning::default() };
    let mut machine = Machine::new(origin(1), tuning);
    machine.linked(peer, 1, now(0));
    machine.publish(1, &facts(1, 50));
    for n in 1..=2_000 {
        let of = life(9, n);
        machine.receive(peer, Message::Facts { origin: of, first: 1, facts: facts(1, 3) }, now(1)).unwrap();
        assert!(machine.bytes() <= 72 * 1024 + MAX_BLOCK_BYTES, "{}", machine.bytes());
    }
    assert_eq!(machine.complete(life(9, 2_000)), 3);
    assert_eq!(machine.head(), 50);
    let pull = Message::Pull { origin: origin(1), first: 1, last: 50 };
    machine.receive(peer, pull, now(2)).unwrap();
    let answer = said(&mut machine, peer, now(2));
    assert!(answer.contains(&Message::Facts { origin: origin(1), first: 1, facts: facts(1, 50) }));
}

#[test]
fn linked_peer_has_a_log_though_all_places_are_taken() {
    let (peer, other) = (origin(2), origin(3));
    let mut machine = Machine::new(origin(1), Tuning { max_logs: 8, ..Tuning::default() });
    machine.linked(peer, 1, now(0));
    machine.receive(peer, Message::Heads((1..100).map(|n| head(life(9, n), 5)).collect()), now(1)).unwrap();
    assert_eq!(machine.logs().len(), 8);
    machine.linked(other, 1, now(2));
    let message = Message::Facts { origin: other, first: 1, facts: facts(1, 3) };
    machine.receive(other, message, now(3)).unwrap();
    assert_eq!(machine.complete(other), 3);
    assert_eq!(machine.logs().len(), 8);
}

#[test]
fn notes_of_what_peers_have_are_bounded() {
    let peers: Vec<_> = (2..130).map(origin).collect();
    let mut machine = linked(&peers, now(0));
    for peer in &peers {
        for from in (1..2_561).step_by(512) {
            let heads = (from..from + 512).map(|n| head(life(200, n), 5)).collect();
            machine.receive(*peer, Message::Heads(heads), now(1)).unwrap();
        }
    }
    let (has, pushed) = machine.notes();
    assert!(has <= MAX_NOTES && pushed <= MAX_NOTES, "{has} {pushed}");
}

#[test]
fn third_party_cannot_hide_entries_of_a_linked_peer() {
    let (writer, liar) = (origin(2), origin(3));
    let mut machine = linked(&[writer, liar], now(0));
    let forgotten = Forgotten { seq: 1_000, until: Timestamp::EPOCH };
    let told = Message::Heads(vec![LogHead { forgotten, ..head(writer, 1_000) }]);
    machine.receive(liar, told, now(1)).unwrap();
    assert_eq!(machine.complete(writer), 0);
    let told =
        Message::Heads(vec![LogHead { forgotten: Forgotten { seq: 7, ..forgotten }, ..head(writer, 9) }]);
    machine.receive(writer, told, now(2)).unwrap();
    assert_eq!(machine.complete(writer), 7, "the writer itself knows");
}

#[test]
fn numbers_that_no_log_reaches_are_not_learnt() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    for first in [0, MAX_SEQ, MAX_SEQ + 1, u64::MAX - 1, u64::MAX] {
        machine.learn(dead, first, &facts(1, 2));
        machine.ledger_has(dead, first.max(MAX_SEQ + 1));
    }
    assert_eq!((machine.complete(dead), machine.kept()), (0, 0));
    machine.upkeep(now(1));
    said(&mut machine, peer, now(2));
}

/// Two machines that speak version 2.
fn keeping() -> (Machine, Machine) {
    let (a, b) = (origin(1), origin(2));
    let mut machines = [a, b].map(|own| Machine::new(own, Tuning::default()));
    let [first, second] = &mut machines;
    first.set_members([(b, MemberState::Alive)]);
    second.set_members([(a, MemberState::Alive)]);
    first.linked(b, 2, now(0));
    second.linked(a, 2, now(0));
    machines.into()
}

#[test]
fn peer_counts_as_keeping_what_it_says_is_on_its_disk() {
    let (mut a, mut b) = keeping();
    let (own, peer) = (origin(1), origin(2));
    said(&mut a, peer, now(0));
    a.publish(1, &facts(1, 3));
    a.ask_to_keep(1, 3);
    assert_eq!(a.on_disk(1, 3), (0, 1));
    let told = said(&mut a, peer, now(1));
    let place = |wanted: &Message| told.iter().position(|message| message == wanted);
    let pushed = place(&Message::Facts { origin: own, first: 1, facts: facts(1, 3) });
    let asked = place(&Message::Keep { first: 1, last: 3 });
    assert!(pushed.is_some() && pushed < asked, "first what is to be kept: {told:?}");
    for message in told {
        b.receive(own, message, now(2)).unwrap();
    }
    for message in said(&mut b, own, now(3)) {
        assert!(!matches!(message, Message::Kept { .. }), "nothing is on the disk yet");
        a.receive(peer, message, now(3)).unwrap();
    }
    assert_eq!((a.visible(1, 3), a.on_disk(1, 3)), ((1, 1), (0, 1)));
    b.kept_for(own, 1, 2);
    b.kept_for(own, 3, 3);
    let told = said(&mut b, own, now(4));
    assert!(told.contains(&Message::Kept { first: 1, last: 3 }), "{told:?}");
    told.into_iter().for_each(|message| a.receive(peer, message, now(5)).unwrap());
    assert_eq!((a.on_disk(1, 3), a.on_disk(2, 2), a.on_disk(1, 4)), ((1, 1), (1, 1), (0, 1)));
    // Of another link it is not known.
    a.unlinked(peer);
    a.linked(peer, 2, now(6));
    assert_eq!(a.on_disk(1, 3), (0, 1));
}

#[test]
fn peer_of_version_1_is_not_asked_to_keep() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.publish(1, &facts(1, 1));
    machine.ask_to_keep(1, 1);
    let told = said(&mut machine, peer, now(1));
    assert!(!told.iter().any(|message| matches!(message, Message::Keep { .. })), "{told:?}");
}

#[test]
fn peer_that_keeps_what_nobody_published_is_found_out() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.publish(1, &facts(1, 2));
    assert_eq!(machine.receive(peer, Message::Kept { first: 1, last: 3 }, now(1)), Err(Impostor(3)));
    for (first, last) in [(0, 0), (0, 2), (2, 1)] {
        machine.receive(peer, Message::Kept { first, last }, now(1)).unwrap();
        assert_eq!(machine.on_disk(1, 2), (0, 1), "{first} {last}");
    }
}

proptest! {
    /// Whatever ranges a peer says it keeps, it counts only for numbers within one of them, or several that
    /// touch.
    #[test]
    fn kept_ranges_are_never_more_than_was_said(
        said in prop::collection::vec((1..60_u64, 0..20_u64), 1..30), asked in (1..60_u64, 0..20_u64),
    ) {
        let peer = origin(2);
        let mut machine = linked(&[peer], now(0));
        machine.publish(1, &facts(1, 100));
        let mut ever = [false; 101];
        for (first, length) in said {
            let last = first + length;
            (first..=last).for_each(|seq| ever[usize::try_from(seq).unwrap()] = true);
            machine.receive(peer, Message::Kept { first, last }, now(1)).unwrap();
            prop_assert_eq!(machine.on_disk(first, last), (1, 1), "the newest counts");
        }
        let (first, last) = (asked.0, asked.0 + asked.1);
        if machine.on_disk(first, last) == (1, 1) {
            prop_assert!((first..=last).all(|seq| ever[usize::try_from(seq).unwrap()]));
        }
    }
}

#[test]
fn what_no_peer_would_take_is_not_learnt_and_not_told() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    let mut all = facts(1, 9);
    let user = UserId::from_bytes([1; 16]);
    all[3].kind = FactKind::UserVersion { user, at_least: u64::MAX };
    all[6].until = Timestamp::MAX;
    machine.learn(dead, 1, &all);
    assert_eq!((machine.kept(), machine.complete(dead)), (7, 3));
    machine.ledger_has(dead, 9);
    assert_eq!(machine.complete(dead), 9);
    machine.receive(peer, Message::Pull { origin: dead, first: 1, last: 9 }, now(1)).unwrap();
    for message in said(&mut machine, peer, now(1)) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(Message::decode(&bytes), Ok(Some(message)));
    }
    for incarnation in [u64::MAX, MAX_TIME + 1] {
        machine.learn(life(2, incarnation), 1, &facts(1, 2));
        assert_eq!(machine.complete(life(2, incarnation)), 0);
    }
}

#[test]
fn ledger_is_read_where_only_hearsay_calls_a_log_ended() {
    let (dead, liar) = (origin(2), origin(3));
    let mut machine = linked(&[liar], now(0));
    machine.learn(dead, 1, &facts(1, 5));
    let forgotten = Forgotten { seq: 1_000, until: Timestamp::EPOCH };
    machine.receive(liar, Message::Heads(vec![LogHead { forgotten, ..head(dead, 1_000) }]), now(1)).unwrap();
    assert_eq!((machine.complete(dead), machine.proven(dead)), (1_000, 5));
    machine.ledger_has(dead, 700);
    assert_eq!((machine.complete(dead), machine.proven(dead)), (1_000, 700));
    machine.ledger_has(dead, 1_200);
    assert_eq!((machine.complete(dead), machine.proven(dead)), (1_200, 1_200));
}

fn pulls(said: &[Message]) -> Vec<(u64, u64)> {
    let range = |message: &Message| match message {
        Message::Pull { first, last, .. } => Some((*first, *last)),
        _ => None,
    };
    said.iter().filter_map(range).collect()
}

#[test]
fn a_peer_is_not_asked_again_for_what_it_does_not_have() {
    let (dead, peer) = (origin(2), origin(3));
    let tuning = Tuning { pull: 100, ..Tuning::default() };
    let mut machine = Machine::new(origin(1), tuning);
    machine.linked(peer, 1, now(0));
    machine.learn(dead, 250, &facts(250, 256));
    // The peer has forgotten entries that have not expired by this node's clock, and holds later ones.
    let forgotten = Forgotten { seq: 120, until: now(0).wall };
    let told = LogHead { forgotten, ..head(dead, 300) };
    machine.receive(peer, Message::Heads(vec![told]), now(1)).unwrap();
    let pulled = |machine: &mut Machine, last, at| {
        machine.receive(peer, Message::Pulled { origin: dead, last, forgotten }, now(at)).unwrap();
    };
    assert_eq!(pulls(&said(&mut machine, peer, now(200))), [(1, 100)]);
    assert!(!machine.is_caught_up());
    pulled(&mut machine, 100, 210);
    assert_eq!(pulls(&said(&mut machine, peer, now(220))), [(101, 200)]);
    machine
        .receive(peer, Message::Facts { origin: dead, first: 121, facts: facts(121, 200) }, now(230))
        .unwrap();
    pulled(&mut machine, 200, 230);
    assert_eq!(pulls(&said(&mut machine, peer, now(240))), [(201, 249)], "up to what is held");
    machine
        .receive(peer, Message::Facts { origin: dead, first: 201, facts: facts(201, 249) }, now(250))
        .unwrap();
    pulled(&mut machine, 249, 250);
    assert_eq!(pulls(&said(&mut machine, peer, now(260))), [(257, 300)]);
    machine
        .receive(peer, Message::Facts { origin: dead, first: 257, facts: facts(257, 300) }, now(270))
        .unwrap();
    pulled(&mut machine, 300, 270);
    assert!(machine.is_caught_up(), "it has all that there is to be had");
    for at in (1_000..59_000).step_by(500) {
        let said = said(&mut machine, peer, now(at));
        assert_eq!(pulls(&said), [], "{at}");
        if let Some(nonce) = pings(&said) {
            machine.receive(peer, Message::Pong { nonce, head: 0 }, now(at)).unwrap();
        }
    }
    // They are skipped once they have expired by this node's clock.
    assert_eq!(machine.complete(dead), 0);
    machine.upkeep(now(60_001));
    assert_eq!(machine.complete(dead), 300);
}

#[test]
fn a_peer_that_got_more_of_a_log_is_asked_again() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    let heads = |complete| Message::Heads(vec![LogHead { highest: 9, ..head(dead, complete) }]);
    machine.receive(peer, heads(0), now(1)).unwrap();
    assert_eq!(pulls(&said(&mut machine, peer, now(200))), [(1, 9)]);
    let nothing = Message::Pulled { origin: dead, last: 9, forgotten: Forgotten::default() };
    machine.receive(peer, nothing, now(210)).unwrap();
    machine.receive(peer, heads(0), now(220)).unwrap();
    assert_eq!(pulls(&said(&mut machine, peer, now(5_000))), []);
    machine.receive(peer, heads(4), now(5_001)).unwrap();
    assert_eq!(pulls(&said(&mut machine, peer, now(5_002))), [(1, 9)]);
}

#[test]
fn what_the_ledger_called_ended_is_not_pulled_again() {
    let (dead, peer) = (origin(2), origin(3));
    let mut machine = linked(&[peer], now(0));
    machine.learn(dead, 1, &facts(1, 5));
    machine.ledger_has(dead, 300);
    let digests = Message::Digests { origin: dead, first: 0, sums: vec![17] };
    machine.receive(peer, digests, now(1)).unwrap();
    assert_eq!(pulls(&said(&mut machine, peer, now(2))), []);
    assert_eq!(machine.counters().diverged, 0);
}

#[test]
fn peers_are_told_at_once_what_is_forgotten_of_a_nodes_own_log() {
    let peer = origin(2);
    let mut machine = linked(&[peer], now(0));
    machine.publish(1, &facts(1, 256));
    let _ = said(&mut machine, peer, now(1));
    machine.upkeep(Now { horizon: horizon_at(LATER.plus(CLOCK_SKEW * 2)), ..now(2_000) });
    let told = said(&mut machine, peer, now(3_000)).into_iter().any(|message| {
        matches!(message, Message::Heads(heads) if heads.iter().any(|head| head.forgotten.seq == 256))
    });
    assert!(told);
}
