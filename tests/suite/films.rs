//! `films`, the service in `compose/films` that shows how to use Palisade: what it promises to its callers.

mod degraded;
mod process;
mod shown;

use serde_json::Value;
use testkit::{Answer, standin::Reply};

/// The ratings of the films in an answer.
#[track_caller]
fn ratings(answer: &Answer) -> Vec<f64> {
    let films = answer.is(200).json();
    let films = films.as_array().unwrap_or_else(|| panic!("no array\n{answer}"));
    films.iter().map(|film| film["rating"].as_f64().expect("a rating")).collect()
}

/// The caller got the films that are open to all, and no others.
#[track_caller]
fn shows_open_films(answer: &Answer) {
    let ratings = ratings(answer);
    assert!(!ratings.is_empty() && ratings.iter().all(|rating| *rating <= 7.0), "{answer}");
}

/// The caller got all films, and not because of a failure.
#[track_caller]
fn shows_all_films(answer: &Answer) {
    assert!(ratings(answer).iter().any(|rating| *rating > 7.0), "{answer}");
    assert_eq!(answer.header("x-auth-degraded"), None, "{answer}");
}

/// What Palisade says of a holder of the permission.
fn pro() -> Reply {
    Reply::json(200, &serde_json::json!({"valid": true}))
}

/// An error in Palisade's form.
fn refusal(status: u16, msg: &str, code: &str) -> Reply {
    Reply::json(status, &serde_json::json!({"msg": msg, "code": code, "request_id": "1"}))
}

/// The names of the films in an answer.
fn ids(answer: &Answer) -> Vec<String> {
    let films = answer.json();
    let id = |film: &Value| film["id"].as_str().expect("an id").to_owned();
    films.as_array().expect("an array").iter().map(id).collect()
}
