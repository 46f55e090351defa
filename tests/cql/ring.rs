//! A database of three nodes under two Palisade nodes, and clients that never rest: what they notice
//! when one of the three goes, and what when two do.

#![allow(clippy::print_stdout, reason = "what the clients noticed is shown with --nocapture")]

mod proxied;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use testkit::{
    Answer, Client, Node, Person, Request, eventually, fresh,
    servers::{Cassandra, Ring},
    store::MASTER_KEY,
};

/// Number of clients.
const CLIENTS: usize = 4;
/// Sessions that each client keeps for the time when log-ins fail.
const SPARE_SESSIONS: usize = 10;
/// Interval between the requests of one client.
const REQUEST_INTERVAL: Duration = Duration::from_millis(40);
/// Least number of answers in each phase: enough for a 99th percentile.
const ANSWERS_MIN: usize = 600;
/// Longest duration of a phase on a busy machine.
const PHASE_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest time to recover once the database answers again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until a revocation arrives: nodes read the ledger once a second; the rest is for a busy
/// machine.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(30);

/// What the database is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Whole,
    OneIsGone,
    /// Another one is killed, and not every node knows it yet.
    Going,
    TwoAreGone,
    ComingBack,
    WholeAgain,
}

const PHASES: [Phase; 6] =
    [Phase::Whole, Phase::OneIsGone, Phase::Going, Phase::TwoAreGone, Phase::ComingBack, Phase::WholeAgain];

/// One answer, or none.
struct Noticed {
    phase: Phase,
    call: &'static str,
    status: u16,
    took: Duration,
    at: Instant,
}

/// Two nodes, and what clients noticed of what happened below them.
struct World {
    nodes: [Node; 2],
    phase: AtomicUsize,
    noticed: Mutex<Vec<Noticed>>,
    ended: AtomicBool,
}

/// What a client has at the end.
struct Left {
    /// Sessions whose end was answered 204.
    out: Vec<Person>,
    /// Sessions of which no refresh token was spent that it does not know the successor of.
    lives: Vec<Person>,
}

impl World {
    fn phase(&self) -> Phase {
        PHASES[self.phase.load(Ordering::SeqCst)]
    }

    fn begin(&self, phase: Phase) {
        let place = PHASES.iter().position(|one| *one == phase).expect("one of them");
        self.phase.store(place, Ordering::SeqCst);
    }

    /// A phase is over when there were enough answers.
    async fn pass(&self, phase: Phase) {
        self.begin(phase);
        eventually(PHASE_TIMEOUT, &format!("answers while {phase:?}"), async || {
            let noticed = self.noticed.lock().unwrap();
            (noticed.iter().filter(|one| one.phase == phase).count() >= ANSWERS_MIN).then_some(())
        })
        .await;
    }

    /// Asks, and notes what came of it; says in which phase, if in one. Without an answer the test ends.
    async fn ask(&self, call: &'static str, request: Request) -> (Answer, Option<Phase>) {
        let phase = self.phase();
        let start = Instant::now();
        let answer = request.send().await;
        let phase = (self.phase() == phase).then_some(phase);
        if let Some(phase) = phase {
            let noticed = Noticed { phase, call, status: answer.status, took: start.elapsed(), at: start };
            self.noticed.lock().unwrap().push(noticed);
        }
        (answer, phase)
    }

    /// Asks for a token pair, which cannot be had without two of three: 503 then, and never a lie.
    async fn ask_for_tokens(&self, call: &'static str, request: Request) -> Option<(String, String)> {
        let (answer, phase) = self.ask(call, request).await;
        if answer.status == 503 || phase == Some(Phase::TwoAreGone) {
            answer.is_refused(503);
            return None;
        }
        Some(answer.pair())
    }

