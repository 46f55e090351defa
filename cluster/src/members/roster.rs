//! A node's keys in chitchat: what we write of ourselves and how we read others.
//!
//! | key | value |
//! |---|---|
//! | `links` | the versions of the link protocol, `1-3` |
//! | `name` | the node's name |
//! | `state` | of `ready` and `leaving` those that hold, or nothing |
//! | `head` | how long its log is |
//!
//! A member may write what it likes. What cannot be read counts as not said, and is named in the log once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use chitchat::{Chitchat, ChitchatId, NodeState};
use schema::ledger::Origin;
use tracing::{error, warn};

use super::{Announcement, MAX_NAME, Member};
use crate::protocol::message::is_plausible;

pub(super) const LINKS: &str = "links";
pub(super) const NAME: &str = "name";
const STATE: &str = "state";
const HEAD: &str = "head";
/// More members than this are not looked at.
pub(super) const MAX_MEMBERS: usize = 10_000;
/// No log is longer: at a million entries a second it would be nine years old.
const MAX_HEAD: u64 = 1 << 48;
/// Of so many members the log remembers what it said.
const MAX_NAMED: usize = 1_024;
/// The memory of a key beside its text, and of a node beside its keys, with what is known of its life.
const KEY_BYTES: usize = 100;
const NODE_BYTES: usize = 400;
const READY: &str = "ready";
const LEAVING: &str = "leaving";

/// What changes while a node runs.
pub(super) fn changing(announcement: Announcement) -> [(&'static str, String); 2] {
    let words = [(announcement.ready, READY), (announcement.leaving, LEAVING)];
    let words: Vec<_> = words.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word).collect();
    [(STATE, words.join(" ")), (HEAD, announcement.head.to_string())]
}

/// What does not.
pub(super) fn fixed(name: &str, versions: &RangeInclusive<u8>) -> [(&'static str, String); 2] {
    [(LINKS, format!("{}-{}", versions.start(), versions.end())), (NAME, name.to_owned())]
}

/// Reads members, and remembers of whom it complained.
#[derive(Default)]
pub(super) struct Reader {
    named: BTreeSet<ChitchatId>,
    /// A member says that a later life of this node is alive, as of the last look.
    pub(super) superseded: bool,
    /// The memory that all that is known takes, in bytes, as of the last look.
    pub(super) bytes: usize,
}

impl Reader {
    /// All other members, of each node the newest incarnation, in order.
    pub(super) fn members(&mut self, own: Origin, chitchat: &Chitchat) -> Vec<Member> {
        let alive: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut newest = BTreeMap::<_, Member>::new();
        self.superseded = false;
        self.bytes = chitchat.node_states().values().map(bytes).sum();
        // Those that are alive first, so that the dead are left out when there are too many.
        for lives in [true, false] {
            for (id, state) in chitchat.node_states() {
                if alive.contains(id) != lives || id == chitchat.self_chitchat_id() {
                    continue;
                }
                let Some(member) = self.member(id, state, lives) else { continue };
                if member.origin.node == own.node {
                    self.twin(own, id, lives);
                    continue;
                }
                let full = newest.len() >= MAX_MEMBERS;
                match newest.get_mut(&member.origin.node) {
                    Some(known) if member.origin.incarnation > known.origin.incarnation => *known = member,
                    Some(_) => {}
                    None if full => {}
                    None => {
                        newest.insert(member.origin.node, member);
                    }
                }
            }
        }
        newest.into_values().collect()
    }

    fn member(&mut self, id: &ChitchatId, state: &NodeState, alive: bool) -> Option<Member> {
        // Its keys have not come yet.
        let links = state.get(LINKS)?;
        let address = id.gossip_advertise_addr;
        let Ok(node) = id.node_id.parse() else {
            self.complain(id, "its id is none");
            return None;
        };
        if address.port() == 0 || address.ip().is_unspecified() {
            self.complain(id, "its address is none");
            return None;
        }
        let origin = Origin { node, incarnation: id.generation_id };
        if !is_plausible(origin) {
            self.complain(id, "no node has its id or incarnation");
            return None;
        }
        let versions = versions(links);
        if versions.is_none() {
            self.complain(id, "its link versions are none");
        }
        let name = state.get(NAME).unwrap_or_default();
        let readable = readable(name);
        if readable != name {
            self.complain(id, "its name is too long or unreadable");
        }
        let head = match state.get(HEAD).map(str::parse) {
            Some(Ok(head)) if head <= MAX_HEAD => head,
            None => 0,
            Some(_) => {
                self.complain(id, "its log cannot be so long");
                0
            }
        };
        let says = |word| state.get(STATE).unwrap_or_default().split(' ').any(|said| said == word);
        Some(Member {
            origin,
            name: readable,
            address,
            alive,
            ready: says(READY),
            leaving: says(LEAVING),
            head,
            #[expect(clippy::reversed_empty_ranges, reason = "it has none")]
            versions: versions.unwrap_or(1..=0),
        })
    }

    fn complain(&mut self, id: &ChitchatId, problem: &str) {
        if self.first(id) {
            warn!(peer = %id.gossip_advertise_addr, problem, "a member says what cannot be");
        }
    }

    /// Earlier lives of this node are no news; a later one is somebody else.
    fn twin(&mut self, own: Origin, id: &ChitchatId, alive: bool) {
        self.superseded |= alive && id.generation_id > own.incarnation;
        if alive && id.generation_id >= own.incarnation && self.first(id) {
            error!(
                peer = %id.gossip_advertise_addr, node = %own.node,
                "another node runs with this node's id: was its data directory copied?"
            );
        }
    }

    fn first(&mut self, id: &ChitchatId) -> bool {
        if self.named.len() >= MAX_NAMED {
            self.named.clear();
        }
        self.named.insert(id.clone())
    }
}

/// The memory that a node and what it says take, in bytes, about.
fn bytes(state: &NodeState) -> usize {
    let keys =
        state.key_values_including_deleted().map(|(key, value)| key.len() + value.value.len() + KEY_BYTES);
    keys.sum::<usize>() + state.chitchat_id().node_id.len() + NODE_BYTES
}

/// The name without what a terminal would obey, and not too long.
fn readable(name: &str) -> String {
    let mut readable = String::new();
    for letter in name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }) {
        if readable.len() + letter.len_utf8() > MAX_NAME {
            break;
        }
        readable.push(letter);
    }
    readable
}

fn versions(text: &str) -> Option<RangeInclusive<u8>> {
    let (first, last) = text.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?).filter(|versions| !versions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_letters() {
        assert_eq!(readable("node-1"), "node-1");
        assert_eq!(readable("a\u{1b}[2J\n"), "a\u{fffd}[2J\u{fffd}");
        let long = "é".repeat(1_000);
        assert_eq!(readable(&long), "é".repeat(MAX_NAME / 2));
    }

    #[test]
    fn versions_are_two_numbers_in_order() {
        assert_eq!(versions("1-3"), Some(1..=3));
        for bad in ["", "1", "-", "3-1", "1-256", "a-b", "1-2-3", "-1-2"] {
            assert_eq!(versions(bad), None, "{bad}");
        }
    }

    #[test]
    fn states_are_words() {
        let state = |ready, leaving| changing(Announcement { ready, leaving, head: 7 });
        assert_eq!(state(false, false), [("state", String::new()), ("head", "7".into())]);
        assert_eq!(state(true, true)[0].1, "ready leaving");
    }
}
