//! The subscriber: a daemon that stamps the records of its publishers with the time and appends them, each
//! once, to a log that rotates.
//!
//! [`Subscriber::open`] takes the log and the HTTP address, [`Subscriber::run`] follows the sources
//! until it is told to stop. A source is the numbered feed of a publisher, of which nothing is missed, or any
//! PUB socket, best effort. Each has a task, the log has one thread, and between them is a queue with a
//! bound: a slow disk holds the sources back, and TCP their publishers.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod follow;
mod http;
mod link;
mod log;
mod metrics;
mod sockets;
mod source;
pub mod verify;

pub use crate::follow::FeedSource;
pub use crate::log::error::LogError;
pub use crate::log::file::ROTATE_BYTES_MIN;
pub use crate::log::format::{Format, Stamp};
pub use crate::log::index;
pub use crate::log::writer::WriterError;
pub use crate::source::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PlainSource, SourceError};
pub use feed::FirstContact;

use crate::follow::{FeedFollower, Waits};
use crate::http::Status;
use crate::link::Link;
use crate::log::file::{self, Log};
use crate::log::queue::{Hold, Queue, Queues, queues};
use crate::log::writer::{Settings, Writer};
use crate::metrics::Metrics;
use crate::source::Follower;
use faults::Faults;
use net::{Endpoint, HostPort, ListenError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Sources that one subscriber follows, of either kind: each holds connections with their buffers.
pub const SOURCES_MAX: usize = 256;
/// The wait at shutdown for plain sources to be read to their end; then what they sent is written and synced.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(1150);
/// The wait for that. A disk that hangs takes all of it.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(8);

/// What a subscriber needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose numbered feed to follow, each endpoint once. With `plain`, at most [`SOURCES_MAX`].
    pub feed: Vec<FeedSource>,
    /// Where to begin with a publisher that the log does not know.
    pub from: FirstContact,
    /// Which PUB sockets to follow, each endpoint and each name once.
    pub plain: Vec<PlainSource>,
    /// The current file of the log.
    pub log: PathBuf,
    /// Where HTTP listens.
    pub http: HostPort,
    /// How a line looks.
    pub format: Format,
    /// Which time a line shows.
    pub stamp: Stamp,
    /// Bytes after which a file is full, at least [`ROTATE_BYTES_MIN`].
    pub rotate_bytes: u64,
    /// The time after which it is, whatever it holds, counted from the beginning of 1970 in UTC.
    pub rotate_every: Option<Duration>,
    /// How many full files are kept, of those that are the log's own; else all.
    pub keep: Option<u64>,
    /// How often what was written is synced.
    pub sync_every: Duration,
    /// Sets aside a text that has no index, rather than being refused by it.
    pub adopt: bool,
    /// What is to go wrong, in tests.
    pub faults: Faults,
}

/// Every point at which [`Faults`] can strike, in the order in which a log that is opened, written, synced
/// and rotated passes them. At the last two a system call can be made to fail.
pub const FAULT_POINTS: [&str; 22] = [
    "log.open.rewritten",
    "log.finish.before",
    "log.finish.after",
    "log.open.done",
    "log.base.after",
    "log.entry.before",
    "log.entry.after",
    "log.text.after",
    "log.sync.before",
    "log.sync.text",
    "log.sync.index",
    "log.sync.after",
    "log.rotate.before",
    "log.rotate.sealed",
    "log.rotate.synced",
    "log.rotate.log",
    "log.rotate.index",
    "log.rotate.new",
    "log.rotate.created",
    "log.rotate.done",
    "log.sync",
    "log.write",
];

/// Why a subscriber did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two addresses are one.
    #[error("the feed {0} is given twice")]
    FeedTwice(FeedSource),
    /// Two sources are one, and would write every message twice.
    #[error("the plain source {0} is given twice, which would write its messages twice")]
    SourceTwice(Endpoint),
    /// Two sources could not be told apart in the log.
    #[error("two plain sources are called {0}")]
    NameTwice(String),
    /// More sources than one subscriber follows.
    #[error("{0} sources are given, more than {SOURCES_MAX}")]
    TooManySources(usize),
    /// The log cannot be had.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The HTTP address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The log's thread cannot be had.
    #[error(transparent)]
    Writer(#[from] WriterError),
}

/// A subscriber that holds its log and listens, but follows nobody yet.
pub struct Subscriber {
    http: TcpListener,
    http_address: SocketAddr,
    writer: Writer,
    hold: Hold,
    from: FirstContact,
    feeds: Vec<Followed<FeedSource>>,
    plain: Vec<Followed<PlainSource>>,
    status: Arc<Status>,
}

impl Subscriber {
    /// Takes the log and its lock, and binds the HTTP address.
    ///
    /// # Errors
    /// See [`OpenError`]; each names the path or the address.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        check_sources(&config.feed, &config.plain)?;
        let metrics = Metrics::new();
        let options = file::Options {
            path: config.log,
            rotate_bytes: config.rotate_bytes,
            rotate_every: config.rotate_every,
            keep: config.keep,
            adopt: config.adopt,
            format: config.format,
            faults: config.faults,
        };
        let log = Log::open(options, metrics.log.clone())?;

