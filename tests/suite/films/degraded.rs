//! What callers get while Palisade is away, and when it is back. A scripted server is Palisade.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::{
    Films, Standin, eventually,
    standin::{Asked, Reply},
};

use super::{pro, refusal, shows_all_films, shows_open_films};

/// The promise for each answer.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// How many answers in a row are not late.
const LATE_TRIES_MAX: usize = 3;
/// The promise for the way back.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// The promise for the first degraded answer after Palisade vanished.
const DEGRADED_AFTER_MAX: Duration = Duration::from_secs(8);

/// Sends one request, whose answer comes in time, and says whether it was degraded.
async fn is_degraded(films: &Films, token: &str) -> bool {
    let mut late = Vec::new();
    let answer = loop {
        let start = Instant::now();
        let answer = films.shown_to(Some(token)).await;
        if start.elapsed() < ANSWER_MAX {
            break answer;
        }
        late.push(start.elapsed());
        // A busy machine may stop any process for a moment, but not each time.
        assert!(late.len() < LATE_TRIES_MAX, "answers took {late:?}");
    };
    match answer.header("x-auth-degraded") {
        Some("true") => {
            shows_open_films(&answer);
            assert_eq!(answer.header("www-authenticate"), None, "unknown is not inactive: {answer}");
            true
        }
        other => {
            assert_eq!(other, None);
            shows_all_films(&answer);
            false
        }
    }
}

/// Each answer comes in time, soon degraded ones, and from then on all of them.
pub async fn degrades(films: &Films, token: &str) {
    eventually(DEGRADED_AFTER_MAX, "a degraded answer", async || {
        is_degraded(films, token).await.then_some(())
    })
    .await;
    for _ in 0..10 {
        assert!(is_degraded(films, token).await);
    }
    let many = join_all((0..20).map(|_| films.shown_to(Some(token))));
    for answer in tokio::time::timeout(4 * ANSWER_MAX, many).await.expect("many callers are answered in time")
    {
        assert_eq!(answer.header("x-auth-degraded"), Some("true"));
    }
}

/// Answers are in time, and soon no more degraded.
pub async fn recovers(films: &Films, token: &str) {
    let start = Instant::now();
    eventually(RECOVERY_MAX, "recovery", async || (!is_degraded(films, token).await).then_some(())).await;
    assert!(start.elapsed() < RECOVERY_MAX);
    for _ in 0..10 {
        assert!(!is_degraded(films, token).await);
    }
}

/// Breaks Palisade like this, mends it, and breaks it again.
async fn survives(broken: impl Fn(&Asked) -> Reply + Clone + Send + Sync + 'static) {
    let palisade = Standin::start(|_| pro()).await;
    let films = Films::before(palisade.address()).await;
    shows_all_films(&films.shown_to(Some("a.b.c")).await);
    for _ in 0..2 {
        palisade.answers(broken.clone());
        degrades(&films, "a.b.c").await;
        palisade.answers(|_| pro());
        recovers(&films, "a.b.c").await;
    }
}

#[tokio::test]
async fn films_survive_a_palisade_that_hangs() {
    survives(|_| Reply::Never).await;
}

#[tokio::test]
async fn films_survive_a_palisade_that_is_slow() {
    survives(|_| pro().after(Duration::from_secs(1))).await;
}

#[tokio::test]
async fn films_survive_a_palisade_that_says_503() {
    survives(|_| refusal(503, "Not now", "busy").with("retry-after", "1")).await;
}

#[tokio::test]
async fn films_survive_gateways_without_a_palisade() {
    survives(|asked| match asked.nth % 4 {
        0 => Reply::text(502, "<html>Bad Gateway</html>"),
        1 => Reply::text(504, ""),
        2 => Reply::text(401, "<html>log in at the gateway</html>"),
        _ => Reply::text(200, "{}"),
    })
    .await;
}

#[tokio::test]
async fn films_survive_connections_that_are_cut() {
    survives(|_| Reply::Cut).await;
}

#[tokio::test]
async fn films_survive_a_palisade_that_vanishes() {
    let palisade = Standin::start(|_| pro()).await;
    let films = Films::before(palisade.address()).await;
    for _ in 0..2 {
        shows_all_films(&films.shown_to(Some("a.b.c")).await);
        palisade.vanish();
        degrades(&films, "a.b.c").await;
        palisade.returns().await;
        recovers(&films, "a.b.c").await;
    }
}

#[tokio::test]
async fn films_start_before_palisade_does() {
    let palisade = Standin::start(|_| pro()).await;
    palisade.vanish();
    let films = Films::before(palisade.address()).await;
    degrades(&films, "a.b.c").await;
    shows_open_films(&films.shown_to(None).await);
    palisade.returns().await;
    recovers(&films, "a.b.c").await;
}

#[tokio::test]
async fn silent_palisade_is_asked_rarely() {
    let palisade = Standin::start(|_| Reply::Never).await;
    let films = Films::before(palisade.address()).await;
    degrades(&films, "a.b.c").await;
    let before = palisade.asked().len();
    let start = Instant::now();
    eventually(RECOVERY_MAX, "a second without pauses", async || {
        assert!(is_degraded(&films, "a.b.c").await);
        (start.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    // Each probe is a question to one replica, and after 50 ms to another one.
    let probes = palisade.asked().len() - before;
    assert!(probes <= 8, "{probes} questions in a second");
    assert!(films.logs().contains("Palisade is silent"), "{}", films.logs());
}

#[tokio::test]
async fn refusals_of_one_caller_degrade_no_other() {
    let palisade = Standin::start(|asked| match asked.header("authorization") {
        Some("Bearer a.b.c") => pro(),
        _ => refusal(503, "Too many signatures wait", "busy").with("retry-after", "1"),
    })
    .await;
    let films = Films::with(palisade.address(), &[("VERDICT_MAX_AGE_MS", "0")]).await;
    for _ in 0..5 {
        for _ in 0..10 {
            assert!(is_degraded(&films, "forged").await);
        }
        assert!(!is_degraded(&films, "a.b.c").await);
    }
}

#[tokio::test]
async fn another_replica_is_asked_when_one_is_bad() {
    for bad in [Reply::Never, Reply::Cut, refusal(503, "Starting", "starting")] {
        let palisade = Standin::start(move |asked| match asked.nth % 2 {
            0 => bad.clone(),
            _ => pro(),
        })
        .await;
        let films = Films::with(palisade.address(), &[("VERDICT_MAX_AGE_MS", "0")]).await;
        for _ in 0..10 {
            assert!(!is_degraded(&films, "a.b.c").await);
        }
    }
}
