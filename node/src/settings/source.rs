//! Reads settings from their sources, in order of precedence.
//!
//! An empty text is no value, in every source: a flag, a variable, a key of the file, a file that a variable
//! names. This module checks all text once for all settings: [`value`] receives UTF-8 without control
//! characters.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use zeroize::Zeroizing;

use super::{SPECS, Settings, SettingsError, Spec, file::read_regular, value};

/// Bytes of a settings file, or of a file that holds one value, at most.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const PREFIX: &str = "PALISADE_";
/// The variable that holds the path of the settings file.
const CONFIG: &str = "CONFIG";
/// The variable that holds the password of a superuser that a command creates.
const SUPERUSER_PASSWORD: &str = "SUPERUSER_PASSWORD";
/// Palisade's variables that are no settings. Each also has a `_FILE` form.
const OTHER_VARIABLES: &[&str] = &[CONFIG, SUPERUSER_PASSWORD];

/// The sources of settings, before they are parsed.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// The values of flags, by setting name.
    pub flags: BTreeMap<&'static str, String>,
    /// All environment variables.
    pub environment: BTreeMap<OsString, OsString>,
    /// The value of `--config`, which beats `PALISADE_CONFIG`.
    pub config: Option<String>,
}

/// A value, with the name of its source for errors.
pub(super) struct Given {
    pub(super) name: String,
    pub(super) text: String,
}

impl Sources {
    /// The flags, and the environment of this process.
    #[must_use]
    pub fn of_this_process(flags: BTreeMap<&'static str, String>, config: Option<String>) -> Self {
        Self { flags, environment: std::env::vars_os().collect(), config }
    }

    /// The text of `PALISADE_<name>`, or of the file that `PALISADE_<name>_FILE` names, without its final
    /// line break. Adds a warning for an empty file.
    ///
    /// # Errors
    /// If both are set, the text is not UTF-8, or the file cannot be read.
    fn variable(&self, name: &str, warnings: &mut Vec<String>) -> Result<Option<Given>, SettingsError> {
        let variable = format!("{PREFIX}{name}");
        let named = format!("{variable}_FILE");
        let set = |name: &str| self.environment.get(OsStr::new(name)).filter(|value| !value.is_empty());
        match (set(&variable), set(&named)) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(SettingsError::Both { name: variable }),
            (Some(text), None) => match text.to_str() {
                Some(text) => Ok(Some(Given { name: variable, text: text.to_owned() })),
                None => Err(SettingsError::NotText { name: variable }),
            },
            (None, Some(path)) => {
                let text = read_text(Path::new(path)).map_err(|why| SettingsError::File {
                    name: named.clone(),
                    path: path.display().to_string(),
                    why,
                })?;
                let text = text.trim_end_matches(['\r', '\n']);
                if text.is_empty() {
                    let path = path.display().to_string();
                    warnings.push(format!("{named} names the empty file {path:?}, so {variable} is not set"));
                    return Ok(None);
                }
                Ok(Some(Given { name: named, text: text.to_owned() }))
            }
        }
    }

    /// The password of a superuser that a command creates: `PALISADE_SUPERUSER_PASSWORD`, or the content of
    /// the file that `PALISADE_SUPERUSER_PASSWORD_FILE` names.
    ///
    /// # Errors
    /// As for a setting. The password policy is not checked here.
    pub fn superuser_password(&self) -> Result<Option<Zeroizing<String>>, SettingsError> {
        let given = self.variable(SUPERUSER_PASSWORD, &mut Vec::new())?;
        Ok(given.map(|given| Zeroizing::new(given.text)))
    }
}

/// Reads and validates the settings. Returns them with warnings.
///
/// Every command reads its settings here, so `check-config` and a starting node accept the same values.
///
/// # Errors
/// The first setting that is wrong.
pub fn read(sources: &Sources) -> Result<(Settings, Vec<String>), SettingsError> {
    let mut warnings = unknown_variables(sources);
    let flag = sources.config.clone().filter(|path| !path.is_empty());
    let flag = flag.map(|text| Given { name: "--config".into(), text });
    let variable = sources.variable(CONFIG, &mut warnings)?;
    let file = match flag.or(variable) {
        Some(given) => read_file(&given)?,
        None => BTreeMap::new(),
    };
    let mut given = BTreeMap::new();
    for spec in SPECS {
        if let Some(value) = lookup(spec, sources, &file, &mut warnings)? {
            given.insert(spec.name, value);
        }
    }
    let settings = value::settings(given, &mut warnings)?;
    // A command that creates a superuser reads it again; here every command reports a mistake.
    sources.superuser_password()?;
    Ok((settings, warnings))
}

