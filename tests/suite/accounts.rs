//! Accounts: how they begin, what they hold, who may change them, and what limits guessing.

mod admin;
mod history;
mod limits;
mod login;
mod password;
mod profile;
mod registration;
