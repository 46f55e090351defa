//! A schedule of faults: parsed and checked before the run, carried out during it.
//!
//! Promises: errors in a schedule are found before the first user is created. Signals go only to processes that
//! the user named: by `pid`, by `pid_file`, or as started from `start`. After the run, paused nodes are
//! resumed, cut nodes are healed, and started nodes are ended. Never touches a network itself: `cut` and `heal`
//! are hooks, commands of the user.

mod control;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub use control::{Control, Running, abandon};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

/// The help of `--faults`. The text below the first empty line is a valid schedule.
pub const HELP: &str = r#"A TOML file that lists the nodes, and what happens to them and when:

  [nodes.a]                      # a process of this machine, named by one of
  pid_file = "/run/a.pid"        #   its pid file (or pid = 1234), or by the
  [nodes.b]                      #   command that starts it, run by the tool
  start = "palisade serve --listen 127.0.0.1:8082"
  env = { PALISADE_DATA_DIR = "/tmp/b" }   # secrets stay in the environment
  log = "/tmp/b.log"                       # its output; default: none
  [nodes.c]                      # anything else, by hooks alone

  [hooks]                        # {node} is the node's name; used instead of signals
  cut = "docker network disconnect net {node}"
  heal = "docker network connect net {node}"

  [[at]]
  s = 10                         # seconds of the measured part
  action = "kill"                # kill pause resume restart (SIGKILL SIGSTOP
  node = "a"                     # SIGCONT, and `start` again), cut, heal
  [[at]]
  s = 20
  action = "run"
  name = "no store"              # in the result; else the command's first word
  command = "systemctl stop scylla""#;

/// The latest time of a fault, seconds: 30 days.
const TIME_MAX_S: f64 = 30.0 * 86_400.0;

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Action {
    Kill,
    Pause,
    Resume,
    Restart,
    Cut,
    Heal,
    Run,
}

impl Action {
    /// The name in a schedule and in the result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restart => "restart",
            Self::Cut => "cut",
            Self::Heal => "heal",
            Self::Run => "run",
        }
    }
}

/// How a node is started or found.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "see HELP")]
pub struct Node {
    pub pid: Option<i32>,
    pub pid_file: Option<PathBuf>,
    pub start: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub log: Option<PathBuf>,
}

impl Node {
    const fn has_process(&self) -> bool {
        self.pid.is_some() || self.pid_file.is_some() || self.start.is_some()
    }
}

/// The nodes and the hooks of a schedule.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "see HELP")]
pub struct Nodes {
    pub nodes: BTreeMap<String, Node>,
    pub hooks: BTreeMap<Action, String>,
}

/// A fault at its time.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "see HELP")]
pub struct Event {
    pub at: Duration,
    pub action: Action,
    /// The node, or the command of `run`.
    pub on: String,
    /// The name in the result: a command may hold secrets.
    pub name: String,
}

/// A schedule.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "see HELP")]
pub struct Schedule {
    pub nodes: Nodes,
    /// In order of time.
    pub events: Vec<Event>,
}

/// Why a file is not a valid schedule.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ScheduleError {
    #[error("{0}")]
    Toml(String),
    #[error("line {line}: {why}")]
    At { line: usize, why: String },
    #[error("[nodes.{node}]: {why}")]
    Node { node: String, why: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    nodes: BTreeMap<String, Node>,
    #[serde(default)]
    hooks: BTreeMap<Action, String>,
    #[serde(default)]
    at: Vec<Spanned<At>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    s: Spanned<f64>,
    action: Spanned<Action>,
    node: Option<Spanned<String>>,
    command: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
}

