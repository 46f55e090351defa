//! `kill -9` under a load of writes: every write that returned is stored.
//!
//! The test binary starts itself as the process that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use futures_util::future::join_all;
use schema::{
    LoginId, NodeId, Timestamp, UserId,
    ledger::{Entry, Origin},
    login::{Login, MAX_LOGINS},
    user::User,
};
use store::{
    Created,
    conformance::sample::{Samples, head, pages},
};
use store_redb::{OpenError, open};
use tempfile::TempDir;

const STORE: &str = "PALISADE_CRASH_TEST_STORE";
const FROM: &str = "PALISADE_CRASH_TEST_FROM";
const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);
const WRITERS: u64 = 32;
const ORIGIN: Origin = Origin { node: NodeId::from_bytes([7; 16]), incarnation: 1 };

fn user(n: u64) -> User {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    let sample = Samples::at(NOW).user_with(&format!("user{n}@example.org"));
    User { id: UserId::from_bytes(id), ..sample }
}

fn login(n: u64) -> Login {
    let user = user(n).id;
    Login { id: LoginId::from_bytes(*user.as_bytes()), ..Samples::at(NOW).login(user) }
}

fn entry(n: u64) -> Entry {
    Samples::at(NOW).entry(ORIGIN, n)
}

/// Not a test by itself: the process that is killed. It prints a number once the user, the login and the
/// ledger entry of that number are stored.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the tests below, in a process of its own"]
async fn writes_until_it_is_killed() {
    let (Ok(path), Ok(from)) = (env::var(STORE), env::var(FROM)) else { return };
    let from: u64 = from.parse().unwrap();
    let stores = &open(Path::new(&path)).await.unwrap().stores;
    join_all((0..WRITERS).map(async |writer| {
        for round in 0.. {
            let n = from + round * WRITERS + writer;
            assert_eq!(stores.users.create(&user(n)).await.unwrap(), Created::Done);
            stores.logins.record(&login(n), MAX_LOGINS).await.unwrap();
            stores.ledger.append(&[entry(n)], &[head(ORIGIN, n)]).await.unwrap();
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "\nstored {n}").unwrap();
            stdout.flush().unwrap();
        }
    }))
    .await;
}

fn writer(path: &Path, from: u64) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"]);
    command.env(STORE, path).env(FROM, from.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

/// The next printed number; `None` once the process is gone.
fn next(said: &mut BufReader<ChildStdout>) -> Option<u64> {
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 {
        // A line that the kill cut off does not count.
        if let Some(n) = line.strip_suffix('\n').and_then(|line| line.strip_prefix("stored ")) {
            return Some(n.parse().unwrap());
        }
        line.clear();
    }
    None
}

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    (directory, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_answered_survives_kill_9() {
    let (_directory, path) = place();
    let mut answered = BTreeSet::new();
    for (round, kill_after) in [1, 40, 333, 1_000, 7].into_iter().enumerate() {
        let (mut child, mut said) = writer(&path, 1 + 1_000_000 * round as u64);
        for _ in 0..kill_after {
            answered.insert(next(&mut said).expect("the writer runs"));
        }
        child.kill().unwrap();
        while let Some(n) = next(&mut said) {
            answered.insert(n);
        }
        child.wait().unwrap();

        let stores = open(&path).await.unwrap().stores;
        for n in &answered {
            assert_eq!(stores.users.get(user(*n).id).await.unwrap(), Some(user(*n)), "round {round}");
            let logins = pages(10, |page| stores.logins.list(user(*n).id, page)).await;
            assert_eq!(logins, [login(*n)], "round {round}");
            assert_eq!(stores.ledger.entries(ORIGIN, n - 1, 1).await.unwrap(), [entry(*n)], "round {round}");
        }
        let heads = stores.ledger.heads().await.unwrap();
        assert!(heads[0].seq >= *answered.last().unwrap());
        // A write that did not return is stored either whole or not at all.
        for stored in pages(200, |page| stores.users.list(page)).await {
            let claim = stores.users.by_email(&stored.email.folded()).await.unwrap();
            assert_eq!(claim.as_ref(), Some(&stored), "a user has its email");
        }
    }
    assert!(answered.len() >= 1_381);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_of_another_process_is_rejected_until_its_end() {
    let (_directory, path) = place();
    let (mut child, mut said) = writer(&path, 1);
    next(&mut said).expect("the writer runs");
    let error = open(&path).await.expect_err("the other process has it");
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(&path).await.unwrap();
}
