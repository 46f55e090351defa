//! The way to the database is cut in the middle of a change, before and after each statement of it, or
//! an answer comes too late: a retry succeeds, and both nodes agree on the result.
//!
//! A retrying client prepares a change and checks it afterwards; the change itself is
//! asked for once.

mod grants;

use std::{collections::HashMap, time::Duration};

use serde_json::json;
use testkit::{Answer, Client, Person, eventually, fresh, servers::Action};

use crate::behind::{Behind, is_one_live_session, new_user, say};

/// Delay of a late answer: longer than a node waits for a statement.
const LATE_DELAY: Duration = Duration::from_secs(3);
/// Longest time until a node has received another node's revocation.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A place in a change: the nth statement of this text.
struct Step {
    statement: String,
    nth: usize,
}

impl Step {
    /// What may become of it. A read that is late is one that is not answered.
    fn actions(&self) -> Vec<Action> {
        let late = (!self.statement.starts_with("SELECT")).then_some(Action::DelayAnswer(LATE_DELAY));
        [Action::CutBefore, Action::CutAfter].into_iter().chain(late).collect()
    }
}

/// Says where the cut was when a test failed.
struct At<'a>(&'a Step, Action);

impl Drop for At<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("failed with {:?} at number {} of: {}", self.1, self.0.nth, self.0.statement));
        }
    }
}

/// The statements of a change, recorded from a first, undisturbed run.
async fn steps_of<P>(
    here: &Behind,
    prepare: impl AsyncFn() -> P,
    call: impl AsyncFn(&P) -> Answer,
) -> Vec<Step> {
    eventually(PROPAGATION_TIMEOUT, "a change that nothing disturbs", async || {
        let prepared = prepare().await;
        here.proxy.clear();
        (call(&prepared).await.status != 503).then_some(())
    })
    .await;
    let mut seen = HashMap::new();
    // What nodes read all the time.
    let upkeep = |statement: &String| statement.contains("FROM heads") || statement.contains("FROM ledger");
    let statements = here.proxy.statements().into_iter().filter(|statement| !upkeep(statement));
    let steps = statements.map(|statement| {
        let nth = seen.entry(statement.clone()).and_modify(|nth| *nth += 1).or_insert(1);
        Step { nth: *nth, statement }
    });
    steps.collect()
}

/// Makes a change again and again, each time with another cut, and looks what became of it.
async fn at_every_step<P>(
    here: &Behind,
    prepare: impl AsyncFn() -> P,
    call: impl AsyncFn(&P) -> Answer,
    check: impl AsyncFn(P, Answer),
) {
    let steps = steps_of(here, &prepare, &call).await;
    assert!(!steps.is_empty(), "it asks the database nothing");
    let mut slowest = Duration::ZERO;
    for step in &steps {
        for action in step.actions() {
            let at = At(step, action);
            let prepared = prepare().await;
            here.proxy.on_nth(step.nth, &step.statement, action);
            let answer = call(&prepared).await;
            slowest = slowest.max(here.mended().await);
            assert!(answer.status < 300 || answer.status == 503, "neither done nor unknown\n{answer}");
            answer.is(answer.status);
            check(prepared, answer).await;
            drop(at);
        }
    }
    say(&format!("{} statements; well again after {slowest:?} at most: {}", steps.len(), list(&steps)));
}

fn list(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("\n    {}", step.statement)).collect()
}

#[track_caller]
fn is_one_of(answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "expected one of {statuses:?}\n{answer}");
}

async fn logs_in(node: &Client, email: &str, password: &str) -> bool {
    let answer = node.log_in(email, password).await;
    is_one_of(&answer, &[200, 401]);
    answer.status == 200
}

/// Whether an email is free: a registration takes it.
async fn is_free(node: &Client, email: &str) -> bool {
    let body = json!({"email": email, "password": fresh("a secret of another")});
    let answer = node.post("users").json(&body).send().await;
    is_one_of(&answer, &[201, 409]);
    answer.status == 201
}

async fn propagates(what: &str, look: impl AsyncFn() -> bool) {
    eventually(PROPAGATION_TIMEOUT, what, async || look().await.then_some(())).await;
}

#[tokio::test]
async fn refresh_survives_any_cut() {
    let here = Behind::with(&[("REFRESH_GRACE", "1s")]).await;
    let node = here.node.retrying();
    at_every_step(
        &here,
        async || new_user(&here.node).await,
        async |ann| here.node.refresh(&ann.refresh).await,
        async |ann, answer| has_one_pair(&node, &ann, answer).await,
    )
    .await;
}

