//! The house style, as far as it can be counted. Each count has a committed number that may only fall.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines of code in a file, without its unit tests.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters of a test's name.
const TEST_NAME_MAX: usize = 60;

/// Words in comments and documents that have a plainer one.
const WORDS: [&str; 10] = [
    "who",
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "anew",
    "as ever",
    "taken away",
    "is to be",
    "so long",
];

/// What is counted, and how often it may occur.
const COUNTS: [(&str, usize); 5] = [
    ("words that have a plainer one", 21),
    ("several bindings in one `let`", 207),
    ("functions that are too long", 6),
    ("files that are too long", 0),
    ("names of tests that are too long", 0),
];

#[test]
fn style_does_not_get_worse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found: [Vec<String>; COUNTS.len()] = Default::default();
    for path in tracked_files(root) {
        let name = path.display().to_string();
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("md") => found[0].extend(words(&name, text.lines())),
            Some("rs") => {
                found[0].extend(words(&name, comments(&text)));
                found[1].extend(parallel_bindings(&name, &text));
                found[2].extend(long_functions(&name, &text));
                found[3].extend(long_file(&name, &text));
                found[4].extend(long_test_names(&name, &text));
            }
            _ => {}
        }
    }
    let mut wrong = String::new();
    for ((what, committed), found) in COUNTS.iter().zip(&found) {
        if found.len() > *committed {
            let _ = writeln!(wrong, "{what}: {} instead of {committed}; all of them:", found.len());
            for place in found {
                let _ = writeln!(wrong, "  {place}");
            }
        } else if found.len() < *committed {
            let _ =
                writeln!(wrong, "{what}: only {} are left; write that number into {}", found.len(), file!());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// All files that git knows, without other people's words.
fn tracked_files(root: &Path) -> Vec<PathBuf> {
    let git = Command::new("git").args(["ls-files", "*.rs", "*.md"]).current_dir(root).output();
    let git = git.expect("git lists the files of the checkout");
    let text = String::from_utf8(git.stdout).expect("names are UTF-8");
    let is_ours = |name: &&str| !["CHANGELOG.md", "tests/src/style.rs"].contains(name);
    text.lines().filter(is_ours).map(PathBuf::from).collect()
}

fn comments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.trim_start().starts_with("//"))
}

fn words<'a>(name: &str, lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines {
        let line = line.to_lowercase();
        for word in WORDS {
            let is_word = |(at, _): &(usize, &str)| {
                let is_letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
                !is_letter(line[..*at].chars().next_back())
                    && !is_letter(line[at + word.len()..].chars().next())
            };
            let count = line.match_indices(word).filter(is_word).count();
            found.extend((0..count).map(|_| format!("{name}: {word}: {}", line.trim())));
        }
    }
    found
}

fn parallel_bindings(name: &str, text: &str) -> Vec<String> {
    let is_parallel = |line: &&str| line.trim_start().starts_with("let (") && line.contains(") = (");
    text.lines().filter(is_parallel).map(|line| format!("{name}: {}", line.trim())).collect()
}

/// The code of a file ends where its unit tests begin.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn long_file(name: &str, text: &str) -> Option<String> {
    let lines = code(text).lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{name}: {lines} lines"))
}

/// A function begins at its name and ends with a brace that is indented as the line with its name.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(function) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let is_end = |line: &&&str| line.len() == indent + 1 && line.ends_with('}');
        let length = lines[start..].iter().position(|line| is_end(&line)).map_or(0, |end| end + 1);
        if length > FUNCTION_LINES_MAX && !line.trim_end().ends_with(';') {
            found.push(format!("{name}: {function}: {length} lines"));
        }
    }
    found
}

fn long_test_names(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let is_test = |line: &str| line.trim_start().starts_with("#[test]") || line.contains("#[tokio::test");
    let names = lines.windows(2).filter(|pair| is_test(pair[0])).filter_map(|pair| function_name(pair[1]));
    names.filter(|test| test.chars().count() > TEST_NAME_MAX).map(|test| format!("{name}: {test}")).collect()
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_start = before
        .split_whitespace()
        .all(|word| ["pub", "async", "const"].contains(&word) || word.starts_with("pub("));
    let end = after.find(|c: char| c != '_' && !c.is_alphanumeric())?;
    (is_start && end > 0).then(|| &after[..end])
}

#[test]
fn style_is_counted() {
    let text = "/// Whoever asks, and who does.\nfn f() {\n    let (a, b) = (1, 2);\n}\n";
    assert_eq!(words("f", comments(text)).len(), 2);
    assert_eq!(parallel_bindings("f", text).len(), 1);
    assert_eq!(long_functions("f", text), [] as [String; 0]);
    let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(long_functions("f", &long).len(), 1);
    assert!(long_file("f", &"x\n".repeat(FILE_LINES_MAX + 1)).is_some());
    let test = format!("#[test]\nfn {}() {{}}\n", "x".repeat(TEST_NAME_MAX + 1));
    assert_eq!(long_test_names("f", &test).len(), 1);
}
