//! The result of a run, as it is written to a JSON file and read by `compare` and `report`.
//!
//! Promises: a file of another version is read or refused by its `format`, never misread. Latencies are
//! microseconds. In the open model they count from the moment at which a request was *due*, not from sending,
//! so that a stalled server is not flattered (coordinated omission); in the closed model they count from
//! sending. A result holds no secret: no token, no password.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// The format of the file. Raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// The largest file that is read, bytes. The result of a day with sixteen nodes has 150 MB.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a result file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not exist or cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Larger than [`FILE_BYTES_MAX`].
    #[error("{path}: larger than {} MiB, so it is not a result file", FILE_BYTES_MAX >> 20, path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of the tool.
    #[error(
        "{path}: a result file of format {found}, but this version reads format {FORMAT}; use the version that wrote \
         the file",
        path = .path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
    },
    /// Other JSON, or not JSON.
    #[error("{path}: not a result file of palisade-loadtest: {why}", path = .path.display())]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// The error, with line and column.
        why: String,
    },
}

/// Reads a result file.
///
/// # Errors
/// If the file does not exist, is too large, has another format, or is not a result.
pub fn read(path: &Path) -> Result<RunResult, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let not_a_result =
        |why: serde_json::Error| ReadError::NotAResult { path: path.to_owned(), why: why.to_string() };
    let mut text = Vec::new();
    // Limits what is read, not the length in the directory: a pipe has none.
    File::open(path).map_err(io)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }

    /// Parsed first: fields of another format may have other types.
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }
    let head: Head = serde_json::from_slice(&text).map_err(not_a_result)?;
    if head.format != u64::from(FORMAT) {
        return Err(ReadError::OtherFormat { path: path.to_owned(), found: head.format });
    }
    serde_json::from_slice(&text).map_err(not_a_result)
}

/// Writes a result file. An existing file is replaced as a whole or not at all; a device or a pipe is written
/// to.
///
/// # Errors
/// The error of the system. An existing file is then untouched.
pub fn write(path: &Path, result: &RunResult) -> io::Result<()> {
    write_whole(path, |out| {
        serde_json::to_writer(&mut *out, result)?;
        out.write_all(b"\n")
    })
}

/// Writes a text file, such as the report. An existing file is replaced as a whole or not at all.
///
/// # Errors
/// The error of the system. An existing file is then untouched.
pub fn write_text(path: &Path, text: &str) -> io::Result<()> {
    write_whole(path, |out| out.write_all(text.as_bytes()))
}

fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // Follows a link to its file.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|to| !to.is_file() && !to.is_dir()) {
        // /dev/stdout or a pipe cannot be replaced.
        let mut out = BufWriter::new(OpenOptions::new().write(true).open(path)?);
        fill(&mut out)?;
        return out.flush();
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    // In the same directory: a rename does not cross file systems.
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The error is reported already; a temporary file that is left is not a second one.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Reads `null` as NaN. JSON has no NaN (a rate over no time), and serde writes it as `null`.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The format: [`FORMAT`].
    pub format: u32,
    /// The version of the tool.
    pub version: String,
    /// The scenario's name.
    pub scenario: String,
    /// The arguments of the tool. They hold no secrets.
    pub command: Vec<String>,
    /// When the measured part began, RFC 3339.
    pub started_at: String,
    /// The machine of the tool.
    pub machine: Machine,
    /// How busy the tool itself was. Results of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Tool>,
    /// Base URLs of the nodes. Their indexes are the `target` of the other fields.
    pub targets: Vec<String>,
    /// The plan.
    pub plan: Plan,
    /// The seconds of the measured part, in order.
    pub seconds: Vec<Second>,
    /// The summary of the whole measured part.
    pub total: Summary,
    /// Summaries by kind of request (`validate`, `check`, `login`, …).
    pub by_kind: BTreeMap<String, Summary>,
    /// Summaries by index in `targets`.
    pub by_target: Vec<Summary>,
    /// Latencies of revocations, from the revoking node to the refusing node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// The faults that happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultMark>,
    /// The first wrong answers: a 200 for a revoked token, a refusal of a good one.
    pub wrong: Vec<Wrong>,
    /// The objectives, and whether they held.
    pub objectives: Vec<Objective>,
    /// The steps of a search for the highest rate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<SearchStep>,
    /// Why the run ended before its time, if it did.
    pub stopped: Option<String>,
}

impl RunResult {
    /// The number of wrong answers. `wrong` lists only the first ones of each thread.
    #[must_use]
    pub fn wrong_answers(&self) -> u64 {
        let counted = self.total.errors_by_kind.get("wrong").copied().unwrap_or(0);
        // Wrong answers of the warm-up are listed but not counted.
        counted.max(self.wrong.len() as u64)
    }
}

/// The machine of the tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub os: String,
}

