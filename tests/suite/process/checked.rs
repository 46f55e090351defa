//! `check-config` on a data directory that a node has used: it refuses what a start would refuse, and leaves
//! everything as it is.

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use testkit::{Node, Palisade, Run, scratch};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

/// The data directory of a node that has served and ended.
async fn used() -> Node {
    let node = Node::start().await;
    node.register("ann").await;
    node.terminate().await;
    node
}

async fn check(node: &Node) -> Run {
    Palisade::with(["check-config"]).setting("DATA_DIR", node.data_dir()).run().await
}

/// Names, bytes and times of all files.
fn contents(directory: &Path) -> BTreeMap<String, (Option<Vec<u8>>, SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        let bytes = metadata.is_file().then(|| fs::read(entry.path()).unwrap());
        (entry.file_name().into_string().unwrap(), (bytes, metadata.modified().unwrap()))
    };
    entries.map(read).collect()
}

/// Both refuse, in one line with these words, and the check changes nothing.
async fn is_refused(node: &Node, prepare: impl Fn(Palisade) -> Palisade, words: &[&str]) {
    let before = contents(node.data_dir());
    let call = |command| prepare(Palisade::with([command]).setting("DATA_DIR", node.data_dir()));
    let checked = call("check-config").run().await;
    checked.failed_saying(words).in_one_line();
    assert!(contents(node.data_dir()) == before, "the check changed the data directory: {checked:?}");
    let served = call("serve").setting("LISTEN", "127.0.0.1:0").run().await;
    served.failed_saying(words);
}

#[tokio::test]
async fn check_config_accepts_a_used_directory_and_keeps_it() {
    let node = used().await;
    let before = contents(node.data_dir());
    let run = check(&node).await;
    assert!(run.is_done().stdout.contains("the settings are good"), "{run:?}");
    assert!(!run.stdout.contains("in use"), "{run:?}");
    assert!(contents(node.data_dir()) == before, "{run:?}");
    node.restart().await;
}

#[tokio::test]
async fn check_config_accepts_the_directory_of_a_killed_node() {
    let node = Node::start().await;
    node.register("ann").await;
    node.kill_dash_9();
    let before = contents(node.data_dir());
    let run = check(&node).await;
    assert!(!run.is_done().stdout.contains("in use"), "{run:?}");
    assert!(contents(node.data_dir()) == before, "{run:?}");
    node.restart().await;
}

#[tokio::test]
async fn check_config_says_that_a_running_node_uses_the_directory() {
    let node = Node::start().await;
    let run = check(&node).await;
    assert!(run.is_done().stdout.contains("in use"), "{run:?}");
    // Not by the control socket alone.
    fs::remove_file(node.data_dir().join("control.sock")).unwrap();
    let run = check(&node).await;
    assert!(run.is_done().stdout.contains("in use"), "{run:?}");
    node.register("ann").await.is_in().await;
}

#[tokio::test]
async fn check_config_refuses_a_damaged_master_key() {
    let node = used().await;
    let key = node.data_dir().join("master.key");
    let good = fs::read(&key).unwrap();
    for damage in [&b""[..], b"not base64", b"AAECAw==", &good[..good.len() / 2], b"\xff\xfe"] {
        fs::write(&key, damage).unwrap();
        is_refused(&node, |call| call, &["master.key", "32 bytes"]).await;
    }
    fs::write(&key, OTHER_KEY).unwrap();
    is_refused(&node, |call| call, &["master key"]).await;
    fs::remove_file(&key).unwrap();
    is_refused(&node, |call| call, &["master.key", "lost"]).await;
    fs::create_dir(&key).unwrap();
    is_refused(&node, |call| call, &["master.key"]).await;
    fs::remove_dir(&key).unwrap();
    fs::write(&key, &good).unwrap();
    check(&node).await.is_done();
}

#[tokio::test]
async fn check_config_refuses_another_master_key_than_the_stores() {
    let node = used().await;
    is_refused(&node, |call| call.setting("MASTER_KEY", OTHER_KEY), &["master key"]).await;
    let node = Node::builder().setting("MASTER_KEY", KEY).start().await;
    node.terminate().await;
    let call = Palisade::with(["check-config"]).setting("DATA_DIR", node.data_dir());
    call.setting("MASTER_KEY", KEY).run().await.is_done();
    // Without the setting a start would look for a file, which there is not.
    is_refused(&node, |call| call, &["master.key"]).await;
}

#[tokio::test]
async fn check_config_refuses_a_store_that_is_none() {
    let node = used().await;
    let store = node.data_dir().join("palisade.redb");
    let good = fs::read(&store).unwrap();
    let foreign = b"this is not a store at all".repeat(1_000);
    for damage in [&b""[..], &foreign, &vec![0; good.len()]] {
        fs::write(&store, damage).unwrap();
        is_refused(&node, |call| call, &["palisade.redb"]).await;
    }
    // A start may mark what is left of a store as in need of repair, so this is only checked.
    fs::write(&store, &good[..good.len() / 3]).unwrap();
    check(&node).await.failed_saying(&["palisade.redb"]).in_one_line();
    fs::remove_file(&store).unwrap();
    fs::create_dir(&store).unwrap();
    is_refused(&node, |call| call, &["palisade.redb"]).await;
    fs::remove_dir(&store).unwrap();
    fs::write(&store, &good).unwrap();
    check(&node).await.is_done();
}

