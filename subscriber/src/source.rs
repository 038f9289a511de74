//! A plain source: one SUB socket on any PUB socket, for as long as it takes.
//!
//! The crate's SUB reconnects by itself, but its greeting on reconnect has no timeout and outlives
//! the socket. So this supervises: at the first sign of a lost connection the socket is dropped and
//! a new one made, with a timeout, the name resolved anew, and a back-off of our own.
//!
//! PUB/SUB has no heartbeat that every publisher answers, and a publisher that vanishes without a
//! word leaves a connection that is silent for ever. So while one is silent, its name is resolved
//! again (did the publisher move?), and now and then a subscription to a prefix that nobody publishes
//! is made and taken back: a host that has restarted answers that with a reset, and on one that is
//! gone TCP gives up after the kernel's retransmissions, about 15 minutes.

use crate::log::format::Message;
use crate::log::writer::Queue;
use crate::metrics::SourceMetrics;
use bytes::Bytes;
use chrono::Utc;
use futures_util::future::select_ok;
use futures_util::{Stream, StreamExt};
use net::{AddressError, Endpoint};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeromq::{Socket, SocketEvent, SocketOptions, SocketRecv, SubSocket, ZmqError, ZmqMessage};

/// The longest name of a source, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The largest message that is written; a larger one is dropped, counted and warned of.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The wait for a name to be resolved.
const RESOLVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The wait for a connection and its handshake.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried, all at once.
const ADDRESSES_MAX: usize = 8;
/// The pause before the first reconnect, and before the last of many; each time twice as long.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a connection is nudged, and its name resolved while it is silent.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The wait for a subscription to be sent.
const SUBSCRIBE_WAIT_MAX: Duration = Duration::from_secs(2);
/// What is subscribed to, and at once no more, to have something sent.
const NUDGE_PREFIX: &str = "\0downpipe\0still there?";
/// At shutdown: the silence after which a source counts as read to its end, and the longest it is read on.
const DRAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

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
    #[error("`{0}` cannot be the name of a source: it takes 1 to {NAME_BYTES_MAX} bytes and does not begin with `$`")]
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
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('$') {
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

/// Whether a source is connected, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    Connected,
    Waiting(String),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("cannot resolve the name: {0}")]
    Resolve(io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("the publisher takes no subscription")]
    NotTaken,
    #[error("{0}")]
    Socket(#[from] ZmqError),
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
            let Some(connected) = self.shutdown.run_until_cancelled(connect(&self.source.endpoint)).await else {
                return;
            };
            match connected {
                Err(error) => self.not_connected(error.to_string()),
                Ok(connection) => {
                    pause = BACK_OFF.0;
                    info!(source = %self.source, address = %connection.address, "connected");
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

    async fn receive(&self, mut connection: Connection) -> End {
        let mut nudge = interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        nudge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heard = AtomicBool::new(false);
        let mut moved = pin!(moved(&self.source.endpoint, connection.address, &heard));
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
                message = connection.socket.recv() => match message {
                    Ok(message) => message,
                    Err(error) => return End::Lost(error.to_string()),
                },
                () = disconnected(&mut connection.events) => {
                    return End::Lost("the publisher closed the connection".to_owned());
                }
                () = drain.quiet() => return End::Shutdown,
                () = &mut moved => return End::Lost(format!("the publisher is no longer at {}", connection.address)),
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
        self.queue.put(Message { received, source: self.source.name.clone(), topic, body }).await
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
        let leads_elsewhere = resolve(endpoint).await.is_ok_and(|addresses| !addresses.contains(&address));
        if !heard.swap(false, Ordering::Relaxed) && leads_elsewhere {
            return;
        }
    }
}

/// A SUB socket that is connected.
struct Connection {
    socket: SubSocket,
    events: Events,
    address: SocketAddr,
}

/// What the socket tells of its connection.
type Events = Box<dyn Stream<Item = SocketEvent> + Send + Unpin>;

async fn disconnected(events: &mut Events) {
    while let Some(event) = events.next().await {
        if matches!(event, SocketEvent::Disconnected(_)) {
            return;
        }
    }
}

impl Connection {
    /// Sends something that changes nothing.
    async fn nudge(&mut self) -> Result<(), ConnectError> {
        let nudge = async {
            self.socket.subscribe(NUDGE_PREFIX).await?;
            self.socket.unsubscribe(NUDGE_PREFIX).await
        };
        Ok(timeout(SUBSCRIBE_WAIT_MAX, nudge).await.map_err(|_| ConnectError::NotTaken)??)
    }
}

/// Connects to the first address of the endpoint that answers.
async fn connect(endpoint: &Endpoint) -> Result<Connection, ConnectError> {
    let addresses = resolve(endpoint).await?;
    if addresses.is_empty() {
        return Err(ConnectError::NoAddress);
    }
    let attempts = addresses.into_iter().take(ADDRESSES_MAX).map(|address| Box::pin(connect_to(address)));
    let (connection, _) = select_ok(attempts).await?;
    Ok(connection)
}

async fn connect_to(address: SocketAddr) -> Result<Connection, ConnectError> {
    let mut options = SocketOptions::default();
    options.connect_timeout(CONNECT_WAIT_MAX);
    let mut socket = SubSocket::with_options(options);
    let events = Box::new(socket.monitor());
    socket.connect(&Endpoint::from(address).to_string()).await?;
    // Not before the connection: the crate would send it then, and say nothing if that failed.
    let subscribed = timeout(SUBSCRIBE_WAIT_MAX, socket.subscribe("")).await;
    subscribed.map_err(|_| ConnectError::NotTaken)??;
    Ok(Connection { socket, events, address })
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ConnectError> {
    let address = endpoint.address();
    let lookup = lookup_host((address.host(), address.port()));
    match timeout(RESOLVE_WAIT_MAX, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(ConnectError::Resolve(error)),
        Err(_) => Err(ConnectError::Resolve(io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeromq::{PubSocket, SocketSend};

    async fn publisher() -> (PubSocket, Endpoint) {
        let mut publisher = PubSocket::new();
        let bound = publisher.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        (publisher, bound.parse().unwrap())
    }

    #[tokio::test]
    async fn a_nudge_reaches_the_publisher_and_changes_nothing() {
        let (mut publisher, endpoint) = publisher().await;
        let mut connection = connect(&endpoint).await.unwrap();
        for number in 0..10 {
            connection.nudge().await.unwrap();
            // The first ones may be sent before the subscription has arrived.
            let received = loop {
                publisher.send(format!("{number}").into()).await.unwrap();
                if let Ok(received) = timeout(Duration::from_millis(10), connection.socket.recv()).await {
                    break received.unwrap();
                }
            };
            assert!(received.get(0).is_some_and(|frame| *frame != NUDGE_PREFIX.as_bytes()));
        }
    }

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
        for name in ["", "$downpipe", &"n".repeat(65)] {
            assert_eq!(refused(&format!("{name}=tcp://h:1")), SourceError::Name(name.to_owned()));
        }
        assert!(matches!(refused("tcp://h:0"), SourceError::Address(AddressError::NotConnectable(_))));
        assert!(matches!(refused("n=h:1"), SourceError::Address(AddressError::Transport(_))));
    }
}
