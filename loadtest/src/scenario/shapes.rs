//! The scenarios that ask about users: what each of them asks, in which lane, and in which shares.

use crate::crowd::{Deed, Mix};

/// A scenario's constants.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its name on the command line.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// In some.
    pub long: &'static str,
    /// What is asked of each lane, with shares. Of `Valid` the shares of revoked, forged and expired tokens
    /// are taken off (`--revoked` and so on).
    pub lanes: &'static [&'static [(Deed, f64)]],
    /// The rate when none is given; `None`: the closed model.
    pub rate: Option<f64>,
    /// The part of the rate that goes to the second lane.
    pub writes: f64,
    /// Whether the rate follows a day.
    pub day: bool,
    /// Zipf's exponent in choosing sessions.
    pub zipf: f64,
    /// Users and log-ins of each.
    pub people: (usize, usize),
}

const VALID: &[(Deed, f64)] = &[(Deed::Valid, 1.0)];

/// What a scenario is where it does not say otherwise.
const PLAIN: Shape = Shape {
    name: "",
    about: "",
    long: "",
    lanes: &[],
    rate: None,
    writes: 0.0,
    day: false,
    zipf: 0.0,
    people: (20, 2),
};

const MIXED: Shape = Shape {
    name: "mixed",
    about: "A day: mostly validations and checks, some refreshes, few log-ins and logouts",
    long: "70 % validations, 30 % checks; beside them (--writes) refreshes, log-ins and logouts on connections \
           of their own. The rate follows the hours of a day, compressed into the duration; --rate is that of \
           the busiest hour.",
    lanes: &[
        &[(Deed::Valid, 70.0), (Deed::Check, 30.0)],
        &[(Deed::Refresh, 60.0), (Deed::Login, 20.0), (Deed::Logout, 20.0)],
    ],
    rate: Some(1_000.0),
    writes: 0.01,
    day: true,
    zipf: 0.8,
    people: (50, 2),
};

/// The scenario that is not made of a mix.
pub const PROPAGATION: &str = "revoke-propagation";

/// All of them.
pub const ALL: [Shape; 9] = [
    Shape {
        name: "validate",
        about: "Token validations: good, revoked, forged and expired ones",
        long: "Asks GET auth_token/validation with good, revoked, forged and (when they live no longer than \
               60 s) expired tokens. --batch N asks for N tokens in one POST; --pipeline N keeps N requests under \
               way on each connection.",
        lanes: &[VALID],
        ..PLAIN
    },
    Shape {
        name: "check",
        about: "Permission queries of users chosen by Zipf's law",
        long: "Asks random any/all queries whose answers are known; few users are asked about most often. With \
               --admin-email (password in PALISADE_LOADTEST_ADMIN_PASSWORD) it makes permissions and gives about \
               half of them to each user; without, the queries are about names that nobody has.",
        lanes: &[&[(Deed::Check, 1.0)]],
        zipf: 1.0,
        people: (50, 1),
        ..PLAIN
    },
    Shape {
        name: "login",
        about: "Log-ins with the right password",
        long: "Each hashes a password (argon2id), so tens a second and core are what a node does. A node that is \
               asked for more answers 503, which counts as an error.",
        lanes: &[&[(Deed::Login, 1.0)]],
        people: (20, 1),
        ..PLAIN
    },
    Shape {
        name: "refresh",
        about: "Refreshes: each spends a token and gets its successor",
        long: "A session refreshes one at a time, so --users times --sessions bounds what is under way. A refresh \
               whose answer was lost is never repeated: its session logs in anew.",
        lanes: &[&[(Deed::Refresh, 1.0)]],
        people: (50, 2),
        ..PLAIN
    },
    MIXED,
    Shape {
        name: PROPAGATION,
        about: "Logs out on one node and asks all of them until they refuse",
        long: "Needs a target for each node. Again and again: log in, see that every node takes the token, log out \
               on one of them (in turn) while all are asked without a pause. The result has a distribution for \
               each pair of nodes (`pairs`): from sending the logout to sending the first request that was refused.",
        people: (4, 1),
        ..PLAIN
    },
    Shape {
        name: "flood",
        about: "Log-ins as fast as they come (or --login-rate) while tokens are validated",
        long: "What a flood of log-ins does to validation: each has connections of its own, and the result tells \
               them apart by kind.",
        lanes: &[VALID, &[(Deed::Login, 1.0)]],
        rate: Some(1_000.0),
        ..PLAIN
    },
    Shape {
        name: "faults",
        about: "Any scenario (--scenario) under a schedule of faults (--faults FILE)",
        long: "The same as naming the scenario itself with --faults: a TOML file says which nodes there are and \
               when each is killed, paused, resumed, cut off, healed or restarted. See --faults.",
        ..PLAIN
    },
    Shape {
        name: "soak",
        about: "The mix of a day at an even rate for long; tells drifts of memory and latency",
        long: "As mixed, without the hours. Every 10 s it reads process_resident_memory_bytes from /metrics of \
               each target, and compares the p99 of the first tenth with that of the last: --max-drift says how \
               much either may grow.",
        rate: Some(500.0),
        day: false,
        ..MIXED
    },
];

/// The one of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Shape> {
    ALL.iter().find(|shape| shape.name == name)
}

/// Percentages of tokens that are not good.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bad {
    pub revoked: f64,
    pub forged: f64,
    pub expired: f64,
}

impl Bad {
    fn replace(self, deeds: &[(Deed, f64)]) -> Vec<(Deed, f64)> {
        let mut all = Vec::new();
        for &(deed, share) in deeds {
            if deed != Deed::Valid {
                all.push((deed, share));
                continue;
            }
            let bad =
                [(Deed::Revoked, self.revoked), (Deed::Forged, self.forged), (Deed::Expired, self.expired)];
            let good = 100.0 - self.revoked - self.forged - self.expired;
            let parts = std::iter::once((Deed::Valid, good)).chain(bad);
            all.extend(
                parts.map(|(deed, percent)| (deed, share * percent / 100.0)).filter(|(_, s)| *s > 0.0),
            );
        }
        all
    }

    /// What one batch is made of.
    #[must_use]
    pub fn of_batch(self) -> Vec<(Deed, f64)> {
        self.replace(VALID)
    }
}

impl Shape {
    /// What is asked, with these percentages of bad tokens.
    #[must_use]
    pub fn mix(&self, bad: Bad, batch: bool) -> Mix {
        if batch {
            return vec![vec![(Deed::Batch, 1.0)]];
        }
        self.lanes.iter().map(|lane| bad.replace(lane)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_tokens_are_taken_off_the_good_ones() {
        let bad = Bad { revoked: 4.0, forged: 5.0, expired: 0.0 };
        let mixed = by_name("mixed").unwrap().mix(bad, false);
        let total: f64 = mixed[0].iter().map(|(_, share)| share).sum();
        assert!((total - 100.0).abs() < 1e-9 && mixed[0].len() == 4, "{mixed:?}");
        assert_eq!(mixed[1].len(), 3);
        let none = Bad { revoked: 0.0, forged: 0.0, expired: 0.0 };
        assert_eq!(by_name("validate").unwrap().mix(none, false), [[(Deed::Valid, 1.0)]]);
    }
}
