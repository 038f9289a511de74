//! What operators ask the subscriber over HTTP.

use crate::metrics::Metrics;
use crate::source::{Link, PlainSource};
use axum::Router;
use net::operations::{self, Operable, Readiness};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::sync::watch;

/// All that the subscriber serves.
pub(crate) fn router(status: Arc<Status>) -> Router {
    operations::routes(status)
}

/// How the subscriber is.
pub(crate) struct Status {
    pub(crate) links: Vec<(PlainSource, watch::Receiver<Link>)>,
    pub(crate) failing: watch::Receiver<Option<String>>,
    pub(crate) metrics: Metrics,
}

impl Operable for Status {
    /// Ready while every source is connected and the log takes what they send.
    fn readiness(&self) -> Readiness {
        let mut reasons: Vec<String> = self.failing.borrow().iter().cloned().collect();
        for (source, link) in &self.links {
            if let Link::Waiting(reason) = &*link.borrow() {
                reasons.push(format!("{source} is not connected: {reason}"));
            }
        }
        Readiness { reasons, notes: Vec::new() }
    }

    fn metrics(&self) -> &Registry {
        for (source, link) in &self.links {
            let connected = *link.borrow() == Link::Connected;
            self.metrics.source(source.name()).connected.set(connected.into());
        }
        &self.metrics.registry
    }
}
