//! A node's keys in chitchat: what this node writes of itself, and how it reads others.
//!
//! | key | value |
//! |---|---|
//! | `links` | the versions of the link protocol, as in `1-3` |
//! | `name` | the node's name |
//! | `state` | those of the words `ready` and `leaving` that hold, or nothing |
//! | `head` | the length of the node's log |
//!
//! A member may write what it likes. A value that cannot be read counts as missing, and is logged once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use chitchat::{Chitchat, ChitchatId, NodeState};
use schema::ledger::Origin;
use tracing::{error, warn};

use super::{Announcement, Member, NAME_BYTES_MAX};
use crate::protocol::message::is_plausible;

pub(super) const LINKS: &str = "links";
pub(super) const NAME: &str = "name";
const STATE: &str = "state";
const HEAD: &str = "head";
/// The maximum number of members that are read.
pub(super) const MEMBERS_MAX: usize = 10_000;
/// The maximum length of a log. At a million entries a second it is reached after nine years.
const HEAD_MAX: u64 = 1 << 48;
/// The maximum number of members for which the node remembers that it logged a complaint.
const COMPLAINTS_MAX: usize = 1_024;
/// The memory of a key beside its text, in bytes.
const KEY_BYTES: usize = 100;
/// The memory of a node beside its keys, in bytes, with the failure detector's state.
const NODE_BYTES: usize = 400;
const READY: &str = "ready";
const LEAVING: &str = "leaving";

/// The keys that change while a node runs.
pub(super) fn changing(announcement: Announcement) -> [(&'static str, String); 2] {
    let words = [(announcement.ready, READY), (announcement.leaving, LEAVING)];
    let words: Vec<_> = words.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word).collect();
    [(STATE, words.join(" ")), (HEAD, announcement.head.to_string())]
}

