//! The subscriber: a daemon that stamps the messages of its sources with the time and appends them
//! to a log that rotates.
//!
//! [`Subscriber::open`] takes the log and the HTTP address, [`Subscriber::run`] follows the sources
//! until it is told to stop. Each source has a task, the log has one thread, and between them is a
//! queue with a bound: a slow disk holds the sources back, and TCP their publishers.

mod http;
mod log;
mod metrics;
mod source;

pub use crate::log::file::{LogError, ROTATE_BYTES_MIN};
pub use crate::log::format::Format;
pub use crate::log::index;
pub use crate::log::writer::WriterError;
pub use crate::source::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PlainSource, SourceError};

use crate::http::Status;
use crate::log::file::LogFile;
use crate::log::format::Renderer;
use crate::log::writer::{Queue, Writer};
use crate::metrics::Metrics;
use crate::source::{Follower, Link};
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

/// Sources that one subscriber follows: each holds a connection with its buffers.
pub const SOURCES_MAX: usize = 256;
/// The wait at shutdown for sources to be read to their end; then what they sent is written and synced.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(2300);
/// The wait for that. A disk that hangs takes all of it.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(8);

/// What a subscriber needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whom to follow: at most [`SOURCES_MAX`], each endpoint and each name once.
    pub plain: Vec<PlainSource>,
    /// The current file of the log.
    pub log: PathBuf,
    /// Where HTTP listens.
    pub http: HostPort,
    /// How a line looks.
    pub format: Format,
    /// Bytes after which a file is full, at least [`ROTATE_BYTES_MIN`].
    pub rotate_bytes: u64,
}

/// Why a subscriber did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two sources are one, and would write every message twice.
    #[error("the plain source {0} is given twice, which would write its messages twice")]
    SourceTwice(Endpoint),
    /// Two sources could not be told apart in the log.
    #[error("two plain sources are called {0}")]
    NameTwice(String),
    /// More sources than one subscriber follows.
    #[error("{0} plain sources are given, more than {SOURCES_MAX}")]
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
    queue: Queue,
    followers: Vec<(PlainSource, watch::Sender<Link>)>,
    status: Arc<Status>,
}

impl Subscriber {
    /// Takes the log and its lock, and binds the HTTP address.
    ///
    /// # Errors
    /// See [`OpenError`]; each names the path or the address.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        check_sources(&config.plain)?;
        let metrics = Metrics::new();
        let log = LogFile::open(&config.log, config.rotate_bytes, metrics.rotations.clone())?;

        let (http, http_address) = net::listen_http(&config.http)?;

        let (queue, writer) = Writer::start(log, Renderer::new(config.format), metrics.written.clone())?;
        let new_link = || watch::Sender::new(Link::Waiting("not connected yet".to_owned()));
        let followers: Vec<_> = config.plain.into_iter().map(|source| (source, new_link())).collect();
        let links = followers.iter().map(|(source, link)| (source.clone(), link.subscribe())).collect();
        let status = Arc::new(Status { links, failing: writer.failing(), metrics });
        Ok(Self { http, http_address, writer, queue, followers, status })
    }

    /// Where HTTP listens, port 0 resolved.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// How many messages of the source called `name` have been received, to be asked at any time.
    pub fn received(&self, name: &str) -> impl Fn() -> u64 + Send + use<> {
        let messages = self.status.metrics.source(name).messages;
        move || messages.get()
    }

    /// Waits, once the subscriber runs, until the source at `endpoint` is connected. For ever, if it has none there.
    pub fn connected(&self, endpoint: &Endpoint) -> impl Future<Output = ()> + Send + use<> {
        let link = self.status.links.iter().find(|(source, _)| source.endpoint() == endpoint);
        let link = link.map(|(_, link)| link.clone());
        async move {
            let Some(mut link) = link else { return std::future::pending().await };
            if link.wait_for(|link| *link == Link::Connected).await.is_err() {
                // The subscriber stopped before it was connected.
                std::future::pending().await
            }
        }
    }

    /// Follows the sources until `shutdown`; then reads what they have received, writes and syncs
    /// it, each within its bound.
    ///
    /// # Errors
    /// Not all that was received is on the disk.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WriterError> {
        let shutdown = shutdown.child_token();
        let mut sources = JoinSet::new();
        for (source, link) in self.followers {
            let metrics = self.status.metrics.source(source.name());
            let (queue, shutdown) = (self.queue.clone(), shutdown.clone());
            sources.spawn(Follower { source, queue, link, metrics, shutdown }.run());
        }
        let http = net::http::serve(self.http, http::router(self.status), shutdown.clone());
        let log = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                // Neither ends by itself. Without a writer nothing can be written, and a source
                // that nobody follows would still be called connected.
                () = self.queue.closed() => {}
                Some(_) = sources.join_next() => {}
            }
            let ended_early = !shutdown.is_cancelled();
            shutdown.cancel();
            // The queue closes when the last source has ended.
            drop(self.queue);
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

fn check_sources(sources: &[PlainSource]) -> Result<(), OpenError> {
    if sources.len() > SOURCES_MAX {
        return Err(OpenError::TooManySources(sources.len()));
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
