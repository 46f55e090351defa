//! The users of a run: created before it and deleted after it, whatever happens in between.
//!
//! Promises: every user that was created is deleted, which ends all their sessions, also after an error, a
//! panic of a thread, or Ctrl-C. If users cannot be deleted, the error names the prefix of their emails. Never
//! touches anything that the run did not create. The password is random, the same for all users of a run, and
//! never shown.

mod delete;
mod prepare;

use std::{
    fs::File,
    io::Read as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

pub use prepare::PreparedAccounts;

use crate::{
    client::{CallError, Client},
    clock::Clock,
    target::Target,
};

/// Calls at the same time. A node hashes few passwords at once and has a short queue for them.
const CONCURRENT_CALLS_MAX: usize = 6;

/// The accounts that a run needs.
#[derive(Debug, Clone)]
pub struct AccountsPlan {
    /// Users and their sessions and tokens.
    pub counts: AccountCounts,
    /// Sessions that are ended before the run begins.
    pub revoked: usize,
    /// Sessions whose tokens expire before the run begins, if they are short-lived.
    pub expired: usize,
    /// Whether the run checks permissions.
    pub permissions: bool,
    /// The administrator who creates and grants permissions; `None`: there are none.
    pub admin: Option<Admin>,
}

/// How many users, sessions and tokens a run has.
#[derive(Debug, Clone, Copy)]
pub struct AccountCounts {
    /// Users.
    pub users: usize,
    /// Log-ins of each user.
    pub sessions: usize,
    /// Access tokens of each session: the first by the log-in, the others by refreshes.
    pub tokens: usize,
}

/// The credentials of an administrator.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Admin {
    pub email: String,
    pub password: String,
}

/// The users of a run, and what else it created.
pub struct TestAccounts {
    clock: Clock,
    targets: Vec<Target>,
    prefix: String,
    /// The password of all users.
    pub password: String,
    stop: Arc<AtomicBool>,
    created: Mutex<Vec<CreatedUser>>,
    permissions: Mutex<Vec<String>>,
    admin: Mutex<Option<Admin>>,
    /// The largest number of other nodes that a revocation has reported.
    largest: AtomicU32,
}

#[derive(Clone)]
struct CreatedUser {
    email: String,
    token: Option<Box<str>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bytes of the system, as hexadecimal digits.
pub fn secret(bytes: usize) -> std::io::Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl TestAccounts {
    /// No users yet. When `stop` is set, creating them ends early.
    pub fn new(clock: Clock, targets: Vec<Target>, stop: Arc<AtomicBool>) -> std::io::Result<Self> {
        Ok(Self {
            clock,
            targets,
            prefix: format!("loadtest-{}", secret(5)?),
            password: format!("Lt-{}", secret(16)?),
            stop,
            created: Mutex::new(Vec::new()),
            permissions: Mutex::new(Vec::new()),
            admin: Mutex::new(None),
            largest: AtomicU32::new(0),
        })
    }

    /// The prefix of the users' emails and of the permissions' names.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn email(&self, n: usize) -> String {
        format!("{}-{n}@loadtest.invalid", self.prefix)
    }

    fn client(&self, n: usize) -> Client {
        Client::new(self.targets[n % self.targets.len()].clone())
    }

    fn clients(&self) -> Vec<Client> {
        (0..self.targets.len()).map(|at| self.client(at)).collect()
    }

    /// Calls `each` for every number below `count`, a few at the same time, on all targets in turn. The first
    /// error ends it.
    fn for_each<T: Send>(
        &self,
        count: usize,
        each: impl Fn(&mut Client, usize) -> Result<T, CallError> + Sync,
    ) -> Result<Vec<T>, CallError> {
        let next = AtomicUsize::new(0);
        let has_failed = AtomicBool::new(false);
        let work = || {
            let mut clients = self.clients();
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= count || has_failed.load(Relaxed) || self.stop.load(Relaxed) {
                    return Ok(done);
                }
                let at = n % clients.len();
                match each(&mut clients[at], n) {
                    Ok(one) => done.push((n, one)),
                    Err(error) => {
                        has_failed.store(true, Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let work = &work;
        let parts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONCURRENT_CALLS_MAX.min(count)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        let mut all = Vec::new();
        for part in parts {
            match part {
                Ok(part) => all.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all.sort_by_key(|(n, _)| *n);
        Ok(all.into_iter().map(|(_, one)| one).collect())
    }
}
