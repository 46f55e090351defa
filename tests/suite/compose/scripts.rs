//! The scripts `init` and `roll`.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Output},
    time::SystemTime,
};

use super::files::folder;

fn run(script: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(script);
    command.env_remove("COMPOSE_FILE").envs(environment.iter().copied());
    command.output().expect("the script starts")
}

/// The files that `init` makes: content, mode and time of each.
fn made(directory: &Path) -> BTreeMap<String, (Vec<u8>, u32, SystemTime)> {
    let secrets = std::fs::read_dir(directory.join("secrets")).expect("the secrets");
    let paths = secrets.map(|entry| entry.expect("an entry").path()).chain([directory.join(".env")]);
    let file = |path: std::path::PathBuf| {
        let about = path.metadata().expect("it is there");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let content = std::fs::read(&path).expect("it can be read");
        (name, (content, about.permissions().mode() & 0o777, about.modified().expect("a time")))
    };
    paths.map(file).collect()
}

/// A copy of what `init` needs.
fn fresh_folder() -> tempfile::TempDir {
    let directory = testkit::scratch::directory();
    for name in ["init", ".env.example"] {
        std::fs::copy(folder().join(name), directory.path().join(name)).unwrap();
    }
    directory
}

#[test]
fn init_repeated_changes_nothing() {
    let directory = fresh_folder();
    let init = directory.path().join("init");
    let first = run(&init, &[]);
    assert!(first.status.success(), "{first:?}");
    let before = made(directory.path());
    let second = run(&init, &[]);
    assert!(second.status.success() && second.stdout.is_empty() && second.stderr.is_empty(), "{second:?}");
    assert_eq!(before, made(directory.path()));
    for (name, (_, mode, _)) in &before {
        assert_eq!(*mode, 0o600, "{name}");
    }
    // One that was lost comes back, and the others stay.
    std::fs::remove_file(directory.path().join("secrets/cluster_secret")).unwrap();
    assert!(run(&init, &[]).status.success());
    let after = made(directory.path());
    assert_ne!(before["cluster_secret"].0, after["cluster_secret"].0);
    assert_eq!(before["master_key"], after["master_key"]);
}

#[test]
fn init_makes_secrets_that_a_node_takes() {
    let directory = fresh_folder();
    assert!(run(&directory.path().join("init"), &[]).status.success());
    let made = made(directory.path());
    let text = |name: &str| String::from_utf8(made[name].0.clone()).unwrap().trim_end().to_owned();
    assert_eq!(text("master_key").len(), 44);
    assert_eq!(text("cluster_secret").len(), 44);
    assert_ne!(text("master_key"), text("cluster_secret"));
    assert!(text("superuser_password").len() >= 32);
    let store = format!("cql://palisade:{}@scylla:9042/palisade", text("database_password"));
    assert_eq!(text("store"), store);
    // The containers run as the owner of the files.
    let uid = directory.path().join("secrets/store").metadata().unwrap().uid();
    assert!(text(".env").lines().any(|line| line == format!("PALISADE_UID={uid}")), "{uid}");
    let check = testkit::Palisade::with(["check-config"]);
    let secret = |name: &str| directory.path().join("secrets").join(name);
    let check = check.setting("LISTEN", "127.0.0.1:0").setting("DATA_DIR", directory.path().join("data"));
    let check = check.setting("STORE_FILE", secret("store")).setting("MASTER_KEY_FILE", secret("master_key"));
    let check = check.setting("CLUSTER_LISTEN", "127.0.0.1:1").setting("CLUSTER_SEEDS", "peers:7080");
    let check = check.setting("CLUSTER_SECRET_FILE", secret("cluster_secret"));
    let check = check.into_command().output().expect("the binary starts");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn roll_without_an_engine_says_what_it_needs() {
    let directory = testkit::scratch::directory();
    for tool in ["dirname", "sh"] {
        let path = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
        let path = path.iter().find(|path| path.exists()).expect("a system has it");
        std::os::unix::fs::symlink(path, directory.path().join(tool)).unwrap();
    }
    let path = directory.path().to_str().unwrap();
    let refused = run(&folder().join("roll"), &[("PATH", path)]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs Docker"), "{refused:?}");
}

#[test]
fn scripts_are_executable_and_well_formed() {
    for name in ["init", "roll", "database/ready"] {
        let script = folder().join(name);
        assert_eq!(script.metadata().unwrap().permissions().mode() & 0o111, 0o111, "{name}");
        let parsed = Command::new("sh").arg("-n").arg(&script).output().unwrap();
        assert!(parsed.status.success(), "{name}: {parsed:?}");
        // Where it is installed.
        if let Ok(checked) = Command::new("shellcheck").arg(&script).output() {
            assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stdout));
        }
    }
}
