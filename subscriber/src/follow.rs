//! A source of the numbered feed: the shell around a [`Cursor`], for as long as it takes.
//!
//! The cursor decides what to do with what arrived; this has the sockets, the clock and the way to the
//! writer. The contract between the two is in the docs of [`feed::cursor`]. Here a [`Connection`] is what
//! lives from one start of the cursor to the next, and between two of them is a pause: short after
//! a connection on which a reply reached its end, longer with each one that brought nothing, and long
//! if the publisher must not be followed until somebody has done something about it.
//!
//! Nothing is buffered here: a message is read from its socket when the one before has been handed to
//! the writer. What the shutdown interrupts was not handed over, and is fetched by the next process.

mod connection;
mod source;

#[cfg(test)]
mod tests;

pub use source::FeedSource;

use crate::link::Link;
use crate::log::queue::Queue;
use crate::metrics::FeedMetrics;
use connection::{Connection, End};
use feed::{Cursor, FirstContact};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long to wait for what, other than for a connection.
#[derive(Debug, Clone)]
pub(crate) struct Waits {
    /// For a message, on a feed that says something each second or during a reply.
    pub(crate) silence: Duration,
    /// For the writer, until the feed is closed, which would only fill up.
    pub(crate) writer: Duration,
    /// Until a source that is parked, or from which the writer took nothing, asks again.
    pub(crate) again: Duration,
    /// Before the first of several connections in a row that bring nothing, and the longest; each time
    /// it is twice as long.
    pub(crate) back_off: (Duration, Duration),
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(5),
            writer: Duration::from_secs(1),
            again: Duration::from_secs(1),
            back_off: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

/// Follows one publisher address into the queue until `shutdown`.
pub(crate) struct FeedFollower {
    pub(crate) source: FeedSource,
    pub(crate) first_contact: FirstContact,
    pub(crate) queue: Queue,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) metrics: FeedMetrics,
    pub(crate) waits: Waits,
    pub(crate) shutdown: CancellationToken,
}

impl FeedFollower {
    /// Ends at the shutdown, and when nobody writes any more.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut cursor = Cursor::new(self.first_contact);
        let (pause_min, pause_max) = self.waits.back_off;
        let mut pause = pause_min;
        let mut told = None;
        loop {
            self.queue.renew();
            let mut connection = Connection::new(self, &mut cursor);
            let end = connection.run().await;
            if connection.has_come_on() {
                pause = pause_min;
            }
            if connection.is_followed() {
                told = None;
            }
            // Both sockets are closed before the pause.
            drop(connection);
            let this_pause = match end {
                End::Gone => return,
                End::Lost(reason) => {
                    self.lost(reason);
                    pause
                }
                End::Displaced => {
                    self.lost("the log refused what came from here".to_owned());
                    pause.max(self.waits.again)
                }
                End::Refused(reason) => {
                    self.refused(reason, &mut told);
                    if self.queue.release().await.is_err() {
                        return;
                    }
                    pause_max
                }
            };
            tokio::select! {
                biased;
                () = self.queue.closed() => return,
                () = sleep(this_pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            pause = (pause * 2).min(pause_max);
        }
    }

    /// There is no connection, or none any more. Warns, unless that was the reason already.
    fn lost(&self, reason: String) {
        // Not in the match: who has borrowed the link must not change it.
        let (was_ready, known) = match &*self.link.borrow() {
            Link::Waiting(known) => (false, *known == reason),
            link => (link.is_ready(), false),
        };
        if was_ready {
            info!(source = %self.source, %reason, "disconnected, connecting again");
        } else if !known {
            warn!(source = %self.source, %reason, "not connected, trying until it is");
        }
        self.link_is(Link::Waiting(reason));
    }

    /// The publisher must not be followed. Said once, and not at each time it is tried again.
    fn refused(&self, reason: String, told: &mut Option<String>) {
        self.metrics.refusals.inc();
        if told.as_ref() != Some(&reason) {
            error!(source = %self.source, %reason, "refused, nothing is taken from there");
            *told = Some(reason.clone());
        }
        self.link_is(Link::Refused(reason));
    }

    /// Tells how it is, and whether that is news.
    fn link_is(&self, link: Link) -> bool {
        self.link.send_if_modified(|known| {
            let is_news = *known != link;
            *known = link;
            is_news
        })
    }
}
