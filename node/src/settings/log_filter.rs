//! The setting `LOG`, which selects the logged lines.

use tracing_subscriber::EnvFilter;

/// The allowed filters, in words for errors.
pub(super) const ALLOWED: &str = "off, error, warn, info, debug, trace, and target=level, separated by commas, \
                   as in warn,palisade=debug";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The level of targets that no directive names.
const BASE: &str = "info";
/// The crates of this workspace that log. The target `palisade` stands for them.
const OURS: [&str; 7] = ["actors", "cache_redis", "cluster", "node", "schema", "store_redb", "store_scylla"];
/// The libraries that log.
const LIBRARIES: [&str; 12] = [
    "axum",
    "chitchat",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "ractor",
    "redis",
    "rustls",
    "scylla",
    "tokio",
    "tower_http",
];

/// Parses a `tracing` filter; `None` if the text is not one. The result always has a level for targets
/// without a level of their own: otherwise a filter with a misspelt word would switch off the whole log.
pub(super) fn parse(text: &str, warnings: &mut Vec<String>) -> Option<String> {
    let level = |text: &str| LEVELS.into_iter().find(|level| level.eq_ignore_ascii_case(text));
    let mut base = None;
    let mut directives = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Some((target, name)) = part.split_once('=') else {
            if base.replace(level(part)?).is_some() {
                return None;
            }
            continue;
        };
        let level = level(name)?;
        let is_ident = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !target.split("::").all(is_ident) {
            return None;
        }
        let root = target.split("::").next().unwrap_or_default();
        if target == "palisade" {
            directives.extend(OURS.map(|ours| format!("{ours}={level}")));
        } else {
            if !OURS.contains(&root) && !LIBRARIES.contains(&root) {
                let known: Vec<_> = ["palisade"].iter().chain(&OURS).chain(&LIBRARIES).copied().collect();
                let known = known.join(", ");
                warnings.push(format!(
                    "PALISADE_LOG names the target {target}, which is unknown; known: {known}"
                ));
            }
            directives.push(format!("{target}={level}"));
        }
    }
    directives.insert(0, base.unwrap_or(BASE).to_owned());
    let filter = directives.join(",");
    EnvFilter::try_new(&filter).ok().map(|_| filter)
}
