//! What the publisher counts, under the names that `/metrics` shows.

use crate::Shared;
use crate::journal::Counters;
use axum::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};

type Labels = [(&'static str, String); 1];
/// Reads a number off whoever keeps it.
type Read = fn(&Shared) -> u64;

/// What is counted elsewhere, and only goes up.
const COUNTERS: [(&str, &str, Read); 14] = [
    ("journal_records", "Records that are durable", |it| counter(it, |counters| &counters.records)),
    ("journal_commits", "Commits: a block, a write, an fdatasync each", |it| counter(it, |counters| &counters.commits)),
    ("journal_bytes", "Bytes of the blocks that were committed", |it| counter(it, |counters| &counters.bytes)),
    ("journal_commit_microseconds", "Time that commits took", |it| counter(it, |counters| &counters.commit_us)),
    ("journal_torn", "Ends that were torn and cut when the journal was opened", |it| {
        counter(it, |counters| &counters.torn)
    }),
    ("journal_damaged_records", "Records that were found damaged", |it| counter(it, |counters| &counters.damaged)),
    ("journal_retired_segments", "Segments that retention removed", |it| {
        counter(it, |counters| &counters.retired_segments)
    }),
    ("journal_queue_refused", "Records that found the queue for the disk full", |it| it.journal.queued().1),
    ("plain_sent", "Messages handed to the plain feed", |it| it.plain.sent()),
    ("plain_dropped", "Messages that the plain feed could not hold", |it| it.plain.dropped()),
    ("plain_disconnects", "Connections to the plain feed that ended; what was on its way on them is lost", |it| {
        it.plain.connections().ended
    }),
    ("feed_withheld_blocks", "Blocks that the feed had no room for, and left to the replay", |it| it.live.withheld()),
    ("replay_requests", "Requests for a replay", |it| it.replay.requests().0),
    ("replay_refused", "Requests for a replay that were not understood or not served", |it| it.replay.requests().1),
];

/// What is so now.
const GAUGES: [(&str, &str, Read); 11] = [
    ("journal_bytes_kept", "Bytes of the journal's segments", |it| it.journal.bytes()),
    ("journal_oldest_sequence", "The first record kept", |it| it.journal.standing().oldest.next),
    ("journal_next_sequence", "The number of the next record", |it| it.journal.standing().next.next),
    ("journal_queue_bytes", "Bytes of records that wait for their commit", |it| it.journal.queued().0),
    ("plain_subscribers", "Connections to the plain feed", |it| it.plain.connections().open as u64),
    ("plain_queued_messages", "Messages in the plain feed's queues", |it| it.plain.held().messages),
    ("plain_queued_bytes", "Bytes charged to the plain feed's budget", |it| it.plain.held().bytes),
    ("feed_subscribers", "Connections to the feed", |it| it.live.connections().open as u64),
    ("feed_queued_messages", "Messages in the feed's queues", |it| it.live.held().messages),
    ("feed_queued_bytes", "Bytes charged to the feed's budget", |it| it.live.held().bytes),
    ("replay_clients", "Connections to the replay", |it| it.replay.connections().open as u64),
];

/// The publisher's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    counters: [Counter; COUNTERS.len()],
    gauges: [Gauge; GAUGES.len()],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("downpipe_publisher");
        let requests = Family::default();
        registry.register("requests", "GET requests to /downcase, by the status of their answer", requests.clone());
        let counters = COUNTERS.map(|(name, help, _)| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        });
        let gauges = GAUGES.map(|(name, help, _)| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        });
        Self { registry, requests, counters, gauges }
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&[("status", status.as_str().to_owned())]).inc();
    }

    /// The registry, with what is kept elsewhere read anew.
    pub(crate) fn read(&self, shared: &Shared) -> &Registry {
        for (counter, (_, _, read)) in self.counters.iter().zip(COUNTERS) {
            counter.inner().store(read(shared), Ordering::Relaxed);
        }
        for (gauge, (_, _, read)) in self.gauges.iter().zip(GAUGES) {
            gauge.set(i64::try_from(read(shared)).unwrap_or(i64::MAX));
        }
        &self.registry
    }
}

fn counter(shared: &Shared, which: fn(&Counters) -> &AtomicU64) -> u64 {
    which(shared.journal.counters()).load(Ordering::Relaxed)
}
