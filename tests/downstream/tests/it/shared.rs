//! Two readers of one cache file that know nothing of each other, as in two processes: one goes from call to call of
//! the file; the other comes at any of them, and reads everything again at any later one.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use gibblox_cache::{CacheConfig, CacheOps, CachedBlockReader, VerifyPolicy};
use gibblox_cache_downstream::{COPIED_BLOCKS, Remote, remote};
use gibblox_cache_store_std::StdCacheOps;
use gibblox_core::GibbloxResult;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::image::{Image, image, read_all_right};
use crate::program::folder;
use crate::server::Server;

/// A cache file that pauses in each of its calls. Half of a write is done by then, of anything else nothing.
struct Pausing {
    file: StdCacheOps,
    pauses: UnboundedSender<()>,
    steps: Arc<Semaphore>,
}

impl Pausing {
    /// Returns, too, where each pause is said, and what has to get a permit for it to end.
    fn new(file: StdCacheOps) -> (Self, UnboundedReceiver<()>, Arc<Semaphore>) {
        let (pauses, is_paused) = unbounded_channel();
        let steps = Arc::new(Semaphore::new(0));
        let pausing = Self {
            file,
            pauses,
            steps: Arc::clone(&steps),
        };
        (pausing, is_paused, steps)
    }

    async fn pause(&self) {
        self.pauses.send(()).unwrap();
        self.steps.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl CacheOps for Pausing {
    async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
        self.pause().await;
        self.file.read_at(offset, out).await
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
        let (first, second) = data.split_at(data.len() / 2);
        self.file.write_at(offset, first).await?;
        self.pause().await;
        self.file
            .write_at(offset + first.len() as u64, second)
            .await
    }

    async fn set_len(&self, len: u64) -> GibbloxResult<()> {
        self.pause().await;
        self.file.set_len(len).await
    }

    async fn flush(&self) -> GibbloxResult<()> {
        self.pause().await;
        self.file.flush().await
    }
}

/// What one of the readers reads.
#[derive(Clone)]
struct Source {
    remote: Arc<Remote>,
    image: Image,
    config: CacheConfig,
}

impl Source {
    async fn new(server: &Server, image: &Image, config: CacheConfig) -> Self {
        Self {
            remote: Arc::new(remote(&server.url()).await.unwrap()),
            image: Arc::clone(image),
            config,
        }
    }

    /// Opens the image over `cache` and reads it twice.
    async fn read_with<C: CacheOps>(&self, cache: C) -> CachedBlockReader<Arc<Remote>, C> {
        let reader = CachedBlockReader::open(Arc::clone(&self.remote), cache, self.config)
            .await
            .unwrap();
        read_all_right(&reader, &self.image, COPIED_BLOCKS).await;
        read_all_right(&reader, &self.image, 5).await;
        reader
    }
}

fn cache_at(path: &Path) -> StdCacheOps {
    StdCacheOps::open_path(path).unwrap()
}

/// A reader of `first` goes step by step over a file that holds `content` in the beginning. One of `second` comes before
/// the step `comes`, and reads again before the step `returns`. Returns how many steps there are.
async fn meet(first: &Source, second: &Source, content: &[u8], comes: u64, returns: u64) -> u64 {
    let folder = folder();
    let path = folder.path().join("cache");
    std::fs::write(&path, content).unwrap();
    let (pausing, mut is_paused, steps) = Pausing::new(cache_at(&path));
    let going = tokio::spawn({
        let first = first.clone();
        async move { drop(first.read_with(pausing).await) }
    });
    let mut other = None;
    let mut step = 0;
    while is_paused.recv().await.is_some() {
        if step == comes {
            other = Some(second.read_with(cache_at(&path)).await);
        }
        if let Some(other) = other.as_ref().filter(|_| step == returns) {
            read_all_right(other, &second.image, 7).await;
        }
        step += 1;
        steps.add_permits(1);
    }
    going.await.unwrap();
    if let Some(other) = other {
        read_all_right(&other, &second.image, 7).await;
    }
    first.read_with(cache_at(&path)).await;
    second.read_with(cache_at(&path)).await;
    step
}

/// Every way in which two readers can [`meet`].
async fn meet_at_every_step(first: &Source, second: &Source, content: &[u8]) {
    for comes in 0.. {
        for returns in comes + 1.. {
            let steps = meet(first, second, content, comes, returns).await;
            if steps <= comes {
                assert!(comes > 10, "{comes} steps");
                return;
            }
            if steps <= returns {
                break;
            }
        }
    }
}

#[tokio::test]
async fn readers_of_one_image_may_share_a_file_from_its_first_moment() {
    let image = image(17, 10 * 4096);
    let server = Server::start(image.clone());
    let source = Source::new(&server, &image, CacheConfig::new()).await;
    // A new file, one that another process has just begun to make, and one that was something else.
    for content in [&b""[..], &[0; 9000], &[7; 9000]] {
        meet_at_every_step(&source, &source, content).await;
    }
}

#[tokio::test]
async fn readers_of_two_images_that_share_a_file_compare_every_block_and_are_never_deceived() {
    let images = [image(18, 10 * 4096), image(19, 10 * 4096)];
    let servers = images.clone().map(Server::start);
    let config = CacheConfig::new().with_verify(VerifyPolicy::OnEveryRead);
    let first = Source::new(&servers[0], &images[0], config).await;
    let second = Source::new(&servers[1], &images[1], config).await;
    meet_at_every_step(&first, &second, b"").await;
}
