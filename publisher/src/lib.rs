//! The publisher: an HTTP service whose every answer is a record that is on disk, and is published.
//!
//! [`Publisher::bind`] opens the journal and takes the addresses, [`Publisher::run`] serves until it is
//! told to stop. In between, a caller can append records of its own ([`Publisher::append`],
//! [`Publisher::appender`]) and wait for a subscriber ([`Publisher::subscriber_connected`]).
//!
//! A record is acknowledged when `fdatasync` has returned for it, and not before. From there on the
//! feeds have it: the numbered one, with the replay beside it, loses nothing; the plain one drops what
//! it cannot hold, and counts it. Neither ever holds up a commit.

mod account;
mod downcase;
mod http;
pub mod journal;
mod live;
mod metrics;
mod name;
mod peers;
mod plain;
mod pub_server;
mod replay;
mod socket_thread;

pub use crate::journal::{AppendError, JournalError};
pub use crate::name::{Name, NameError};
pub use crate::pub_server::ServeError;
pub use crate::replay::REPLAY_BUDGET_BYTES_MIN;

use crate::journal::{Journal, Outlet};
use crate::live::{Identity, LiveFeed};
use crate::metrics::Metrics;
use crate::plain::PlainFeed;
use crate::pub_server::FLUSH_WAIT_MAX;
use crate::replay::ReplayServer;
use crate::socket_thread::CLOSE_SLACK;
use faults::Faults;
use feed::{Block, Position};
use net::{Endpoint, HostPort, ListenError};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The least that both feeds may hold, in bytes: the longest block each, and heads.
pub const LIVE_BUDGET_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// The longest that [`Publisher::run`] goes on after its shutdown has begun, beside the disk.
pub const STOP_WAIT_MAX: Duration =
    net::http::DRAIN_WAIT_MAX.saturating_add(LINGER_MAX).saturating_add(FLUSH_WAIT_MAX).saturating_add(CLOSE_SLACK);

/// Every point at which [`Faults`] can strike, in the order in which a journal that is opened, written,
/// sealed and retired passes them.
pub const FAULT_POINTS: [&str; 27] = [
    "open.locked",
    "renew.marked",
    "renew.moved",
    "renew.done",
    "open.named",
    "open.copied",
    "open.synced",
    "open.renamed",
    "open.done",
    "commit.encoded",
    "commit.written",
    "commit.synced",
    "answer.before",
    "answer.after",
    "feed.after",
    "seal.before",
    "seal.created",
    "seal.synced",
    "seal.renamed",
    "seal.done",
    "index.written",
    "index.renamed",
    "retire.before",
    "retire.unlinked",
    "retire.done",
    "sync",
    "write",
];

/// The wait at shutdown for subscribers to take what was published, and to ask for what they miss.
const LINGER_MAX: Duration = Duration::from_secs(4);

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP listens.
    pub http: HostPort,
    /// Where the plain feed listens: PUB, one frame a message, the text itself.
    pub plain: Endpoint,
    /// Where the numbered feed listens: PUB, blocks and heads.
    pub feed: Endpoint,
    /// Where the replay listens: ROUTER.
    pub replay: Endpoint,
    /// Where subscribers find the replay; else at the feed's host and the replay's port.
    pub advertise_replay: Option<HostPort>,
    /// The folder of the journal.
    pub journal: PathBuf,
    /// The publisher's name. Kept with the journal: another one later is an error. Else the host's.
    pub name: Option<Name>,
    /// Bytes of segments that are kept, whole segments, the oldest removed first.
    pub retain_bytes: u64,
    /// How long records are kept, in whole segments, if not only their size counts.
    pub retain_age: Option<Duration>,
    /// Bytes of a segment, [`journal::SEGMENT_BYTES_MIN`] to [`journal::SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// Bytes of records that may wait for their commit, at least [`journal::QUEUE_BYTES_MIN`].
    pub append_queue_bytes: u64,
    /// Begins a new stream. The journal that is there is kept in a folder of its own, and not served. A journal that was
    /// cloned, and is run by two publishers, is made two streams by that.
    pub new_stream: bool,
    /// Bytes that the queues of both feeds may hold, half each, at least [`LIVE_BUDGET_BYTES_MIN`]. Beyond it the
    /// plain feed drops, and the numbered one leaves blocks to the replay.
    pub live_budget_bytes: u64,
    /// Bytes that all replies may hold, at least [`REPLAY_BUDGET_BYTES_MIN`].
    pub replay_budget_bytes: u64,
    /// How long a connected subscriber may neither take data nor answer the kernel's probes before it is cut off.
    pub peer_timeout: Duration,
    /// What is to go wrong, in tests.
    pub faults: Faults,
}

