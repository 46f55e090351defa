//! A database of three nodes under two Palisade nodes, and clients that never rest: what they notice
//! when one of the three goes, and what when two do.

#![allow(clippy::print_stdout, reason = "what the clients noticed is shown with --nocapture")]

use std::{
    collections::BTreeMap,
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

/// How many clients there are, and how often each asks something.
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(40);
/// Answers in each phase: enough for a 99th percentile.
const ENOUGH: usize = 600;
/// How long a phase may take on a busy machine.
const PHASE: Duration = Duration::from_secs(180);
/// From when the database answers again.
const NORMAL: Duration = Duration::from_secs(5);
/// The ledger is read once a second; the rest is for a busy machine.
const HEARD: Duration = Duration::from_secs(5);

/// What the database is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Whole,
    OneIsGone,
    /// Two of three, or just back from it.
    TwoAreGone,
    WholeAgain,
}

const PHASES: [Phase; 4] = [Phase::Whole, Phase::OneIsGone, Phase::TwoAreGone, Phase::WholeAgain];

/// One answer, or none.
struct Noticed {
    phase: Phase,
    call: &'static str,
    status: u16,
    took: Duration,
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
    /// A session of which no refresh token was spent that it does not know the successor of.
    lives: Option<Person>,
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
        eventually(PHASE, &format!("answers while {phase:?}"), async || {
            let noticed = self.noticed.lock().unwrap();
            (noticed.iter().filter(|one| one.phase == phase).count() >= ENOUGH).then_some(())
        })
        .await;
    }

    /// Asks, and notes what came of it. Belongs to a phase what began and ended in it.
    async fn ask(&self, call: &'static str, request: Request) -> Answer {
        let (phase, start) = (self.phase(), Instant::now());
        let answer = request.send().await;
        if self.phase() == phase {
            let noticed = Noticed { phase, call, status: answer.status, took: start.elapsed() };
            self.noticed.lock().unwrap().push(noticed);
        }
        answer
    }

    fn is_store_down(&self) -> bool {
        self.phase() == Phase::TwoAreGone
    }

    /// What cannot be done without the store: done, or 503 while it is down.
    fn done(&self, began_down: bool, answer: Answer) -> Option<Answer> {
        if answer.status == 503 && (began_down || self.is_store_down()) {
            answer.is_refused(503);
            return None;
        }
        Some(answer)
    }

    /// A client: logs in, asks about itself, refreshes, logs out, on one node and the other.
    async fn live(&self, person: &Person, permission: &str, nth: usize) -> Left {
        let clients = [self.nodes[0].another_client(), self.nodes[1].another_client()];
        let check = format!("users/me/combined_permissions/validation?permissions=%22{permission}%22");
        let mut pace = tokio::time::interval(PACE);
        let (mut out, mut session) = (Vec::new(), None::<Person>);
        let mut turn = nth;
        while !self.ended.load(Ordering::SeqCst) {
            pace.tick().await;
            turn += 1;
            let node: &Client = &clients[turn % 2];
            let down = self.is_store_down();
            let Some(current) = session.take() else {
                let body = json!({"email": person.email, "password": person.password});
                let answer = self.ask("log in", node.post("auth_token").json(&body)).await;
                if let Some(answer) = self.done(down, answer) {
                    session = Some(person.with_tokens(answer.pair()));
                }
                continue;
            };
            for _ in 0..3 {
                pace.tick().await;
                let validation = node.get("auth_token/validation").bearer(&current.access);
                self.ask("validate", validation).await.is(200);
            }
            let answer = self.ask("check", node.get(&check).bearer(&current.access)).await;
            assert_eq!(answer.is(200).json(), json!({"valid": true}));
            let refresh = node.post("auth_token/token_refresh").bearer(&current.refresh);
            let answer = self.ask("refresh", refresh).await;
            let current = match self.done(down, answer) {
                Some(answer) => current.with_tokens(answer.pair()),
                None => current,
            };
            if turn % 3 != 0 {
                session = Some(current);
                continue;
            }
            let logout = node.delete("auth_token").bearer(&current.access);
            let answer = self.ask("log out", logout).await;
            answer.is_done();
            // Here at once.
            let validation = node.get("auth_token/validation").bearer(&current.access);
            let refused = self.ask("validate what is out", validation).await;
            refused.is_error(401, "Token has been revoked");
            out.push(current);
        }
        Left { out, lives: session }
    }

    /// Prints what was noticed in each phase, by call.
    fn tell(&self) {
        let noticed = self.noticed.lock().unwrap();
        for phase in PHASES {
            let mut calls: BTreeMap<&str, Vec<&Noticed>> = BTreeMap::new();
            for one in noticed.iter().filter(|one| one.phase == phase) {
                calls.entry(one.call).or_default().push(one);
            }
            for (call, all) in calls {
                let mut took: Vec<_> = all.iter().map(|one| one.took).collect();
                took.sort();
                let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
                all.iter().for_each(|one| *statuses.entry(one.status).or_default() += 1);
                let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
                println!("{phase:?}: {call}: {statuses:?}, p50 {p50:.1?}, p99 {p99:.1?}, max {:.1?}", took[took.len() - 1]);
            }
        }
    }

    fn count(&self, what: impl Fn(&Noticed) -> bool) -> usize {
        self.noticed.lock().unwrap().iter().filter(|one| what(one)).count()
    }
}

