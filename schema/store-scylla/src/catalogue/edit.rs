//! An edit of the catalogue, as the statement that makes it.

use schema::{
    Name, PermissionId, RoleId,
    permission::{Permission, Role},
};
use scylla::value::CqlValue;

use super::{PERMISSION, ROLE};
use crate::{cas::Values, statement::Cql};

/// The insertion, replacement or removal of a row of the catalogue.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    PutRole(Role),
    PutPermission(Permission),
    RemoveRole(Name, RoleId),
    RemovePermission(Name, PermissionId),
}

impl Edit {
    /// The statement, and its values, that makes this edit.
    pub(super) fn statement(&self) -> (Cql, Values) {
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
