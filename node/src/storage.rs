//! Durable state of a node: the store and the data directory.
//!
//! | to find | look in |
//! |---|---|
//! | which store a node uses, and whether it answers | [`backend`] |
//! | the files of a node, its identity and its keys | [`data_dir`] |
//! | what a restart knows about the clocks | [`clock_file`] |

pub mod backend;
pub mod clock_file;
pub mod data_dir;
