//! Whether an unanswered change of a user or of an email claim was applied, told from the current row.

use schema::user::User;

use super::{claim::Claim, row::UserRow};
use crate::cas::Reconciled;

/// Reconciles the insertion of a user. It is never repeated: if both copies of the write were applied,
/// the later one might come after the user was deleted.
pub(super) fn added(current: Option<&UserRow>, user: &User) -> Reconciled {
    match current {
        None => Reconciled::Unknown,
        Some(row) if row.is(user) => Reconciled::Applied,
        Some(_) => Reconciled::Superseded,
    }
}

/// Reconciles the replacement of a user at revision `before` by `next`.
pub(super) fn replaced(current: Option<&UserRow>, before: i64, next: &User) -> Reconciled {
    match current {
        Some(row) if row.is(next) => Reconciled::Applied,
        Some(row) if row.revision == Some(before) => Reconciled::NotApplied,
        _ => Reconciled::Superseded,
    }
}

/// Reconciles the removal of a user at revision `before`.
pub(super) fn removed(current: Option<&UserRow>, before: Option<i64>) -> Reconciled {
    match current {
        None => Reconciled::Applied,
        Some(row) if row.revision == before => Reconciled::NotApplied,
        Some(_) => Reconciled::Superseded,
    }
}

/// Reconciles the insertion of a void row (one without email) where no user exists.
pub(super) const fn voided(current: Option<&UserRow>) -> Reconciled {
    match current {
        None => Reconciled::NotApplied,
        Some(row) if row.is_void() => Reconciled::Applied,
        Some(_) => Reconciled::Superseded,
    }
}

/// Reconciles the raise of the revision of a user with another email, which makes that user's change
/// to the email `wanted` fail. It does not matter which node raised it; but the raise is superseded if
/// that change came first.
pub(super) fn raised(current: Option<&UserRow>, before: i64, wanted: &str) -> Reconciled {
    let Some(row) = current else { return Reconciled::Applied };
    match row.email() {
        None => Reconciled::Applied,
        Some(_) if row.revision == Some(before) => Reconciled::NotApplied,
        Some(email) if email.claims(wanted) => Reconciled::Superseded,
        Some(_) => Reconciled::Applied,
    }
}

/// Reconciles a claim of an unclaimed email.
pub(super) fn claimed(current: Option<Claim>, mine: Claim) -> Reconciled {
    match current {
        None => Reconciled::NotApplied,
        Some(current) if current == mine => Reconciled::Applied,
        Some(_) => Reconciled::Superseded,
    }
}

/// Reconciles the take-over of the claim `held` by the claim `mine`.
pub(super) fn taken(current: Option<Claim>, held: Claim, mine: Claim) -> Reconciled {
    match current {
        Some(current) if current == mine => Reconciled::Applied,
        Some(current) if current == held => Reconciled::NotApplied,
        _ => Reconciled::Superseded,
    }
}

/// Reconciles the release of the claim `held`.
pub(super) fn released(current: Option<Claim>, held: Claim) -> Reconciled {
    match current {
        Some(current) if current == held => Reconciled::NotApplied,
        _ => Reconciled::Applied,
    }
}

#[cfg(test)]
mod tests {
    use schema::{Timestamp, UserId};
    use uuid::Uuid;

    use super::*;
    use Reconciled::{Applied, NotApplied, Superseded, Unknown};

    fn user(email: &str, revision: u64) -> User {
        User {
            id: UserId::from_bytes([1; 16]),
            email: email.parse().unwrap(),
            email_confirmed: false,
            password: None,
            first_name: None,
            last_name: None,
            active: true,
            version: 0,
            revision,
            created_at: Timestamp::from_secs(1),
        }
    }

    fn row(email: &str, revision: u64) -> UserRow {
        UserRow::of(&user(email, revision))
    }

    fn claim(user: u128, claim: u128) -> Claim {
        Claim { user: Uuid::from_u128(user), claim: Uuid::from_u128(claim) }
    }

    #[test]
    fn added_user_is_reconciled() {
        let ann = user("ann@example.org", 0);
        for (current, reconciled) in [
            (None, Unknown),
            (Some(row("ann@example.org", 0)), Applied),
            (Some(row("ann@example.org", 1)), Superseded),
            (Some(UserRow::void()), Superseded),
        ] {
            assert_eq!(added(current.as_ref(), &ann), reconciled);
        }
    }

    #[test]
    fn replaced_or_removed_user_is_reconciled() {
        let next = user("new@example.org", 4);
        for (current, replace, remove) in [
            (None, Superseded, Applied),
            (Some(row("ann@example.org", 3)), NotApplied, NotApplied),
            (Some(row("new@example.org", 4)), Applied, Superseded),
            (Some(row("ann@example.org", 4)), Superseded, Superseded),
            (Some(row("new@example.org", 5)), Superseded, Superseded),
            (Some(UserRow::void()), Superseded, Superseded),
        ] {
            assert_eq!(replaced(current.as_ref(), 3, &next), replace);
            assert_eq!(removed(current.as_ref(), Some(3)), remove);
        }
    }

    #[test]
    fn stopped_claim_holder_is_reconciled() {
        let wanted = "new@example.org";
        for (current, void, raise) in [
            (None, NotApplied, Applied),
            (Some(UserRow::void()), Applied, Applied),
            (Some(row("ann@example.org", 3)), Superseded, NotApplied),
            (Some(row("ann@example.org", 4)), Superseded, Applied),
            (Some(row("other@example.org", 7)), Superseded, Applied),
            // The holder's change won: the user has the email, in any letter case.
            (Some(row("new@example.org", 4)), Superseded, Superseded),
            (Some(row("NEW@Example.ORG", 9)), Superseded, Superseded),
        ] {
            assert_eq!(voided(current.as_ref()), void);
            assert_eq!(raised(current.as_ref(), 3, wanted), raise);
        }
    }

    #[test]
    fn email_claim_is_reconciled() {
        let held = claim(1, 1);
        let mine = claim(2, 2);
        for (current, claim, take, release) in [
            (None, NotApplied, Superseded, Applied),
            (Some(mine), Applied, Applied, Applied),
            (Some(held), Superseded, NotApplied, NotApplied),
            // The same users, but other attempts.
            (Some(claim(2, 3)), Superseded, Superseded, Applied),
            (Some(claim(1, 3)), Superseded, Superseded, Applied),
        ] {
            assert_eq!(claimed(current, mine), claim);
            assert_eq!(taken(current, held, mine), take);
            assert_eq!(released(current, held), release);
        }
    }
}
