//! Access tokens: what they say, and each way in which one is not taken.

mod batch;
mod cached;
mod forged;
mod header;
mod issued;
mod keys;
mod order;
