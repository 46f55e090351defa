//! One link, from its start to its end: reads and applies frames, writes what the replicator has to send.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use schema::{Name, Timestamp, ledger::Origin, time::CLOCK_SKEW};
use tokio::{
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{
    LinkHandle, Shared,
    refused::{LOG_EVERY, LinkRefusal},
};
use crate::{
    link::{self, Broken, Reader, Writer},
    protocol::{Message, SeqRange},
    timer,
};

/// A link on which nothing arrives for this long is closed. Peers send a ping four times a second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the writer polls the replicator when it is not woken.
const WRITER_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest time for which a fact of a peer is believed to matter. Access tokens live a day at most; a
/// fact by which a user revokes a token whose issuer's clock was ahead by weeks lasts until the end of that
/// token.
const FACT_LIFE_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);
/// The maximum number of linked peers, twice as many as a full mesh has. A link takes a quarter of a MiB.
const LINKS_MAX: usize = 128;

/// A link, as its tasks see it.
pub(super) struct LinkTask<'a> {
    pub(super) shared: &'a Shared,
    pub(super) origin: Origin,
    /// Distinguishes the link from other ones to the same peer.
    pub(super) number: u64,
    /// Whether a difference of the clocks was logged.
    clock_warned: AtomicBool,
    /// The range of the peer's log that it asks this node to write to its disk.
    pub(super) keep_requested: Mutex<Option<SeqRange>>,
    pub(super) keep_wake: Notify,
}

/// Why a link ended.
pub(super) enum LinkEnd {
    /// A newer link to the same peer took its place.
    Replaced,
    /// The connection failed, or the peer closed it.
    Broken(Broken),
    /// The peer sent what the protocol does not allow.
    ProtocolViolation(String),
}

impl From<Broken> for LinkEnd {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Runs a link until it ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    peer: link::Peer,
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
) {
    let origin = peer.origin;
    let name = if Name::is_valid(&peer.name) { peer.name } else { origin.node.to_string() };
    let (close, closed) = oneshot::channel::<()>();
    let wake = Arc::new(Notify::new());
    let Some(number) = register(&shared, origin, peer.version, &name, &wake, close) else { return };
    let version = peer.version;
    tracing::info!(peer = name, node = %origin.node, incarnation = origin.incarnation, version, "peer link established");
    let task = LinkTask {
        shared: &shared,
        origin,
        number,
        clock_warned: AtomicBool::new(false),
        keep_requested: Mutex::new(None),
        keep_wake: Notify::new(),
    };
    let end = tokio::select! {
        end = task.read(reader) => end,
        end = task.write(writer, &wake) => end,
        end = task.keep() => end,
        _ = closed => LinkEnd::Replaced,
    };
    let mut state = shared.state();
    let has_left = state.replicator.has_left(origin);
    if state.is_current(origin, number) {
        state.links.remove(&origin.node);
        state.replicator.remove_link(origin);
        state.answer_pending(&*shared.handler);
    }
    drop(state);
    match end {
        LinkEnd::Broken(_) if has_left => {
            tracing::info!(peer = name, reason = "the peer left the cluster", "peer link closed");
        }
        LinkEnd::Replaced => {
            tracing::debug!(peer = name, reason = "a newer link replaced it", "peer link closed");
        }
        LinkEnd::Broken(broken) => tracing::warn!(peer = name, reason = %broken, "peer link closed"),
        LinkEnd::ProtocolViolation(reason) => {
            shared.refused.count(LinkRefusal::Malformed);
            tracing::error!(peer = name, reason, "peer link closed: protocol violation");
        }
    }
}

