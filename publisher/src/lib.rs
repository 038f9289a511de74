//! The publisher: an HTTP service whose every answer is also published on ZeroMQ.
//!
//! [`Publisher::bind`] takes the addresses, [`Publisher::run`] serves until it is told to stop. In
//! between, a caller can wait for a subscriber ([`Publisher::subscriber_connected`]) so that no
//! answer is published to nobody.
//!
//! A request never waits for a subscriber: what the plain feed cannot hold it drops, and counts.

mod account;
mod downcase;
pub mod faults;
mod http;
pub mod journal;
mod live;
mod metrics;
mod name;
mod socket_thread;

pub use crate::live::FeedError;
pub use crate::name::{Name, NameError};

use crate::live::{FLUSH_WAIT_MAX, PlainFeed};
use crate::metrics::Metrics;
use net::{Endpoint, HostPort, ListenError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The least that the plain feed may hold, in bytes: a few of the longest answers, for hundreds of subscribers.
pub const LIVE_BUDGET_BYTES_MIN: u64 = 1024 * 1024;
/// The longest that [`Publisher::run`] goes on after its shutdown has begun.
pub const STOP_WAIT_MAX: Duration = net::http::DRAIN_WAIT_MAX.saturating_add(LINGER_MAX).saturating_add(FLUSH_WAIT_MAX);

/// The wait at shutdown for subscribers to take what was published.
const LINGER_MAX: Duration = Duration::from_secs(3);

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP listens.
    pub http: HostPort,
    /// Where the plain feed listens: PUB, one frame a message, the text itself.
    pub plain: Endpoint,
    /// Bytes that the queues of the plain feed may hold, at least [`LIVE_BUDGET_BYTES_MIN`]; beyond it messages are dropped and counted.
    pub live_budget_bytes: u64,
    /// How long a connected subscriber may neither take data nor answer the kernel's probes before it is cut off.
    pub peer_timeout: Duration,
}

/// Why a publisher did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The plain feed cannot be served.
    #[error("cannot serve the plain feed at {address}")]
    Feed {
        /// Where it listens.
        address: SocketAddr,
        /// Why.
        source: FeedError,
    },
}

/// A publisher whose addresses are bound: subscribers connect already, HTTP clients wait until it runs.
pub struct Publisher {
    http: TcpListener,
    http_address: SocketAddr,
    plain_address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the HTTP handlers share.
struct Shared {
    plain: PlainFeed,
    metrics: Metrics,
}

impl Publisher {
    /// Binds both addresses, each once.
    ///
    /// # Errors
    /// See [`BindError`]; each names the address.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let (http, http_address) = net::listen_http(&config.http)?;
        let (plain, plain_address) = net::listen(config.plain.address(), config.peer_timeout)?;
        let plain = PlainFeed::serve(plain, config.live_budget_bytes)
            .await
            .map_err(|source| BindError::Feed { address: plain_address, source })?;
        let shared = Arc::new(Shared { plain, metrics: Metrics::new() });
        Ok(Self { http, http_address, plain_address, shared })
    }

    /// Where HTTP listens, port 0 resolved.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where the plain feed listens, port 0 resolved.
    pub fn plain_address(&self) -> SocketAddr {
        self.plain_address
    }

    /// Waits until a subscriber is connected to the plain feed.
    pub async fn subscriber_connected(&self) {
        self.shared.plain.subscriber_connected().await;
    }

    /// Serves until `shutdown`; then stops accepting, finishes the requests in hand, lets subscribers
    /// take what was published, and disconnects them, each within its bound. Returns how many
    /// messages were handed to the plain feed, for whoever knows how many arrived.
    pub async fn run(self, shutdown: CancellationToken) -> u64 {
        net::http::serve(self.http, http::router(self.shared.clone()), shutdown).await;
        let left = self.shared.plain.drain(LINGER_MAX).await;
        if left > 0 {
            warn!(messages = left, waited = ?LINGER_MAX, "subscribers did not take all that was published to them");
        }
        self.shared.plain.close().await;
        info!("publisher stopped");
        self.shared.plain.sent()
    }
}
