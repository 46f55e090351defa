//! What is sent before the first frame.
//!
//! ```text
//! dialer                                              answerer
//!   preamble: PLSD, min, max version, cluster ───────►            in clear, 10 bytes
//!                             ◄─────── preamble                   also if it refuses
//!   Noise: e, psk; identity ──────────────────────────►           u16 length ‖ message
//!                             ◄─────── Noise: e, ee; identity     or length 0: another secret
//!   an empty frame ───────────────────────────────────►           the dialer is no recording
//! ```
//!
//! Promises: each end learns why it was refused as far as that helps an operator who made a mistake: another
//! cluster name, version or secret. Both preambles are in Noise's prologue, so altering them is detected. The
//! answerer does its two exponentiations only for a dialer that knows the secret, or has a recording of a
//! node that does.
//!
//! Never: more than [`MESSAGE_BYTES_MAX`] bytes are read at a time, or anything is sent to a dialer that has
//! not sent [`MAGIC`].

use std::{error::Error, io, ops::RangeInclusive, sync::Arc};

use schema::{NodeId, ledger::Origin};
use snow::{Builder, HandshakeState};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    Local, NAME_BYTES_MAX, Peer, Progress, Refused, Timeouts,
    frame::{Broken, Reader, Writer},
};
use crate::protocol::message;

/// The first bytes of every connection.
const MAGIC: [u8; 4] = *b"PLSD";
const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// The purpose for which the key is derived from the secret.
const PURPOSE: &str = "link";
/// The size of a node id and an incarnation, in bytes. The name follows.
const ORIGIN_BYTES: usize = 16 + 8;
/// The maximum size of a handshake message, in bytes: a key, an identity and a tag.
const MESSAGE_BYTES_MAX: usize = 32 + ORIGIN_BYTES + NAME_BYTES_MAX + 16;

type Preamble = [u8; 10];
type Link<R, W> = (Peer, Reader<R>, Writer<W>);

pub(super) async fn dial<R, W>(
    reader: R,
    writer: W,
    local: &Local,
    timeouts: Timeouts,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(timeouts.handshake, dial_handshake(reader, writer, local, timeouts))
        .await
        .map_err(|_| Refused::Slow)?
}

pub(super) async fn answer<R, W>(
    reader: R,
    writer: W,
    local: &Local,
    timeouts: Timeouts,
    progress: &Progress,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let answered = answer_handshake(reader, writer, local, timeouts, progress);
    timeout(timeouts.handshake, answered).await.map_err(|_| Refused::Slow)?
}

async fn dial_handshake<R, W>(
    mut reader: R,
    mut writer: W,
    local: &Local,
    timeouts: Timeouts,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = preamble(local);
    writer.write_all(&ours).await?;
    writer.flush().await?;
    let theirs = read_preamble(&mut reader).await?;
    let version = agree(&ours, &theirs)?;

    let key = local.secret.derive(PURPOSE).map_err(failed)?;
    let mut noise = noise(&key, &ours, &theirs, |builder| builder.build_initiator())?;
    send_identity(&mut writer, &mut noise, local).await?;
    let mut message = [0; MESSAGE_BYTES_MAX];
    let message = receive_message(&mut reader, &mut message).await?;
    if message.is_empty() {
        return Err(Refused::OtherSecret);
    }
    let (origin, name) = open_identity(&mut noise, message)?;
    if origin == local.origin {
        return Err(Refused::Itself);
    }

    let transport = Arc::new(noise.into_stateless_transport_mode().map_err(failed)?);
    let reader = Reader::new(reader, transport.clone(), timeouts.rest);
    let mut writer = Writer::new(writer, transport, timeouts.write);
    writer.write(&[]).await.map_err(unproved)?;
    writer.flush().await.map_err(unproved)?;
    Ok((Peer { origin, name, version }, reader, writer))
}