    /// A client: logs in, asks about itself, refreshes, logs out, on one node and the other.
    async fn live(&self, person: &Person, permission: &str, nth: usize) -> Left {
        let clients = [self.nodes[0].another_client(), self.nodes[1].another_client()];
        let check = format!("users/me/combined_permissions/validation?permissions=%22{permission}%22");
        let credentials = json!({"email": person.email, "password": person.password});
        let mut spare = VecDeque::new();
        for _ in 0..SPARE_SESSIONS {
            spare.push_back(person.in_another_session().await);
        }
        let mut pace = tokio::time::interval(REQUEST_INTERVAL);
        let mut out = Vec::new();
        let mut session = None::<Person>;
        for turn in nth.. {
            if self.ended.load(Ordering::SeqCst) {
                break;
            }
            pace.tick().await;
            let node: &Client = &clients[turn % 2];
            let no_log_in = self.phase() == Phase::TwoAreGone;
            if no_log_in && session.is_none() && turn % 4 > 0 {
                session = spare.pop_front();
            }
            let Some(mut current) = session.take() else {
                let log_in = node.post("auth_token").json(&credentials);
                session = self.ask_for_tokens("log in", log_in).await.map(|pair| person.with_tokens(pair));
                continue;
            };
            for _ in 0..3 {
                pace.tick().await;
                let validation = node.get("auth_token/validation").bearer(&current.access);
                self.ask("validate", validation).await.0.is(200);
            }
            let (answer, _) = self.ask("check", node.get(&check).bearer(&current.access)).await;
            assert_eq!(answer.is(200).json(), json!({"valid": true}));
            let refresh = node.post("auth_token/token_refresh").bearer(&current.refresh);
            if let Some(pair) = self.ask_for_tokens("refresh", refresh).await {
                current = current.with_tokens(pair);
            }
            // Of those that are spare some go on afterwards, with a token that was shown in vain.
            if no_log_in && turn % 8 != 1 {
                spare.push_back(current);
                continue;
            }
            if !no_log_in && turn % 3 > 0 {
                session = Some(current);
                continue;
            }
            let logout = node.delete("auth_token").bearer(&current.access);
            let (answer, phase) = self.ask("log out", logout).await;
            answer.is_done();
            if phase == Some(Phase::TwoAreGone) {
                assert_eq!(answer.header("palisade-durability"), Some("journal"), "{answer}");
            }
            // Here at once.
            let validation = node.get("auth_token/validation").bearer(&current.access);
            let (refused, _) = self.ask("validate what is out", validation).await;
            refused.is_error(401, "Token has been revoked");
            out.push(current);
        }
        Left { out, lives: spare.into_iter().chain(session).collect() }
    }

    /// Prints what was noticed in each phase, by call.
    fn tell(&self) {
        let noticed = self.noticed.lock().unwrap();
        for phase in PHASES {
            let of_it = || noticed.iter().filter(move |one| one.phase == phase);
            let refused = of_it().filter(|one| one.status >= 500).map(|one| one.at).max();
            if let (Some(first), Some(last)) = (of_it().map(|one| one.at).min(), refused) {
                println!("{phase:?}: the last call that got 5xx began after {:?}", last - first);
            }
            let mut calls: BTreeMap<&str, Vec<&Noticed>> = BTreeMap::new();
            for one in of_it() {
                calls.entry(one.call).or_default().push(one);
            }
            for (call, all) in calls {
                let mut took: Vec<_> = all.iter().map(|one| one.took).collect();
                took.sort();
                let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
                all.iter().for_each(|one| *statuses.entry(one.status).or_default() += 1);
                let p50 = took[took.len() / 2];
                let p99 = took[took.len() * 99 / 100];
                println!(
                    "{phase:?}: {call}: {statuses:?}, p50 {p50:.1?}, p99 {p99:.1?}, max {:.1?}",
                    took[took.len() - 1]
                );
            }
        }
    }

    /// With two of three, requests only take longer. On a busy machine three databases now and then exceed
    /// the time limit of a statement: one in fifty.
    fn no_client_was_refused(&self) {
        let whole_enough = [Phase::Whole, Phase::OneIsGone, Phase::WholeAgain];
        let all = self.count(|one| whole_enough.contains(&one.phase));
        let refused = self.count(|one| whole_enough.contains(&one.phase) && one.status >= 500);
        assert!(refused * 50 <= all, "{refused} of {all}: 5xx with two database nodes of three, or all");
    }

    /// What was under way at a node that hangs is answered 503 when its time is over; then it is asked no
    /// more.
    fn few_were_refused(&self) {
        let all = self.count(|_| true);
        let refused = self.count(|one| one.status >= 500);
        assert!(refused * 20 <= all, "{refused} of {all} were refused");
        assert_eq!(self.count(|one| one.phase == Phase::WholeAgain && one.status >= 500), 0);
    }

    fn count(&self, what: impl Fn(&Noticed) -> bool) -> usize {
        self.noticed.lock().unwrap().iter().filter(|one| what(one)).count()
    }
}

/// Two nodes on a keyspace of their own, users, and a permission that they have.
async fn world(ring: &Ring) -> (World, Vec<Person>, String) {
    let hosts: Vec<_> = ring.addresses().iter().map(ToString::to_string).collect();
    let keyspace = fresh("ring").replace('-', "_");
    let url = format!("cql://{}/{keyspace}?replication_factor=3", hosts.join(","));
    let node = || {
        Node::builder()
            .setting("STORE", &url)
            .setting("MASTER_KEY", MASTER_KEY)
            .setting("JOURNAL_SIZE", "1MiB")
    };
    let nodes = [node().start().await, node().start().await];
    let root = nodes[0].root().await;
    let films = root.makes_permission("films").await;
    let mut people = Vec::new();
    for _ in 0..CLIENTS {
        let person = nodes[0].register("ann").await;
        root.gives(&person, &films).await.is(200);
        for node in &nodes {
            // Both have it in memory before anything happens.
            let knows = async || person.at(node).may(&films).await.then_some(());
            eventually(PROPAGATION_TIMEOUT, "a permission is given", knows).await;
        }
        people.push(person);
    }
    let world =
        World { nodes, phase: AtomicUsize::new(0), noticed: Mutex::default(), ended: AtomicBool::new(false) };
    (world, people, films)
}

