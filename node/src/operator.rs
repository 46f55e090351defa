//! Operator commands (initialise, create and delete superusers, rotate keys), the cluster's status and the
//! metrics.
//!
//! The same code runs in the node, for commands from the control socket, and in the command line, on the
//! store itself, if no node runs.

use actors::user::{GrantChange, UserError};
use schema::{
    FactKind, KeyId, Name, PermissionId, RoleId, UserId,
    email::{Email, FoldedEmail, NotAnEmail},
    permission::{ALL_ALL, BUILT_IN, Permission, Role, SUPERUSER},
    text::{NotText, PersonName},
    user::PasswordHash,
};
use serde::{Deserialize, Serialize};
use store::{Added, StoreError, check};

pub mod control;
pub mod exposition;
mod process;
pub mod status;

use status::ClusterView;

use crate::{
    accounts::{limits::Named, register::NewUser},
    app::App,
    credentials::{
        keys::{self, KeyError, KeyInfo},
        passwords::{Normalized, PasswordError},
    },
    scheduling::source::Source,
};

/// A command of an operator.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Creates the built-in permissions and the role `superuser`. Idempotent.
    AppInit {
        /// Also creates this superuser, unless the user is one already.
        superuser: Option<NewSuperuser>,
    },
    /// Creates a superuser, or promotes a user.
    SuperuserCreate(NewSuperuser),
    /// Removes all grants of `all_all` from a user. The user stays.
    SuperuserDelete {
        /// The email of the superuser.
        email: String,
        /// Whether to do it even for the last superuser.
        force: bool,
    },
    /// Checks some rows of the store and reports those that today's rules would not accept.
    StoreCheck {
        /// Whether to repair rows that can be repaired without a loss.
        repair: bool,
        /// The last user that was checked.
        after: Option<UserId>,
    },
    /// Shows the other nodes of the cluster.
    ClusterStatus,
    /// Drains the node and shuts it down.
    ClusterLeave,
    /// Lists the locked accounts and the throttled addresses.
    LimitsList,
    /// Lifts the limits of an account or address.
    LimitsClear {
        /// An email, an address, or a subject as the list shows it.
        subject: String,
    },
    /// Lists the signing keys.
    KeysList,
    /// Makes the next key the active one.
    KeysRotate,
    /// Revokes a key: nodes refuse the tokens that it signed.
    KeysRetire {
        /// The `kid`.
        kid: KeyId,
    },
}

/// The user to create as a superuser, or to promote.
#[derive(Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct NewSuperuser {
    pub email: String,
    pub password: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    /// Whether to promote an existing user, whose password stays unchanged.
    pub promote: bool,
}

/// The validated input, by the rules of registration.
struct Parsed {
    email: Email,
    first_name: Option<PersonName>,
    last_name: Option<PersonName>,
}

impl NewSuperuser {
    fn parse(&self) -> Result<Parsed, OperatorError> {
        let name = |name: &Option<String>| name.as_deref().map(PersonName::parse).transpose();
        Ok(Parsed {
            email: self.email.parse().map_err(|why| OperatorError::Email(self.email.clone(), why))?,
            first_name: name(&self.first_name).map_err(OperatorError::FirstName)?.flatten(),
            last_name: name(&self.last_name).map_err(OperatorError::LastName)?.flatten(),
        })
    }
}

/// The result of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// The sentence for people.
    pub msg: String,
    /// The same for programs.
    pub result: serde_json::Value,
}

