//! The catalogue: all roles and permissions, one partition under one revision.
//!
//! Every change raises the revision in the same conditional batch, so changes come one after the
//! other, and a copy in memory is good as long as the revision is the same: who reads asks for that
//! number only. A change is worked out on the copy, with all rules in plain sight.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use schema::{
    Name, PermissionId, RoleId, StoreError,
    permission::{Grant, Permission, Role},
    store::Result,
};
use scylla::{DeserializeRow, value::CqlValue};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use crate::{
    cas::{Settled, Values, Verdict},
    statement::Cql,
    store::{At, Store},
};

const ROLE: &str = "role";
const PERMISSION: &str = "permission";
/// How often a change is tried that others come before.
const TRIES: usize = 50;
/// How long a change is tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows of roles that are changed together with a permission that is deleted; more are left as they
/// are: an id that means nothing is skipped when read.
const TOGETHER: usize = 50;

/// The copy in memory, and who changes it.
#[derive(Default)]
pub(crate) struct Cache {
    copy: ArcSwapOption<Catalogue>,
    /// So that the changes of one node do not fight each other.
    changing: Mutex<()>,
}

/// All roles and permissions of a revision. Roles name only permissions that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// `None` before the first change.
    revision: Option<i64>,
    pub(crate) roles: BTreeMap<Name, Role>,
    pub(crate) permissions: BTreeMap<Name, Permission>,
    role_names: HashMap<RoleId, Name>,
    permission_names: HashMap<PermissionId, Name>,
}

/// A row of the catalogue that is put or removed.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    PutRole(Role),
    PutPermission(Permission),
    RemoveRole(Name),
    RemovePermission(Name),
}

#[derive(DeserializeRow)]
struct Row {
    kind: Option<String>,
    name: Option<String>,
    id: Option<Uuid>,
    description: Option<String>,
    permissions: Option<Vec<Uuid>>,
    revision: Option<i64>,
}

#[derive(DeserializeRow)]
struct Revision {
    revision: Option<i64>,
}

impl Catalogue {
    pub(crate) fn role(&self, id: RoleId) -> Option<&Role> {
        self.roles.get(self.role_names.get(&id)?)
    }

    pub(crate) fn permission(&self, id: PermissionId) -> Option<&Permission> {
        self.permissions.get(self.permission_names.get(&id)?)
    }

