//! What lies in the store may be old, damaged or absurd. These tests write it there themselves,
//! while no node runs.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use redb::{Database, TableDefinition};
use schema::{
    SessionId, Timestamp, UserId,
    email::{Email, FoldedEmail},
    user::{PasswordHash, User},
};
use serde_json::json;
use store::Replaced;
use testkit::{Node, Person, forge};

/// The hash of a password with parameters that are long out of use.
fn old_hash(password: &str) -> String {
    let salt = [7; 16];
    let mut output = [0; 32];
    let params = Params::new(64, 1, 1, Some(32)).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password.as_bytes(), &salt, &mut output).unwrap();
    let [salt, output] = [&salt[..], &output].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    format!("$argon2id$v=19$m=64,t=1,p=1${salt}${output}")
}

/// The hash of a user's password in the store of a node that has ended; `replace` puts another in its
/// place.
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
async fn old_hash_parameters_are_upgraded_at_the_next_login() {
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
    // An upgrade does not change the password: it ends no session.
    ann.is_in().await;
    again.is_in().await;
    ann.in_another_session().await.is_in().await;
}

#[tokio::test]
async fn damaged_or_absurd_hash_admits_no_login_and_costs_no_memory() {
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
        // Existing sessions stay valid, and an admin can set a new password.
        ann.is_in().await;
    }
    let root = node.root().await;
    let body = serde_json::json!({"new_password": "a new one for ann"});
    root.post(&ann.path("password")).json(&body).send().await.is_done();
    ann.with_password("a new one for ann").in_another_session().await.is_in().await;
}

const PASSWORD: &str = "the secret of who was planted";

/// What a command says in JSON, also one that fails.
async fn said(node: &Node, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&node.cli(arguments).await.stdout).unwrap()
}

/// A user of an earlier version whom today's rules may not accept.
fn planted(n: u8, email: &str) -> User {
    User {
        id: UserId::new(Timestamp::from_secs(1_700_000_000), [n; 10]),
        email: Email::from_stored(email.to_owned()),
        email_confirmed: false,
        password: Some(PasswordHash::new(old_hash(PASSWORD))),
        first_name: Some("A\u{1b}[31mB\nC".into()),
        last_name: Some("n".repeat(5_000)),
        active: true,
        version: 0,
        revision: 1,
        created_at: Timestamp::from_secs(1_700_000_000),
    }
}

