//! A flood of log-ins: what cannot be hashed in time is shed with a word, and those who are in
//! do not notice. (How much validation keeps of its throughput is measured elsewhere.)

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use testkit::{Node, fresh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ins_beyond_the_queue_are_shed_and_validation_goes_on() {
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
    // Afterwards everybody gets in again.
    ann.in_another_session().await.is_in().await;
}
