//! The data directory: its permissions, and what happens when it is used twice or damaged.

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
async fn data_directory_is_readable_by_its_owner_only() {
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
async fn node_does_not_answer_the_socket_of_an_ended_node() {
    let node = Node::start().await;
    node.kill_dash_9();
    // The socket of the dead node is still there: the command uses the store itself.
    node.cli(&["app", "init"]).await.is_done();
    node.restart().await;
    node.root().await.is_in().await;
}

#[tokio::test]
async fn second_node_on_one_directory_is_refused_and_first_continues() {
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
async fn invalid_store_file_is_a_clear_error_and_stays_unchanged() {
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
async fn torn_last_write_loses_no_answered_change() {
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
async fn unwritable_directory_is_a_clear_error() {
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
async fn unreadable_clock_file_is_a_clear_error() {
    let node = Node::start().await;
    node.terminate().await;
    // Not as if there were none: what it holds keeps forgotten tokens out.
    let file = node.data_dir().join("clock.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let call =
        Palisade::with(["serve"]).setting("DATA_DIR", node.data_dir()).setting("LISTEN", "127.0.0.1:0");
    call.run().await.failed_saying(&["clock.json"]);
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
async fn configured_master_key_opens_the_keys_again() {
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
async fn no_credential_is_readable_in_the_store() {
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

/// A user and a group that do not exist on this machine.
const USER: u32 = 54_321;
const GROUP: u32 = 54_322;

/// Gives a directory an owner, a group and a mode, as an orchestrator mounts it.
fn mount(path: &Path, user: u32, group: u32, mode: u32) {
    std::fs::create_dir(path).unwrap();
    std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A node that another user runs, in a group of these; `None` when this user may not start one.
struct OfAnotherUser {
    child: std::process::Child,
    client: testkit::Client,
}

impl OfAnotherUser {
    async fn starts_on(data_dir: &Path, user: u32, group: u32) -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let call = as_user(&["serve"], data_dir, user, group, port);
        let mut command = tokio::process::Command::from(call).into_std();
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let client = testkit::Client::new(std::sync::Arc::new(std::sync::atomic::AtomicU16::new(port)));
        testkit::eventually(std::time::Duration::from_secs(60), "readiness", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
                panic!("{status}: {said}");
            }
            let ready = client.get("/health/ready").try_send().await;
            ready.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        Self { child, client }
    }

    /// Ends it; gives its log.
    fn ends(mut self) -> String {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut logs = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut logs).unwrap();
        assert!(self.child.wait().unwrap().success(), "{logs}");
        logs
    }
}

fn as_user(arguments: &[&str], data_dir: &Path, user: u32, group: u32, port: u16) -> std::process::Command {
    use std::os::unix::process::CommandExt as _;
    let call = Palisade::with(arguments)
        .setting("DATA_DIR", data_dir)
        .setting("LISTEN", format!("127.0.0.1:{port}"))
        .setting("DRAIN_GRACE", "0s");
    let mut command = call.into_command();
    command.uid(user).gid(group).current_dir("/");
    command
}

/// A directory in which others may look. Only root can become another user: else there is nothing to test.
fn open_scratch() -> Option<tempfile::TempDir> {
    let scratch = testkit::scratch::directory();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    rustix::process::geteuid().is_root().then_some(scratch)
}

#[tokio::test]
async fn node_on_a_shared_volume_uses_its_own_folder() {
    let Some(scratch) = open_scratch() else { return };
    // A volume of a group with the file system's own folder in it, an emptyDir, OpenShift's random user in
    // group 0, a directory of another user that the group may write.
    let volumes = [
        ("volume", 0, GROUP, 0o2775, USER, GROUP, true),
        ("emptydir", 0, 0, 0o777, USER, GROUP, false),
        ("openshift", 0, 0, 0o2775, USER, 0, true),
        ("group", USER + 1, GROUP, 0o770, USER, GROUP, false),
        ("own", USER, GROUP, 0o700, USER, GROUP, true),
    ];
    for (name, owner, owning_group, directory_mode, user, group, has_other_things) in volumes {
        let path = scratch.path().join(name);
        mount(&path, owner, owning_group, directory_mode);
        if has_other_things {
            std::fs::create_dir(path.join("lost+found")).unwrap();
        }
        let folder = path.join("palisade");
        let node = OfAnotherUser::starts_on(&path, user, group).await;
        assert_eq!(mode(&folder), 0o700, "{name}");
        let ann = testkit::Person::register(&node.client, "ann").await;
        // A command finds the node there, and its store when it has ended.
        let list = || as_user(&["keys", "list"], &path, user, group, 1).output().unwrap();
        assert!(list().status.success(), "{name}: {:?}", list());
        let logs = node.ends();
        let told = logs.lines().filter(|line| line.contains(folder.to_str().unwrap())).count();
        assert_eq!(told, 1, "{name}: {logs}");
        assert!(list().status.success(), "{name}: {:?}", list());
        // As an orchestrator does that mounts a volume for a group.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o2770)).unwrap();
        let node = OfAnotherUser::starts_on(&path, user, group).await;
        ann.at(&node.client).is_in().await;
        assert_eq!(mode(&folder), 0o700, "{name}");
        node.ends();
        let left: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 1 + usize::from(has_other_things), "{name}: {left:?}");
    }
}

#[tokio::test]
async fn store_in_the_directory_itself_is_still_used() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    node.terminate().await;
    std::fs::create_dir(node.data_dir().join("lost+found")).unwrap();
    std::fs::set_permissions(node.data_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    node.restart().await;
    ann.is_in().await;
    assert_eq!(mode(node.data_dir()), 0o700);
    assert!(!node.data_dir().join("palisade").exists());
}

#[tokio::test]
async fn directory_that_this_user_cannot_use_is_a_clear_error() {
    let Some(scratch) = open_scratch() else { return };
    let directory = |name: &str, user, group, mode| {
        let path = scratch.path().join(name);
        mount(&path, user, group, mode);
        path
    };
    let closed = directory("closed", 0, 0, 0o755);
    let private = directory("private", 0, 0, 0o700);
    // A folder of the right name that another user has put there.
    let planted = directory("planted", 0, 0, 0o777);
    mount(&planted.join("palisade"), USER + 1, GROUP, 0o777);
    let linked = directory("linked", 0, 0, 0o777);
    std::os::unix::fs::symlink("/tmp", linked.join("palisade")).unwrap();
    for (path, words) in [
        (closed.clone(), "Permission denied"),
        (closed.join("new").join("data"), "Permission denied"),
        (private, "Permission denied"),
        (planted, "no directory of this user"),
        (linked, "no directory of this user"),
    ] {
        for command in ["serve", "check-config"] {
            let output = as_user(&[command], &path, USER, GROUP, 1024).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command} on {path:?}: {said}");
            assert!(said.contains(words) && said.contains(path.to_str().unwrap()), "{path:?}: {said}");
            assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        }
    }
}

#[tokio::test]
async fn command_of_root_leaves_files_that_the_node_can_read() {
    let Some(scratch) = open_scratch() else { return };
    let path = scratch.path().join("data");
    mount(&path, USER, GROUP, 0o700);
    for _ in 0..2 {
        Palisade::with(["app", "init"]).setting("DATA_DIR", &path).run().await.is_done();
        let node = OfAnotherUser::starts_on(&path, USER, GROUP).await;
        testkit::Person::register(&node.client, "ann").await;
        node.ends();
    }
}