async fn answer_handshake<R, W>(
    mut reader: R,
    mut writer: W,
    local: &Local,
    timeouts: Timeouts,
    progress: &Progress,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = preamble(local);
    let theirs =
        timeout(timeouts.preamble, read_preamble(&mut reader)).await.map_err(|_| Refused::Slow)??;
    // Sent before this node refuses, so that the dialer can name the reason too.
    writer.write_all(&ours).await?;
    writer.flush().await?;
    let version = agree(&ours, &theirs)?;
    progress.reached(Progress::STEP_PREAMBLE);

    let mut message = [0; MESSAGE_BYTES_MAX];
    let message = receive_message(&mut reader, &mut message).await?;
    let (mut noise, (origin, name)) = match open_first(local, &theirs, &ours, message) {
        Err(Refused::OtherSecret) => {
            // The dialer is refused whether or not this is sent.
            let _ = writer.write_all(&[0, 0]).await;
            let _ = writer.flush().await;
            return Err(Refused::OtherSecret);
        }
        opened => opened?,
    };
    progress.reached(Progress::STEP_SECRET);
    send_identity(&mut writer, &mut noise, local).await?;
    // Not earlier, so that the dialer notices too.
    if origin == local.origin {
        return Err(Refused::Itself);
    }

    let transport = Arc::new(noise.into_stateless_transport_mode().map_err(failed)?);
    let mut reader = Reader::new(reader, transport.clone(), timeouts.rest);
    let writer = Writer::new(writer, transport, timeouts.write);
    if !reader.read().await.map_err(unproved)?.is_empty() {
        return Err(Refused::Malformed("the first frame is not empty"));
    }
    Ok((Peer { origin, name, version }, reader, writer))
}

fn preamble(local: &Local) -> Preamble {
    let [p, l, s, d] = MAGIC;
    let [a, b, c, e] = local.secret.fingerprint();
    [p, l, s, d, *local.versions.start(), *local.versions.end(), a, b, c, e]
}

async fn read_preamble(reader: &mut (impl AsyncRead + Unpin)) -> Result<Preamble, Refused> {
    let mut preamble = [0; 10];
    let (magic, rest) = preamble.split_at_mut(MAGIC.len());
    // The magic bytes alone first: a dialer of another protocol may wait for an answer after fewer than ten
    // bytes.
    reader.read_exact(magic).await?;
    if *magic != MAGIC {
        return Err(Refused::NotPalisade);
    }
    reader.read_exact(rest).await?;
    Ok(preamble)
}

/// The highest version that both nodes speak.
fn agree(ours: &Preamble, theirs: &Preamble) -> Result<u8, Refused> {
    let (ours, our_cluster) = versions(ours);
    let (theirs, their_cluster) = versions(theirs);
    if our_cluster != their_cluster {
        return Err(Refused::OtherCluster);
    }
    if theirs.is_empty() {
        return Err(Refused::Malformed("no versions"));
    }
    let version = *ours.end().min(theirs.end());
    if ours.contains(&version) && theirs.contains(&version) {
        Ok(version)
    } else {
        Err(Refused::OtherVersion { theirs, ours })
    }
}

fn versions(preamble: &Preamble) -> (RangeInclusive<u8>, [u8; 4]) {
    let [_, _, _, _, min, max, cluster @ ..] = *preamble;
    (min..=max, cluster)
}

