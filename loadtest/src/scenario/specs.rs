//! The specifications of all scenarios: what each requests, in which lane and in which shares.

use super::Mix;
use crate::record::RequestKind;

/// A scenario's constants.
#[derive(Debug, Clone, Copy)]
pub struct ScenarioSpec {
    /// Its name on the command line.
    pub name: &'static str,
    /// A description in one line, for the help.
    pub about: &'static str,
    /// A longer description, for the help.
    pub long: &'static str,
    /// The kinds of requests of each lane, with their shares. A part of `Validate` becomes validations of
    /// revoked, forged and expired tokens (`--revoked` and so on).
    pub lanes: &'static [&'static [(RequestKind, f64)]],
    /// The default rate, requests a second; `None`: the closed model.
    pub rate: Option<f64>,
    /// The part of the rate that goes to the second lane.
    pub writes: f64,
    /// Whether the rate follows the hours of a day.
    pub day: bool,
    /// The default of Zipf's exponent in the choice of sessions.
    pub zipf: f64,
    /// Users, if no flag says otherwise.
    pub users: usize,
    /// Log-ins of each user, if no flag says otherwise.
    pub sessions: usize,
}

const VALID: &[(RequestKind, f64)] = &[(RequestKind::Validate, 1.0)];

/// The defaults of a scenario.
const PLAIN: ScenarioSpec = ScenarioSpec {
    name: "",
    about: "",
    long: "",
    lanes: &[],
    rate: None,
    writes: 0.0,
    day: false,
    zipf: 0.0,
    users: 20,
    sessions: 2,
};

const MIXED: ScenarioSpec = ScenarioSpec {
    name: "mixed",
    about: "A day's mix: mostly validations and checks, some refreshes, few log-ins and logouts",
    long: "70 % validations, 30 % checks; in addition (--writes) refreshes, log-ins and logouts on connections of their \
           own. The rate follows the hours of a day, compressed into the duration; --rate is that of the busiest hour.",
    lanes: &[
        &[(RequestKind::Validate, 70.0), (RequestKind::Check, 30.0)],
        &[(RequestKind::Refresh, 60.0), (RequestKind::Login, 20.0), (RequestKind::Logout, 20.0)],
    ],
    rate: Some(1_000.0),
    writes: 0.01,
    day: true,
    zipf: 0.8,
    users: 50,
    sessions: 2,
};

/// The name of the scenario that is not made of a mix.
pub const PROPAGATION: &str = "revoke-propagation";

/// The name of the scenario that runs another one during faults.
pub const FAULTS: &str = "faults";

