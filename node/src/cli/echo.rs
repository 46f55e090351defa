//! A terminal shows what is typed again after a prompt without echo, also when a signal ends the process.

use std::{
    fs::{File, OpenOptions},
    io::{self, PipeReader, Write as _},
    thread,
};

use nix::sys::{
    signal::{SigSet, Signal, raise},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::signal::unix::SignalKind;

use crate::boot::signals::is_ignored;

/// Asks at the terminal. `rpassword` turns echo off, and gives a SIGINT that the user types to the thread of
/// `ask` before it turns echo on again. So signals that end the process are blocked until then: this thread's own
/// ends the process after `ask` has returned, and those from outside after the terminal was restored here.
///
/// # Errors
/// If the signals cannot be awaited.
pub(super) fn restored<T>(ask: impl FnOnce() -> T) -> io::Result<T> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return Ok(ask()) };
    let Ok(shown) = tcgetattr(&terminal) else { return Ok(ask()) };
    let ends = [
        (Signal::SIGINT, SignalKind::interrupt()),
        (Signal::SIGTERM, SignalKind::terminate()),
        (Signal::SIGHUP, SignalKind::hangup()),
        (Signal::SIGQUIT, SignalKind::quit()),
    ];
    let signals: SigSet =
        ends.into_iter().filter(|(_, kind)| !is_ignored(*kind)).map(|(signal, _)| signal).collect();
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let (answered, open) = io::pipe()?;
    signals.thread_block()?;
    let typed = thread::scope(|scope| {
        let guard = Guard { terminal, shown, signals, arrived, answered };
        scope.spawn(move || guard.watch());
        let typed = ask();
        drop(open);
        typed
    });
    // A signal that this thread has sent itself ends the process here.
    signals.thread_unblock()?;
    Ok(typed)
}

/// Restores a terminal when a signal arrives.
struct Guard {
    terminal: File,
    /// The settings of the terminal before the prompt.
    shown: Termios,
    signals: SigSet,
    arrived: SignalFd,
    /// Is closed at the other end when the user has answered.
    answered: PipeReader,
}

impl Guard {
    /// Waits for the answer, or for a signal, by which the process ends as it would without this.
    fn watch(mut self) {
        loop {
            let mut waits =
                [PollFd::new(&self.arrived, PollFlags::IN), PollFd::new(&self.answered, PollFlags::IN)];
            // A wait that is interrupted begins again.
            let _ = poll(&mut waits, None);
            let [arrived, answered] = waits.map(|wait| !wait.revents().is_empty());
            if arrived {
                self.end();
            }
            if answered {
                return;
            }
        }
    }

    fn end(&mut self) {
        let Ok(Some(arrived)) = self.arrived.read_signal() else { return };
        let signal = i32::try_from(arrived.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.shown);
        let _ = self.terminal.write_all(b"\n");
        let _ = self.signals.thread_unblock();
        let _ = signal.map(raise);
    }
}
