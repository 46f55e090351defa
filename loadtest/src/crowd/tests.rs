//! Which answers are wrong, and which are not.

use super::*;
use crate::answer::{Parsed, parse};

const TTL: Nanos = 900 * SECOND;
const GOOD: &str = "eyJg.good-good-good-good.signature-signature";
const DEAD_TOKEN: &str = "eyJd.dead-dead-dead-dead.signature-signature";

fn crowd(mix: &[(Deed, f64)], targets: usize, refused: Refused) -> Crowd {
    let target = |n| crate::target::parse(&format!("http://127.0.0.1:{}", 1 + n), false).unwrap();
    let targets = (0..targets).map(target).collect();
    let permissions = Permissions::new("lt", &mut Random::new(1));
    let common = Common::new(targets, "pw".into(), permissions, vec![mix.to_vec()], (3, mix.to_vec()), 0.0);
    let session = Session {
        user: 0,
        tokens: vec![Token { text: GOOD.into(), until: TTL }],
        refresh: Some("prt_first".into()),
        state: State::Alive,
        epoch: 0,
    };
    let seeds = Seeds {
        place: (0, 1),
        users: vec![User { email: "a@b".into(), permissions: 0b101 }],
        sessions: vec![session],
        dead: vec![Dead { text: DEAD_TOKEN.into(), refused }],
        expired: vec!["eyJx.expired.sig".into()],
    };
    Crowd::new(Arc::new(common), seeds, 7, 0)
}

fn spot(target: usize) -> Spot {
    Spot { lane: 0, target }
}

fn ask(crowd: &mut Crowd, deed: Deed, target: usize, now: Nanos) -> (Note, String) {
    let mut out = Vec::new();
    let mut note = crowd.do_it(deed, spot(target), now, &mut out).expect("something to ask");
    (note.due, note.sent) = (now, now);
    (note, String::from_utf8(out).unwrap())
}

fn judge(crowd: &mut Crowd, note: &Note, head: &str, body: &str, now: Nanos) -> Verdict {
    let text = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut scratch = Vec::new();
    let Parsed::Whole { answer, .. } = parse(text.as_bytes(), &mut scratch) else { panic!("{text}") };
    crowd.answered(note, &answer, now)
}

fn answer(crowd: &mut Crowd, deed: Deed, target: usize, head: &str, body: &str) -> Verdict {
    let (note, _) = ask(crowd, deed, target, 0);
    judge(crowd, &note, head, body, 1)
}

fn is_wrong(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Wrong(_))
}

const REVOKED: &str = r#"{"msg":"Token has been revoked"}"#;
const VALID: &str = r#"{"msg":"Token is valid"}"#;
const PAIR: &str = r#"{"access_token":"eyJn.new.sig","refresh_token":"prt_second","expires_in":900}"#;

#[test]
fn a_good_token_must_be_taken() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    assert_eq!(answer(&mut crowd, Deed::Valid, 0, "200 OK", VALID), Verdict::Right);
    assert!(is_wrong(&answer(&mut crowd, Deed::Valid, 0, "401 Unauthorized", REVOKED)));
    assert!(is_wrong(&answer(&mut crowd, Deed::Valid, 0, "422 Unprocessable", "{}")));
    for status in [503, 429, 500, 404] {
        let verdict = answer(&mut crowd, Deed::Valid, 0, &format!("{status} x"), "{}");
        assert_eq!(verdict, Verdict::Failed(Fault::Status(status)), "unknown is not inactive");
    }
}

#[test]
fn a_logout_under_way_excuses_a_refusal_and_an_answered_one_demands_it() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 2, Refused::Unknown);
    let second = Session {
        user: 0,
        tokens: vec![Token { text: "eyJo.other-other-other.signature".into(), until: TTL }],
        refresh: None,
        state: State::Alive,
        epoch: 0,
    };
    crowd.sessions.push(second);
    crowd.zipf = Zipf::new(1, 0.0, (0, 1));
    let (before, _) = ask(&mut crowd, Deed::Valid, 1, 0);
    assert_eq!(before.subject, 0);
    crowd.sessions[1].state = State::LoggingIn;
    let (logout, text) = ask(&mut crowd, Deed::Logout, 0, 1);
    assert!(text.starts_with("DELETE /api/v1/auth_token HTTP/1.1\r\n") && text.contains(GOOD), "{text}");
    assert_eq!(judge(&mut crowd, &before, "401 x", REVOKED, 2), Verdict::Right);
    let (after, text) = ask(&mut crowd, Deed::Valid, 1, 2);
    assert!(after.subject == 1 && !text.contains(GOOD), "what is being ended is not shown as good");
    crowd.dead.clear();
    assert_eq!(judge(&mut crowd, &logout, "204 x\r\nPalisade-Visible: 1/1", "", 3), Verdict::Right);
    for target in [0, 1] {
        let (probe, text) = ask(&mut crowd, Deed::Revoked, target, 4);
        assert!(text.contains(GOOD));
        assert!(is_wrong(&judge(&mut crowd, &probe, "200 OK", VALID, 5)));
        assert_eq!(judge(&mut crowd, &probe, "401 x", REVOKED, 5), Verdict::Right);
        assert_eq!(
            judge(&mut crowd, &probe, "200 OK\r\nPalisade-Stale: 40000", VALID, 5),
            Verdict::Failed(Fault::Stale)
        );
        assert_eq!(judge(&mut crowd, &probe, "503 x", "{}", 5), Verdict::Failed(Fault::Status(503)));
    }
}