#[tokio::test]
async fn refresh_after_one_on_another_node_survives_any_cut() {
    let here = Behind::with(&[("REFRESH_GRACE", "1s")]).await;
    let node = here.node.retrying();
    let elsewhere = here.elsewhere().await.retrying();
    at_every_step(
        &here,
        async || new_user(&here.node).await.at(&elsewhere).refreshed().await.at(&node),
        async |ann| here.node.refresh(&ann.refresh).await,
        async |ann, answer| has_one_pair(&node, &ann, answer).await,
    )
    .await;
}

async fn has_one_pair(node: &Client, ann: &Person, answer: Answer) {
    let answer = if answer.status == 200 { answer } else { node.refresh(&ann.refresh).await };
    let next = ann.with_tokens(answer.pair());
    next.is_in().await;
    ann.is_in().await;
    is_one_live_session(&next).await;
}

#[tokio::test]
async fn registration_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let node = here.node.retrying();
    let root = here.node.root().await.at(&node);
    let body = |email: &String| json!({"email": email, "password": format!("the secret of {email}")});
    let register =
        async |client: &Client, email: &String| client.post("users").json(&body(email)).send().await;
    at_every_step(
        &here,
        async || format!("{}@example.org", fresh("ann")),
        async |email| register(&here.node, email).await,
        async |email, answer| {
            if answer.status == 503 {
                is_one_of(&register(&node, &email).await, &[201, 409]);
            }
            let ann = Person::log_in(&node, &email, &format!("the secret of {email}")).await;
            ann.is_in().await;
            assert!(!is_free(&node, &email).await, "a second user has the email");
            let found = root.list("users", &format!("users?email={email}")).await;
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0]["uuid"], ann.uuid);
        },
    )
    .await;
}

#[tokio::test]
async fn retried_email_change_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let node = here.node.retrying();
    at_every_step(
        &here,
        async || (new_user(&here.node).await, format!("{}@example.org", fresh("other"))),
        async |(ann, email)| change_email(&ann.at(&here.node), email).await,
        async |(ann, email), answer| {
            if answer.status == 503 {
                change_email(&ann, &email).await.is(200);
            }
            assert!(logs_in(&node, &email, &ann.password).await, "the new email does not log in");
            assert!(!logs_in(&node, &ann.email, &ann.password).await, "the old email logs in");
            assert!(!is_free(&node, &email).await, "the new email is free");
            assert!(is_free(&node, &ann.email).await, "the old email is not free");
            ann.is_in().await;
        },
    )
    .await;
}

#[tokio::test]
async fn abandoned_email_change_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let node = here.node.retrying();
    at_every_step(
        &here,
        async || (new_user(&here.node).await, format!("{}@example.org", fresh("other"))),
        async |(ann, email)| change_email(&ann.at(&here.node), email).await,
        async |(ann, email), answer| {
            let old = logs_in(&node, &ann.email, &ann.password).await;
            let new = logs_in(&node, &email, &ann.password).await;
            assert!(old != new, "old {old}, new {new}: exactly one logs in");
            assert!(new || answer.status == 503, "it was done, and the new email does not log in");
            let (used, unused) = if new { (&email, &ann.email) } else { (&ann.email, &email) };
            assert!(is_free(&node, unused).await, "{unused} is nobody's and not free");
            assert!(!is_free(&node, used).await, "{used} is free");
            // The change that stopped does not come to life again.
            assert!(logs_in(&node, used, &ann.password).await);
            let me = ann.get("users/me").send().await.is(200).json();
            assert_eq!(me["email"], *used);
        },
    )
    .await;
}

async fn change_email(ann: &Person, email: &str) -> Answer {
    ann.patch("users/me").json(&json!({"email": email, "password": ann.password})).send().await
}

/// Waits until both nodes agree on whether a user has a permission.
async fn may_everywhere(ann: &Person, elsewhere: &Client, permission: &str, holds: bool) {
    let query = format!("users/me/combined_permissions/validation?permissions=%22{permission}%22");
    let here = ann.get(&query).send().await.is(200).json();
    assert_eq!(here["valid"], holds, "the node that was asked");
    let there = ann.at(elsewhere);
    propagates("the other node says the same", async || there.may(permission).await == holds).await;
}

/// How often a name occurs among a user's grants.
async fn times(root: &Person, ann: &Person, kind: &str, name: &str) -> usize {
    let given = root.get(&ann.path(kind)).send().await.is(200).json();
    given.as_array().unwrap().iter().filter(|one| one["name"] == name).count()
}

