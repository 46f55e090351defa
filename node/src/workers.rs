//! Threads for work that takes a core's time: few, of a lower priority than the runtime's, behind a bounded
//! queue.
//!
//! On the runtime's own threads such work stands in the way of everything else: a flood of logins takes
//! validation to a hundredth of its throughput. On threads of their own the system gives it what the rest
//! leaves, by priority. Beyond the queue it is turned away at once.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much work waits")]
pub struct QueueFull;

/// Threads that work on jobs, one a core. They end when this is dropped and the queue is empty.
pub struct Workers<J> {
    jobs: mpsc::SyncSender<J>,
    waiting: Arc<AtomicUsize>,
}

impl<J: Send + 'static> Workers<J> {
    /// Starts threads of this niceness (0: as the runtime's, 19: what nobody else wants), each with a
    /// worker of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<W>(name: &str, niceness: i32, queue: usize, worker: impl Fn() -> W) -> io::Result<Self>
    where
        W: FnMut(J) + Send + 'static,
    {
        let (jobs, queue) = mpsc::sync_channel(queue);
        let queue = Arc::new(Mutex::new(queue));
        let waiting = Arc::new(AtomicUsize::new(0));
        for n in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (queue, waiting, worker) = (queue.clone(), waiting.clone(), worker());
            let thread = thread::Builder::new().name(format!("{name}-{n}"));
            thread.spawn(move || work(niceness, &queue, &waiting, worker))?;
        }
        Ok(Self { jobs, waiting })
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// When it is full.
    pub fn send(&self, job: J) -> Result<(), QueueFull> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.try_send(job).map_err(|_| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            QueueFull
        })
    }

    /// How many jobs wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A thread that ends for a panic is one less for ever: somebody must know.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or_default().to_owned();
            tracing::error!(thread = name, "a thread has ended by a defect; restart the node");
        }
    }
}

fn work<J>(
    niceness: i32,
    queue: &Mutex<mpsc::Receiver<J>>,
    waiting: &AtomicUsize,
    mut worker: impl FnMut(J),
) {
    // On Linux this is about the calling thread. Without the right to it, all is as before.
    let _ = rustix::process::setpriority_process(None, niceness);
    let _ending = Ending;
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        worker(job);
    }
}