/// How busy the tool itself was in the measured part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Threads that sent requests.
    pub threads: usize,
    /// The share of a core that the busiest of them used, by its CPU time: 1 is a whole core.
    pub busiest_thread: f64,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Plan {
    /// `open` (arrivals at a rate) or `closed` (as fast as answers come).
    pub model: String,
    /// Requests a second in the open model; with a ramp, at its end.
    pub rate: Option<f64>,
    pub connections: usize,
    /// `http1` or `h2c`.
    pub protocol: String,
    pub warm_up_s: f64,
    pub duration_s: f64,
    pub ramp_s: f64,
    pub users: usize,
    pub seed: u64,
    /// Results of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// Further settings that must be equal for two runs to measure the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Detail {
    /// Requests at a time on a connection: pipelined, or streams.
    pub depth: usize,
    /// Tokens in one batch, if there are batches.
    pub batch: Option<usize>,
    /// Percentage of the validations, as the next two.
    pub revoked: f64,
    pub forged: f64,
    pub expired: f64,
    /// The rate of the second lane: `1 %` of the rate, `8/s`, `as answers come`, or `none`.
    pub writes: String,
    pub zipf: f64,
    /// Sessions of each user.
    pub sessions: usize,
    /// Access tokens of each session.
    pub tokens: usize,
    pub timeout_s: f64,
}

/// The figures of one second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// The begin of the second, seconds since the measured part began.
    pub at_s: u32,
    /// All requests.
    pub all: Slice,
    /// By index in `targets`.
    pub by_target: Vec<Slice>,
}

/// The requests of one second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Slice {
    pub requests: u64,
    pub errors: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// The latencies and answers of some requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Answers and failures together.
    pub requests: u64,
    /// Requests a second.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// Requests that did not get the answer that they should have had.
    pub errors: u64,
    /// Errors by kind: `connect`, `timeout`, `closed`, `status 503`, …
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Percentiles of the latency.
    pub latency: Percentiles,
    /// Points `[percentile, microseconds]` for the plot, from 0 to the highest percentile that has a sample.
    pub curve: Vec<(f64, u64)>,
}

/// Percentiles of the latency, microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    #[serde(deserialize_with = "number")]
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// How long revocations took from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Index in `targets` of the node that got the revoking call.
    pub from: usize,
    /// Index in `targets` of the node that was asked.
    pub to: usize,
    /// From sending the revoking call to sending the first request that was refused.
    pub refused: Summary,
}

/// A fault that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultMark {
    /// Seconds since the measured part began.
    pub at_s: f64,
    /// `kill`, `pause`, `resume`, `restart`, `cut`, `heal`, `run`.
    pub action: String,
    /// The node or the command's name.
    pub on: String,
    /// Why it could not be carried out, if so.
    pub failed: Option<String>,
}

/// A wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    /// Seconds since the measured part began.
    pub at_s: f64,
    /// Index in `targets`.
    pub target: usize,
    /// The request, the answer, and the correct answer. Never holds a token.
    pub what: String,
}

/// An objective and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The text as given: `p99<5ms`, `errors<0.1%`, `rate>50000`.
    pub text: String,
    /// The measured value: latencies in microseconds, errors as a ratio from 0 to 1, rates a second.
    #[serde(deserialize_with = "number")]
    pub measured: f64,
    /// Whether it held.
    pub held: bool,
}

/// One step of the search for the highest rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct SearchStep {
    #[serde(deserialize_with = "number")]
    pub offered: f64,
    #[serde(deserialize_with = "number")]
    pub served: f64,
    pub p99_us: u64,
    #[serde(deserialize_with = "number")]
    pub error_ratio: f64,
    /// As in [`Tool`].
    #[serde(default)]
    pub busiest_thread: f64,
    pub held: bool,
}

#[cfg(test)]
pub mod sample;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_result_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        for run in [sample::whole(), sample::empty()] {
            write(&path, &run).unwrap();
            assert!(read(&path).unwrap() == run, "{} is not what was written", run.scenario);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn numbers_that_are_not_finite_are_read_as_nan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        let mut run = sample::whole();
        run.total.rate = f64::INFINITY;
        run.objectives[0].measured = f64::NAN;
        write(&path, &run).unwrap();
        let read = read(&path).unwrap();
        assert!(read.total.rate.is_nan() && read.objectives[0].measured.is_nan());
    }

    #[test]
    fn failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, &sample::empty()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_and_devices_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let link = dir.path().join("link");
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_text(&link, "after").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        write_text(Path::new("/dev/null"), "nothing").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn other_formats_and_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        let refusal = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).unwrap_err().to_string()
        };
        assert!(refusal(r#"{"format":2,"seconds":"something new"}"#).contains("of format 2"));
        assert!(refusal(r#"{"hello":"world"}"#).contains("not a result file"));
        assert!(refusal("GIF89a").contains("not a result file"));
        assert!(refusal("").contains("not a result file"));
        assert!(refusal(r#"{"format":1}"#).contains("missing field"));
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn file_without_optional_fields_is_read() {
        let mut json = serde_json::to_value(sample::whole()).unwrap();
        for field in ["pairs", "faults", "search", "tool"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let run: RunResult = serde_json::from_value(json).unwrap();
        assert!(run.pairs.is_empty() && run.faults.is_empty() && run.search.is_empty() && run.tool.is_none());
    }
}