/// On a keyspace of its own, with somebody who may do something.
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
            eventually(HEARD, "a permission is given", knows).await;
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

/// What was promised holds, on both nodes, and what nobody took away goes on.
async fn holds(world: &World, left: &[Left]) {
    let mut count = 0;
    for out in left.iter().flat_map(|left| &left.out) {
        for node in &world.nodes {
            let refused = eventually(HEARD, "a logout is known everywhere", async || {
                let answer = node.validate(&out.access).await;
                (answer.status != 200).then_some(answer)
            })
            .await;
            refused.is_error(401, "Token has been revoked");
            node.refresh(&out.refresh).await.is_error(401, "Token has been revoked");
        }
        count += 1;
    }
    for (n, lives) in left.iter().filter_map(|left| left.lives.as_ref()).enumerate() {
        let (one, other) = (&world.nodes[n % 2], &world.nodes[(n + 1) % 2]);
        let next = lives.at(one).refreshed().await;
        assert_eq!(lives.at(other).refreshed().await.refresh, next.refresh, "one successor");
        next.at(other).refreshed().await.at(one).is_in().await;
    }
    let lives = left.iter().filter(|left| left.lives.is_some()).count();
    println!("{count} logouts hold, {lives} sessions go on");
    assert!(count > 20, "there was something to hold to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_database_node_of_three_is_not_noticed_and_two_take_away_only_what_needs_them() {
    let ring = Cassandra::ring().await;
    let (world, people, films) = world(&ring).await;
    let load = join_all(people.iter().enumerate().map(|(n, person)| world.live(person, &films, n)));
    let faults = async {
        world.pass(Phase::Whole).await;
        world.begin(Phase::OneIsGone);
        ring.kill(2).await;
        world.pass(Phase::OneIsGone).await;
        world.begin(Phase::TwoAreGone);
        ring.kill(1).await;
        let gone = Instant::now();
        eventually(PHASE, "both nodes know that the store is down", async || {
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
        ring.start(1).await;
        let back = Instant::now();
        eventually(NORMAL, "all is normal with two of three", async || {
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
    let unknown = world.count(|one| one.phase != Phase::TwoAreGone && one.status >= 500);
    assert_eq!(unknown, 0, "answers 5xx with two database nodes or more");
    let journal = world.count(|one| one.phase == Phase::TwoAreGone && one.call == "log out");
    println!("{journal} logouts were answered without the database");
    for node in &world.nodes {
        eventually(NORMAL, "the ledger has what the journal had", async || {
            (node.metric("palisade_ledger_unwritten").await == Some(0.0)).then_some(())
        })
        .await;
    }
    holds(&world, &left).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hanging_database_node_of_three_is_not_noticed() {
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
    assert_eq!(world.count(|one| one.status >= 500), 0, "answers 5xx with two database nodes or more");
    holds(&world, &left).await;
}
