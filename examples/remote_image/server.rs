//! The other end: an HTTP/1.1 server on loopback that serves a generated image in ranges.
//!
//! Just enough of a server to stand for a real one: `GET` and `HEAD`, one range per request, `206`, `416`, and the
//! whole image for who asks without a range. It waits a little before each answer, since loopback answers faster than
//! any network does, and a cache has nothing to show where asking costs nothing.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use hyper::http::response::Builder;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::image::GeneratedImage;

/// What is served: large enough to take a noticeable time, small enough to stay in memory.
pub(crate) const IMAGE: GeneratedImage = GeneratedImage::new(1, 64 << 20);

/// Added to each request: a server in the same city.
const LATENCY: Duration = Duration::from_millis(2);

const PATH: &str = "/disk.img";

/// A running server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // That concerns one connection, whose client will notice. The next one may do better.
                    tokio::time::sleep(LATENCY).await;
                    continue;
                };
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                // A connection that breaks is its client's concern, too.
                tokio::spawn(async move { connection.await.ok() });
            }
        });
        Ok(Self { address, accepting })
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}{PATH}", self.address))
            .expect("an address and a path make a URL")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(LATENCY).await;
    let (head, body) = plan(&request);
    let body = match body {
        Some(range) if request.method() == Method::GET => range.bytes(),
        _ => Vec::new(),
    };
    Ok(head
        .body(Full::from(body))
        .expect("status and headers are valid"))
}

/// Status and headers, and what of the image belongs into the body.
fn plan(request: &Request<Incoming>) -> (Builder, Option<ByteRange>) {
    let len = IMAGE.len_bytes();
    if request.uri().path() != PATH {
        return (Response::builder().status(StatusCode::NOT_FOUND), None);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let refused = Response::builder().status(StatusCode::METHOD_NOT_ALLOWED);
        return (refused.header(ALLOW, "GET, HEAD"), None);
    }
    let wanted = request
        .headers()
        .get(RANGE)
        .and_then(|value| value.to_str().ok());
    let (head, range) = match wanted.map_or(Wanted::Whole, |value| Wanted::parse(value, len)) {
        Wanted::Whole => (
            Response::builder().status(StatusCode::OK),
            ByteRange { first: 0, len },
        ),
        Wanted::Part(range) => {
            let content_range = format!(
                "bytes {}-{}/{len}",
                range.first,
                range.first + range.len - 1
            );
            let partial = Response::builder().status(StatusCode::PARTIAL_CONTENT);
            (partial.header(CONTENT_RANGE, content_range), range)
        }
        Wanted::Nothing => {
            let refused = Response::builder().status(StatusCode::RANGE_NOT_SATISFIABLE);
            return (
                refused.header(CONTENT_RANGE, format!("bytes */{len}")),
                None,
            );
        }
    };
    let head = head
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_LENGTH, range.len);
    (head, Some(range))
}

/// A part of the image; lies inside it and is not empty.
#[derive(Clone, Copy, Debug)]
struct ByteRange {
    first: u64,
    len: u64,
}

impl ByteRange {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("the image fits into memory")];
        IMAGE.fill(self.first, &mut bytes);
        bytes
    }
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Everything: there is no such header, or none that this server understands, which it may ignore.
    Whole,
    Part(ByteRange),
    /// A range past the end.
    Nothing,
}

impl Wanted {
    /// Understands `bytes=first-last`, `bytes=first-` and `bytes=-count`.
    fn parse(header: &str, len: u64) -> Self {
        let Some((first, last)) = header
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
        else {
            return Self::Whole;
        };
        let (first, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(len)),
            (Ok(first), Err(_)) if last.is_empty() => (first, len),
            (Err(_), Ok(count)) if first.is_empty() => (len.saturating_sub(count), len),
            _ => return Self::Whole,
        };
        if first < end {
            Self::Part(ByteRange {
                first,
                len: end - first,
            })
        } else {
            Self::Nothing
        }
    }
}