    /// Whether there is such a role or permission.
    pub(crate) fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Role(id) => self.role_names.contains_key(&id),
            Grant::Permission(id) => self.permission_names.contains_key(&id),
        }
    }

    fn of(rows: Vec<Row>) -> Result<Option<Self>> {
        let mut catalogue = Self { revision: rows.first().and_then(|row| row.revision), ..Self::default() };
        for row in rows {
            if row.revision != catalogue.revision {
                // It changed between two pages.
                return Ok(None);
            }
            let (Some(kind), Some(name)) = (row.kind, row.name) else { continue };
            let strange =
                || StoreError::Inconsistent(format!("the {kind} {name} has a row that does not parse"));
            let id = *row.id.ok_or_else(strange)?.as_bytes();
            let parsed: Name = name.parse().map_err(|_| strange())?;
            let description = row.description;
            if kind == ROLE {
                let ids = row.permissions.unwrap_or_default();
                let permissions = ids.iter().map(|id| PermissionId::from_bytes(*id.as_bytes())).collect();
                catalogue.apply(Edit::PutRole(Role {
                    id: RoleId::from_bytes(id),
                    name: parsed,
                    description,
                    permissions,
                }));
            } else {
                let id = PermissionId::from_bytes(id);
                catalogue.apply(Edit::PutPermission(Permission { id, name: parsed, description }));
            }
        }
        catalogue.forget_what_is_gone();
        Ok(Some(catalogue))
    }

    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::PutRole(role) => {
                self.role_names.insert(role.id, role.name.clone());
                self.roles.insert(role.name.clone(), role);
            }
            Edit::PutPermission(permission) => {
                self.permission_names.insert(permission.id, permission.name.clone());
                self.permissions.insert(permission.name.clone(), permission);
            }
            Edit::RemoveRole(name) => {
                if let Some(role) = self.roles.remove(&name) {
                    self.role_names.remove(&role.id);
                }
            }
            Edit::RemovePermission(name) => {
                if let Some(permission) = self.permissions.remove(&name) {
                    self.permission_names.remove(&permission.id);
                }
            }
        }
    }

    /// Takes ids that mean nothing out of the roles.
    fn forget_what_is_gone(&mut self) {
        let names = &self.permission_names;
        for role in self.roles.values_mut() {
            role.permissions.retain(|id| names.contains_key(id));
        }
    }

    /// The same after these edits.
    fn after(&self, revision: i64, edits: &[Edit]) -> Self {
        let mut next = self.clone();
        next.revision = Some(revision);
        for edit in edits {
            next.apply(edit.clone());
        }
        next.forget_what_is_gone();
        next
    }

    /// The edits that delete a permission.
    pub(crate) fn without_permission(&self, permission: &Permission) -> Vec<Edit> {
        let holding = self.roles.values().filter(|role| role.permissions.contains(&permission.id));
        let roles = holding.take(TOGETHER).map(|role| {
            let mut role = role.clone();
            role.permissions.remove(&permission.id);
            Edit::PutRole(role)
        });
        std::iter::once(Edit::RemovePermission(permission.name.clone())).chain(roles).collect()
    }

    /// Whether the first of these edits is how things are.
    fn shows(&self, edits: &[Edit]) -> bool {
        match edits.first() {
            None => true,
            Some(Edit::PutRole(role)) => self.roles.get(&role.name) == Some(role),
            Some(Edit::PutPermission(permission)) => {
                self.permissions.get(&permission.name) == Some(permission)
            }
            Some(Edit::RemoveRole(name)) => !self.roles.contains_key(name),
            Some(Edit::RemovePermission(name)) => !self.permissions.contains_key(name),
        }
    }
}

impl Edit {
    fn statement(&self) -> (Cql, Values) {
        let text = |text: &str| Some(CqlValue::Text(text.to_owned()));
        match self {
            Self::PutRole(role) => {
                let ids = role.permissions.iter().map(|id| CqlValue::Uuid(id.uuid())).collect::<Vec<_>>();
                let values = vec![
                    text(ROLE),
                    text(role.name.as_str()),
                    Some(CqlValue::Uuid(role.id.uuid())),
                    role.description.as_deref().and_then(text),
                    (!ids.is_empty()).then_some(CqlValue::Set(ids)),
                ];
                (Cql::CataloguePut, values)
            }
            Self::PutPermission(permission) => {
                let values = vec![
                    text(PERMISSION),
                    text(permission.name.as_str()),
                    Some(CqlValue::Uuid(permission.id.uuid())),
                    permission.description.as_deref().and_then(text),
                    None,
                ];
                (Cql::CataloguePut, values)
            }
            Self::RemoveRole(name) => (Cql::CatalogueRemove, vec![text(ROLE), text(name.as_str())]),
            Self::RemovePermission(name) => {
                (Cql::CatalogueRemove, vec![text(PERMISSION), text(name.as_str())])
            }
        }
    }
}

impl Store {
    /// The number of the last change.
    pub(crate) async fn catalogue_revision(&self, at: At) -> Result<Option<i64>> {
        let row = self.row::<Revision>(at, Cql::CatalogueRevision, ()).await?;
        Ok(row.and_then(|row| row.revision))
    }

    /// The catalogue of this revision or a later one.
    pub(crate) async fn catalogue_of(&self, revision: Option<i64>) -> Result<Arc<Catalogue>> {
        match self.0.catalogue.copy.load_full() {
            Some(copy) if copy.revision >= revision => Ok(copy),
            _ => self.load_catalogue(At::Quorum).await,
        }
    }

