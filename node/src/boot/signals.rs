//! Signals that end a process.

use std::io;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Unblocks all signals for this thread and those that it starts: a process inherits the mask of its parent,
/// and with SIGTERM blocked it would not end when told to.
pub(crate) fn unblock() {
    // It fails for a wrong argument only.
    let _ = SigSet::empty().thread_set_mask();
}

/// Whether this process ignores a signal, as those that `nohup` starts ignore SIGHUP.
pub(crate) fn is_ignored(signal: SignalKind) -> bool {
    let bit = 1_u64.checked_shl(signal.as_raw_value().cast_unsigned().wrapping_sub(1)).unwrap_or(0);
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.sigign & bit != 0)
}

/// Keeps SIGUSR1 and SIGUSR2 from ending the process. Log rotation sends them to servers that reopen their logs.
pub(super) fn outlive_user_signals() -> io::Result<()> {
    for signal_kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // tokio's handler stays installed after its stream is dropped.
        drop(signal(signal_kind)?);
    }
    Ok(())
}

/// SIGHUP, unless the process was started with it ignored: a channel that never receives then.
pub(super) fn hang_up() -> io::Result<HangUp> {
    let signal_kind = SignalKind::hangup();
    Ok(HangUp(if is_ignored(signal_kind) { None } else { Some(signal(signal_kind)?) }))
}

/// Hang-ups of the terminal.
pub(super) struct HangUp(Option<Signal>);

impl HangUp {
    /// `None` when none will ever come.
    pub(super) async fn recv(&mut self) -> Option<()> {
        self.0.as_mut()?.recv().await
    }
}
