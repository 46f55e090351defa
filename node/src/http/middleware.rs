//! The middleware of every request: id, metrics and logs, memory, CORS, security headers.

pub mod cors;
pub mod held;
pub mod request;
pub mod security;
