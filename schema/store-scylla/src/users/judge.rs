//! What is there, seen from a change of a user or of a claim that was not answered.

use schema::user::User;

use super::{claim::Claim, row::UserRow};
use crate::cas::Verdict;

/// A user that was to be added. It is never tried again: should both copies of the write happen, the
/// later may come after the user was deleted.
pub(super) fn added(there: Option<&UserRow>, user: &User) -> Verdict {
    match there {
        None => Verdict::Unsure,
        Some(row) if row.is(user) => Verdict::Done,
        Some(_) => Verdict::Otherwise,
    }
}

/// A user that was to be put in place of its revision before.
pub(super) fn replaced(there: Option<&UserRow>, before: i64, next: &User) -> Verdict {
    match there {
        Some(row) if row.is(next) => Verdict::Done,
        Some(row) if row.revision == Some(before) => Verdict::Before,
        _ => Verdict::Otherwise,
    }
}

/// A user that was to be removed at this revision.
pub(super) fn removed(there: Option<&UserRow>, before: Option<i64>) -> Verdict {
    match there {
        None => Verdict::Done,
        Some(row) if row.revision == before => Verdict::Before,
        Some(_) => Verdict::Otherwise,
    }
}

/// A row without email that was to be put where nobody is.
pub(super) const fn voided(there: Option<&UserRow>) -> Verdict {
    match there {
        None => Verdict::Before,
        Some(row) if row.is_void() => Verdict::Done,
        Some(_) => Verdict::Otherwise,
    }
}

/// The revision of a user with another email that was to be raised, so that a change to the wanted
/// email is refused. Raised by whomever, it is; but not when that change itself came first.
pub(super) fn raised(there: Option<&UserRow>, before: i64, wanted: &str) -> Verdict {
    let Some(row) = there else { return Verdict::Done };
    match row.email() {
        None => Verdict::Done,
        Some(_) if row.revision == Some(before) => Verdict::Before,
        Some(email) if email.claims(wanted) => Verdict::Otherwise,
        Some(_) => Verdict::Done,
    }
}

/// A claim of an email that nobody claimed.
pub(super) fn claimed(there: Option<Claim>, mine: Claim) -> Verdict {
    match there {
        None => Verdict::Before,
        Some(there) if there == mine => Verdict::Done,
        Some(_) => Verdict::Otherwise,
    }
}

/// A claim that was to take the place of another.
pub(super) fn taken(there: Option<Claim>, held: Claim, mine: Claim) -> Verdict {
    match there {
        Some(there) if there == mine => Verdict::Done,
        Some(there) if there == held => Verdict::Before,
        _ => Verdict::Otherwise,
    }
}

/// A claim that was to be given up.
pub(super) fn released(there: Option<Claim>, held: Claim) -> Verdict {
    match there {
        Some(there) if there == held => Verdict::Before,
        _ => Verdict::Done,
    }
}

#[cfg(test)]
mod tests {
    use schema::{Timestamp, UserId};
    use uuid::Uuid;

    use super::*;
    use Verdict::{Before, Done, Otherwise, Unsure};

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
    fn of_a_user_that_was_to_be_added() {
        let ann = user("ann@example.org", 0);
        for (there, verdict) in [
            (None, Unsure),
            (Some(row("ann@example.org", 0)), Done),
            (Some(row("ann@example.org", 1)), Otherwise),
            (Some(UserRow::void()), Otherwise),
        ] {
            assert_eq!(added(there.as_ref(), &ann), verdict);
        }
    }

    #[test]
    fn of_a_user_that_was_to_be_replaced_or_removed() {
        let next = user("new@example.org", 4);
        for (there, put, gone) in [
            (None, Otherwise, Done),
            (Some(row("ann@example.org", 3)), Before, Before),
            (Some(row("new@example.org", 4)), Done, Otherwise),
            (Some(row("ann@example.org", 4)), Otherwise, Otherwise),
            (Some(row("new@example.org", 5)), Otherwise, Otherwise),
            (Some(UserRow::void()), Otherwise, Otherwise),
        ] {
            assert_eq!(replaced(there.as_ref(), 3, &next), put);
            assert_eq!(removed(there.as_ref(), Some(3)), gone);
        }
    }

    #[test]
    fn of_who_was_to_be_stopped() {
        let wanted = "new@example.org";
        for (there, void, raise) in [
            (None, Before, Done),
            (Some(UserRow::void()), Done, Done),
            (Some(row("ann@example.org", 3)), Otherwise, Before),
            (Some(row("ann@example.org", 4)), Otherwise, Done),
            (Some(row("other@example.org", 7)), Otherwise, Done),
            // The change of the holder won: it has the email, in whatever letters.
            (Some(row("new@example.org", 4)), Otherwise, Otherwise),
            (Some(row("NEW@Example.ORG", 9)), Otherwise, Otherwise),
        ] {
            assert_eq!(voided(there.as_ref()), void);
            assert_eq!(raised(there.as_ref(), 3, wanted), raise);
        }
    }

    #[test]
    fn of_a_claim() {
        let (held, mine) = (claim(1, 1), claim(2, 2));
        for (there, free, from, gone) in [
            (None, Before, Otherwise, Done),
            (Some(mine), Done, Done, Done),
            (Some(held), Otherwise, Before, Before),
            // Of the same users, but another attempt.
            (Some(claim(2, 3)), Otherwise, Otherwise, Done),
            (Some(claim(1, 3)), Otherwise, Otherwise, Done),
        ] {
            assert_eq!(claimed(there, mine), free);
            assert_eq!(taken(there, held, mine), from);
            assert_eq!(released(there, held), gone);
        }
    }
}
