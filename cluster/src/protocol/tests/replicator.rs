//! The replicator, one message at a time. Tests of one concern lie in a module.

mod acks;
mod bounds;
mod clocks;
mod expiry;
mod freshness;
mod lies;
mod pulls;

use std::{collections::BTreeSet, time::Duration};

use schema::{horizon::manual::horizon_at, time::CLOCK_SKEW};

use super::super::{
    Message, Now, Replicator, SeqRange, Tuning,
    log::BLOCK_BYTES_MAX,
    message::{Applied, Forgotten, LogHead, SEQ_MAX, TIME_MAX_MS},
    peer::TRACKED_LOGS_MAX,
    replicator::{AckCount, DuplicateIdentity, MemberState},
};
use super::*;

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

const fn count(have: u32, live: u32) -> AckCount {
    AckCount { have, live }
}

/// A replicator that is linked with these peers.
fn linked(others: &[Origin], at: Now) -> Replicator {
    let mut replicator = Replicator::new(origin(1), Tuning::default());
    replicator.set_members(others.iter().map(|other| (*other, MemberState::Alive)));
    others.iter().for_each(|other| replicator.add_link(*other, 1, at));
    replicator
}

/// Every message that a peer is sent now.
fn sent_to(replicator: &mut Replicator, to: Origin, at: Now) -> Vec<Message> {
    std::iter::from_fn(|| replicator.poll(to, at)).collect()
}

fn pings(said: &[Message]) -> Option<u64> {
    said.iter().find_map(|message| if let Message::Ping { nonce } = message { Some(*nonce) } else { None })
}

/// Sends a ping at `sent` and lets the peer answer it at `at`.
fn pong(replicator: &mut Replicator, from: Origin, head: u64, sent: Now, at: Now) {
    let nonce = pings(&sent_to(replicator, from, sent)).expect("a ping");
    replicator.receive(from, Message::Pong { nonce, head }, at).unwrap();
}

#[test]
fn pushes_do_not_starve_pings_and_pulls() {
    let peer = origin(2);
    let mut replicator = linked(&[peer], now(0));
    replicator.receive(peer, Message::Heads(vec![head(origin(3), 9)]), now(1)).unwrap();
    sent_to(&mut replicator, peer, now(1));
    let mut others = Vec::new();
    // There is an entry to push before every poll.
    for seq in 1..=100 {
        replicator.publish(seq, &facts(seq, seq));
        match replicator.poll(peer, now(5_000 + seq)) {
            Some(Message::Facts { .. }) => {}
            Some(message) => others.push(message),
            None => panic!("there is a message to send"),
        }
    }
    assert!(
        pings(&others).is_some() && others.iter().any(|one| matches!(one, Message::Pull { .. })),
        "{others:?}"
    );
}

#[test]
fn newcomer_knows_when_it_has_received_all_heads() {
    for count in [0_u64, 1, 511, 512, 513, 1_024] {
        let old = origin(1);
        let new = origin(2);
        let mut replicator = linked(&[new], now(0));
        (1..=count).for_each(|n| replicator.learn(life(9, n), 1, &facts(1, 1)));
        let mut newcomer = Replicator::new(new, Tuning::default());
        newcomer.set_members([(old, MemberState::Alive)]);
        newcomer.add_link(old, 1, now(0));
        let messages = sent_to(&mut replicator, new, now(0));
        let heads = messages.into_iter().filter(|message| matches!(message, Message::Heads(_)));
        for message in heads {
            assert!(!newcomer.is_caught_up());
            newcomer.receive(old, message, now(1)).unwrap();
        }
        (1..=count).for_each(|n| newcomer.learn(life(9, n), 1, &facts(1, 1)));
        assert!(newcomer.is_caught_up(), "{count}");
    }
}
