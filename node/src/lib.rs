//! The node: settings, keys, passwords, HTTP, command line, and the wiring of all of it.
//!
//! This is the only crate that knows everything; `main.rs` is three lines. To find your way:
//!
//! | to find | look in |
//! |---|---|
//! | what is started, in which order | [`app`] |
//! | an endpoint | `http/<noun>/<verb>.rs` |
//! | what an extractor guarantees to a handler | `http/authority.rs` |
//! | the answers that are asked for all the time | [`http::hot`] |
//! | how tokens are made and checked | [`tokens`], [`keys`] |
//! | how passwords are hashed without slowing anything else | [`passwords`] |
//! | who gets what when something is scarce | [`fair`], [`budget`], [`source`] |
//! | which store a node has, and what it does while that is down | [`store`], [`ledger`], [`upkeep`] |
//! | what operators can do from the command line | [`operator`], `cli/` |
//!
//! Invariants: nothing between a validation request and its answer awaits a store, a mailbox or a
//! lock when the token was seen before; no secret is ever given to `tracing`; every queue, cache
//! and body has a bound.

pub mod app;
pub mod budget;
pub mod byte_cache;
pub mod cli;
pub mod clock;
pub mod control;
pub mod data_dir;
pub mod fair;
pub mod freshness;
pub mod http;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod occasional;
pub mod operator;
pub mod passwords;
pub mod peers;
pub mod serve;
pub mod settings;
pub mod source;
pub mod store;
pub mod tokens;
pub mod upkeep;
pub mod workers;
