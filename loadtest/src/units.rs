//! Parses values with units, as flags and objectives have them: durations, rates, lists of cores.
//!
//! Promises: an error names the text and shows a correct one. Never reads a value beyond its limit.

use std::time::Duration;

/// The longest duration, seconds: 30 days.
const DURATION_MAX_S: f64 = 30.0 * 86_400.0;
/// The highest rate, per second.
const RATE_MAX: f64 = 1e8;
/// Cores are numbered below this: Linux's limit for a CPU set.
const CORE_NUMBERS_MAX: usize = 1_024;

/// Parses `10s`, `5m`, `1h`, `250ms`, `1.5s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{text}` is not a duration: write 250ms, 10s, 5m, 8h or 1d")),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * scale).filter(|s| *s <= DURATION_MAX_S);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("`{text}` is not a duration of at most 30d"))
}

/// Parses a rate per second: `2000`, `2k`, `1.5M`.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix(['k', 'M']) {
        Some(number) => (number, if text.ends_with('k') { 1e3 } else { 1e6 }),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * scale);
    let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= RATE_MAX);
    rate.ok_or_else(|| format!("`{text}` is not a rate: write 2000, 2k or 0.5"))
}

/// Parses a list of cores: `0`, `0,2-3`.
pub fn cores(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("`{text}` is not a list of cores: write 0 or 0,2-3");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.parse().map_err(|_| wrong())?;
        let to: usize = to.parse().map_err(|_| wrong())?;
        if from > to || to >= CORE_NUMBERS_MAX {
            return Err(wrong());
        }
        all.extend(from..=to);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_with_their_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(["", "5", "s", "-1s", "1y", "99d", "1.2.3s"].iter().all(|text| duration(text).is_err()));
    }

    #[test]
    fn rates_are_parsed_with_their_multiple() {
        assert_eq!(rate("2k"), Ok(2_000.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert!(["", "0", "-1", "k", "nan", "1e99"].iter().all(|text| rate(text).is_err()));
    }

    #[test]
    fn lists_of_cores_are_parsed() {
        assert_eq!(cores("0,2-3"), Ok(vec![0, 2, 3]));
        assert!(["", "a", "3-2", "9999"].iter().all(|text| cores(text).is_err()));
    }
}
