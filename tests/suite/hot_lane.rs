//! The questions that services ask all the time: answered alike by whichever way they come, in their order,
//! each of them once, and never by what was true a moment ago.

#![allow(clippy::print_stdout, reason = "how long it took, and how large it was, is shown with --nocapture")]

mod at_once;
mod bounds;
mod counted;
mod drained;
mod flood;
mod pipelined;
mod smuggled;
mod ways;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use testkit::{Client, Raw, raw::Reply, within};
use tokio::net::TcpStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const VALIDATE: &str = "/api/v1/auth_token/validation";
const CHECK: &str = "/api/v1/users/me/combined_permissions/validation";
const ADMIT: &str = "/auth_request";

/// A header that changes nothing, and that the hot lane leaves to the router.
const FOR_THE_ROUTER: (&str, &str) = ("TE", "trailers");

/// A question.
#[derive(Clone)]
struct Asked {
    target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Asked {
    fn of(target: &str) -> Self {
        Self { target: target.to_owned(), headers: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    fn by(self, token: &str) -> Self {
        self.with("Authorization", format!("Bearer {token}"))
    }

    fn id(self, id: &str) -> Self {
        self.with("X-Request-Id", id)
    }

    /// As HTTP/1.1.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("GET {} HTTP/1.1\r\nHost: x\r\n", self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = String::from_utf8_lossy(&self.bytes()).chars().take(200).collect();
        write!(f, "{shown:?}")
    }
}

/// An answer, whatever brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    status: u16,
    /// All of them, sorted.
    headers: BTreeMap<String, Vec<String>>,
    body: String,
}

impl Answered {
    #[track_caller]
    fn of(reply: Reply) -> Self {
        let Reply::Answer { status, head, body } = reply else { panic!("no answer: {reply:?}") };
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').expect("a header");
            headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        Self { status, headers, body: String::from_utf8(body).expect("text") }
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        match self.headers.get(name).map(Vec::as_slice) {
            Some([value]) => value,
            other => panic!("{name}: {other:?} in {self:?}"),
        }
    }

    #[track_caller]
    fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Of an error.
    #[track_caller]
    fn msg(&self) -> String {
        self.json()["msg"].as_str().unwrap_or_else(|| panic!("no msg: {self:?}")).to_owned()
    }

    /// An answer without what differs from request to request. The two places of the id are the same.
    #[track_caller]
    fn apart_from_its_id(mut self) -> Self {
        let id = self.header("x-request-id").to_owned();
        if self.status >= 400 {
            assert_eq!(self.json()["request_id"], id.as_str(), "{self:?}");
            self.body = self.body.replace(&id, "-");
        }
        self.headers.retain(|name, _| !["date", "x-request-id"].contains(&name.as_str()));
        // The length is that of the body, which has the id in it.
        let length = self.headers.remove("content-length");
        assert!(length.is_some() || self.status == 204, "no length: {self:?}");
        self
    }
}

/// The ways by which a question gets to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The first on a connection.
    Fresh,
    /// After others of its kind on the connection.
    Kept,
    /// On a connection that has asked for something else before.
    Shared,
    /// With a header that the router has to look at.
    Routed,
    Http2,
    /// The same of both.
    Http2Routed,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Fresh, Self::Kept, Self::Shared, Self::Routed, Self::Http2, Self::Http2Routed];

    async fn ask(self, node: &Client, asked: &Asked) -> Answered {
        let routed = || asked.clone().with(FOR_THE_ROUTER.0, FOR_THE_ROUTER.1);
        match self {
            Self::Fresh => ask(&mut Raw::to(node).await, asked).await,
            Self::Routed => ask(&mut Raw::to(node).await, &routed()).await,
            Self::Kept | Self::Shared => {
                let first = if self == Self::Kept { CHECK } else { "/openapi.json" };
                let mut raw = Raw::to(node).await;
                ask(&mut raw, &Asked::of(first)).await;
                ask(&mut raw, asked).await
            }
            Self::Http2 => Http2::to(node).await.ask(asked).await,
            Self::Http2Routed => Http2::to(node).await.ask(&routed()).await,
        }
    }
}

/// Asks and awaits the answer.
async fn ask(raw: &mut Raw, asked: &Asked) -> Answered {
    raw.send(asked.bytes()).await.expect("the connection is open");
    Answered::of(raw.reply(ANSWER_TIMEOUT).await)
}

/// A connection that speaks HTTP/2 without asking whether it may (RFC 9113, section 3.3).
#[derive(Clone)]
struct Http2(SendRequest<Empty<Bytes>>);

impl Http2 {
    async fn to(node: &Client) -> Self {
        let stream = TcpStream::connect(node.address()).await.expect("the node listens");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, asked: &Asked) -> Answered {
        let mut request = hyper::Request::get(format!("http://x{}", asked.target));
        for (name, value) in &asked.headers {
            request = request.header(name.as_str(), value.as_slice());
        }
        let exchange = async {
            self.0.ready().await.expect("the connection is open");
            let answer = self.0.send_request(request.body(Empty::new()).expect("a request")).await;
            let (head, body) = answer.expect("an answer").into_parts();
            (head, body.collect().await.expect("a whole answer").to_bytes())
        };
        let (head, body) = within(ANSWER_TIMEOUT, "an answer by HTTP/2", exchange).await;
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str().to_owned()).or_default().push(value);
        }
        Answered { status: head.status.as_u16(), headers, body: String::from_utf8_lossy(&body).into_owned() }
    }
}

/// Something of a URL's query.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Whether a name is held, asked about oneself.
fn check(permission: &str) -> Asked {
    Asked::of(&format!("{CHECK}?permissions={}", encoded(&format!("\"{permission}\""))))
}
