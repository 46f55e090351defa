//! The version of a user: every token carries it, and a revocation of all of a user's tokens raises it.

use serde::{Deserialize, Deserializer};

/// Limit of the version of a user. Each step is a call of a user or an admin, so no user reaches it by honest
/// use. A higher number is damaged data, or a lie of a peer.
///
/// A fact with this version refuses every token of the user, also those with this version
/// ([`Denials::refuses_version`](crate::Denials::refuses_version)), so that a user whose stored version is
/// the highest can still log out everywhere.
pub const MAX_VERSION: u64 = 1 << 48;

/// The version after this one, at most [`MAX_VERSION`].
#[must_use]
pub const fn next_version(version: u64) -> u64 {
    if version < MAX_VERSION { version + 1 } else { MAX_VERSION }
}

/// The version below which the fact `UserVersion` with `at_least` ends sessions (`Sessions::end_older`).
#[must_use]
pub const fn ended_below(at_least: u64) -> u64 {
    if at_least < MAX_VERSION { at_least } else { u64::MAX }
}

/// Reads a stored version, saturated at [`MAX_VERSION`], so that a damaged row breaks nothing.
pub(crate) fn stored_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    u64::deserialize(deserializer).map(|version| version.min(MAX_VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_rises_up_to_the_highest() {
        assert_eq!([0, 6].map(next_version), [1, 7]);
        for version in [MAX_VERSION - 1, MAX_VERSION, MAX_VERSION + 1, u64::MAX] {
            assert_eq!(next_version(version), MAX_VERSION);
        }
        assert_eq!([0, 6, MAX_VERSION - 1].map(ended_below), [0, 6, MAX_VERSION - 1]);
        assert_eq!([MAX_VERSION, u64::MAX].map(ended_below), [u64::MAX; 2]);
    }
}
