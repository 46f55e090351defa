//! Accounts over two nodes: parallel registrations, and the list of users.

use futures_util::future::join_all;
use serde_json::json;
use testkit::fresh;

use super::{two, until_not_shed};

#[tokio::test]
async fn parallel_registrations_over_two_nodes_get_one_201() {
    let (a, b) = two().await;
    for round in 0..3 {
        let name = fresh("crowd");
        let spelled = |n: usize| match n % 3 {
            0 => name.clone(),
            1 => name.to_uppercase(),
            _ => name.replacen('c', "C", 1),
        };
        let attempt = async |n: usize| {
            let body =
                json!({"email": format!("{}@example.org", spelled(n)), "password": "one of the crowd"});
            until_not_shed(|| [&a, &b][n / 3 % 2].post("users").json(&body)).await
        };
        let answers = join_all((0..50).map(attempt)).await;
        let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(made.len(), 1, "round {round}");
        answers.iter().filter(|answer| answer.status != 201).for_each(|answer| {
            answer.is_refused(409);
        });
        for node in [&a, &b] {
            let pair = node.log_in(&format!("{name}@example.org"), "one of the crowd").await.pair();
            let me = node.get("users/me").bearer(&pair.0).send().await;
            assert_eq!(me.field("uuid"), made[0].field("uuid"));
        }
    }
}

#[tokio::test]
async fn users_of_both_nodes_are_listed_by_registration() {
    let (a, b) = two().await;
    let root = a.root().await;
    let mut made = vec![root.uuid.clone()];
    for n in 0..12 {
        made.push([&a, &b][n % 2].register("one").await.uuid);
    }
    for node in [&a, &b] {
        for limit in [200, 5] {
            let mut listed = Vec::new();
            let mut path = format!("users?limit={limit}");
            loop {
                let page = root.at(node).get(&path).send().await.is(200).json();
                let users = page["users"].as_array().unwrap();
                listed.extend(users.iter().map(|user| user["uuid"].as_str().unwrap().to_owned()));
                let Some(next) = page["next_page_token"].as_str() else { break };
                path = format!("users?limit={limit}&page_token={next}");
            }
            assert_eq!(listed, made);
        }
    }
}
