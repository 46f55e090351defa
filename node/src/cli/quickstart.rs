//! The first node of somebody who tries Palisade: on this machine only, with a superuser whose password
//! nobody else knows.

use std::net::{IpAddr, SocketAddr};

use schema::{Entropy, email::Email};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Failure, output};
use crate::{
    app::App,
    operator::{Command, NewSuperuser, OperatorError},
    serve::{self, ServeError},
    settings::{Settings, StoreSetting},
};

/// Who the superuser is, unless a flag says otherwise.
pub(super) const EMAIL: &str = "root@example.org";

/// The superuser to be made when there is none.
pub(super) struct Plan {
    pub(super) email: String,
    pub(super) first_name: Option<String>,
    pub(super) last_name: Option<String>,
    /// A random one without it.
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) json: bool,
}

/// Whether it can be done with these settings.
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

/// Serves until told to stop.
pub(super) async fn serve(settings: Settings, plan: Plan) -> Result<(), Failure> {
    let prepare = async move |app: &App, address: SocketAddr| {
        let prepared = prepare(app, address, plan).await;
        prepared.map_err(|failure| ServeError::Prepare(failure.to_string()))
    };
    Ok(serve::serve_after(settings, prepare).await?)
}

async fn prepare(app: &App, address: SocketAddr, plan: Plan) -> Result<(), Failure> {
    let url = format!("http://{address}");
    if let Some(email) = app.a_superuser().await? {
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
    // Shown before it is set: a password that nobody has seen would lock everybody out.
    let shown = random.then_some(password.as_str());
    output::say(&made(&url, &plan.email, shown, &app.data_dir.path().display().to_string(), plan.json))?;
    let superuser = NewSuperuser {
        email: plan.email,
        password: password.to_string(),
        first_name: plan.first_name,
        last_name: plan.last_name,
        promote: false,
    };
    app.operate(Command::AppInit { superuser: Some(superuser) }).await?;
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
         To log in, from another terminal:\n\n    \
             curl {url}/api/v1/auth_token -H 'Content-Type: application/json' -d '{body}'\n\n\
         Ctrl-C ends the node; `palisade quickstart` goes on with the same data."
    )
}

/// 120 random bits, in letters and digits that are hard to take for each other.
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
    use super::*;
    use crate::{clock::SystemEntropy, passwords::Normalized};

    #[test]
    fn random_passwords_differ_and_may_be_passwords() {
        let (one, other) = (random_password(&SystemEntropy), random_password(&SystemEntropy));
        assert_ne!(*one, *other);
        assert_eq!(one.len(), 27);
        assert!(Normalized::new(&one).is_ok());
    }

    #[test]
    fn curl_line_survives_quotes() {
        let text = made("http://127.0.0.1:1", "o'neill@example.org", None, "d", false);
        assert!(text.contains(r"o'\''neill@example.org"), "{text}");
    }
}
