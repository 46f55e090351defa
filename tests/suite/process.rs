//! One process and its data directory: settings, the command line, crashes, the end, and floods.
//! These tests know that the store is the embedded one.

mod cli;
mod crash;
mod directory;
mod drain;
mod flood;
mod full;
mod settings;
mod stored;
