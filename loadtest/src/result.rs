//! The result of a run, as it is written to the JSON file and read by `compare` and the report.
//!
//! Promises: a file of an older version is read or refused by its `format`, never misread. Latencies are
//! microseconds. In the open model they count from the moment at which a request was *due*, not from when
//! it was sent, so a server that stalls is not flattered (coordinated omission); in the closed model from
//! sending. Nothing in it is a secret: no token, no password.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// The format of the file. Raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// No file beyond this is read: a day with sixteen nodes is 150 MB.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why a result file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or may not be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Beyond [`MAX_FILE_BYTES`].
    #[error("{path}: larger than {} MiB, no result file is", MAX_FILE_BYTES >> 20, path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of the tool.
    #[error(
        "{path}: a result file of format {found}; this version reads format {FORMAT}, and so it has to be read \
         by the version that wrote it",
        path = .path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// The format that it says.
        found: u64,
    },
    /// JSON of something else, or no JSON.
    #[error("{path}: not a result file of palisade-loadtest: {why}", path = .path.display())]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
}

/// Reads a result file.
///
/// # Errors
/// When it is not there, too large, of another format or something else.
pub fn read(path: &Path) -> Result<RunResult, ReadError> {
    let io = |source| ReadError::Io { path: path.to_owned(), source };
    let not_a_result =
        |why: serde_json::Error| ReadError::NotAResult { path: path.to_owned(), why: why.to_string() };
    let mut text = Vec::new();
    // The length is what was read, not what the directory says: a pipe has none.
    File::open(path).map_err(io)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }

    /// Read first: fields of another format may not even have the same types.
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

/// Writes a result file: whole or not at all, over the one that was there. A device or a pipe is written to.
///
/// # Errors
/// What the system said. The file that was there is then untouched.
pub fn write(path: &Path, result: &RunResult) -> io::Result<()> {
    write_whole(path, |out| {
        serde_json::to_writer(&mut *out, result)?;
        out.write_all(b"\n")
    })
}

/// Writes a file of any text, such as the report: whole or not at all, over the one that was there.
///
/// # Errors
/// What the system said. The file that was there is then untouched.
pub fn write_text(path: &Path, text: &str) -> io::Result<()> {
    write_whole(path, |out| out.write_all(text.as_bytes()))
}

fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // Through a link, to the file that it names.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(path).is_ok_and(|to| !to.is_file() && !to.is_dir()) {
        // /dev/stdout, a pipe: nothing to be put in its place.
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
        // What is wrong is said already; a file that is left behind is no second error.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// JSON has no word for what is no number (a rate over no time) and says `null`. That loses no run.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the tool.
    pub version: String,
    /// The scenario's name.
    pub scenario: String,
    /// The arguments that it was started with, secrets left out.
    pub command: Vec<String>,
    /// RFC 3339, when the measured part began.
    pub started_at: String,
    /// Where the tool ran.
    pub machine: Machine,
    /// How busy the tool itself was; older versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Tool>,
    /// Base URLs of the nodes; their places are the `target` of what follows.
    pub targets: Vec<String>,
    /// What was to be driven.
    pub plan: Plan,
    /// One entry a second of the measured part, in order.
    pub seconds: Vec<Second>,
    /// Of the whole measured part: over everything, by kind of request, by target.
    pub total: Summary,
    /// By kind of request (`validate`, `check`, `login`, …).
    pub by_kind: BTreeMap<String, Summary>,
    /// By place in `targets`.
    pub by_target: Vec<Summary>,
    /// Revocations: from the node (place in `targets`) where it was said to the node that refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// What was done to the deployment, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultMark>,
    /// Answers that must not be: a 200 for what was revoked, a refusal of what is good.
    pub wrong: Vec<Wrong>,
    /// What was asked for by flags, and whether it held.
    pub objectives: Vec<Objective>,
    /// Steps of a search for the highest rate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<SearchStep>,
    /// Why the run ended before its time, when it did.
    pub stopped: Option<String>,
}

impl RunResult {
    /// How many answers were wrong: those that are told are only the first ones of each thread.
    #[must_use]
    pub fn wrong_answers(&self) -> u64 {
        let counted = self.total.errors_by_kind.get("wrong").copied().unwrap_or(0);
        // Some are told from outside of what was counted: of a warm-up.
        counted.max(self.wrong.len() as u64)
    }
}

