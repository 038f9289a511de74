//! A plain source: one SUB socket on any PUB socket, for as long as it takes.
//!
//! At the first sign of a lost connection the socket is dropped and a new one made (see [`sockets`]
//! for why), after a back-off.
//!
//! [`sockets`]: crate::sockets
//!
//! PUB/SUB has no heartbeat that every publisher answers, and a publisher that vanishes without a
//! word leaves a connection that is silent for ever. So while one is silent, its name is resolved
//! again (did the publisher move?), and now and then a subscription to a prefix that nobody publishes
//! is made and taken back: a host that has restarted answers that with a reset, and on one that is
//! gone TCP gives up after the kernel's retransmissions, about 15 minutes.

use crate::link::Link;
use crate::log::format::Message;
use crate::log::queue::Queue;
use crate::metrics::SourceMetrics;
use crate::sockets::{Subscription, resolve};
use bytes::Bytes;
use chrono::Utc;
use net::{AddressError, Endpoint};
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeromq::ZmqMessage;

/// The longest name of a source, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The largest message that is written; a larger one is dropped, counted and warned of.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The pause before the first reconnect, and before the last of many; each time twice as long.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a connection is nudged, and its name resolved while it is silent.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// At shutdown: the silence after which a source counts as read to its end, and the longest it is read on.
const DRAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// Where to subscribe, and what to call it in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainSource {
    name: Arc<str>,
    endpoint: Endpoint,
}

/// Why a text is not a source.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The part after `NAME=` is no endpoint that can be connected to.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name is empty, too long, or one of ours.
    #[error(
        "{0:?} cannot be the name of a source: it takes 1 to {NAME_BYTES_MAX} bytes, no control characters, and does not \
         begin with `$`"
    )]
    Name(String),
}

impl PlainSource {
    /// A source called by its address.
    pub fn at(endpoint: Endpoint) -> Self {
        Self { name: endpoint.address().to_string().into(), endpoint }
    }

    /// What it is called in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl FromStr for PlainSource {
    type Err = SourceError;

    /// `[NAME=]tcp://HOST:PORT`
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let Some((name, endpoint)) = text.split_once('=') else {
            return Ok(Self::at(text.parse::<Endpoint>()?.connectable()?));
        };
        let is_wrong = name.starts_with('$') || name.contains(char::is_control);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || is_wrong {
            return Err(SourceError::Name(name.to_owned()));
        }
        Ok(Self { name: name.into(), endpoint: endpoint.parse::<Endpoint>()?.connectable()? })
    }
}

impl fmt::Display for PlainSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.name == self.endpoint.address().to_string() {
            return write!(f, "{}", self.endpoint);
        }
        write!(f, "{}={}", self.name, self.endpoint)
    }
}

/// How a connection ended.
enum End {
    Shutdown,
    Lost(String),
}

/// Follows one source into the queue until `shutdown`, and a little longer: what its socket has
/// received by then is still read.
pub(crate) struct Follower {
    pub(crate) source: PlainSource,
    pub(crate) queue: Queue,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) metrics: SourceMetrics,
    pub(crate) shutdown: CancellationToken,
}

