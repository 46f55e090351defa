//! A runtime that lives as long as the test process, for what serves several tests: relays, proxies, and
//! the making of what they share. A test's own runtime ends with the test.

use std::sync::{Arc, OnceLock, Weak};

use tokio::{runtime::Runtime, sync::Mutex};

/// The runtime.
///
/// # Panics
/// When it cannot be made.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("background").enable_all().build().expect("a runtime")
    })
}

/// Makes something there. What it spawns lives on.
///
/// # Panics
/// When that does.
pub async fn in_background<T: Send + 'static, F: Future<Output = T>>(
    make: impl FnOnce() -> F + Send + 'static,
) -> T {
    match runtime().spawn_blocking(|| runtime().block_on(make())).await {
        Ok(made) => made,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What tests of one kind share. The first of them makes it; it ends with the last that holds it.
#[derive(Debug)]
pub struct SharedBy<T>(Mutex<Weak<T>>);

impl<T: Send + Sync + 'static> SharedBy<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn tests() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    /// What is there, or what this makes.
    pub async fn or<F: Future<Output = T>>(&self, make: impl FnOnce() -> F + Send + 'static) -> Arc<T> {
        let mut there = self.0.lock().await;
        if let Some(there) = there.upgrade() {
            return there;
        }
        let made = Arc::new(in_background(make).await);
        *there = Arc::downgrade(&made);
        made
    }
}
