//! The catalogue: all roles and permissions, one partition under one revision.
//!
//! Every change raises the revision in the same conditional batch. So changes are serialized, and a
//! copy in memory is valid as long as the stored revision is the same: a read fetches that number only.
//! A change is computed on the copy, by rules in plain Rust.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use schema::{
    Name, PermissionId, RoleId,
    permission::{Grant, Permission, Role},
};
use scylla::{DeserializeRow, value::CqlValue};
use store::{Result, StoreError, check::Finding};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    cas::CasOutcome,
    statement::Cql,
    store::{At, Store},
    timer,
};

mod edit;
mod reconcile;

pub(crate) use edit::Edit;

const ROLE: &str = "role";
const PERMISSION: &str = "permission";
/// Limit of attempts of an edit that loses to concurrent ones, and of loads of a changing catalogue.
const EDIT_ATTEMPTS_MAX: usize = 50;
/// Limit of the time after which an edit is not attempted again.
const EDIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of roles that the deletion of a permission updates. The other roles keep its id: ids without a
/// permission are skipped when read.
const ROLES_UPDATED_MAX: usize = 50;

/// The copy in memory.
#[derive(Default)]
pub(crate) struct CatalogueCache {
    copy: ArcSwapOption<Catalogue>,
    /// Held during an edit, so that edits on this node do not conflict.
    edit_lock: Mutex<()>,
}

/// All roles and permissions at one revision. Roles name only permissions that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// `None` before the first change.
    revision: Option<i64>,
    pub(crate) roles: BTreeMap<Name, Role>,
    pub(crate) permissions: BTreeMap<Name, Permission>,
    role_names: HashMap<RoleId, Name>,
    permission_names: HashMap<PermissionId, Name>,
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

    /// Whether the role or permission exists.
    pub(crate) fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Role(id) => self.role_names.contains_key(&id),
            Grant::Permission(id) => self.permission_names.contains_key(&id),
        }
    }

    /// The catalogue of these rows; `None` if they are of different revisions.
    fn of(rows: Vec<Row>) -> Result<Option<Self>> {
        let mut catalogue = Self { revision: rows.first().and_then(|row| row.revision), ..Self::default() };
        for row in rows {
            if row.revision != catalogue.revision {
                // The catalogue changed between two pages of the read.
                return Ok(None);
            }
            let (Some(kind), Some(name)) = (row.kind, row.name) else { continue };
            // Nothing can refer to a row without an id; a new record of this name replaces it.
            let Some(id) = row.id else {
                tracing::error!(kind, "a role or permission has no id; `palisade store check` names it");
                continue;
            };
            let id = *id.as_bytes();
            let parsed = Name::from_stored(&name);
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
        catalogue.drop_dangling_permissions();
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
            Edit::RemoveRole(name, _) => {
                if let Some(role) = self.roles.remove(&name) {
                    self.role_names.remove(&role.id);
                }
            }
            Edit::RemovePermission(name, _) => {
                if let Some(permission) = self.permissions.remove(&name) {
                    self.permission_names.remove(&permission.id);
                }
            }
        }
    }

    /// Removes the ids of permissions that do not exist from all roles.
    fn drop_dangling_permissions(&mut self) {
        let names = &self.permission_names;
        for role in self.roles.values_mut() {
            role.permissions.retain(|id| names.contains_key(id));
        }
    }

    /// The catalogue after these edits, at `revision`.
    fn after(&self, revision: i64, edits: &[Edit]) -> Self {
        let mut next = self.clone();
        next.revision = Some(revision);
        for edit in edits {
            next.apply(edit.clone());
        }
        next.drop_dangling_permissions();
        next
    }

    /// The edits that delete a permission.
    pub(crate) fn without_permission(&self, permission: &Permission) -> Vec<Edit> {
        let holding = self.roles.values().filter(|role| role.permissions.contains(&permission.id));
        let roles = holding.take(ROLES_UPDATED_MAX).map(|role| {
            let mut role = role.clone();
            role.permissions.remove(&permission.id);
            Edit::PutRole(role)
        });
        std::iter::once(Edit::RemovePermission(permission.name.clone(), permission.id)).chain(roles).collect()
    }
}

