//! Changes of several rows that run concurrently, or stall half-way.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::BTreeSet;

use common::{Lease, cql, now, opened, session};
use futures_util::future::join_all;
use schema::{email::FoldedEmail, permission::Grant, session::Session, user::User};
use scylla::client::session::Session as Driver;
use store::{
    Added, Created, Replaced, Stores,
    conformance::sample::{Samples, first},
};

/// The keyspace of a store, to change it without the store.
struct Behind {
    lease: Lease,
    driver: Driver,
    make: Samples,
}

impl Behind {
    async fn open() -> (Stores, Self) {
        let lease = Lease::take().await;
        let stores = opened(&lease.0).await.stores;
        (stores, Self { lease, driver: session().await, make: Samples::at(now()) })
    }

    async fn another(&self) -> Stores {
        opened(&self.lease.0).await.stores
    }

    /// Runs a statement; `$` stands for the keyspace.
    async fn cql(&self, statement: &str) {
        cql(&self.driver, &statement.replace('$', &self.lease.0)).await;
    }

    /// Leaves what a registration leaves that stalls after its first step.
    async fn listed(&self, user: &User) {
        let day = now().as_secs() / 86_400;
        self.cql(&format!("INSERT INTO $.registration_days (part, day) VALUES (0, {day})")).await;
        self.cql(&format!("INSERT INTO $.registrations (day, user) VALUES ({day}, {})", user.id)).await;
    }

