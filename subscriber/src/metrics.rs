//! What the subscriber counts, under the names that `/metrics` shows.

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
    pub(crate) rotations: Counter,
    connected: Family<Labels, Gauge>,
    connects: Family<Labels, Counter>,
    messages: Family<Labels, Counter>,
    oversize: Family<Labels, Counter>,
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
        let rotations = Counter::default();
        let (connected, connects) = (Family::default(), Family::default());
        let (messages, oversize) = (Family::default(), Family::default());
        registry.register("lines_written", "Lines in the log since the start", written.lines.clone());
        registry.register("bytes_written", "Bytes in the log since the start", written.bytes.clone());
        registry.register("rotations", "Files that were full", rotations.clone());
        registry.register("source_connected", "1 while the source is connected", connected.clone());
        registry.register("source_connects", "Connections made to the source", connects.clone());
        registry.register("source_messages", "Messages received from the source", messages.clone());
        registry.register("source_oversize", "Messages of the source too large to be written", oversize.clone());
        Self { registry, written, rotations, connected, connects, messages, oversize }
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
