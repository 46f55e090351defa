//! What is said before the first frame.
//!
//! ```text
//! dialer                                              answerer
//!   preamble: PLSD, min, max version, cluster ───────►            in clear, 10 bytes
//!                             ◄─────── preamble                   also when it refuses
//!   Noise: e, psk; who we are ────────────────────────►           u16 length ‖ message
//!                             ◄─────── Noise: e, ee; who we are   or length 0: not our secret
//!   an empty frame ───────────────────────────────────►           the dialer is no recording
//! ```
//!
//! Promises: each is told why it was refused as far as it can help who made a mistake: other name, other
//! version, other secret. Both preambles are in Noise's prologue, so whoever alters them is found out.
//! Two exponentiations are done only for who knows the secret, or has a recording of who does.
//!
//! Never: more than [`MAX_MESSAGE`] bytes are read at a time, or anything is sent to who has not said
//! the magic word.

use std::{error::Error, io, ops::RangeInclusive, sync::Arc};

use schema::{NodeId, ledger::Origin};
use snow::{Builder, HandshakeState};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    Local, MAX_NAME, Patience, Peer, Progress, Refused,
    frame::{Broken, Reader, Writer},
};
use crate::protocol::message;

const MAGIC: [u8; 4] = *b"PLSD";
const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What the key is derived for.
const PURPOSE: &str = "link";
/// Node and incarnation; the name follows.
const ORIGIN: usize = 16 + 8;
/// A key, who we are, a tag.
const MAX_MESSAGE: usize = 32 + ORIGIN + MAX_NAME + 16;

type Preamble = [u8; 10];
type Link<R, W> = (Peer, Reader<R>, Writer<W>);

pub(super) async fn dial<R, W>(
    reader: R,
    writer: W,
    local: &Local,
    patience: Patience,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(patience.handshake, introduce(reader, writer, local, patience))
        .await
        .map_err(|_| Refused::Slow)?
}

pub(super) async fn answer<R, W>(
    reader: R,
    writer: W,
    local: &Local,
    patience: Patience,
    progress: &Progress,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let examined = examine(reader, writer, local, patience, progress);
    timeout(patience.handshake, examined).await.map_err(|_| Refused::Slow)?
}

async fn introduce<R, W>(
    mut reader: R,
    mut writer: W,
    local: &Local,
    patience: Patience,
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

    let mut noise = noise(local, &ours, &theirs, |builder| builder.build_initiator())?;
    send(&mut writer, &mut noise, local).await?;
    let mut message = [0; MAX_MESSAGE];
    let message = receive(&mut reader, &mut message).await?;
    if message.is_empty() {
        return Err(Refused::OtherSecret);
    }
    let (origin, name) = open(&mut noise, message)?;
    if origin == local.origin {
        return Err(Refused::Itself);
    }

    let transport = Arc::new(noise.into_stateless_transport_mode().map_err(failed)?);
    let reader = Reader::new(reader, transport.clone(), patience.rest);
    let mut writer = Writer::new(writer, transport, patience.write);
    writer.write(&[]).await.map_err(unproved)?;
    writer.flush().await.map_err(unproved)?;
    Ok((Peer { origin, name, version }, reader, writer))
}

async fn examine<R, W>(
    mut reader: R,
    mut writer: W,
    local: &Local,
    patience: Patience,
    progress: &Progress,
) -> Result<Link<R, W>, Refused>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = preamble(local);
    let theirs =
        timeout(patience.preamble, read_preamble(&mut reader)).await.map_err(|_| Refused::Slow)??;
    // Before we refuse, so that the dialer can name the reason too.
    writer.write_all(&ours).await?;
    writer.flush().await?;
    let version = agree(&ours, &theirs)?;
    progress.reached(Progress::SPEAKS);

    let mut noise = noise(local, &theirs, &ours, |builder| builder.build_responder())?;
    let mut message = [0; MAX_MESSAGE];
    let message = receive(&mut reader, &mut message).await?;
    let (origin, name) = match open(&mut noise, message) {
        Err(Refused::OtherSecret) => {
            // It is refused in any case.
            let _ = writer.write_all(&[0, 0]).await;
            let _ = writer.flush().await;
            return Err(Refused::OtherSecret);
        }
        opened => opened?,
    };
    progress.reached(Progress::KNOWS);
    send(&mut writer, &mut noise, local).await?;
    // Not before the dialer can find it too.
    if origin == local.origin {
        return Err(Refused::Itself);
    }

    let transport = Arc::new(noise.into_stateless_transport_mode().map_err(failed)?);
    let mut reader = Reader::new(reader, transport.clone(), patience.rest);
    let writer = Writer::new(writer, transport, patience.write);
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
    // First the word alone: who speaks another protocol may wait for us after fewer than ten bytes.
    reader.read_exact(magic).await?;
    if *magic != MAGIC {
        return Err(Refused::NotPalisade);
    }
    reader.read_exact(rest).await?;
    Ok(preamble)
}

