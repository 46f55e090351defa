//! What a node promises on any store. Two test binaries compile this: `suite`, with the embedded store,
//! and `cql`, with a shared one.

mod accounts;
mod http;
mod permissions;
mod sessions;
mod tokens;

/// Of those about one process, the ones that do not know its store.
mod process {
    mod clocks;
    mod crash;
    mod drain;
}
