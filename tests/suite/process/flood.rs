//! A flood of log-ins: the node sheds what it cannot hash in time with a clear answer, and users with
//! sessions are unaffected. (How much validation keeps of its throughput is measured elsewhere.)

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, fresh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_beyond_the_queue_are_shed_and_validation_continues() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let unknown = format!("{}@example.org", fresh("nobody"));
    let over = AtomicBool::new(false);
    let flood = async {
        let log_ins = (0..300).map(|_| node.log_in(&unknown, "a guess of somebody"));
        let answers = join_all(log_ins).await;
        over.store(true, Ordering::SeqCst);
        answers
    };
    let validation = async {
        let calm = ann.at(&node.another_client());
        let mut times = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let start = Instant::now();
            calm.is_in().await;
            times.push(start.elapsed());
        }
        times.sort();
        times
    };
    let (answers, times) = tokio::join!(flood, validation);
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(count(401) + count(503), answers.len(), "other answers than 401 and 503");
    assert!(count(503) > 0, "nothing was shed: the queue has no bound");
    assert!(count(401) > 0, "everything was shed");
    answers.iter().filter(|answer| answer.status == 503).for_each(|answer| {
        answer.is_refused(503);
    });
    assert!(times.len() >= 20, "only {} validations during the flood", times.len());
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(250), "the median validation took {median:?}");
    // Afterwards users can log in again.
    ann.in_another_session().await.is_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_of_others_pass_beside_a_flood_from_one_address() {
    let node = Node::builder().setting("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let ann = node.register("ann").await;
    let log_in = |address: &'static str, email: String| {
        let body = json!({"email": email, "password": ann.password});
        node.post("auth_token").header("X-Forwarded-For", address).json(&body).send()
    };
    let over = AtomicBool::new(false);
    let flood = join_all((0..64).map(async |_| {
        let mut shed = 0;
        let mut hashed = 0;
        while !over.load(Ordering::SeqCst) {
            let answer = log_in("198.51.100.1", format!("{}@example.org", fresh("nobody"))).await;
            shed += usize::from(answer.status == 503);
            hashed += usize::from(answer.status == 401);
        }
        (shed, hashed)
    }));
    let others = async {
        let queue = "palisade_password_queue_length";
        testkit::eventually(Duration::from_secs(20), "a flood", async || {
            (node.metric(queue).await? >= 15.0).then_some(())
        })
        .await;
        for address in ["198.51.100.2", "2001:db8::7", "198.51.100.3", "203.0.113.1"] {
            log_in(address, ann.email.clone()).await.is(200);
        }
        over.store(true, Ordering::SeqCst);
    };
    let (counts, ()) = tokio::join!(flood, others);
    let sum = |of: fn(&(usize, usize)) -> usize| counts.iter().map(of).sum::<usize>();
    assert!(sum(|count| count.0) > 0, "nothing was shed: there was no flood");
    assert!(sum(|count| count.1) > 0, "the address that floods has its share, too");
}
