//! The subjects of limits: their keys in counters, and how operators name and see them.

use std::{fmt, net::IpAddr};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use schema::{
    Network,
    email::{Email, FoldedEmail},
    place::{AccountKey, Place},
};
use serde::{Deserialize, Serialize};

/// The subject of a limit, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// Log-ins of an account.
    Account {
        /// The typed text if it is an email; otherwise `#` and the digest, because users sometimes type a password
        /// into the email field.
        account: String,
        /// The digest of the email, which is part of the counter's key.
        digest: String,
        /// Whether the limit is for known places or for all others.
        from: Origin,
    },
    /// Log-ins from an address.
    Address {
        /// An IPv4 address, or an IPv6 network of 64 bits.
        address: String,
    },
    /// Registrations from an address.
    Registration {
        /// An IPv4 address, or an IPv6 network of 64 bits.
        address: String,
    },
}

/// The kind of place that attempts to log in to an account come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A place from which the owner has recently logged in.
    Known,
    /// Any other place.
    Elsewhere,
}

impl Subject {
    /// The counter's key, whose length does not depend on the typed email.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Account { digest, from: Origin::Elsewhere, .. } => format!("login account {digest}"),
            Self::Account { digest, from: Origin::Known, .. } => format!("login account {digest} known"),
            Self::Address { address } => format!("login address {address}"),
            Self::Registration { address } => format!("register address {address}"),
        }
    }
}

/// The text under which an address is counted.
pub(super) fn counted(address: IpAddr) -> String {
    Network::from(address).to_string()
}

/// The account of a log-in attempt, whether or not it exists.
pub(super) struct Account<'a> {
    pub(super) email: &'a FoldedEmail,
    pub(super) key: AccountKey,
}

impl<'a> Account<'a> {
    pub(super) fn of(email: &'a FoldedEmail) -> Self {
        let mut bytes = [0; AccountKey::BYTES];
        bytes.copy_from_slice(digest(&SHA256, email.as_str().as_bytes()).as_ref());
        Self { email, key: AccountKey::from_bytes(bytes) }
    }

    pub(super) fn subject(&self, from: Origin) -> Subject {
        let digest = URL_SAFE_NO_PAD.encode(self.key.as_bytes());
        let is_email = self.email.as_str().parse::<Email>().is_ok();
        let account = if is_email { self.email.as_str().to_owned() } else { format!("#{digest}") };
        Subject::Account { account, digest, from }
    }
}

/// A limit that is in force now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// What is limited.
    #[serde(flatten)]
    pub subject: Subject,
    /// The remaining time, in whole seconds.
    pub seconds: u64,
    /// When the limit ends, by the wall clock.
    pub until: String,
}

/// Formats the limit as a line for people.
impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Account { account, from: Origin::Elsewhere, .. } => {
                write!(f, "account  {account}  locked but for its known places")?;
            }
            Subject::Account { account, from: Origin::Known, .. } => {
                write!(f, "account  {account}  locked in its known places")?;
            }
            Subject::Address { address } => write!(f, "address  {address}  log-ins slowed")?,
            Subject::Registration { address } => write!(f, "address  {address}  registrations slowed")?,
        }
        write!(f, "  {} s", self.seconds)
    }
}

/// The limits that are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    /// Whether the counts are shared by all nodes, or this node's own.
    pub shared: bool,
    /// The limits that this answer lists.
    pub limits: Vec<Limited>,
    /// The number of limits that are not listed.
    pub more: usize,
}

/// A subject as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// An account, by its email.
    Email(FoldedEmail),
    /// An account, by the digest that a list shows for text that is no email.
    Digest(String),
    /// An address, or the IPv6 network that counts as one.
    Address(Network),
}

impl Named {
    /// Parses an email, an IPv4 or IPv6 address, a network of 64 bits, or `#` and a digest.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(digest) = text.strip_prefix('#') {
            let bytes = URL_SAFE_NO_PAD.decode(digest).ok()?;
            return (bytes.len() == AccountKey::BYTES).then(|| Self::Digest(digest.to_owned()));
        }
        if text.contains('@') {
            return Some(Self::Email(FoldedEmail::of(text)));
        }
        text.parse().ok().map(Self::Address)
    }
}

pub(super) fn known_key(account: AccountKey, place: Place) -> String {
    known_keys(account) + &URL_SAFE_NO_PAD.encode(place.as_bytes())
}

/// The common prefix of the keys of an account's places.
pub(super) fn known_keys(account: AccountKey) -> String {
    URL_SAFE_NO_PAD.encode(account.as_bytes())
}

pub(super) fn label(subject: &Subject) -> String {
    serde_json::to_string(subject).unwrap_or_default()
}
