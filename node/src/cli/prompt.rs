//! Asking at a terminal for what flags did not give.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// A flag is missing and there is nobody to ask, or nobody answered.
pub(super) struct Missing(pub(super) String);

/// A line: given, or asked for.
pub(super) fn line(given: Option<String>, flag: &str, question: &str) -> Result<String, Missing> {
    if let Some(given) = given {
        return Ok(given);
    }
    require_terminal(flag)?;
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question}: ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let answer = answer.trim();
    if read.is_err() || answer.is_empty() {
        return Err(Missing(format!("nothing was typed; give {flag}")));
    }
    Ok(answer.to_owned())
}

/// A password: given, or asked for twice, unseen.
pub(super) fn password(given: Option<String>, flag: &str) -> Result<String, Missing> {
    if let Some(given) = given {
        return Ok(given);
    }
    require_terminal(flag)?;
    let ask =
        |question| rpassword::prompt_password(question).map_err(|e| Missing(format!("{e}; give {flag}")));
    let first = ask("Password: ")?;
    if ask("The same again: ")? != first {
        return Err(Missing("the two passwords differ".into()));
    }
    Ok(first)
}

fn require_terminal(flag: &str) -> Result<(), Missing> {
    if std::io::stdin().is_terminal() {
        Ok(())
    } else {
        Err(Missing(format!("there is no terminal to ask at: give {flag}")))
    }
}
