//! Tokens: good ones with their expiry, revoked ones with the targets that must refuse them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::{
    answer::{Answer, Visible},
    clock::{Nanos, nanos},
};

/// An access token.
#[derive(Clone)]
pub struct Token {
    /// The token as it is sent.
    pub text: Box<str>,
    /// When it expires.
    pub until: Nanos,
}

/// The tokens that a log-in or a refresh returns.
pub struct TokenPair {
    /// The access token.
    pub access: Box<str>,
    /// The refresh token.
    pub refresh: Box<str>,
    /// How long the access token is valid.
    pub lifetime: Nanos,
}

impl TokenPair {
    /// The pair in an answer; `None` if there is none.
    pub fn of(answer: &Answer<'_>) -> Option<Self> {
        Self::from_body(&answer.json()?)
    }

    /// The pair in the body of an answer; `None` if there is none.
    pub fn from_body(body: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| body.get(name)?.as_str().map(Box::<str>::from);
        let lifetime = std::time::Duration::from_secs(body.get("expires_in")?.as_u64()?);
        Some(Self {
            access: text("access_token")?,
            refresh: text("refresh_token")?,
            lifetime: nanos(lifetime),
        })
    }
}

/// Which targets must refuse a revoked token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedAt {
    /// All targets.
    Everywhere,
    /// Only the target at this index.
    Target(usize),
    /// No target is known to.
    Unknown,
}

impl RefusedAt {
    /// What the answer of a revoking call at `target` promises. `targets` is the number of targets: a single
    /// one may be a proxy before several nodes, while each of several is a node. `largest` is the largest n of
    /// the run so far, and is updated.
    #[must_use]
    pub fn from_visible(
        visible: Option<Visible>,
        target: usize,
        targets: usize,
        largest: &AtomicU32,
    ) -> Self {
        let largest = visible.map_or(0, |visible| largest.fetch_max(visible.nodes, Relaxed));
        let others = u32::try_from(targets).unwrap_or(u32::MAX) - 1;
        match visible {
            // A node that was not counted as live at that moment promises nothing.
            Some(visible) if visible.is_everywhere() && visible.nodes >= others.max(largest) => {
                Self::Everywhere
            }
            _ if targets > 1 => Self::Target(target),
            _ => Self::Unknown,
        }
    }

    /// Whether this target must refuse the token.
    #[must_use]
    pub fn includes(self, target: usize) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Target(place) => place == target,
            Self::Unknown => false,
        }
    }
}

/// A revoked token.
#[derive(Clone)]
pub struct RevokedToken {
    /// The token as it is sent.
    pub text: Box<str>,
    /// Which targets must refuse it.
    pub refused: RefusedAt,
}
