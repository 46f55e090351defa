//! Nodes that know each other, on one keyspace of the Cassandra that all tests share.
//!
//! ```ignore
//! let cluster = Cluster::of(3).await;
//! let [a, b, c] = cluster.three();
//! let ann = a.register("ann").await;
//! ann.at(&c).delete("auth_token").send().await.is_done().is_visible_at(2);
//! ann.at(&b).is_out().await;
//! ```
//!
//! Every node has a cluster address of its own in 127.0.0.0/8, so that clusters of several tests, and of
//! several test runs, do not meet. With [`Builder::relayed`] all ways between the nodes lead through a
//! [`Relay`], which can cut each; with [`Builder::proxied`] and [`Builder::proxied_together`] the ways to the
//! store lead through a [`Proxy`].
//!
//! What a node thinks of the others is asked of `/api/v1/cluster`, with a superuser's token.

pub mod relay;

pub use relay::{Datagram, Relay};

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Index,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::Value;

use crate::{
    Answer, Node, Person,
    background::in_background,
    eventually, node,
    servers::{Cassandra, Proxy},
    store::Keyspace,
};

/// The cluster secret of test nodes: 32 bytes in base64.
pub const SECRET: &str = "dGhlIHNlY3JldCBvZiB0aGUgdGVzdHMnIGNsdXN0ZXI=";
/// Longest time until nodes know each other, on a busy machine.
const MEETING_TIMEOUT: Duration = Duration::from_secs(60);
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Nodes that know each other.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    homes: Vec<SocketAddr>,
    seeds: Vec<SocketAddr>,
    settings: Vec<(String, String)>,
    relay: Option<Relay>,
    proxies: Vec<Proxy>,
    keyspace: Arc<Keyspace>,
    root: Person,
}

/// A cluster that is not started yet.
#[derive(Debug)]
pub struct Builder {
    nodes: usize,
    settings: Vec<(String, String)>,
    settings_of: Vec<(usize, String, String)>,
    relayed: bool,
    proxies: Proxies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxies {
    None,
    One,
    Each,
}

impl Builder {
    /// Sets `PALISADE_<name>` of all nodes.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Sets `PALISADE_<name>` of one node.
    #[must_use]
    pub fn setting_of(mut self, n: usize, name: &str, value: impl Into<String>) -> Self {
        self.settings_of.push((n, name.to_owned(), value.into()));
        self
    }

    /// Leaves a setting of all nodes at their own default, where tests have another.
    #[must_use]
    pub fn default_setting(self, name: &str) -> Self {
        self.setting(name, "")
    }