impl Store {
    /// The revision of the last change.
    pub(crate) async fn catalogue_revision(&self, at: At) -> Result<Option<i64>> {
        let row = self.row::<Revision>(at, Cql::CatalogueRevision, ()).await?;
        Ok(row.and_then(|row| row.revision))
    }

    /// The catalogue at this revision or a later one.
    pub(crate) async fn catalogue_of(&self, revision: Option<i64>) -> Result<Arc<Catalogue>> {
        match self.0.catalogue.copy.load_full() {
            Some(copy) if copy.revision >= revision => Ok(copy),
            _ => self.load_catalogue(At::Quorum).await,
        }
    }

    /// The catalogue as a quorum knows it.
    pub(crate) async fn catalogue(&self) -> Result<Arc<Catalogue>> {
        let revision = self.catalogue_revision(At::Quorum).await?;
        self.catalogue_of(revision).await
    }

    /// The catalogue with every conditional write that may have been applied.
    pub(crate) async fn latest_catalogue(&self) -> Result<Arc<Catalogue>> {
        let revision = self.catalogue_revision(At::Serial).await?;
        match self.0.catalogue.copy.load_full() {
            Some(copy) if copy.revision >= revision => Ok(copy),
            _ => self.load_catalogue(At::Serial).await,
        }
    }

    /// Findings about roles and permissions without an id.
    pub(crate) async fn unreadable_in_catalogue(&self) -> Result<Vec<Finding>> {
        let rows = self.read_pages::<Row>(At::Quorum, Cql::CatalogueAll, ()).await?;
        let nameless =
            rows.into_iter().filter(|row| row.id.is_none()).filter_map(|row| row.kind.zip(row.name));
        Ok(nameless
            .map(|(kind, name)| Finding::stays(&format!("{kind}s"), format!("{name:?}"), "id", "is missing"))
            .collect())
    }

    async fn load_catalogue(&self, at: At) -> Result<Arc<Catalogue>> {
        for _ in 0..EDIT_ATTEMPTS_MAX {
            let rows = self.read_pages::<Row>(at, Cql::CatalogueAll, ()).await?;
            if let Some(catalogue) = Catalogue::of(rows)? {
                let catalogue = Arc::new(catalogue);
                self.cache_catalogue(&catalogue);
                return Ok(catalogue);
            }
            self.pause(10).await;
        }
        Err(StoreError::unavailable_because("the catalogue changed during every attempt to read it"))
    }

    /// Caches a copy unless the cached one is as new.
    fn cache_catalogue(&self, catalogue: &Arc<Catalogue>) {
        self.0.catalogue.copy.rcu(|cached| match cached {
            Some(cached) if cached.revision >= catalogue.revision => Some(Arc::clone(cached)),
            _ => Some(Arc::clone(catalogue)),
        });
    }

    /// Changes the catalogue: from the current one, `decide` computes the answer and the edits that make it
    /// true.
    pub(crate) async fn edit<T: Send>(
        &self,
        decide: impl Fn(&Catalogue) -> (T, Vec<Edit>) + Send + Sync,
    ) -> Result<T> {
        let _lock = self.0.catalogue.edit_lock.lock().await;
        let deadline = timer::now() + EDIT_TIMEOUT;
        let mut catalogue = self.catalogue().await?;
        for _ in 0..EDIT_ATTEMPTS_MAX {
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
            let read_current = || self.latest_catalogue();
            let reconcile = |current: &Arc<Catalogue>| reconcile::edited(current, &catalogue, &edits);
            match self.cas_batch(&batch, read_current, reconcile).await? {
                CasOutcome::Applied => {
                    self.cache_catalogue(&Arc::new(catalogue.after(after, &edits)));
                    return Ok(answer);
                }
                CasOutcome::Rejected(current) => catalogue = current,
            }
            if timer::now() >= deadline {
                break;
            }
            self.pause(15).await;
        }
        Err(StoreError::unavailable_because("too many concurrent changes of roles and permissions"))
    }
}

/// The stored word for the kind of a grant, and its id.
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
