//! HTTP itself: the form of answers, hostile bytes, every route's credentials, what operators and
//! browsers see, and that no secret is told.

mod browsers;
mod connections;
mod early;
mod form;
mod headers;
mod hostile;
mod injection;
mod operators;
mod routes;
mod secrets;
mod unreadable;
