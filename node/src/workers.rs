//! Threads for work that takes a core's time: few, of a lower priority than the runtime's, behind a bounded
//! queue that is fair to those who send the work.
//!
//! On the runtime's own threads such work stands in the way of everything else: a flood of logins takes
//! validation to a hundredth of its throughput. On threads of their own the system gives it what the rest
//! leaves, by priority. Beyond the queue's bound a job of the longest flow is shed at once ([`crate::fair`]),
//! so a flood from one place costs that place its answers, and others a turn.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::fair::Queue;

/// Threads that work on jobs, one a core. They end when this is dropped and the queue is empty.
pub struct Workers<Q: Queue> {
    shared: Arc<Shared<Q>>,
    bound: usize,
}

struct Shared<Q> {
    state: Mutex<State<Q>>,
    /// Wakes a thread that has nothing to do.
    ready: Condvar,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State<Q> {
    queue: Q,
    /// How many threads wait for a job.
    idle: usize,
    closed: bool,
}

impl<Q> Shared<Q> {
    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Queue<Job: Send> + Send + 'static> Workers<Q> {
    /// Starts threads of this niceness (0: as the runtime's, 19: what nobody else wants), each with a
    /// worker of its own. At most `bound` jobs wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<W>(name: &str, niceness: i32, bound: usize, worker: impl Fn() -> W) -> io::Result<Self>
    where
        W: FnMut(Q::Job) + Send + 'static,
    {
        let state = Mutex::new(State { queue: Q::default(), idle: 0, closed: false });
        let shared = Arc::new(Shared { state, ready: Condvar::new(), waiting: AtomicUsize::new(0) });
        let workers = Self { shared, bound };
        for n in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (shared, worker) = (workers.shared.clone(), worker());
            let thread = thread::Builder::new().name(format!("{name}-{n}"));
            thread.spawn(move || work(niceness, &shared, worker))?;
        }
        Ok(workers)
    }

    /// Puts a job into the queue. When too many wait, one of the longest flow is dropped without being worked
    /// on, perhaps this one: whoever waits for a job has to notice that it was dropped.
    pub fn send(&self, key: Q::Key, job: Q::Job) {
        let mut state = self.shared.lock();
        state.queue.push(key, job);
        let shed = if state.queue.len() > self.bound { state.queue.shed() } else { None };
        self.shared.waiting.store(state.queue.len(), Ordering::Relaxed);
        let wakes = state.idle > 0;
        drop(state);
        if wakes {
            self.shared.ready.notify_one();
        }
        drop(shed);
    }
}

impl<Q: Queue> Workers<Q> {
    /// How many jobs wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

impl<Q: Queue> Drop for Workers<Q> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
    }
}

/// Logs that a thread has ended by a panic: there is one less for ever.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or_default().to_owned();
            tracing::error!(thread = name, "a thread has ended by a defect; restart the node");
        }
    }
}

fn work<Q: Queue>(niceness: i32, shared: &Shared<Q>, mut worker: impl FnMut(Q::Job)) {
    // On Linux this is about the calling thread. Without the right to it, all is as before.
    let _ = rustix::process::setpriority_process(None, niceness);
    let _ending = Ending;
    while let Some(job) = next(shared) {
        worker(job);
    }
}

/// The next job; `None` when there will be no more.
fn next<Q: Queue>(shared: &Shared<Q>) -> Option<Q::Job> {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.queue.pop() {
            shared.waiting.store(state.queue.len(), Ordering::Relaxed);
            return Some(job);
        }
        if state.closed {
            return None;
        }
        state.idle += 1;
        state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::mpsc};

    use super::*;
    use crate::fair::Fair;

    /// A job that waits until it may go on, and says that it was done.
    struct Job(mpsc::Receiver<()>, mpsc::Sender<()>);

    #[test]
    fn a_flood_sheds_its_own_jobs_and_the_threads_end_with_the_handle() {
        let workers: Workers<Fair<u8, VecDeque<Job>>> = Workers::start("test", 0, 4, || {
            |Job(go, done): Job| {
                let _ = go.recv();
                let _ = done.send(());
            }
        })
        .unwrap();
        let send = |flow| {
            let ((go, wait), (done, is_done)) = (mpsc::channel(), mpsc::channel());
            workers.send((flow, ()), Job(wait, done));
            (go, is_done)
        };
        // Each thread has one that it waits for, so what comes next is queued.
        let busy: Vec<_> =
            (0..thread::available_parallelism().map_or(1, usize::from)).map(|_| send(0)).collect();
        while workers.waiting() > 0 {
            thread::yield_now();
        }
        let flood: Vec<_> = (0..50).map(|_| send(1)).collect();
        let other = send(2);
        assert_eq!(workers.waiting(), 4);
        let shed = flood.iter().filter(|(_, done)| done.try_recv() == Err(mpsc::TryRecvError::Disconnected));
        assert_eq!(shed.count(), 47, "three of the flood wait beside the other one");
        for (go, _) in busy.iter().chain(&flood).chain([&other]) {
            let _ = go.send(());
        }
        assert_eq!(other.1.recv(), Ok(()));
        drop(workers);
        assert_eq!(flood.iter().filter(|(_, done)| done.recv().is_ok()).count(), 3);
    }
}
