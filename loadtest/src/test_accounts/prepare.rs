//! Creates the users of a run, with their permissions, sessions and tokens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde_json::json;

use super::{AccountsPlan, Admin, CreatedUser, TestAccounts, lock};
use crate::{
    client::{CallError, Client, Reply},
    clock::{Nanos, SECOND},
    random::{Part, Random},
    session_pool::{
        Permissions, PoolShare, RefusedAt, RevokedToken, Session, State, TOKEN_MARGIN, Token, TokenPair, User,
    },
};

/// How far the clocks of nodes on other machines may differ.
const CLOCK_SKEW_MAX: Nanos = 61 * SECOND;
/// The longest lifetime of a token whose expiry is waited for.
const SHORT_LIFETIME_MAX: Nanos = 60 * SECOND;

/// The accounts as they are when the run begins.
pub struct PreparedAccounts {
    /// Users and their sessions, to be divided among the threads.
    pub users: Vec<(User, Vec<Session>)>,
    /// Revoked tokens.
    pub revoked: Vec<RevokedToken>,
    /// Expired tokens.
    pub expired: Vec<Box<str>>,
    /// The permissions that checks ask about.
    pub permissions: Permissions,
    /// Remarks for the user.
    pub notes: Vec<String>,
    /// The largest number of other nodes that a revocation has reported.
    pub largest: u32,
}

/// An administrator's access token, and the permissions to grant.
#[derive(Clone, Copy)]
struct Granting<'a> {
    admin_token: &'a str,
    names: &'a [String],
    /// Cleared if a node has not acknowledged a grant.
    is_acknowledged: &'a AtomicBool,
}

impl TestAccounts {
    /// Creates the accounts. After an error, [`TestAccounts::delete`] deletes those that exist.
    pub fn prepare(&self, plan: &AccountsPlan, seed: u64) -> Result<PreparedAccounts, CallError> {
        let mut notes = Vec::new();
        let mut permissions = Permissions::new(&self.prefix, &mut Random::new(seed));
        let admin_token = self.prepare_permissions(plan, &permissions, &mut notes)?;
        let is_acknowledged = AtomicBool::new(true);
        let granting = admin_token.as_deref().map(|admin_token| Granting {
            admin_token,
            names: &permissions.names,
            is_acknowledged: &is_acknowledged,
        });
        let lifetime = AtomicU64::new(0);
        let users = self.for_each(plan.counts.users, |client, n| {
            let mut random = Random::new(seed ^ (n as u64 + 1));
            let (user, sessions) = self.create_user(client, n, plan, granting, &mut random)?;
            let newest = sessions.iter().filter_map(|session| session.tokens.last());
            let longest = newest.map(|token| token.until.saturating_sub(self.clock.now())).max();
            lifetime.store(longest.unwrap_or(0), Relaxed);
            Ok((user, sessions))
        })?;
        permissions.is_acknowledged = is_acknowledged.load(Relaxed);
        if admin_token.is_some() && !permissions.is_acknowledged {
            notes.push(
                "some node did not acknowledge the granted permissions in time: a wrong `valid` counts as an error \
                 only"
                    .into(),
            );
        }
        let revoked = self.revoke_sessions(plan)?;
        let lifetime = lifetime.load(Relaxed);
        if lifetime < 2 * TOKEN_MARGIN {
            notes.push(format!(
                "an access token lives less than {} s and is not used in its last {} s, so few requests are possible",
                lifetime / SECOND + 1,
                TOKEN_MARGIN / SECOND
            ));
        }
        let expired = self.expired_tokens(plan, lifetime, &mut notes)?;
        Ok(PreparedAccounts {
            users,
            revoked,
            expired,
            permissions,
            notes,
            largest: self.largest.load(Relaxed),
        })
    }

