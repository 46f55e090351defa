//! What a node keeps when its wall clock jumps, with upkeep and restarts in between.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{Node, Person, Shift, fresh};

const HOUR: i32 = 3_600;
const MINUTE: i32 = 60;
const RIGHT: Shift = Shift { wall: 0, boot: 0 };

/// The wall clock is wrong by so many seconds.
const fn jumped(wall: i32) -> Shift {
    Shift { wall, boot: 0 }
}

/// So many seconds have gone by.
const fn later(secs: i32) -> Shift {
    Shift { wall: secs, boot: secs }
}

async fn node() -> Node {
    Node::builder().clocks(RIGHT).start().await
}

async fn is_revoked(person: &Person) {
    person.validate().await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn revoked_token_stays_revoked_over_jumps() {
    let node = node().await;
    let (ann, bob, eve) =
        (node.register("ann").await, node.register("bob").await, node.register("eve").await);
    ann.delete("auth_token").send().await.is_done();
    bob.delete("auth_token/all").send().await.is_done();
    for wall in [HOUR, 0, -HOUR, 0, 40 * 24 * HOUR, 0] {
        node.move_clocks(jumped(wall)).await;
        node.has_forgotten_what_it_may().await;
        for person in [&ann, &bob] {
            // By a clock that is behind, the token is of the future.
            let expected = if wall < 0 { 422 } else { 401 };
            assert_eq!(person.validate().await.status, expected, "{wall}");
        }
    }
    for person in [&ann, &bob] {
        is_revoked(person).await;
    }
    node.restart().await;
    for person in [&ann, &bob] {
        is_revoked(person).await;
    }
    eve.is_in().await;
    eve.refreshed().await.is_in().await;
}

#[tokio::test]
async fn clock_jump_is_counted_and_logged() {
    let node = node().await;
    assert_eq!(node.metric("palisade_clock_jumps_total").await, Some(0.0));
    node.move_clocks(jumped(HOUR)).await;
    node.has_forgotten_what_it_may().await;
    assert_eq!(node.metric("palisade_clock_jumps_total").await, Some(1.0));
    let offset = node.metric("palisade_clock_offset_seconds").await.unwrap();
    assert!((3_595.0..=3_605.0).contains(&offset), "{offset}");
    node.logs_with("the wall clock jumped").await;
    node.move_clocks(RIGHT).await;
    node.has_forgotten_what_it_may().await;
    assert_eq!(node.metric("palisade_clock_jumps_total").await, Some(2.0));
    assert_eq!(node.metric("palisade_clock_offset_seconds").await, Some(0.0));
}

/// The session's denial lasts as long as the token, whose end the clock that issued it put an hour later.
#[tokio::test]
async fn token_of_a_fast_clock_is_revoked_until_its_end() {
    let node = Node::builder().clocks(jumped(HOUR)).start().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    // Not the token with the latest end: the session has one of before, too.
    node.move_clocks(RIGHT).await;
    let next = ann.refreshed().await;
    next.delete("auth_token").send().await.is_done();
    bob.delete("auth_token/all").send().await.is_done();
    // A clock that was not wrong would have forgotten by then.
    for minutes in [20, 50, 62, 70] {
        node.move_clocks(later(minutes * MINUTE)).await;
        node.has_forgotten_what_it_may().await;
        // A token of the future that was not seen before is refused as such (422).
        let is_refused = async |person: &Person| match person.validate().await.status {
            422 => assert!(minutes < 60, "{minutes}"),
            _ => is_revoked(person).await,
        };
        is_refused(&ann).await;
        is_refused(&bob).await;
        node.restart().await;
        is_refused(&ann).await;
        is_refused(&bob).await;
    }
    node.move_clocks(later(80 * MINUTE)).await;
    ann.validate().await.is_error(401, "Token has expired");
}

#[tokio::test]
async fn expired_revoked_token_stays_refused_when_clock_goes_back() {
    let node = node().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    ann.delete("auth_token").send().await.is_done();
    node.move_clocks(later(3 * HOUR)).await;
    let denials = async || node.metric("palisade_denials{kind=\"session\"}").await;
    node.has_forgotten_what_it_may().await;
    assert_eq!(denials().await, Some(0.0), "it is forgotten in the end");
    // To when the token had not expired.
    node.move_clocks(Shift { wall: 5 * MINUTE, boot: 3 * HOUR }).await;
    ann.validate().await.is_error(401, "Token has expired");
    node.restart().await;
    ann.validate().await.is_error(401, "Token has expired");
    // What is issued now is good, though the clock is behind what it was.
    let again = bob.refreshed().await;
    again.is_in().await;
    again.delete("auth_token").send().await.is_done();
    is_revoked(&again).await;
}

#[tokio::test]
async fn clock_forty_days_ahead_deletes_nothing() {
    let node = node().await;
    let ann = node.register("ann").await;
    let other = ann.in_another_session().await;
    let (sessions, logins) =
        (ann.list("sessions", "users/me/sessions").await, ann.list("logins", "users/me/logins").await);
    let keys = node.published_kids().await;
    node.move_clocks(jumped(40 * 24 * HOUR)).await;
    node.has_forgotten_what_it_may().await;
    node.restart().await;
    node.has_forgotten_what_it_may().await;
    node.move_clocks(RIGHT).await;
    assert_eq!(ann.list("sessions", "users/me/sessions").await, sessions);
    assert_eq!(ann.list("logins", "users/me/logins").await, logins);
    assert_eq!(node.published_kids().await, keys);
    for person in [&ann, &other] {
        person.is_in().await;
        person.refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn clock_jump_within_the_grace_ends_no_session() {
    for wall in [HOUR, -HOUR] {
        let node = node().await;
        let ann = node.register("ann").await;
        let next = ann.refreshed().await;
        node.move_clocks(jumped(wall)).await;
        let again = node.refresh(&ann.refresh).await;
        assert_eq!(again.is(200).json()["refresh_token"], json!(next.refresh), "one successor");
        node.move_clocks(RIGHT).await;
        next.is_in().await;
        next.refreshed().await.is_in().await;
    }
}

/// The contract's minute: a token that was issued later than that is refused as one of another node would be.
#[tokio::test]
async fn own_token_of_the_future_is_refused() {
    let node = Node::builder().clocks(jumped(5 * MINUTE)).start().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    ann.is_in().await;
    node.move_clocks(RIGHT).await;
    let refused = ann.validate().await;
    refused.is_error(422, "Signature verification failed");
    ann.get("users/me").send().await.is_refused(422);
    let as_refresh = node.refresh(&ann.access).await;
    as_refresh.is_error(422, "Signature verification failed");
    // It may still log itself out.
    bob.delete("auth_token").send().await.is_done();
    // A refresh gives a token of now, and the other one is good when its time has come.
    ann.refreshed().await.is_in().await;
    node.move_clocks(later(4 * MINUTE + 30)).await;
    ann.is_in().await;
    is_revoked(&bob).await;
}

#[tokio::test]
async fn spent_token_ends_its_session_after_the_grace_and_a_jump() {
    let node = node().await;
    let ann = node.register("ann").await;
    node.move_clocks(jumped(HOUR)).await;
    let next = ann.refreshed().await;
    node.move_clocks(later(30)).await;
    node.refresh(&ann.refresh).await.is_error(401, "Token has been revoked");
    node.refresh(&next.refresh).await.is_error(401, "Token has been revoked");
}

#[tokio::test]
async fn lock_of_an_account_lasts_over_jumps() {
    let node = Node::builder().setting("LOGIN_ACCOUNT_FAILURES", "2/15m").clocks(RIGHT).start().await;
    let ann = node.register("ann").await;
    let log_in = async |password: &str| {
        let body = json!({"email": ann.email, "password": password});
        node.post("auth_token").json(&body).send().await.status
    };
    for _ in 0..2 {
        assert_eq!(log_in("a wrong password").await, 401);
    }
    for wall in [HOUR, 0, -HOUR, 0] {
        node.move_clocks(jumped(wall)).await;
        assert_eq!(log_in(&ann.password).await, 429, "{wall}");
    }
    node.move_clocks(later(61)).await;
    assert_eq!(log_in(&ann.password).await, 200, "a jump draws no lock out either");
}

/// The clock jumps by an hour both ways again and again, with restarts in between: of many revoked tokens none
/// is accepted at any moment, and no session is lost. `CLOCK_TOKENS` and `CLOCK_SECONDS` make it longer.
#[tokio::test]
async fn jumping_clock_passes_no_revoked_token_and_ends_no_session() {
    let number = |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let count = number("CLOCK_TOKENS", 400);
    let seconds = number("CLOCK_SECONDS", 8);
    let node = node().await;
    let name = fresh("ann");
    let ann = node.register(&name).await;
    // Some sessions each of which refreshes many times: each token is its own.
    let sessions = join_all((0..4).map(|_| ann.in_another_session())).await;
    let revoke = async |session: Person| {
        let mut tokens = vec![session.access.clone()];
        let mut at = session;
        while tokens.len() < usize::try_from(count / 4).unwrap() {
            at = at.refreshed().await;
            tokens.push(at.access.clone());
        }
        at.delete("auth_token").send().await.is_done();
        tokens
    };
    let revoked: Vec<String> = join_all(sessions.into_iter().map(revoke)).await.concat();
    let kept = join_all((0..3).map(|_| node.register("eve"))).await;
    let start = Instant::now();
    let mut round = 0_u32;
    let mut checked = 0_usize;
    while start.elapsed() < Duration::from_secs(seconds) {
        let wall = [HOUR, 0, -HOUR, 0][usize::try_from(round % 4).unwrap()];
        node.move_clocks(jumped(wall)).await;
        if round % 5 == 4 {
            if round.is_multiple_of(2) {
                node.kill_dash_9();
            }
            node.restart().await;
        }
        // A token of now, by whatever clock.
        let caller = Person::log_in(&node, &kept[0].email, &kept[0].password).await;
        for tokens in revoked.chunks(1_000) {
            let answer =
                caller.post("auth_token/validation/batch").json(&json!({"tokens": tokens})).send().await;
            let verdicts = answer.is(200).json();
            let verdicts = verdicts.as_array().unwrap();
            assert!(verdicts.iter().all(|verdict| verdict["status"] != 200), "{wall}");
            checked += verdicts.len();
        }
        round += 1;
    }
    node.move_clocks(RIGHT).await;
    for session in &kept {
        session.is_in().await;
        session.refreshed().await.is_in().await;
    }
    assert!(round >= 4 && checked > 0, "{round} rounds");
    if count > 1_000 {
        let jumps = node.metric("palisade_clock_jumps_total").await;
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!(
                "{} tokens, {round} rounds, {checked} verdicts, jumps of the last life: {jumps:?}\n",
                revoked.len()
            )
            .as_bytes(),
        );
    }
}
