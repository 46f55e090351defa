//! Which summaries of the two runs are compared with each other: all requests, each kind, each node, each pair
//! of nodes.

use std::collections::BTreeSet;

use crate::format::node_name;
use crate::result::{Pair, RunResult, Summary};

use super::Metric;

/// Limit of compared pairs of nodes: all pairs of eight nodes.
pub(super) const PAIRS_MAX: usize = 64;

/// Two summaries of the same part of the load.
pub(super) struct Pairing<'a> {
    /// As [`super::Change::of`].
    pub(super) of: String,
    pub(super) a: &'a Summary,
    pub(super) b: &'a Summary,
    pub(super) series: Series,
}

/// The per-second series by which a pairing is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    /// The pairing's own series: that of all requests (`None`), or of the target at this index.
    Own(Option<usize>),
    /// The series of all requests: the requests of the pairing are part of them.
    Among,
    /// Only the series of other requests at the same time: one revocation takes several requests.
    Beside,
}

impl Series {
    /// The target whose series this is.
    pub(super) fn target(self) -> Option<usize> {
        match self {
            Self::Own(target) => target,
            Self::Among | Self::Beside => None,
        }
    }

    /// The metrics that are compared.
    pub(super) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Own(_) | Self::Among => &Metric::ALL,
            Self::Beside => &[Metric::P50, Metric::P99],
        }
    }
}

/// All pairings that both runs have.
pub(super) fn pairings<'a>(a: &'a RunResult, b: &'a RunResult) -> Vec<Pairing<'a>> {
    let mut out = vec![Pairing { of: "all".into(), a: &a.total, b: &b.total, series: Series::Own(None) }];
    // If there is a single kind, it equals the total.
    if a.by_kind.len() > 1 || b.by_kind.len() > 1 {
        out.extend(by_kind(a, b));
    }
    // If the number of nodes differs, equal indexes do not mean the same node.
    if a.targets.len() == b.targets.len() {
        if a.targets.len() > 1 {
            out.extend(by_target(a, b));
        }
        out.extend(by_pair(a, b));
    }
    out
}

fn by_kind<'a>(a: &'a RunResult, b: &'a RunResult) -> impl Iterator<Item = Pairing<'a>> {
    let kinds: BTreeSet<&String> = a.by_kind.keys().filter(|kind| b.by_kind.contains_key(*kind)).collect();
    kinds.into_iter().map(|kind| Pairing {
        of: format!("kind {kind}"),
        a: &a.by_kind[kind],
        b: &b.by_kind[kind],
        series: Series::Among,
    })
}

fn by_target<'a>(a: &'a RunResult, b: &'a RunResult) -> impl Iterator<Item = Pairing<'a>> {
    a.by_target.iter().zip(&b.by_target).enumerate().map(|(place, (of_a, of_b))| Pairing {
        of: format!("node {}", node_name(&b.targets, place)),
        a: of_a,
        b: of_b,
        series: Series::Own(Some(place)),
    })
}

fn by_pair<'a>(a: &'a RunResult, b: &'a RunResult) -> impl Iterator<Item = Pairing<'a>> {
    let of_b = |pair: &Pair| b.pairs.iter().find(|p| (p.from, p.to) == (pair.from, pair.to));
    a.pairs.iter().take(PAIRS_MAX).filter_map(move |pair| {
        let from = node_name(&b.targets, pair.from);
        let to = node_name(&b.targets, pair.to);
        Some(Pairing {
            of: format!("revoked at node {from}, refused at node {to}"),
            a: &pair.refused,
            b: &of_b(pair)?.refused,
            series: Series::Beside,
        })
    })
}