/// The version that both will speak.
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
    local: &Local,
    dialer: &Preamble,
    answerer: &Preamble,
    side: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, Refused> {
    let key = local.secret.derive(PURPOSE).map_err(failed)?;
    let prologue = [dialer.as_slice(), answerer].concat();
    let builder = Builder::new(NOISE.parse().map_err(failed)?);
    let builder = builder.psk(0, &key).and_then(|builder| builder.prologue(&prologue)).map_err(failed)?;
    side(builder).map_err(failed)
}

/// Says who we are.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    noise: &mut HandshakeState,
    local: &Local,
) -> Result<(), Refused> {
    if !fit(&local.name) {
        return Err(Refused::Malformed("our own name"));
    }
    let mut who = [0; ORIGIN + MAX_NAME];
    let end = ORIGIN + local.name.len();
    who[..16].copy_from_slice(local.origin.node.as_bytes());
    who[16..ORIGIN].copy_from_slice(&local.origin.incarnation.to_be_bytes());
    who[ORIGIN..end].copy_from_slice(local.name.as_bytes());

    let mut message = [0; 2 + MAX_MESSAGE];
    let length = noise.write_message(&who[..end], &mut message[2..]).map_err(failed)?;
    let head = u16::try_from(length).map_err(failed)?.to_be_bytes();
    message[..2].copy_from_slice(&head);
    writer.write_all(&message[..2 + length]).await?;
    Ok(writer.flush().await?)
}

/// A message, or nothing.
async fn receive<'a>(
    reader: &mut (impl AsyncRead + Unpin),
    message: &'a mut [u8; MAX_MESSAGE],
) -> Result<&'a [u8], Refused> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes(head));
    let message = message.get_mut(..length).ok_or(Refused::Malformed("a message is too long"))?;
    reader.read_exact(message).await?;
    Ok(message)
}

/// Who the other end says it is.
fn open(noise: &mut HandshakeState, message: &[u8]) -> Result<(Origin, String), Refused> {
    let mut who = [0; MAX_MESSAGE];
    let length = noise.read_message(message, &mut who).map_err(|why| match why {
        snow::Error::Decrypt => Refused::OtherSecret,
        _ => Refused::Malformed("no Noise message"),
    })?;
    let who = &who[..length];
    let (node, rest) = who.split_first_chunk().ok_or(Refused::Malformed("no node"))?;
    let (incarnation, name) = rest.split_first_chunk().ok_or(Refused::Malformed("no incarnation"))?;
    let name = str::from_utf8(name).ok().filter(|name| fit(name)).ok_or(Refused::Malformed("its name"))?;
    let origin = Origin { node: NodeId::from_bytes(*node), incarnation: u64::from_be_bytes(*incarnation) };
    if !message::is_plausible(origin) {
        return Err(Refused::Malformed("an id or incarnation that no node has"));
    }
    Ok((origin, name.to_owned()))
}

/// Whether it can be shown in a log.
fn fit(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.contains(char::is_control)
}

/// The frame that proves the dialer did not come.
fn unproved(why: Broken) -> Refused {
    match why {
        Broken::Io(error) => error.into(),
        Broken::Closed | Broken::Cut => Refused::Closed,
        Broken::Slow => Refused::Slow,
        Broken::Forged => Refused::Malformed("it was recorded, or altered on the way"),
        Broken::Length(_) | Broken::Spent | Broken::Before => Refused::Malformed("no first frame"),
    }
}

/// Our own fault.
fn failed(why: impl Error + Send + Sync + 'static) -> Refused {
    Refused::Io(io::Error::other(why))
}
