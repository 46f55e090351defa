//! Secrets that a node accepts beside its own while they are replaced.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{
    SettingsError,
    value::{HIDDEN, wrong},
};

/// Checks the secret that is accepted beside the secret of this name, and warns if they are equal.
///
/// # Errors
/// If the node has no such secret of its own.
pub(super) fn check<S: AsRef<[u8]>>(
    name: &str,
    own: Option<&S>,
    accepted: Option<&S>,
    warnings: &mut Vec<String>,
) -> Result<(), SettingsError> {
    let Some(accepted) = accepted else { return Ok(()) };
    let Some(own) = own else {
        return Err(wrong(&format!("{name}_ACCEPTED"), HIDDEN, &format!("only beside PALISADE_{name}")));
    };
    if verify_slices_are_equal(own.as_ref(), accepted.as_ref()).is_ok() {
        warnings
            .push(format!("PALISADE_{name}_ACCEPTED equals PALISADE_{name}, so no other one is accepted"));
    }
    Ok(())
}