#[tokio::test]
async fn check_config_refuses_other_files_that_a_start_refuses() {
    let node = used().await;
    for name in ["node.lock", "journal.0", "journal.1", "clock.json", "node.json", "control.sock"] {
        let file = node.data_dir().join(name);
        let good = fs::read(&file).ok();
        let _ = fs::remove_file(&file);
        fs::create_dir(&file).unwrap();
        // Of the socket a start says only where it is.
        let words: &[&str] = if name == "control.sock" { &[] } else { &[name] };
        is_refused(&node, |call| call, words).await;
        check(&node).await.failed_saying(&[name]).in_one_line();
        fs::remove_dir(&file).unwrap();
        good.iter().for_each(|good| fs::write(&file, good).unwrap());
    }
    let identity = node.data_dir().join("node.json");
    fs::write(&identity, "{").unwrap();
    is_refused(&node, |call| call, &["node.json"]).await;
}

/// Opening a FIFO could wait for ever, and reading a device could have no end.
#[tokio::test]
async fn start_refuses_pipes_and_devices_among_its_files() {
    let node = used().await;
    let both_refuse = async |words: &[&str]| {
        for command in ["check-config", "serve"] {
            let call = Palisade::with([command]).setting("DATA_DIR", node.data_dir());
            call.setting("LISTEN", "127.0.0.1:0").run().await.failed_saying(words);
        }
    };
    for name in ["node.lock", "journal.0", "journal.1", "clock.json", "node.json", "node.new"] {
        let file = node.data_dir().join(name);
        let good = fs::read(&file).ok();
        let _ = fs::remove_file(&file);
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        both_refuse(&[name, "no regular file"]).await;
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        both_refuse(&[name, "no regular file"]).await;
        fs::remove_file(&file).unwrap();
        good.iter().for_each(|good| fs::write(&file, good).unwrap());
    }
    let journal = fs::OpenOptions::new().write(true).open(node.data_dir().join("journal.0")).unwrap();
    journal.set_len(1 << 40).unwrap();
    both_refuse(&["journal.0", "more than any journal"]).await;
}

#[tokio::test]
async fn check_config_refuses_a_directory_that_cannot_be_made() {
    let scratch = scratch::directory();
    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    for wrong in [&file, &file.join("data"), Path::new("/proc/palisade"), Path::new("/sys/palisade/data")] {
        for command in ["check-config", "serve"] {
            let call = Palisade::with([command]).setting("DATA_DIR", wrong).setting("LISTEN", "127.0.0.1:0");
            call.run().await.failed_saying(&[&wrong.display().to_string()]).in_one_line();
        }
    }
}

/// Without an address that peers reach, a start fails. It is known from the seeds or from the machine's name.
#[tokio::test]
async fn check_config_looks_for_the_address_that_peers_reach() {
    let scratch = scratch::directory();
    let cluster = |command| {
        Palisade::with([command])
            .setting("DATA_DIR", scratch.path().join("data"))
            .setting("STORE", "cql://127.0.0.1:1/palisade")
            .setting("MASTER_KEY", KEY)
            .setting("LISTEN", "127.0.0.1:0")
            .setting("CLUSTER_LISTEN", "0.0.0.0:17080")
            .setting("CLUSTER_SECRET", KEY)
    };
    for call in [
        cluster("check-config").setting("CLUSTER_ADVERTISE", "127.0.0.1:17080"),
        cluster("check-config").setting("CLUSTER_SEEDS", "127.0.0.1:17081"),
        cluster("check-config").setting("CLUSTER_SEEDS", "palisade.invalid:17081"),
        cluster("check-config").setting("CLUSTER_LISTEN", "127.0.0.1:17080"),
    ] {
        call.run().await.is_done();
    }
    // A name of its own with no address, where a test may have one.
    let unnamed = |command| {
        let call = cluster(command).into_command();
        let mut wrapped = std::process::Command::new("unshare");
        wrapped.args(["--uts", "sh", "-c", "hostname palisade.invalid && exec \"$0\" \"$@\""]);
        wrapped.arg(call.get_program()).args(call.get_args());
        call.get_envs().for_each(|(name, value)| match value {
            Some(value) => drop(wrapped.env(name, value)),
            None => drop(wrapped.env_remove(name)),
        });
        wrapped.stdin(std::process::Stdio::null()).output().unwrap()
    };
    let may_unshare = std::process::Command::new("unshare").args(["--uts", "hostname", "x"]).output();
    if !may_unshare.is_ok_and(|done| done.status.success()) {
        return;
    }
    for command in ["check-config", "serve"] {
        let output = unnamed(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert!(stderr.contains("CLUSTER_ADVERTISE") && stderr.trim().lines().count() == 1, "{stderr}");
    }
    assert!(!scratch.path().join("data").exists());
}
