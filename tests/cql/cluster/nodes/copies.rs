//! Nodes with an old or a copied data directory.

use std::path::Path;

use testkit::{Cluster, Person};

use super::{START_TIMEOUT, starts_without_a_wrong_verdict};
use crate::cluster::{is_in_everywhere, is_out_at_once, is_out_before_long, sessions};

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let path = entry.path();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&path, &to),
            kind if kind.is_file() => drop(std::fs::copy(&path, &to).unwrap()),
            // The control socket.
            _ => {}
        }
    }
}

#[tokio::test]
async fn node_restored_from_old_disk_repeats_no_sequence_number() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 16).await;
    let end = async |sessions: &[Person]| {
        for session in sessions {
            session.at(b).delete("auth_token").send().await.is_done().is_visible_at(1);
            is_out_at_once([a, b], session).await;
        }
    };
    end(&sessions[..3]).await;
    b.terminate().await;
    let yesterday = testkit::scratch::directory();
    copy(b.data_dir(), yesterday.path());
    for (n, restored) in [3, 7, 11].into_iter().enumerate() {
        b.launch_again();
        b.comes_up().await;
        cluster.is_together().await;
        end(&sessions[restored..restored + 4]).await;
        // Killed in one round, ended in another.
        if n % 2 == 0 {
            b.kill_dash_9();
        } else {
            b.terminate().await;
        }
        b.loses_its_data_directory();
        copy(yesterday.path(), b.data_dir());
    }
    b.launch_again();
    starts_without_a_wrong_verdict(b, &sessions[..15], &sessions[15..]).await;
    let loner = cluster.loner().await.start().await;
    for session in &sessions[..15] {
        is_out_at_once([a, b, &loner], session).await;
    }
    is_in_everywhere([a, b, &loner], &sessions[15]).await;
}

/// An operator's mistake: the same node runs twice. The others take the later one for it, and the earlier one
/// would receive nothing more.
#[tokio::test]
async fn earlier_of_two_nodes_with_one_data_directory_ends() {
    let cluster = Cluster::of(2).await;
    let [a, b] = [&cluster[0], &cluster[1]];
    let ann = a.register("ann").await;
    let sessions = sessions(&ann, &[a, b], 6).await;
    b.terminate().await;
    let copied = testkit::scratch::directory();
    copy(b.data_dir(), copied.path());
    b.restart().await;
    cluster.is_together().await;
    let (twin, _) = cluster.newcomer("twin").await;
    let twin = twin.data_dir(copied.path()).start().await;
    b.ended(START_TIMEOUT).await;
    b.logs_with("a copy of this data directory").await;
    cluster.are_together(&[a, &twin]).await;
    for (n, session) in sessions.iter().enumerate() {
        session.at([a, &twin][n % 2]).delete("auth_token").send().await.is_done();
        for node in [a, &twin] {
            is_out_before_long(node, session, "the twin is the node now").await;
        }
    }
}
