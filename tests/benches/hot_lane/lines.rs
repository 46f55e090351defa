//! The lines of the table.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use schema::{
    Fact, FactKind, NodeId, SessionId, Timestamp, UserId,
    ledger::{Entry, Head, Origin},
};
use testkit::{Node, Person};

use crate::{
    LOAD, SERVER, TURN,
    empty::Empty,
    load::{Load, Served},
    median, pin,
    siege::Siege,
    turns::{Side, compare, turns},
};

const CONNECTIONS: usize = 64;

/// A node as shipped, on its core.
async fn node() -> Node {
    started(Node::builder(), Some(SERVER)).await
}

async fn started(builder: testkit::node::Builder, core: Option<usize>) -> Node {
    pin(core);
    let node = builder.default_setting("JOURNAL_SIZE").setting("LOG", "info").start().await;
    pin(core.map(|_| LOAD));
    node
}

fn get(path: &str, token: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

fn validate(token: &str) -> Vec<u8> {
    get("/api/v1/auth_token/validation", token)
}

fn of<'a>(node: &Node, name: &'static str, load: &'a Load) -> Side<'a> {
    Side { name, load, server: (node.address(), node.pid()), status: 200 }
}

/// Takes turns with the empty handler.
async fn beside_nothing(node: &Node, request: Vec<u8>, status: u16) {
    pin(Some(SERVER));
    let empty = Empty::start();
    pin(Some(LOAD));
    let load = &Load::new(vec![request], CONNECTIONS);
    let nothing = Side { name: "empty handler", load, server: (empty.address, empty.pid()), status: 200 };
    let ratios = compare(nothing, Side { status, ..of(node, "palisade", load) }).await;
    println!("  → {ratios} (above 1: less than the empty handler)");
}

pub async fn validation() {
    let node = node().await;
    let ann = node.register("ann").await;
    beside_nothing(&node, validate(&ann.access), 200).await;
}

/// A user with twenty permissions by a role, and a query about them: any of a permission that the user
/// lacks, or two of the twenty together.
async fn having(node: &Node) -> (Person, String) {
    let root = node.root().await;
    let ann = node.register("ann").await;
    let mut names = Vec::new();
    for n in 0..20 {
        names.push(root.makes_permission(&format!("films.{n}")).await);
    }
    let role = root.makes_role("viewer", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(root.gives_role(&ann, &role).await.status, 200);
    let query = format!(r#"{{"any":["nobody",{{"all":["{}","{}"]}}]}}"#, names[3], names[7]);
    let query = percent_encoding::utf8_percent_encode(&query, percent_encoding::NON_ALPHANUMERIC);
    (ann, format!("permissions={query}"))
}

pub async fn query() {
    let node = node().await;
    let (ann, query) = having(&node).await;
    let path = format!("/api/v1/users/me/combined_permissions/validation?{query}");
    beside_nothing(&node, get(&path, &ann.access), 200).await;
}

pub async fn gateway() {
    let node = node().await;
    let (ann, query) = having(&node).await;
    beside_nothing(&node, get(&format!("/auth_request?{query}"), &ann.access), 204).await;
}

pub async fn batch() {
    const TOKENS: usize = 100;
    let node = node().await;
    let mut tokens = Vec::new();
    for n in 0..TOKENS {
        tokens.push(node.register(&format!("user{n}")).await.access);
    }
    let body = serde_json::json!({ "tokens": tokens }).to_string();
    let mut request = String::new();
    write!(
        request,
        "POST /api/v1/auth_token/validation/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        tokens[0],
        body.len()
    )
    .unwrap();
    let (one, many) =
        (Load::new(vec![validate(&tokens[0])], CONNECTIONS), Load::new(vec![request.into_bytes()], 16));
    let ratios = compare(of(&node, "one by one", &one), of(&node, "batches", &many)).await;
    println!("  → {:.2} M tokens a second of the server's CPU time", TOKENS as f64 / ratios.cpu_us);
}

pub async fn pipelined() {
    const DEPTH: usize = 16;
    let node = node().await;
    let ann = node.register("ann").await;
    let one = Load::new(vec![validate(&ann.access)], CONNECTIONS);
    let many = one.clone().pipelined(DEPTH);
    println!("  → {}", compare(of(&node, "one by one", &one), of(&node, "× 16", &many)).await);
}

/// Runs `beside` in a thread of its own while `load` runs.
async fn while_running(load: &Load, node: &Node, beside: Load, core: Option<usize>) -> (Served, Served) {
    let address = node.address();
    let pid = node.pid();
    let requests = Rc::unwrap_or_clone(beside.requests);
    let connections = beside.connections;
    let retry_delay = beside.retry_delay;
    let other = std::thread::spawn(move || {
        pin(core);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let load = Load::new(requests, connections).retrying_after(retry_delay).sharing();
        let run = async { load.run(address, pid, TURN + Duration::from_millis(300)).await };
        runtime.block_on(tokio::task::LocalSet::new().run_until(run))
    });
    // It has begun.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let served = load.run(address, pid, TURN).await;
    (served, other.join().unwrap())
}

fn login(person: &Person) -> Vec<u8> {
    let body = serde_json::json!({ "email": person.email, "password": person.password }).to_string();
    format!(
        "POST /api/v1/auth_token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn without_limits() -> testkit::node::Builder {
    ["LOGIN_ACCOUNT_FAILURES", "LOGIN_ADDRESS_FAILURES", "REGISTRATION_RATE"]
        .into_iter()
        .fold(Node::builder(), |builder, name| builder.setting(name, "off"))
}

/// 32 clients that log in all the time, and try again a tenth of a second after a 503.
pub async fn flood() {
    const RETRY_DELAY: Duration = Duration::from_millis(100);
    let node = started(without_limits(), None).await;
    let ann = node.register("ann").await;
    let load = Load::new(vec![validate(&ann.access)], CONNECTIONS).sharing();
    let ratios = turns(["calm", "flooded"], async || {
        let calm = of(&node, "calm", &load).turn().await;
        let logins = Load::new(vec![login(&ann)], 32).retrying_after(RETRY_DELAY);
        let (flooded, logins) = while_running(&load, &node, logins, None).await;
        logins.show("logins");
        [calm, flooded.all(200)]
    })
    .await;
    println!("  → {:.2} by rate, p99 × {:.2}", ratios.rate, ratios.p99);
}

pub async fn forged() {
    let node = node().await;
    let ann = node.register("ann").await;
    let good = Load::new(vec![validate(&ann.access)], CONNECTIONS).sharing();
    // Each with a signature of its own, which looks as good as any.
    let (message, signature) = ann.access.rsplit_once('.').unwrap();
    let forged = (0..10_000_u32).map(|n| {
        let mut signature = signature.as_bytes().to_vec();
        for (at, digit) in signature.iter_mut().zip(format!("{n:08}").bytes()) {
            *at = digit;
        }
        validate(&format!("{message}.{}", String::from_utf8(signature).unwrap()))
    });
    let forged: Vec<_> = forged.collect();
    let ratios = turns(["good alone", "good beside"], async || {
        let alone = of(&node, "good alone", &good).turn().await;
        let bad = Load::new(forged.clone(), CONNECTIONS);
        let (beside, bad) = while_running(&good, &node, bad, Some(LOAD)).await;
        assert!(!bad.statuses.contains_key(&200), "a forged token is good");
        bad.show("forged");
        [alone, beside.all(200)]
    })
    .await;
    println!("  → {:.2} by rate (both loads share a core)", ratios.rate);
}

/// Validation under all attacks at once. The node has one core; load and attackers share the other.
pub async fn siege() {
    let node = node().await;
    let ann = node.register("ann").await;
    let mallory = node.register("mallory").await;
    let load = Load::new(vec![validate(&ann.access)], CONNECTIONS).sharing();
    let fresh = node.memory_bytes();
    let mut most = 0;
    let mut probes = Vec::new();
    let ratios = turns(["calm", "besieged"], async || {
        let calm = of(&node, "calm", &load).turn().await;
        let siege = Siege::lay(node.address(), &mallory);
        let besieged = of(&node, "besieged", &load).turn().await;
        most = most.max(node.memory_bytes());
        probes.append(&mut siege.lift());
        [calm, besieged]
    })
    .await;
    probes.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| probes[(probes.len() - 1) * percent / 100]);
    println!(
        "  {} probes of /health/live: p50 {p50:.1?}, p99 {p99:.1?}, max {:.1?}",
        probes.len(),
        probes[probes.len() - 1]
    );
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!("  resident {:.0} MB when fresh, {:.0} MB at most", mb(fresh), mb(most));
    println!(
        "  → {:.2} by rate, {:.2} by CPU time of the node, all attacks included (both loads share a core)",
        ratios.rate, ratios.cpu
    );
}

pub async fn million() {
    const DENIALS: u64 = 1_000_000;
    const TOKENS: usize = 100_000;
    let node = node().await;
    let ann = node.register("ann").await;
    let began = Instant::now();
    let mut tokens = Vec::new();
    let mut people = Vec::new();
    for _ in 0..32 {
        people.push(ann.in_another_session().await);
    }
    while tokens.len() < TOKENS {
        let refreshed = people.iter().map(Person::refreshed);
        people = futures_util::future::join_all(refreshed).await;
        tokens.extend(people.iter().map(|person| validate(&person.access)));
    }
    println!(
        "  {} tokens by refreshing: {:.0}/s",
        tokens.len(),
        tokens.len() as f64 / began.elapsed().as_secs_f64()
    );
    let one = Load::new(vec![validate(&ann.access)], CONNECTIONS);
    let many = Load::new(tokens, CONNECTIONS);
    each_once(&node, &many).await;
    let ratios = compare(of(&node, "one token", &one), of(&node, "100,000", &many)).await;
    println!("  → {ratios}: 100,000 tokens, no denial");
    node.terminate().await;
    let took = deny(&node, DENIALS).await;
    pin(Some(SERVER));
    node.restart().await;
    let plain = Node::builder().default_setting("JOURNAL_SIZE").setting("LOG", "info").start().await;
    pin(Some(LOAD));
    println!("  {DENIALS} denials in the ledger, written in {took:.1?}");
    each_once(&node, &many).await;
    let ratios = compare(of(&node, "one token", &one), of(&node, "100,000", &many)).await;
    println!("  → {ratios}: 100,000 tokens among the denials, beside one among them");
    let bob = plain.register("bob").await;
    let warm = Load::new(vec![validate(&bob.access)], CONNECTIONS);
    let ratios = compare(of(&plain, "one, no denial", &warm), of(&node, "100,000 and 1 M", &many)).await;
    println!("  → {ratios}: both, beside a node with one token and no denial");
}

/// Lets the node see each token before it is measured.
async fn each_once(node: &Node, many: &Load) {
    let mut during = 2 * TURN;
    loop {
        let served = many.run(node.address(), node.pid(), during).await.all(200);
        served.show("first seen");
        // Its connections begin at places of their own, and are not quite even.
        if served.took_us.len() > many.requests.len() as u64 * 3 / 2 {
            return;
        }
        during *= 2;
    }
}

/// Writes denials into the ledger of a node that is down, as another one's.
async fn deny(node: &Node, count: u64) -> Duration {
    const CHUNK: u64 = 10_000;
    let began = Instant::now();
    let opened = store_redb::open(&node.data_dir().join("palisade.redb")).await.expect("the node's store");
    let origin = Origin { node: NodeId::from_bytes([7; 16]), incarnation: 1 };
    let until = Timestamp::from_millis(now_ms() + 3_600_000);
    for first in (1..=count).step_by(usize::try_from(CHUNK).unwrap()) {
        let entries: Vec<_> = (first..first + CHUNK)
            .map(|seq| {
                let id =
                    u128::from(seq).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
                let kind = FactKind::SessionRevoked {
                    user: UserId::from_bytes(id),
                    session: SessionId::from_bytes(id),
                };
                Entry { origin, seq, fact: Fact { kind, until } }
            })
            .collect();
        let head = Head { origin, seq: first + CHUNK - 1 };
        opened.stores.ledger.append(&entries, &[head]).await.expect("the ledger");
    }
    began.elapsed()
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

pub async fn logins() {
    let node = started(without_limits(), None).await;
    let ann = node.register("ann").await;
    let load = Load::new(vec![login(&ann)], 8).sharing();
    let mut ratios = Vec::new();
    for turn in 0..3 {
        let hashes = hashes_a_second().await;
        let served = load.run(node.address(), node.pid(), 2 * TURN).await.all(200);
        if turn > 0 {
            println!("  argon2id alone {hashes:6.1}/s");
            served.show("logins");
            ratios.push(served.per_second / hashes);
        }
    }
    println!("  → {:.2} of what argon2id allows on these cores", median(ratios));
}

/// With the parameters of the node, on all cores, nothing else running.
async fn hashes_a_second() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            std::thread::spawn(|| {
                let params = argon2::Params::new(19 * 1024, 2, 1, None).unwrap();
                let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
                let mut memory = vec![argon2::Block::default(); argon2.params().block_count()];
                let began = Instant::now();
                let mut count = 0_u32;
                let mut out = [0; 32];
                while began.elapsed() < 2 * TURN {
                    argon2
                        .hash_password_into_with_memory(b"password", b"somesalt", &mut out, &mut memory)
                        .unwrap();
                    count += 1;
                }
                f64::from(count) / began.elapsed().as_secs_f64()
            })
        })
        .collect();
    let mut all = 0.0;
    for thread in threads {
        all += tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
    all
}

pub async fn idle() {
    const COUNT: usize = 1_000;
    let node = node().await;
    let ann = node.register("ann").await;
    let load = Load::new(vec![validate(&ann.access)], CONNECTIONS);
    load.run(node.address(), node.pid(), TURN).await;
    let before = node.memory_bytes();
    let mut open = Vec::new();
    for _ in 0..COUNT {
        open.push(asked_once(node.address(), &validate(&ann.access)).await);
    }
    let after = node.memory_bytes();
    println!(
        "  → {:.1} KB each, after a request on each",
        (after.saturating_sub(before)) as f64 / COUNT as f64 / 1024.0
    );
    let before = node.memory_bytes();
    for _ in 0..COUNT {
        open.push(asked_once(node.address(), &get("/health/live", "x")).await);
    }
    let after = node.memory_bytes();
    println!(
        "  → {:.1} KB each, of connections that hyper has",
        (after.saturating_sub(before)) as f64 / COUNT as f64 / 1024.0
    );
}

async fn asked_once(address: SocketAddr, request: &[u8]) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 1024];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
    stream
}
