//! Whether an unanswered edit of the catalogue was applied, told from the current catalogue.

use super::{Catalogue, edit::Edit};
use crate::cas::Reconciled;

impl Catalogue {
    /// How the record that `edit` is about is stored, by its id.
    fn stored(&self, edit: &Edit) -> Stored {
        let compared = |exists: bool, same: bool| match (exists, same) {
            (true, true) => Stored::Same,
            (true, false) => Stored::Different,
            (false, _) => Stored::Absent,
        };
        match edit {
            Edit::PutRole(role) => {
                let stored = self.role(role.id);
                compared(stored.is_some(), stored == Some(role))
            }
            Edit::PutPermission(permission) => {
                let stored = self.permission(permission.id);
                compared(stored.is_some(), stored == Some(permission))
            }
            Edit::RemoveRole(_, id) => compared(self.role(*id).is_some(), false),
            Edit::RemovePermission(_, id) => compared(self.permission(*id).is_some(), false),
        }
    }
}

/// How the record that an edit is about is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// As the edit wants it.
    Same,
    /// It exists, but differs.
    Different,
    /// It does not exist.
    Absent,
}

/// Reconciles edits of the catalogue `before`. The first edit stands for all. Records are compared by
/// id: a record that was deleted and created again under the same name is another one.
pub(super) fn edited(current: &Catalogue, before: &Catalogue, edits: &[Edit]) -> Reconciled {
    let Some(first) = edits.first() else { return Reconciled::Applied };
    if current.revision == before.revision {
        return Reconciled::NotApplied;
    }
    let removes = matches!(first, Edit::RemoveRole(..) | Edit::RemovePermission(..));
    let creates = !removes && before.stored(first) == Stored::Absent;
    let next = before.revision.unwrap_or(0).saturating_add(1);
    match (current.stored(first), removes, creates) {
        (Stored::Same, ..) => Reconciled::Applied,
        // Removed; or changed, and removed by another change since.
        (Stored::Absent, true, _) | (Stored::Absent, false, false) => Reconciled::Applied,
        // Created, and changed by another change since.
        (Stored::Different, _, true) => Reconciled::Applied,
        (Stored::Different, ..) => Reconciled::Superseded,
        // The only change since then was another's.
        (Stored::Absent, false, true) if current.revision == Some(next) => Reconciled::Superseded,
        // It may have been created, and removed by another change since: it must not come back.
        (Stored::Absent, false, true) => Reconciled::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        Name, PermissionId, RoleId,
        permission::{Permission, Role},
    };

    use super::*;
    use Reconciled::{Applied, NotApplied, Superseded, Unknown};

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

    /// An edit of a catalogue, and what current catalogues tell about it.
    struct Case {
        edit: Edit,
        before: Vec<Edit>,
        /// Revision and content of the current catalogue.
        current: Vec<(i64, Vec<Edit>, Reconciled)>,
    }

    /// The same cases for a role and for a permission.
    fn cases(put: impl Fn(u8, &str) -> Edit, remove: impl Fn(u8) -> Edit) -> [Case; 3] {
        let here = |id, text| vec![put(id, text)];
        [
            Case {
                edit: put(1, "a"),
                before: vec![],
                current: vec![
                    (4, vec![], NotApplied),
                    (5, here(1, "a"), Applied),
                    (9, here(1, "changed since"), Applied),
                    (5, vec![], Superseded),
                    (5, here(2, "another role of this name"), Superseded),
                    (6, vec![], Unknown),
                    (6, here(2, "a"), Unknown),
                ],
            },
            Case {
                edit: put(1, "b"),
                before: here(1, "a"),
                current: vec![
                    (4, here(1, "a"), NotApplied),
                    (5, here(1, "b"), Applied),
                    (5, here(1, "c"), Superseded),
                    (9, vec![], Applied),
                    (9, here(2, "created again"), Applied),
                ],
            },
            Case {
                edit: remove(1),
                before: here(1, "a"),
                current: vec![
                    (4, here(1, "a"), NotApplied),
                    (5, vec![], Applied),
                    (5, here(1, "changed"), Superseded),
                    (9, here(2, "created again"), Applied),
                ],
            },
        ]
    }

    #[test]
    fn unanswered_edits_are_reconciled() {
        let name = |name: &str| name.parse::<Name>().unwrap();
        let roles = cases(
            |id, text| Edit::PutRole(role(id, text)),
            |id| Edit::RemoveRole(name("editor"), RoleId::from_bytes([id; 16])),
        );
        let permissions = cases(
            |id, text| Edit::PutPermission(permission(id, text)),
            |id| Edit::RemovePermission(name("edit"), PermissionId::from_bytes([id; 16])),
        );
        for Case { edit, before, current } in roles.into_iter().chain(permissions) {
            let before = at(4, &before);
            for (revision, current, reconciled) in current {
                let current = at(revision, &current);
                assert_eq!(
                    edited(&current, &before, std::slice::from_ref(&edit)),
                    reconciled,
                    "{edit:?}: {current:?}"
                );
            }
        }
        let none = Catalogue::default();
        let first = Edit::PutRole(role(1, "a"));
        assert_eq!(edited(&none, &none, std::slice::from_ref(&first)), NotApplied);
        assert_eq!(edited(&at(1, std::slice::from_ref(&first)), &none, &[first]), Applied);
    }
}
