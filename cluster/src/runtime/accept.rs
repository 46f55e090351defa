//! Links that peers make.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};

use super::{Shared, link_task};
use crate::link;

/// The pause after a connection could not be accepted, for instance because no file descriptor was free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Accepts connections, and runs a link on each whose other end proves that it is a peer.
pub(super) async fn accept_links(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "peer connection not accepted");
                sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let mut permit = shared.gate.enter(address.ip());
        let shared = shared.clone();
        tokio::spawn(async move {
            let progress = permit.progress();
            let answered = tokio::select! {
                answered = link::answer(stream, &shared.local, &progress) => answered,
                () = permit.made_room() => return shared.refused.note_evicted(address),
            };
            match answered {
                Ok((peer, reader, writer)) => {
                    drop(permit);
                    link_task::run(shared, peer, reader, writer).await;
                }
                Err(error) => shared.refused.note(&error, address),
            }
        });
    }
}
