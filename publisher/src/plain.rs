//! The plain feed: a PUB socket that any SUB can read, one frame a message, the text itself.
//!
//! Best effort, as PUB/SUB is: who is not connected misses it, and what the account's budget does not
//! hold is dropped and counted. It gets what is durable, in the order of the journal, and nobody waits
//! for it: it takes blocks from the journal's thread and takes them apart on its own.

use crate::account::Held;
use crate::peers::Connections;
use crate::pub_server::{PubServer, ServeError};
use bytes::Bytes;
use feed::Block;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zeromq::{PubSocket, SocketSend};

/// Messages sent between two looks at what else the socket's thread has to do.
const MESSAGES_AT_ONCE: usize = 64;

/// The plain feed.
pub(crate) struct PlainFeed {
    server: PubServer,
    outbox: Arc<Outbox>,
}

/// Between the journal's thread and the socket's.
#[derive(Default)]
struct Outbox {
    /// Each with what its bytes were charged.
    blocks: Mutex<VecDeque<(Block, Bytes)>>,
    came: Notify,
    closing: CancellationToken,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl PlainFeed {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(crate) async fn serve(listener: TcpListener, budget_bytes: u64) -> Result<Self, ServeError> {
        let (server, socket) = PubServer::bind("plain-feed", listener, budget_bytes).await?;
        let outbox = Arc::new(Outbox::default());
        let (account, connections) = (server.account.clone(), server.connections.clone());
        let (sending, closing) = (outbox.clone(), outbox.closing.clone());
        server.spawn(async move {
            if let Some(socket) = socket.until_needed(closing).await {
                Sender { socket, account, connections }.run(sending).await;
            }
        });
        Ok(Self { server, outbox })
    }

    /// Takes the records of a durable block, as far as there is room. Does not wait.
    pub(crate) fn offer(&self, block: &Block) {
        let count = u64::from(block.head().count);
        if self.server.connections().open == 0 {
            // What PUB would do with it, too.
            self.outbox.sent.fetch_add(count, Ordering::Relaxed);
            return;
        }
        match self.server.account.charge(block.bytes().clone(), 0, 0) {
            Ok(charged) => {
                let mut blocks = self.outbox.blocks.lock().unwrap_or_else(PoisonError::into_inner);
                blocks.push_back((block.clone(), charged));
                drop(blocks);
                self.outbox.came.notify_one();
            }
            Err(_) => self.outbox.count_dropped(count),
        }
    }

    /// Subscribers' connections now.
    pub(crate) fn connections(&self) -> Connections {
        self.server.connections()
    }

    /// What waits for subscribers now.
    pub(crate) fn held(&self) -> Held {
        self.server.account.held()
    }

    /// Messages handed to the socket so far.
    pub(crate) fn sent(&self) -> u64 {
        self.outbox.sent.load(Ordering::Relaxed)
    }

    /// Messages dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.outbox.dropped.load(Ordering::Relaxed)
    }

    /// Waits until a subscriber is connected.
    pub(crate) async fn subscriber_connected(&self) {
        self.server.subscriber_connected().await;
    }

    /// Waits until the subscribers' connections have taken all, for at most `wait`. Returns how many
    /// messages they have not taken.
    pub(crate) async fn drain(&self, wait: Duration) -> u64 {
        self.server.drain(wait).await
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        self.outbox.closing.cancel();
        self.server.close().await;
    }
}

impl Outbox {
    fn take(&self) -> VecDeque<(Block, Bytes)> {
        std::mem::take(&mut *self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count_dropped(&self, count: u64) {
        let before = self.dropped.fetch_add(count, Ordering::Relaxed);
        // The first, and again each time their number has doubled.
        if (before + count).ilog2() != before.max(1).ilog2() || before == 0 {
            warn!(dropped = before + count, "the plain feed's budget is full: a subscriber reads too slowly");
        }
    }
}

/// The task on the socket's thread.
struct Sender {
    socket: PubSocket,
    account: Arc<crate::account::Account>,
    connections: tokio::sync::watch::Receiver<Connections>,
}

impl Sender {
    async fn run(mut self, outbox: Arc<Outbox>) {
        let closing = outbox.closing.clone();
        while closing.run_until_cancelled(outbox.came.notified()).await.is_some() {
            for (block, _charged) in outbox.take() {
                self.send(&block, &outbox).await;
            }
        }
    }

    async fn send(&mut self, block: &Block, outbox: &Outbox) {
        let connections = self.connections.borrow().open;
        for (index, record) in block.records().enumerate() {
            // Copied, so that a message that waits does not hold its whole block.
            match self.account.charge(record.body.to_vec(), connections, 0) {
                Ok(frame) => {
                    outbox.sent.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = self.socket.send(frame.into()).await {
                        warn!(%error, "cannot publish on the plain feed");
                    }
                }
                Err(_) => outbox.count_dropped(1),
            }
            if index % MESSAGES_AT_ONCE == MESSAGES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}
