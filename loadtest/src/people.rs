//! Users that belong to a run: made before it, deleted after it, whatever happened.
//!
//! Promises: every user that was made is deleted, which ends all their sessions: also after an error, a
//! panic of a thread, and Ctrl-C. What could not be deleted is told by a prefix that finds it. Nothing that
//! the run did not make is touched. The password is random, the same for all of a run, and never shown.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

use serde_json::json;

use crate::{
    client::{CallError, Client, Reply},
    clock::{Clock, Nanos, SECOND},
    crowd::{Dead, MARGIN, Permissions, Refused, Seeds, Session, State, Token, User, pair_of},
    random::Random,
    target::Target,
};

/// Calls at a time: a node has a short queue for passwords.
const AT_ONCE: usize = 6;
/// Deleting takes no longer: who is left then is told.
const REMOVING: Nanos = 180 * SECOND;
/// The clocks of nodes on other machines may differ by so much.
const SKEW: Nanos = 61 * SECOND;
/// Expired tokens are waited for when they live no longer.
const SHORT: Nanos = 60 * SECOND;

/// Who is to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Users.
    pub users: usize,
    /// Log-ins of each.
    pub sessions: usize,
    /// Access tokens of each session, the further ones by refreshing.
    pub tokens: usize,
    /// Sessions that are ended before the run begins.
    pub revoked: usize,
    /// Sessions whose tokens are waited for until they have expired, if that is soon.
    pub expired: usize,
    /// Permissions to check: by whom they may be made, if by anybody.
    pub permissions: bool,
    /// Email and password of an administrator.
    pub admin: Option<(String, String)>,
}

/// The users of a run.
pub struct People {
    clock: Clock,
    targets: Vec<Target>,
    prefix: String,
    /// Of all of them.
    pub password: String,
    stop: Arc<AtomicBool>,
    made: Mutex<Vec<Made>>,
    permissions: Mutex<Vec<String>>,
    admin: Mutex<Option<(String, String)>>,
    /// The most nodes that a revocation was visible to.
    largest: AtomicU32,
}

#[derive(Clone)]
struct Made {
    email: String,
    token: Option<Box<str>>,
}