#[test]
fn a_promise_is_what_was_visible() {
    let by = |visible, target, targets| Refused::by(visible, target, targets, &AtomicU32::new(0));
    assert_eq!(by(Some((0, 0)), 0, 1), Refused::Everywhere);
    assert_eq!(by(Some((2, 2)), 1, 3), Refused::Everywhere);
    assert_eq!(by(Some((1, 2)), 1, 3), Refused::At(1));
    // The third node was not alive: what it does when it comes back was not promised.
    assert_eq!(by(Some((1, 1)), 2, 3), Refused::At(2));
    assert_eq!(by(None, 2, 3), Refused::At(2));
    // A proxy before several nodes.
    assert_eq!(by(Some((1, 2)), 0, 1), Refused::Unknown);
    // Of which one was alive before, and may be asked again.
    let largest = AtomicU32::new(0);
    assert_eq!(Refused::by(Some((2, 2)), 0, 1, &largest), Refused::Everywhere);
    assert_eq!(Refused::by(Some((1, 1)), 0, 1, &largest), Refused::Unknown);
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 2, Refused::At(1));
    assert_eq!(answer(&mut crowd, Deed::Revoked, 0, "200 OK", VALID), Verdict::Right);
    assert!(is_wrong(&answer(&mut crowd, Deed::Revoked, 1, "200 OK", VALID)));
}

#[test]
fn forged_and_expired_tokens_must_be_refused() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    for (deed, right, wrong) in [(Deed::Forged, "422 x", "401 x"), (Deed::Expired, "401 x", "422 x")] {
        assert!(is_wrong(&answer(&mut crowd, deed, 0, "200 OK", VALID)));
        assert!(is_wrong(&answer(&mut crowd, deed, 0, wrong, "{}")));
        assert_eq!(answer(&mut crowd, deed, 0, right, "{}"), Verdict::Right);
    }
    assert_eq!(answer(&mut crowd, Deed::Forged, 0, "503 x", "{}"), Verdict::Failed(Fault::Status(503)));
    let (_, text) = ask(&mut crowd, Deed::Forged, 0, 0);
    assert!(!text.contains(GOOD) && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn every_token_of_a_batch_is_judged() {
    let mix = [(Deed::Valid, 1.0), (Deed::Revoked, 1.0), (Deed::Forged, 1.0)];
    let mut crowd = crowd(&mix, 1, Refused::Everywhere);
    let mut wrong = 0;
    for _ in 0..50 {
        let (note, text) = ask(&mut crowd, Deed::Batch, 0, 0);
        let tokens: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        let tokens = tokens["tokens"].as_array().unwrap().clone();
        assert_eq!(tokens.len(), 3);
        let status = |token: &serde_json::Value| match token.as_str().unwrap() {
            GOOD => 200,
            DEAD_TOKEN => 401,
            _ => 422,
        };
        let right: Vec<_> = tokens.iter().map(|token| serde_json::json!({"status": status(token)})).collect();
        let right = serde_json::Value::from(right).to_string();
        assert_eq!(judge(&mut crowd, &note, "200 OK", &right, 1), Verdict::Right);
        let (note, _) = ask(&mut crowd, Deed::Batch, 0, 0);
        let all_good = r#"[{"status":200},{"status":200},{"status":200}]"#;
        wrong += usize::from(is_wrong(&judge(&mut crowd, &note, "200 OK", all_good, 1)));
        let (note, _) = ask(&mut crowd, Deed::Batch, 0, 0);
        assert!(is_wrong(&judge(&mut crowd, &note, "200 OK", "[]", 1)));
    }
    assert!(wrong > 30, "{wrong}");
    assert!(crowd.batches.is_empty());
}

#[test]
fn a_check_is_judged_by_what_the_user_has() {
    let mut crowd = crowd(&[(Deed::Check, 1.0)], 1, Refused::Everywhere);
    for _ in 0..100 {
        let (note, _) = ask(&mut crowd, Deed::Check, 0, 0);
        let holds = crowd.common.permissions.queries[note.extra as usize].1.holds(0b101);
        let body = |valid: bool| format!("{{\"valid\":{valid}}}");
        assert_eq!(judge(&mut crowd, &note, "200 OK", &body(holds), 1), Verdict::Right);
        assert!(is_wrong(&judge(&mut crowd, &note, "200 OK", &body(!holds), 1)));
        assert_eq!(judge(&mut crowd, &note, "200 OK", "{}", 1), Verdict::Failed(Fault::Body));
        assert_eq!(judge(&mut crowd, &note, "503 x", "{}", 1), Verdict::Failed(Fault::Status(503)));
    }
}

#[test]
fn a_refresh_token_whose_answer_was_lost_is_never_shown_again() {
    let mut crowd = crowd(&[(Deed::Refresh, 1.0)], 1, Refused::Everywhere);
    let (note, text) = ask(&mut crowd, Deed::Refresh, 0, 0);
    assert!(text.contains("Bearer prt_first\r\n"));
    assert_eq!(judge(&mut crowd, &note, "200 OK", PAIR, 1), Verdict::Right);
    let (note, text) = ask(&mut crowd, Deed::Refresh, 0, 2);
    assert!(text.contains("Bearer prt_second\r\n"));
    crowd.lost(&note, 3);
    let (note, text) = ask(&mut crowd, Deed::Refresh, 0, 4);
    assert!(note.kind == Kind::Login && !text.contains("prt_"), "{text}");
    assert_eq!(judge(&mut crowd, &note, "503 x", "{}", 5), Verdict::Failed(Fault::Status(503)));
    let (note, _) = ask(&mut crowd, Deed::Login, 0, 6);
    assert!(is_wrong(&judge(&mut crowd, &note, "401 x", "{}", 7)), "the password is right");
}

#[test]
fn what_was_never_sent_changes_nothing() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    let (before, _) = ask(&mut crowd, Deed::Valid, 0, 0);
    let (note, _) = ask(&mut crowd, Deed::Refresh, 0, 1);
    crowd.unsent(&note, 2);
    let (note, text) = ask(&mut crowd, Deed::Refresh, 0, 3);
    assert!(text.contains("Bearer prt_first\r\n"), "it is not spent");
    crowd.unsent(&note, 4);
    let (logout, text) = ask(&mut crowd, Deed::Logout, 0, 5);
    assert!(logout.kind == Kind::Logout && text.contains(GOOD), "{text}");
    crowd.unsent(&logout, 6);
    assert_eq!(crowd.sessions[0].state, State::Alive);
    assert!(is_wrong(&judge(&mut crowd, &before, "401 x", REVOKED, 7)), "nobody was logged out");
    crowd.sessions[0].tokens.clear();
    crowd.empty_out(0);
    let (login, _) = ask(&mut crowd, Deed::Login, 0, 8);
    crowd.unsent(&login, 9);
    assert_eq!((crowd.sessions[0].state, &crowd.empty[..]), (State::Empty, &[0][..]));
}

