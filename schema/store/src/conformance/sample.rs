//! Sample records, with counted ids and given times.

use std::{cell::Cell, time::Duration};

use schema::{
    email::Email,
    fact::{Fact, FactKind},
    id::{LoginId, NodeId, PermissionId, RoleId, SessionId, UserId},
    ledger::{Entry, Head, Origin},
    login::{Login, Outcome},
    name::Name,
    page::{Page, PageOf},
    permission::{Permission, Role},
    session::{SecretHash, Session},
    time::Timestamp,
    user::{PasswordHash, User},
};

use crate::{Added, Created, Result, Stores};

/// Makes sample records. Each has a unique id, which is later than those before.
#[derive(Debug)]
pub struct Samples {
    now: Timestamp,
    made: Cell<u32>,
}

impl Samples {
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self { now, made: Cell::new(0) }
    }

    /// The time and the random bits of a new id.
    fn next(&self) -> (Timestamp, [u8; 10]) {
        let n = self.made.get() + 1;
        self.made.set(n);
        let mut random = [0xa5; 10];
        random[6..].copy_from_slice(&n.to_be_bytes());
        (self.now.plus(Duration::from_millis(n.into())), random)
    }

    /// A user with a unique email.
    #[must_use]
    pub fn user(&self) -> User {
        let (time, random) = self.next();
        self.user_of(UserId::new(time, random), &format!("user{}@example.org", self.made.get()))
    }

    /// A user with this email.
    #[must_use]
    pub fn user_with(&self, email: &str) -> User {
        let (time, random) = self.next();
        self.user_of(UserId::new(time, random), email)
    }

    fn user_of(&self, id: UserId, email: &str) -> User {
        User {
            id,
            email: email.parse::<Email>().unwrap(),
            email_confirmed: false,
            password: Some(PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".into())),
            first_name: None,
            last_name: None,
            active: true,
            version: 0,
            revision: 0,
            created_at: self.now,
        }
    }

    #[must_use]
    pub fn session(&self, user: UserId) -> Session {
        let (time, random) = self.next();
        Session {
            id: SessionId::new(time, random),
            user,
            user_version: 0,
            device: None,
            ip_address: [192, 0, 2, 1].into(),
            user_agent: None,
            created_at: self.now,
            last_used_at: self.now,
            expires_at: self.now.plus(Duration::from_secs(30 * 24 * 3600)),
            live: self.hash(),
            spent: Vec::new(),
        }
    }

    /// A unique hash.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let (_, random) = self.next();
        let mut digest = [0; 32];
        digest[..10].copy_from_slice(&random);
        SecretHash::new(digest)
    }

    /// This session after its live token was spent at the current time.
    #[must_use]
    pub fn rotated(&self, session: &Session) -> Session {
        session.rotated(self.hash(), session.expires_at, self.now, Duration::from_secs(10))
    }

    #[must_use]
    pub fn login(&self, user: UserId) -> Login {
        let (time, random) = self.next();
        Login {
            id: LoginId::new(time, random),
            user,
            time: self.now,
            ip_address: "2001:db8::1".parse().unwrap(),
            device: None,
            user_agent: None,
            outcome: Outcome::Success,
        }
    }

    #[must_use]
    pub fn role(&self, name: &str) -> Role {
        let (time, random) = self.next();
        Role {
            id: RoleId::new(time, random),
            name: name.parse().unwrap(),
            description: None,
            permissions: [].into(),
        }
    }

    #[must_use]
    pub fn permission(&self, name: &str) -> Permission {
        let (time, random) = self.next();
        Permission { id: PermissionId::new(time, random), name: name.parse().unwrap(), description: None }
    }

    /// An origin: a new node in its first life.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let (time, random) = self.next();
        Origin { node: NodeId::new(time, random), incarnation: 1 }
    }

    /// An entry whose fact ends in a month.
    #[must_use]
    pub fn entry(&self, origin: Origin, seq: u64) -> Entry {
        let session = SessionId::from_bytes([u8::try_from(seq % 256).unwrap(); 16]);
        let until = self.now.plus(Duration::from_secs(30 * 24 * 3600));
        Entry {
            origin,
            seq,
            fact: Fact {
                kind: FactKind::SessionRevoked { user: UserId::from_bytes([1; 16]), session },
                until,
            },
        }
    }

    /// Stores a user and returns it.
    pub async fn stored_user(&self, stores: &Stores) -> User {
        let user = self.user();
        assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done);
        user
    }

    /// Stores a session and returns it.
    pub async fn stored_session(&self, stores: &Stores, user: UserId) -> Session {
        let session = self.session(user);
        assert_eq!(stores.sessions.open(&session, 100).await.unwrap(), []);
        session
    }

    /// Stores a role and returns it.
    pub async fn stored_role(&self, stores: &Stores, name: &str) -> Role {
        let role = self.role(name);
        assert_eq!(stores.roles.create(&role).await.unwrap(), Added::Done);
        role
    }

    /// Stores a permission and returns it.
    pub async fn stored_permission(&self, stores: &Stores, name: &str) -> Permission {
        let permission = self.permission(name);
        assert_eq!(stores.permissions.create(&permission).await.unwrap(), Added::Done);
        permission
    }
}

/// The head of a log.
#[must_use]
pub const fn head(origin: Origin, seq: u64) -> Head {
    Head { origin, seq }
}

/// Parses a name.
#[must_use]
pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A request for the first page, large enough for every list of the suite.
#[must_use]
pub const fn first<Id>() -> PageOf<Id> {
    PageOf { after: None, limit: 200 }
}

/// Reads a whole list in pages of this size. Asserts that no page is longer, and that only the last has no
/// next.
pub async fn pages<T, Id: Copy, F>(limit: usize, read: impl Fn(PageOf<Id>) -> F) -> Vec<T>
where
    F: Future<Output = Result<Page<T, Id>>>,
{
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = read(PageOf { after, limit }).await.unwrap();
        assert!(page.items.len() <= limit, "a page of {} where {limit} were asked for", page.items.len());
        assert!(page.next.is_none() || page.items.len() == limit, "a page in the middle is full");
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}
