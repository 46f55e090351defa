//! Counts the instructions per answer of the fast path: a guard against regressions that needs no quiet
//! machine. It is part of `cargo test`; run it alone with `cargo test -p node --bench instructions`.
//!
//! A node in this process answers requests on a connection of this process, under valgrind's callgrind, which
//! counts only instructions in `measured`. A count of more than a tenth above that in `instructions.txt`
//! fails; `-- --write` updates the file. The counts are those of the test profile, in which the crates of the
//! fast path are optimised (see the root `Cargo.toml`); they compare versions, not machines.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and fails loudly"
)]

use std::{collections::BTreeMap, fmt::Write as _, hint::black_box, path::Path, process::Command, sync::Arc};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt as _;
use node::{
    app::{App, Purpose},
    http::{
        self,
        fast_path::{FastPath, http1},
    },
    metrics::Metrics,
    settings::{self, Sources},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};
use tower::ServiceExt as _;

/// Requests per write.
const DEPTH: usize = 16;
/// Writes that are counted.
const ROUNDS: usize = 64;
/// The largest allowed ratio of the count to the committed one.
const TOLERANCE: f64 = 1.10;
const QUESTIONS: [&str; 3] = ["validate", "check", "admit"];
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let word = |wanted: &str| words.iter().any(|word| word == wanted);
    if let Some(question) = words.iter().find_map(|word| word.strip_prefix("--measure=")) {
        return measure(question);
    }
    if words.iter().any(|word| !word.starts_with('-')) && !word("instructions") {
        // The filter selects another test.
        return;
    }
    let counted: BTreeMap<_, _> = QUESTIONS.iter().map(|question| (*question, count(question))).collect();
    if word("--write") {
        let mut text = String::new();
        counted.iter().for_each(|(question, count)| writeln!(text, "{question} {count}").unwrap());
        std::fs::write(FILE, text).unwrap();
    }
    let known = std::fs::read_to_string(FILE).expect("benches/instructions.txt: make it with -- --write");
    let mut failed = false;
    for line in known.lines() {
        let (question, known) = line.split_once(' ').expect("a question and a count");
        let known: f64 = known.parse().unwrap();
        let now = counted[question];
        println!(
            "{question:10} {now:6.0} instructions an answer; {:+.1} % of {known:.0}",
            (now / known - 1.0) * 100.0
        );
        failed |= now > known * TOLERANCE;
    }
    assert!(
        !failed,
        "the hot lane takes over a tenth more instructions; if that is right, run it with -- --write"
    );
}

/// Counts one question's instructions in a separate process under callgrind.
fn count(question: &str) -> f64 {
    let out = tempfile::NamedTempFile::new().unwrap();
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*instructions*measured*"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(std::env::current_exe().unwrap())
        .arg(format!("--measure={question}"))
        .output()
        .expect("valgrind counts the instructions: install it");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let counted = std::fs::read_to_string(out.path()).unwrap();
    let total = counted.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a total");
    let total: f64 = total.trim().parse().unwrap();
    assert!(total > 0.0, "nothing was counted: {said}");
    (total / f64::from(u32::try_from(DEPTH * ROUNDS).unwrap())).round()
}

fn measure(question: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let (mut client, request) = runtime.block_on(ready(directory.path(), question));
    let many = request.repeat(DEPTH);
    let length = runtime.block_on(async {
        let mut answer = vec![0; 4096];
        client.write_all(request.as_bytes()).await.unwrap();
        let length = client.read(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&answer[..length]));
        length
    });
    let mut answers = vec![0; length * DEPTH];
    measured(&runtime, &mut client, &many, &mut answers, 4);
    black_box(&answers);
    measured(&runtime, &mut client, &many, &mut answers, ROUNDS - 4);
}

/// The function whose instructions are counted.
#[inline(never)]
fn measured(runtime: &Runtime, client: &mut TcpStream, requests: &str, answers: &mut [u8], rounds: usize) {
    runtime.block_on(async {
        for _ in 0..rounds {
            client.write_all(requests.as_bytes()).await.unwrap();
            client.read_exact(answers).await.unwrap();
        }
    });
}

/// A connection to a node, and a request that it answers with success.
async fn ready(directory: &Path, question: &str) -> (TcpStream, String) {
    let mut sources = Sources::default();
    sources.flags.insert("DATA_DIR", directory.join("data").display().to_string());
    sources.flags.insert("JOURNAL_SIZE", "64KiB".to_owned());
    sources.flags.insert("IDLE_TIMEOUT", "10m".to_owned());
    let app = App::start(settings::read(&sources).unwrap().0, Metrics::new(http::routes())).await.unwrap();
    app.bootstrap(Purpose::Serve).await.unwrap();
    let email = "ann@example.org";
    let password = "walls and gates";
    post(&app, "/api/v1/users", &json!({ "email": email, "password": password })).await;
    let pair = post(&app, "/api/v1/auth_token", &json!({ "email": email, "password": password })).await;
    let path = match question {
        "validate" => "/api/v1/auth_token/validation",
        "check" => {
            "/api/v1/users/me/combined_permissions/validation?permissions=%7B%22any%22%3A%5B%22a%22%2C%7B%22all%22%3A%5B%22b%22%2C%22c%22%5D%7D%5D%7D"
        }
        _ => "/auth_request",
    };
    let token = pair["access_token"].as_str().unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let lane = FastPath::new(&app).await;
    tokio::spawn(async move {
        let (_stop, stopped) = watch::channel(false);
        http1::serve(&lane, stream, peer, stopped, || ()).await
    });
    (client, request)
}

async fn post(app: &Arc<App>, path: &str, body: &Value) -> Value {
    let request = Request::post(path).header("host", "127.0.0.1").header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = http::routers(app).public.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}
