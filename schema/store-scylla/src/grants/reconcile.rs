//! Whether an unanswered change of grants was applied, told from the grants as they are stored now.

use schema::permission::Grant;

use super::held::HeldGrants;
use crate::cas::Reconciled;

/// Reconciles a grant that the user did not have at the revision of `before`.
pub(super) fn given(current: &HeldGrants, before: &HeldGrants, grant: Grant) -> Reconciled {
    if current.revision == before.revision {
        return Reconciled::NotApplied;
    }
    if current.has(grant) {
        // Given by this write or, at the same time, by another: the user did not have it, and has it now.
        return Reconciled::Applied;
    }
    if current.revision == Some(before.next_revision()) {
        // The only change since then was another's.
        return Reconciled::Superseded;
    }
    // It may have been given by this write and removed by another: it must not be given again.
    Reconciled::Unknown
}

/// Reconciles the removal of a grant.
pub(super) fn taken(current: &HeldGrants, before: &HeldGrants, grant: Grant) -> Reconciled {
    if current.revision == before.revision {
        Reconciled::NotApplied
    } else if current.has(grant) {
        Reconciled::Superseded
    } else {
        // The user does not have it, whichever write removed it, and writes under way will fail.
        Reconciled::Applied
    }
}

/// Reconciles the removal of several grants of a user that is deleted.
pub(super) fn removed(current: &HeldGrants, before: &HeldGrants) -> Reconciled {
    if current.revision == before.revision { Reconciled::NotApplied } else { Reconciled::Superseded }
}

#[cfg(test)]
mod tests {
    use super::{
        super::held::tests::{held, role},
        *,
    };
    use Reconciled::{Applied, NotApplied, Superseded, Unknown};

    #[test]
    fn unanswered_grant_is_reconciled() {
        let one = role(1);
        let two = role(2);
        let before = held(4, &[two]);
        for (current, reconciled) in [
            (held(4, &[two]), NotApplied),
            (held(5, &[one, two]), Applied),
            (held(9, &[one]), Applied),
            (held(5, &[]), Superseded),
            (held(6, &[two]), Unknown),
        ] {
            assert_eq!(given(&current, &before, one), reconciled, "{current:?}");
        }
        let none = HeldGrants::default();
        assert_eq!(given(&none, &none, one), NotApplied);
        assert_eq!(given(&held(1, &[one]), &none, one), Applied);
    }

    #[test]
    fn unanswered_removal_is_reconciled() {
        let one = role(1);
        let two = role(2);
        let before = held(4, &[one, two]);
        for (current, reconciled) in [
            (held(4, &[one, two]), NotApplied),
            (held(5, &[two]), Applied),
            (held(9, &[]), Applied),
            (held(5, &[one]), Superseded),
            (held(9, &[one, two]), Superseded),
        ] {
            assert_eq!(taken(&current, &before, one), reconciled, "{current:?}");
        }
        let before = held(4, &[]);
        for (current, reconciled) in
            [(held(4, &[]), NotApplied), (held(5, &[]), Applied), (held(5, &[one]), Superseded)]
        {
            assert_eq!(taken(&current, &before, one), reconciled, "of a grant not held: {current:?}");
            let all = if reconciled == NotApplied { NotApplied } else { Superseded };
            assert_eq!(removed(&current, &before), all);
        }
    }
}