/// The keys that do not change.
pub(super) fn fixed(name: &str, versions: &RangeInclusive<u8>) -> [(&'static str, String); 2] {
    [(LINKS, format!("{}-{}", versions.start(), versions.end())), (NAME, name.to_owned())]
}

/// Reads members, and remembers about which of them it complained.
#[derive(Default)]
pub(super) struct Reader {
    named: BTreeSet<ChitchatId>,
    /// Whether a member said, at the last read, that a later life of this node is alive.
    pub(super) superseded: bool,
    /// The memory that all that is known took at the last read, in bytes.
    pub(super) bytes: usize,
}

impl Reader {
    /// All other members in order, each node once with its newest incarnation.
    pub(super) fn members(&mut self, own: Origin, chitchat: &Chitchat) -> Vec<Member> {
        let alive: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut newest = BTreeMap::<_, Member>::new();
        self.superseded = false;
        self.bytes = chitchat.node_states().values().map(bytes).sum();
        // Live members first, so that dead ones are left out when there are too many.
        for is_alive in [true, false] {
            for (id, state) in chitchat.node_states() {
                if alive.contains(id) != is_alive || id == chitchat.self_chitchat_id() {
                    continue;
                }
                let Some(member) = self.member(id, state, is_alive) else { continue };
                if member.origin.node == own.node {
                    self.check_duplicate(own, id, is_alive);
                    continue;
                }
                let is_full = newest.len() >= MEMBERS_MAX;
                match newest.get_mut(&member.origin.node) {
                    Some(known) if member.origin.incarnation > known.origin.incarnation => *known = member,
                    Some(_) => {}
                    None if is_full => {}
                    None => {
                        newest.insert(member.origin.node, member);
                    }
                }
            }
        }
        newest.into_values().collect()
    }

    fn member(&mut self, id: &ChitchatId, state: &NodeState, alive: bool) -> Option<Member> {
        // The keys of the node have not arrived yet.
        let links = state.get(LINKS)?;
        let address = id.gossip_advertise_addr;
        let Ok(node) = id.node_id.parse() else {
            self.complain(id, "its id is not a UUID");
            return None;
        };
        if address.port() == 0 || address.ip().is_unspecified() {
            self.complain(id, "its address cannot be reached");
            return None;
        }
        let origin = Origin { node, incarnation: id.generation_id };
        if !is_plausible(origin) {
            self.complain(id, "no node can have its id or incarnation");
            return None;
        }
        let versions = versions(links);
        if versions.is_none() {
            self.complain(id, "its link versions cannot be read");
        }
        let name = state.get(NAME).unwrap_or_default();
        let printable_name = printable(name);
        if printable_name != name {
            self.complain(id, "its name is too long or unprintable");
        }
        let head = match state.get(HEAD).map(str::parse) {
            Some(Ok(head)) if head <= HEAD_MAX => head,
            None => 0,
            Some(_) => {
                self.complain(id, "its log is longer than a log can be");
                0
            }
        };
        let says = |word| state.get(STATE).unwrap_or_default().split(' ').any(|said| said == word);
        Some(Member {
            origin,
            name: printable_name,
            address,
            alive,
            ready: says(READY),
            leaving: says(LEAVING),
            head,
            #[expect(clippy::reversed_empty_ranges, reason = "an empty range")]
            versions: versions.unwrap_or(1..=0),
        })
    }

    fn complain(&mut self, id: &ChitchatId, problem: &str) {
        if self.is_first(id) {
            warn!(peer = %id.gossip_advertise_addr, problem, "invalid gossip of a member ignored");
        }
    }

    /// Notes a process that claims to be another life of this node. Earlier lives are expected; the same or a
    /// later one is another process.
    fn check_duplicate(&mut self, own: Origin, id: &ChitchatId, alive: bool) {
        self.superseded |= alive && id.generation_id > own.incarnation;
        if alive && id.generation_id >= own.incarnation && self.is_first(id) {
            error!(
                peer = %id.gossip_advertise_addr, node = %own.node,
                "another node runs with this node's id; its data directory may be a copy"
            );
        }
    }

    /// Whether this is the first complaint about the member.
    fn is_first(&mut self, id: &ChitchatId) -> bool {
        if self.named.len() >= COMPLAINTS_MAX {
            self.named.clear();
        }
        self.named.insert(id.clone())
    }
}

/// The approximate memory that a node and its keys take, in bytes.
fn bytes(state: &NodeState) -> usize {
    let keys =
        state.key_values_including_deleted().map(|(key, value)| key.len() + value.value.len() + KEY_BYTES);
    keys.sum::<usize>() + state.chitchat_id().node_id.len() + NODE_BYTES
}

/// The name without control characters, cut to the maximum length.
fn printable(name: &str) -> String {
    let mut printable = String::new();
    for letter in name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }) {
        if printable.len() + letter.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        printable.push(letter);
    }
    printable
}

fn versions(text: &str) -> Option<RangeInclusive<u8>> {
    let (first, last) = text.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?).filter(|versions| !versions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(printable("node-1"), "node-1");
        assert_eq!(printable("a\u{1b}[2J\n"), "a\u{fffd}[2J\u{fffd}");
        let long = "é".repeat(1_000);
        assert_eq!(printable(&long), "é".repeat(NAME_BYTES_MAX / 2));
    }

    #[test]
    fn versions_are_two_ordered_numbers() {
        assert_eq!(versions("1-3"), Some(1..=3));
        for bad in ["", "1", "-", "3-1", "1-256", "a-b", "1-2-3", "-1-2"] {
            assert_eq!(versions(bad), None, "{bad}");
        }
    }

    #[test]
    fn state_is_a_list_of_words() {
        let state = |ready, leaving| changing(Announcement { ready, leaving, head: 7 });
        assert_eq!(state(false, false), [("state", String::new()), ("head", "7".into())]);
        assert_eq!(state(true, true)[0].1, "ready leaving");
    }
}
