//! Grants and roles whose change is cut short.

use serde_json::json;
use testkit::{Answer, Client, Person};

use super::{at_every_step, is_one_of, may_everywhere, times};
use crate::behind::{Behind, new_user};

/// A node behind a proxy, another one on the same database, and a permission that users gain and lose.
struct Scene {
    here: Behind,
    elsewhere: Client,
    /// The superuser, by a client that retries.
    root: Person,
    films: String,
}

impl Scene {
    async fn new() -> Self {
        let here = Behind::a_proxy().await;
        let elsewhere = here.elsewhere().await.retrying();
        let root = here.node.root().await.at(&here.node.retrying());
        let films = root.makes_permission("films").await;
        Self { here, elsewhere, root, films }
    }

    /// The superuser, by a client that calls once.
    fn root_once(&self) -> Person {
        self.root.at(&self.here.node)
    }

    /// A new user, after `grant` has given the user the permission.
    async fn user_with(&self, grant: impl AsyncFnOnce(&Person) -> Answer) -> Person {
        let ann = new_user(&self.here.node).await;
        grant(&ann).await.is(200);
        self.may_everywhere(&ann, true).await;
        ann
    }

    async fn may_everywhere(&self, ann: &Person, holds: bool) {
        may_everywhere(ann, &self.elsewhere, &self.films, holds).await;
    }

    async fn times(&self, ann: &Person, kind: &str, name: &str) -> usize {
        times(&self.root, ann, kind, name).await
    }

    async fn superuser_stays(&self) {
        assert!(self.root.may("all_all").await, "the superuser has lost its privileges");
    }
}

#[tokio::test]
async fn permission_grant_survives_any_cut() {
    let scene = Scene::new().await;
    let films = &scene.films;
    at_every_step(
        &scene.here,
        async || {
            let ann = new_user(&scene.here.node).await;
            assert!(!ann.may(films).await && !ann.at(&scene.elsewhere).may(films).await);
            ann
        },
        async |ann| scene.root_once().gives(ann, films).await,
        async |ann, answer| {
            if answer.status == 503 {
                scene.root.gives(&ann, films).await.is(200);
            }
            scene.may_everywhere(&ann, true).await;
            assert_eq!(scene.times(&ann, "permissions", films).await, 1);
            scene.root.takes(&ann, films).await.is(200);
            scene.may_everywhere(&ann, false).await;
        },
    )
    .await;
}

#[tokio::test]
async fn permission_removal_survives_any_cut() {
    let scene = Scene::new().await;
    let films = &scene.films;
    at_every_step(
        &scene.here,
        async || scene.user_with(async |ann| scene.root.gives(ann, films).await).await,
        async |ann| scene.root_once().takes(ann, films).await,
        async |ann, answer| {
            if answer.status == 503 {
                // What the check says now is what is stored.
                assert_eq!(ann.may(films).await, scene.times(&ann, "permissions", films).await == 1);
                scene.root.takes(&ann, films).await.is(200);
            }
            scene.may_everywhere(&ann, false).await;
            assert_eq!(scene.times(&ann, "permissions", films).await, 0);
        },
    )
    .await;
}

#[tokio::test]
async fn role_removal_survives_any_cut() {
    let scene = Scene::new().await;
    let staff = scene.root.makes_role("staff", &[&scene.films]).await;
    at_every_step(
        &scene.here,
        async || scene.user_with(async |ann| scene.root.gives_role(ann, &staff).await).await,
        async |ann| scene.root_once().takes_role(ann, &staff).await,
        async |ann, answer| {
            if answer.status == 503 {
                scene.root.takes_role(&ann, &staff).await.is(200);
            }
            scene.may_everywhere(&ann, false).await;
            assert_eq!(scene.times(&ann, "roles", &staff).await, 0);
        },
    )
    .await;
    scene.superuser_stays().await;
}

#[tokio::test]
async fn role_deletion_survives_any_cut() {
    let scene = Scene::new().await;
    let root = &scene.root;
    let path = |role: &str| format!("roles/{role}");
    at_every_step(
        &scene.here,
        async || {
            let staff = root.makes_role("staff", &[&scene.films]).await;
            let ann = scene.user_with(async |ann| root.gives_role(ann, &staff).await).await;
            (ann, staff)
        },
        async |(_, staff)| scene.root_once().delete(&path(staff)).send().await,
        async |(ann, staff), answer| {
            if answer.status == 503 {
                let answer = root.delete(&path(&staff)).send().await;
                is_one_of(&answer, &[204, 404]);
            }
            scene.may_everywhere(&ann, false).await;
            root.get(&path(&staff)).send().await.is_refused(404);
            root.at(&scene.elsewhere).get(&path(&staff)).send().await.is_refused(404);
            // The name is free, and another role of that name is another.
            root.post("roles").json(&json!({"name": staff})).send().await.is(201);
            root.puts(&scene.films, &staff).await.is(200);
            scene.may_everywhere(&ann, false).await;
            assert_eq!(scene.times(&ann, "roles", &staff).await, 0);
        },
    )
    .await;
    scene.superuser_stays().await;
}
