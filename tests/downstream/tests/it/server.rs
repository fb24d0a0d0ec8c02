//! A real HTTP/1.1 server on loopback, over hyper, that serves ranges of an image and misbehaves as it is told.
//!
//! It runs on a thread of its own, so that a test may wait for a child process without stopping it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_RANGE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use crate::image::Image;

/// Bodies are sent in pieces of this many bytes.
const PIECE: usize = 1024;

/// What [`HttpReader`](gibblox_http::HttpReader) asks for when it is opened, to learn the length of the image.
pub(crate) const PROBE: Range<u64> = 0..1;

/// How many bytes these requests asked for.
pub(crate) fn bytes_of(asked: &[Range<u64>]) -> u64 {
    asked.iter().map(|range| range.end - range.start).sum()
}

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Sends the range that was asked for.
    Serve,
    /// Says 500.
    Fail,
    /// Announces the range, sends half of it, and cuts the connection.
    Cut,
    /// Sends the whole image with status 200, as a server does that knows nothing of ranges.
    IgnoreRange,
    /// Waits until it is told something else, and then does that.
    Hold,
    /// Sends half of the range, and the other half after [`Server::go_on`].
    Stall,
    /// Closes every connection, new ones before anything was said.
    Dead,
}

/// A running server. It is gone when it is dropped, with all of its connections.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// With what the server calls this content.
    image: Mutex<(Image, String)>,
    /// For the next requests, before [`Shared::conduct`] holds again.
    next: Mutex<VecDeque<Conduct>>,
    conduct: watch::Sender<Conduct>,
    /// How often those were told to go on who stall.
    went_on: watch::Sender<u64>,
    /// How many requests had a condition, such as that the image is still the same.
    conditional: AtomicU64,
    asked: watch::Sender<Vec<Range<u64>>>,
    /// Bytes of bodies that were handed to the connection.
    sent: watch::Sender<u64>,
    gone: watch::Sender<bool>,
}

impl Server {
    /// Serves `image` on a free port.
    pub(crate) fn start(image: Image) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), image).unwrap()
    }

    /// Serves `image` at `address`, where another server may have been.
    pub(crate) fn start_at(address: SocketAddr, image: Image) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        let shared = Arc::new(Shared {
            image: Mutex::new(tagged(image)),
            next: Mutex::default(),
            conduct: watch::Sender::new(Conduct::Serve),
            went_on: watch::Sender::default(),
            conditional: AtomicU64::new(0),
            asked: watch::Sender::default(),
            sent: watch::Sender::default(),
            gone: watch::Sender::default(),
        });
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(shared.serve(listener));
            }
        });
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}/disk.img", self.address)).unwrap()
    }

    /// From now on the server behaves like this, also towards who is waiting.
    pub(crate) fn conduct(&self, conduct: Conduct) {
        self.shared.conduct.send_replace(conduct);
    }

    /// Behaves like this towards the next `requests` requests.
    pub(crate) fn next(&self, requests: usize, conduct: Conduct) {
        let mut next = self.shared.next.lock().unwrap();
        next.extend(std::iter::repeat_n(conduct, requests));
    }

    /// Sends the other halves of all bodies that stall now.
    pub(crate) fn go_on(&self) {
        self.shared.went_on.send_modify(|times| *times += 1);
    }

    /// What the server calls the present content of the image, in the header `ETag`.
    pub(crate) fn tag(&self) -> String {
        self.shared.image.lock().unwrap().1.clone()
    }

    /// How many requests so far had a condition.
    pub(crate) fn conditional(&self) -> u64 {
        self.shared.conditional.load(Ordering::Relaxed)
    }

    /// Replaces what is served.
    pub(crate) fn replace_image(&self, image: Image) {
        *self.shared.image.lock().unwrap() = tagged(image);
    }

    /// What was asked for since this was called last, in bytes of the image, in the order of arrival.
    pub(crate) fn take_asked(&self) -> Vec<Range<u64>> {
        self.shared.asked.send_replace(Vec::new())
    }

    /// Waits until so many requests have arrived since [`take_asked`](Self::take_asked).
    pub(crate) async fn has_been_asked(&self, requests: usize) {
        let mut asked = self.shared.asked.subscribe();
        asked
            .wait_for(|asked| asked.len() >= requests)
            .await
            .unwrap();
    }

    /// How many bytes of bodies were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        *self.shared.sent.borrow()
    }

    /// Waits until so many bytes of bodies were sent.
    pub(crate) async fn has_sent(&self, bytes: u64) {
        let mut sent = self.shared.sent.subscribe();
        sent.wait_for(|sent| *sent >= bytes).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.gone.send_replace(true);
        let ended = self.thread.take().unwrap().join();
        // A panic there is a failure of the test, unless it is failing already.
        assert!(ended.is_ok() || thread::panicking());
    }
}

