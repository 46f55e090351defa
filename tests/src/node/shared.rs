//! A node that several tests share.

use std::sync::{Arc, Weak};

use super::{Node, Process};

/// A node that tests of one kind share. It is started by the first of them and ends with the last.
#[derive(Debug)]
pub struct Shared {
    settings: &'static [(&'static str, &'static str)],
    running: tokio::sync::Mutex<Weak<Process>>,
}

impl Shared {
    /// A node with these settings, beside those of all tests.
    #[must_use]
    pub const fn with(settings: &'static [(&'static str, &'static str)]) -> Self {
        Self { settings, running: tokio::sync::Mutex::const_new(Weak::new()) }
    }

    /// A handle for one test.
    pub async fn node(&self) -> Node {
        let mut running = self.running.lock().await;
        if let Some(process) = running.upgrade() {
            return Node::of(process);
        }
        let builder = Node::builder();
        let builder =
            self.settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, *value));
        let node = builder.start().await;
        *running = Arc::downgrade(&node.process);
        node
    }
}