#[tokio::test]
async fn password_change_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let node = here.node.retrying();
    let elsewhere = here.elsewhere().await.retrying();
    let change = async |ann: &Person, password: &str| {
        let body = json!({"old_password": ann.password, "new_password": password});
        ann.post("users/me/password").json(&body).send().await
    };
    at_every_step(
        &here,
        async || {
            let ann = new_user(&here.node).await;
            (ann.in_another_session().await, ann, fresh("another secret"))
        },
        async |(_, ann, password)| change(&ann.at(&here.node), password).await,
        async |(other, ann, password), answer| {
            let now = if answer.status == 200 {
                ann.with_tokens(answer.pair()).with_password(&password)
            } else {
                let old = logs_in(&node, &ann.email, &ann.password).await;
                let new = logs_in(&node, &ann.email, &password).await;
                assert!(old != new, "old {old}, new {new}: exactly one logs in");
                if old {
                    // The refused change may have been made; the owner logs in and tries again.
                    let again = Person::log_in(&node, &ann.email, &ann.password).await;
                    again.with_tokens(change(&again, &password).await.pair()).with_password(&password)
                } else {
                    Person::log_in(&node, &ann.email, &password).await
                }
            };
            now.is_in().await;
            now.at(&elsewhere).is_in().await;
            assert!(!logs_in(&node, &ann.email, &ann.password).await, "the old password logs in");
            for earlier in [&ann, &other] {
                earlier.is_out().await;
                propagates("the other node refuses it too", async || {
                    elsewhere.validate(&earlier.access).await.status == 401
                })
                .await;
                elsewhere.refresh(&earlier.refresh).await.is_error(401, "Token has been revoked");
            }
            now.in_another_session().await.is_in().await;
            now.refreshed().await.is_in().await;
        },
    )
    .await;
}

#[tokio::test]
async fn session_end_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await.retrying();
    let end = async |ann: &Person, id: &str| ann.delete(&format!("users/me/sessions/{id}")).send().await;
    at_every_step(
        &here,
        async || {
            let ann = new_user(&here.node).await;
            let other = ann.in_another_session().await;
            (other.session().await, other, ann)
        },
        async |(id, _, ann)| end(&ann.at(&here.node), id).await,
        async |(id, other, ann), answer| {
            if answer.status == 503 {
                is_one_of(&end(&ann, &id).await, &[204, 404]);
            }
            is_ended(&here, &elsewhere, &other, &id).await;
            ann.is_in().await;
            assert_eq!(ann.list("sessions", "users/me/sessions").await.len(), 1);
        },
    )
    .await;
}

#[tokio::test]
async fn logout_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await.retrying();
    at_every_step(
        &here,
        async || {
            let ann = new_user(&here.node).await;
            (ann.session().await, ann)
        },
        async |(_, ann)| ann.at(&here.node).delete("auth_token").send().await,
        async |(id, ann), answer| {
            // The journal has it, whatever the database says.
            answer.is_done();
            is_ended(&here, &elsewhere, &ann, &id).await;
        },
    )
    .await;
}

/// Here and elsewhere, and for good: also the row is gone.
async fn is_ended(here: &Behind, elsewhere: &Client, ended: &Person, id: &str) {
    ended.is_out().await;
    propagates("the other node refuses it too", async || {
        elsewhere.validate(&ended.access).await.status == 401
    })
    .await;
    let this = format!("user = {} AND id = {id}", ended.uuid);
    propagates("the row is gone", async || here.rows("sessions", &this).await == 0).await;
    elsewhere.refresh(&ended.refresh).await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn user_deletion_survives_any_cut() {
    let here = Behind::a_proxy().await;
    let node = here.node.retrying();
    let elsewhere = here.elsewhere().await.retrying();
    let root = here.node.root().await.at(&node);
    let films = root.makes_permission("films").await;
    at_every_step(
        &here,
        async || {
            let ann = new_user(&here.node).await;
            root.gives(&ann, &films).await.is(200);
            (ann.in_another_session().await, ann)
        },
        async |(_, ann)| root.at(&here.node).delete(&ann.path("")).send().await,
        async |(other, ann), answer| {
            if answer.status == 503 {
                let answer = root.delete(&ann.path("")).send().await;
                is_one_of(&answer, &[204, 404]);
            }
            root.get(&ann.path("")).send().await.is_refused(404);
            for dead in [&ann, &other] {
                dead.is_out().await;
                propagates("the other node refuses it too", async || {
                    elsewhere.validate(&dead.access).await.status == 401
                })
                .await;
            }
            assert!(!logs_in(&node, &ann.email, &ann.password).await, "it logs in still");
            assert!(root.list("users", &format!("users?email={}", ann.email)).await.is_empty());
            // The next owner of the email is another user.
            let password = fresh("a secret of another");
            let body = json!({"email": ann.email, "password": password});
            node.post("users").json(&body).send().await.is(201);
            let next = Person::log_in(&node, &ann.email, &password).await;
            assert_ne!(next.uuid, ann.uuid);
            assert!(!next.may(&films).await);
            assert_eq!(next.list("sessions", "users/me/sessions").await.len(), 1);
        },
    )
    .await;
    assert!(root.may("all_all").await, "the superuser has lost its privileges");
}
