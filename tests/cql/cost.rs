//! What calls cost the database: figures of the README, counted on the way to it.

use std::time::{Duration, Instant};

use testkit::{Node, Person};

use crate::behind::{Behind, say};

/// Delay in each direction; a round trip takes twice as long.
const ONE_WAY_DELAY: Duration = Duration::from_millis(200);

/// What a node asks by itself, once a second or every few.
fn is_upkeep(statement: &str) -> bool {
    statement.contains("FROM heads")
        || statement.contains("FROM ledger")
        || statement.contains("FROM documents")
}

/// The statements that the database received.
struct Asked(Vec<String>);

impl Asked {
    fn conditional(&self) -> usize {
        self.0.iter().filter(|statement| statement.contains(" IF ")).count()
    }

    fn reads(&self) -> usize {
        self.0.iter().filter(|statement| statement.starts_with("SELECT")).count()
    }

    #[track_caller]
    fn is(&self, what: &str, holds: bool) {
        assert!(holds, "{what}; it asked:\n{}", self.0.join("\n"));
    }
}

impl Behind {
    /// What the database is asked for what is done here.
    async fn asked_for<T>(&self, what: impl Future<Output = T>) -> (T, Asked) {
        self.proxy.clear();
        let done = what.await;
        let asked = self.proxy.statements().into_iter().filter(|statement| !is_upkeep(statement));
        (done, Asked(asked.collect()))
    }

    /// How long this takes when every round trip to the database takes a tenth of a second.
    async fn far_away<T>(&self, what: impl Future<Output = T>) -> (T, Duration) {
        self.proxy.delay(ONE_WAY_DELAY);
        let start = Instant::now();
        let done = what.await;
        let took = start.elapsed();
        self.proxy.delay(Duration::ZERO);
        (done, took)
    }
}

/// A new user that has a role and a direct permission, and a permission's name from each.
async fn user_with_grants(node: &Node) -> (Person, [String; 2]) {
    let root = node.root().await;
    let ann = node.register("ann").await;
    let [films, files] = [root.makes_permission("films").await, root.makes_permission("files").await];
    let role = root.makes_role("staff", &[&films]).await;
    root.gives_role(&ann, &role).await.is(200);
    root.gives(&ann, &files).await.is(200);
    (ann, [films, files])
}

#[tokio::test]
async fn validation_makes_no_database_request() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let bob = here.node.register("bob").await;
    bob.delete("auth_token").send().await.is_done();
    let ((), asked) = here
        .asked_for(async {
            for _ in 0..100 {
                ann.is_in().await;
                here.node.validate(&bob.access).await.is_refused(401);
                here.node.validate("a.b.c").await.is_refused(422);
                ann.get("/auth_request").send().await.is_done();
            }
        })
        .await;
    asked.is("validation asks the database", asked.0.is_empty());
}

#[tokio::test]
async fn permission_check_reads_once_in_at_most_two_round_trips() {
    let here = Behind::a_proxy().await;
    let (ann, [films, files]) = user_with_grants(&here.node).await;
    let (held, asked) = here.asked_for(ann.may(&films)).await;
    assert!(held);
    say(&format!("the first permission check of a user: {} statements", asked.0.len()));
    // At once, as the time below shows: the user, its grants, and whether the catalogue has changed.
    asked.is("it writes", asked.reads() == asked.0.len());
    asked.is("it reads more than the user, its grants and the catalogue", asked.0.len() <= 4);
    let (held, asked) = here
        .asked_for(async {
            let mut held = true;
            for _ in 0..100 {
                held &= ann.may(&films).await && ann.may(&files).await && !ann.may("nothing").await;
            }
            held
        })
        .await;
    assert!(held);
    asked.is("a check that was made before asks the database", asked.0.is_empty());
    // A node that has known nothing of anybody, not even which permissions there are.
    let other = Node::builder().on_keyspace(&here.keyspace, here.proxy.address()).start().await;
    let ann = ann.at(&other);
    ann.is_in().await;
    let (held, took) = here.far_away(ann.may(&files)).await;
    assert!(held);
    say(&format!("the first permission check of a node, 100 ms from its database: {took:?}"));
    assert!(took < Duration::from_millis(1_400), "{took:?} are more than two round trips of 400 ms");
}

