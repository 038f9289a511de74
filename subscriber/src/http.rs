//! What operators ask the subscriber over HTTP.

use crate::follow::FeedSource;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::source::PlainSource;
use axum::Router;
use net::operations::{self, Operable, Readiness};
use prometheus_client::registry::Registry;
use std::fmt::Display;
use std::sync::Arc;
use tokio::sync::watch;

/// All that the subscriber serves.
pub(crate) fn router(status: Arc<Status>) -> Router {
    operations::routes(status)
}

/// How the subscriber is.
pub(crate) struct Status {
    pub(crate) links: Vec<(PlainSource, watch::Receiver<Link>)>,
    pub(crate) feeds: Vec<(FeedSource, watch::Receiver<Link>)>,
    pub(crate) failing: watch::Receiver<Option<String>>,
    pub(crate) metrics: Metrics,
}

impl Operable for Status {
    /// Ready while every source is connected, or served through another one, and the log takes what they send.
    fn readiness(&self) -> Readiness {
        let reasons = self.failing.borrow().iter().cloned().collect();
        let mut readiness = Readiness { reasons, notes: Vec::new() };
        for (source, link) in &self.feeds {
            tell(source, &link.borrow(), &mut readiness);
        }
        for (source, link) in &self.links {
            tell(source, &link.borrow(), &mut readiness);
        }
        readiness
    }

    fn metrics(&self) -> &Registry {
        for (source, link) in &self.feeds {
            self.metrics.feed(&source.label()).connected.set(link.borrow().is_ready().into());
        }
        for (source, link) in &self.links {
            self.metrics.source(source.name()).connected.set(link.borrow().is_ready().into());
        }
        &self.metrics.registry
    }
}

/// Says how it is with a source, if there is anything to say.
fn tell(source: &impl Display, link: &Link, readiness: &mut Readiness) {
    match link {
        Link::Connected => {}
        Link::Parked { stream } => {
            let note = format!("{source} is parked: its stream {stream} is served through another address");
            readiness.notes.push(note);
        }
        Link::Waiting(reason) => readiness.reasons.push(format!("{source} is not connected: {reason}")),
        Link::Refused(reason) => readiness.reasons.push(format!("{source} is refused: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use feed::StreamId;

    #[test]
    fn who_is_parked_is_ready_with_a_note_and_who_is_refused_is_not() {
        let links = [
            Link::Connected,
            Link::Parked { stream: StreamId([7; 16]) },
            Link::Refused("upgrade the subscriber".to_owned()),
            Link::Waiting("no route".to_owned()),
        ];
        let mut readiness = Readiness::default();
        for (index, link) in links.iter().enumerate() {
            tell(&format!("tcp://web-{index}:4445"), link, &mut readiness);
        }
        let parked = "tcp://web-1:4445 is parked: its stream 07070707-0707-0707-0707-070707070707 is served through \
                      another address";
        assert_eq!(readiness.notes, [parked]);
        let refused = "tcp://web-2:4445 is refused: upgrade the subscriber";
        assert_eq!(readiness.reasons, [refused, "tcp://web-3:4445 is not connected: no route"]);
        assert_eq!(links.map(|link| link.is_ready()), [true, true, false, false]);
    }
}
