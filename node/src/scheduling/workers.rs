//! Threads for CPU-bound work: few, of a lower priority than the runtime's threads, behind a bounded queue
//! that is fair to the sources of the work.
//!
//! On the runtime's own threads such work blocks everything else: a flood of log-ins reduces validation to a
//! hundredth of its throughput. Threads of its own get the time that others leave, by [`Priority`]. Beyond
//! the queue's bound, a job of the longest flow is shed at once ([`crate::scheduling::fair`]), so a flood
//! from one source costs that source its answers, and others a turn.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

use super::fair::Queue;

/// The share of a core that threads get while the runtime's threads compete for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The same share as a thread of the runtime.
    Normal,
    /// A tenth of the share of a thread of the runtime.
    Low,
    /// Only time that no other thread uses (`SCHED_IDLE`). Niceness is not enough: Linux lets a nice thread
    /// that runs continue for some milliseconds while a woken thread of the runtime waits.
    Idle,
}

impl Priority {
    /// Applies the priority to the calling thread. If the system does not allow it, the thread keeps its own.
    fn apply(self) {
        let niceness = match self {
            Self::Normal => 0,
            Self::Low => 10,
            // Applies also where the system refuses the policy.
            Self::Idle => 19,
        };
        // On Linux this applies to the calling thread.
        let _ = rustix::process::setpriority_process(None, niceness);
        if self == Self::Idle {
            let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
        }
    }
}

/// Threads that work on jobs, one per core. They end when this is dropped and the queue is empty.
pub struct Workers<Q: Queue> {
    shared: Arc<Shared<Q>>,
    bound: usize,
}

struct Shared<Q> {
    state: Mutex<State<Q>>,
    /// Wakes an idle thread.
    ready: Condvar,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State<Q> {
    queue: Q,
    /// The number of threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl<Q> Shared<Q> {
    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Queue<Job: Send> + Send + 'static> Workers<Q> {
    /// Starts threads of this priority, each with a worker of its own. At most `bound` jobs wait.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start<W>(name: &str, priority: Priority, bound: usize, worker: impl Fn() -> W) -> io::Result<Self>
    where
        W: FnMut(Q::Job) + Send + 'static,
    {
        let state = Mutex::new(State { queue: Q::default(), idle: 0, closed: false });
        let shared = Arc::new(Shared { state, ready: Condvar::new(), waiting: AtomicUsize::new(0) });
        let workers = Self { shared, bound };
        for n in 0..thread::available_parallelism().map_or(1, usize::from) {
            let shared = workers.shared.clone();
            let worker = worker();
            let thread = thread::Builder::new().name(format!("{name}-{n}"));
            thread.spawn(move || work(priority, &shared, worker))?;
        }
        Ok(workers)
    }

    /// Queues a job. When too many wait, one of the longest flow, perhaps this one, is dropped without being
    /// worked on: a caller that waits for a job must notice the drop.
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
    /// The number of jobs that wait.
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

/// Logs that a thread has ended by a panic. The thread is not replaced.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or_default().to_owned();
            tracing::error!(thread = name, "a thread has ended by a defect; restart the node");
        }
    }
}

fn work<Q: Queue>(priority: Priority, shared: &Shared<Q>, mut worker: impl FnMut(Q::Job)) {
    priority.apply();
    let _ending = Ending;
    while let Some(job) = next(shared) {
        worker(job);
    }
}

/// Waits for the next job; `None` when the workers end.
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
    use crate::scheduling::fair::Fair;

    /// A job that waits for a signal, and then reports that it was done.
    struct Job(mpsc::Receiver<()>, mpsc::Sender<()>);

    #[test]
    fn idle_threads_run_only_when_nothing_else_does() {
        let (reply, policy) = mpsc::channel();
        let workers: Workers<Fair<u8, VecDeque<()>>> = Workers::start("test", Priority::Idle, 1, || {
            let reply = reply.clone();
            move |()| reply.send(thread_priority::thread_schedule_policy()).unwrap()
        })
        .unwrap();
        workers.send((0, ()), ());
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(policy.recv().unwrap(), Ok(idle));
    }

    #[test]
    fn flood_sheds_its_own_jobs_and_threads_end_with_the_handle() {
        let workers: Workers<Fair<u8, VecDeque<Job>>> = Workers::start("test", Priority::Normal, 4, || {
            |Job(go, done): Job| {
                let _ = go.recv();
                let _ = done.send(());
            }
        })
        .unwrap();
        let send = |flow| {
            let (go, wait) = mpsc::channel();
            let (done, is_done) = mpsc::channel();
            workers.send((flow, ()), Job(wait, done));
            (go, is_done)
        };
        // Each thread is busy with a job, so the next ones are queued.
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
