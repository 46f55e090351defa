//! Deletes the users and permissions of a run.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use serde_json::json;

use super::{CONCURRENT_CALLS_MAX, CreatedUser, TestAccounts, lock};
use crate::{
    client::{CallError, Client},
    clock::{Nanos, SECOND},
    session_pool::TokenPair,
};

/// How long deleting may take. Users that are left then are reported.
const DELETE_TIMEOUT: Nanos = 180 * SECOND;

impl TestAccounts {
    /// Deletes all users and permissions of the run: the number of users, or a message about what is left.
    pub fn delete(&self) -> Result<usize, String> {
        let created = std::mem::take(&mut *lock(&self.created));
        let count = created.len();
        let queue = Mutex::new(VecDeque::from(created));
        let end = self.clock.now() + DELETE_TIMEOUT;
        let remaining = AtomicUsize::new(0);
        let last_error = Mutex::new(String::new());
        let work = || {
            let mut clients = self.clients();
            while let Some(user) = pop(&queue) {
                if self.clock.now() > end {
                    remaining.fetch_add(1, Relaxed);
                } else if let Err(error) = self.delete_user(&mut clients, &user) {
                    remaining.fetch_add(1, Relaxed);
                    *lock(&last_error) = error.to_string();
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..CONCURRENT_CALLS_MAX.min(count) {
                scope.spawn(work);
            }
        });
        let permissions = self.delete_permissions();
        match (remaining.load(Relaxed), permissions) {
            (0, Ok(())) => Ok(count),
            (0, Err(error)) => {
                Err(format!("permissions that begin with `{}` are left: {error}", self.prefix))
            }
            (remaining, _) => Err(format!(
                "{remaining} of {count} users are left, their emails begin with `{}`: {}",
                self.prefix,
                lock(&last_error)
            )),
        }
    }

    /// Deletes a user at the first node that can: some may be down.
    fn delete_user(&self, clients: &mut [Client], user: &CreatedUser) -> Result<(), CallError> {
        let mut last = Ok(());
        for client in clients {
            last = self.delete_user_at(client, user);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn delete_user_at(&self, client: &mut Client, user: &CreatedUser) -> Result<(), CallError> {
        if let Some(token) = &user.token {
            let reply = client.api(("DELETE", "users/me"), Some(token), None, &[204, 401, 404])?;
            if reply.status != 401 {
                return Ok(());
            }
        }
        let body = json!({"email": user.email, "password": self.password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200, 401])?;
        // Without a pair there is no such user: it was never created, or is deleted already.
        let Some(pair) = TokenPair::from_body(&reply.body) else { return Ok(()) };
        client.api(("DELETE", "users/me"), Some(&pair.access), None, &[204]).map(drop)
    }

    fn delete_permissions(&self) -> Result<(), CallError> {
        let names = std::mem::take(&mut *lock(&self.permissions));
        let Some(admin) = lock(&self.admin).take() else { return Ok(()) };
        let mut client = self.client(0);
        let body = json!({"email": admin.email, "password": admin.password, "device": "loadtest"});
        let reply = client.api(("POST", "auth_token"), None, Some(&body), &[200])?;
        let Some(pair) = TokenPair::from_body(&reply.body) else { return Ok(()) };
        for name in names {
            client.api(("DELETE", &format!("permissions/{name}")), Some(&pair.access), None, &[204, 404])?;
        }
        client.api(("DELETE", "auth_token"), Some(&pair.access), None, &[204]).map(drop)
    }
}

fn pop(queue: &Mutex<VecDeque<CreatedUser>>) -> Option<CreatedUser> {
    lock(queue).pop_front()
}
