//! A node that is paused during revocations.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::{Node, Person, Raw, cluster::visible, eventually, raw::Reply};

use super::{ANSWER_TIME_MAX, SILENT, START_TIMEOUT, with_default_ack_deadline};
use crate::cluster::{is_out_at_once, say, sessions, silent_sessions, stale_ms};

/// Longest time in which a returning node learns all revocations. Two seconds are promised; the rest is for
/// a build without optimisation on a busy machine.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests that wait in a paused node's sockets: it reads them first when it resumes.
async fn asked_while_paused(node: &Node, people: &[Person]) -> Vec<Raw> {
    let ask = people.iter().map(async |person| {
        let mut raw = Raw::to(node).await;
        let request = format!(
            "GET /api/v1/auth_token/validation HTTP/1.1\r\nHost: palisade\r\nAuthorization: Bearer {}\r\n\r\n",
            person.access
        );
        raw.send(request).await.expect("the kernel takes it");
        raw
    });
    join_all(ask).await
}

/// Pauses C during thousands of revocations, and checks its answers when it resumes.
async fn paused_under(policy: &str) {
    let builder = with_default_ack_deadline().setting("MAX_STALENESS", "1s").setting("STALE_POLICY", policy);
    let cluster = builder.start().await;
    let [a, b, c] = cluster.three();
    let mut people = join_all((0..4).map(|_| a.register("ann"))).await;
    let whole = people.pop().expect("four");
    let crowd = a.register("crowd").await;
    let one_of_it = crowd.in_another_session().await;
    silent_sessions(&cluster, &crowd, SILENT).await;
    let mut out = Vec::new();
    for person in &people {
        out.extend(sessions(person, &[a, b], 20).await);
    }
    let more = sessions(&whole, &[a, b], 10).await;
    // It knows them all.
    for session in out.iter().chain(&more) {
        session.at(c).is_in().await;
    }
    // Opened before, as connections of clients are.
    let connections = 20;

    c.pause();
    let paused = Instant::now();
    let answer = one_of_it.delete("auth_token").send().await;
    let (k, n) = visible(answer.is_done());
    assert!(k <= 1 && n == 2, "{answer}");
    let first = paused.elapsed();
    say(&format!("with a peer that does not answer a logout takes {first:?}"));
    assert!(first < ANSWER_TIME_MAX, "it takes {first:?}");
    crowd.delete("auth_token/others").send().await.is_done();
    let shares = out.chunks(out.len().div_ceil(4)).enumerate();
    join_all(shares.map(async |(n, share)| {
        for session in share {
            session.at([a, b][n % 2]).delete("auth_token").send().await.is_done();
        }
    }))
    .await;
    whole.at(b).delete("auth_token/all").send().await.is_done();
    out.extend(more);
    out.extend([whole, one_of_it]);
    is_out_at_once([a, b], &out[out.len() - 1]).await;
    // At least until it is too old to decide, and in any case until the others have missed it.
    cluster.is_missed(a, "c").await;
    cluster.is_missed(b, "c").await;
    eventually(START_TIMEOUT, "a few seconds have passed", async || {
        (paused.elapsed() > Duration::from_secs(5)).then_some(())
    })
    .await;
    let asked = asked_while_paused(c, &out[..connections]).await;
    say(&format!("paused for {:?}, missed {} facts", paused.elapsed(), SILENT + out.len()));

    c.resume();
    let resumed = Instant::now();
    let mut refused = 0;
    let mut undecided = 0;
    let mut stale = 0;
    let mut is_right = |status: u16, stale_ms: Option<u64>| match (status, policy, stale_ms) {
        (401, ..) => refused += 1,
        (503, "closed", _) => undecided += 1,
        (200, "open", Some(_)) => stale += 1,
        other => panic!("{other:?}, {:?} after it went on", resumed.elapsed()),
    };
    for mut raw in asked {
        let Reply::Answer { status, head, .. } = raw.reply(START_TIMEOUT).await else { panic!("no answer") };
        let stale = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("palisade-stale:")?.trim().parse().ok());
        is_right(status, stale);
    }
    let caught_up = eventually(START_TIMEOUT, "all is refused", async || {
        let start = resumed.elapsed();
        let mut all = true;
        for session in &out {
            let answer = c.validate(&session.access).await;
            if answer.status == 503 {
                answer.is_error(503, "Revocation state is too old to decide");
            }
            is_right(answer.status, stale_ms(&answer));
            all &= answer.status == 401;
        }
        all.then_some(start)
    })
    .await;
    say(&format!(
        "{policy}: all is refused {caught_up:?} after it went on; before that {undecided} times 503, {stale} times \
         200 with Palisade-Stale, {refused} times 401"
    ));
    assert!(caught_up < CATCH_UP_TIMEOUT, "only after {caught_up:?}");
    // And what lives is taken again.
    let fresh = people[0].in_another_session().await;
    eventually(CATCH_UP_TIMEOUT, "it decides again", async || {
        let answer = c.validate(&fresh.access).await;
        (answer.status == 200 && stale_ms(&answer).is_none()).then_some(())
    })
    .await;
    cluster.is_together().await;
    fresh.at(c).delete("auth_token").send().await.is_done();
    is_out_at_once([c], &fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_node_reports_staleness_until_it_catches_up() {
    paused_under("open").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_strict_node_decides_nothing_until_it_catches_up() {
    paused_under("closed").await;
}
