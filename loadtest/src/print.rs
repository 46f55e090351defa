//! Prints to stdout and stderr outside of the [`crate::screen`].
//!
//! Promises: a closed pipe ends nothing.

use std::io::{Write as _, stderr, stdout};

/// Prints what a script may read, to stdout.
pub fn result(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}

/// Prints a message to the user, to stderr. Not while the screen is shown.
pub fn status(message: &str) {
    let _ = writeln!(stderr(), "palisade-loadtest: {message}");
}
