//! One program written for 0.0.1, compiled and run against the published crate and against this one.
//!
//! `.ci/run api` compares what rustdoc knows of both crates, item by item. This adds what is not written down there:
//! that the four methods of a backend are enough, that the four statistics are all there is, and that the futures can
//! go from thread to thread.

use crate::support::{Source, finish};
use std::sync::Arc;

/// The program, over the crate of that name.
macro_rules! program {
    ($cache:ident) => {
        use super::{Arc, Source, finish};
        use async_trait::async_trait;
        use core::fmt;
        use gibblox_core::{
            BlockReader, BlockReaderConfigIdentity, GibbloxResult, ReadContext,
            derive_block_identity_id, derive_config_identity_id,
        };
        use std::future::Future;
        use std::sync::Mutex;
        use $cache::{
            CacheOps, CacheStats, CachedBlockReader, MemoryCacheOps, cached_config_identity_string,
            cached_reader_identity_string, derive_cached_config_identity_id,
            derive_cached_reader_identity_id,
        };

        /// The methods that a backend of 0.0.1 has, and no others.
        #[derive(Default)]
        struct Bytes(Mutex<Vec<u8>>);

        #[async_trait]
        impl CacheOps for Bytes {
            async fn read_at(&self, offset: u64, out: &mut [u8]) -> GibbloxResult<usize> {
                let bytes = self.0.lock().unwrap();
                let from = bytes.len().min(offset as usize);
                let count = out.len().min(bytes.len() - from);
                out[..count].copy_from_slice(&bytes[from..from + count]);
                Ok(count)
            }

            async fn write_at(&self, offset: u64, data: &[u8]) -> GibbloxResult<()> {
                let mut bytes = self.0.lock().unwrap();
                let end = offset as usize + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[offset as usize..end].copy_from_slice(data);
                Ok(())
            }

            async fn set_len(&self, len: u64) -> GibbloxResult<()> {
                self.0.lock().unwrap().resize(len as usize, 0);
                Ok(())
            }

            async fn flush(&self) -> GibbloxResult<()> {
                Ok(())
            }
        }

        struct Config;

        impl BlockReaderConfigIdentity for Config {
            fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                out.write_str("config")
            }
        }

        struct Named(String);

        impl BlockReaderConfigIdentity for Named {
            fn write_identity(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        /// A future that any executor with threads takes, with the output that is written down at the call.
        fn spawned<T>(future: impl Future<Output = T> + Send) -> T {
            finish(future)
        }

        fn shared<T: Send + Sync + Unpin>(value: T) -> T {
            value
        }

        /// As a struct of a program holds it: over any source and any backend.
        async fn use_reader<S: BlockReader, C: CacheOps>(reader: &CachedBlockReader<S, C>) {
            let mut buf = vec![0; 2 * reader.block_size() as usize];
            let read: GibbloxResult<usize> = reader
                .read_blocks(3, &mut buf, ReadContext::FOREGROUND)
                .await;
            assert_eq!(read.unwrap(), buf.len());
            let ensured: GibbloxResult<()> =
                reader.ensure_cached(0, 10, ReadContext::BACKGROUND).await;
            ensured.unwrap();
            let flushed: GibbloxResult<()> = reader.flush_cache().await;
            flushed.unwrap();
        }

        fn use_stats(stats: CacheStats) {
            let copied = stats;
            // Every field by name, and nothing besides them.
            let CacheStats {
                total_hits,
                total_misses,
                cached_blocks,
                total_blocks,
            } = stats;
            let fields: [u64; 4] = [total_hits, total_misses, cached_blocks, total_blocks];
            assert_eq!(fields, [0, 2, 10, 40]);
            let rates: [f64; 2] = [copied.hit_rate(), copied.fill_rate()];
            assert!(
                rates[0].abs() < 1e-9 && (rates[1] - 25.0).abs() < 1e-9,
                "{copied:?}"
            );
            let made = CacheStats {
                total_blocks: 0,
                ..copied
            };
            assert!(made.fill_rate().abs() < 1e-9, "{:?}", made.clone());
        }

        #[test]
        fn reads_and_counts() {
            let source = Source::new(31, 512, 40);
            let reader: GibbloxResult<CachedBlockReader<Arc<Source>, Bytes>> = spawned(
                CachedBlockReader::new(Arc::clone(&source), Bytes::default()),
            );
            let reader = shared(reader.unwrap());
            spawned(use_reader(&reader));
            use_stats(spawned(reader.get_stats()));

            // Behind an `Arc`, as a trait object, in memory, and inside another cache.
            let backend: Arc<dyn CacheOps> = Arc::new(shared(MemoryCacheOps::default()));
            let limit: u32 = 7;
            let inner =
                CachedBlockReader::with_flush_block_limit(Arc::clone(&source), backend, limit);
            let inner: Arc<dyn BlockReader> = Arc::new(spawned(inner).unwrap());
            let outer = spawned(CachedBlockReader::new(
                inner,
                Arc::new(MemoryCacheOps::new()),
            ));
            let outer = outer.unwrap();
            spawned(use_reader(&outer));
            use_stats(spawned(outer.get_stats()));
        }

        #[test]
        fn names_what_is_cached() {
            let source = Source::new(31, 512, 40);
            let reader: &dyn BlockReader = &*source;
            let name: String = cached_reader_identity_string(reader);
            let id: u32 = derive_cached_reader_identity_id(reader, 40);
            let expected = derive_block_identity_id(512, 40, |out| out.write_str(&name));
            assert_eq!(id, expected);

            let opened = spawned(CachedBlockReader::new(
                Arc::clone(&source),
                MemoryCacheOps::new(),
            ));
            let mut own = String::new();
            opened.unwrap().write_identity(&mut own).unwrap();
            assert_eq!(own, name);

            let config: &dyn BlockReaderConfigIdentity = &Config;
            let name: String = cached_config_identity_string(config);
            assert_eq!(name, "cached:(config)");
            let id: u32 = derive_cached_config_identity_id(config);
            assert_eq!(id, derive_config_identity_id(&Named(name)));
        }

        #[test]
        fn functions_have_their_types() {
            // Two type parameters, in this order, and by reference.
            type Reader = CachedBlockReader<Arc<Source>, MemoryCacheOps>;
            let _: fn(&Source) -> String = cached_reader_identity_string::<Source>;
            let _: fn(&Source, u64) -> u32 = derive_cached_reader_identity_id::<Source>;
            let _: fn(&Config) -> String = cached_config_identity_string::<Config>;
            let _: fn(&Config) -> u32 = derive_cached_config_identity_id::<Config>;
            let _: fn() -> MemoryCacheOps = MemoryCacheOps::new;
            let _: fn(&CacheStats) -> f64 = CacheStats::hit_rate;
            let _: fn(&CacheStats) -> f64 = CacheStats::fill_rate;
            let refused = spawned(Reader::with_flush_block_limit(
                Source::new(31, 512, 40),
                MemoryCacheOps::new(),
                0,
            ));
            assert!(refused.is_err());
        }
    };
}

mod published {
    program!(gibblox_cache_published);
}

mod this {
    program!(gibblox_cache);
}
