//! Permissions and roles: the catalogue, the grants, the right to grant, and the query that services
//! make.

mod catalogue;
mod gateway;
mod grants;
mod held;
mod privileges;
mod protected;
mod query;
mod superuser;
