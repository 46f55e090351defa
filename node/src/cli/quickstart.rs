//! A first node for trying Palisade: on this machine only, with a superuser whose random password is shown
//! once.
//!
//! Before it serves, the node checks itself: it logs the superuser in, validates the access token and logs
//! out again.

use std::net::{IpAddr, SocketAddr};

use schema::{Entropy, email::Email};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Failure, output};
use crate::{
    accounts::{Client, begin_session::LoginClient, login::LoginOutcome},
    app::App,
    boot::serve::{self, ServeError},
    operator::{Command, NewSuperuser, OperatorError},
    scheduling::source::Source,
    settings::{Settings, StoreSetting},
};

/// The superuser's email, unless a flag gives another.
pub(super) const EMAIL: &str = "root@example.org";

/// The superuser to create if there is none.
pub(super) struct Plan {
    pub(super) email: String,
    pub(super) first_name: Option<String>,
    pub(super) last_name: Option<String>,
    /// The password; without one, it is generated.
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) json: bool,
}

/// Checks that a quickstart is possible with these settings.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    let refused =
        |what: String| Err(Failure::Failed(format!("{what}; for anything else use `palisade serve`")));
    if !matches!(settings.store, StoreSetting::Embedded) {
        return refused("quickstart uses the embedded store, and PALISADE_STORE is another one".into());
    }
    let host = settings.listen.rsplit_once(':').map_or("", |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback()) {
        return refused(format!(
            "quickstart serves this machine only, and PALISADE_LISTEN is {}: leave it, or set it to 127.0.0.1:port",
            settings.listen
        ));
    }
    Ok(())
}

/// Serves until a signal stops the process.
pub(super) async fn serve(settings: Settings, plan: Plan) -> Result<(), Failure> {
    let prepare = async move |app: &App, address: SocketAddr| {
        let prepared = prepare(app, address, plan).await;
        prepared.map_err(|failure| ServeError::Prepare(failure.to_string()))
    };
    Ok(serve::serve_after(settings, prepare).await?)
}

async fn prepare(app: &App, address: SocketAddr, plan: Plan) -> Result<(), Failure> {
    let url = format!("http://{address}");
    if let Some(email) = app.any_superuser().await? {
        return output::say(&known(&url, &email, plan.json));
    }
    let email: Email = plan.email.parse().map_err(|why| OperatorError::Email(plan.email.clone(), why))?;
    if app.stores.users.by_email(&email.folded()).await?.is_some() {
        return Err(Failure::Failed(format!(
            "{} exists and is no superuser; give another --email, or run `palisade superuser create --promote`",
            plan.email
        )));
    }
    let random = plan.password.is_none();
    let password = plan.password.unwrap_or_else(|| random_password(&*app.entropy));
    // Show the password before it is set: an unseen password would lock out all users.
    let shown = random.then_some(password.as_str());
    let text = made(&url, &plan.email, shown, &app.data_dir.path().display().to_string(), plan.json);
    if random {
        output::print(&text)?;
    } else {
        output::say(&text)?;
    }
    let superuser = NewSuperuser {
        email: plan.email,
        password: password.to_string(),
        first_name: plan.first_name,
        last_name: plan.last_name,
        promote: false,
    };
    app.operate(Command::AppInit { superuser: Some(superuser) }).await?;
    prove(app, &email, &password).await
}

/// Logs the superuser in, validates the access token and logs out again, as a client would.
async fn prove(app: &App, email: &Email, password: &str) -> Result<(), Failure> {
    let client = Client {
        ip_address: IpAddr::from([127, 0, 0, 1]),
        user_agent: Some("palisade quickstart".into()),
        source: Source::OWN,
    };
    let from = LoginClient { client, device: None };
    let failed = |what: &str| Failure::Failed(format!("{what}; this is a defect, please report it"));
    let new = match app.accounts().log_in(&email.folded(), password, &from).await? {
        LoginOutcome::Session(new) => new,
        LoginOutcome::Locked(wait) => {
            let wait_s = wait.as_secs();
            return Err(Failure::Failed(format!(
                "the superuser was made; logging in is locked for {wait_s} s after failed attempts, so run it again then"
            )));
        }
        LoginOutcome::Refused => return Err(failed("the new superuser cannot log in")),
    };
    let token = app.tokens.issue(new.user, new.session, new.user_version)?;
    let claims = app.tokens.check(token.as_bytes(), || Source::OWN).await;
    let Ok(claims) = claims else { return Err(failed("the new superuser's token is refused")) };
    app.actors.sessions.end(claims.user, claims.session).await?;
    if app.tokens.check(token.as_bytes(), || Source::OWN).await.is_ok() {
        return Err(failed("the new superuser's token is good after the logout"));
    }
    tracing::info!(
        "self-check passed: the superuser logged in, its token was valid, and was refused after the logout"
    );
    Ok(())
}

