//! The conformance suite of stores, on this one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::Lease;
use schema::Timestamp;
use store::{Stores, conformance::Harness};
use tokio::sync::OnceCell;

struct OverCql {
    lease: OnceCell<Lease>,
    now: Timestamp,
}

impl OverCql {
    fn new() -> Self {
        Self { lease: OnceCell::new(), now: common::now() }
    }
}

impl Harness for OverCql {
    async fn open(&self) -> Stores {
        let lease = self.lease.get_or_init(Lease::take).await;
        common::opened(&lease.0).await.stores
    }

    async fn restart(&self, stores: Stores) -> Stores {
        drop(stores);
        self.open().await
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn sweeps(&self) -> bool {
        false
    }

    fn rows(&self) -> usize {
        500
    }
}

store::conformance_suite!(OverCql::new());
