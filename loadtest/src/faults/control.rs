//! Carries out a schedule.
//!
//! Promises: see [`super`]. A process that is started leads a process group of its own, so that Ctrl-C at the
//! terminal ends the run first, and then the nodes. Never waits longer than [`HOOK_TIMEOUT`] for a hook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

use super::{Action, Event, Node, Nodes, Schedule};
use crate::{
    client::pause,
    clock::{Clock, Nanos, nanos, seconds},
    result::FaultMark,
};

/// How long a hook may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a started node may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The process groups that were started, for [`abandon`].
static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Paused processes that the tool did not start, for [`abandon`].
static PAUSED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Kills started nodes and resumes paused ones, without waiting: the tool is about to exit.
pub fn abandon() {
    for pid in PAUSED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::CONT));
    }
    for id in STARTED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = signal_group(*id, Signal::KILL);
    }
}

fn remember(child: &Child, is_running: bool) {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if is_running {
        started.insert(child.id())
    } else {
        started.remove(&child.id())
    };
}

/// The nodes and their state.
pub struct Control(Option<Arc<Mutex<Inner>>>);

struct Inner {
    nodes: Nodes,
    started: BTreeMap<String, Child>,
    paused: BTreeSet<String>,
    cut: BTreeSet<String>,
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Controls these nodes, or none.
    #[must_use]
    pub fn new(nodes: Option<Nodes>) -> Self {
        Self(nodes.map(|nodes| {
            Arc::new(Mutex::new(Inner {
                nodes,
                started: BTreeMap::new(),
                paused: BTreeSet::new(),
                cut: BTreeSet::new(),
            }))
        }))
    }

    /// Starts the nodes that have `start`.
    pub fn start(&self) -> Result<(), String> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut inner = lock(inner);
        let nodes = inner.nodes.nodes.clone();
        nodes.keys().filter(|name| nodes[*name].start.is_some()).try_for_each(|name| inner.start(name))
    }

    /// Whether any node was started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| !lock(inner).started.is_empty())
    }

    /// Returns a function that names a started node which has failed. A command that ended with status 0 has
    /// not failed: it may have left a node running.
    pub fn failed(&self) -> impl Fn() -> Option<String> + Send + use<> {
        let inner = self.0.clone();
        move || {
            let mut inner = lock(inner.as_ref()?);
            let Inner { nodes, started, .. } = &mut *inner;
            started.iter_mut().find_map(|(name, child)| {
                let status = child.try_wait().ok()?.filter(|status| !status.success())?;
                let log = nodes.nodes.get(name).and_then(|node| node.log.as_ref());
                let log = log.map(|log| format!("; its log is {}", log.display())).unwrap_or_default();
                Some(format!("node {name} has ended already: {status}{log}"))
            })
        }
    }

    /// Carries out the schedule in a thread of its own. Times count from `begin`.
    #[must_use]
    pub fn run(&self, schedule: Option<&Schedule>, clock: Clock, begin: Nanos) -> Running {
        let (marks, seen) = mpsc::channel();
        let (cancel, cancelled) = mpsc::channel::<()>();
        let thread = match (&self.0, schedule) {
            (Some(inner), Some(schedule)) => {
                let inner = Arc::clone(inner);
                let events = schedule.events.clone();
                let work = move || {
                    for event in events {
                        let due = begin + nanos(event.at);
                        let wait = Duration::from_nanos(due.saturating_sub(clock.now()));
                        if !matches!(cancelled.recv_timeout(wait), Err(mpsc::RecvTimeoutError::Timeout)) {
                            return;
                        }
                        let at_s = seconds(clock.now().saturating_sub(begin));
                        let failed = lock(&inner).act(&event).err();
                        let action = event.action.name().to_owned();
                        let _ = marks.send(FaultMark { at_s, action, on: event.name, failed });
                    }
                };
                std::thread::Builder::new().name("faults".into()).spawn(work).ok()
            }
            _ => None,
        };
        Running { seen, cancel, thread }
    }

    /// Returns a function that resumes paused nodes, heals cut ones, and reports failures. It takes as long as
    /// the hooks.
    pub fn undo(&self) -> impl FnOnce() -> Vec<String> + Send + use<> {
        let inner = self.0.clone();
        move || inner.map_or_else(Vec::new, |inner| lock(&inner).undo_all())
    }

    /// Ends started nodes and reports failures.
    #[must_use]
    pub fn end(&self) -> Vec<String> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let started = std::mem::take(&mut lock(inner).started);
        for child in started.values() {
            let _ = signal_group(child.id(), Signal::CONT);
            let _ = signal_group(child.id(), Signal::TERM);
        }
        let began = Clock::start();
        let mut problems = Vec::new();
        for (name, mut child) in started {
            while matches!(child.try_wait(), Ok(None)) && began.elapsed() < END_TIMEOUT {
                pause();
            }
            if matches!(child.try_wait(), Ok(None)) {
                problems.push(format!("node {name} did not end within {END_TIMEOUT:?} and was killed"));
            }
            let _ = signal_group(child.id(), Signal::KILL);
            let _ = child.wait();
            remember(&child, false);
        }
        problems
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A schedule that is being carried out.
pub struct Running {
    seen: mpsc::Receiver<FaultMark>,
    cancel: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// The faults since the last call.
    pub fn marks(&self) -> mpsc::TryIter<'_, FaultMark> {
        self.seen.try_iter()
    }

    /// Ends the schedule. Returns the faults since the last call of [`Running::marks`].
    #[must_use]
    pub fn end(self) -> Vec<FaultMark> {
        let _ = self.cancel.send(());
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
        self.seen.try_iter().collect()
    }
}

