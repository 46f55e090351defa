//! The data directory: who may look in, and what happens when it is used twice or damaged.

use std::{
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use testkit::{Node, Palisade};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn entries(node: &Node) -> Vec<PathBuf> {
    std::fs::read_dir(node.data_dir()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The embedded store.
fn store(node: &Node) -> PathBuf {
    node.data_dir().join("palisade.redb")
}

#[tokio::test]
async fn only_its_owner_may_look_in() {
    let node = Node::start().await;
    assert_eq!(mode(node.data_dir()), 0o700);
    let mut sockets = 0;
    for path in entries(&node) {
        if std::fs::symlink_metadata(&path).unwrap().file_type().is_socket() {
            sockets += 1;
            assert_eq!(mode(&path), 0o600, "{path:?}");
        } else {
            assert_eq!(mode(&path) & 0o077, 0, "{path:?} is open to others: {:o}", mode(&path));
        }
    }
    assert_eq!(sockets, 1, "one control socket");
}

#[tokio::test]
async fn a_node_does_not_answer_an_ended_ones_socket() {
    let node = Node::start().await;
    node.kill_dash_9();
    // The socket of the dead node is still there: the command uses the store itself.
    node.cli(&["app", "init"]).await.is_done();
    node.restart().await;
    node.root().await.is_in().await;
}

#[tokio::test]
async fn a_second_node_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let second = node.successor().try_start().await.expect_err("two nodes on one directory");
    assert_eq!(second.status, 1, "{second:?}");
    let directory = node.data_dir().display().to_string();
    assert!(second.output.contains(&directory), "{second:?}");
    ann.is_in().await;
    node.cli(&["app", "init"]).await.is_done();
    node.restart().await;
    ann.is_in().await;
}

#[tokio::test]
async fn a_store_that_is_no_store_is_a_clear_error_and_stays_as_it_is() {
    let node = Node::start().await;
    node.register("ann").await;
    node.terminate().await;
    let path = store(&node);
    let good = std::fs::read(&path).unwrap();
    let foreign = [b"this is not a store at all".repeat(1_000), vec![0; good.len()]];
    let truncated = good[..good.len() / 3].to_vec();
    for damage in foreign.iter().chain([&truncated]) {
        std::fs::write(&path, damage).unwrap();
        let refused = node.successor().try_start().await;
        let Err(refused) = refused else { panic!("it starts on {} damaged bytes", damage.len()) };
        assert_eq!(refused.status, 1, "{refused:?}");
        let directory = node.data_dir().display().to_string();
        assert!(refused.output.contains(&directory), "where the damage is: {refused:?}");
        assert!(!refused.output.contains("panicked"), "{refused:?}");
        // What is left of a store may have been marked as in need of repair; what is none is not touched.
        if damage != &truncated {
            assert!(std::fs::read(&path).unwrap() == *damage, "it wrote to what it does not understand");
        }
        let command = node.cli(&["app", "init"]).await;
        assert_eq!(command.status, 1, "{command:?}");
    }
    std::fs::write(&path, &good).unwrap();
    node.restart().await;
    node.register("bob").await.is_in().await;
}

#[tokio::test]
async fn a_torn_last_write_loses_nothing_that_was_answered() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let bob = node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    node.kill_dash_9();
    // What a crash leaves at the end of files that grow: rubbish, or half a record.
    for path in entries(&node).into_iter().filter(|path| path.is_file() && *path != store(&node)) {
        let name = path.to_string_lossy().into_owned();
        if name.contains("journal") || name.contains("log") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.extend_from_slice(&[0x5a; 37]);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    node.restart().await;
    ann.is_in().await;
    bob.is_out().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_a_clear_error() {
    let scratch = testkit::scratch::directory();
    // A file where the directory should be: that hinders the superuser of the machine too.
    let file = scratch.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let inside = file.join("data");
    for wrong in [&file, &inside, Path::new("/proc/palisade")] {
        let call = Palisade::with(["serve"]).setting("DATA_DIR", wrong).setting("LISTEN", "127.0.0.1:0");
        let run = call.run().await;
        run.failed_saying(&[&wrong.display().to_string()]);
        assert!(!run.stderr.contains("panicked"), "{run:?}");
    }
    if rustix::process::geteuid().is_root() {
        // Modes do not bind root: the rest of this test means nothing.
        return;
    }
    let closed = scratch.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    let call =
        Palisade::with(["serve"]).setting("DATA_DIR", closed.join("data")).setting("LISTEN", "127.0.0.1:0");
    call.run().await.failed_saying(&["closed"]);
}

#[tokio::test]
async fn another_master_key_cannot_open_the_keys() {
    let node = Node::start().await;
    node.register("ann").await;
    node.terminate().await;
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let started = node.successor().setting("MASTER_KEY", other).try_start().await;
    let refused = started.expect_err("its keys are sealed under another key");
    assert_eq!(refused.status, 1);
    assert!(refused.output.contains("MASTER_KEY"), "{refused:?}");
    node.restart().await;
}

#[tokio::test]
async fn a_given_master_key_is_enough_to_open_the_keys_again() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let node = Node::builder().setting("MASTER_KEY", key).start().await;
    let ann = node.register("ann").await;
    node.restart().await;
    ann.is_in().await;
    for path in entries(&node).into_iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(key.len()).any(|window| window == key.as_bytes());
        assert!(!found, "the given key was written to {path:?}");
    }
}

#[tokio::test]
async fn nothing_that_lets_one_in_is_readable_in_the_store() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    let next = ann.refreshed().await;
    node.terminate().await;
    let secrets = [&ann.password, &ann.access, &ann.refresh, &next.refresh];
    let tails = [&ann.refresh[40..], &next.refresh[40..]];
    for path in entries(&node).into_iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(&path).unwrap();
        for secret in secrets.iter().map(|s| s.as_str()).chain(tails) {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret:?} is in {path:?}");
        }
    }
}