/// What is there before the run.
pub struct Ready {
    /// To be shared out among threads.
    pub users: Vec<(User, Vec<Session>)>,
    /// Revoked.
    pub dead: Vec<Dead>,
    /// Expired.
    pub expired: Vec<Box<str>>,
    /// What checks are about.
    pub permissions: Permissions,
    /// What is to be said about it.
    pub notes: Vec<String>,
    /// How many other nodes there were, as far as revocations told.
    pub largest: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bytes of the system, as hexadecimal digits.
pub fn secret(bytes: usize) -> std::io::Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl People {
    /// Nobody yet. `stop`: gives up making them.
    pub fn new(clock: Clock, targets: Vec<Target>, stop: Arc<AtomicBool>) -> std::io::Result<Self> {
        Ok(Self {
            clock,
            targets,
            prefix: format!("loadtest-{}", secret(5)?),
            password: format!("Lt-{}", secret(16)?),
            stop,
            made: Mutex::new(Vec::new()),
            permissions: Mutex::new(Vec::new()),
            admin: Mutex::new(None),
            largest: AtomicU32::new(0),
        })
    }

    /// What their emails and permissions begin with.
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

    /// Makes them. Whatever was made before an error is deleted by [`People::remove`].
    pub fn make(&self, wanted: &Wanted, seed: u64) -> Result<Ready, CallError> {
        let mut notes = Vec::new();
        let mut permissions = Permissions::new(&self.prefix, &mut Random::new(seed));
        let admin = match (&wanted.admin, wanted.permissions) {
            (Some((email, password)), true) => Some(self.administrate(email, password, &permissions)?),
            (None, true) => {
                notes.push(
                    "without --admin-email no permission can be made: queries ask about names that nobody has, \
                     so a `true` would be wrong, and nothing is said about permissions that are held"
                        .into(),
                );
                None
            }
            _ => None,
        };
        let (sure, life) = (AtomicBool::new(true), Mutex::new(0));
        let users = self.many(wanted.users, |client, n| {
            let mut random = Random::new(seed ^ (n as u64 + 1));
            let granted = admin.as_ref().map(|admin| (admin.as_str(), &permissions.names[..]));
            let (user, sessions) = self.one(client, n, wanted, granted, &mut random, &sure)?;
            let newest = sessions.iter().filter_map(|session| session.tokens.last());
            let most = newest.map(|token| token.until.saturating_sub(self.clock.now())).max();
            *lock(&life) = most.unwrap_or(0);
            Ok((user, sessions))
        })?;
        permissions.sure = sure.load(Relaxed);
        if admin.is_some() && !permissions.sure {
            notes.push(
                "not every node knew at once what was permitted: a wrong `valid` counts as an error only"
                    .into(),
            );
        }
        let dead = self.many(wanted.revoked, |client, n| {
            let target = n % self.targets.len();
            let session = self.log_in(client, n % wanted.users.max(1), wanted.tokens)?;
            let Some(token) = session.tokens.last() else { return Ok(Vec::new()) };
            let reply = client.api(("DELETE", "auth_token"), Some(&token.text), None, &[204])?;
            let refused = Refused::by(reply.visible, target, self.targets.len(), &self.largest);
            Ok(session.tokens.into_iter().map(|token| Dead { text: token.text, refused }).collect())
        })?;
        let life = *lock(&life);
        if life < 2 * MARGIN {
            notes.push(format!(
                "an access token lives less than {} s: it is shown as good until {} s before its end only, so \
                 little may be asked",
                life / SECOND + 1,
                MARGIN / SECOND
            ));
        }
        let mut expired = Vec::new();
        if wanted.expired > 0 && life > SHORT {
            notes.push(format!(
                "expired tokens are left out: an access token lives {} s (ACCESS_TTL of 60s or less makes them)",
                life / SECOND + 1
            ));
        } else if wanted.expired > 0 {
            expired = self.many(wanted.expired, |client, n| {
                let session = self.log_in(client, n % wanted.users.max(1), 1)?;
                Ok(session.tokens)
            })?;
            notes.push("waited for tokens to expire".into());
        }
        let expired: Vec<Token> = expired.into_iter().flatten().collect();
        let is_here = self.targets.iter().all(|target| target.address.ip().is_loopback());
        let skew = if is_here { SECOND } else { SKEW };
        let end = expired.iter().map(|token| token.until).max().unwrap_or(0) + skew;
        while !expired.is_empty() && self.clock.now() < end && !self.stop.load(Relaxed) {
            crate::client::pause();
        }
        Ok(Ready {
            users,
            dead: dead.into_iter().flatten().collect(),
            expired: expired.into_iter().map(|token| token.text).collect(),
            permissions,
            notes,
            largest: self.largest.load(Relaxed),
        })
    }

    fn administrate(
        &self,
        email: &str,
        password: &str,
        permissions: &Permissions,
    ) -> Result<String, CallError> {
        let mut client = self.client(0);
        let body = json!({"email": email, "password": password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200])?;
        let token =
            reply.body.get("access_token").and_then(|token| token.as_str()).unwrap_or_default().to_owned();
        *lock(&self.admin) = Some((email.to_owned(), password.to_owned()));
        for name in &permissions.names {
            lock(&self.permissions).push(name.clone());
            let body = json!({"name": name, "description": "made by palisade-loadtest"});
            client.api(("POST", "permissions"), Some(&token), Some(&body), &[201])?;
        }
        Ok(token)
    }

    fn one(
        &self,
        client: &mut Client,
        n: usize,
        wanted: &Wanted,
        granted: Option<(&str, &[String])>,
        random: &mut Random,
        sure: &AtomicBool,
    ) -> Result<(User, Vec<Session>), CallError> {
        let email = self.email(n);
        let body =
            json!({"email": email, "password": self.password, "first_name": "Load", "last_name": "Test"});
        // Told before it is known whether it was made: an answer may be lost.
        lock(&self.made).push(Made { email: email.clone(), token: None });
        let reply = client.api(("POST", "users"), None, Some(&body), &[201])?;
        let uuid = reply.body.get("uuid").and_then(|uuid| uuid.as_str()).unwrap_or_default().to_owned();
        let mut held = 0;
        if let Some((admin, names)) = granted {
            for (bit, name) in names.iter().enumerate() {
                if random.below(2) == 0 {
                    continue;
                }
                held |= 1 << bit;
                let path = format!("users/{uuid}/permissions");
                let reply = client.api(("POST", &path), Some(admin), Some(&json!({"name": name})), &[200])?;
                if reply.visible.is_some_and(|(k, n)| k != n) {
                    sure.store(false, Relaxed);
                }
            }
        }
        let mut sessions = Vec::new();
        for _ in 0..wanted.sessions {
            let mut session = self.log_in(client, n, wanted.tokens)?;
            session.user = u32::try_from(n).unwrap_or(0);
            sessions.push(session);
        }
        let token =
            sessions.first().and_then(|session| session.tokens.last()).map(|token| token.text.clone());
        if let Some(made) = lock(&self.made).iter_mut().find(|made| made.email == email) {
            made.token = token;
        }
        Ok((User { email, permissions: held }, sessions))
    }

    fn log_in(&self, client: &mut Client, n: usize, tokens: usize) -> Result<Session, CallError> {
        let body = json!({"email": self.email(n), "password": self.password, "device": "loadtest"});
        let sent = self.clock.now();
        let what = ("POST", "auth_token");
        let (access, mut refresh, life) = self.pair(what, &client.api(what, None, Some(&body), &[200])?)?;
        let mut all = vec![Token { text: access, until: sent + life }];
        while all.len() < tokens {
            let sent = self.clock.now();
            let what = ("POST", "auth_token/token_refresh");
            let (access, next, life) = self.pair(what, &client.api(what, Some(&refresh), None, &[200])?)?;
            all.push(Token { text: access, until: sent + life });
            refresh = next;
        }
        Ok(Session { user: 0, tokens: all, refresh: Some(refresh), state: State::Alive, epoch: 0 })
    }

    fn pair(&self, what: (&str, &str), reply: &Reply) -> Result<(Box<str>, Box<str>, Nanos), CallError> {
        pair_of(&reply.body).ok_or_else(|| CallError::Refused {
            what: format!("{} {}", what.0, what.1),
            status: reply.status,
            said: "200 without a token pair: is this Palisade?".into(),
        })
    }

    /// Does something so often, a few at a time, on all targets in turn; the first error ends it.
    fn many<T: Send>(
        &self,
        count: usize,
        each: impl Fn(&mut Client, usize) -> Result<T, CallError> + Sync,
    ) -> Result<Vec<T>, CallError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut clients: Vec<Client> = (0..self.targets.len()).map(|at| self.client(at)).collect();
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, Relaxed);
                if n >= count || failed.load(Relaxed) || self.stop.load(Relaxed) {
                    return Ok(done);
                }
                let at = n % clients.len();
                match each(&mut clients[at], n) {
                    Ok(one) => done.push((n, one)),
                    Err(error) => {
                        failed.store(true, Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let work = &work;
        let parts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE.min(count)).map(|_| scope.spawn(work)).collect();
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

    /// Deletes all of them; says what is left.
    pub fn remove(&self) -> Result<usize, String> {
        let made = std::mem::take(&mut *lock(&self.made));
        let count = made.len();
        let queue = Mutex::new(VecDeque::from(made));
        let end = self.clock.now() + REMOVING;
        let (left, why) = (AtomicUsize::new(0), Mutex::new(String::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(count) {
                scope.spawn(|| {
                    let mut clients: Vec<Client> =
                        (0..self.targets.len()).map(|at| self.client(at)).collect();
                    loop {
                        let Some(made) = lock(&queue).pop_front() else { return };
                        if self.clock.now() > end {
                            left.fetch_add(1, Relaxed);
                            continue;
                        }
                        // A node may be down; another one will do.
                        let tried = clients.iter_mut().map(|client| self.remove_one(client, &made));
                        let mut last = None;
                        for result in tried {
                            last = result.err();
                            if last.is_none() {
                                break;
                            }
                        }
                        if let Some(error) = last {
                            left.fetch_add(1, Relaxed);
                            *lock(&why) = error.to_string();
                        }
                    }
                });
            }
        });
        let permissions = self.remove_permissions();
        match (left.load(Relaxed), permissions) {
            (0, Ok(())) => Ok(count),
            (0, Err(error)) => {
                Err(format!("permissions that begin with `{}` are left: {error}", self.prefix))
            }
            (left, _) => Err(format!(
                "{left} of {count} users are left, their emails begin with `{}`: {}",
                self.prefix,
                lock(&why)
            )),
        }
    }

    fn remove_one(&self, client: &mut Client, made: &Made) -> Result<(), CallError> {
        if let Some(token) = &made.token {
            let reply = client.api(("DELETE", "users/me"), Some(token), None, &[204, 401, 404])?;
            if reply.status != 401 {
                return Ok(());
            }
        }
        let body = json!({"email": made.email, "password": self.password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200, 401])?;
        // Nobody by that name: it was never made, or is deleted already.
        let Some((token, ..)) = pair_of(&reply.body) else { return Ok(()) };
        client.api(("DELETE", "users/me"), Some(&token), None, &[204]).map(drop)
    }

    fn remove_permissions(&self) -> Result<(), CallError> {
        let names = std::mem::take(&mut *lock(&self.permissions));
        let Some((email, password)) = lock(&self.admin).take() else { return Ok(()) };
        let mut client = self.client(0);
        let body = json!({"email": email, "password": password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200])?;
        let Some((token, ..)) = pair_of(&reply.body) else { return Ok(()) };
        for name in names {
            client.api(("DELETE", &format!("permissions/{name}")), Some(&token), None, &[204, 404])?;
        }
        client.api(("DELETE", "auth_token"), Some(&token), None, &[204]).map(drop)
    }
}

impl Ready {
    /// Shared out among so many threads.
    #[must_use]
    pub fn share_out(self, threads: usize) -> Vec<Seeds> {
        let mut seeds: Vec<Seeds> = (0..threads).map(|_| Seeds::default()).collect();
        let mut next = 0;
        for (user, sessions) in self.users {
            let mut places = vec![None; threads];
            for mut session in sessions {
                let seed = &mut seeds[next];
                let place = *places[next].get_or_insert_with(|| {
                    seed.users.push(user.clone());
                    u32::try_from(seed.users.len() - 1).unwrap_or(0)
                });
                session.user = place;
                seed.sessions.push(session);
                next = (next + 1) % threads;
            }
        }
        for (thread, seed) in seeds.iter_mut().enumerate() {
            seed.place = (thread, threads);
            seed.dead.clone_from(&self.dead);
            seed.expired.clone_from(&self.expired);
        }
        seeds
    }
}