    /// Leaves what a registration leaves that stalls after the claim.
    async fn claimed(&self, user: &User, email: &str) {
        self.cql(&format!(
            "INSERT INTO $.emails (email, user, claim) VALUES ('{email}', {}, \
             00000000-0000-4000-8000-000000000001) IF NOT EXISTS",
            user.id
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_stalled_before_its_claim_leaves_no_user() {
    let (stores, behind) = Behind::open().await;
    let stopped = behind.make.user_with("ann@example.org");
    behind.listed(&stopped).await;
    assert_eq!(stores.users.list(first()).await.unwrap().items, []);
    let next = behind.make.user_with("ann@example.org");
    assert_eq!(stores.users.create(&next).await.unwrap(), Created::Done);
    assert_eq!(stores.users.create(&stopped).await.unwrap(), Created::EmailTaken);
    assert_eq!(stores.users.list(first()).await.unwrap().items, [next]);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_stalled_after_its_claim_resumes_or_gives_way() {
    let (stores, behind) = Behind::open().await;
    let stopped = behind.make.user_with("ann@example.org");
    behind.listed(&stopped).await;
    behind.claimed(&stopped, "ann@example.org").await;
    assert_eq!(stores.users.by_email(&stopped.email.folded()).await.unwrap(), None);
    assert_eq!(stores.users.get(stopped.id).await.unwrap(), None);
    assert_eq!(stores.users.create(&stopped).await.unwrap(), Created::Done, "the same call again succeeds");
    assert_eq!(stores.users.by_email(&stopped.email.folded()).await.unwrap(), Some(stopped));

    let stopped = behind.make.user_with("bob@example.org");
    behind.claimed(&stopped, "bob@example.org").await;
    let next = behind.make.user_with("BOB@example.org");
    assert_eq!(stores.users.create(&next).await.unwrap(), Created::Done);
    assert_eq!(stores.users.create(&stopped).await.unwrap(), Created::EmailTaken, "it cannot complete");
    assert_eq!(stores.users.get(stopped.id).await.unwrap(), None);
    assert_eq!(stores.users.by_email(&next.email.folded()).await.unwrap(), Some(next.clone()));
    stores.users.delete(next.id).await.unwrap();
    let third = behind.make.user_with("bob@example.org");
    assert_eq!(stores.users.create(&third).await.unwrap(), Created::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_waits_for_a_slow_one_with_the_same_email() {
    let (stores, behind) = Behind::open().await;
    let slow = behind.make.user_with("ann@example.org");
    behind.claimed(&slow, "ann@example.org").await;
    let next = behind.make.user_with("ann@example.org");
    let completes = async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        stores.users.create(&slow).await.unwrap()
    };
    let (created, completed) = tokio::join!(stores.users.create(&next), completes);
    assert_eq!((created.unwrap(), completed), (Created::EmailTaken, Created::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_change_of_email_gives_way() {
    let (stores, behind) = Behind::open().await;
    let ann = behind.make.user_with("ann@example.org");
    stores.users.create(&ann).await.unwrap();
    // Stalled after the claim of the new one.
    behind.claimed(&ann, "new@example.org").await;
    assert_eq!(stores.users.by_email(&FoldedEmail::of("new@example.org")).await.unwrap(), None);
    let next = behind.make.user_with("new@example.org");
    assert_eq!(stores.users.create(&next).await.unwrap(), Created::Done);
    // The stalled change resumes: the revision that it expects is not stored any more.
    let moved = User { revision: 1, email: "new@example.org".parse().unwrap(), ..ann.clone() };
    assert_eq!(stores.users.replace(&moved).await.unwrap(), {
        let raised = User { revision: 1, ..ann.clone() };
        Replaced::Changed(Box::new(raised))
    });
    let again = User { revision: 2, ..moved };
    assert_eq!(stores.users.replace(&again).await.unwrap(), Replaced::EmailTaken);
    assert_eq!(stores.users.by_email(&next.email.folded()).await.unwrap(), Some(next));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_change_of_email_resumes() {
    let (stores, behind) = Behind::open().await;
    let ann = behind.make.user_with("ann@example.org");
    stores.users.create(&ann).await.unwrap();
    behind.claimed(&ann, "new@example.org").await;
    let moved = User { revision: 1, email: "new@example.org".parse().unwrap(), ..ann.clone() };
    assert_eq!(stores.users.replace(&moved).await.unwrap(), Replaced::Done, "the same call again succeeds");
    assert_eq!(stores.users.by_email(&moved.email.folded()).await.unwrap(), Some(moved.clone()));
    // A change that stalled before it released the old claim.
    behind.claimed(&ann, "ann@example.org").await;
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), None);
    let heir = behind.make.user_with("ann@example.org");
    assert_eq!(stores.users.create(&heir).await.unwrap(), Created::Done);
    let kept = User { revision: 2, ..moved };
    assert_eq!(stores.users.get(ann.id).await.unwrap().as_ref(), Some(&kept), "raised, else the same");
    // Back to the old email: no claim is lost on the way.
    stores.users.delete(heir.id).await.unwrap();
    let back = User { revision: 3, email: ann.email.clone(), ..kept };
    assert_eq!(stores.users.replace(&back).await.unwrap(), Replaced::Done);
    assert_eq!(
        stores.users.create(&behind.make.user_with("ann@example.org")).await.unwrap(),
        Created::EmailTaken
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_deletion_leaves_an_email_that_can_be_claimed() {
    let (stores, behind) = Behind::open().await;
    let ann = behind.make.user_with("ann@example.org");
    stores.users.create(&ann).await.unwrap();
    behind.cql(&format!("DELETE FROM $.users WHERE id = {} IF EXISTS", ann.id)).await;
    assert_eq!(stores.users.list(first()).await.unwrap().items, []);
    let heir = behind.make.user_with("ann@example.org");
    assert_eq!(stores.users.create(&heir).await.unwrap(), Created::Done);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(heir));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_fifty_registrations_on_two_nodes_gets_the_email() {
    let (one, behind) = Behind::open().await;
    let two = behind.another().await;
    let users: Vec<_> = (0..50).map(|_| behind.make.user_with("best@example.org")).collect();
    let creating =
        users.iter().zip([&one, &two].into_iter().cycle()).map(|(user, stores)| stores.users.create(user));
    let created: Vec<_> = join_all(creating).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(created.iter().filter(|created| **created == Created::Done).count(), 1);
    let winner = &users[created.iter().position(|created| *created == Created::Done).unwrap()];
    for stores in [&one, &two] {
        assert_eq!(stores.users.by_email(&winner.email.folded()).await.unwrap().as_ref(), Some(winner));
        assert_eq!(stores.users.list(first()).await.unwrap().items, std::slice::from_ref(winner));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogue_changes_on_two_nodes_lose_nothing() {
    let (one, behind) = Behind::open().await;
    let two = behind.another().await;
    let role = behind.make.stored_role(&one, "editor").await;
    let permissions: Vec<_> = (0..30).map(|n| behind.make.permission(&format!("p{n}"))).collect();
    let changing =
        permissions.iter().zip([&one, &two].into_iter().cycle()).map(async |(permission, stores)| {
            assert_eq!(stores.permissions.create(permission).await.unwrap(), Added::Done);
            stores.roles.add(&role.name, permission).await.unwrap().unwrap();
        });
    join_all(changing).await;
    let all: BTreeSet<_> = permissions.iter().map(|permission| permission.id).collect();
    for stores in [&one, &two] {
        assert_eq!(stores.roles.get(&role.name).await.unwrap().unwrap().permissions, all);
    }
    two.permissions.delete(&permissions[0].name).await.unwrap();
    assert!(!one.roles.get(&role.name).await.unwrap().unwrap().permissions.contains(&permissions[0].id));
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_match_grants_after_concurrent_gives_and_takes() {
    let (one, behind) = Behind::open().await;
    let two = behind.another().await;
    let role = Grant::Role(behind.make.stored_role(&one, "editor").await.id);
    let mut users = Vec::new();
    for _ in 0..10 {
        users.push(behind.make.stored_user(&one).await.id);
    }
    for _ in 0..3 {
        let racing = users.iter().map(async |user| {
            let gives = async {
                let (a, b) = tokio::join!(one.grants.give(*user, role), two.grants.give(*user, role));
                usize::from(a.unwrap() == Added::Done) + usize::from(b.unwrap() == Added::Done)
            };
            let takes = async {
                let (a, b) = tokio::join!(two.grants.take(*user, role), one.grants.take(*user, role));
                usize::from(a.unwrap()) + usize::from(b.unwrap())
            };
            let had = usize::from(!one.grants.raw(*user).await.unwrap().roles.is_empty());
            let (given, taken) = tokio::join!(gives, takes);
            let has = usize::from(!one.grants.raw(*user).await.unwrap().roles.is_empty());
            assert_eq!(had + given, has + taken, "each change is reported to one caller");
            has == 1
        });
        let have = join_all(racing).await;
        let have: Vec<_> = users.iter().zip(have).filter(|(_, has)| *has).map(|(user, _)| *user).collect();
        assert_eq!(two.grants.holders(role, first()).await.unwrap().items, have);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_opened_on_two_nodes_stay_below_the_cap() {
    let (one, behind) = Behind::open().await;
    let two = behind.another().await;
    let user = behind.make.stored_user(&one).await.id;
    let sessions: Vec<_> = (0..24).map(|_| behind.make.session(user)).collect();
    let opening = sessions
        .iter()
        .zip([&one, &two].into_iter().cycle())
        .map(|(session, stores)| stores.sessions.open(session, 5));
    let mut ended: Vec<_> = join_all(opening).await.into_iter().flat_map(Result::unwrap).collect();
    let left = two.sessions.list(user, first()).await.unwrap().items;
    assert_eq!(left.len(), 5);
    ended.extend(left.iter().map(|session| session.id));
    ended.sort_unstable();
    let all: Vec<_> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(ended, all, "each session exists or was reported as ended, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_rows_of_expired_sessions_do_not_count() {
    let (stores, behind) = Behind::open().await;
    let user = behind.make.stored_user(&stores).await.id;
    let kept = behind.make.stored_session(&stores, user).await;
    for _ in 0..3 {
        let short = Session { expires_at: now(), ..behind.make.session(user) };
        stores.sessions.open(&short, 10).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let new = behind.make.session(user);
    assert_eq!(stores.sessions.open(&new, 2).await.unwrap(), [], "one is there, and it stays");
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, [new, kept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_used_for_many_lifetimes_stays_listed() {
    use std::time::Duration;
    let (stores, behind) = Behind::open().await;
    let user = behind.make.stored_user(&stores).await.id;
    // A lifetime is three seconds; the list row of the first would expire after nine.
    let life = Duration::from_secs(3);
    let begin = now();
    let mut session = Session {
        created_at: begin,
        last_used_at: begin,
        expires_at: begin.plus(life),
        ..behind.make.session(user)
    };
    stores.sessions.open(&session, 10).await.unwrap();
    for _ in 0..7 {
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        let at = now();
        let next = session.rotated(behind.make.hash(), at.plus(life), at, Duration::from_secs(1));
        assert_eq!(stores.sessions.rotate(&session, &next).await.unwrap(), store::Rotated::Done);
        session = next;
    }
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, [session]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, [], "and then it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_whose_expiry_moved_earlier_expires_then() {
    use std::time::Duration;
    let (stores, behind) = Behind::open().await;
    let user = behind.make.stored_user(&stores).await.id;
    let session = behind.make.stored_session(&stores, user).await;
    let soon = now().plus(Duration::from_secs(1));
    let next = Session { expires_at: soon, ..behind.make.rotated(&session) };
    assert_eq!(stores.sessions.rotate(&session, &next).await.unwrap(), store::Rotated::Done);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(stores.sessions.get(user, session.id).await.unwrap(), None);
    assert_eq!(stores.sessions.latest(user, session.id).await.unwrap(), None);
    assert_eq!(stores.sessions.list(user, first()).await.unwrap().items, []);
    let new = behind.make.session(user);
    assert_eq!(stores.sessions.open(&new, 1).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_change_of_grants_changes_nothing() {
    let (stores, behind) = Behind::open().await;
    let role = behind.make.stored_role(&stores, "editor").await.id;
    let user = behind.make.stored_user(&stores).await.id;
    // A give or take decided at this revision, as a stalled server would apply it.
    let late = async |revision: &str, next: i64, change: &str| {
        behind
            .cql(&format!(
                "BEGIN BATCH UPDATE $.grants SET revision = {next} WHERE user = {user} IF revision = {revision}; \
                 {change}; APPLY BATCH"
            ))
            .await;
    };
    let give = format!("INSERT INTO $.grants (user, kind, id) VALUES ({user}, 'role', {role})");
    let take = format!("DELETE FROM $.grants WHERE user = {user} AND kind = 'role' AND id = {role}");
    let (grant, has) = (Grant::Role(role), async || !stores.grants.raw(user).await.unwrap().roles.is_empty());
    assert!(!stores.grants.take(user, grant).await.unwrap(), "it was not there, but a give is stopped");
    late("null", 1, &give).await;
    assert!(!has().await);
    assert_eq!(stores.grants.give(user, grant).await.unwrap(), Added::Done);
    late("1", 2, &take).await;
    assert!(has().await);
    assert_eq!(stores.grants.give(user, grant).await.unwrap(), Added::Exists);
    assert!(stores.grants.take(user, grant).await.unwrap());
    late("2", 3, &give).await;
    assert!(!has().await);
    // A list row that arrives late, with the revision that it was written with.
    let part = user.as_bytes()[15] % 16;
    assert_eq!(stores.grants.give(user, grant).await.unwrap(), Added::Done);
    behind
        .cql(&format!(
            "DELETE FROM $.holders USING TIMESTAMP 3 WHERE kind = 'role' AND id = {role} AND part = {part} \
             AND user = {user}"
        ))
        .await;
    assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, [user]);
    stores.users.delete(user).await.unwrap();
    late("4", 5, &give).await;
    late("5", 6, &give).await;
    assert!(!has().await);
    assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_deleted_during_gives_has_no_grants_after() {
    let (one, behind) = Behind::open().await;
    let two = behind.another().await;
    let mut grants = Vec::new();
    for n in 0..8 {
        grants.push(Grant::Role(behind.make.stored_role(&one, &format!("r{n}")).await.id));
    }
    for _ in 0..3 {
        let user = behind.make.stored_user(&one).await.id;
        let giving = join_all(grants.iter().map(|grant| one.grants.give(user, *grant)));
        let deleting = async {
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            two.users.delete(user).await.unwrap();
        };
        tokio::join!(giving, deleting);
        assert!(one.grants.raw(user).await.unwrap().roles.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_ledger_entries_do_not_block_others() {
    let lease = Lease::take().await;
    let opened = opened(&lease.0).await;
    let (stores, driver, make) = (&opened.stores, session().await, Samples::at(now()));
    let origin = make.origin();
    let entries: Vec<_> = (1..=40).map(|seq| make.entry(origin, seq)).collect();
    let end = store::conformance::sample::head(origin, 40);
    stores.ledger.append(&entries, &[end]).await.unwrap();
    for seq in [1, 2, 3, 4, 5, 6, 20, 40] {
        let fact = if seq % 2 == 0 { "{\"kind\":\"of_a_newer_version\",\"until\":9}" } else { "\u{1}" };
        let put = "INSERT INTO $.ledger (node, incarnation, chunk, seq, fact) VALUES";
        let row = format!("{put} ({}, {}, 0, {seq}, '{fact}')", origin.node, origin.incarnation);
        cql(&driver, &row.replace('$', &lease.0)).await;
    }
    let good: Vec<_> =
        entries.into_iter().filter(|entry| ![1, 2, 3, 4, 5, 6, 20, 40].contains(&entry.seq)).collect();
    for limit in [1, 3, 7, 100] {
        let (mut read, mut after) = (Vec::new(), 0);
        loop {
            let some = stores.ledger.entries(origin, after, limit).await.unwrap();
            let Some(last) = some.last() else { break };
            assert!(some.len() <= limit);
            after = last.seq;
            read.extend(some);
        }
        assert_eq!(read, good, "by {limit}");
    }
    assert_eq!(opened.status.counters().unreadable, 8, "each once");
}
