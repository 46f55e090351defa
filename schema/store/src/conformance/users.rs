//! Behaviours of users and their email claims.

use std::slice::from_ref;

use futures_util::future::join_all;
use schema::{
    email::{Email, FoldedEmail},
    login::{Login, MAX_LOGINS},
    name::Name,
    page::PageOf,
    permission::{Grant, Grants, Permission, Role},
    session::{MAX_SESSIONS, Session},
    user::User,
    version::MAX_VERSION,
};

use super::{
    Harness,
    sample::{Samples, first, pages},
};
use crate::{
    Created, Replaced,
    check::{self, Claim, Examined, Reclaimed},
};

fn next(user: &User) -> User {
    User { revision: user.revision + 1, ..user.clone() }
}

fn with_email(user: &User, email: &str) -> User {
    User { email: email.parse().unwrap(), ..next(user) }
}

pub async fn user_is_returned_as_created(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = User {
        email_confirmed: true,
        password: None,
        first_name: Some("Ann".into()),
        last_name: Some("O'Neill".into()),
        active: false,
        version: MAX_VERSION,
        revision: 7,
        ..make.user_with("Ann@Example.ORG")
    };
    assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done);
    assert_eq!(stores.users.get(user.id).await.unwrap().as_ref(), Some(&user));
    assert_eq!(stores.users.by_email(&FoldedEmail::of("ann@example.org")).await.unwrap(), Some(user));
}

pub async fn user_created_twice_is_stored_once(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.stored_user(&stores).await;
    assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done);
    let changed = next(&user);
    assert_eq!(stores.users.replace(&changed).await.unwrap(), Replaced::Done);
    assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done, "a late repetition");
    assert_eq!(stores.users.get(user.id).await.unwrap().as_ref(), Some(&changed), "changes nothing");
    assert_eq!(stores.users.list(first()).await.unwrap().items, [changed]);
}

pub async fn email_is_unique_across_letter_cases(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.user_with("Straße@Example.org");
    assert_eq!(stores.users.create(&ann).await.unwrap(), Created::Done);
    for email in ["straße@example.org", "STRASSE@EXAMPLE.ORG", "Straße@Example.org"] {
        let other = make.user_with(email);
        assert_eq!(stores.users.create(&other).await.unwrap(), Created::EmailTaken, "{email}");
        assert_eq!(stores.users.get(other.id).await.unwrap(), None, "{email}");
        let found = stores.users.by_email(&FoldedEmail::of(email)).await.unwrap();
        assert_eq!(found.as_ref(), Some(&ann), "{email}");
    }
}

pub async fn one_of_fifty_users_with_one_email_is_created(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let emails = ["ann@example.org", "Ann@example.org", "ANN@EXAMPLE.ORG"];
    let users: Vec<_> = (0..50).map(|n| make.user_with(emails[n % 3])).collect();
    let created = join_all(users.iter().map(|user| stores.users.create(user))).await;
    let done = |created: &crate::Result<Created>| *created.as_ref().unwrap() == Created::Done;
    assert_eq!(created.iter().filter(|created| done(created)).count(), 1);
    let winner = &users[created.iter().position(done).unwrap()];
    assert_eq!(stores.users.list(first()).await.unwrap().items, from_ref(winner));
    let found = stores.users.by_email(&FoldedEmail::of(emails[0])).await.unwrap();
    assert_eq!(found.as_ref(), Some(winner));
}

pub async fn changed_email_moves_the_claim(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.user_with("ann@example.org");
    stores.users.create(&ann).await.unwrap();
    let moved = with_email(&ann, "anna@example.org");
    assert_eq!(stores.users.replace(&moved).await.unwrap(), Replaced::Done);
    let old = FoldedEmail::of("ann@example.org");
    assert_eq!(stores.users.by_email(&old).await.unwrap(), None);
    let new = FoldedEmail::of("anna@example.org");
    assert_eq!(stores.users.by_email(&new).await.unwrap().as_ref(), Some(&moved));
    let other = make.user_with("ann@example.org");
    assert_eq!(stores.users.create(&other).await.unwrap(), Created::Done, "the old one is free again");
    assert_eq!(stores.users.by_email(&old).await.unwrap(), Some(other));
    let third = make.user_with("anna@example.org");
    assert_eq!(stores.users.create(&third).await.unwrap(), Created::EmailTaken);
}