/// All scenarios.
pub const ALL: [ScenarioSpec; 9] = [
    ScenarioSpec {
        name: "validate",
        about: "Token validations: good, revoked, forged and expired ones",
        long: "Sends GET auth_token/validation with good, revoked, forged and (if they live no longer than 60 s) expired \
               tokens. --batch N asks about N tokens in one POST; --pipeline N keeps N requests in flight on each \
               connection.",
        lanes: &[VALID],
        ..PLAIN
    },
    ScenarioSpec {
        name: "check",
        about: "Permission queries of users chosen by Zipf's law",
        long: "Sends random any/all queries whose answers are known; a few users have most of the queries. With \
               --admin-email (password in PALISADE_LOADTEST_ADMIN_PASSWORD) it creates permissions and grants about \
               half of them to each user; without, the queries name permissions that no user has.",
        lanes: &[&[(RequestKind::Check, 1.0)]],
        zipf: 1.0,
        users: 50,
        sessions: 1,
        ..PLAIN
    },
    ScenarioSpec {
        name: "login",
        about: "Log-ins with the right password",
        long: "Each log-in hashes a password (argon2id), so a node serves some tens a second and core. Beyond its limit a \
               node answers 503, which counts as an error.",
        lanes: &[&[(RequestKind::Login, 1.0)]],
        users: 20,
        sessions: 1,
        ..PLAIN
    },
    ScenarioSpec {
        name: "refresh",
        about: "Refreshes: each spends a refresh token and gets its successor",
        long: "A session has one refresh in flight at a time, so --users times --sessions bounds the requests in flight. A \
               refresh whose answer was lost is never repeated: the session logs in again.",
        lanes: &[&[(RequestKind::Refresh, 1.0)]],
        users: 50,
        sessions: 2,
        ..PLAIN
    },
    MIXED,
    ScenarioSpec {
        name: PROPAGATION,
        about: "Logs out on one node and asks all nodes until they refuse the token",
        long: "Needs a target for each node. Each round logs in, waits until every node accepts the token, and logs out on \
               one node (in turn) while it asks all nodes without a pause. The result has a distribution for each pair \
               of nodes (`pairs`): from sending the logout to sending the first request that was refused.",
        users: 4,
        sessions: 1,
        ..PLAIN
    },
    ScenarioSpec {
        name: "flood",
        about: "Log-ins as fast as they come (or --login-rate) while tokens are validated",
        long: "Shows what a flood of log-ins does to validations. Each kind has connections of its own and is separate in \
               the result.",
        lanes: &[VALID, &[(RequestKind::Login, 1.0)]],
        rate: Some(1_000.0),
        ..PLAIN
    },
    ScenarioSpec {
        name: FAULTS,
        about: "Any scenario (--scenario) under a schedule of faults (--faults FILE)",
        long: "The same as the scenario itself with --faults. A TOML file lists the nodes and when each is killed, paused, \
               resumed, cut off, healed or restarted. See --faults.",
        ..PLAIN
    },
    ScenarioSpec {
        name: "soak",
        about: "The mix of a day at an even rate for hours; reports drifts of memory and latency",
        long: "Like mixed, but at an even rate. Every 10 s it reads process_resident_memory_bytes from /metrics of each \
               target. It compares memory and p99 of the last tenth with those of the first: --max-drift is how much \
               either may grow.",
        rate: Some(500.0),
        day: false,
        ..MIXED
    },
];

/// The scenario of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static ScenarioSpec> {
    ALL.iter().find(|spec| spec.name == name)
}

/// Percentages of validations with tokens that must be refused.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BadTokens {
    pub revoked: f64,
    pub forged: f64,
    pub expired: f64,
}

impl BadTokens {
    fn split(self, kinds: &[(RequestKind, f64)]) -> Vec<(RequestKind, f64)> {
        let mut all = Vec::new();
        for &(kind, share) in kinds {
            if kind != RequestKind::Validate {
                all.push((kind, share));
                continue;
            }
            let bad = [
                (RequestKind::ValidateRevoked, self.revoked),
                (RequestKind::ValidateForged, self.forged),
                (RequestKind::ValidateExpired, self.expired),
            ];
            let good = 100.0 - self.revoked - self.forged - self.expired;
            let parts = std::iter::once((RequestKind::Validate, good)).chain(bad);
            all.extend(
                parts.map(|(kind, percent)| (kind, share * percent / 100.0)).filter(|(_, s)| *s > 0.0),
            );
        }
        all
    }

    /// The kinds of validation that the tokens of a batch are for.
    #[must_use]
    pub fn batch_mix(self) -> Vec<(RequestKind, f64)> {
        self.split(VALID)
    }
}

impl ScenarioSpec {
    /// The mix of requests with these percentages of bad tokens; with `batch`, batches only.
    #[must_use]
    pub fn mix(&self, bad_tokens: BadTokens, batch: bool) -> Mix {
        if batch {
            return vec![vec![(RequestKind::Batch, 1.0)]];
        }
        self.lanes.iter().map(|lane| bad_tokens.split(lane)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_tokens_replace_good_ones() {
        let bad = BadTokens { revoked: 4.0, forged: 5.0, expired: 0.0 };
        let mixed = by_name("mixed").unwrap().mix(bad, false);
        let total: f64 = mixed[0].iter().map(|(_, share)| share).sum();
        assert!((total - 100.0).abs() < 1e-9 && mixed[0].len() == 4, "{mixed:?}");
        assert_eq!(mixed[1].len(), 3);
        let none = BadTokens { revoked: 0.0, forged: 0.0, expired: 0.0 };
        assert_eq!(by_name("validate").unwrap().mix(none, false), [[(RequestKind::Validate, 1.0)]]);
    }
}