/// The reason why a command failed, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OperatorError {
    #[error("the node that runs here has not reached the database yet; look at its log, and try again")]
    NotUp,
    #[error("there is no role superuser yet: run `palisade app init` first")]
    NotInitialised,
    #[error("{0:?} {1}")]
    Email(String, NotAnEmail),
    #[error("--first-name {0}")]
    FirstName(NotText),
    #[error("--last-name {0}")]
    LastName(NotText),
    #[error("{0}")]
    Password(#[from] PasswordError),
    #[error("{0} exists: give --promote to make this user a superuser")]
    Exists(String),
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("{0:?} is neither an email nor an IP address; see `palisade limits list`")]
    NoSubject(String),
    #[error("Redis does not answer: the limits are lifted on this node only; try again when it does")]
    LiftedHere,
    #[error("{0} is no superuser")]
    NoSuperuser(String),
    #[error("{0} is the last superuser: give --force to have none")]
    LastSuperuser(String),
    #[error("the role superuser exists without all_all; restore the store from a backup")]
    Damaged,
    #[error("the node is busy; try again")]
    Busy,
    #[error(transparent)]
    User(UserError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Actor(#[from] actors::ActorError),
}

impl App {
    /// Runs an operator's command.
    ///
    /// # Errors
    /// The reason for the failure, in a sentence that says what to do.
    pub async fn operate(&self, command: Command) -> Result<Done, OperatorError> {
        let is_for_any_state = matches!(
            command,
            Command::ClusterStatus
                | Command::ClusterLeave
                | Command::LimitsList
                | Command::LimitsClear { .. }
        );
        if !is_for_any_state && !self.sync.is_synced() {
            return Err(OperatorError::NotUp);
        }
        match command {
            Command::ClusterStatus => {
                let view = ClusterView::of(self);
                let result = serde_json::to_value(&view).unwrap_or_default();
                Ok(Done { msg: view.table(), result })
            }
            Command::ClusterLeave => {
                self.end.notify_one();
                Ok(Done { msg: "the node has left and ended".into(), result: serde_json::json!({}) })
            }
            Command::StoreCheck { repair, after } => {
                let step = check::step(&self.stores, after, repair).await?;
                let msg = format!("users checked: {}", step.users);
                Ok(Done { msg, result: serde_json::to_value(step).unwrap_or_default() })
            }
            Command::AppInit { superuser } => {
                // Reject invalid input before anything is created.
                superuser.as_ref().map(NewSuperuser::parse).transpose()?;
                let mut done = self.init().await?;
                if let Some(new) = superuser {
                    let made = self.create_superuser(new).await?;
                    done.msg = format!("{}; {}", done.msg, made.msg);
                    done.result["superuser"] = made.result;
                }
                Ok(done)
            }
            Command::SuperuserCreate(new) => self.create_superuser(new).await,
            Command::SuperuserDelete { email, force } => self.delete_superuser(&email, force).await,
            Command::LimitsList => Ok(self.limits_list().await),
            Command::LimitsClear { subject } => self.limits_clear(&subject).await,
            Command::KeysList => Ok(keys_done("the signing keys", self.ring.infos())),
            Command::KeysRotate => {
                // Wait until every node knows the next key.
                let set = match keys::rotate(self.key_tools()).await {
                    Err(KeyError::TooYoung(wait)) => {
                        tokio::time::sleep(wait).await;
                        keys::rotate(self.key_tools()).await?
                    }
                    rotated => rotated?,
                };
                self.install_key_set(&set)?;
                tracing::info!("signing keys rotated");
                Ok(keys_done("the next key signs from now on", self.ring.infos()))
            }
            Command::KeysRetire { kid } => {
                // First stop signing with the key, then refuse everything that it signed.
                let set = keys::retire(self.key_tools(), kid).await?;
                self.install_key_set(&set)?;
                self.facts.apply_and_publish(&[FactKind::KeyRetired { key: kid }]).await?;
                tracing::info!(%kid, "signing key revoked");
                Ok(keys_done("what this key signed is refused from now on", self.ring.infos()))
            }
        }
    }

    async fn limits_list(&self) -> Done {
        let list = self.limits.list().await;
        let mut msg = match list.limits.len() {
            0 => "nothing is limited".to_owned(),
            _ => list.limits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        if list.more > 0 {
            msg += &format!("\nand up to {} more", list.more);
        }
        msg += self.limits_scope(list.shared);
        Done { msg, result: serde_json::to_value(&list).unwrap_or_default() }
    }

    async fn limits_clear(&self, subject: &str) -> Result<Done, OperatorError> {
        let named = Named::read(subject).ok_or_else(|| OperatorError::NoSubject(subject.to_owned()))?;
        let lifted = self.limits.clear(&named).await;
        // Do not log the subject: it may be a mistyped secret.
        tracing::info!(lifted = lifted.len(), "operator lifted limits");
        let shared = self.cache.is_some();
        if shared && !self.limits.are_shared().await {
            return Err(OperatorError::LiftedHere);
        }
        let what = if lifted.is_empty() { "was not limited; its failures are forgotten" } else { "is open" };
        let msg = format!("{subject} {what}{}", self.limits_scope(shared));
        Ok(Done { msg, result: serde_json::json!({ "shared": shared, "lifted": lifted }) })
    }

    /// A note for the operator if the counts are of this node only.
    fn limits_scope(&self, shared: bool) -> &'static str {
        match (shared, self.cache.is_some()) {
            (true, _) => "",
            (false, true) => "\nRedis does not answer: this is what this node counts by itself",
            (false, false) if self.peers().is_some() => {
                "\nwithout PALISADE_REDIS each node counts by itself: this is of this node only"
            }
            (false, false) => "",
        }
    }

    async fn init(&self) -> Result<Done, OperatorError> {
        let now = self.clock.now();
        let mut made = Vec::new();
        for (name, description) in BUILT_IN {
            let id = PermissionId::new(now, self.entropy.id());
            let permission = Permission { id, name: built_in(name)?, description: Some(description.into()) };
            if self.stores.permissions.create(&permission).await? == Added::Done {
                made.push(name);
            }
        }
        let role = Role {
            id: RoleId::new(now, self.entropy.id()),
            name: built_in(SUPERUSER)?,
            description: Some("May do everything".into()),
            permissions: std::collections::BTreeSet::new(),
        };
        if self.stores.roles.create(&role).await? == Added::Done {
            made.push(SUPERUSER);
        }
        // Grant even if the role existed: this completes an interrupted init.
        let all_all =
            self.stores.permissions.get(&built_in(ALL_ALL)?).await?.ok_or(OperatorError::Damaged)?;
        self.stores.roles.add(&role.name, &all_all).await?.ok_or(OperatorError::Damaged)?;
        let msg = if made.is_empty() { "initialised before" } else { "initialised" };
        Ok(Done { msg: msg.into(), result: serde_json::json!({ "made": made }) })
    }

    async fn create_superuser(&self, new: NewSuperuser) -> Result<Done, OperatorError> {
        let Parsed { email, first_name, last_name } = new.parse()?;
        let role = self.superuser_role().await?;
        let existing = self.stores.users.by_email(&FoldedEmail::of(&new.email)).await?;
        let created = existing.is_none();
        let (user, msg) = match existing {
            // Creating an existing superuser is no error, but another user of this email is never promoted
            // silently.
            Some(user) if self.stores.grants.raw(user.id).await?.roles.contains(&role.id) => {
                (user.id, format!("{} is a superuser already, and its password stays as it was", new.email))
            }
            Some(_) if !new.promote => return Err(OperatorError::Exists(new.email)),
            Some(user) => {
                (user.id, format!("{} is a superuser now, and its password stays as it was", new.email))
            }
            None => {
                let password = Normalized::new(&new.password)?;
                let hash = self.hash_with_retries(password).await?;
                let user = NewUser { email, password: Some(hash), first_name, last_name };
                let user = user.registered(&*self.clock, &*self.entropy);
                let id = user.id;
                self.actors.users.register(user).await.map_err(|error| match error {
                    UserError::EmailTaken => OperatorError::Exists(new.email.clone()),
                    other => OperatorError::User(other),
                })?;
                (id, format!("made the superuser {}", new.email))
            }
        };
        self.actors.users.give(user, GrantChange::Role(role)).await.map_err(OperatorError::User)?;
        tracing::info!(%user, "superuser created");
        Ok(Done { msg, result: serde_json::json!({ "uuid": user, "email": new.email, "created": created }) })
    }

    /// The email of a superuser, if there is one.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn any_superuser(&self) -> Result<Option<String>, StoreError> {
        for id in self.stores.superusers.load().await?.value.counted {
            if let Some(user) = self.stores.users.get(id).await? {
                return Ok(Some(user.email.as_str().to_owned()));
            }
        }
        Ok(None)
    }

    async fn delete_superuser(&self, email: &str, force: bool) -> Result<Done, OperatorError> {
        let folded = FoldedEmail::of(email);
        let user = self.stores.users.by_email(&folded).await?;
        let user = user.ok_or_else(|| OperatorError::NoUser(email.to_owned()))?.id;
        let had = self.actors.users.take_privileges(user, force).await.map_err(|error| match error {
            UserError::LastSuperuser => OperatorError::LastSuperuser(email.to_owned()),
            other => OperatorError::User(other),
        })?;
        if !had {
            return Err(OperatorError::NoSuperuser(email.to_owned()));
        }
        tracing::info!(%user, "superuser privileges removed");
        let msg = format!("{email} is no superuser any more");
        Ok(Done { msg, result: serde_json::json!({ "uuid": user, "email": email }) })
    }

    async fn superuser_role(&self) -> Result<Role, OperatorError> {
        let role =
            self.stores.roles.get(&built_in(SUPERUSER)?).await?.ok_or(OperatorError::NotInitialised)?;
        if role.permissions.is_empty() { Err(OperatorError::NotInitialised) } else { Ok(role) }
    }

    /// Hashes a password, and retries while users fill the queue.
    async fn hash_with_retries(&self, password: Normalized) -> Result<PasswordHash, OperatorError> {
        for _ in 0..100 {
            match self.passwords.hash(password.clone(), Source::OWN).await {
                Ok(hash) => return Ok(hash),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
        Err(OperatorError::Busy)
    }
}

fn built_in(name: &str) -> Result<Name, OperatorError> {
    name.parse().map_err(|_| OperatorError::Damaged)
}

fn keys_done(msg: &str, keys: Vec<KeyInfo>) -> Done {
    Done { msg: msg.into(), result: serde_json::to_value(keys).unwrap_or_default() }
}
