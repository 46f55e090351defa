//! Clients that send requests until the node stops listening, and the shutdown of the node under them.
//!
//! Promises: panics when a request that was sent on a connection in use gets no whole answer, up to the answer
//! that says `Connection: close`.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use crate::{Client, Node, Raw, eventually, raw::Reply};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What clients and the end of their node know of each other.
#[derive(Debug, Default)]
pub struct Drain {
    answered: AtomicUsize,
    ending: AtomicBool,
}

impl Drain {
    /// One client that sends so many requests at a time, on connections that it keeps.
    ///
    /// # Panics
    /// When something is lost.
    pub async fn ask(&self, client: &Client, requests: &[u8], count: usize) {
        let is_ending = || self.ending.load(Ordering::SeqCst);
        'connect: loop {
            let Ok(mut raw) = Raw::try_to(client).await else {
                assert!(is_ending(), "refused before the end");
                return;
            };
            let mut first = true;
            loop {
                if raw.send(requests).await.is_err() {
                    // Closed before it was sent: the node said so with `Connection: close`, or it
                    // never took this connection from the queue of the listener.
                    assert!(is_ending(), "closed before the end");
                    continue 'connect;
                }
                for n in 0..count {
                    match raw.reply(ANSWER_TIMEOUT).await {
                        Reply::Answer { status, head, .. } => {
                            assert_eq!(status, 200, "{head}");
                            self.answered.fetch_add(1, Ordering::SeqCst);
                            first = false;
                            if head.to_ascii_lowercase().contains("connection: close") {
                                continue 'connect;
                            }
                        }
                        Reply::Closed { part } => {
                            assert!(is_ending(), "closed before the end");
                            let text = String::from_utf8_lossy(&part);
                            // A connection that waited in the listener's queue when it was closed was
                            // never accepted, and none of ours: the client may try elsewhere. One that
                            // was in use must have been told.
                            assert!(
                                first && part.is_empty(),
                                "after {n} of {count}, without a word: {text:?}"
                            );
                            continue 'connect;
                        }
                        Reply::Silence => panic!("no answer within {ANSWER_TIMEOUT:?}"),
                    }
                }
            }
        }
    }

    /// Ends the node once so many requests were answered.
    ///
    /// # Panics
    /// When it did not serve while it drained, or did not end well.
    pub async fn end(&self, node: &Node, least: usize) {
        let answered = || self.answered.load(Ordering::SeqCst);
        eventually(ANSWER_TIMEOUT, "load", async || (answered() > least).then_some(())).await;
        self.ending.store(true, Ordering::SeqCst);
        let before = answered();
        assert_eq!(node.terminate().await.code(), Some(0), "{}", node.logs());
        assert!(answered() > before, "it served during the grace");
    }
}
