//! What lies in the store may be old, damaged or absurd. These tests write it there themselves,
//! while no node runs.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use schema::{email::FoldedEmail, store::Replaced, user::PasswordHash};
use testkit::{Node, Person};

/// The hash of a password with parameters that are long out of use.
fn old_hash(password: &str) -> String {
    let (salt, mut output) = ([7; 16], [0; 32]);
    let params = Params::new(64, 1, 1, Some(32)).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password.as_bytes(), &salt, &mut output).unwrap();
    let [salt, output] = [&salt[..], &output].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m=64,t=1,p=1${salt}${output}")
}

/// The hash of somebody's password in the store of a node that has ended; `replace` puts another
/// in its place.
async fn stored_hash(node: &Node, person: &Person, replace: Option<String>) -> String {
    let opened = store_redb::open(&node.data_dir().join("palisade.redb")).await.unwrap();
    let users = &opened.stores.users;
    let mut user = users.by_email(&FoldedEmail::of(&person.email)).await.unwrap().expect("the user");
    let before = user.password.as_ref().expect("a password").expose().to_owned();
    if let Some(hash) = replace {
        user.password = Some(PasswordHash::new(hash));
        user.revision += 1;
        assert_eq!(users.replace(&user).await.unwrap(), Replaced::Done);
    }
    before
}

/// The most memory that the node ever had, in kibibytes.
fn peak_memory_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn old_parameters_of_a_hash_are_upgraded_at_the_next_log_in() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    node.terminate().await;
    let first = stored_hash(&node, &ann, Some(old_hash(&ann.password))).await;
    node.restart().await;
    node.log_in(&ann.email, "not the password").await.is_error(401, "Bad email or password");
    let again = ann.in_another_session().await;
    ann.in_another_session().await.is_in().await;
    node.terminate().await;
    let upgraded = stored_hash(&node, &ann, None).await;
    let parameters = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(parameters(&upgraded), parameters(&first), "today's parameters");
    assert_ne!(upgraded, first, "under a salt of its own");
    node.restart().await;
    // An upgrade is no change of the password: nobody is put out by it.
    ann.is_in().await;
    again.is_in().await;
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn a_damaged_or_absurd_hash_lets_nobody_in_and_eats_no_memory() {
    let tail = "$BwcHBwcHBwcHBwcHBwcHBw$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let node = Node::start().await;
    let ann = node.register("ann").await;
    for absurd in [
        format!("$argon2id$v=19$m=4294967295,t=2,p=1{tail}"),
        format!("$argon2id$v=19$m=2097152,t=4294967295,p=1{tail}"),
        format!("$argon2i$v=19$m=19456,t=2,p=1{tail}"),
        format!("$2b$12${}", "a".repeat(53)),
        "not a hash".to_owned(),
        String::new(),
    ] {
        node.terminate().await;
        stored_hash(&node, &ann, Some(absurd.clone())).await;
        node.restart().await;
        for password in [ann.password.as_str(), "", "not the password", &absurd] {
            let answer = node.log_in(&ann.email, password).await;
            answer.is_error(401, "Bad email or password");
        }
        let peak = peak_memory_kib(&node);
        assert!(peak < 1024 * 1024, "{absurd:?}: {peak} KiB");
        node.register("bob").await.is_in().await;
        // Who is in stays in, and an admin can give a new password.
        ann.is_in().await;
    }
    let root = node.root().await;
    let body = serde_json::json!({"new_password": "a new one for ann"});
    root.post(&ann.path("password")).json(&body).send().await.is_done();
    ann.with_password("a new one for ann").in_another_session().await.is_in().await;
}
