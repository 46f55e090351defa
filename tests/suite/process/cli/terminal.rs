//! Commands at a terminal: what they ask, and what they print.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use testkit::{Node, Palisade, fresh, within};

use super::email;

/// Runs a command at a terminal: types each answer when the question before it is there.
async fn at_a_terminal(call: Palisade, dialogue: &[(&str, &str)]) -> (std::process::ExitStatus, String) {
    let call = call.into_command();
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<_> = std::iter::once(call.get_program()).chain(call.get_args()).map(quoted).collect();
    // It gives the command a session with a controlling terminal, at which passwords are asked for.
    let mut command = Command::new("script");
    let line = format!("tty && exec {}", words.join(" "));
    command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
    call.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let dialogue: Vec<_> =
        dialogue.iter().map(|(question, answer)| ((*question).to_owned(), (*answer).to_owned())).collect();
    let spoken = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        let mut seen = 0;
        let mut questions = dialogue.iter();
        let mut next = questions.next();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = screen.read(&mut buffer) {
            said += &String::from_utf8_lossy(&buffer[..count]);
            while let Some((question, answer)) = next
                && let Some(at) = said[seen..].find(question.as_str())
            {
                seen += at + question.len();
                let terminal = said.lines().next().unwrap();
                while (question.starts_with("Password") || question.starts_with("The same"))
                    && shows(terminal)
                {
                    std::thread::yield_now();
                }
                writeln!(keyboard, "{answer}").unwrap();
                next = questions.next();
            }
        }
        assert!(next.is_none(), "{next:?} was not asked: {said}");
        said
    });
    let said = within(Duration::from_secs(60), "the end of the dialogue", spoken).await.unwrap();
    (child.wait().unwrap(), said)
}

/// Whether a terminal shows what is typed.
fn shows(terminal: &str) -> bool {
    let settings = Command::new("stty").args(["-F", terminal, "-a"]).output().unwrap();
    assert!(settings.status.success(), "{terminal}: {settings:?}");
    !String::from_utf8_lossy(&settings.stdout).split_whitespace().any(|word| word == "-echo")
}

#[tokio::test]
async fn superuser_create_asks_at_a_terminal() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let password = fresh("an operator's secret");
    for (first, last) in [("Ann", "Archer"), ("", "")] {
        let email = email();
        let dialogue = [
            ("Email: ", email.as_str()),
            ("First name (Enter skips): ", first),
            ("Last name (Enter skips): ", last),
            ("Password: ", &password),
            ("The same again: ", &password),
        ];
        let (status, said) = at_a_terminal(node.palisade(&["superuser", "create"]), &dialogue).await;
        assert!(status.success(), "{said}");
        assert!(!said.contains(&password), "the password was shown: {said}");
        let root = testkit::Person::log_in(&node, &email, &password).await;
        let me = root.get("users/me").send().await.is(200).json();
        let name = |name: &str| if name.is_empty() { serde_json::Value::Null } else { name.into() };
        assert_eq!((&me["first_name"], &me["last_name"]), (&name(first), &name(last)));
    }
    // What a flag gives is not asked, and two passwords that differ are a failure.
    let given = ["superuser", "create", "--email", "z@example.org", "--first-name", "", "--last-name", "Z"];
    let dialogue = [("Password: ", password.as_str()), ("The same again: ", "another one")];
    let (status, said) = at_a_terminal(node.palisade(&given), &dialogue).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("differ") && !said.contains("First name"), "{said}");
    // Before anything is asked it is said that there is nothing to do it on.
    let nowhere = Palisade::with(["superuser", "create"]).setting("DATA_DIR", Path::new("/nowhere"));
    let (status, said) = at_a_terminal(nowhere, &[]).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("there is no store in /nowhere") && !said.contains("Email:"), "{said}");
}

/// Runs a command that prompts for a password, and ends it at the prompt: by `act`, a command of the shell to
/// which `$PID` is the prompting process, or by typing ^C. Returns what the terminal showed, at last its settings.
/// The shell is no interactive one, which would repair the terminal itself.
async fn ended_at_the_prompt(call: Palisade, act: Option<&str>) -> String {
    let call = call.into_command();
    let scratch = testkit::scratch::directory();
    let pid = scratch.path().join("pid");
    let path = scratch.path().join("script");
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let words: Vec<_> = std::iter::once(call.get_program()).chain(call.get_args()).map(quoted).collect();
    let act = act.unwrap_or("echo READY >/dev/tty");
    let text = format!(
        "( until stty -a </dev/tty | grep -q -e '-echo '; do sleep 0.05; done; PID=$(cat {pid}); {act} ) &\n\
         sh -c 'echo $$ >{pid}; exec \"$@\"' sh {words}\n\
         echo status=$?\nstty -a\n",
        pid = pid.display(),
        words = words.join(" "),
    );
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("script");
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &format!("sh {}", path.display()),
        "/dev/null",
    ]);
    call.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let spoken = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        let mut has_typed = false;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = screen.read(&mut buffer) {
            said += &String::from_utf8_lossy(&buffer[..count]);
            if said.contains("READY") && !has_typed {
                keyboard.write_all(b"half\x03").unwrap();
                has_typed = true;
            }
        }
        said
    });
    let said = within(Duration::from_secs(60), "the end of the prompt", spoken).await.unwrap();
    child.wait().unwrap();
    said
}

#[tokio::test]
async fn terminal_shows_input_again_after_a_signal() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let create = ["superuser", "create", "--email", "x@example.org", "--first-name", "X", "--last-name", "Y"];
    for (act, status) in [
        (None, 130),
        (Some("kill -INT $PID"), 130),
        (Some("kill -TERM $PID"), 143),
        (Some("kill -HUP $PID"), 129),
    ] {
        let said = ended_at_the_prompt(node.palisade(&create), act).await;
        assert!(said.contains(&format!("status={status}\r\n")), "{act:?}: {said}");
        let settings = said.split_once("status=").unwrap().1;
        let is_set = |flag: &str| settings.split_whitespace().any(|word| word.trim_end_matches(';') == flag);
        for flag in ["echo", "icanon", "isig"] {
            assert!(is_set(flag), "{act:?}: {flag}: {said}");
        }
    }
}

#[tokio::test]
async fn texts_of_users_cannot_move_the_terminals_cursor() {
    let node = Node::start().await;
    node.cli(&["app", "init"]).await.is_done();
    let run = node.cli(&["superuser", "delete", "--email", "a\u{1b}[2Jb@example.org"]).await;
    run.failed_saying(&["[2Jb"]).in_one_line();
    assert!(!run.stderr.contains('\u{1b}'), "{run:?}");
}
