//! The files of `compose/`, without containers. `tests/compose/run` starts them.

mod files;
mod image;
mod scripts;
mod services;
