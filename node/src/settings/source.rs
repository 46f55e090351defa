//! Where settings come from, and which one wins.

use std::{collections::BTreeMap, path::Path};

use super::{SPECS, Settings, SettingsError, Spec, value};

/// Longest settings file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const PREFIX: &str = "PALISADE_";
/// Variables of ours that are no settings.
const OTHER_VARIABLES: &[&str] = &["CONFIG", "SUPERUSER_PASSWORD"];

/// What was given, before it is read.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// By setting name.
    pub flags: BTreeMap<&'static str, String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// `--config`, which beats `PALISADE_CONFIG`.
    pub config: Option<String>,
}

/// A value and how its source is called in errors.
pub(super) struct Given {
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads the settings; gives the warnings too.
///
/// # Errors
/// The first setting that is wrong.
pub fn read(sources: &Sources) -> Result<(Settings, Vec<String>), SettingsError> {
    let environment = |name: &str| sources.environment.get(&format!("{PREFIX}{name}"));
    let file = match sources.config.as_ref().or_else(|| environment("CONFIG")) {
        Some(path) => read_file(path)?,
        None => BTreeMap::new(),
    };
    let mut given = BTreeMap::new();
    for spec in SPECS {
        if let Some(value) = lookup(spec, sources, &file)? {
            given.insert(spec.name, value);
        }
    }
    Ok((value::settings(given)?, warnings(&sources.environment)))
}

fn lookup(
    spec: &Spec,
    sources: &Sources,
    file: &BTreeMap<String, String>,
) -> Result<Option<Given>, SettingsError> {
    let variable = format!("{PREFIX}{}", spec.name);
    let direct = sources.environment.get(&variable);
    let by_file = sources.environment.get(&format!("{variable}_FILE"));
    if direct.is_some() && by_file.is_some() {
        return Err(SettingsError::Both { name: variable });
    }
    if let Some(text) = sources.flags.get(spec.name) {
        return Ok(Some(Given { name: flag(spec), text: text.clone() }));
    }
    if let Some(text) = direct {
        return Ok(Some(Given { name: variable, text: text.clone() }));
    }
    if let Some(path) = by_file {
        let name = format!("{variable}_FILE");
        let text = read_bounded(path).map_err(|why| SettingsError::File {
            name: name.clone(),
            path: path.clone(),
            why,
        })?;
        return Ok(Some(Given { name, text: text.trim_end_matches(['\r', '\n']).to_owned() }));
    }
    let key = spec.name.to_lowercase();
    let text = file.get(&key).cloned();
    Ok(text
        .map(|text| Given { name: format!("{key} in the settings file"), text })
        .or_else(|| spec.default.map(|text| Given { name: variable, text: text.to_owned() })))
}

/// `--access-ttl` of `ACCESS_TTL`.
pub(crate) fn flag(spec: &Spec) -> String {
    format!("--{}", spec.name.to_lowercase().replace('_', "-"))
}

fn read_file(path: &str) -> Result<BTreeMap<String, String>, SettingsError> {
    let unreadable =
        |why: String| SettingsError::File { name: "--config".into(), path: path.to_owned(), why };
    let text = read_bounded(path).map_err(unreadable)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // The message of the error alone: its snippet could show a secret.
        unreadable(format!("it is no TOML: {}", error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !SPECS.iter().any(|spec| spec.name.to_lowercase() == key) {
            let known: Vec<_> = SPECS.iter().map(|spec| spec.name.to_lowercase()).collect();
            return Err(SettingsError::UnknownKey { path: path.to_owned(), key, known: known.join(", ") });
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(value) => value.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                return Err(SettingsError::Wrong {
                    name: format!("{key} in {path}"),
                    given: format!("a {}", other.type_str()),
                    allowed: "a string".into(),
                });
            }
        };
        values.insert(key, text);
    }
    Ok(values)
}

fn read_bounded(path: &str) -> Result<String, String> {
    let length = std::fs::metadata(Path::new(path)).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("it has {length} bytes, more than {MAX_FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn warnings(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known = |name: &str| {
        let name = name.strip_suffix("_FILE").unwrap_or(name);
        OTHER_VARIABLES.contains(&name) || SPECS.iter().any(|spec| spec.name == name)
    };
    let ours = environment.keys().filter(|key| key.strip_prefix(PREFIX).is_some_and(|name| !known(name)));
    ours.map(|key| format!("{key} is no setting of this version and changes nothing")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)]) -> Sources {
        Sources {
            flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            config: None,
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn error(sources: &Sources) -> String {
        read(sources).err().expect("an error").to_string()
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let toml = file("access_ttl = \"1m\"\nrefresh_ttl = \"1d\"\nissuer = \"file\"");
        let mut given = sources(
            &[("ACCESS_TTL", "3m")],
            &[("PALISADE_ACCESS_TTL", "2m"), ("PALISADE_REFRESH_TTL", "2d")],
        );
        given.config = Some(toml.path().to_str().unwrap().to_owned());
        let (settings, warnings) = read(&given).unwrap();
        assert_eq!(settings.access_ttl, Duration::from_secs(180));
        assert_eq!(settings.refresh_ttl, Duration::from_secs(2 * 86_400));
        assert_eq!((settings.issuer.as_str(), settings.audience.as_str()), ("file", "palisade"));
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_file_may_hold_the_value() {
        let secret = file(&format!("{}\n", "A".repeat(43) + "="));
        let path = secret.path().to_str().unwrap();
        let (settings, _) = read(&sources(&[], &[("PALISADE_MASTER_KEY_FILE", path)])).unwrap();
        assert_eq!(**settings.master_key.as_ref().unwrap(), [0; 32]);
        let both = sources(&[], &[("PALISADE_MASTER_KEY_FILE", path), ("PALISADE_MASTER_KEY", "x")]);
        assert!(
            error(&both).contains("PALISADE_MASTER_KEY and PALISADE_MASTER_KEY_FILE"),
            "{}",
            error(&both)
        );
        let absent = error(&sources(&[], &[("PALISADE_ISSUER_FILE", "/nowhere/at/all")]));
        assert!(absent.contains("PALISADE_ISSUER_FILE") && absent.contains("/nowhere/at/all"), "{absent}");
    }

    #[test]
    fn wrong_values_are_named_with_what_is_allowed() {
        for (name, value) in [
            ("LISTEN", "nonsense"),
            ("LISTEN", "host:99999"),
            ("SIGNING_ALGORITHM", "none"),
            ("ACCESS_TTL", "15"),
            ("ACCESS_TTL", "0s"),
            ("ACCESS_TTL", "25h"),
            ("REFRESH_GRACE", "6m"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("CORS_ORIGINS", "example.org"),
            ("LOGIN_ACCOUNT_FAILURES", "10"),
            ("LOG_FORMAT", "xml"),
            ("LOG", "palisade=loud"),
            ("NODE_NAME", "a b"),
            ("ISSUER", ""),
        ] {
            let text = error(&sources(&[(name, value)], &[]));
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            assert!(text.contains(&flag) && text.contains(value) && text.contains("allowed"), "{text}");
        }
    }

    #[test]
    fn a_wrong_secret_is_not_shown() {
        for store in
            ["cql://user:hunter2@host", "cql://hunter2@", "postgres://user:hunter2@host/db", "hunter2"]
        {
            let text = error(&sources(&[("STORE", store)], &[]));
            assert!(text.contains("--store") && !text.contains("hunter2"), "{text}");
        }
        let text = error(&sources(&[("REDIS", "rediss://:hunter2@host")], &[]));
        assert!(text.contains("--redis") && !text.contains("hunter2"), "{text}");
        let text = error(&sources(&[], &[("PALISADE_MASTER_KEY", "hunter2hunter2")]));
        assert!(text.contains("PALISADE_MASTER_KEY") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_shared_store_needs_a_master_key() {
        let text = error(&sources(&[("STORE", "cql://user:hunter2@host/keyspace")], &[]));
        assert!(text.contains("PALISADE_MASTER_KEY") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_readme_has_every_setting_with_its_default() {
        let readme = include_str!("../../../README.md");
        for spec in SPECS {
            let row = readme
                .lines()
                .find(|line| line.starts_with('|') && line.contains(&format!("`{}`", spec.name)));
            let row = row.unwrap_or_else(|| panic!("{} is not in the README's table", spec.name));
            assert!(spec.default.is_none_or(|default| row.contains(&format!("`{default}`"))), "{row}");
            assert!(!spec.flag || row.contains(&format!("`{}`", flag(spec))), "{row}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_and_unknown_variables_warnings() {
        let toml = file("acces_ttl = \"1m\"");
        let mut given = sources(&[], &[("PALISADE_SERVICE_PORT", "80"), ("OTHER", "x")]);
        assert_eq!(read(&given).unwrap().1.len(), 1);
        given.config = Some(toml.path().to_str().unwrap().to_owned());
        assert!(error(&given).contains("acces_ttl"), "{}", error(&given));
        for text in ["issuer = ", "issuer = 1.5", "[issuer]\nx = 1"] {
            let toml = file(text);
            given.config = Some(toml.path().to_str().unwrap().to_owned());
            assert!(read(&given).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(setting in 0..SPECS.len(), text: String) {
            let given = sources(&[(SPECS[setting].name, &text)], &[]);
            let _ = read(&given);
        }

        #[test]
        fn no_file_makes_it_panic(text: String) {
            let toml = file(&text);
            let mut given = sources(&[], &[]);
            given.config = Some(toml.path().to_str().unwrap().to_owned());
            let _ = read(&given);
        }
    }
}