pub async fn change_to_a_taken_email_changes_nothing(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await, make.stored_user(&stores).await);
    let taken = User { active: false, ..with_email(&ann, &bob.email.as_str().to_uppercase()) };
    assert_eq!(stores.users.replace(&taken).await.unwrap(), Replaced::EmailTaken);
    assert_eq!(stores.users.get(ann.id).await.unwrap().as_ref(), Some(&ann));
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap().as_ref(), Some(&ann));
    assert_eq!(stores.users.by_email(&bob.email.folded()).await.unwrap(), Some(bob));
}

pub async fn email_may_change_its_letter_case(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.user_with("ann@example.org");
    stores.users.create(&ann).await.unwrap();
    let shouting = with_email(&ann, "ANN@example.org");
    assert_eq!(stores.users.replace(&shouting).await.unwrap(), Replaced::Done);
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(shouting));
}

pub async fn replacement_requires_the_previous_revision(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await;
    let first = User { active: false, ..next(&ann) };
    assert_eq!(stores.users.replace(&first).await.unwrap(), Replaced::Done);
    for revision in [0, 1, 3, u64::MAX >> 1] {
        let stale = User { revision, version: 9, ..ann.clone() };
        let changed = Replaced::Changed(Box::new(first.clone()));
        assert_eq!(stores.users.replace(&stale).await.unwrap(), changed, "{revision}");
    }
    assert_eq!(stores.users.get(ann.id).await.unwrap(), Some(first));
    assert_eq!(stores.users.replace(&next(&make.user())).await.unwrap(), Replaced::Gone);
}

pub async fn one_of_many_concurrent_replacements_wins(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await;
    let wanted: Vec<_> = (1..=50).map(|version| User { version, ..next(&ann) }).collect();
    let replaced = join_all(wanted.iter().map(|next| stores.users.replace(next))).await;
    let replaced: Vec<_> = replaced.into_iter().map(|replaced| replaced.unwrap()).collect();
    assert_eq!(replaced.iter().filter(|replaced| **replaced == Replaced::Done).count(), 1);
    let winner = &wanted[replaced.iter().position(|replaced| *replaced == Replaced::Done).unwrap()];
    let lost = Replaced::Changed(Box::new(winner.clone()));
    assert_eq!(replaced.iter().filter(|replaced| **replaced == lost).count(), 49);
    assert_eq!(stores.users.get(ann.id).await.unwrap().as_ref(), Some(winner));
}

pub async fn one_of_many_users_changing_to_one_email_gets_it(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let mut users = Vec::new();
    for _ in 0..20 {
        users.push(make.stored_user(&stores).await);
    }
    let wanted: Vec<_> = users.iter().map(|user| with_email(user, "best@example.org")).collect();
    let replaced = join_all(wanted.iter().map(|next| stores.users.replace(next))).await;
    let mut winners = 0;
    for ((user, wanted), replaced) in users.iter().zip(&wanted).zip(replaced) {
        let is = match replaced.unwrap() {
            Replaced::Done => {
                winners += 1;
                wanted
            }
            Replaced::EmailTaken => user,
            other => panic!("{other:?}"),
        };
        let found = stores.users.by_email(&is.email.folded()).await.unwrap();
        assert_eq!(found.as_ref(), Some(is), "each has the email that it was answered");
    }
    assert_eq!(winners, 1);
}

pub async fn deleted_user_is_absent_with_all_its_rows(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await, make.stored_user(&stores).await);
    let grant = Grant::Role(make.stored_role(&stores, "reader").await.id);
    for user in [&ann, &bob] {
        stores.grants.give(user.id, grant).await.unwrap();
        stores.logins.record(&make.login(user.id), MAX_LOGINS).await.unwrap();
    }
    let session = make.stored_session(&stores, ann.id).await;
    let others = make.stored_session(&stores, bob.id).await;
    stores.users.delete(ann.id).await.unwrap();
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.get(ann.id).await.unwrap(), None);
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), None);
    assert_eq!(stores.users.list(first()).await.unwrap().items, from_ref(&bob));
    assert_eq!(stores.users.replace(&next(&ann)).await.unwrap(), Replaced::Gone);
    assert_eq!(stores.sessions.get(ann.id, session.id).await.unwrap(), None);
    assert_eq!(stores.sessions.list(ann.id, first()).await.unwrap().items, []);
    assert_eq!(stores.logins.list(ann.id, first()).await.unwrap().items, []);
    assert_eq!(stores.grants.raw(ann.id).await.unwrap(), Grants::default());
    assert_eq!(stores.grants.holders(grant, first()).await.unwrap().items, [bob.id]);
    assert_eq!(stores.sessions.get(bob.id, others.id).await.unwrap(), Some(others));
    assert_eq!(stores.logins.list(bob.id, first()).await.unwrap().items.len(), 1);
}

