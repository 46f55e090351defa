//! Formats numbers with their units, and foreign text, for people.
//!
//! Promises: escaped text is safe in HTML, and truncated text has a bounded length.

use std::fmt::Write as _;

use crate::{busy::BUSY_SHARE, result::RunResult};

/// Escapes foreign text for HTML text and quoted attributes. Control characters and those that change the
/// direction of writing become U+FFFD, so that a name cannot rearrange the text beside it.
pub fn escape(foreign: &str) -> String {
    let mut out = String::with_capacity(foreign.len() + 8);
    for c in foreign.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Cuts a text to at most `most` characters, with an ellipsis. Does not escape it.
pub fn truncate(foreign: &str, most: usize) -> String {
    if foreign.chars().count() <= most {
        return foreign.to_owned();
    }
    foreign.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The name of a node: its number from 1, and its base URL without the scheme.
pub fn node_name(targets: &[String], place: usize) -> String {
    match targets.get(place) {
        Some(url) => {
            let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            format!("{} · {}", place + 1, truncate(host.trim_end_matches('/'), 40))
        }
        None => format!("{}", place + 1),
    }
}

/// `312 µs`, `4.28 ms`, `1.2 s`.
pub fn micros(us: f64) -> String {
    if !us.is_finite() {
        "–".into()
    } else if us < 999.5 {
        format!("{} µs", digits(us, 3))
    } else if us < 999_500.0 {
        format!("{} ms", digits(us / 1e3, 3))
    } else {
        format!("{} s", digits(us / 1e6, 3))
    }
}

/// `4,523,112`.
pub fn count(n: u64) -> String {
    let plain = n.to_string();
    let mut out = String::with_capacity(plain.len() + plain.len() / 3);
    for (i, c) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `49,872`, `12.5`: a number of requests a second, without its unit.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() {
        "–".into()
    } else if per_second < 99.95 {
        digits(per_second, 3)
    } else {
        count(round_u64(per_second))
    }
}

/// `0.043 %` of a ratio from 0 to 1.
pub fn percent(ratio: f64) -> String {
    if !ratio.is_finite() {
        return "–".into();
    }
    if ratio > 0.0 && ratio < 0.000_000_1 {
        return "≪ 0.0001 %".into();
    }
    format!("{} %", digits(ratio * 100.0, 2))
}

/// `12.5 s`, `1:30`, `2:00:05` since the start.
pub fn moment(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "–".into();
    }
    if seconds < 60.0 {
        return format!("{} s", digits(seconds, 3));
    }
    // Within a second, the second that has begun.
    let s = round_u64(seconds.floor());
    if s < 3_600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
    }
}

/// A duration of a plan: `10 s`, `5 min`, `1 h 30 min`.
pub fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 120.0 || seconds.fract() != 0.0 {
        return format!("{} s", digits(seconds, 3));
    }
    let s = round_u64(seconds);
    let mut out = String::new();
    for (n, unit) in [(s / 3_600, "h"), (s / 60 % 60, "min"), (s % 60, "s")] {
        if n > 0 {
            let _ = write!(out, "{}{n} {unit}", if out.is_empty() { "" } else { " " });
        }
    }
    out
}

/// A remark if the tool itself may be the bottleneck: in the result, or in a step of a search.
pub fn bottleneck(run: &RunResult) -> Option<String> {
    let shown = run.tool.as_ref().map_or(0.0, |tool| tool.busiest_thread);
    let busiest = run.search.iter().map(|step| step.busiest_thread).fold(shown, f64::max);
    let at = if run.search.is_empty() { "" } else { " in a step of the search" };
    (busiest >= BUSY_SHARE).then(|| {
        format!(
            "the tool itself may be the bottleneck: its busiest thread took {} of a core{at}. Give it more --threads \
             and cores, or another machine",
            percent(busiest)
        )
    })
}

/// The value with this many significant digits, without zeros at the end of a fraction.
pub fn digits(value: f64, significant: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    #[allow(clippy::cast_possible_truncation, reason = "the logarithm of a finite f64 is within ±324")]
    let magnitude = value.abs().log10().floor() as i32;
    let places = usize::try_from((significant - 1 - magnitude).clamp(0, 12)).unwrap_or(0);
    let out = format!("{value:.places$}");
    if out.contains('.') { out.trim_end_matches('0').trim_end_matches('.').to_owned() } else { out }
}

/// The value rounded; 0 if it is negative or NaN.
pub fn round_u64(value: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let n = value.max(0.0).round() as u64;
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        assert_eq!(micros(0.0), "0 µs");
        assert_eq!(micros(312.0), "312 µs");
        assert_eq!(micros(999.7), "1 ms");
        assert_eq!(micros(4_284.0), "4.28 ms");
        assert_eq!(micros(999_700.0), "1 s");
        assert_eq!(micros(12_345_678.0), "12.3 s");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(4_523_112), "4,523,112");
        assert_eq!(rate(12.51), "12.5");
        assert_eq!(rate(49_871.6), "49,872");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.000_43), "0.043 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(moment(41.37), "41.4 s");
        assert_eq!(moment(90.0), "1:30");
        assert_eq!(moment(7_205.0), "2:00:05");
        assert_eq!(span(10.0), "10 s");
        assert_eq!(span(5_400.0), "1 h 30 min");
        assert_eq!(span(0.0), "0 s");
        for f in [micros, rate, percent, moment] {
            assert_eq!(f(f64::NAN), "–");
        }
    }

    #[test]
    fn busy_tool_is_named_as_the_bottleneck() {
        let mut run = crate::result::sample::run(1, 10, 1, 1.0);
        assert_eq!(bottleneck(&run), None);
        run.tool.as_mut().unwrap().busiest_thread = 0.97;
        assert!(bottleneck(&run).unwrap().contains("took 97 % of a core."));
        let mut searched = crate::result::sample::whole();
        assert_eq!(bottleneck(&searched), None);
        searched.search[3].busiest_thread = 0.9;
        assert!(bottleneck(&searched).unwrap().contains("took 90 % of a core in a step of the search."));
        searched.tool = None;
        assert!(bottleneck(&searched).is_some());
    }

    #[test]
    fn foreign_text_is_escaped() {
        assert_eq!(escape(r#"<b a="1" b='2'>&"#), "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;");
        assert_eq!(escape("a\u{202e}b\u{0}c\nd"), "a\u{fffd}b\u{fffd}c d");
        assert_eq!(truncate("ålesund", 4), "åle…");
    }

    #[test]
    fn node_is_named_by_number_and_host() {
        let targets = ["http://10.0.0.1:8080/".to_owned()];
        assert_eq!(node_name(&targets, 0), "1 · 10.0.0.1:8080");
        assert_eq!(node_name(&targets, 7), "8");
    }
}