/// Makes a link the current one to its peer. Returns its number, or `None` if the link is refused.
fn register(
    shared: &Shared,
    origin: Origin,
    version: u8,
    name: &str,
    wake: &Arc<Notify>,
    close: oneshot::Sender<()>,
) -> Option<u64> {
    if origin.node == shared.config.origin.node {
        shared.refused.count(LinkRefusal::Itself);
        tracing::error!(peer = name, reason = "another node runs with this node's id", "peer link refused");
        return None;
    }
    let mut state = shared.state();
    let current = state.links.get(&origin.node);
    let is_new = current.is_none();
    if current.is_some_and(|link| link.origin.incarnation > origin.incarnation) {
        tracing::info!(peer = name, reason = "the peer has started again since", "peer link refused");
        return None;
    }
    if shared.stopping.load(Ordering::SeqCst) {
        return None;
    }
    if is_new && state.links.len() >= LINKS_MAX {
        let before = shared.refused.count(LinkRefusal::Crowded);
        if before.is_multiple_of(LOG_EVERY) {
            let reason = "this node has as many links as it may have";
            tracing::warn!(peer = name, reason, before, "peer link refused");
        }
        return None;
    }
    state.links_made += 1;
    let number = state.links_made;
    state.replicator.add_link(origin, version, shared.now());
    let link = LinkHandle { number, origin, since: timer::now(), wake: wake.clone(), _close: close };
    state.links.insert(origin.node, link);
    Some(number)
}

impl LinkTask<'_> {
    async fn read(&self, mut reader: Reader<OwnedReadHalf>) -> LinkEnd {
        loop {
            let frame = match timeout(SILENCE_TIMEOUT, reader.read()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(broken)) => return broken.into(),
                Err(_) => return Broken::Slow.into(),
            };
            let message = match Message::decode(frame) {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(malformed) => return LinkEnd::ProtocolViolation(malformed.to_string()),
            };
            let message = self.apply(message);
            if let Message::Keep { first, last } = message {
                self.request_keep(first, last);
                continue;
            }
            let acknowledges = matches!(message, Message::Ack(_) | Message::Kept { .. });
            let mut state = self.shared.state();
            if !state.is_current(self.origin, self.number) {
                return LinkEnd::Replaced;
            }
            if let Err(duplicate) = state.replicator.receive(self.origin, message, self.shared.now()) {
                return LinkEnd::ProtocolViolation(duplicate.to_string());
            }
            if acknowledges {
                state.answer_pending(&*self.shared.handler);
            }
            if state.replicator.is_sparse() {
                // Other peers may have to be sent what arrived.
                state.wake_all();
            } else {
                state.wake(self.origin.node);
            }
        }
    }

    /// Applies the facts of a message, and bounds every expiry in it. When this returns, the node refuses by
    /// the facts.
    fn apply(&self, mut message: Message) -> Message {
        let latest: Timestamp = self.shared.clocks.now().plus(FACT_LIFE_MAX);
        match &mut message {
            Message::Facts { facts, .. } => {
                for fact in facts {
                    fact.until = fact.until.min(latest);
                    self.shared.handler.apply(fact);
                }
            }
            Message::Heads(heads) => {
                for head in heads {
                    head.until = head.until.min(latest);
                    head.forgotten.until = head.forgotten.until.min(latest);
                }
            }
            Message::Clock { at } => self.compare_clocks(*at),
            Message::Pulled { forgotten, .. } => forgotten.until = forgotten.until.min(latest),
            _ => {}
        }
        message
    }

    /// Logs once for each link that the clocks differ by more than the allowed skew.
    fn compare_clocks(&self, at: Timestamp) {
        let now = self.shared.clocks.now();
        let difference = at.since(now).max(now.since(at));
        if difference > CLOCK_SKEW && !self.clock_warned.swap(true, Ordering::Relaxed) {
            tracing::error!(
                node = %self.origin.node, ?difference,
                "peer clock differs from this node's; tokens of one node may be refused by the other"
            );
        }
    }

    async fn write(&self, mut writer: Writer<OwnedWriteHalf>, wake: &Notify) -> LinkEnd {
        let mut frame = Vec::with_capacity(link::FRAME_BYTES_MAX);
        loop {
            let mut has_written = false;
            loop {
                let next = {
                    let mut state = self.shared.state();
                    if !state.is_current(self.origin, self.number) {
                        return LinkEnd::Replaced;
                    }
                    state.replicator.poll(self.origin, self.shared.now())
                };
                let Some(message) = next else { break };
                frame.clear();
                message.encode(&mut frame);
                if let Err(broken) = writer.write(&frame).await {
                    return broken.into();
                }
                has_written = true;
            }
            if has_written {
                // What becomes due during the flush is sent in the next round.
                if let Err(broken) = writer.flush().await {
                    return broken.into();
                }
            } else {
                let _ = timeout(WRITER_POLL_INTERVAL, wake.notified()).await;
            }
        }
    }
}
