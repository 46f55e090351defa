//! The common parts of answers: errors in their one form, and receipts of revocations.

pub mod problem;
pub mod receipt;