impl Follower {
    pub(crate) async fn run(self) {
        let mut pause = BACK_OFF.0;
        loop {
            let Some(connected) =
                self.shutdown.run_until_cancelled(Subscription::open(self.source.endpoint.address())).await
            else {
                return;
            };
            match connected {
                Err(error) => self.not_connected(error.to_string()),
                Ok(connection) => {
                    pause = BACK_OFF.0;
                    info!(source = %self.source, address = %connection.address(), "connected");
                    self.metrics.connects.inc();
                    self.link.send_replace(Link::Connected);
                    match self.receive(connection).await {
                        End::Shutdown => return,
                        End::Lost(reason) => {
                            info!(source = %self.source, %reason, "disconnected, connecting again");
                            self.link.send_replace(Link::Waiting(reason));
                        }
                    }
                }
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if self.shutdown.run_until_cancelled(sleep(jittered)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Warns, unless that was the reason already.
    fn not_connected(&self, reason: String) {
        let known = matches!(&*self.link.borrow(), Link::Waiting(known) if *known == reason);
        if !known {
            warn!(source = %self.source, %reason, "not connected, trying until it is");
            self.link.send_replace(Link::Waiting(reason));
        }
    }

    async fn receive(&self, mut connection: Subscription) -> End {
        let mut nudge = interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        nudge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heard = AtomicBool::new(false);
        let address = connection.address();
        let mut moved = pin!(moved(&self.source.endpoint, address, &heard));
        let mut drain = Drain::NotYet;
        loop {
            let message = tokio::select! {
                // In this order: a source that never pauses must not keep the shutdown out, and what
                // was received comes before what ends the connection.
                biased;
                () = self.shutdown.cancelled(), if drain == Drain::NotYet => {
                    drain = Drain::Until(Instant::now() + DRAIN.1);
                    continue;
                }
                () = drain.over() => return End::Shutdown,
                message = connection.receive() => match message {
                    Ok(message) => message,
                    Err(error) => return End::Lost(error.to_string()),
                },
                () = drain.quiet() => return End::Shutdown,
                () = &mut moved => return End::Lost(format!("the publisher is no longer at {address}")),
                _ = nudge.tick() => match connection.nudge().await {
                    Ok(()) => continue,
                    Err(error) => return End::Lost(error.to_string()),
                },
            };
            heard.store(true, Ordering::Relaxed);
            if !self.put(message).await {
                return End::Shutdown;
            }
        }
    }

    /// Queues a message. `false` if nobody writes any more.
    async fn put(&self, message: ZmqMessage) -> bool {
        let received = Utc::now();
        let frames = message.into_vec();
        // With a space for each frame that follows another.
        let bytes = frames.iter().map(|frame| frame.len() + 1).sum::<usize>().saturating_sub(1);
        if bytes > MESSAGE_BYTES_MAX {
            let refused = self.metrics.oversize.inc() + 1;
            if refused.is_power_of_two() {
                warn!(source = %self.source, bytes, limit = MESSAGE_BYTES_MAX, refused, "message too large, dropped");
            }
            return true;
        }
        self.metrics.messages.inc();
        let (topic, body) = topic_and_body(&frames);
        self.queue.message(Message { received, source: self.source.name.clone(), topic, body }).await.is_ok()
    }
}

/// Of two frames the first is the topic; any other number is all body, joined with spaces.
///
/// Both are copied: a frame is a slice of the socket's read buffer, and a few bytes that wait would
/// hold on to all of it.
fn topic_and_body(frames: &[Bytes]) -> (Option<Box<[u8]>>, Box<[u8]>) {
    match frames {
        [topic, body] if !topic.is_empty() => (Some(topic[..].into()), body[..].into()),
        [_, body] | [body] => (None, body[..].into()),
        frames => (None, frames.join(&b' ').into()),
    }
}

/// How long to read on after the shutdown has begun.
#[derive(PartialEq)]
enum Drain {
    NotYet,
    Until(Instant),
}

impl Drain {
    /// Ends when the time is over; before the shutdown, never.
    async fn over(&self) {
        match self {
            Self::NotYet => std::future::pending().await,
            Self::Until(end) => sleep_until(*end).await,
        }
    }

    /// Ends when nothing has come for a while; before the shutdown, never.
    async fn quiet(&self) {
        match self {
            Self::NotYet => std::future::pending().await,
            Self::Until(_) => sleep(DRAIN.0).await,
        }
    }
}

/// Ends when the name of a publisher leads elsewhere, and nothing was heard meanwhile.
async fn moved(endpoint: &Endpoint, address: SocketAddr, heard: &AtomicBool) {
    loop {
        sleep(CHECK_EVERY).await;
        // A resolver that fails says nothing about the publisher.
        let leads_elsewhere = resolve(endpoint.address()).await.is_ok_and(|addresses| !addresses.contains(&address));
        if !heard.swap(false, Ordering::Relaxed) && leads_elsewhere {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_name_that_leads_elsewhere_ends_a_silent_connection_and_no_other() {
        let here = "127.0.0.1:4444".parse().unwrap();
        let elsewhere: Endpoint = "tcp://127.0.0.2:4444".parse().unwrap();
        let (silent, heard) = (AtomicBool::new(false), AtomicBool::new(true));
        let start = Instant::now();
        moved(&elsewhere, here, &silent).await;
        assert_eq!(start.elapsed().as_secs(), 30);
        let start = Instant::now();
        moved(&elsewhere, here, &heard).await;
        assert_eq!(start.elapsed().as_secs(), 60);
        let stays: Endpoint = "tcp://127.0.0.1:4444".parse().unwrap();
        assert!(timeout(CHECK_EVERY * 100, moved(&stays, here, &silent)).await.is_err());
    }

    #[test]
    fn the_first_of_two_frames_is_the_topic_and_no_other() {
        let split = |frames: &[&'static str]| {
            let frames: Vec<_> = frames.iter().map(|frame| Bytes::from_static(frame.as_bytes())).collect();
            let (topic, body) = topic_and_body(&frames);
            let text = |bytes: Box<[u8]>| String::from_utf8(bytes.into()).unwrap();
            (topic.map(text), text(body))
        };
        assert_eq!(split(&["body"]), (None, "body".to_owned()));
        assert_eq!(split(&["topic", "body"]), (Some("topic".to_owned()), "body".to_owned()));
        assert_eq!(split(&["", "body"]), (None, "body".to_owned()));
        assert_eq!(split(&["x", "y", "", "z"]), (None, "x y  z".to_owned()));
        assert_eq!(split(&[""]), (None, String::new()));
    }

    #[test]
    fn a_source_is_called_by_its_name_or_its_address() {
        let source: PlainSource = "tcp://publisher:4444".parse().unwrap();
        assert_eq!((&*source.name, source.to_string()), ("publisher:4444", "tcp://publisher:4444".to_owned()));
        let source: PlainSource = "billing eu=tcp://[::1]:4444".parse().unwrap();
        assert_eq!((&*source.name, source.to_string()), ("billing eu", "billing eu=tcp://[::1]:4444".to_owned()));
    }

    #[test]
    fn what_is_no_source_is_refused_by_what_is_wrong_with_it() {
        let refused = |text: &str| text.parse::<PlainSource>().unwrap_err();
        for name in ["", "$downpipe", "a\nb", &"n".repeat(65)] {
            assert_eq!(refused(&format!("{name}=tcp://h:1")), SourceError::Name(name.to_owned()));
        }
        assert!(matches!(refused("tcp://h:0"), SourceError::Address(AddressError::NotConnectable(_))));
        assert!(matches!(refused("n=h:1"), SourceError::Address(AddressError::Transport(_))));
    }
}