impl Shared {
    /// Accepts connections until the server is gone.
    async fn serve(self: Arc<Self>, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).unwrap();
        let mut gone = self.gone.subscribe();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.unwrap();
                    // Else the end of a body waits until its beginning is acknowledged, which takes its time.
                    stream.set_nodelay(true).unwrap();
                    connections.spawn(Arc::clone(&self).connection(stream));
                }
                _ = gone.wait_for(|gone| *gone) => return,
            }
        }
    }

    /// Answers on one connection until either side closes it, or the server dies.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let mut conduct = self.conduct.subscribe();
        let answers = http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(|request| self.answer(request)),
        );
        tokio::select! {
            biased;
            _ = conduct.wait_for(|conduct| *conduct == Conduct::Dead) => {}
            // A connection that breaks is what some tests are about.
            _ = answers => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
        let (image, tag) = self.image.lock().unwrap().clone();
        let asked = range_of(&request).unwrap_or(0..image.len());
        self.asked
            .send_modify(|log| log.push(asked.start as u64..asked.end as u64));
        let conditions = [IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF_MODIFIED_SINCE];
        let conditions = conditions
            .iter()
            .filter(|name| request.headers().contains_key(*name));
        self.conditional
            .fetch_add(conditions.count().min(1) as u64, Ordering::Relaxed);
        let next = self.next.lock().unwrap().pop_front();
        let conduct = match next {
            Some(conduct) => conduct,
            None => *self
                .conduct
                .subscribe()
                .wait_for(|conduct| *conduct != Conduct::Hold)
                .await
                .unwrap(),
        };
        let sent = self.sent.clone();
        let response = Response::builder().header(ETAG, &tag);
        if asked.start >= image.len()
            && matches!(conduct, Conduct::Serve | Conduct::Cut | Conduct::Stall)
        {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return Ok(response.body(Pieces::new(&[], sent)).unwrap());
        }
        // What lies past the end is left out.
        let part = asked.start..asked.end.min(image.len());
        let partial = Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header(ETAG, tag)
            .header(ACCEPT_RANGES, "bytes")
            .header(
                CONTENT_RANGE,
                format!("bytes {}-{}/{}", part.start, part.end - 1, image.len()),
            );
        Ok(match conduct {
            Conduct::Serve => partial.body(Pieces::new(&image[part], sent)),
            Conduct::Cut => partial.body(Pieces::new(&image[part], sent).cut()),
            Conduct::Stall => {
                let mut went_on = self.went_on.subscribe();
                let before = *went_on.borrow();
                let go_on = async move { drop(went_on.wait_for(|times| *times > before).await) };
                partial.body(Pieces::new(&image[part], sent).stall(Box::pin(go_on)))
            }
            Conduct::IgnoreRange => response.body(Pieces::new(&image, sent)),
            Conduct::Fail | Conduct::Hold | Conduct::Dead => response
                .status(StatusCode::INTERNAL_SERVER_ERROR)
                .body(Pieces::new(&[], sent)),
        }
        .unwrap())
    }
}

/// With a name for this content.
fn tagged(image: Image) -> (Image, String) {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    (image, format!("\"{:016x}\"", hasher.finish()))
}

/// The range that `request` asks for, if it does.
fn range_of(request: &Request<Incoming>) -> Option<Range<usize>> {
    let range = request.headers().get(RANGE)?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<usize>().ok()? + 1;
    (!range.is_empty()).then_some(range)
}

/// Something to wait for.
type Moment = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that is sent piece by piece, and may end before it should.
struct Pieces {
    rest: Bytes,
    /// How many of the announced bytes are never sent.
    withheld: usize,
    /// From when on the rest waits, by its length, and for what.
    stall: Option<(usize, Moment)>,
    sent: watch::Sender<u64>,
}

impl Pieces {
    fn new(bytes: &[u8], sent: watch::Sender<u64>) -> Self {
        Self {
            rest: Bytes::copy_from_slice(bytes),
            withheld: 0,
            stall: None,
            sent,
        }
    }

    fn cut(mut self) -> Self {
        self.withheld = self.rest.len().div_ceil(2);
        self.rest.truncate(self.rest.len() - self.withheld);
        self
    }

    fn stall(mut self, go_on: Moment) -> Self {
        self.stall = Some((self.rest.len() / 2, go_on));
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = self.rest.len();
        if let Some((_, go_on)) = self.stall.as_mut().filter(|(from, _)| left <= *from) {
            if go_on.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.stall = None;
        }
        let len = PIECE.min(self.rest.len());
        if len == 0 {
            return Poll::Ready((self.withheld != 0).then(|| Err(io::Error::other("cut"))));
        }
        let piece = self.rest.split_to(len);
        self.sent.send_modify(|sent| *sent += len as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.withheld == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.rest.len() + self.withheld) as u64)
    }
}
