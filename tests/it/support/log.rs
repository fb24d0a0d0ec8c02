//! What is said aloud through `tracing`.

use super::lock;
use std::sync::{Arc, Mutex};

/// Keeps the messages of events, with their levels.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(tracing::Level, String)>>>);

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn core::fmt::Debug) {
        if field.name() == "message" {
            lock(&self.0).last_mut().expect("an event").1 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let level = *event.metadata().level();
        lock(&self.0).push((level, String::new()));
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl Log {
    /// How many messages of this level have this part.
    pub(crate) fn count(&self, level: tracing::Level, part: &str) -> usize {
        let log = lock(&self.0);
        let said = log
            .iter()
            .filter(|(at, text)| *at == level && text.contains(part));
        said.count()
    }

    pub(crate) fn forget(&self) {
        lock(&self.0).clear();
    }
}
