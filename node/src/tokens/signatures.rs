//! Checking signatures: on threads of a low priority, behind a bounded queue.
//!
//! A signature takes some 50 µs of a core, twenty times what the answer to a token that was seen before takes.
//! Anybody can send tokens that were never signed. Under full load these threads get a tenth of a core's
//! time each, so a flood of forged tokens costs good ones no more than that; and there is a bound on what may
//! wait.

use std::{io, sync::Arc};

use jsonwebtoken::crypto;
use schema::{
    KeyId, Refusal,
    token::{Algorithm, Unverified},
};
use tokio::sync::oneshot;

use crate::{
    keys::{KeyRing, Verifier, jws_algorithm},
    workers::Workers,
};

/// How many signatures may wait: a tenth of a second's work for one core.
const QUEUE: usize = 2_048;
/// Weight 110 against the runtime's 1,024.
const NICENESS: i32 = 10;

struct Check {
    token: Box<str>,
    key: KeyId,
    algorithm: Algorithm,
    reply: oneshot::Sender<bool>,
}

/// Checks signatures of tokens.
pub struct Signatures {
    workers: Workers<Check>,
}

impl Signatures {
    /// With the keys of this ring.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(ring: &Arc<KeyRing>) -> io::Result<Self> {
        let workers = Workers::start("signature", NICENESS, QUEUE, || {
            let ring = ring.clone();
            move |check: Check| {
                // Who asked may be gone.
                if !check.reply.is_closed() {
                    let good = is_good(&ring, &check);
                    let _ = check.reply.send(good);
                }
            }
        })?;
        Ok(Self { workers })
    }

    /// Goes on when the token was signed with the key that it names.
    ///
    /// # Errors
    /// `SignatureFailed`, or `Busy` when too many wait.
    pub async fn check(&self, token: &Unverified<'_>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let (key, algorithm) = (token.key(), token.algorithm());
        let check = Check { token: token.text().into(), key, algorithm, reply };
        self.workers.send(check).map_err(|_| Refusal::Busy)?;
        if answer.await.map_err(|_| Refusal::Busy)? { Ok(()) } else { Err(Refusal::SignatureFailed) }
    }

    /// How many tokens wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.workers.waiting()
    }
}

fn is_good(ring: &KeyRing, check: &Check) -> bool {
    let Some((message, signature)) = check.token.rsplit_once('.') else { return false };
    let verify = |key: &Verifier| {
        // The key says which algorithm is used with it, never the token.
        key.algorithm == check.algorithm
            && crypto::verify(signature, message.as_bytes(), &key.key, jws_algorithm(key.algorithm))
                .unwrap_or(false)
    };
    ring.with_verifier(check.key, verify) == Some(true)
}
