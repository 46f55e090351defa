//! Metrics of the process, under the names that Prometheus client libraries share.
//!
//! Promises: metrics that the system does not provide (no `/proc`) are omitted; all others are present.

use procfs::process::LimitValue;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
    registry::Unit,
};
use schema::Timestamp;

use super::exposition::NoLabels;

/// The metrics of this process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) started_at: Timestamp,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seconds = Some(Unit::Seconds);
        let start = "When the process began, since the Unix epoch";
        gauge(&mut encoder, "process_start_time", start, seconds.as_ref(), &self.started_at.as_secs())?;
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            #[allow(clippy::cast_precision_loss, reason = "exact for thousands of years")]
            let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
            let help = "User and system CPU time spent";
            encoder
                .encode_descriptor("process_cpu", help, seconds.as_ref(), MetricType::Counter)?
                .encode_counter::<NoLabels, _, u64>(&cpu, None)?;
            let bytes = Some(&Unit::Bytes);
            let resident = stat.rss * procfs::page_size();
            gauge(&mut encoder, "process_resident_memory", "Resident memory", bytes, &resident)?;
            gauge(&mut encoder, "process_virtual_memory", "Virtual memory", bytes, &stat.vsize)?;
            gauge(&mut encoder, "process_threads", "Threads", None, &stat.num_threads)?;
        }
        if let Ok(open) = process.fd_count() {
            let open = i64::try_from(open).unwrap_or(i64::MAX);
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", None, &open)?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            gauge(&mut encoder, "process_max_fds", "File descriptors that may be open", None, &most)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: &impl EncodeGaugeValue,
) -> Result<(), std::fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(value)
}
