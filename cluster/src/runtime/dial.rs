//! Links that this node makes: which members it dials, and when.

use std::{sync::Arc, time::Duration};

use schema::NodeId;
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Shared, link_task};
use crate::{
    link::{self, Refused},
    members::Member,
    timer,
};

/// How often the node looks for members to dial.
pub(super) const DIAL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the node with the higher id goes without a link before it dials too.
const HIGHER_ID_DIAL_DELAY: Duration = Duration::from_secs(2);
/// The shortest pause between two dials of one peer. It doubles with each dial.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two dials of one peer.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// The number of peers that a node dials when there are too many members for a full mesh.
const SPARSE_LINKS: usize = 8;
/// A link that lasted this long resets the pause between dials. A shorter one is no reason to dial again at
/// once.
const STABLE_LINK_MIN: Duration = Duration::from_secs(5);

/// The dials of one peer.
pub(super) struct DialState {
    /// Since when there is no link.
    missing_since: Instant,
    next_at: Instant,
    backoff: Duration,
    under_way: bool,
}

/// Dials every member that is alive and not linked.
pub(super) async fn dial_members(shared: Arc<Shared>) {
    let members = shared.members.watch();
    let mut rounds = interval(DIAL_INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let list = members.borrow().clone();
        let alive: Vec<_> = list.iter().filter(|member| member.alive && !member.leaving).collect();
        dial_missing(&shared, alive);
    }
}

/// Starts a dial of each of these members that is not linked and due.
fn dial_missing(shared: &Arc<Shared>, mut alive: Vec<&Member>) {
    let mut state = shared.state();
    let own = shared.config.origin.node;
    let is_sparse = state.replicator.is_sparse();
    if is_sparse {
        // The same few as long as they live, different ones for every node.
        alive.sort_by_key(|member| preference(own, member.origin.node));
        alive.truncate(SPARSE_LINKS);
    }
    state.dials.retain(|node, _| alive.iter().any(|member| member.origin.node == *node));
    let now = timer::now();
    for member in alive {
        let node = member.origin.node;
        if let Some(link) = state.links.get(&node).filter(|link| link.origin == member.origin) {
            if link.since.elapsed() >= STABLE_LINK_MIN {
                state.dials.remove(&node);
            }
            continue;
        }
        let dial = state.dials.entry(node).or_insert(DialState {
            missing_since: now,
            next_at: now,
            backoff: BACKOFF_MIN,
            under_way: false,
        });
        let is_ours = is_sparse || own < node || now >= dial.missing_since + HIGHER_ID_DIAL_DELAY;
        if dial.under_way || now < dial.next_at || !is_ours {
            continue;
        }
        dial.under_way = true;
        tokio::spawn(dial_member(shared.clone(), member.clone()));
    }
}

/// The rank of another node among the peers that a node dials: random, but always the same.
fn preference(own: NodeId, other: NodeId) -> u32 {
    let bytes = [own.as_bytes().as_slice(), other.as_bytes().as_slice()].concat();
    crc32fast::hash(&bytes)
}

async fn dial_member(shared: Arc<Shared>, member: Member) {
    let linked = match timeout(CONNECT_TIMEOUT, TcpStream::connect(member.address)).await {
        Ok(Ok(stream)) => link::dial(stream, &shared.local).await,
        Ok(Err(error)) => Err(Refused::Io(error)),
        Err(_) => Err(Refused::Slow),
    };
    if let Some(dial) = shared.state().dials.get_mut(&member.origin.node) {
        let backoff = dial.backoff.min(BACKOFF_MAX);
        let millis = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX);
        // Between half of the pause and all of it, so that nodes that lost each other do not dial in step.
        let pause = backoff / 2 + Duration::from_millis(shared.random_below(millis / 2 + 1));
        dial.next_at = timer::now() + pause;
        dial.backoff = backoff * 2;
        dial.under_way = false;
    }
    match linked {
        Ok((peer, reader, writer)) => {
            let is_expected = peer.origin.node == member.origin.node;
            if !is_expected && shared.state().links.contains_key(&peer.origin.node) {
                let address = member.address;
                let expected = member.name;
                tracing::warn!(%address, peer = peer.name, expected, "another node answers at the address of a member");
                return;
            }
            link_task::run(shared, peer, reader, writer).await;
        }
        Err(error) => shared.refused.note(&error, member.address),
    }
}