fn known(url: &str, email: &str, json: bool) -> String {
    if json {
        return json!({ "url": url, "email": email, "created": false }).to_string();
    }
    format!(
        "Palisade serves {url}, with its documentation at {url}/apidocs/.\n\
         The superuser {email} is there already; nothing was changed. Ctrl-C ends the node."
    )
}

fn made(url: &str, email: &str, password: Option<&str>, data_dir: &str, json: bool) -> String {
    if json {
        return json!({ "url": url, "email": email, "password": password, "created": true }).to_string();
    }
    let body =
        json!({ "email": email, "password": password.unwrap_or("…") }).to_string().replace('\'', r"'\''");
    let password = match password {
        Some(password) => format!("{password}   (shown this once)"),
        None => "the one that you gave".to_owned(),
    };
    format!(
        "Palisade serves {url}, with its documentation at {url}/apidocs/. Its data is in {data_dir}.\n\n    \
             superuser   {email}\n    \
             password    {password}\n\n\
         To log in, validate the token and log out, from another terminal:\n\n    \
             token=$(curl -s {url}/api/v1/auth_token -H 'Content-Type: application/json' -d '{body}' | cut -d'\"' -f4)\n    \
             curl {url}/api/v1/auth_token/validation -H \"Authorization: Bearer $token\"\n    \
             curl -i -X DELETE {url}/api/v1/auth_token -H \"Authorization: Bearer $token\"\n\n\
         Ctrl-C ends the node; `palisade quickstart` goes on with the same data."
    )
}

/// A password of 120 random bits, in letters and digits that cannot be confused.
fn random_password(entropy: &dyn Entropy) -> Zeroizing<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = Zeroizing::new([0; 24]);
    entropy.fill(bytes.as_mut_slice());
    let groups: Vec<String> = bytes
        .chunks(6)
        .map(|chunk| chunk.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
        .collect();
    Zeroizing::new(groups.join("-"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{clock::SystemEntropy, credentials::passwords::Normalized};

    #[test]
    fn random_passwords_differ_and_pass_the_policy() {
        let one = random_password(&SystemEntropy);
        let other = random_password(&SystemEntropy);
        assert_ne!(*one, *other);
        assert_eq!(one.len(), 27);
        assert!(Normalized::new(&one).is_ok());
    }

    /// Runs the lines in a shell whose `curl` logs in like a node, and otherwise prints its arguments.
    #[test]
    fn printed_lines_log_in_validate_and_log_out() {
        const CURL: &str = r#"curl() {
            case "$*" in
                *" -d "*) for last; do :; done; echo "$last" >&2; printf '{"access_token":"a.b.c","x":"y"}' ;;
                *) echo "$*" ;;
            esac
        }"#;
        let text = made("http://127.0.0.1:1", "o'neill@example.org", Some("walls and gates"), "d", false);
        let lines = text.lines().filter(|line| line.contains("curl ")).collect::<Vec<_>>().join("\n");
        let shell = Command::new("sh").arg("-c").arg(format!("{CURL}\n{lines}")).output().unwrap();
        let body = serde_json::from_slice::<serde_json::Value>(&shell.stderr).unwrap();
        assert_eq!(body, json!({ "email": "o'neill@example.org", "password": "walls and gates" }));
        let said = String::from_utf8(shell.stdout).unwrap();
        let api = "http://127.0.0.1:1/api/v1/auth_token";
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                format!("{api}/validation -H Authorization: Bearer a.b.c"),
                format!("-i -X DELETE {api} -H Authorization: Bearer a.b.c"),
            ]
        );
    }
}