pub async fn deleted_user_frees_its_email(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let ann = make.stored_user(&stores).await;
    stores.users.delete(ann.id).await.unwrap();
    let heir = make.user_with(ann.email.as_str());
    assert_eq!(stores.users.create(&heir).await.unwrap(), Created::Done);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.by_email(&ann.email.folded()).await.unwrap(), Some(heir));
}

pub async fn users_are_listed_by_id_page_by_page(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let empty = stores.users.list(first()).await.unwrap();
    assert_eq!((empty.items, empty.next), (vec![], None));
    let users: Vec<_> = (0..7).map(|_| make.user()).collect();
    for user in users.iter().rev() {
        stores.users.create(user).await.unwrap();
    }
    for limit in [1, 2, 6, 7, 8, 200] {
        let listed = pages(limit, |page| stores.users.list(page)).await;
        assert_eq!(listed, users, "in pages of {limit}");
    }
    let exact = stores.users.list(PageOf { after: None, limit: 7 }).await.unwrap();
    assert_eq!(exact.next, None, "a list that fits has no next page");
    let more = stores.users.list(PageOf { after: None, limit: 6 }).await.unwrap();
    assert_eq!(more.next, Some(users[5].id));
    let past = stores.users.list(PageOf { after: Some(users[6].id), limit: 6 }).await.unwrap();
    assert_eq!((past.items, past.next), (vec![], None));
}

pub async fn user_pages_are_stable_while_another_registers(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let mut users = Vec::new();
    for _ in 0..4 {
        users.push(make.stored_user(&stores).await);
    }
    let page = stores.users.list(PageOf { after: None, limit: 2 }).await.unwrap();
    users.push(make.stored_user(&stores).await);
    stores.users.delete(users[1].id).await.unwrap();
    let rest = stores.users.list(PageOf { after: page.next, limit: 200 }).await.unwrap();
    assert_eq!(page.items, users[..2]);
    assert_eq!(rest.items, users[2..], "from where it was, though that one is gone");
}

/// A user whose row violates every rule of input.
fn odd(user: User) -> User {
    User {
        email: Email::from_stored("a;b\u{200b}@x.org".to_owned()),
        first_name: Some("A\u{1b}[31mB\nC".into()),
        last_name: Some("n".repeat(5_000)),
        ..user
    }
}

pub async fn spellings_of_one_email_find_one_user(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let zed = make.user_with("zed@bücher.example");
    assert_eq!(stores.users.create(&zed).await.unwrap(), Created::Done);
    for email in ["Zed@xn--bcher-kva.example", "ｚｅｄ@bücher.example", "zed@BÜCHER。example"] {
        let found = stores.users.by_email(&FoldedEmail::of(email)).await.unwrap();
        assert_eq!(found.as_ref(), Some(&zed), "{email}");
        let other = make.user_with(email);
        assert_eq!(stores.users.create(&other).await.unwrap(), Created::EmailTaken, "{email}");
        let user = make.stored_user(&stores).await;
        let taken = stores.users.replace(&with_email(&user, email)).await.unwrap();
        assert_eq!(taken, Replaced::EmailTaken, "{email}");
    }
}

pub async fn user_against_the_rules_is_served_like_any_other(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, user, bob) = (make.stored_user(&stores).await, odd(make.user()), make.user());
    assert_eq!(stores.users.create(&user).await.unwrap(), Created::Done);
    assert_eq!(stores.users.create(&bob).await.unwrap(), Created::Done);
    assert_eq!(stores.users.get(user.id).await.unwrap().as_ref(), Some(&user));
    assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap().as_ref(), Some(&user));
    assert_eq!(stores.users.list(first()).await.unwrap().items, [ann, user.clone(), bob.clone()]);
    let disabled = User { active: false, version: 1, ..next(&user) };
    assert_eq!(stores.users.replace(&disabled).await.unwrap(), Replaced::Done);
    let mended = with_email(&disabled, "mended@example.org");
    assert_eq!(stores.users.replace(&mended).await.unwrap(), Replaced::Done);
    assert_eq!(stores.users.by_email(&mended.email.folded()).await.unwrap(), Some(mended.clone()));
    assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap(), None);
    stores.users.delete(user.id).await.unwrap();
    assert_eq!(stores.users.get(user.id).await.unwrap(), None);
    // The same without a change in between: the email is free again.
    let again = odd(make.user());
    assert_eq!(stores.users.create(&again).await.unwrap(), Created::Done);
    stores.users.delete(again.id).await.unwrap();
    assert_eq!(stores.users.create(&odd(make.user())).await.unwrap(), Created::Done);
}

