//! A user with an account: logs in, sends requests with its token, grants and revokes privileges.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client, Request},
    fresh,
};

/// A user in one session.
#[derive(Clone, Debug)]
pub struct Person {
    /// The user's id.
    pub uuid: String,
    /// As registered.
    pub email: String,
    /// In the clear.
    pub password: String,
    /// The access token of this session.
    pub access: String,
    /// The refresh token of this session.
    pub refresh: String,
    client: Client,
}

impl Person {
    /// Registers a user with a fresh email and password and logs in.
    pub async fn register(client: &Client, name: &str) -> Self {
        let unique = fresh(name);
        let email = format!("{unique}@example.org");
        let password = format!("the secret of {unique}");
        let body = json!({"email": email, "password": password, "first_name": name});
        client.post("users").json(&body).send().await.is(201);
        Self::log_in(client, &email, &password).await
    }

    /// Logs in, in a new session.
    pub async fn log_in(client: &Client, email: &str, password: &str) -> Self {
        let (access, refresh) = client.log_in(email, password).await.pair();
        let uuid = client.get("users/me").bearer(&access).send().await.is(200).field("uuid");
        let email = email.to_owned();
        let password = password.to_owned();
        Self { uuid, email, password, access, refresh, client: client.clone() }
    }

    /// A user whose data and tokens are known already; sends no request.
    #[must_use]
    pub fn known(client: &Client, uuid: &str, email: &str, password: &str, pair: (String, String)) -> Self {
        let (access, refresh) = pair;
        let [uuid, email, password] = [uuid, email, password].map(str::to_owned);
        Self { uuid, email, password, access, refresh, client: client.clone() }
    }

    /// The same user in a new session.
    pub async fn in_another_session(&self) -> Self {
        let (access, refresh) = self.client.log_in(&self.email, &self.password).await.pair();
        Self { access, refresh, ..self.clone() }
    }

    /// The same session with the next pair of tokens.
    pub async fn refreshed(&self) -> Self {
        let (access, refresh) = self.client.refresh(&self.refresh).await.pair();
        Self { access, refresh, ..self.clone() }
    }

    /// The same session with these tokens.
    #[must_use]
    pub fn with_tokens(&self, (access, refresh): (String, String)) -> Self {
        Self { access, refresh, ..self.clone() }
    }

    /// The same user and tokens, after a change of the password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self.clone() }
    }

    /// The same user and tokens, asking by another client: at another node, or over other connections.
    #[must_use]
    pub fn at(&self, client: &Client) -> Self {
        Self { client: client.clone(), ..self.clone() }
    }

    /// The client alone: what it sends carries no token.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// A request with the access token.
    #[must_use]
    pub fn request(&self, method: &str, path: &str) -> Request {
        self.client.request(method, path).bearer(&self.access)
    }

    /// `GET` with the access token.
    #[must_use]
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// `POST` with the access token.
    #[must_use]
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// `PATCH` with the access token.
    #[must_use]
    pub fn patch(&self, path: &str) -> Request {
        self.request("PATCH", path)
    }

    /// `DELETE` with the access token.
    #[must_use]
    pub fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// The path of something of this user's, for others.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        let slash = if rest.is_empty() { "" } else { "/" };
        format!("users/{}{slash}{rest}", self.uuid)
    }

    /// What the node says about the access token.
    pub async fn validate(&self) -> Answer {
        self.client.validate(&self.access).await
    }

    /// The access token is good.
    pub async fn is_in(&self) {
        let answer = self.validate().await;
        assert_eq!(answer.is(200).json(), json!({"msg": "Token is valid"}));
    }

    /// The access token is revoked, and so is the refresh token.
    pub async fn is_out(&self) {
        self.validate().await.is_error(401, "Token has been revoked");
        self.client.refresh(&self.refresh).await.is_error(401, "Token has been revoked");
    }

    /// The session's id, as the list of sessions has it.
    ///
    /// # Panics
    /// When none is the current one.
    pub async fn session(&self) -> String {
        let sessions = self.list("sessions", "users/me/sessions").await;
        let current = sessions.iter().find(|session| session["current"] == true);
        current.expect("one is the current session")["uuid"].as_str().expect("a uuid").to_owned()
    }

    /// The first page of a list.
    ///
    /// # Panics
    /// When the answer is no page.
    pub async fn list(&self, noun: &str, path: &str) -> Vec<Value> {
        let page = self.get(path).send().await.is(200).json();
        assert!(page.get("next_page_token").is_some(), "a page without next_page_token: {page}");
        page[noun].as_array().unwrap_or_else(|| panic!("a page without {noun}: {page}")).clone()
    }

    /// Asks whether this user may do something.
    pub async fn asks(&self, query: &str) -> Answer {
        self.asks_about("me", query).await
    }

    /// Asks whether some user may do something.
    pub async fn asks_about(&self, user: &str, query: &str) -> Answer {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        self.get(&format!("users/{user}/combined_permissions/validation?permissions={query}")).send().await
    }

    /// Whether this user has a permission.
    ///
    /// # Panics
    /// When the answer is none.
    pub async fn may(&self, permission: &str) -> bool {
        self.holds(&json!(permission)).await
    }

    /// Whether a query holds for this user.
    ///
    /// # Panics
    /// When the answer is none.
    pub async fn holds(&self, query: &Value) -> bool {
        let answer = self.asks(&query.to_string()).await;
        answer.is(200).json()["valid"].as_bool().unwrap_or_else(|| panic!("no `valid`\n{answer}"))
    }

    /// Makes a permission with a fresh name, which it returns.
    pub async fn makes_permission(&self, name: &str) -> String {
        let name = fresh(name);
        self.post("permissions").json(&json!({"name": name})).send().await.is(201);
        name
    }

    /// Makes a role with a fresh name, which it returns, that has these permissions.
    pub async fn makes_role(&self, name: &str, permissions: &[&str]) -> String {
        let name = fresh(name);
        self.post("roles").json(&json!({"name": name})).send().await.is(201);
        for permission in permissions {
            self.puts(permission, &name).await.is(200);
        }
        name
    }

    /// Puts a permission into a role.
    pub async fn puts(&self, permission: &str, role: &str) -> Answer {
        let path = format!("roles/{role}/permissions");
        self.post(&path).json(&json!({"name": permission})).send().await
    }

    /// Takes a permission out of a role.
    pub async fn takes_out(&self, permission: &str, role: &str) -> Answer {
        self.delete(&format!("roles/{role}/permissions/{permission}")).send().await
    }

    /// Grants a permission to a user.
    pub async fn gives(&self, whom: &Self, permission: &str) -> Answer {
        self.post(&whom.path("permissions")).json(&json!({"name": permission})).send().await
    }

    /// Removes a permission from a user.
    pub async fn takes(&self, whom: &Self, permission: &str) -> Answer {
        self.delete(&whom.path(&format!("permissions/{permission}"))).send().await
    }

    /// Grants a role to a user.
    pub async fn gives_role(&self, whom: &Self, role: &str) -> Answer {
        self.post(&whom.path("roles")).json(&json!({"name": role})).send().await
    }

    /// Removes a role from a user.
    pub async fn takes_role(&self, whom: &Self, role: &str) -> Answer {
        self.delete(&whom.path(&format!("roles/{role}"))).send().await
    }

    /// Enables or disables a user.
    pub async fn sets_active(&self, whom: &Self, active: bool) -> Answer {
        self.patch(&whom.path("")).json(&json!({"active": active})).send().await
    }
}
