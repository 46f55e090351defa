//! What commands write. An answer that does not arrive is a failure: a script that reads nothing must not
//! take it for an empty list, nor lose a password that is shown once.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
};

use super::Failure;
use crate::{logging, operator::Done};

/// Writes a text and the end of its line to stdout.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    write(text).map_err(|error| Failure::Lost { why: error.to_string(), is_done: false })
}

/// Past std's stdout, which takes a descriptor that cannot be written for one that swallows everything, and
/// keeps what follows the last line break until the process ends.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stdout.write_all(format!("{text}\n").as_bytes())?;
    stdout.flush()
}

/// The result of a command: a sentence and a line for each thing in it, or JSON.
pub(super) fn show(done: &Done, json: bool) -> Result<(), Failure> {
    let text = if json { done.result.to_string() } else { lines(done) };
    write(&text).map_err(|error| Failure::Lost { why: error.to_string(), is_done: true })
}

fn lines(done: &Done) -> String {
    let mut text = harmless(&done.msg);
    // Lists of keys and the like, a line each.
    for row in done.result.as_array().into_iter().flatten() {
        let cells: Vec<_> =
            row.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str()).collect();
        text.push('\n');
        text.push_str(&harmless(&cells.join("  ")));
    }
    text
}

/// Says on one line of stderr what went wrong. When that is lost too, the status says it.
pub(super) fn complain(msg: &str) {
    let line: Vec<_> = msg.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    logging::line(&format!("palisade: {}", harmless(&line.join(" "))));
}

/// Without what moves a terminal's cursor: texts of users are in it.
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
    fn control_characters_are_escaped_and_lines_stay() {
        assert_eq!(harmless("a\u{1b}[31mb\r\nc\u{9b}"), "a\\u{1b}[31mb\\r\nc\\u{9b}");
        assert_eq!(harmless("plain — text"), "plain — text");
    }
}