    /// All ways between the nodes lead through a [`Relay`].
    #[must_use]
    pub const fn relayed(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Every node has a [`Proxy`] of its own to the store.
    #[must_use]
    pub const fn proxied(mut self) -> Self {
        self.proxies = Proxies::Each;
        self
    }

    /// All nodes have one [`Proxy`] to the store.
    #[must_use]
    pub const fn proxied_together(mut self) -> Self {
        self.proxies = Proxies::One;
        self
    }

    /// Starts the nodes and waits until all of them know of each other.
    ///
    /// # Panics
    /// When they do not.
    pub async fn start(self) -> Cluster {
        let keyspace = Arc::new(Keyspace::take().await);
        let cassandra = Cassandra::one().await.address();
        let proxies = match self.proxies {
            Proxies::None => 0,
            Proxies::One => 1,
            Proxies::Each => self.nodes,
        };
        let proxies =
            in_background(move || async move { join_all((0..proxies).map(|_| Proxy::to(cassandra))).await });
        let proxies = proxies.await;
        let homes: Vec<_> = (0..self.nodes).map(|_| free_address()).collect();
        let fronts: Vec<_> = (0..self.nodes).map(|_| free_address()).collect();
        let relay = self.relayed.then(|| Relay::between(&fronts, &homes));
        let seeds = if self.relayed { fronts } else { homes.clone() };
        let mut nodes = Vec::new();
        for n in 0..self.nodes {
            let store = proxies.get(n).or(proxies.first()).map_or(cassandra, Proxy::address);
            let mut builder = member(NAMES[n], homes[n], seeds[n], &seeds, &self.settings);
            for (_, name, value) in self.settings_of.iter().filter(|(of, ..)| *of == n) {
                builder = builder.setting(name, value);
            }
            let node = builder.on_keyspace(&keyspace, store).launch().await;
            if let Some(relay) = &relay {
                relay.know(n, &node);
            }
            nodes.push(node);
        }
        join_all(nodes.iter().map(Node::comes_up)).await;
        let root = nodes[0].root().await;
        let settings = self.settings;
        let cluster = Cluster { nodes, homes, seeds, settings, relay, proxies, keyspace, root };
        cluster.is_together().await;
        cluster
    }
}

/// The settings of a node that will be a member.
fn member(
    name: &str,
    home: SocketAddr,
    front: SocketAddr,
    seeds: &[SocketAddr],
    settings: &[(String, String)],
) -> node::Builder {
    let seeds: Vec<_> = seeds.iter().filter(|seed| **seed != front).map(ToString::to_string).collect();
    let builder = Node::builder()
        .setting("NODE_NAME", name)
        .setting("CLUSTER_LISTEN", home.to_string())
        .setting("CLUSTER_ADVERTISE", front.to_string())
        .setting("CLUSTER_SEEDS", seeds.join(","))
        .setting("CLUSTER_SECRET", SECRET)
        // A busy machine may take its time; what is promised about it has tests of its own.
        .setting("ACK_DEADLINE", "2s");
    settings.iter().fold(builder, |builder, (name, value)| match value.as_str() {
        "" => builder.default_setting(name),
        value => builder.setting(name, value),
    })
}

impl Cluster {
    /// So many nodes with the settings of tests, that know of each other.
    pub async fn of(nodes: usize) -> Self {
        Self::builder(nodes).start().await
    }

    /// To say more about it before it starts.
    #[must_use]
    pub const fn builder(nodes: usize) -> Builder {
        Builder {
            nodes,
            settings: Vec::new(),
            settings_of: Vec::new(),
            relayed: false,
            proxies: Proxies::None,
        }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes of a cluster of three.
    ///
    /// # Panics
    /// When it has others.
    #[must_use]
    pub fn three(&self) -> [&Node; 3] {
        let [a, b, c] = &self.nodes[..] else { panic!("it has {} nodes", self.nodes.len()) };
        [a, b, c]
    }

    /// Handles with connections of their own, for a test that shares the cluster with others.
    #[must_use]
    pub fn handles(&self) -> Vec<Node> {
        self.nodes.iter().map(Node::another_handle).collect()
    }

    /// A superuser, with a client of the test that made the cluster.
    #[must_use]
    pub const fn root(&self) -> &Person {
        &self.root
    }

    /// Where a node listens for others.
    #[must_use]
    pub fn home(&self, n: usize) -> SocketAddr {
        self.homes[n]
    }

    /// The relay of a relayed cluster.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("it is relayed")
    }

    /// A node's proxy to the store, or that of all.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn proxy(&self, n: usize) -> &Proxy {
        self.proxies.get(n).or(self.proxies.first()).expect("it is proxied")
    }

    /// Its keyspace.
    #[must_use]
    pub const fn keyspace(&self) -> &Arc<Keyspace> {
        &self.keyspace
    }

    /// A node that may become a member, not started yet: it has an address of its own, and the nodes of the
    /// cluster as its seeds. In a relayed cluster no member receives what it sends.
    pub async fn newcomer(&self, name: &str) -> (node::Builder, SocketAddr) {
        let home = free_address();
        let builder = member(name, home, home, &self.seeds, &self.settings);
        (builder.on_keyspace(&self.keyspace, Cassandra::one().await.address()), home)
    }

    /// A node on the same store that knows of no cluster.
    pub async fn loner(&self) -> node::Builder {
        Node::builder().on_keyspace(&self.keyspace, Cassandra::one().await.address())
    }

    /// What a node says of the cluster; none when it does not answer so now.
    pub async fn view(&self, node: &Node) -> Option<View> {
        let answer = self.root.at(node).get("cluster").try_send().await.ok()?;
        (answer.status == 200).then(|| View(answer.json()))
    }