/// Where the tool ran.
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
    /// Threads that drove.
    pub threads: usize,
    /// Of them, the most that one took of a core, by its CPU time: 1 is all of it.
    pub busiest_thread: f64,
}

/// What was to be driven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Plan {
    /// `open` (arrivals at a rate) or `closed` (as fast as answers come).
    pub model: String,
    /// Requests a second, in the open model; at the end of a ramp.
    pub rate: Option<f64>,
    pub connections: usize,
    /// `http1` or `h2c`.
    pub protocol: String,
    pub warm_up_s: f64,
    pub duration_s: f64,
    pub ramp_s: f64,
    pub users: usize,
    pub seed: u64,
    /// Older versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// What else is to be the same for two runs to be of the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Detail {
    /// Requests at a time on a connection: the pipeline, or the streams.
    pub depth: usize,
    /// Tokens in one request, when they are asked about in batches.
    pub batch: Option<usize>,
    /// Percentages of the validations.
    pub revoked: f64,
    pub forged: f64,
    pub expired: f64,
    /// Of the second lane: `1 %` of the rate, `8/s`, `as answers come`, or `none`.
    pub writes: String,
    pub zipf: f64,
    /// Of each user.
    pub sessions: usize,
    /// Of each session.
    pub tokens: usize,
    pub timeout_s: f64,
}

/// What happened in one second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Since the measured part began.
    pub at_s: u32,
    /// Over everything.
    pub all: Slice,
    /// By place in `targets`.
    pub by_target: Vec<Slice>,
}

/// Requests of one second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Slice {
    pub requests: u64,
    pub errors: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// A distribution of latencies and what was answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Answers and failures together.
    pub requests: u64,
    /// Requests a second.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// What did not get the answer that it should have.
    pub errors: u64,
    /// By kind: `connect`, `timeout`, `closed`, `status 503`, …
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Latency in microseconds.
    pub latency: Percentiles,
    /// `[percentile, microseconds]` for the plot, from 0 up to the highest that has a sample; 100 at most.
    pub curve: Vec<(f64, u64)>,
}

/// Microseconds.
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

/// How long a revocation took from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Place in `targets`: where the revoking call was sent.
    pub from: usize,
    /// Place in `targets`: who was asked.
    pub to: usize,
    /// From sending the revoking call to sending the first request that was refused.
    pub refused: Summary,
}

/// Something that was done to the deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultMark {
    /// Since the measured part began.
    pub at_s: f64,
    /// `kill`, `pause`, `resume`, `restart`, `cut`, `heal`, `run`.
    pub action: String,
    /// The node or the command's name.
    pub on: String,
    /// Whether it was done; the reason when not.
    pub failed: Option<String>,
}

/// An answer that must not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    /// Since the measured part began.
    pub at_s: f64,
    /// Place in `targets`.
    pub target: usize,
    /// What was asked, what was answered, what should have been: no token in it.
    pub what: String,
}

/// Something that had to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// As given: `p99<5ms`, `errors<0.1%`, `rate>50000`.
    pub text: String,
    /// Latencies in microseconds, errors as a ratio from 0 to 1, rates a second.
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
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        for run in [sample::whole(), sample::empty()] {
            write(&path, &run).unwrap();
            assert!(read(&path).unwrap() == run, "{} is not what was written", run.scenario);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_is_no_number_loses_no_run() {
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
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, &sample::empty()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_text(&link, "after").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        write_text(Path::new("/dev/null"), "nothing").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn other_formats_and_other_files_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).unwrap_err().to_string()
        };
        assert!(said(r#"{"format":2,"seconds":"something new"}"#).contains("of format 2"));
        assert!(said(r#"{"hello":"world"}"#).contains("not a result file"));
        assert!(said("GIF89a").contains("not a result file"));
        assert!(said("").contains("not a result file"));
        assert!(said(r#"{"format":1}"#).contains("missing field"));
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_file_without_the_fields_that_may_be_left_out_is_read() {
        let mut json = serde_json::to_value(sample::whole()).unwrap();
        for field in ["pairs", "faults", "search", "tool"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let run: RunResult = serde_json::from_value(json).unwrap();
        assert!(run.pairs.is_empty() && run.faults.is_empty() && run.search.is_empty() && run.tool.is_none());
    }
}