/// Why a publisher did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The journal does not open.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket cannot be served.
    #[error("cannot serve the {what} at {address}")]
    Serve {
        /// What for.
        what: &'static str,
        /// Where it listens.
        address: SocketAddr,
        /// Why.
        source: ServeError,
    },
    /// Heads have no room for it.
    #[error("the replay's address {0} is too long to be told to subscribers")]
    Advertise(HostPort),
    /// The system has no thread to give.
    #[error("cannot start the journal's thread")]
    Thread(#[source] io::Error),
}

/// A publisher whose addresses are bound: subscribers connect already, HTTP clients wait until it runs.
pub struct Publisher {
    http: TcpListener,
    http_address: SocketAddr,
    plain_address: SocketAddr,
    feed_address: SocketAddr,
    replay_address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the HTTP handlers and the journal's thread share.
struct Shared {
    journal: Arc<Journal>,
    plain: PlainFeed,
    live: LiveFeed,
    replay: ReplayServer,
    metrics: Metrics,
}

/// Appends records to a publisher's journal; as many as are wanted of the same.
#[derive(Clone)]
pub struct Appender {
    journal: Arc<Journal>,
}

impl Appender {
    /// Appends a record, and waits until it is durable. Returns its sequence number.
    ///
    /// The topic has 1 to 255 bytes and does not begin with `$`, the body at most 256 KiB. Once it is
    /// queued the record is committed, whether or not anybody still waits for the answer.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, topic: &str, body: &[u8]) -> Result<u64, AppendError> {
        self.journal.append(topic, &[body]).await
    }

    /// Appends records of one topic together, in order, and waits until they are durable: after whatever ends the
    /// process or the machine all of them are in the journal, or none. Returns the sequence number of the first;
    /// the others have the next ones. For who has many at once: it costs little more than [`Self::append`] of one.
    ///
    /// Together they are at most a block: [`feed::block::RECORDS_MAX`] records, and
    /// [`feed::block::PAYLOAD_BYTES_MAX`] bytes with about 6 and the topic for each.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append_all<B: AsRef<[u8]>>(&self, topic: &str, bodies: &[B]) -> Result<u64, AppendError> {
        self.journal.append(topic, bodies).await
    }
}

impl Publisher {
    /// Opens the journal and binds the addresses, each once.
    ///
    /// # Errors
    /// See [`BindError`]; each names the address or the path. A disk without room is none: then the
    /// publisher is not ready until there is.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let journal = open_journal(&config).await?;
        let listen = |at: &Endpoint| net::listen(at.address(), config.peer_timeout);
        let (http, http_address) = net::listen_http(&config.http)?;
        let (plain, plain_address) = listen(&config.plain)?;
        let (live, feed_address) = listen(&config.feed)?;
        let (replay, replay_address) = listen(&config.replay)?;
        let identity = identity(&config, &journal, replay_address.port())?;
        let failed = |what, address| move |source| BindError::Serve { what, address, source };