    /// What one node says of another, by its name: of its incarnation that lives, if one does.
    pub async fn sight(&self, of: &Node, name: &str) -> Option<Value> {
        let view = self.view(of).await?;
        let mut all = view.others().into_iter().filter(|member| member["name"] == name);
        let last = all.clone().max_by_key(|member| member["incarnation"].as_u64());
        all.find(|member| member["state"] == "alive").or(last)
    }

    /// Waits until every node has a link to every other one.
    ///
    /// # Panics
    /// When they do not get them.
    pub async fn is_together(&self) {
        let all: Vec<_> = self.nodes.iter().collect();
        self.are_together(&all).await;
    }

    /// Waits until each of these nodes has a link to each other of them, and to no other node.
    ///
    /// # Panics
    /// When they do not get them.
    pub async fn are_together(&self, nodes: &[&Node]) {
        for node in nodes {
            eventually(
                MEETING_TIMEOUT,
                &format!("all of {} nodes see each other", nodes.len()),
                async || {
                    let others = self.view(node).await?.others();
                    // One that has started again may be there twice for a while.
                    let uuids = |of: fn(&Value) -> bool| -> BTreeSet<String> {
                        others
                            .iter()
                            .filter(|member| of(member))
                            .map(|member| member["uuid"].to_string())
                            .collect()
                    };
                    let whole = uuids(is_whole);
                    let alive = uuids(|member| member["state"] == "alive");
                    (whole.len() == nodes.len() - 1 && alive == whole).then_some(())
                },
            )
            .await;
        }
    }

    /// Waits until one node no longer takes another for alive.
    ///
    /// # Panics
    /// When it goes on to.
    pub async fn is_missed(&self, of: &Node, name: &str) -> Duration {
        let start = std::time::Instant::now();
        eventually(MEETING_TIMEOUT, &format!("{name} is missed"), async || {
            self.view(of).await?;
            let sight = self.sight(of, name).await;
            sight.is_none_or(|member| member["state"] != "alive").then_some(())
        })
        .await;
        start.elapsed()
    }
}

/// Alive, linked and ready.
fn is_whole(member: &Value) -> bool {
    member["state"] == "alive" && member["linked"] == true && member["ready"] == true
}

impl Index<usize> for Cluster {
    type Output = Node;
    fn index(&self, n: usize) -> &Node {
        &self.nodes[n]
    }
}

/// What a node says of the cluster.
#[derive(Clone, Debug)]
pub struct View(pub Value);

impl View {
    /// The members without the node itself.
    ///
    /// # Panics
    /// When there is no list of members.
    #[must_use]
    pub fn others(&self) -> Vec<Value> {
        let members = self.0["members"].as_array().unwrap_or_else(|| panic!("no members: {}", self.0));
        members.iter().filter(|member| member["uuid"] != self.0["node"]["uuid"]).cloned().collect()
    }
}

/// `k` and `n` of `Palisade-Visible`.
///
/// # Panics
/// When the answer does not say.
#[must_use]
#[track_caller]
pub fn visible(answer: &Answer) -> (u32, u32) {
    let header = answer.header("palisade-visible").and_then(|text| text.split_once('/'));
    let counts = header.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    counts.unwrap_or_else(|| panic!("no `Palisade-Visible: k/n`\n{answer}"))
}

/// An address for a node that is free on this machine. Every test process has 65,536 of them to itself,
/// except two processes whose numbers differ by 65,024.
///
/// # Panics
/// When the address is in use all the same.
#[must_use]
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Below the ports that the kernel gives away.
    const FIRST_PORT: u16 = 17_000;
    let process = std::process::id();
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let byte = |number: u32, of: u32| u8::try_from(number % of).expect("less than 256");
        // 127.0.x.y is of others.
        let ip = Ipv4Addr::new(127, 1 + byte(process / 256, 254), byte(process, 256), 1 + byte(n, 254));
        let port = FIRST_PORT + u16::try_from(n / 254).expect("few addresses");
        let address = SocketAddr::new(IpAddr::V4(ip), port);
        let is_free =
            std::net::UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok();
        if is_free {
            return address;
        }
    }
}