#[test]
fn a_session_is_renewed_by_one_entry_and_not_without_a_pause() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    let mut out = Vec::new();
    for turn in 0..10 {
        let (note, _) = ask(&mut crowd, Deed::Refresh, 0, turn);
        crowd.unsent(&note, turn);
    }
    assert_eq!(crowd.renewals.len(), 1);
    let note = crowd.renew(spot(0), TTL, &mut out).unwrap();
    crowd.lost(&note, TTL);
    let login = crowd.renew(spot(0), TTL + 2 * RENEWAL, &mut out).unwrap();
    assert_eq!(login.kind, Kind::Login, "the refresh token may be spent");
    crowd.lost(&login, TTL + 2 * RENEWAL);
    assert_eq!(crowd.renew(spot(0), TTL + 2 * RENEWAL + 1, &mut out).map(|note| note.kind), None);
    assert_eq!(crowd.renewals.len(), 1);
}

#[test]
fn tokens_are_renewed_before_they_expire() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    let mut ask = |now| crowd.ask(spot(0), now, &mut Vec::new()).map(|note| note.kind);
    assert_eq!(ask(TTL / 2), Some(Kind::Validate));
    assert_eq!(ask(TTL / 4 * 3 + 1), Some(Kind::Refresh));
    assert_eq!(ask(TTL / 4 * 3 + 2), Some(Kind::Validate), "the old one is good meanwhile");
    assert_eq!(ask(TTL), None, "and not used when it expires");
}

#[test]
fn a_token_that_is_about_to_expire_may_be_expired_for_a_node_whose_clock_is_fast() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    let expired = r#"{"msg":"Token has expired"}"#;
    let (note, _) = ask(&mut crowd, Deed::Valid, 0, TTL - 30 * SECOND);
    let verdict = judge(&mut crowd, &note, "401 x", expired, TTL - 30 * SECOND);
    assert_eq!(verdict, Verdict::Failed(Fault::Status(401)));
    assert!(is_wrong(&answer(&mut crowd, Deed::Valid, 0, "401 x", expired)), "it lives long");
}

#[test]
fn no_token_is_in_what_is_said() {
    let mut crowd = crowd(&[(Deed::Valid, 1.0)], 1, Refused::Everywhere);
    let echo = format!(r#"{{"msg":"no: {GOOD}"}}"#);
    let Verdict::Wrong(what) = answer(&mut crowd, Deed::Valid, 0, "401 x", &echo) else { panic!() };
    assert_eq!(what, "validate with a good token: 401");
}
