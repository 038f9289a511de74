//! What the subscriber counts, under the names that `/metrics` shows.

use crate::log::file::Counters;
use crate::log::writer::Written;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, String); 1];

/// The subscriber's metrics.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) written: Written,
    pub(crate) log: Counters,
    connected: Family<Labels, Gauge>,
    connects: Family<Labels, Counter>,
    messages: Family<Labels, Counter>,
    oversize: Family<Labels, Counter>,
    feeds: Feeds,
}

/// Those of the sources of the numbered feed.
#[derive(Default)]
struct Feeds {
    connected: Family<Labels, Gauge>,
    connects: Family<Labels, Counter>,
    blocks: Family<Labels, Counter>,
    records: Family<Labels, Counter>,
    fetches: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
}

/// Those of one source of the numbered feed.
#[derive(Debug, Clone, Default)]
pub(crate) struct FeedMetrics {
    pub(crate) connected: Gauge,
    pub(crate) connects: Counter,
    pub(crate) blocks: Counter,
    pub(crate) records: Counter,
    pub(crate) fetches: Counter,
    pub(crate) refusals: Counter,
    pub(crate) lost: Counter,
}

impl Feeds {
    fn register(&self, registry: &mut Registry) {
        let gauge = "1 while the feed is caught up with, or served through another address";
        registry.register("feed_connected", gauge, self.connected.clone());
        registry.register("feed_connects", "Connections to the feed that were of use", self.connects.clone());
        registry.register("feed_blocks", "Blocks of the feed handed to the log", self.blocks.clone());
        registry.register("feed_records", "Records of the feed handed to the log", self.records.clone());
        registry.register("feed_fetches", "Requests to the feed's replay", self.fetches.clone());
        registry.register("feed_refusals", "Times that the feed's publisher was refused", self.refusals.clone());
        let lost = "Records that the feed's publisher does not have any more, and the log never had";
        registry.register("feed_lost_records", lost, self.lost.clone());
    }
}

/// Those of one source.
#[derive(Clone)]
pub(crate) struct SourceMetrics {
    pub(crate) connected: Gauge,
    pub(crate) connects: Counter,
    pub(crate) messages: Counter,
    pub(crate) oversize: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("downpipe_subscriber");
        let written = Written::default();
        let log = Counters::default();
        let (connected, connects) = (Family::default(), Family::default());
        let (messages, oversize) = (Family::default(), Family::default());
        registry.register("lines_written", "Lines in the log since the start", written.lines.clone());
        registry.register("bytes_written", "Bytes in the log since the start", written.bytes.clone());
        registry.register("syncs", "Syncs of the log", written.syncs.clone());
        registry.register("rotations", "Files that were full", log.rotations.clone());
        registry.register("set_aside", "Files that were set aside", log.asides.clone());
        registry.register("finished", "Entries at the end of the log that were finished", log.finished.clone());
        registry.register("cut", "Entries at the end of the log that could not be finished", log.cut.clone());
        registry.register("source_connected", "1 while the source is connected", connected.clone());
        registry.register("source_connects", "Connections made to the source", connects.clone());
        registry.register("source_messages", "Messages received from the source", messages.clone());
        registry.register("source_oversize", "Messages of the source too large to be written", oversize.clone());
        let feeds = Feeds::default();
        feeds.register(&mut registry);
        Self { registry, written, log, connected, connects, messages, oversize, feeds }
    }

    /// The metrics of the source of the numbered feed at `HOST:PORT`.
    pub(crate) fn feed(&self, address: &str) -> FeedMetrics {
        let labels = [("source", address.to_owned())];
        let feeds = &self.feeds;
        FeedMetrics {
            connected: feeds.connected.get_or_create_owned(&labels),
            connects: feeds.connects.get_or_create_owned(&labels),
            blocks: feeds.blocks.get_or_create_owned(&labels),
            records: feeds.records.get_or_create_owned(&labels),
            fetches: feeds.fetches.get_or_create_owned(&labels),
            refusals: feeds.refusals.get_or_create_owned(&labels),
            lost: feeds.lost.get_or_create_owned(&labels),
        }
    }

    /// The metrics of the source called `name`.
    pub(crate) fn source(&self, name: &str) -> SourceMetrics {
        let labels = [("source", name.to_owned())];
        SourceMetrics {
            connected: self.connected.get_or_create_owned(&labels),
            connects: self.connects.get_or_create_owned(&labels),
            messages: self.messages.get_or_create_owned(&labels),
            oversize: self.oversize.get_or_create_owned(&labels),
        }
    }
}
