//! What is there, seen from a change of a session that was not answered.

use schema::session::Session;

use crate::cas::Verdict;

/// A session that was to be added. It is never tried again: should both copies of the write happen,
/// the later may come after the session has ended.
pub(super) fn added(there: Option<&Session>, new: &Session) -> Verdict {
    match there {
        None => Verdict::Unsure,
        Some(there) if there == new => Verdict::Done,
        Some(_) => Verdict::Otherwise,
    }
}

/// A rotation. Rows are compared whole: two rotations may want the same live token.
pub(super) fn rotated(there: Option<&Session>, previous: &Session, next: &Session) -> Verdict {
    match there {
        Some(there) if there == next => Verdict::Done,
        // With another live token it is enough that the one before is there: that is the condition.
        Some(there) if there.live == previous.live && previous.live != next.live => Verdict::Before,
        Some(there) if there == previous => Verdict::Before,
        _ => Verdict::Otherwise,
    }
}

/// A session that was to be ended.
pub(super) const fn ended(there: Option<&Session>) -> Verdict {
    match there {
        // By us or, in the same moment, by another: it was there, and is not.
        None => Verdict::Done,
        Some(_) => Verdict::Before,
    }
}

/// A session that was to be ended if it is of a version below this.
pub(super) const fn ended_if_older(there: Option<&Session>, version: u64) -> Verdict {
    match there {
        None => Verdict::Done,
        Some(there) if there.user_version < version => Verdict::Before,
        Some(_) => Verdict::Otherwise,
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        SessionId, Timestamp, UserId,
        session::{SecretHash, Spent},
    };

    use super::*;
    use Verdict::{Before, Done, Otherwise, Unsure};

    fn session(live: u8) -> Session {
        let at = Timestamp::from_millis(1_795_258_320_123);
        Session {
            id: SessionId::from_bytes([1; 16]),
            user: UserId::from_bytes([2; 16]),
            user_version: 3,
            device: None,
            ip_address: [192, 0, 2, 1].into(),
            user_agent: None,
            created_at: at,
            last_used_at: at,
            expires_at: at,
            live: SecretHash::new([live; 32]),
            spent: Vec::new(),
        }
    }

    fn with_spent(session: &Session) -> Session {
        let spent = Spent {
            hash: SecretHash::new([9; 32]),
            at: session.created_at,
            successor_expires_at: session.expires_at,
        };
        Session { spent: vec![spent], ..session.clone() }
    }

    #[test]
    fn of_one_that_was_to_be_added() {
        let new = session(1);
        for (there, verdict) in [
            (None, Unsure),
            (Some(session(1)), Done),
            (Some(session(2)), Otherwise),
            (Some(with_spent(&new)), Otherwise),
        ] {
            assert_eq!(added(there.as_ref(), &new), verdict, "{there:?}");
        }
    }

    #[test]
    fn of_a_rotation() {
        let (previous, next) = (session(1), session(2));
        for (there, verdict) in [
            (None, Otherwise),
            (Some(next.clone()), Done),
            (Some(previous.clone()), Before),
            (Some(with_spent(&previous)), Before),
            // The same live token, by another's hand.
            (Some(with_spent(&next)), Otherwise),
            (Some(session(3)), Otherwise),
        ] {
            assert_eq!(rotated(there.as_ref(), &previous, &next), verdict, "{there:?}");
        }
    }

    #[test]
    fn of_a_rotation_that_keeps_the_live_token() {
        let previous = session(1);
        let next = Session { user_version: 4, ..session(1) };
        for (there, verdict) in [
            (None, Otherwise),
            (Some(next.clone()), Done),
            (Some(previous.clone()), Before),
            (Some(with_spent(&previous)), Otherwise),
            (Some(session(2)), Otherwise),
        ] {
            assert_eq!(rotated(there.as_ref(), &previous, &next), verdict, "{there:?}");
        }
        assert_eq!(rotated(Some(&previous), &previous, &previous), Done, "no change at all");
    }

    #[test]
    fn of_one_that_was_to_end() {
        assert_eq!(ended(None), Done);
        assert_eq!(ended(Some(&session(1))), Before);
        for (version, verdict) in [(3, Otherwise), (4, Before)] {
            assert_eq!(ended_if_older(Some(&session(1)), version), verdict);
        }
        assert_eq!(ended_if_older(None, 4), Done);
    }
}
