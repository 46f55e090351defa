//! Sessions: how they go on by refreshing, and every way in which they end.

mod ends;
mod list;
mod refresh;
