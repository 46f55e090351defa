//! redb's errors in the store's two words.

use schema::StoreError;

/// `Inconsistent` when the file contradicts itself, else `Unavailable`.
pub(crate) fn storage(error: impl Into<redb::Error>) -> StoreError {
    use redb::Error::{
        Corrupted, TableDoesNotExist, TableIsMultimap, TableIsNotMultimap, TableTypeMismatch,
        TypeDefinitionChanged,
    };
    let error = error.into();
    match error {
        Corrupted(_)
        | TableDoesNotExist(_)
        | TableIsMultimap(_)
        | TableIsNotMultimap(_)
        | TableTypeMismatch { .. }
        | TypeDefinitionChanged { .. } => StoreError::Inconsistent(error.to_string()),
        other => StoreError::unavailable(other),
    }
}

/// What a panic said, for the log.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