    /// The catalogue as it is.
    pub(crate) async fn catalogue(&self) -> Result<Arc<Catalogue>> {
        let revision = self.catalogue_revision(At::Quorum).await?;
        self.catalogue_of(revision).await
    }

    /// The catalogue as nobody can have changed it without our knowing.
    pub(crate) async fn latest_catalogue(&self) -> Result<Arc<Catalogue>> {
        let revision = self.catalogue_revision(At::Serial).await?;
        match self.0.catalogue.copy.load_full() {
            Some(copy) if copy.revision >= revision => Ok(copy),
            _ => self.load_catalogue(At::Serial).await,
        }
    }

    async fn load_catalogue(&self, at: At) -> Result<Arc<Catalogue>> {
        for _ in 0..TRIES {
            let rows = self.read_pages::<Row>(at, Cql::CatalogueAll, ()).await?;
            if let Some(catalogue) = Catalogue::of(rows)? {
                let catalogue = Arc::new(catalogue);
                self.keep_catalogue(&catalogue);
                return Ok(catalogue);
            }
            self.pause(10).await;
        }
        Err(StoreError::unavailable_because("the catalogue changes all the time"))
    }

    /// Keeps a copy unless there is a newer one.
    fn keep_catalogue(&self, catalogue: &Arc<Catalogue>) {
        self.0.catalogue.copy.rcu(|kept| match kept {
            Some(kept) if kept.revision >= catalogue.revision => Some(Arc::clone(kept)),
            _ => Some(Arc::clone(catalogue)),
        });
    }

    /// Changes the catalogue: `decide` gives the answer, and the edits that make it true.
    pub(crate) async fn edit<T: Send>(
        &self,
        decide: impl Fn(&Catalogue) -> (T, Vec<Edit>) + Send + Sync,
    ) -> Result<T> {
        let _turn = self.0.catalogue.changing.lock().await;
        let until = Instant::now() + PATIENCE;
        let mut catalogue = self.catalogue().await?;
        for _ in 0..TRIES {
            let (answer, edits) = decide(&catalogue);
            if edits.is_empty() {
                return Ok(answer);
            }
            let before = catalogue.revision;
            let after = before.unwrap_or(0) + 1;
            let raise = vec![Some(CqlValue::BigInt(after)), before.map(CqlValue::BigInt)];
            let batch: Vec<_> = std::iter::once((Cql::CatalogueRaise, raise))
                .chain(edits.iter().map(Edit::statement))
                .collect();
            let look = || self.latest_catalogue();
            let judge = |there: &Arc<Catalogue>| match there.revision {
                revision if revision == before => Verdict::Before,
                _ if there.shows(&edits) => Verdict::Done,
                _ => Verdict::Otherwise,
            };
            match self.cas_batch(&batch, look, judge).await? {
                Settled::Done => {
                    self.keep_catalogue(&Arc::new(catalogue.after(after, &edits)));
                    return Ok(answer);
                }
                Settled::Not(there) => catalogue = there,
            }
            if Instant::now() >= until {
                break;
            }
            self.pause(15).await;
        }
        Err(StoreError::unavailable_because("too many change roles and permissions at once"))
    }
}

/// The word for the kind of a grant, and its id.
pub(crate) fn kind_and_id(grant: Grant) -> (&'static str, Uuid) {
    match grant {
        Grant::Role(id) => (ROLE, id.uuid()),
        Grant::Permission(id) => (PERMISSION, id.uuid()),
    }
}

/// The grant of a kind and an id.
pub(crate) fn grant(kind: &str, id: Uuid) -> Grant {
    if kind == ROLE {
        Grant::Role(RoleId::from_bytes(*id.as_bytes()))
    } else {
        Grant::Permission(PermissionId::from_bytes(*id.as_bytes()))
    }
}
