//! What the publisher counts, under the names that `/metrics` shows.

use crate::live::PlainFeed;
use axum::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::Ordering;

type Labels = [(&'static str, String); 1];

/// The publisher's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    plain_sent: Counter,
    plain_dropped: Counter,
    plain_disconnects: Counter,
    plain_subscribers: Gauge,
    plain_queued_messages: Gauge,
    plain_queued_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("downpipe_publisher");
        let requests = Family::default();
        let [plain_sent, plain_dropped, plain_disconnects] = std::array::from_fn(|_| Counter::default());
        let [plain_subscribers, plain_queued_messages, plain_queued_bytes] = std::array::from_fn(|_| Gauge::default());
        registry.register("requests", "GET requests to /downcase, by the status of their answer", requests.clone());
        registry.register("plain_sent", "Messages handed to the plain feed", plain_sent.clone());
        registry.register("plain_dropped", "Messages that the plain feed could not hold", plain_dropped.clone());
        let help = "Connections to the plain feed that ended; what was on its way on them is lost";
        registry.register("plain_disconnects", help, plain_disconnects.clone());
        registry.register("plain_subscribers", "Connections to the plain feed", plain_subscribers.clone());
        registry.register(
            "plain_queued_messages",
            "Messages in the plain feed's queues",
            plain_queued_messages.clone(),
        );
        registry.register("plain_queued_bytes", "Bytes charged to the plain feed's budget", plain_queued_bytes.clone());
        Self {
            registry,
            requests,
            plain_sent,
            plain_dropped,
            plain_disconnects,
            plain_subscribers,
            plain_queued_messages,
            plain_queued_bytes,
        }
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&[("status", status.as_str().to_owned())]).inc();
    }

    /// The registry, with what the feed itself keeps read anew.
    pub(crate) fn read(&self, plain: &PlainFeed) -> &Registry {
        let held = plain.held();
        let connections = plain.connections();
        self.plain_subscribers.set(connections.open as i64);
        self.plain_disconnects.inner().store(connections.ended, Ordering::Relaxed);
        self.plain_queued_messages.set(held.messages as i64);
        self.plain_queued_bytes.set(held.bytes as i64);
        self.plain_sent.inner().store(plain.sent(), Ordering::Relaxed);
        self.plain_dropped.inner().store(plain.dropped(), Ordering::Relaxed);
        &self.registry
    }
}
