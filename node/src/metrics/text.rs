//! Converts `OpenMetrics` 1.0 into Prometheus' text format 0.0.4, and negotiates between the two.
//!
//! In `OpenMetrics`, the name of a counter's sample ends with `_total` and that of its family does not; in
//! the older format both do. The older format has no units and no end mark.

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// `OpenMetrics` 1.0.
    OpenMetrics,
}

impl Format {
    /// The content type of the format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that the values of `Accept` prefer (RFC 9110, section 12.5.1). A client gets `OpenMetrics`
    /// only if it names it; a client that accepts neither gets Prometheus' format.
    pub fn preferred<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut open_metrics = 0;
        let mut plain = None::<(u8, u16)>;
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let Some(Range { kind, version, quality }) = Range::of(range) else { continue };
            let specific = match kind.as_str() {
                "application/openmetrics-text" if matches!(version.as_deref(), None | Some("1.0.0")) => {
                    open_metrics = quality.max(open_metrics);
                    continue;
                }
                "text/plain" if matches!(version.as_deref(), None | Some("0.0.4")) => 2,
                "text/*" => 1,
                "*/*" => 0,
                _ => continue,
            };
            // The most specific range determines the quality.
            plain = plain.max(Some((specific, quality)));
        }
        let plain = plain.map_or(0, |(_, quality)| quality);
        if open_metrics > 0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// A media range of `Accept`.
struct Range {
    kind: String,
    version: Option<String>,
    /// The quality in thousandths.
    quality: u16,
}

impl Range {
    fn of(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().filter(|kind| kind.contains('/'))?.to_ascii_lowercase();
        let mut version = None;
        let mut quality = 1000;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => version = Some(value.to_owned()),
                "q" => quality = thousandths(value)?,
                _ => {}
            }
        }
        Some(Self { kind, version, quality })
    }
}

/// Parses a quality value (RFC 9110, section 12.4.2) into thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    let fraction: u16 = if digits { format!("{fraction:0<3}").parse().ok()? } else { return None };
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

/// Converts metrics from `OpenMetrics` to Prometheus' text format.
#[must_use]
pub fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), about) => help = Some((name, about.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let total = if kind == "counter" { "_total" } else { "" };
                let kind = match kind {
                    "unknown" => "untyped",
                    "info" | "stateset" => "gauge",
                    other => other,
                };
                if let Some((_, about)) = help.take().filter(|(helped, _)| *helped == name) {
                    text.extend(["# HELP ", name, total, " ", &about.replace("\\\"", "\""), "\n"]);
                }
                text.extend(["# TYPE ", name, total, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_the_format() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/plain;version=0.0.4", Prometheus),
            ("text/plain", Prometheus),
            ("application/json", Prometheus),
            ("application/*", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text;version=2.0.0", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.6", Prometheus),
            ("application/openmetrics-text;q=0.6,text/plain;q=0.5", OpenMetrics),
            ("text/plain;q=0.3, */*;q=0.9, application/openmetrics-text;q=0.5", OpenMetrics),
            ("application/openmetrics-text;q=2", Prometheus),
            ("application/openmetrics-text;q=0.5.5,text/plain;q=0.1", Prometheus),
            // Prometheus 3.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            // Prometheus 3, configured to prefer the older format.
            (
                "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2",
                Prometheus,
            ),
        ] {
            assert_eq!(Format::preferred([accept]), format, "{accept}");
        }
        assert_eq!(Format::preferred([]), Prometheus);
        assert_eq!(
            Format::preferred(["text/plain;q=0.1", "application/openmetrics-text;q=0.2"]),
            OpenMetrics
        );
    }

    #[test]
    fn counters_are_renamed_and_new_elements_omitted() {
        let open_metrics = "# HELP a_b Says \\\"x\\\".\n# TYPE a_b counter\na_b_total{c=\"# TYPE\"} 1\n\
                            # HELP d_seconds D.\n# TYPE d_seconds gauge\n# UNIT d_seconds seconds\nd_seconds 2\n\
                            # HELP e E.\n# TYPE e unknown\ne 3\n# EOF\n";
        let expected = "# HELP a_b_total Says \"x\".\n# TYPE a_b_total counter\na_b_total{c=\"# TYPE\"} 1\n\
                        # HELP d_seconds D.\n# TYPE d_seconds gauge\nd_seconds 2\n\
                        # HELP e E.\n# TYPE e untyped\ne 3\n";
        assert_eq!(prometheus(open_metrics), expected);
    }
}
