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
    check::Finding,
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
    RemoveRole(Name, RoleId),
    RemovePermission(Name, PermissionId),
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
            // Nothing refers to what has no id; another of this name takes its place.
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
        std::iter::once(Edit::RemovePermission(permission.name.clone(), permission.id)).chain(roles).collect()
    }

    /// How this record is stored.
    fn stored(&self, edit: &Edit) -> Stored {
        let of = |id: Option<Uuid>, same: bool| match id {
            Some(_) if same => Stored::Same,
            Some(_) => Stored::Other,
            None => Stored::Absent,
        };
        match edit {
            Edit::PutRole(role) => {
                let there = self.role(role.id);
                of(there.map(|there| there.id.uuid()), there == Some(role))
            }
            Edit::PutPermission(permission) => {
                let there = self.permission(permission.id);
                of(there.map(|there| there.id.uuid()), there == Some(permission))
            }
            Edit::RemoveRole(_, id) => of(self.role(*id).map(|role| role.id.uuid()), false),
            Edit::RemovePermission(_, id) => of(self.permission(*id).map(|there| there.id.uuid()), false),
        }
    }
}

/// What is there of a record that an edit is about, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// As the edit wants it.
    Same,
    /// In another form.
    Other,
    /// Not.
    Absent,
}

/// What is there, seen from an edit of the catalogue as it was before. The first edit stands for all.
/// It goes by the id: a record of the same name that was made anew is another.
fn edited(there: &Catalogue, before: &Catalogue, edits: &[Edit]) -> Verdict {
    let Some(first) = edits.first() else { return Verdict::Done };
    if there.revision == before.revision {
        return Verdict::Before;
    }
    let removes = matches!(first, Edit::RemoveRole(..) | Edit::RemovePermission(..));
    let creates = !removes && before.stored(first) == Stored::Absent;
    let next = before.revision.unwrap_or(0).saturating_add(1);
    match (there.stored(first), removes, creates) {
        (Stored::Same, ..) => Verdict::Done,
        // Removed; or changed, and removed by another since.
        (Stored::Absent, true, _) | (Stored::Absent, false, false) => Verdict::Done,
        // Created, and changed by another since.
        (Stored::Other, _, true) => Verdict::Done,
        (Stored::Other, ..) => Verdict::Otherwise,
        // The one change since then was another's.
        (Stored::Absent, false, true) if there.revision == Some(next) => Verdict::Otherwise,
        // Perhaps created, and removed by another since: it must not come back.
        (Stored::Absent, false, true) => Verdict::Unsure,
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
            Self::RemoveRole(name, _) => (Cql::CatalogueRemove, vec![text(ROLE), text(name.as_str())]),
            Self::RemovePermission(name, _) => {
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

    /// Roles and permissions without an id.
    pub(crate) async fn unreadable_in_catalogue(&self) -> Result<Vec<Finding>> {
        let rows = self.read_pages::<Row>(At::Quorum, Cql::CatalogueAll, ()).await?;
        let nameless =
            rows.into_iter().filter(|row| row.id.is_none()).filter_map(|row| row.kind.zip(row.name));
        Ok(nameless
            .map(|(kind, name)| Finding::stays(&format!("{kind}s"), format!("{name:?}"), "id", "is missing"))
            .collect())
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
            let judge = |there: &Arc<Catalogue>| edited(there, &catalogue, &edits);
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

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Before, Done, Otherwise, Unsure};

    fn role(id: u8, description: &str) -> Role {
        Role {
            id: RoleId::from_bytes([id; 16]),
            name: "editor".parse().unwrap(),
            description: Some(description.to_owned()),
            permissions: [].into(),
        }
    }

    fn permission(id: u8, description: &str) -> Permission {
        Permission {
            id: PermissionId::from_bytes([id; 16]),
            name: "edit".parse().unwrap(),
            description: Some(description.to_owned()),
        }
    }

    fn at(revision: i64, edits: &[Edit]) -> Catalogue {
        Catalogue::default().after(revision, edits)
    }

    /// An edit, the catalogue before, and what is there with the verdict.
    type Case = (Edit, Vec<Edit>, Vec<(i64, Vec<Edit>, Verdict)>);

    /// The same for a role and for a permission.
    fn cases(put: impl Fn(u8, &str) -> Edit, remove: impl Fn(u8) -> Edit) -> [Case; 3] {
        let here = |id, text| vec![put(id, text)];
        [
            (
                put(1, "a"),
                vec![],
                vec![
                    (4, vec![], Before),
                    (5, here(1, "a"), Done),
                    (9, here(1, "changed since"), Done),
                    (5, vec![], Otherwise),
                    (5, here(2, "another of this name"), Otherwise),
                    (6, vec![], Unsure),
                    (6, here(2, "a"), Unsure),
                ],
            ),
            (
                put(1, "b"),
                here(1, "a"),
                vec![
                    (4, here(1, "a"), Before),
                    (5, here(1, "b"), Done),
                    (5, here(1, "c"), Otherwise),
                    (9, vec![], Done),
                    (9, here(2, "made anew"), Done),
                ],
            ),
            (
                remove(1),
                here(1, "a"),
                vec![
                    (4, here(1, "a"), Before),
                    (5, vec![], Done),
                    (5, here(1, "changed"), Otherwise),
                    (9, here(2, "made anew"), Done),
                ],
            ),
        ]
    }

    #[test]
    fn of_edits_that_were_not_answered() {
        let name = |name: &str| name.parse::<Name>().unwrap();
        let roles = cases(
            |id, text| Edit::PutRole(role(id, text)),
            |id| Edit::RemoveRole(name("editor"), RoleId::from_bytes([id; 16])),
        );
        let permissions = cases(
            |id, text| Edit::PutPermission(permission(id, text)),
            |id| Edit::RemovePermission(name("edit"), PermissionId::from_bytes([id; 16])),
        );
        for (edit, before, cases) in roles.into_iter().chain(permissions) {
            let before = at(4, &before);
            for (revision, there, verdict) in cases {
                let there = at(revision, &there);
                assert_eq!(
                    edited(&there, &before, std::slice::from_ref(&edit)),
                    verdict,
                    "{edit:?}: {there:?}"
                );
            }
        }
        let (none, first) = (Catalogue::default(), Edit::PutRole(role(1, "a")));
        assert_eq!(edited(&none, &none, std::slice::from_ref(&first)), Before);
        assert_eq!(edited(&at(1, std::slice::from_ref(&first)), &none, &[first]), Done);
    }
}
