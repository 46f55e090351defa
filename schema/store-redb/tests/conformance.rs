//! The conformance suite of stores, on this one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::PathBuf;

use store::{Stores, conformance::Harness};
use tempfile::TempDir;

struct Embedded {
    directory: TempDir,
}

impl Embedded {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store.redb")
    }
}

impl Harness for Embedded {
    async fn open(&self) -> Stores {
        store_redb::open(&self.path()).await.unwrap().stores
    }

    async fn restart(&self, stores: Stores) -> Stores {
        drop(stores);
        self.open().await
    }
}

store::conformance_suite!(Embedded::new());