    /// Creates the permissions if the run checks any; the administrator's access token.
    fn prepare_permissions(
        &self,
        plan: &AccountsPlan,
        permissions: &Permissions,
        notes: &mut Vec<String>,
    ) -> Result<Option<String>, CallError> {
        match &plan.admin {
            Some(admin) if plan.permissions => self.create_permissions(admin, permissions).map(Some),
            None if plan.permissions => {
                notes.push(
                    "without --admin-email no permissions are created: queries name permissions that no user has. \
                     `true` is a wrong answer, and permissions that a user has are not tested"
                        .into(),
                );
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn create_permissions(&self, admin: &Admin, permissions: &Permissions) -> Result<String, CallError> {
        let mut client = self.client(0);
        let body = json!({"email": admin.email, "password": admin.password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200])?;
        let token = reply.body.get("access_token").and_then(|token| token.as_str()).unwrap_or_default();
        *lock(&self.admin) = Some(admin.clone());
        for name in &permissions.names {
            lock(&self.permissions).push(name.clone());
            let body = json!({"name": name, "description": "made by palisade-loadtest"});
            client.api(("POST", "permissions"), Some(token), Some(&body), &[201])?;
        }
        Ok(token.to_owned())
    }

    fn create_user(
        &self,
        client: &mut Client,
        n: usize,
        plan: &AccountsPlan,
        granting: Option<Granting<'_>>,
        random: &mut Random,
    ) -> Result<(User, Vec<Session>), CallError> {
        let email = self.email(n);
        let body =
            json!({"email": email, "password": self.password, "first_name": "Load", "last_name": "Test"});
        // Recorded before the call: the answer may be lost.
        lock(&self.created).push(CreatedUser { email: email.clone(), token: None });
        let reply = client.api(("POST", "users"), None, Some(&body), &[201])?;
        let uuid = reply.body.get("uuid").and_then(|uuid| uuid.as_str()).unwrap_or_default();
        let permissions = match granting {
            Some(granting) => grant_half(client, uuid, granting, random)?,
            None => 0,
        };
        let mut sessions = Vec::new();
        for _ in 0..plan.counts.sessions {
            let mut session = self.log_in(client, n, plan.counts.tokens)?;
            session.user = u32::try_from(n).unwrap_or(0);
            sessions.push(session);
        }
        let token =
            sessions.first().and_then(|session| session.tokens.last()).map(|token| token.text.clone());
        if let Some(created) = lock(&self.created).iter_mut().find(|created| created.email == email) {
            created.token = token;
        }
        Ok((User { email, permissions }, sessions))
    }

    fn log_in(&self, client: &mut Client, n: usize, tokens: usize) -> Result<Session, CallError> {
        let body = json!({"email": self.email(n), "password": self.password, "device": "loadtest"});
        let sent = self.clock.now();
        let call = ("POST", "auth_token");
        let pair = token_pair(call, &client.api(call, None, Some(&body), &[200])?)?;
        let mut refresh = pair.refresh;
        let mut all = vec![Token { text: pair.access, until: sent + pair.lifetime }];
        while all.len() < tokens {
            let sent = self.clock.now();
            let call = ("POST", "auth_token/token_refresh");
            let pair = token_pair(call, &client.api(call, Some(&refresh), None, &[200])?)?;
            all.push(Token { text: pair.access, until: sent + pair.lifetime });
            refresh = pair.refresh;
        }
        Ok(Session { user: 0, tokens: all, refresh: Some(refresh), state: State::Alive, epoch: 0 })
    }

    fn revoke_sessions(&self, plan: &AccountsPlan) -> Result<Vec<RevokedToken>, CallError> {
        let revoked = self.for_each(plan.revoked, |client, n| {
            let target = n % self.targets.len();
            let session = self.log_in(client, n % plan.counts.users.max(1), plan.counts.tokens)?;
            let Some(token) = session.tokens.last() else { return Ok(Vec::new()) };
            let reply = client.api(("DELETE", "auth_token"), Some(&token.text), None, &[204])?;
            let refused = RefusedAt::from_visible(reply.visible, target, self.targets.len(), &self.largest);
            Ok(session.tokens.into_iter().map(|token| RevokedToken { text: token.text, refused }).collect())
        })?;
        Ok(revoked.into_iter().flatten().collect())
    }

    /// Logs in, and waits until the tokens have expired. None if tokens live too long.
    fn expired_tokens(
        &self,
        plan: &AccountsPlan,
        lifetime: Nanos,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Box<str>>, CallError> {
        if plan.expired == 0 {
            return Ok(Vec::new());
        }
        if lifetime > SHORT_LIFETIME_MAX {
            notes.push(format!(
                "no requests with expired tokens: an access token lives {} s (they need an ACCESS_TTL of 60s or less)",
                lifetime / SECOND + 1
            ));
            return Ok(Vec::new());
        }
        let tokens = self.for_each(plan.expired, |client, n| {
            Ok(self.log_in(client, n % plan.counts.users.max(1), 1)?.tokens)
        })?;
        notes.push("waited for tokens to expire".into());
        let tokens: Vec<Token> = tokens.into_iter().flatten().collect();
        let is_here = self.targets.iter().all(|target| target.address.ip().is_loopback());
        let skew = if is_here { SECOND } else { CLOCK_SKEW_MAX };
        let end = tokens.iter().map(|token| token.until).max().map_or(0, |last| last + skew);
        while self.clock.now() < end && !self.stop.load(Relaxed) {
            crate::client::pause();
        }
        Ok(tokens.into_iter().map(|token| token.text).collect())
    }
}

/// Grants each permission with a probability of one half; the bits of those that were granted.
fn grant_half(
    client: &mut Client,
    uuid: &str,
    granting: Granting<'_>,
    random: &mut Random,
) -> Result<u32, CallError> {
    let mut granted = 0;
    for (bit, name) in granting.names.iter().enumerate() {
        if random.below(2) == 0 {
            continue;
        }
        granted |= 1 << bit;
        let path = format!("users/{uuid}/permissions");
        let body = json!({"name": name});
        let reply = client.api(("POST", &path), Some(granting.admin_token), Some(&body), &[200])?;
        if reply.visible.is_some_and(|visible| !visible.is_everywhere()) {
            granting.is_acknowledged.store(false, Relaxed);
        }
    }
    Ok(granted)
}

fn token_pair((method, path): (&str, &str), reply: &Reply) -> Result<TokenPair, CallError> {
    TokenPair::from_body(&reply.body).ok_or_else(|| CallError::Refused {
        what: format!("{method} {path}"),
        status: reply.status,
        answer: "200 without a token pair: is this Palisade?".into(),
    })
}

impl PreparedAccounts {
    /// Divides the accounts among the threads.
    #[must_use]
    pub fn divide(self, threads: usize) -> Vec<PoolShare> {
        let mut shares: Vec<PoolShare> = (0..threads)
            .map(|index| PoolShare {
                part: Part { index, count: threads },
                revoked: self.revoked.clone(),
                expired: self.expired.clone(),
                ..PoolShare::default()
            })
            .collect();
        let mut next = 0;
        for (user, sessions) in self.users {
            // The index of the user in each share, once it is there.
            let mut indexes = vec![None; threads];
            for mut session in sessions {
                let share = &mut shares[next];
                session.user = *indexes[next].get_or_insert_with(|| {
                    share.users.push(user.clone());
                    u32::try_from(share.users.len() - 1).unwrap_or(0)
                });
                share.sessions.push(session);
                next = (next + 1) % threads;
            }
        }
        shares
    }
}
