//! Accounts: registration, profile, the right to change them, and the limits on guessing.

mod admin;
mod history;
mod limits;
mod login;
mod password;
mod profile;
mod registration;
