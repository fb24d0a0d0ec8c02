//! Page, program and image on loopback, with a record of what was asked for.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::glue::Program;

/// What the reader asks for to learn the length of the image.
pub const PROBE: Range<usize> = 0..1;

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    image: Vec<u8>,
    /// Ranges of the image that were asked for.
    asked: Mutex<Vec<Range<usize>>>,
    /// Where requests for data meet before they are answered.
    group: Mutex<Arc<Barrier>>,
}

impl Server {
    /// Serves `image` on `port` of loopback, or on a free one if that is zero.
    ///
    /// # Errors
    ///
    /// Where the port is taken.
    pub async fn start(port: u16, program: Program, image: Vec<u8>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            program,
            image,
            asked: Mutex::default(),
            group: Mutex::new(Arc::new(Barrier::new(1))),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            _tasks: tasks,
        })
    }

    /// The address of the page. Loopback counts as a secure context, which the private file system asks for.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The ranges of the image that were asked for since this was called last, in the order of arrival.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Range<usize>> {
        std::mem::take(&mut *lock(&self.shared.asked))
    }

    /// From now on a request for data is answered when so many of them are waiting.
    pub fn answer_in_groups_of(&self, requests: usize) {
        *lock(&self.shared.group) = Arc::new(Barrier::new(requests));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&shared)));
        // Those that are done.
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // A browser closes connections as it likes.
    let _ = http1::Builder::new()
        .serve_connection(
            TokioIo::new(stream),
            service_fn(async |request| Ok::<_, Infallible>(shared.answer(&request).await)),
        )
        .await;
}

impl Shared {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (kind, body) = match request.uri().path() {
            "/" => ("text/html", Bytes::from(include_str!("../www/index.html"))),
            "/style.css" => ("text/css", include_str!("../www/style.css").into()),
            "/page.js" => ("text/javascript", include_str!("../www/page.js").into()),
            "/worker.js" => ("text/javascript", include_str!("../www/worker.js").into()),
            "/program.js" => ("text/javascript", self.program.js.clone().into()),
            "/program_bg.wasm" => ("application/wasm", self.program.wasm.clone().into()),
            "/disk.img" => return self.range(request).await,
            _ => return status(StatusCode::NOT_FOUND),
        };
        let mut response = Response::new(Full::new(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, kind.parse().expect("a valid header"));
        response
    }

    /// Sends the range of the image that was asked for.
    async fn range(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(range) = range_of(request, self.image.len()) else {
            return status(StatusCode::RANGE_NOT_SATISFIABLE);
        };
        lock(&self.asked).push(range.clone());
        if range != PROBE {
            let group = Arc::clone(&lock(&self.group));
            group.wait().await;
        }
        let mut response = status(StatusCode::PARTIAL_CONTENT);
        let (first, last, len) = (range.start, range.end - 1, self.image.len());
        let headers = response.headers_mut();
        let content_range = format!("bytes {first}-{last}/{len}");
        headers.insert(
            CONTENT_RANGE,
            content_range.parse().expect("a valid header"),
        );
        // Browsers keep ranges in a cache of their own, and a warm read would prove nothing.
        headers.insert(CACHE_CONTROL, "no-store".parse().expect("a valid header"));
        *response.body_mut() = Full::new(Bytes::copy_from_slice(&self.image[range]));
        response
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The range that `request` asks for, if it is one within `len` bytes.
fn range_of(request: &Request<Incoming>, len: usize) -> Option<Range<usize>> {
    let range = request.headers().get(RANGE)?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<usize>().ok()?.checked_add(1)?;
    (range.start < range.end && range.end <= len).then_some(range)
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