impl Inner {
    fn undo_all(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for (action, names) in [(Action::Resume, self.paused.clone()), (Action::Heal, self.cut.clone())] {
            for on in names {
                let event = Event { at: Duration::ZERO, action, name: on.clone(), on };
                if let Err(why) = self.act(&event) {
                    problems.push(format!("{} {} after the run: {why}", action.name(), event.on));
                }
            }
        }
        problems
    }

    fn act(&mut self, event: &Event) -> Result<(), String> {
        let Event { action, on, .. } = event;
        if *action == Action::Run {
            return shell(on);
        }
        if let Some(hook) = self.nodes.hooks.get(action) {
            // A hook that fails may have had half of its effect.
            match action {
                Action::Pause => drop(self.paused.insert(on.clone())),
                Action::Cut => drop(self.cut.insert(on.clone())),
                _ => {}
            }
            shell(&hook.replace("{node}", on))?;
        } else {
            match action {
                Action::Kill => self.signal(on, Signal::KILL)?,
                Action::Pause => self.signal(on, Signal::STOP)?,
                Action::Resume => self.signal(on, Signal::CONT)?,
                Action::Restart => {
                    if let Some(child) = self.started.get(on) {
                        let _ = signal_group(child.id(), Signal::KILL);
                    }
                    self.start(on)?;
                }
                Action::Cut | Action::Heal | Action::Run => return Err("no hook".into()),
            }
        }
        match action {
            Action::Pause => drop(self.paused.insert(on.clone())),
            Action::Resume | Action::Kill | Action::Restart => drop(self.paused.remove(on)),
            Action::Cut => drop(self.cut.insert(on.clone())),
            Action::Heal => drop(self.cut.remove(on)),
            Action::Run => {}
        }
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        if let Some(mut child) = self.started.remove(name) {
            let _ = child.wait();
            remember(&child, false);
        }
        let Some(Node { start: Some(start), env, log, .. }) = self.nodes.nodes.get(name) else {
            return Err(format!("node {name} has no `start`"));
        };
        let failed = |error: std::io::Error| format!("node {name}: {error}");
        let output = || match log {
            Some(log) => Ok(Stdio::from(File::options().create(true).append(true).open(log)?)),
            None => Ok(Stdio::null()),
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(start).envs(env).process_group(0).stdin(Stdio::null());
        command.stdout(output().map_err(failed)?).stderr(output().map_err(failed)?);
        let child = command.spawn().map_err(failed)?;
        remember(&child, true);
        self.started.insert(name.to_owned(), child);
        Ok(())
    }

    fn signal(&mut self, name: &str, signal: Signal) -> Result<(), String> {
        if let Some(child) = self.started.get_mut(name) {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the process has ended already: {status}"));
            }
            return signal_group(child.id(), signal);
        }
        let Some(node) = self.nodes.nodes.get(name) else { return Err("no such node".into()) };
        let pid = match (node.pid, &node.pid_file) {
            (Some(pid), _) => pid,
            (None, Some(file)) => {
                let text =
                    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
                text.trim().parse().map_err(|_| format!("{} holds no process id", file.display()))?
            }
            (None, None) => return Err("the node was never started".into()),
        };
        let pid = Pid::from_raw(pid).filter(|pid| pid.as_raw_pid() > 1 && *pid != getpid());
        let pid = pid.ok_or("this process may not be signalled")?;
        kill_process(pid, signal).map_err(|error| format!("process {}: {error}", pid.as_raw_pid()))?;
        let mut paused = PAUSED.lock().unwrap_or_else(PoisonError::into_inner);
        if signal == Signal::STOP {
            paused.insert(pid.as_raw_pid())
        } else {
            paused.remove(&pid.as_raw_pid())
        };
        Ok(())
    }
}

