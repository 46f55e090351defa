//! Extractors: the caller and its authority, the client's address, a body, a page.

pub mod authority;
pub mod body;
pub mod client;
pub mod credential;
pub mod page;
pub mod source;
