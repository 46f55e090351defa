//! The metrics of one moment as Prometheus reads them: what [`Metrics`] counted, and what is read where it is
//! (denials, queues, the store, the cluster).

mod families;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};

use super::process::Process;
use crate::{
    app::App,
    metrics::{
        BUCKETS_US, Histogram, Metrics, Route, STATUSES, read,
        text::{self, Format},
    },
};
use families::{Family, Kind};

/// Metrics without labels, and exemplars, which none has.
pub(super) type NoLabels = [(&'static str, &'static str); 0];

/// All metrics of this node in a text format.
///
/// # Errors
/// Never: writing to a string does not fail.
pub fn encode(app: &App, format: Format) -> Result<String, std::fmt::Error> {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(Box::new(Snapshot::of(&app.metrics, app)));
    registry.register_collector(Box::new(Process { started_at: app.started_at }));
    let mut text = String::with_capacity(64 * 1024);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => text::prometheus(&text),
    })
}

/// The values of one moment.
#[derive(Debug)]
struct Snapshot {
    families: Vec<Family>,
    durations: Vec<RouteDuration>,
    acknowledgements: Histogram,
}

#[derive(Debug)]
struct RouteDuration {
    labels: Vec<(&'static str, String)>,
    took: Histogram,
}

impl Snapshot {
    fn of(metrics: &Metrics, app: &App) -> Self {
        Self {
            families: families::all(metrics, app, requests(metrics)),
            durations: durations(metrics),
            acknowledgements: metrics.acknowledgements.read(),
        }
    }
}

fn all_routes(metrics: &Metrics) -> impl Iterator<Item = (Vec<(&'static str, String)>, &Route)> {
    let named = metrics.places.iter().map(|((method, path), route)| {
        (vec![("method", method.clone()), ("route", path.clone())], &metrics.routes[route.0])
    });
    let other = || "other".to_owned();
    named.chain(metrics.routes.last().map(|route| (vec![("method", other()), ("route", other())], route)))
}

/// Answers by route and status, without the zeros.
fn requests(metrics: &Metrics) -> Vec<(Vec<(&'static str, String)>, u64)> {
    let mut values = Vec::new();
    for (labels, route) in all_routes(metrics) {
        for (place, value) in route.statuses.iter().enumerate() {
            let status = STATUSES.get(place).map_or("other".to_owned(), u16::to_string);
            let value = read(value);
            if value > 0 {
                let labels = labels.iter().cloned().chain([("status", status)]).collect();
                values.push((labels, value));
            }
        }
    }
    values
}

#[allow(clippy::cast_precision_loss, reason = "a sum of microseconds, shown in seconds")]
fn durations(metrics: &Metrics) -> Vec<RouteDuration> {
    let used = all_routes(metrics).filter(|(_, route)| route.buckets.iter().any(|b| read(b) > 0));
    used.map(|(labels, route)| RouteDuration {
        labels,
        took: Histogram::of(&BUCKETS_US, &route.buckets, &route.sum_us),
    })
    .collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.families {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let unit = family.unit.as_ref();
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit, kind)?;
            for (labels, value) in &family.values {
                let encode = |mut metric: MetricEncoder<'_>| match family.kind {
                    Kind::Counter => metric.encode_counter::<NoLabels, _, u64>(value, None),
                    Kind::Gauge => metric.encode_gauge(value),
                };
                if labels.is_empty() {
                    encode(metric.encode_family(&NoLabels::default())?)?;
                } else {
                    encode(metric.encode_family(labels)?)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "palisade_http_request_duration",
            "Time from a request's head to its answer's",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for RouteDuration { labels, took } in &self.durations {
            let mut route = metric.encode_family(labels)?;
            route.encode_histogram::<NoLabels>(took.sum_seconds, took.count(), &took.buckets, None)?;
        }
        let mut metric = encoder.encode_descriptor(
            "palisade_revocation_ack_duration",
            "Time from the publication of a revocation until every live node had applied it",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let Histogram { sum_seconds, buckets } = &self.acknowledgements;
        metric.encode_histogram::<NoLabels>(*sum_seconds, self.acknowledgements.count(), buckets, None)?;
        Ok(())
    }
}
