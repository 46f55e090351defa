//! One process and its data directory: settings, the command line, floods.
//! These tests know that the store is the embedded one.

mod checked;
mod cli;
mod directory;
mod flood;
mod full;
mod logs;
mod settings;
mod shares;
mod stored;
mod traces;