fn lookup(
    spec: &Spec,
    sources: &Sources,
    file: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<Option<Given>, SettingsError> {
    // Always read: setting both a variable and its file is a mistake even if a flag beats them.
    let by_variable = sources.variable(spec.name, warnings)?;
    let by_flag = sources.flags.get(spec.name).filter(|text| !text.is_empty());
    let by_flag = by_flag.map(|text| Given { name: spec.flag_name(), text: text.clone() });
    let by_file = || {
        let key = spec.name.to_lowercase();
        let text = file.get(&key).filter(|text| !text.is_empty())?.clone();
        Some(Given { name: format!("{key} in the settings file"), text })
    };
    let by_default = || {
        let text = spec.default?.to_owned();
        Some(Given { name: format!("{PREFIX}{}", spec.name), text })
    };
    let given = by_flag.or(by_variable).or_else(by_file).or_else(by_default);
    given.map(|given| plain(spec, given)).transpose()
}

/// Rejects line breaks, control and invisible characters, since values go into tokens, paths and logs.
fn plain(spec: &Spec, mut given: Given) -> Result<Given, SettingsError> {
    if !spec.flag {
        // Tools that generate secrets often end them with a line break.
        given.text.truncate(given.text.trim_end().len());
    }
    if !given.text.chars().any(char::is_control) {
        return Ok(given);
    }
    let shown = value::shown(spec.name, &given.text);
    Err(SettingsError::Wrong { name: given.name, given: shown, allowed: NO_CONTROL.into() })
}

const NO_CONTROL: &str = "text without control characters (such as a carriage return at the end of a line)";

fn read_file(given: &Given) -> Result<BTreeMap<String, String>, SettingsError> {
    let path = &given.text;
    let unreadable =
        |why: String| SettingsError::File { name: given.name.clone(), path: path.to_owned(), why };
    let text = read_text(Path::new(path)).map_err(unreadable)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // Only the message of the error: its snippet could reveal a secret.
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| format!(" in line {}", 1 + before.matches('\n').count()));
        let line = line.unwrap_or_default();
        unreadable(format!("it is no TOML{line}: {}", error.message().replace('\n', ", ")))
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
                    name: format!("{key} in {path:?}"),
                    given: format!("of the type {}", other.type_str()),
                    allowed: "a string".into(),
                });
            }
        };
        values.insert(key, text);
    }
    Ok(values)
}