impl Schedule {
    /// Parses a schedule for a run of this length.
    pub fn parse(text: &str, duration: Duration) -> Result<Self, ScheduleError> {
        let file: File = toml::from_str(text).map_err(|error| ScheduleError::Toml(error.to_string()))?;
        let nodes = Nodes { nodes: file.nodes, hooks: file.hooks };
        for (name, node) in &nodes.nodes {
            check_node(name, node)?;
        }
        let line =
            |span: std::ops::Range<usize>| text[..span.start.min(text.len())].matches('\n').count() + 1;
        let mut events = Vec::new();
        for at in &file.at {
            let at_line = |span, why: String| ScheduleError::At { line: line(span), why };
            let wrong = |span, why| Err(at_line(span, why));
            let span = at.span();
            let at = at.get_ref();
            let s = *at.s.get_ref();
            if !(0.0..=TIME_MAX_S).contains(&s) {
                return wrong(at.s.span(), format!("s = {s}: seconds from 0"));
            }
            if s >= duration.as_secs_f64() {
                let most = duration.as_secs_f64();
                return wrong(at.s.span(), format!("s = {s} is not within the run, which takes {most} s"));
            }
            let action = *at.action.get_ref();
            let on = match (action, &at.node, &at.command) {
                (Action::Run, None, Some(command)) => command.get_ref().clone(),
                (Action::Run, ..) => return wrong(span, "run takes `command`, and no `node`".into()),
                (_, Some(node), None) => {
                    nodes.check_action(action, node.get_ref()).map_err(|why| at_line(node.span(), why))?;
                    node.get_ref().clone()
                }
                (_, Some(_), Some(command)) => return wrong(command.span(), "`command` is for run".into()),
                (_, None, _) => return wrong(span, format!("{} takes `node`", action.name())),
            };
            let name = match (action, &at.name) {
                (Action::Run, Some(name)) => name.get_ref().clone(),
                (Action::Run, None) => first_word(&on).to_owned(),
                (_, Some(name)) => return wrong(name.span(), "`name` is for run".into()),
                (_, None) => on.clone(),
            };
            events.push(Event { at: Duration::from_secs_f64(s), action, on, name });
        }
        if events.is_empty() {
            return Err(ScheduleError::Toml("there is no [[at]]: nothing would happen".into()));
        }
        events.sort_by_key(|event| event.at);
        Ok(Self { nodes, events })
    }
}

/// The program of a command, without its arguments and environment variables.
fn first_word(command: &str) -> &str {
    command.split_whitespace().find(|word| !word.contains('=')).unwrap_or("a command")
}

fn check_node(name: &str, node: &Node) -> Result<(), ScheduleError> {
    let wrong = |why: &str| Err(ScheduleError::Node { node: name.to_owned(), why: why.to_owned() });
    // The name becomes part of commands.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
        return wrong("a name has letters, digits, `-`, `_` and `.`, and does not begin with `-`");
    }
    let ways = usize::from(node.pid.is_some())
        + usize::from(node.pid_file.is_some())
        + usize::from(node.start.is_some());
    if ways > 1 {
        return wrong("only one of `pid`, `pid_file` and `start`");
    }
    if node.pid.is_some_and(|pid| pid <= 1) {
        return wrong("`pid` must be above 1");
    }
    if node.start.is_none() && (!node.env.is_empty() || node.log.is_some()) {
        return wrong("`env` and `log` need `start`");
    }
    Ok(())
}

