//! The versioned API, `/api/v1`: one endpoint, one file, named `<noun>/<verb>.rs`.

pub mod auth_token;
pub mod cluster;
mod named;
pub mod permissions;
mod privileges;
pub mod roles;
pub mod users;
