//! `films`: a small service that shows how to use Palisade.
//!
//! `GET /api/v1/films` gives all callers the films rated up to 7.0, and holders of `pro_read` the others, too.
//! The service asks Palisade what the caller may do ([`verify`]). It answers within 300 ms whatever
//! Palisade does: what it cannot learn, it says with `X-Auth-Degraded: true`, and answers as for an anonymous
//! caller. It never takes an unknown verdict for a refusal, and never for a permission.

#![allow(
    clippy::disallowed_methods,
    reason = "its own clock is a parameter, and it uses no crate of the node"
)]

mod catalogue;
mod health;
mod http;
mod settings;
mod verify;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use settings::Settings;

/// How long requests may take to finish after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let settings = match Settings::from_environment(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(wrong) => {
            tracing::error!(%wrong, "films does not start: a setting is wrong");
            return ExitCode::from(2);
        }
    };
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let ended = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve(&settings).await,
        ["--health"] => health::check(settings.listen).await,
        _ => {
            tracing::error!("usage: films [--health]");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, listen = %settings.listen, "films failed");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: &Settings) -> std::io::Result<()> {
    let listener = TcpListener::bind(settings.listen).await?;
    // Before the first request: a signal that comes early ends the service in order, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let verifier = verify::over_http(&settings.palisade, settings.verdict_max_age);
    let router = http::router(Arc::new(verifier));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let (ended, mut is_ended) = watch::channel(());
    let signalled = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("films finishes what runs, and ends");
        drop(ended);
    };
    tracing::info!(listen = %listener.local_addr()?, palisade = %settings.palisade, "films serves");
    let drained = axum::serve(listener, service).with_graceful_shutdown(signalled);
    let too_late = async {
        let _ = is_ended.changed().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        result = drained => result,
        () = too_late => {
            tracing::warn!("requests still ran at the end of the drain");
            Ok(())
        }
    }
}
