//! The most common passwords; `data/README.md` names the source of the list.

use std::{collections::HashSet, sync::LazyLock};

use super::policy::MIN_CHARS;

static COMMON: LazyLock<HashSet<&'static str, foldhash::fast::RandomState>> = LazyLock::new(|| {
    let list = include_str!("../../../data/common-passwords.txt");
    list.lines().filter(|line| line.chars().count() >= MIN_CHARS).collect()
});

/// Whether this is one of the most common passwords, in any letter case.
pub(super) fn is_common(password: &str) -> bool {
    COMMON.contains(password) || COMMON.contains(password.to_lowercase().as_str())
}
