//! Permissions and roles: what there is, who has what, who may hand it out, and the question that
//! services ask.

mod catalogue;
mod gateway;
mod grants;
mod held;
mod power;
mod protected;
mod query;
mod superuser;