/// Each of these works at the first try, on both nodes.
async fn is_normal(nodes: &[Node; 2], person: &Person) -> bool {
    for node in nodes {
        let log_in = node.log_in(&person.email, &person.password).await;
        if log_in.status != 200 {
            return false;
        }
        let refresh = node.refresh(&log_in.pair().1).await;
        if refresh.status != 200 {
            return false;
        }
        let logout = node.delete("auth_token").bearer(&refresh.pair().0).send().await;
        if logout.is_done().header("palisade-durability") != Some("store") {
            return false;
        }
    }
    true
}

/// Confirmed revocations hold on both nodes, and all other sessions stay valid.
async fn holds(world: &World, left: &[Left]) {
    let mut count = 0;
    for out in left.iter().flat_map(|left| &left.out) {
        for node in &world.nodes {
            let refused = eventually(PROPAGATION_TIMEOUT, "a logout is known everywhere", async || {
                let answer = node.validate(&out.access).await;
                (answer.status != 200).then_some(answer)
            })
            .await;
            refused.is_error(401, "Token has been revoked");
            node.refresh(&out.refresh).await.is_error(401, "Token has been revoked");
        }
        count += 1;
    }
    let lives: Vec<_> = left.iter().flat_map(|left| &left.lives).collect();
    for (n, lives) in lives.iter().enumerate() {
        let one = &world.nodes[n % 2];
        let other = &world.nodes[(n + 1) % 2];
        let next = lives.at(one).refreshed().await;
        assert_eq!(lives.at(other).refreshed().await.refresh, next.refresh, "one successor");
        next.at(other).refreshed().await.at(one).is_in().await;
    }
    println!("{count} logouts hold, {} sessions go on", lives.len());
    assert!(count > 20 && lives.len() > 4, "there was something to hold to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_database_node_is_harmless_and_two_block_writes() {
    let ring = Cassandra::ring().await;
    let (world, people, films) = world(&ring).await;
    let load = join_all(people.iter().enumerate().map(|(n, person)| world.live(person, &films, n)));
    let faults = async {
        world.pass(Phase::Whole).await;
        world.begin(Phase::OneIsGone);
        ring.kill(2).await;
        world.pass(Phase::OneIsGone).await;
        world.begin(Phase::Going);
        ring.kill(1).await;
        let gone = Instant::now();
        eventually(PHASE_TIMEOUT, "both nodes know that the store is down", async || {
            let (a, b) = tokio::join!(
                world.nodes[0].metric("palisade_store_up"),
                world.nodes[1].metric("palisade_store_up"),
            );
            (a == Some(0.0) && b == Some(0.0)).then_some(())
        })
        .await;
        println!("both nodes know that the store is down after {:?}", gone.elapsed());
        world.pass(Phase::TwoAreGone).await;
        // While it is down, and known to be: the table of the manual.
        for node in &world.nodes {
            let person = &people[0];
            node.log_in(&person.email, &person.password).await.is_refused(503);
            let start = Instant::now();
            node.log_in(&person.email, &person.password).await.is_refused(503);
            println!("a log-in is refused after {:?}", start.elapsed());
            node.readiness().await.unwrap().is(200);
            assert_eq!(node.readiness().await.unwrap().field("store"), "down");
            let there = person.at(node);
            there.is_in().await;
        }
        // The first that comes back makes two of three.
        world.begin(Phase::ComingBack);
        ring.start(1).await;
        let back = Instant::now();
        eventually(RECOVERY_TIMEOUT, "all is normal with two of three", async || {
            is_normal(&world.nodes, &people[0]).await.then_some(())
        })
        .await;
        println!("normal {:?} after the database is", back.elapsed());
        ring.start(2).await;
        world.pass(Phase::WholeAgain).await;
        world.ended.store(true, Ordering::SeqCst);
    };
    let (left, ()) = tokio::join!(load, faults);
    world.tell();
    let journal = world.count(|one| one.phase == Phase::TwoAreGone && one.call == "log out");
    println!("{journal} logouts were answered without the database");
    assert!(journal > 4, "there was something to keep in the journal");
    for node in &world.nodes {
        eventually(RECOVERY_TIMEOUT, "the ledger has what the journal had", async || {
            (node.metric("palisade_ledger_unwritten").await == Some(0.0)).then_some(())
        })
        .await;
    }
    holds(&world, &left).await;
    world.no_client_was_refused();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hanging_database_node_of_three_does_little_harm() {
    let ring = Cassandra::ring().await;
    let (world, people, films) = world(&ring).await;
    let load = join_all(people.iter().enumerate().map(|(n, person)| world.live(person, &films, n)));
    let faults = async {
        world.pass(Phase::Whole).await;
        world.begin(Phase::OneIsGone);
        ring.pause(0).await;
        world.pass(Phase::OneIsGone).await;
        ring.resume(0).await;
        world.pass(Phase::WholeAgain).await;
        world.ended.store(true, Ordering::SeqCst);
    };
    let (left, ()) = tokio::join!(load, faults);
    world.tell();
    holds(&world, &left).await;
    world.few_were_refused();
}
