//! The remote image: `HttpReader` with a meter on it, opened so that what is wrong with a server shows at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use gibblox_core::{ByteReader, GibbloxResult, ReadContext};
use gibblox_http::HttpReader;
use url::Url;

use crate::{BLOCK_BYTES, Result, plain};

/// A remote image; clones share their meter.
pub(crate) type Remote = Arc<Metered>;

/// Counts what passes from `HttpReader` to the cache, and gives the image its name.
///
/// Each read is one HTTP request here, unless `HttpReader` has to repeat one. Headers are not counted, nor are the two
/// or three requests that open the image.
pub(crate) struct Metered {
    http: HttpReader,
    identity: Option<String>,
    requests: AtomicU64,
    received_bytes: AtomicU64,
}

/// A reading of the meter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) received_bytes: u64,
}

impl Metered {
    /// Asks for the size of the image, and for one byte of it.
    ///
    /// `identity` is the name under which a cache knows the image. A cache file that bears another name is emptied, one
    /// that bears the same is believed; so the name ought to stand for the bytes. `None` takes the URL, which is good
    /// for as long as the image behind it stays what it is.
    pub(crate) async fn open(url: Url, identity: Option<String>) -> Result<Remote> {
        let cannot_open = |reason: String| format!("cannot open {url}: {reason}");
        let http = match HttpReader::new(url.clone(), BLOCK_BYTES).await {
            Ok(http) => http,
            Err(error) => {
                let error = plain(&error);
                if error.contains("probe GET") {
                    return Err(format!("cannot reach {url}: {error}"));
                }
                // There is an answer, though not one with a size. Asking for a byte says which answer it is.
                let http = HttpReader::new_with_size(url.clone(), BLOCK_BYTES, 2).await;
                let http = http.map_err(|error| cannot_open(plain(&error)))?;
                let reason = ask_for_a_range(&http).await.err();
                return Err(cannot_open(reason.unwrap_or(error)));
            }
        };
        match http.size_bytes() {
            0 => return Err(cannot_open("the image is empty".into())),
            1 => {} // Any answer with this byte is the right one.
            _ => ask_for_a_range(&http).await.map_err(cannot_open)?,
        }
        Ok(Arc::new(Self {
            http,
            identity,
            requests: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }))
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Reads the second byte. The first one would not do: a server that does not know ranges answers with the whole image
/// whatever it is asked for, and that begins with the first byte too.
async fn ask_for_a_range(http: &HttpReader) -> Result<()> {
    match http.read_at(1, &mut [0], ReadContext::FOREGROUND).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match plain(&error) {
            text if text.contains("status 200") => {
                "the server does not answer range requests (200 OK instead of 206 Partial Content)"
                    .into()
            }
            text => text,
        }),
    }
}

#[async_trait]
impl ByteReader for Metered {
    async fn size_bytes(&self) -> GibbloxResult<u64> {
        Ok(self.http.size_bytes())
    }

    fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match &self.identity {
            Some(identity) => out.write_str(identity),
            None => self.http.write_identity(out),
        }
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8], ctx: ReadContext) -> GibbloxResult<usize> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let count = self.http.read_at(offset, buf, ctx).await?;
        self.received_bytes
            .fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