#[tokio::test]
async fn permission_check_of_another_user_is_one_round_trip() {
    let here = Behind::a_proxy().await;
    let root = here.node.root().await;
    let (ann, [films, _]) = user_with_grants(&here.node).await;
    let bob = here.node.register("bob").await;
    root.gives(&bob, &films).await.is(200);
    assert!(ann.may(&films).await);
    let (held, took) = here.far_away(bob.may(&films)).await;
    assert!(held);
    say(&format!("the first permission check of a user, 100 ms from the database: {took:?}"));
    assert!(took < Duration::from_millis(800), "{took:?} are more than one round trip of 400 ms");
}

#[tokio::test]
async fn login_is_one_conditional_write_and_few_plain_statements() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let (again, asked) = here.asked_for(ann.in_another_session()).await;
    again.is_in().await;
    say(&format!("a log-in: {} statements", asked.0.len()));
    asked.is("it writes conditionally more than once", asked.conditional() == 1);
    asked.is("it asks for more than it needs", asked.0.len() <= 8);
    let (answer, asked) = here.asked_for(here.node.log_in("nobody@example.org", "a wrong password")).await;
    answer.is_refused(401);
    asked.is(
        "an unknown email is more than two questions",
        asked.0.len() <= 2 && asked.reads() == asked.0.len(),
    );
    let (answer, asked) = here.asked_for(here.node.log_in(&ann.email, "a wrong password")).await;
    answer.is_refused(401);
    asked.is("a wrong password is a conditional write", asked.conditional() == 0);
}

#[tokio::test]
async fn refresh_is_one_conditional_write() {
    let here = Behind::a_proxy().await;
    let mut ann = here.node.register("ann").await.refreshed().await;
    for _ in 0..5 {
        let (next, asked) = here.asked_for(ann.refreshed()).await;
        asked.is("a refresh is not one statement", asked.0.len() == 1);
        asked.is("it is not conditional", asked.conditional() == 1);
        ann = next;
    }
    let (next, took) = here.far_away(ann.refreshed()).await;
    say(&format!("a refresh, 100 ms from the database: {took:?}"));
    assert!(took < Duration::from_millis(800), "{took:?} are more than one round trip of 400 ms");
    next.is_in().await;
}

#[tokio::test]
async fn first_refresh_on_a_node_adds_two_reads() {
    let here = Behind::a_proxy().await;
    let elsewhere = here.elsewhere().await;
    let ann = here.node.register("ann").await;
    let bob = here.node.register("bob").await.at(&elsewhere).refreshed().await.at(&here.node);
    for (person, before) in [(ann, "a log-in here"), (bob, "a refresh elsewhere")] {
        let (next, asked) = here.asked_for(person.refreshed()).await;
        say(&format!("a refresh after {before}: {} statements", asked.0.len()));
        asked.is("more than two reads", asked.reads() <= 2);
        asked.is("not one conditional write", asked.conditional() == 1);
        asked.is("something else", asked.0.len() == asked.reads() + asked.conditional());
        next.is_in().await;
        // The next refresh, wherever it is made.
        next.at(&elsewhere).refreshed().await.is_in().await;
    }
}

#[tokio::test]
async fn invented_refresh_token_makes_no_database_request() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let middle = ann.refresh.len() / 2;
    let other = if ann.refresh.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let invented = format!("{}{other}{}", &ann.refresh[..middle], &ann.refresh[middle + 1..]);
    let ((), asked) = here
        .asked_for(async {
            for _ in 0..20 {
                here.node.refresh(&invented).await.is_error(401, "Token has been revoked");
            }
        })
        .await;
    asked.is("who invents tokens makes the database work", asked.0.is_empty());
    ann.refreshed().await.is_in().await;
}

#[tokio::test]
async fn logout_writes_only_its_facts_and_its_row() {
    let here = Behind::a_proxy().await;
    let ann = here.node.register("ann").await;
    let other = ann.in_another_session().await;
    let (answer, asked) = here.asked_for(other.delete("auth_token").send()).await;
    answer.is_done().is_visible_everywhere();
    say(&format!("a logout: {} statements", asked.0.len()));
    asked.is("more than one conditional write", asked.conditional() == 1);
    asked.is("it asks for more than it needs", asked.0.len() <= 5);
}