impl Nodes {
    /// Checks that an action on a node is possible.
    fn check_action(&self, action: Action, name: &str) -> Result<(), String> {
        let Some(node) = self.nodes.get(name) else {
            let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
            return Err(format!("there is no node `{name}`; there are: {}", known.join(", ")));
        };
        let hook = self.hooks.contains_key(&action);
        let possible = match action {
            Action::Kill | Action::Pause | Action::Resume => hook || node.has_process(),
            Action::Restart => hook || node.start.is_some(),
            Action::Cut | Action::Heal => hook,
            Action::Run => true,
        };
        let needs = match action {
            Action::Restart => "`start`, or a hook",
            Action::Cut | Action::Heal => "a hook: the tool does not change networks",
            _ => "`pid`, `pid_file` or `start`, or a hook",
        };
        if possible {
            return Ok(());
        }
        Err(format!("{} of `{name}` needs {needs}", action.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Duration = Duration::from_secs(60);

    fn why(text: &str) -> String {
        Schedule::parse(text, RUN).unwrap_err().to_string()
    }

    #[test]
    fn events_are_in_order_of_time() {
        let text = r#"
            [nodes.a]
            pid_file = "/tmp/a.pid"
            [nodes.b]
            start = "palisade serve"
            env = { PALISADE_LISTEN = "127.0.0.1:1" }
            [hooks]
            cut = "cut {node}"
            [[at]]
            s = 20
            action = "restart"
            node = "b"
            [[at]]
            s = 1.5
            action = "cut"
            node = "a"
            [[at]]
            s = 2
            action = "run"
            command = "true"
        "#;
        let schedule = Schedule::parse(text, RUN).unwrap();
        let order: Vec<_> = schedule.events.iter().map(|event| (event.action, event.on.as_str())).collect();
        assert_eq!(order, [(Action::Cut, "a"), (Action::Run, "true"), (Action::Restart, "b")]);
    }

    #[test]
    fn command_is_named_by_name_or_first_word() {
        let named = |more: &str| {
            let text = format!("[[at]]\ns = 1\naction = \"run\"\n{more}");
            let event = Schedule::parse(&text, RUN).unwrap().events.remove(0);
            (event.on, event.name)
        };
        let (command, name) = named("command = \"KEY=hidden curl -u me:hidden http://a\"");
        assert!(command.ends_with("http://a") && name == "curl", "{command} {name}");
        assert_eq!(named("command = \"curl hidden\"\nname = \"no store\"").1, "no store");
        let text = "[nodes.a]\npid = 7\n[[at]]\ns = 1\naction = \"kill\"\nnode = \"a\"\nname = \"x\"";
        assert!(why(text).contains("line 7: `name` is for run"), "{}", why(text));
    }

    #[test]
    fn example_of_the_help_is_valid() {
        let example = HELP.split_once("\n\n").unwrap().1;
        Schedule::parse(example, RUN).unwrap();
    }

    #[test]
    fn errors_name_their_line() {
        let at = |rest: &str| format!("[nodes.a]\npid = 7\n[nodes.b]\n[[at]]\n{rest}");
        assert_eq!(
            why(&at("s = 1\naction = \"kill\"\nnode = \"c\"")),
            "line 7: there is no node `c`; there are: a, b"
        );
        assert!(
            why(&at("s = 1\naction = \"kill\"\nnode = \"b\"")).contains("line 7: kill of `b` needs `pid`")
        );
        assert!(why(&at("s = 1\naction = \"cut\"\nnode = \"a\"")).contains("needs a hook"));
        assert!(why(&at("s = 1\naction = \"restart\"\nnode = \"a\"")).contains("needs `start`"));
        assert!(
            why(&at("s = 60\naction = \"kill\"\nnode = \"a\"")).starts_with("line 5: s = 60 is not within")
        );
        assert!(why(&at("s = -1\naction = \"kill\"\nnode = \"a\"")).starts_with("line 5"));
        assert!(why(&at("s = 1\naction = \"kill\"")).contains("kill takes `node`"));
        assert!(why(&at("s = 1\naction = \"run\"\nnode = \"a\"")).contains("run takes `command`"));
        assert!(why(&at("s = 1\naction = \"explode\"\nnode = \"a\"")).contains("line 6"));
        assert!(why("[nodes.a]\npids = 7").contains("pids"));
        assert!(why("[nodes.a]\npid = 1").contains("[nodes.a]: `pid` must be above 1"));
        assert!(why("[nodes.\"a b\"]\npid = 7").contains("a name has"));
        assert!(why("[nodes.a]\npid = 7\nstart = \"x\"").contains("one of"));
        assert!(why("[nodes.a]\npid = 7").contains("nothing would happen"));
    }
}
