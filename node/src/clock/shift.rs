//! In builds with debug assertions only: a file by which a test shifts the clocks of a node.
//!
//! `TEST_CLOCK_FILE` names it. It holds two whole numbers of seconds, the shifts of the wall clock and of
//! boot time. Release builds have none of this.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schema::Timestamp;

const VARIABLE: &str = "TEST_CLOCK_FILE";
/// The time between two reads of the file.
const READ_INTERVAL: Duration = Duration::from_millis(5);

/// The time between two rounds of upkeep of a node whose clocks a test shifts.
pub(super) const UPKEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Both shifts in one word, so that they change together: 32 bits of the wall clock's, 32 of boot time's.
static SHIFTS: AtomicU64 = AtomicU64::new(0);
static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Shifts a time of the wall clock.
pub(super) fn wall(now: Timestamp) -> Timestamp {
    let (by, _) = shifts();
    Timestamp::from_millis(now.as_millis().saturating_add_signed(by * 1_000))
}

/// Shifts a boot time.
pub(super) fn boot(elapsed: Duration) -> Duration {
    let (_, by) = shifts();
    let by_secs = Duration::from_secs(by.unsigned_abs());
    if by < 0 { elapsed.saturating_sub(by_secs) } else { elapsed + by_secs }
}

fn shifts() -> (i64, i64) {
    FILE.get_or_init(|| {
        let file = env::var_os(VARIABLE).map(PathBuf::from);
        if let Some(path) = file.clone() {
            read(&path);
            let _ = std::thread::Builder::new().name("test clock".into()).spawn(move || follow(&path));
        }
        file
    });
    let both = SHIFTS.load(Ordering::Acquire);
    let half = |bits: u64| i64::from(u32::try_from(bits & 0xffff_ffff).unwrap_or(0).cast_signed());
    (half(both >> 32), half(both))
}

#[allow(clippy::disallowed_methods, reason = "a thread of tests that watches a file")]
fn follow(path: &Path) -> ! {
    loop {
        std::thread::sleep(READ_INTERVAL);
        read(path);
    }
}

/// Whether a test shifts the clocks of this node.
pub(super) fn is_on() -> bool {
    shifts();
    FILE.get().is_some_and(Option::is_some)
}

/// Reads the file; an incomplete one changes nothing. The values are acknowledged in a file beside it.
fn read(path: &Path) {
    let Ok(text) = fs::read_to_string(path) else { return };
    let mut numbers = text.split_whitespace().map(|word| word.parse::<i32>().ok());
    if let (Some(Some(wall)), Some(Some(boot))) = (numbers.next(), numbers.next()) {
        let word = |secs: i32| u64::from(secs.cast_unsigned());
        let both = (word(wall) << 32) | word(boot);
        if SHIFTS.swap(both, Ordering::AcqRel) != both || !path.with_extension("read").exists() {
            let _ = fs::write(path.with_extension("read"), format!("{wall} {boot}"));
        }
    }
}