/// Writes a row into the store of a node that has ended.
fn write(node: &Node, table: &str, key: &[u8], row: &[u8]) {
    let database = Database::open(node.data_dir().join("palisade.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<&[u8], &[u8]>::new(table);
    transaction.open_table(table).unwrap().insert(key, row).unwrap();
    transaction.commit().unwrap();
}

/// Plants a user with the claim of this key.
fn plant(node: &Node, user: &User, key: &str) {
    write(node, "users", user.id.as_bytes(), &serde_json::to_vec(user).unwrap());
    write(node, "emails", key.as_bytes(), &serde_json::to_vec(&user.id).unwrap());
}

fn session_of(person: &Person) -> SessionId {
    let claims = forge::parts(&person.access).claims;
    serde_json::from_value(claims["sid"].clone()).unwrap()
}

#[tokio::test]
async fn rows_that_break_the_rules_are_served_and_deleted() {
    let node = Node::start().await;
    let root = node.root().await;
    let permission = root.makes_permission("films.read").await;
    node.terminate().await;
    let odd = planted(1, "a;b@x.org");
    plant(&node, &odd, "a;b@x.org");
    let damaged = planted(2, "damaged@example.org");
    write(&node, "users", damaged.id.as_bytes(), b"not json");
    let role = json!({"id": damaged.id, "name": "no name", "description": null, "permissions": []});
    write(&node, "roles", b"no name", role.to_string().as_bytes());
    node.restart().await;

    let root = root.in_another_session().await;
    let user = Person::log_in(&node, "a;b@x.org", PASSWORD).await;
    user.in_another_session().await.is_in().await;
    assert_eq!(root.get(&user.path("")).send().await.is(200).field("email"), "a;b@x.org");
    let listed = root.list("users", "users").await;
    assert_eq!(listed.len(), 2, "root and the one who can be read");
    root.gives(&user, &permission).await.is(200);
    assert!(user.may(&permission).await);
    root.takes(&user, &permission).await.is(200);
    assert!(!user.may(&permission).await);
    assert_eq!(root.get("roles").send().await.is(200).json().as_array().unwrap().len(), 2);
    root.delete("roles/no%20name").send().await.is(204);

    let check = node.cli(&["store", "check"]).await;
    check.failed_saying(&["rows that today's rules would not accept: 4"]);
    let said = said(&node, &["store", "check", "--json"]).await;
    let mut found: Vec<_> =
        said["findings"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
    found.sort_by_key(ToString::to_string);
    assert_eq!(found, ["email", "first_name", "last_name", "row"]);

    // A session whose row cannot be read is ended by its id, like any other.
    let other = user.in_another_session().await;
    let third = user.in_another_session().await;
    let session = session_of(&other);
    node.terminate().await;
    for session in [session, session_of(&third)] {
        write(&node, "sessions", &[&odd.id.as_bytes()[..], session.as_bytes()].concat(), b"not json");
    }
    node.restart().await;
    let ended = format!("{}/{session}", user.path("sessions"));
    root.delete(&ended).send().await.is(204);
    other.is_out().await;
    user.is_in().await;
    user.delete("auth_token/others").send().await.is(204);
    third.is_out().await;
    user.is_in().await;
    root.sets_active(&user, false).await.is(200);
    user.is_out().await;
    node.log_in("a;b@x.org", PASSWORD).await.is_refused(401);
    root.delete(&user.path("")).send().await.is(204);
    root.delete(&format!("users/{}", damaged.id)).send().await.is(204);
    node.cli(&["store", "check"]).await.is_done();
}

#[tokio::test]
async fn store_check_repairs_claims_of_an_earlier_version() {
    let node = Node::start().await;
    let ann = node.register("ann").await;
    node.terminate().await;
    let zed = User { first_name: None, last_name: None, ..planted(1, "Zed@xn--bcher-kva.example") };
    plant(&node, &zed, "zed@xn--bcher-kva.example");
    let twin: String = ann.email.replacen('a', "ａ", 1);
    let twin = User { first_name: None, last_name: None, ..planted(2, &twin) };
    plant(&node, &twin, twin.email.as_str());
    let logs_in = async || {
        for (email, password, uuid) in [
            ("zed@xn--bcher-kva.example", PASSWORD, zed.id.to_string()),
            ("zed@bücher.example", PASSWORD, zed.id.to_string()),
            (twin.email.as_str(), PASSWORD, twin.id.to_string()),
            (ann.email.as_str(), ann.password.as_str(), ann.uuid.clone()),
        ] {
            assert_eq!(Person::log_in(&node, email, password).await.uuid, uuid, "{email}");
        }
        let body = json!({"email": "zed@bücher.example", "password": PASSWORD});
        node.post("users").json(&body).send().await.is_refused(409);
    };
    node.restart().await;
    logs_in().await;
    node.cli(&["store", "check"]).await.failed_saying(&["accept: 2", "--repair"]).in_one_line();
    node.terminate().await;
    // On the store itself; the one that is another's today stays.
    let repair = node.cli(&["store", "check", "--repair"]).await;
    repair.failed_saying(&["accept: 1"]).in_one_line();
    let said = said(&node, &["store", "check", "--json"]).await;
    let [finding] = &said["findings"].as_array().unwrap()[..] else { panic!("{said}") };
    assert_eq!((&finding["id"], &finding["state"]), (&json!(twin.id), &json!("stays")));
    assert!(finding["why"].as_str().unwrap().contains(&ann.uuid), "{finding}");
    node.restart().await;
    logs_in().await;
}

#[tokio::test]
async fn store_check_does_not_create_a_store() {
    let node = Node::start().await;
    let nowhere = node.data_dir().join("nowhere");
    let check = node.palisade(&["store", "check", "--data-dir", nowhere.to_str().unwrap()]).run().await;
    check.failed_saying(&["there is no store"]).in_one_line();
    assert!(!nowhere.exists());
}