/// Reads the text of a regular file, without a byte order mark.
fn read_text(path: &Path) -> Result<String, String> {
    let bytes = read_regular(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn unknown_variables(sources: &Sources) -> Vec<String> {
    let known = |name: &str| {
        let name = name.strip_suffix("_FILE").unwrap_or(name);
        OTHER_VARIABLES.contains(&name) || SPECS.iter().any(|spec| spec.name == name)
    };
    let ours = |key: &&OsString| {
        let is_ours = key.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        is_ours && !key.to_str().and_then(|key| key.strip_prefix(PREFIX)).is_some_and(known)
    };
    let unknown = sources.environment.keys().filter(ours).map(|key| key.to_string_lossy());
    unknown
        .map(|key| format!("{} is no setting of this version and changes nothing", key.escape_debug()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)]) -> Sources {
        Sources {
            flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
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
    fn file_may_hold_the_value() {
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
            ("ISSUER", " x"),
        ] {
            let text = error(&sources(&[(name, value)], &[]));
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            assert!(text.contains(&flag) && text.contains(value) && text.contains("allowed"), "{text}");
        }
    }

    #[test]
    fn wrong_secret_is_not_shown() {
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
    fn shared_store_needs_a_master_key() {
        let text = error(&sources(&[("STORE", "cql://user:hunter2@host/keyspace")], &[]));
        assert!(text.contains("PALISADE_MASTER_KEY") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn accepted_secret_needs_another_one_beside_it() {
        let one = STANDARD.encode([1; 32]);
        let other = STANDARD.encode([2; 32]);
        for name in ["PALISADE_MASTER_KEY", "PALISADE_CLUSTER_SECRET"] {
            let accepted = format!("{name}_ACCEPTED");
            let text = error(&sources(&[], &[(&accepted, &other)]));
            assert!(text.contains(&accepted) && !text.contains(&other), "{text}");
            let warnings =
                |accepts: &str| read(&sources(&[], &[(name, &one), (&accepted, accepts)])).unwrap().1;
            let is_named = |warnings: &[String]| warnings.iter().any(|warning| warning.contains(&accepted));
            assert!(is_named(&warnings(&one)) && !is_named(&warnings(&other)), "{name}");
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

    /// Values that cause trouble in a path, a header, a token, a log line or a lookup.
    const HOSTILE: &[&str] = &[
        " ",
        ",",
        "\r",
        "a\r\n",
        "\u{1b}[2J",
        "a\u{0}b",
        "\u{202e}a",
        "\u{feff}a",
        "~",
        "\"a\"",
        "'a'",
        "$HOME",
        "http://0.0.0.0:8080",
        "-1",
        "+1",
        "0x10",
        "1e9",
        "NaN",
        "99999999999999999999999",
        "18446744073709551615s",
        "999999999999d",
        "true",
        "null",
        "warning",
        "../../etc/passwd",
        "${jndi:ldap://x}",
        "%00",
        "host:99999",
        ":::",
        "[::",
    ];

    /// The settings that accept some of the values above, and which.
    const TAKES: &[(&str, &str)] = &[
        (
            "DATA_DIR",
            "-1 +1 0x10 1e9 NaN 99999999999999999999999 18446744073709551615s 999999999999d true null warning ../../etc/passwd , %00 host:99999 ::: [::",
        ),
        ("CORS_ORIGINS", "http://0.0.0.0:8080"),
        ("OTLP_ENDPOINT", "http://0.0.0.0:8080"),
        ("ISSUER", "*"),
        ("AUDIENCE", "*"),
        (
            "CLUSTER_NAME",
            "0x10 1e9 NaN 99999999999999999999999 18446744073709551615s 999999999999d true null warning host:99999",
        ),
        (
            "NODE_NAME",
            "0x10 1e9 NaN 99999999999999999999999 18446744073709551615s 999999999999d true null warning host:99999",
        ),
    ];

    #[test]
    fn hostile_values_are_refused_by_name_in_one_line() {
        for spec in SPECS {
            for value in HOSTILE {
                let variable = format!("{PREFIX}{}", spec.name);
                let given = sources(&[], &[(&variable, value)]);
                let Err(error) = read(&given) else {
                    let takes =
                        TAKES.iter().find(|(name, _)| *name == spec.name).map_or("", |(_, takes)| takes);
                    let is_text =
                        takes == "*" && !value.contains(value::is_invisible) && value.trim() == *value;
                    // The check of another setting may be in another crate, or newer than this table.
                    let is_listed = takes.split(' ').any(|taken| taken == *value);
                    assert!(is_text || is_listed, "{} takes {value:?}", spec.name);
                    continue;
                };
                let error = error.to_string();
                assert!(error.contains(spec.name), "{} with {value:?}: {error}", spec.name);
                assert!(!error.contains(char::is_control), "{} with {value:?}: {error:?}", spec.name);
            }
        }
    }

    #[test]
    fn empty_values_are_unset() {
        let empty = file("\r\n");
        let path = empty.path().to_str().unwrap();
        let toml = file(
            &SPECS.iter().map(|spec| format!("{} = \"\"\n", spec.name.to_lowercase())).collect::<String>(),
        );
        for spec in SPECS {
            let variable = format!("{PREFIX}{}", spec.name);
            let named = format!("{PREFIX}{}_FILE", spec.name);
            let flags: &[_] = if spec.flag { &[(spec.name, "")] } else { &[] };
            let mut given = sources(flags, &[(&variable, ""), (&named, "")]);
            given.config = Some(toml.path().to_str().unwrap().to_owned());
            assert!(read(&given).is_ok_and(|(_, warnings)| warnings.is_empty()), "{}", spec.name);
            let (_, warnings) = read(&sources(&[], &[(&named, path), (&variable, "")])).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(&named), "{warnings:?}");
        }
        let (settings, _) = read(&sources(&[("ISSUER", "")], &[("PALISADE_ISSUER", "variable")])).unwrap();
        assert_eq!(settings.issuer, "variable");
    }

    #[test]
    fn log_filters_keep_errors_of_unnamed_targets() {
        use tracing_subscriber::{EnvFilter, filter::LevelFilter};
        for text in
            ["info", "ERROR", "palisade=debug", "node=off", "hyper=trace,scylla=warn", "warn,palisade=info"]
        {
            let filter = read(&sources(&[("LOG", text)], &[])).unwrap().0.log.filter;
            let base: LevelFilter = filter.split(',').next().unwrap().parse().unwrap();
            assert!(base >= LevelFilter::ERROR, "{text}: {filter}");
            assert!(EnvFilter::try_new(&filter).is_ok(), "{text}: {filter}");
        }
        let (settings, warnings) = read(&sources(&[("LOG", "palisade=debug,palisde=debug")], &[])).unwrap();
        assert!(settings.log.filter.contains("store_redb=debug"), "{}", settings.log.filter);
        assert!(warnings.iter().any(|warning| warning.contains("palisde")), "{warnings:?}");
    }

    #[test]
    fn listeners_on_one_address_are_refused() {
        for (listen, operators, apart) in [
            ("127.0.0.1:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::1]:80", "[::]:80", false),
            ("localhost:80", "localhost:80", false),
            ("localhost:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "localhost:80", false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", false),
            ("localhost:80", "localhost:81", true),
            ("127.0.0.1:80", "127.0.0.2:80", true),
            ("0.0.0.0:80", "[::1]:80", true),
            ("localhost:80", "[::1]:80", false),
            ("LOCALHOST.:80", "127.0.0.1:80", false),
            ("[::]:80", "localhost:80", false),
            ("node.example:80", "NODE.example:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", true),
            ("127.0.0.1:80", "127.0.0.1:81", true),
        ] {
            let given = sources(&[("LISTEN", listen), ("OPERATOR_LISTEN", operators)], &[]);
            assert_eq!(read(&given).is_ok(), apart, "{listen} {operators}");
        }
    }

    #[test]
    fn wrong_values_are_shown_without_passwords() {
        for (text, shown) in [
            ("http://x", "http://x"),
            ("cql://a:b@h:1,i:2/K?tls=S3CRET", "cql://(hidden)@h:1,i:2/K?(hidden)"),
            ("redis://:S3C/R@E?T@h", "redis://(hidden)@h"),
            ("cql://user:S3CRET", "cql://(hidden)"),
            ("cql://[::1]/K", "cql://[::1]/K"),
            ("postgres", "postgres"),
            ("S3CRET", "(hidden)"),
        ] {
            assert_eq!(value::shown("STORE", text), shown);
        }
        assert_eq!(value::shown("MASTER_KEY", "postgres"), "(hidden)");
    }

    proptest::proptest! {
        #[test]
        fn accepted_texts_have_no_controls(text in "\\PC{0,4}[\\x00-\\x1f\u{7f}-\u{9f}]\\PC{0,4}") {
            for spec in SPECS.iter().filter(|spec| spec.flag) {
                assert!(read(&sources(&[(spec.name, &text)], &[])).is_err(), "{}", spec.name);
            }
        }

        #[test]
        fn no_text_causes_a_panic(setting in 0..SPECS.len(), text: String) {
            let given = sources(&[(SPECS[setting].name, &text)], &[]);
            let _ = read(&given);
        }

        #[test]
        fn no_file_causes_a_panic(text: String) {
            let toml = file(&text);
            let mut given = sources(&[], &[]);
            given.config = Some(toml.path().to_str().unwrap().to_owned());
            let _ = read(&given);
        }
    }
}
