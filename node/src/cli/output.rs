//! The output of commands. Output that cannot be written is a failure: a script that reads nothing must not
//! take it for an empty list, nor lose a password that is shown once.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, major, minor};

use super::Failure;
use crate::{logging, operator::Done};

/// Writes a text and a line feed to stdout.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    write(text).map_err(|error| Failure::Lost { why: error.to_string(), is_done: false })
}

/// The same for a command that does nothing else: a stdout that was closed is a failure, too.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    if was_closed(io::stdout().as_fd()) {
        return Err(Failure::Lost { why: "it is closed".into(), is_done: false });
    }
    say(text)
}

/// Whether a standard stream was probably closed when the process started: before `main`, std replaces such a
/// stream by `/dev/null`, open for reading and writing. Shells open it for writing only. Some programs open it
/// like std to discard the output of a command, so commands that also do something do not ask this.
fn was_closed(stream: BorrowedFd<'_>) -> bool {
    const NULL_DEVICE: (u32, u32) = (1, 3);
    let (Ok(found), Ok(flags)) = (fstat(stream), fcntl_getfl(stream)) else { return true };
    let is_null = FileType::from_raw_mode(found.st_mode).is_char_device()
        && (major(found.st_rdev), minor(found.st_rdev)) == NULL_DEVICE;
    is_null && flags.contains(OFlags::RDWR)
}

/// Writes to the descriptor itself: std's stdout silently drops output to a descriptor that cannot be
/// written, and buffers what follows the last line feed until the process exits.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stdout.write_all(format!("{text}\n").as_bytes())?;
    stdout.flush()
}

/// Writes the result of a command: a sentence and a line for each item, or JSON.
pub(super) fn show(done: &Done, json: bool) -> Result<(), Failure> {
    let text = if json { done.result.to_string() } else { lines(done) };
    write(&text).map_err(|error| Failure::Lost { why: error.to_string(), is_done: true })
}

fn lines(done: &Done) -> String {
    let mut text = harmless(&done.msg);
    // Write each item of a list on a line.
    for row in done.result.as_array().into_iter().flatten() {
        let cells: Vec<_> =
            row.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str()).collect();
        text.push('\n');
        text.push_str(&harmless(&cells.join("  ")));
    }
    text
}

/// Writes an error as one line to stderr. If that fails too, the exit status still reports it.
pub(super) fn complain(msg: &str) {
    let line: Vec<_> = msg.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    logging::line(&format!("palisade: {}", harmless(&line.join(" "))));
}

/// Escapes control characters, which could move a terminal's cursor: the text may contain input of users.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            harmless.extend(c.escape_default());
        } else {
            harmless.push(c);
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(harmless("a\u{1b}[31mb\r\nc\u{9b}"), "a\\u{1b}[31mb\\r\nc\\u{9b}");
        assert_eq!(harmless("plain — text"), "plain — text");
    }
}