        let (http, http_address) = net::listen_http(&config.http)?;

        let feeds = config.feed.iter().map(FeedSource::home);
        let homes = feeds.chain(config.plain.iter().map(PlainSource::name)).map(str::to_owned).collect();
        let Queues { mut queues, hold, desks, commands } = queues(homes);
        let settings = Settings { format: config.format, stamp: config.stamp, sync_every: config.sync_every };
        let writer = Writer::start(log, settings, metrics.written.clone(), desks, commands)?;
        let of_plain = queues.split_off(config.feed.len());
        let feeds = with_links(config.feed, queues);
        let plain = with_links(config.plain, of_plain);
        let status =
            Arc::new(Status { feeds: links(&feeds), links: links(&plain), failing: writer.failing(), metrics });
        Ok(Self { http, http_address, writer, hold, from: config.from, feeds, plain, status })
    }

    /// Where HTTP listens, port 0 resolved.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Waits, once the subscriber runs, until it has caught up with a feed. For ever, if it does not follow it.
    pub fn caught_up(&self, feed: &FeedSource) -> impl Future<Output = ()> + Send + use<> {
        let link = self.status.feeds.iter().find(|(source, _)| source == feed);
        let link = link.map(|(_, link)| link.clone());
        async move {
            let Some(mut link) = link else { return std::future::pending().await };
            if link.wait_for(Link::is_ready).await.is_err() {
                // The subscriber stopped before that.
                std::future::pending().await
            }
        }
    }

    /// Where the log stands in the stream of a feed that is followed, to be asked and waited for at any time.
    pub fn written(&self, feed: &FeedSource) -> Option<watch::Receiver<u64>> {
        let followed = self.feeds.iter().find(|followed| followed.source == *feed);
        followed.map(|followed| followed.queue.written())
    }

    /// Follows the sources until `shutdown`; then reads what they have received, writes and syncs
    /// it, each within its bound.
    ///
    /// # Errors
    /// Not all that was received is on the disk.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WriterError> {
        let shutdown = shutdown.child_token();
        let mut sources = JoinSet::new();
        for Followed { source, link, queue } in self.feeds {
            let metrics = self.status.metrics.feed(&source.label());
            let (first_contact, waits, shutdown) = (self.from, Waits::default(), shutdown.clone());
            sources.spawn(FeedFollower { source, first_contact, queue, link, metrics, waits, shutdown }.run());
        }
        for Followed { source, link, queue } in self.plain {
            let metrics = self.status.metrics.source(source.name());
            let shutdown = shutdown.clone();
            sources.spawn(Follower { source, queue, link, metrics, shutdown }.run());
        }
        let http = net::http::serve(self.http, http::router(self.status), shutdown.clone());
        let log = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                // Neither ends by itself. Without a writer nothing can be written, and a source
                // that nobody follows would still be called connected.
                () = self.hold.closed() => {}
                Some(_) = sources.join_next() => {}
            }
            let ended_early = !shutdown.is_cancelled();
            shutdown.cancel();
            // The queue closes when the last source has ended.
            drop(self.hold);
            read_to_the_end(sources).await;
            let finished = self.writer.finish(WRITE_WAIT_MAX).await;
            if ended_early { finished.and(Err(WriterError::Ended)) } else { finished }
        };
        let ((), finished) = tokio::join!(http, log);
        info!("subscriber stopped");
        finished
    }
}

async fn read_to_the_end(mut sources: JoinSet<()>) {
    let all_ended = async { while sources.join_next().await.is_some() {} };
    if tokio::time::timeout(READ_WAIT_MAX, all_ended).await.is_err() {
        warn!(waited = ?READ_WAIT_MAX, "sources cannot be read to their end, dropping them");
        sources.shutdown().await;
    }
}

/// A source, and what its task needs to follow it.
struct Followed<S> {
    source: S,
    link: watch::Sender<Link>,
    queue: Queue,
}

fn with_links<S>(sources: Vec<S>, queues: Vec<Queue>) -> Vec<Followed<S>> {
    let new_link = || watch::Sender::new(Link::Waiting("not connected yet".to_owned()));
    sources.into_iter().zip(queues).map(|(source, queue)| Followed { source, link: new_link(), queue }).collect()
}

fn links<S: Clone>(followed: &[Followed<S>]) -> Vec<(S, watch::Receiver<Link>)> {
    followed.iter().map(|followed| (followed.source.clone(), followed.link.subscribe())).collect()
}

fn check_sources(feeds: &[FeedSource], sources: &[PlainSource]) -> Result<(), OpenError> {
    if let Some(twice) = FeedSource::given_twice(feeds) {
        return Err(OpenError::FeedTwice(twice.clone()));
    }
    let count = feeds.len() + sources.len();
    if count > SOURCES_MAX {
        return Err(OpenError::TooManySources(count));
    }
    for (index, source) in sources.iter().enumerate() {
        if sources[..index].iter().any(|earlier| earlier.endpoint() == source.endpoint()) {
            return Err(OpenError::SourceTwice(source.endpoint().clone()));
        }
        if sources[..index].iter().any(|earlier| earlier.name() == source.name()) {
            return Err(OpenError::NameTwice(source.name().to_owned()));
        }
    }
    Ok(())
}
