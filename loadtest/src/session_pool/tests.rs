//! Tests: which answers are wrong, and which are not.

use super::*;
use crate::answer::{Parsed, Visible, parse};

const TTL: Nanos = 900 * SECOND;
const GOOD: &str = "eyJg.good-good-good-good.signature-signature";
const REVOKED_TOKEN: &str = "eyJd.dead-dead-dead-dead.signature-signature";

fn pool(mix: &[(RequestKind, f64)], targets: usize, refused: RefusedAt) -> SessionPool {
    let target = |n| crate::target::parse(&format!("http://127.0.0.1:{}", 1 + n), false).unwrap();
    let targets = (0..targets).map(target).collect();
    let permissions = Permissions::new("lt", &mut Random::new(1));
    let context = PoolContext::new(
        targets,
        "pw".into(),
        permissions,
        vec![mix.to_vec()],
        BatchPlan { size: 3, kinds: mix.to_vec() },
        0.0,
    );
    let session = Session {
        user: 0,
        tokens: vec![Token { text: GOOD.into(), until: TTL }],
        refresh: Some("prt_first".into()),
        state: State::Alive,
        epoch: 0,
    };
    let share = PoolShare {
        part: Part { index: 0, count: 1 },
        users: vec![User { email: "a@b".into(), permissions: 0b101 }],
        sessions: vec![session],
        revoked: vec![RevokedToken { text: REVOKED_TOKEN.into(), refused }],
        expired: vec!["eyJx.expired.sig".into()],
    };
    SessionPool::new(Arc::new(context), share, 7, 0)
}

fn route(target: usize) -> Route {
    Route { lane: 0, target }
}

fn ask(pool: &mut SessionPool, kind: RequestKind, target: usize, now: Nanos) -> (InFlight, String) {
    let mut out = Vec::new();
    let mut request = pool.request_of_kind(kind, route(target), now, &mut out).expect("something to ask");
    request.due = now;
    request.sent = now;
    (request, String::from_utf8(out).unwrap())
}

fn judge(pool: &mut SessionPool, request: &InFlight, head: &str, body: &str, now: Nanos) -> Judgement {
    let text = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut scratch = Vec::new();
    let Parsed::Whole { answer, .. } = parse(text.as_bytes(), &mut scratch) else { panic!("{text}") };
    pool.judge(request, &answer, now)
}

fn answer(pool: &mut SessionPool, kind: RequestKind, target: usize, head: &str, body: &str) -> Judgement {
    let (request, _) = ask(pool, kind, target, 0);
    judge(pool, &request, head, body, 1)
}

fn is_wrong(verdict: &Judgement) -> bool {
    matches!(verdict, Judgement::Wrong(_))
}

const REVOKED: &str = r#"{"msg":"Token has been revoked"}"#;
const VALID: &str = r#"{"msg":"Token is valid"}"#;
const PAIR: &str = r#"{"access_token":"eyJn.new.sig","refresh_token":"prt_second","expires_in":900}"#;

#[test]
fn good_token_must_be_accepted() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    assert_eq!(answer(&mut pool, RequestKind::Validate, 0, "200 OK", VALID), Judgement::Correct);
    assert!(is_wrong(&answer(&mut pool, RequestKind::Validate, 0, "401 Unauthorized", REVOKED)));
    assert!(is_wrong(&answer(&mut pool, RequestKind::Validate, 0, "422 Unprocessable", "{}")));
    for status in [503, 429, 500, 404] {
        let verdict = answer(&mut pool, RequestKind::Validate, 0, &format!("{status} x"), "{}");
        assert_eq!(verdict, Judgement::Failed(ErrorKind::Status(status)), "unknown is not inactive");
    }
}

