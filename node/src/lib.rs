//! The node: the binary `palisade`.
//!
//! This is the only crate that knows all others; `main.rs` is three lines. Its modules are floors, and imports go
//! downward only (a test reads them):
//!
//! | floor | what it does |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`boot`] | starts, serves and stops a node |
//! | [`http`] | endpoints (`http/v1/<noun>/<verb>.rs`), and the fast path for what services ask on every request |
//! | [`operator`] | commands, the control socket, status and metrics for operators |
//! | [`app`] | the parts of a running node |
//! | [`accounts`] | registration, limits, permission queries |
//! | [`credentials`] | keys, tokens, passwords |
//! | [`revocation`] and [`storage`] | facts on their way, freshness, peers; which store a node has, its data directory |
//! | [`settings`], [`metrics`], [`logging`], [`traces`], [`clock`], [`scheduling`] | what all others use |
//!
//! Invariants: nothing between a validation request and its answer awaits a store, a mailbox or a lock when the
//! token was seen before; no secret is ever given to `tracing`; every queue, cache and body has a bound.

pub mod accounts;
pub mod app;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod credentials;
#[cfg(test)]
mod floors;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod operator;
pub mod revocation;
pub mod scheduling;
pub mod settings;
pub mod storage;
pub mod traces;
