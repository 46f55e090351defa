//! Conversions between this crate's values and those of CQL.

use std::time::Duration;

use schema::{Timestamp, session::SecretHash, version::MAX_VERSION};
use scylla::value::CqlTimestamp;

/// Limit of a TTL in seconds: Cassandra rejects more than 20 years.
const TTL_SECS_MAX: u64 = 20 * 365 * 24 * 3600;
/// Limit of an expiry in seconds since 1970: before version 5.0, Cassandra cannot represent a later one
/// (January 2038).
const EXPIRY_SECS_MAX: u64 = i32::MAX as u64 - 1;
/// When 2038 is at most this many seconds away, the server is assumed to represent later expiries.
const EXPIRY_LIMIT_IGNORED_SECS: u64 = 366 * 24 * 3600;

/// A counter that only rises, as a `bigint`, saturated at its maximum.
pub(crate) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A counter from a `bigint`. Negative values are never stored, and read as 0.
pub(crate) fn number(bigint: i64) -> u64 {
    u64::try_from(bigint).unwrap_or(0)
}

/// A user version from a `bigint`, saturated at the highest version.
pub(crate) fn version(bigint: i64) -> u64 {
    number(bigint).min(MAX_VERSION)
}

/// A count as the value of `LIMIT`: at least 1.
pub(crate) fn limit(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX).max(1)
}

pub(crate) fn time(time: Timestamp) -> CqlTimestamp {
    CqlTimestamp(bigint(time.as_millis()))
}

pub(crate) fn timestamp(time: CqlTimestamp) -> Timestamp {
    Timestamp::from_millis(number(time.0))
}

/// A hash; `None` unless it has 32 bytes.
pub(crate) fn hash(bytes: &[u8]) -> Option<SecretHash> {
    bytes.try_into().ok().map(SecretHash::new)
}

/// The TTL, in seconds, of a row that expires at `end`: rounded up, at least 1, at most what servers
/// accept.
pub(crate) fn ttl_until(end: Timestamp, now: Timestamp) -> i32 {
    ttl(end.since(now), now)
}

/// The TTL, in seconds, of a row that lives for `length` from `now` on: rounded up, at least 1, at most
/// what servers accept.
pub(crate) fn ttl(length: Duration, now: Timestamp) -> i32 {
    let until_limit = EXPIRY_SECS_MAX.saturating_sub(now.as_secs());
    let max =
        if until_limit > EXPIRY_LIMIT_IGNORED_SECS { until_limit.min(TTL_SECS_MAX) } else { TTL_SECS_MAX };
    let seconds = schema::time::millis(length).div_ceil(1_000);
    i32::try_from(seconds.clamp(1, max)).unwrap_or(i32::MAX)
}

/// Days since 1970.
pub(crate) fn day(time: Timestamp) -> i32 {
    i32::try_from(time.as_secs() / 86_400).unwrap_or(i32::MAX)
}

/// Months since 1970, of the civil calendar in UTC.
pub(crate) fn month(time: Timestamp) -> i32 {
    // Days are counted from 1 March of year 0, so that a leap day is the last of its year; 400 years
    // have 146,097 days, and five months from March on have 153.
    let days = time.as_secs() / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    // March is month 2 of its year when January is 0.
    let months = (era * 400 + year) * 12 + from_march + 2;
    i32::try_from(months.saturating_sub(1970 * 12)).unwrap_or(i32::MAX)
}

/// The creation time in an id (UUIDv7).
pub(crate) fn made_at(id: &[u8; 16]) -> Timestamp {
    let millis = id[..6].iter().fold(0, |millis, byte| millis << 8 | u64::from(*byte));
    Timestamp::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use schema::UserId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_258_320);

    #[test]
    fn ttl_is_rounded_up_and_bounded() {
        let after = |millis| ttl_until(NOW.plus(Duration::from_millis(millis)), NOW);
        assert_eq!(ttl_until(Timestamp::EPOCH, NOW), 1, "an expired row goes soon");
        assert_eq!([after(0), after(1), after(1_000), after(1_001)], [1, 1, 1, 2]);
        let most = ttl_until(Timestamp::MAX, NOW);
        assert_eq!(u64::try_from(most).unwrap(), EXPIRY_SECS_MAX - NOW.as_secs(), "not beyond 2038");
        let late = Timestamp::from_secs(EXPIRY_SECS_MAX - 10);
        assert_eq!(ttl(Duration::from_secs(3_600), late), 3_600, "in 2038 servers count further");
        assert_eq!(u64::try_from(ttl(Duration::MAX, late)).unwrap(), TTL_SECS_MAX);
    }

    #[test]
    fn days_and_months_follow_the_civil_calendar() {
        let at = |secs| Timestamp::from_secs(secs);
        assert_eq!([day(at(0)), day(at(86_399)), day(at(86_400))], [0, 0, 1]);
        // 1970-01-31T23:59:59, 1970-02-01, 2000-02-29, 2000-03-01, 2026-11-21, 2026-12-31, 2027-01-01.
        for (secs, months) in [
            (0, 0),
            (2_678_399, 0),
            (2_678_400, 1),
            (951_782_400, 361),
            (951_868_800, 362),
            (1_795_258_320, 682),
            (1_798_761_599, 683),
            (1_798_761_600, 684),
        ] {
            assert_eq!(month(at(secs)), months, "{secs}");
        }
    }

    #[test]
    fn creation_time_is_read_from_an_id() {
        assert_eq!(made_at(UserId::new(NOW, [9; 10]).as_bytes()), NOW);
    }

    #[test]
    fn numbers_are_clamped() {
        assert_eq!([bigint(7), bigint(u64::MAX)], [7, i64::MAX]);
        assert_eq!([number(-1), number(i64::MAX)], [0, u64::MAX >> 1]);
        assert_eq!([limit(0), limit(7), limit(usize::MAX)], [1, 7, i32::MAX]);
    }
}