#[test]
fn logout_in_flight_allows_both_answers() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 2, RefusedAt::Unknown);
    let second = Session {
        user: 0,
        tokens: vec![Token { text: "eyJo.other-other-other.signature".into(), until: TTL }],
        refresh: None,
        state: State::Alive,
        epoch: 0,
    };
    pool.sessions.push(second);
    pool.zipf = Zipf::new(1, 0.0, Part { index: 0, count: 1 });
    let (before, _) = ask(&mut pool, RequestKind::Validate, 1, 0);
    assert_eq!(before.subject, 0);
    pool.sessions[1].state = State::LoggingIn;
    let (logout, text) = ask(&mut pool, RequestKind::Logout, 0, 1);
    assert!(text.starts_with("DELETE /api/v1/auth_token HTTP/1.1\r\n") && text.contains(GOOD), "{text}");
    assert_eq!(judge(&mut pool, &before, "401 x", REVOKED, 2), Judgement::Correct);
    let (after, text) = ask(&mut pool, RequestKind::Validate, 1, 2);
    assert!(after.subject == 1 && !text.contains(GOOD), "a session that is being ended is not used");
    pool.revoked.clear();
    assert_eq!(judge(&mut pool, &logout, "204 x\r\nPalisade-Visible: 1/1", "", 3), Judgement::Correct);
    for target in [0, 1] {
        let (probe, text) = ask(&mut pool, RequestKind::ValidateRevoked, target, 4);
        assert!(text.contains(GOOD));
        assert!(is_wrong(&judge(&mut pool, &probe, "200 OK", VALID, 5)));
        assert_eq!(judge(&mut pool, &probe, "401 x", REVOKED, 5), Judgement::Correct);
        assert_eq!(
            judge(&mut pool, &probe, "200 OK\r\nPalisade-Stale: 40000", VALID, 5),
            Judgement::Failed(ErrorKind::Stale)
        );
        assert_eq!(judge(&mut pool, &probe, "503 x", "{}", 5), Judgement::Failed(ErrorKind::Status(503)));
    }
}

#[test]
fn visible_revocation_must_be_refused() {
    let visible = |acknowledged, nodes| Some(Visible { acknowledged, nodes });
    let by = |visible, target, targets| RefusedAt::from_visible(visible, target, targets, &AtomicU32::new(0));
    assert_eq!(by(visible(0, 0), 0, 1), RefusedAt::Everywhere);
    assert_eq!(by(visible(2, 2), 1, 3), RefusedAt::Everywhere);
    assert_eq!(by(visible(1, 2), 1, 3), RefusedAt::Target(1));
    // The third node was not live, so it promises nothing for when it comes back.
    assert_eq!(by(visible(1, 1), 2, 3), RefusedAt::Target(2));
    assert_eq!(by(None, 2, 3), RefusedAt::Target(2));
    // A proxy before several nodes.
    assert_eq!(by(visible(1, 2), 0, 1), RefusedAt::Unknown);
    // One more node was live before, and may be asked again.
    let largest = AtomicU32::new(0);
    assert_eq!(RefusedAt::from_visible(visible(2, 2), 0, 1, &largest), RefusedAt::Everywhere);
    assert_eq!(RefusedAt::from_visible(visible(1, 1), 0, 1, &largest), RefusedAt::Unknown);
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 2, RefusedAt::Target(1));
    assert_eq!(answer(&mut pool, RequestKind::ValidateRevoked, 0, "200 OK", VALID), Judgement::Correct);
    assert!(is_wrong(&answer(&mut pool, RequestKind::ValidateRevoked, 1, "200 OK", VALID)));
}