fn signal_group(id: u32, signal: Signal) -> Result<(), String> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    kill_process_group(pid, signal).map_err(|error| error.to_string())
}

fn shell(command: &str) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = shell.spawn().map_err(|error| error.to_string())?;
    let began = Clock::start();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) if began.elapsed() < HOOK_TIMEOUT => pause(),
            Ok(None) => {
                let _ = signal_group(child.id(), Signal::KILL);
                let _ = child.wait();
                return Err(format!("not done within {HOOK_TIMEOUT:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried_out(schedule: &str) -> (Vec<FaultMark>, Vec<String>) {
        let schedule = Schedule::parse(schedule, Duration::from_secs(60)).unwrap();
        let control = Control::new(Some(schedule.nodes.clone()));
        control.start().unwrap();
        let clock = Clock::start();
        let running = control.run(Some(&schedule), clock, clock.now());
        let mut marks = Vec::new();
        while marks.len() < schedule.events.len() {
            marks.push(running.seen.recv_timeout(Duration::from_secs(30)).unwrap());
        }
        assert!(running.end().is_empty());
        let problems = control.undo()();
        assert!(control.end().is_empty());
        (marks, problems)
    }

    #[test]
    fn process_is_paused_resumed_killed_and_restarted() {
        let (marks, problems) = carried_out(
            "[nodes.a]\nstart = \"sleep 1000\"\n\
             [[at]]\ns = 0\naction = \"pause\"\nnode = \"a\"\n\
             [[at]]\ns = 0.1\naction = \"resume\"\nnode = \"a\"\n\
             [[at]]\ns = 0.2\naction = \"kill\"\nnode = \"a\"\n\
             [[at]]\ns = 0.3\naction = \"restart\"\nnode = \"a\"\n\
             [[at]]\ns = 0.4\naction = \"pause\"\nnode = \"a\"\n",
        );
        assert!(marks.iter().all(|mark| mark.failed.is_none()), "{marks:?}");
        assert!(problems.is_empty(), "{problems:?}");
        assert!(marks[4].at_s >= 0.4);
    }

    #[test]
    fn cut_that_failed_half_way_is_healed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("calls");
        let text = format!(
            "[nodes.a]\n[hooks]\ncut = \"echo cut >> {0}; exit 1\"\nheal = \"echo heal >> {0}\"\n\
             [[at]]\ns = 0\naction = \"cut\"\nnode = \"a\"\n",
            file.display()
        );
        let (marks, problems) = carried_out(&text);
        assert!(marks[0].failed.is_some() && problems.is_empty(), "{marks:?} {problems:?}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "cut\nheal\n");
    }

    #[test]
    fn hooks_run_and_cut_nodes_are_healed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("calls");
        let text = format!(
            "[nodes.a]\n[hooks]\ncut = \"echo cut {{node}} >> {0}\"\nheal = \"echo heal {{node}} >> {0}\"\n\
             [[at]]\ns = 0\naction = \"cut\"\nnode = \"a\"\n\
             [[at]]\ns = 0.01\naction = \"run\"\ncommand = \"exit 3\"\n",
            file.display()
        );
        let (marks, problems) = carried_out(&text);
        assert_eq!((marks[0].failed.as_deref(), problems.len()), (None, 0));
        assert!(marks[1].failed.as_ref().unwrap().contains('3'));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "cut a\nheal a\n");
    }
}