fn noise(
    key: &[u8; 32],
    dialer: &Preamble,
    answerer: &Preamble,
    side: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, Refused> {
    let prologue = [dialer.as_slice(), answerer].concat();
    let builder = Builder::new(NOISE.parse().map_err(failed)?);
    let builder = builder.psk(0, key).and_then(|builder| builder.prologue(&prologue)).map_err(failed)?;
    side(builder).map_err(failed)
}

/// Sends this node's identity.
async fn send_identity(
    writer: &mut (impl AsyncWrite + Unpin),
    noise: &mut HandshakeState,
    local: &Local,
) -> Result<(), Refused> {
    if !is_printable(&local.name) {
        return Err(Refused::Malformed("this node's own name"));
    }
    let mut identity = [0; ORIGIN_BYTES + NAME_BYTES_MAX];
    let end = ORIGIN_BYTES + local.name.len();
    identity[..16].copy_from_slice(local.origin.node.as_bytes());
    identity[16..ORIGIN_BYTES].copy_from_slice(&local.origin.incarnation.to_be_bytes());
    identity[ORIGIN_BYTES..end].copy_from_slice(local.name.as_bytes());

    let mut message = [0; 2 + MESSAGE_BYTES_MAX];
    let length = noise.write_message(&identity[..end], &mut message[2..]).map_err(failed)?;
    let head = u16::try_from(length).map_err(failed)?.to_be_bytes();
    message[..2].copy_from_slice(&head);
    writer.write_all(&message[..2 + length]).await?;
    Ok(writer.flush().await?)
}

/// Reads a message; empty if the other end has another secret.
async fn receive_message<'a>(
    reader: &mut (impl AsyncRead + Unpin),
    message: &'a mut [u8; MESSAGE_BYTES_MAX],
) -> Result<&'a [u8], Refused> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes(head));
    let message = message.get_mut(..length).ok_or(Refused::Malformed("a message is too long"))?;
    reader.read_exact(message).await?;
    Ok(message)
}

/// Decrypts a dialer's first message with the first accepted secret that fits.
fn open_first(
    local: &Local,
    dialer: &Preamble,
    answerer: &Preamble,
    message: &[u8],
) -> Result<(HandshakeState, (Origin, String)), Refused> {
    for key in local.secret.derive_accepted(PURPOSE).map_err(failed)? {
        let mut noise = noise(&key, dialer, answerer, |builder| builder.build_responder())?;
        match open_identity(&mut noise, message) {
            Err(Refused::OtherSecret) => {}
            opened => return Ok((noise, opened?)),
        }
    }
    Err(Refused::OtherSecret)
}

/// Decrypts the identity of the other end.
fn open_identity(noise: &mut HandshakeState, message: &[u8]) -> Result<(Origin, String), Refused> {
    let mut identity = [0; MESSAGE_BYTES_MAX];
    let length = noise.read_message(message, &mut identity).map_err(|why| match why {
        snow::Error::Decrypt => Refused::OtherSecret,
        _ => Refused::Malformed("no Noise message"),
    })?;
    let (node, rest) = identity[..length].split_first_chunk().ok_or(Refused::Malformed("no node"))?;
    let (incarnation, name) = rest.split_first_chunk().ok_or(Refused::Malformed("no incarnation"))?;
    let name = str::from_utf8(name)
        .ok()
        .filter(|name| is_printable(name))
        .ok_or(Refused::Malformed("a name that is too long or unprintable"))?;
    let origin = Origin { node: NodeId::from_bytes(*node), incarnation: u64::from_be_bytes(*incarnation) };
    if !message::is_plausible(origin) {
        return Err(Refused::Malformed("an id or incarnation that no node can have"));
    }
    Ok((origin, name.to_owned()))
}

/// Whether a name can be shown in a log.
fn is_printable(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control)
}

/// Why the frame that proves the dialer did not arrive.
fn unproved(why: Broken) -> Refused {
    match why {
        Broken::Io(error) => error.into(),
        Broken::Closed | Broken::Cut => Refused::Closed,
        Broken::Slow => Refused::Slow,
        Broken::Forged => Refused::Malformed("a first frame that is recorded or altered"),
        Broken::Length(_) | Broken::Spent | Broken::Before => Refused::Malformed("no first frame"),
    }
}

/// An error of this node, not of the other end.
fn failed(why: impl Error + Send + Sync + 'static) -> Refused {
    Refused::Io(io::Error::other(why))
}