#[test]
fn forged_and_expired_tokens_must_be_refused() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    for (kind, right, wrong) in
        [(RequestKind::ValidateForged, "422 x", "401 x"), (RequestKind::ValidateExpired, "401 x", "422 x")]
    {
        assert!(is_wrong(&answer(&mut pool, kind, 0, "200 OK", VALID)));
        assert!(is_wrong(&answer(&mut pool, kind, 0, wrong, "{}")));
        assert_eq!(answer(&mut pool, kind, 0, right, "{}"), Judgement::Correct);
    }
    assert_eq!(
        answer(&mut pool, RequestKind::ValidateForged, 0, "503 x", "{}"),
        Judgement::Failed(ErrorKind::Status(503))
    );
    let (_, text) = ask(&mut pool, RequestKind::ValidateForged, 0, 0);
    assert!(!text.contains(GOOD) && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn every_token_of_a_batch_is_judged() {
    let mix = [
        (RequestKind::Validate, 1.0),
        (RequestKind::ValidateRevoked, 1.0),
        (RequestKind::ValidateForged, 1.0),
    ];
    let mut pool = pool(&mix, 1, RefusedAt::Everywhere);
    let mut wrong = 0;
    for _ in 0..50 {
        let (request, text) = ask(&mut pool, RequestKind::Batch, 0, 0);
        let tokens: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        let tokens = tokens["tokens"].as_array().unwrap().clone();
        assert_eq!(tokens.len(), 3);
        let status = |token: &serde_json::Value| match token.as_str().unwrap() {
            GOOD => 200,
            REVOKED_TOKEN => 401,
            _ => 422,
        };
        let right: Vec<_> = tokens.iter().map(|token| serde_json::json!({"status": status(token)})).collect();
        let right = serde_json::Value::from(right).to_string();
        assert_eq!(judge(&mut pool, &request, "200 OK", &right, 1), Judgement::Correct);
        let (request, _) = ask(&mut pool, RequestKind::Batch, 0, 0);
        let all_good = r#"[{"status":200},{"status":200},{"status":200}]"#;
        wrong += usize::from(is_wrong(&judge(&mut pool, &request, "200 OK", all_good, 1)));
        let (request, _) = ask(&mut pool, RequestKind::Batch, 0, 0);
        assert!(is_wrong(&judge(&mut pool, &request, "200 OK", "[]", 1)));
    }
    assert!(wrong > 30, "{wrong}");
    assert!(pool.batches.is_empty());
}

#[test]
fn check_is_judged_by_the_users_permissions() {
    let mut pool = pool(&[(RequestKind::Check, 1.0)], 1, RefusedAt::Everywhere);
    for _ in 0..100 {
        let (request, _) = ask(&mut pool, RequestKind::Check, 0, 0);
        let holds = pool.context.permissions.queries[request.extra as usize].1.holds(0b101);
        let body = |valid: bool| format!("{{\"valid\":{valid}}}");
        assert_eq!(judge(&mut pool, &request, "200 OK", &body(holds), 1), Judgement::Correct);
        assert!(is_wrong(&judge(&mut pool, &request, "200 OK", &body(!holds), 1)));
        assert_eq!(judge(&mut pool, &request, "200 OK", "{}", 1), Judgement::Failed(ErrorKind::Body));
        assert_eq!(judge(&mut pool, &request, "503 x", "{}", 1), Judgement::Failed(ErrorKind::Status(503)));
    }
}

#[test]
fn refresh_token_is_not_reused_after_a_lost_answer() {
    let mut pool = pool(&[(RequestKind::Refresh, 1.0)], 1, RefusedAt::Everywhere);
    let (request, text) = ask(&mut pool, RequestKind::Refresh, 0, 0);
    assert!(text.contains("Bearer prt_first\r\n"));
    assert_eq!(judge(&mut pool, &request, "200 OK", PAIR, 1), Judgement::Correct);
    let (request, text) = ask(&mut pool, RequestKind::Refresh, 0, 2);
    assert!(text.contains("Bearer prt_second\r\n"));
    pool.on_lost(&request, 3);
    let (request, text) = ask(&mut pool, RequestKind::Refresh, 0, 4);
    assert!(request.kind == RequestKind::Login && !text.contains("prt_"), "{text}");
    assert_eq!(judge(&mut pool, &request, "503 x", "{}", 5), Judgement::Failed(ErrorKind::Status(503)));
    let (request, _) = ask(&mut pool, RequestKind::Login, 0, 6);
    assert!(is_wrong(&judge(&mut pool, &request, "401 x", "{}", 7)), "the password is correct");
}

#[test]
fn unsent_requests_change_nothing() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    let (before, _) = ask(&mut pool, RequestKind::Validate, 0, 0);
    let (request, _) = ask(&mut pool, RequestKind::Refresh, 0, 1);
    pool.on_unsent(&request, 2);
    let (request, text) = ask(&mut pool, RequestKind::Refresh, 0, 3);
    assert!(text.contains("Bearer prt_first\r\n"), "the token is not spent");
    pool.on_unsent(&request, 4);
    let (logout, text) = ask(&mut pool, RequestKind::Logout, 0, 5);
    assert!(logout.kind == RequestKind::Logout && text.contains(GOOD), "{text}");
    pool.on_unsent(&logout, 6);
    assert_eq!(pool.sessions[0].state, State::Alive);
    assert!(is_wrong(&judge(&mut pool, &before, "401 x", REVOKED, 7)), "no session was logged out");
    pool.sessions[0].tokens.clear();
    pool.clear_session(0);
    let (login, _) = ask(&mut pool, RequestKind::Login, 0, 8);
    pool.on_unsent(&login, 9);
    assert_eq!((pool.sessions[0].state, &pool.empty[..]), (State::Empty, &[0][..]));
}