        let budget_bytes = config.live_budget_bytes / 2;
        let plain = PlainFeed::serve(plain, budget_bytes).await.map_err(failed("plain feed", plain_address))?;
        let (standing, oldest) = (journal.standing(), journal.clone());
        let oldest = move || oldest.standing().oldest;
        let live = LiveFeed::serve(live, budget_bytes, identity.clone(), standing.next, oldest)
            .await
            .map_err(failed("feed", feed_address))?;
        let replay = ReplayServer::serve(replay, config.replay_budget_bytes, identity, journal.clone())
            .await
            .map_err(failed("replay", replay_address))?;
        let shared = Arc::new(Shared { journal, plain, live, replay, metrics: Metrics::new() });
        shared.journal.start(Feeds(Arc::downgrade(&shared))).map_err(BindError::Thread)?;
        Ok(Self { http, http_address, plain_address, feed_address, replay_address, shared })
    }

    /// Where HTTP listens, port 0 resolved.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where the plain feed listens, port 0 resolved.
    pub fn plain_address(&self) -> SocketAddr {
        self.plain_address
    }

    /// Where the numbered feed listens, port 0 resolved.
    pub fn feed_address(&self) -> SocketAddr {
        self.feed_address
    }

    /// Where the replay listens, port 0 resolved.
    pub fn replay_address(&self) -> SocketAddr {
        self.replay_address
    }

    /// Waits until a subscriber is connected to the plain feed.
    pub async fn subscriber_connected(&self) {
        self.shared.plain.subscriber_connected().await;
    }

    /// Appends a record; see [`Appender::append`].
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, topic: &str, body: &[u8]) -> Result<u64, AppendError> {
        self.shared.journal.append(topic, &[body]).await
    }

    /// Appends records also while the publisher runs.
    pub fn appender(&self) -> Appender {
        Appender { journal: self.shared.journal.clone() }
    }

    /// Serves until `shutdown`; then stops accepting, finishes the requests in hand, commits what waits,
    /// lets subscribers take what was published and ask for what they miss, and disconnects them, each
    /// within its bound. Only the disk has none. Returns the sequence number behind the last record, for
    /// whoever knows how far others have come.
    pub async fn run(self, shutdown: CancellationToken) -> u64 {
        let shared = self.shared;
        net::http::serve(self.http, http::router(shared.clone()), shutdown).await;
        shared.journal.close().await;
        let Shared { plain, live, replay, .. } = &*shared;
        let (left, missed, ()) =
            tokio::join!(plain.drain(LINGER_MAX), live.drain(LINGER_MAX), replay.drain(LINGER_MAX));
        if left + missed > 0 {
            warn!(plain = left, feed = missed, waited = ?LINGER_MAX, "subscribers did not take all that was published to them");
        }
        tokio::join!(plain.close(), live.close(), replay.close());
        info!("publisher stopped");
        shared.journal.standing().next.next
    }
}

async fn open_journal(config: &Config) -> Result<Arc<Journal>, BindError> {
    let options = journal::Options {
        folder: config.journal.clone(),
        name: config.name.clone(),
        default_name: Name::of_host(),
        retain_bytes: config.retain_bytes,
        retain_age: config.retain_age,
        segment_bytes: config.segment_bytes,
        queue_bytes: config.append_queue_bytes,
        new_stream: config.new_stream,
        faults: config.faults.clone(),
    };
    let opened = tokio::task::spawn_blocking(|| Journal::open(options)).await;
    let journal = opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
    if let Some(why) = journal.is_volatile() {
        let folder = journal.path().display();
        warn!(%folder, "the journal is on {why}: what was answered with 200 does not survive the machine");
    }
    Ok(Arc::new(journal))
}

fn identity(config: &Config, journal: &Journal, replay_port: u16) -> Result<Identity, BindError> {
    let replay = config.advertise_replay.clone().unwrap_or_else(|| config.feed.address().with_port(replay_port));
    let identity = Identity { stream: journal.stream(), name: journal.name().to_string(), replay: replay.to_string() };
    match identity.head(Position::default(), Position::default()) {
        Some(_) => Ok(identity),
        None => Err(BindError::Advertise(replay)),
    }
}

/// Brings what is durable from the journal's thread to both feeds.
struct Feeds(std::sync::Weak<Shared>);

impl Outlet for Feeds {
    fn opened(&self, at: Position) {
        if let Some(shared) = self.0.upgrade() {
            shared.live.stands_at(at);
        }
    }

    fn committed(&self, block: &Block) {
        if let Some(shared) = self.0.upgrade() {
            shared.live.offer(block);
            shared.plain.offer(block);
        }
    }
}
