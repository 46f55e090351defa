//! Prompts at a terminal for values that no flag gave.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use zeroize::Zeroizing;

use super::{Failure, echo::restored};

/// A required line: as given, or prompted for.
pub(super) fn line(given: Option<String>, flag: &str, question: &str) -> Result<String, Failure> {
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return Ok(given);
    }
    require_terminal(flag)?;
    let answer = ask(question)?;
    if answer.is_empty() {
        Err(Failure::Failed(format!("nothing was typed; give {flag}")))
    } else {
        Ok(answer)
    }
}

/// An optional line: as given, or prompted for at a terminal, where Enter skips it.
pub(super) fn optional_line(given: Option<String>, question: &str) -> Result<Option<String>, Failure> {
    let answer = match given {
        Some(given) => given,
        None if std::io::stdin().is_terminal() => ask(&format!("{question} (Enter skips)"))?,
        None => return Ok(None),
    };
    Ok(Some(answer).filter(|answer| !answer.is_empty()))
}

/// A password: as given, or prompted for twice without echo.
pub(super) fn password(given: Option<Zeroizing<String>>, flag: &str) -> Result<Zeroizing<String>, Failure> {
    if let Some(given) = given {
        return Ok(given);
    }
    require_terminal(flag)?;
    let ask = |question| {
        let typed = restored(|| rpassword::prompt_password(question).map(Zeroizing::new)).flatten();
        typed.map_err(|error| Failure::Failed(format!("the terminal cannot be read: {error}; give {flag}")))
    };
    let first = ask("Password: ")?;
    // `rpassword` replaces bytes that are not UTF-8.
    if first.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Failure::Failed(
            "what was typed is not UTF-8 text: look at the terminal's encoding".into(),
        ));
    }
    if *ask("The same again: ")? != *first {
        return Err(Failure::Failed("the two passwords differ; try again".into()));
    }
    Ok(first)
}

fn ask(question: &str) -> Result<String, Failure> {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question}: ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::Failed(format!("what was typed cannot be read: {error}")))?;
    Ok(answer.trim().to_owned())
}

fn require_terminal(flag: &str) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        Ok(())
    } else {
        Err(Failure::Usage(format!("there is no terminal to ask at: give {flag}")))
    }
}