#[test]
fn session_has_one_renewal_with_a_pause() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    let mut out = Vec::new();
    for turn in 0..10 {
        let (request, _) = ask(&mut pool, RequestKind::Refresh, 0, turn);
        pool.on_unsent(&request, turn);
    }
    assert_eq!(pool.renewals.len(), 1);
    let request = pool.request_renewal(route(0), TTL, &mut out).unwrap();
    pool.on_lost(&request, TTL);
    let login = pool.request_renewal(route(0), TTL + 2 * RENEWAL_INTERVAL, &mut out).unwrap();
    assert_eq!(login.kind, RequestKind::Login, "the refresh token may be spent");
    pool.on_lost(&login, TTL + 2 * RENEWAL_INTERVAL);
    assert_eq!(
        pool.request_renewal(route(0), TTL + 2 * RENEWAL_INTERVAL + 1, &mut out).map(|request| request.kind),
        None
    );
    assert_eq!(pool.renewals.len(), 1);
}

#[test]
fn tokens_are_renewed_before_they_expire() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    let mut ask = |now| pool.write_request(route(0), now, &mut Vec::new()).map(|request| request.kind);
    assert_eq!(ask(TTL / 2), Some(RequestKind::Validate));
    assert_eq!(ask(TTL / 4 * 3 + 1), Some(RequestKind::Refresh));
    assert_eq!(ask(TTL / 4 * 3 + 2), Some(RequestKind::Validate), "the old token is still good");
    assert_eq!(ask(TTL), None, "a token is not used when it expires");
}

#[test]
fn fast_clock_may_expire_a_token_early() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    let expired = r#"{"msg":"Token has expired"}"#;
    let (request, _) = ask(&mut pool, RequestKind::Validate, 0, TTL - 30 * SECOND);
    let verdict = judge(&mut pool, &request, "401 x", expired, TTL - 30 * SECOND);
    assert_eq!(verdict, Judgement::Failed(ErrorKind::Status(401)));
    assert!(is_wrong(&answer(&mut pool, RequestKind::Validate, 0, "401 x", expired)), "its token lives long");
}

#[test]
fn descriptions_hold_no_token() {
    let mut pool = pool(&[(RequestKind::Validate, 1.0)], 1, RefusedAt::Everywhere);
    let echo = format!(r#"{{"msg":"no: {GOOD}"}}"#);
    let Judgement::Wrong(what) = answer(&mut pool, RequestKind::Validate, 0, "401 x", &echo) else {
        panic!()
    };
    assert_eq!(what, "validate with a good token: 401");
}
