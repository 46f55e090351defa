//! `kill -9` at any moment: what was answered holds.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{Node, Person, fresh};

/// Number of concurrent writers.
const WRITERS: usize = 8;
/// How long they write before the crash.
const STORM: Duration = Duration::from_secs(2);

/// What a node has answered with 2xx, and must hold to.
#[derive(Default)]
struct Promises {
    registered: Vec<(String, String)>,
    out: Vec<Person>,
    refreshed: Vec<(Person, Person)>,
    given: Vec<(Person, String)>,
    taken: Vec<(Person, String)>,
}

async fn write(node: &Node, root: &Person, promises: &Mutex<Promises>, ended: &AtomicBool) {
    let client = node.another_client();
    let root = root.at(&client);
    let password = "a password nobody else has";
    // Leaves at the first request that gets no answer: the node is dead.
    let _ = async {
        while !ended.load(Ordering::SeqCst) {
            let email = format!("{}@example.org", fresh("writer"));
            let body = json!({"email": email, "password": password});
            let answer = client.post("users").json(&body).try_send().await?;
            if answer.status != 201 {
                continue;
            }
            let uuid = answer.field("uuid");
            promises.lock().unwrap().registered.push((email.clone(), password.to_owned()));

            let log_in = client.post("auth_token").json(&json!({"email": email, "password": password}));
            let log_in = log_in.try_send().await?;
            if log_in.status != 200 {
                continue;
            }
            let person = Person::known(&client, &uuid, &email, password, log_in.pair());

            let name = fresh("given");
            let made = root.post("permissions").json(&json!({"name": name})).try_send().await?;
            if made.status == 201 {
                let give =
                    root.post(&person.path("permissions")).json(&json!({"name": name})).try_send().await?;
                if give.status == 200 {
                    promises.lock().unwrap().given.push((person.clone(), name.clone()));
                }
            }
            let name = fresh("taken");
            let made = root.post("permissions").json(&json!({"name": name})).try_send().await?;
            if made.status == 201 {
                root.post(&person.path("permissions")).json(&json!({"name": name})).try_send().await?;
                let take = root.delete(&person.path(&format!("permissions/{name}"))).try_send().await?;
                if take.status == 200 {
                    promises.lock().unwrap().taken.push((person.clone(), name));
                }
            }

            let refresh = client.post("auth_token/token_refresh").bearer(&person.refresh).try_send().await?;
            if refresh.status != 200 {
                continue;
            }
            let next = person.with_tokens(refresh.pair());
            promises.lock().unwrap().refreshed.push((person.clone(), next.clone()));

            let log_in =
                client.post("auth_token").json(&json!({"email": person.email, "password": password}));
            let log_in = log_in.try_send().await?;
            if log_in.status == 200 {
                let other = person.with_tokens(log_in.pair());
                if other.delete("auth_token").try_send().await?.status == 204 {
                    promises.lock().unwrap().out.push(other);
                }
            }
        }
        Ok::<(), testkit::client::NoAnswer>(())
    }
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_changes_survive_kill_dash_9() {
    let node = Node::builder().setting("REFRESH_GRACE", "120s").start().await;
    let root = node.root().await;
    let promises = Mutex::new(Promises::default());
    let ended = AtomicBool::new(false);
    let storm = futures_util::future::join_all((0..WRITERS).map(|_| write(&node, &root, &promises, &ended)));
    let crash = async {
        let start = Instant::now();
        let enough = async || {
            let promises = promises.lock().unwrap();
            let some =
                !promises.out.is_empty() && !promises.refreshed.is_empty() && !promises.taken.is_empty();
            (some && start.elapsed() > STORM).then_some(())
        };
        testkit::eventually(Duration::from_secs(60), "something to hold to", enough).await;
        node.kill_dash_9();
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(storm, crash);
    node.restart().await;
    let promises = promises.into_inner().unwrap();
    let client = node.another_client();
    for person in &promises.out {
        person.at(&client).is_out().await;
    }
    for (person, name) in &promises.given {
        assert!(person.at(&client).may(name).await, "{name} was given");
    }
    for (person, name) in &promises.taken {
        assert!(!person.at(&client).may(name).await, "{name} was taken");
    }
    for (before, after) in &promises.refreshed {
        after.at(&client).is_in().await;
        let again = client.refresh(&before.refresh).await.pair().1;
        assert_eq!(again, after.refresh, "the same successor");
    }
    // Hashing is slow: a share of the registrations stands for all of them.
    let share = promises.registered.len().div_ceil(40);
    for (email, password) in promises.registered.iter().step_by(share).chain(promises.registered.last()) {
        client.log_in(email, password).await.is(200);
    }
    let body = |email: &str| json!({"email": email, "password": "a password nobody else has"});
    let (email, _) = promises.registered.last().unwrap();
    client.post("users").json(&body(email)).send().await.is_refused(409);
}

#[tokio::test]
async fn node_survives_repeated_kills() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let other = ann.in_another_session().await;
        other.delete("auth_token").send().await.is_done();
        node.kill_dash_9();
        node.restart().await;
        others.push(other);
        for other in &others {
            other.is_out().await;
        }
        ann.is_in().await;
    }
}
