//! Counts metrics without a lock; names and units follow Prometheus' conventions.
//!
//! Every metric is an atomic number that exists before the first request; a route is exposed from its first
//! request on. State that can be read in place (denials, queues, the store) is read at the scrape.

pub mod text;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schema::Refusal;

/// Upper bounds of the buckets of request durations, in microseconds.
pub(crate) const BUCKETS_US: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];
/// The statuses that are counted separately; all others are counted together.
pub(crate) const STATUSES: [u16; 19] =
    [200, 201, 204, 302, 303, 307, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503];

/// The result of an attempt to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the labels of the metric, by their names")]
pub enum LoginResult {
    Success,
    Failure,
    Locked,
    Busy,
}

pub(crate) const LOGIN_LABELS: [&str; 4] = ["success", "failure", "locked", "busy"];

/// The counters of this node.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) places: HashMap<(String, String), RouteId>,
    /// Routes by their ids; the last is for requests without a route.
    pub(crate) routes: Vec<Route>,
    pub(crate) verdicts: [AtomicU64; Refusal::ALL.len() + 1],
    pub(crate) logins: [AtomicU64; LOGIN_LABELS.len()],
    pub(crate) refreshes: AtomicU64,
    pub(crate) refresh_refusals: AtomicU64,
    pub(crate) forwarded_unreadable: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    /// The times until every live node acknowledged a revocation.
    pub acknowledgements: Arc<Acknowledgements>,
}

/// Upper bounds of the buckets of acknowledgements, in microseconds.
const ACK_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000, 10_000_000];

/// A histogram of the times until every live node acknowledged a revocation.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    buckets: [AtomicU64; ACK_BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Acknowledgements {
    /// Records that an acknowledgement took this long.
    pub fn note(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.buckets[ACK_BUCKETS_US.partition_point(|end| *end < took_us)], 1);
        add(&self.sum_us, took_us);
    }

    pub(crate) fn read(&self) -> Histogram {
        Histogram::of(&ACK_BUCKETS_US, &self.buckets, &self.sum_us)
    }
}

/// A snapshot of a histogram of durations.
#[derive(Debug)]
pub(crate) struct Histogram {
    pub(crate) sum_seconds: f64,
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(crate) fn of(ends_us: &[u64], counts: &[AtomicU64], sum_us: &AtomicU64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "exact for two hundred years")]
        let seconds = |us: u64| us as f64 / 1e6;
        let ends = ends_us.iter().map(|end| seconds(*end)).chain([f64::INFINITY]);
        Self { sum_seconds: seconds(read(sum_us)), buckets: ends.zip(counts.iter().map(read)).collect() }
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, n)| n).sum()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) statuses: [AtomicU64; STATUSES.len() + 1],
    pub(crate) buckets: [AtomicU64; BUCKETS_US.len() + 1],
    pub(crate) sum_us: AtomicU64,
}

/// The id of a route, which saves a lookup when counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteId(pub(crate) usize);

impl Metrics {
    /// Counters for these routes, given as (method, path).
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = (String, String)>) -> Self {
        let names: Vec<_> = routes.into_iter().collect();
        let routes = (0..=names.len()).map(|_| Route::default()).collect();
        let places = names.into_iter().zip((0..).map(RouteId)).collect();
        Self { places, routes, ..Self::default() }
    }

    /// Counts requests that were answered together: `count` of them, each in `took`.
    pub fn answered(&self, route: RouteId, status: u16, count: u64, took: Duration) {
        let route = &self.routes[route.0];
        let place = STATUSES.iter().position(|s| *s == status).unwrap_or(STATUSES.len());
        add(&route.statuses[place], count);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|end| *end < took_us);
        add(&route.buckets[bucket], count);
        add(&route.sum_us, took_us.saturating_mul(count));
    }

    /// The route of this method and path; requests without a route are counted together.
    #[must_use]
    pub fn route(&self, method: &str, path: &str) -> RouteId {
        let place = self.places.get(&(method, path) as &dyn RouteKey);
        place.copied().unwrap_or(RouteId(self.routes.len() - 1))
    }

    /// Counts a verdict on a token.
    pub fn verdict(&self, refusal: Option<Refusal>) {
        let place = refusal.and_then(|refusal| Refusal::ALL.iter().position(|r| *r == refusal));
        add(&self.verdicts[place.map_or(0, |place| place + 1)], 1);
    }

    /// Counts tokens that were found valid together.
    pub fn valid(&self, count: u64) {
        add(&self.verdicts[0], count);
    }

    /// Counts an attempt to log in.
    pub fn login(&self, result: LoginResult) {
        add(&self.logins[result as usize], 1);
    }

    /// Counts a refresh token that was spent, or sent again in its grace.
    pub fn refreshed(&self) {
        add(&self.refreshes, 1);
    }

    /// Counts a refused refresh token.
    pub fn refresh_refused(&self) {
        add(&self.refresh_refusals, 1);
    }

    /// Counts an `X-Forwarded-For` of a trusted proxy that does not parse.
    pub fn forwarded_unreadable(&self) {
        add(&self.forwarded_unreadable, 1);
    }

    /// Counts a connection that got no more than the answer to one operator request.
    pub fn connection_refused(&self) {
        add(&self.connections_refused, 1);
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Allows lookups in the map by borrowed strings, without an allocation per request.
trait RouteKey {
    fn parts(&self) -> (&str, &str);
}

impl RouteKey for (String, String) {
    fn parts(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }
}

impl RouteKey for (&str, &str) {
    fn parts(&self) -> (&str, &str) {
        *self
    }
}

impl std::hash::Hash for dyn RouteKey + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn RouteKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn RouteKey + '_ {}

impl<'a> std::borrow::Borrow<dyn RouteKey + 'a> for (String, String) {
    fn borrow(&self) -> &(dyn RouteKey + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_counted_under_its_route_and_bucket() {
        let route = ("GET".to_owned(), "/a/{id}".to_owned());
        let metrics = Metrics::new([route]);
        let known = metrics.route("GET", "/a/{id}");
        let unknown = metrics.route("GET", "/b");
        metrics.answered(known, 200, 1, Duration::from_micros(50));
        metrics.answered(known, 299, 1, Duration::from_secs(60));
        metrics.answered(unknown, 404, 1, Duration::from_micros(51));
        metrics.answered(metrics.route("PUT", "/a/{id}"), 405, 1, Duration::ZERO);
        let counted = &metrics.routes[known.0];
        assert_eq!((read(&counted.statuses[0]), read(&counted.statuses[STATUSES.len()])), (1, 1));
        assert_eq!((read(&counted.buckets[0]), read(&counted.buckets[BUCKETS_US.len()])), (1, 1));
        assert_eq!(metrics.routes[unknown.0].statuses.iter().map(read).sum::<u64>(), 2);
    }
}