pub async fn current_claim_needs_no_repair(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = make.user_with("Zed@bücher.example");
    stores.users.create(&user).await.unwrap();
    let examined = stores.upkeep.examine(first()).await.unwrap().items;
    let expected =
        Examined { id: user.id, user: Some(user.clone()), claim: Claim::Today, unreadable: Vec::new() };
    assert_eq!(examined, [expected]);
    assert_eq!(stores.upkeep.reclaim(user.id).await.unwrap(), Reclaimed::Done);
    assert_eq!(stores.users.by_email(&user.email.folded()).await.unwrap(), Some(user));
    assert_eq!(stores.upkeep.reclaim(make.user().id).await.unwrap(), Reclaimed::Gone);
    assert_eq!(stores.upkeep.examine_others().await.unwrap(), []);
}

pub async fn check_reports_rows_against_the_rules(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let user = odd(make.user());
    stores.users.create(&user).await.unwrap();
    make.stored_user(&stores).await;
    let session = Session { device: Some("a\u{202e}b".into()), ..make.session(user.id) };
    stores.sessions.open(&session, 10).await.unwrap();
    let login = Login { user_agent: Some("\u{1b}[31m".into()), ..make.login(user.id) };
    stores.logins.record(&login, MAX_LOGINS).await.unwrap();
    let role = Role { name: Name::from_stored("no name"), ..make.role("role") };
    stores.roles.create(&role).await.unwrap();
    let permission = Permission { description: Some("d".repeat(501)), ..make.permission("permission") };
    stores.permissions.create(&permission).await.unwrap();
    for repair in [false, true] {
        let step = check::step(&stores, None, repair).await.unwrap();
        assert_eq!((step.users, step.next), (2, None));
        let mut found: Vec<_> = step
            .findings
            .iter()
            .map(|one| (one.table.as_str(), one.id.as_str(), one.field.as_str()))
            .collect();
        found.sort_unstable();
        let [id, session, login] = [user.id.to_string(), session.id.to_string(), login.id.to_string()];
        let mut expected = [
            ("logins", login.as_str(), "user_agent"),
            ("permissions", "\"permission\"", "description"),
            ("roles", "\"no name\"", "name"),
            ("sessions", &session, "device"),
            ("users", &id, "email"),
            ("users", &id, "first_name"),
            ("users", &id, "last_name"),
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(step.findings.iter().all(|one| one.state == check::State::Stays));
    }
}

pub async fn user_with_many_rows_is_deleted_with_all_of_them(harness: &impl Harness) {
    let (stores, make) = (harness.open().await, Samples::at(harness.now()));
    let (ann, bob) = (make.stored_user(&stores).await, make.stored_user(&stores).await);
    let many = harness.rows().min(1_300);
    let sessions: Vec<_> = (0..many).map(|_| make.session(ann.id)).collect();
    let logins: Vec<_> = (0..many).map(|_| make.login(ann.id)).collect();
    for some in sessions.chunks(100) {
        join_all(some.iter().map(|session| stores.sessions.open(session, MAX_SESSIONS))).await;
    }
    for some in logins.chunks(100) {
        join_all(some.iter().map(|login| stores.logins.record(login, MAX_LOGINS))).await;
    }
    let others = make.stored_session(&stores, bob.id).await;
    assert_eq!(pages(200, |page| stores.sessions.list(ann.id, page)).await.len(), many);
    stores.sessions.end_older(ann.id, 0).await.unwrap();
    assert_eq!(pages(200, |page| stores.sessions.list(ann.id, page)).await.len(), many);
    stores.users.delete(ann.id).await.unwrap();
    assert_eq!(stores.users.get(ann.id).await.unwrap(), None);
    assert_eq!(stores.sessions.list(ann.id, first()).await.unwrap().items, []);
    assert_eq!(stores.logins.list(ann.id, first()).await.unwrap().items, []);
    assert_eq!(stores.sessions.list(bob.id, first()).await.unwrap().items, [others]);
    assert_eq!(stores.users.create(&make.user_with(ann.email.as_str())).await.unwrap(), Created::Done);
}
