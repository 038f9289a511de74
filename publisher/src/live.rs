//! The numbered feed: a PUB socket with blocks as they become durable, and heads.
//!
//! A head each second, behind the blocks that it covers, says where the stream stands and where a
//! replay is to be had; some more follow a new connection soon, so that who comes need not wait for that second. A block that the account's budget does not hold is withheld; then a head
//! follows soon, so that subscribers see that they miss something and fetch it. The task never
//! touches the disk, so heads go on whatever the disk does.

use crate::account::{Account, Held};
use crate::peers::Connections;
use crate::pub_server::{PubServer, ServeError};
use bytes::Bytes;
use feed::{Block, Head, Position, StreamId};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zeromq::{PubSocket, SocketSend};

/// How often a head is sent.
const HEAD_PAUSE: Duration = Duration::from_secs(1);
/// How soon a head follows another when blocks are withheld.
const WITHHELD_HEAD_PAUSE: Duration = Duration::from_millis(20);
/// How long after a connection heads are sent: its subscription comes behind the handshake, and is not told.
const GREETINGS_MS: [u64; 7] = [2, 4, 8, 16, 32, 64, 128];
/// The part of the budget that is left to heads: one for those that are sent often, and another for
/// those of each second, so that a stopped subscriber takes neither away from the others.
const RESERVE_PARTS: u64 = 16;

/// What a head says beside positions.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) stream: StreamId,
    pub(crate) name: String,
    /// Where a replay is to be had, `HOST:PORT`.
    pub(crate) replay: String,
}

impl Identity {
    /// A head's bytes. `None` if the texts are too long for one.
    pub(crate) fn head(&self, oldest: Position, next: Position) -> Option<Vec<u8>> {
        // What was retired since is not to be asked for.
        let next = if oldest.next > next.next { oldest } else { next };
        let Self { stream, name, replay } = self.clone();
        Head { stream, oldest, next, name, replay }.encode()
    }
}

/// The numbered feed.
pub(crate) struct LiveFeed {
    server: PubServer,
    outbox: Arc<Outbox>,
}

/// Between the journal's thread and the socket's.
struct Outbox {
    inner: Mutex<Pending>,
    came: Notify,
    closing: CancellationToken,
    withheld: AtomicU64,
}

struct Pending {
    blocks: VecDeque<Bytes>,
    /// Behind the last block that was offered.
    end: Position,
    /// Whether one was withheld that no head has told of yet.
    is_withheld: bool,
}

impl LiveFeed {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them. The stream
    /// stands at `end`; `oldest` tells where it begins.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(crate) async fn serve(
        listener: TcpListener,
        budget_bytes: u64,
        identity: Identity,
        end: Position,
        oldest: impl Fn() -> Position + Send + 'static,
    ) -> Result<Self, ServeError> {
        let (server, socket) = PubServer::bind("feed", listener, budget_bytes).await?;
        let outbox = Arc::new(Outbox {
            inner: Mutex::new(Pending { blocks: VecDeque::new(), end, is_withheld: false }),
            came: Notify::new(),
            closing: CancellationToken::new(),
            withheld: AtomicU64::new(0),
        });
        let (account, connections) = (server.account.clone(), server.connections.clone());
        let (sending, closing) = (outbox.clone(), outbox.closing.clone());
        server.spawn(async move {
            if let Some(socket) = socket.until_needed(closing).await {
                let sender = Sender { socket, account, connections, identity, oldest: Box::new(oldest) };
                sender.run(sending).await;
            }
        });
        Ok(Self { server, outbox })
    }

    /// Takes a durable block. Does not wait.
    pub(crate) fn offer(&self, block: &Block) {
        let connections = self.server.connections().open;
        let account = &self.server.account;
        let mut pending = self.outbox.lock();
        pending.end = block.end();
        if connections > 0 {
            match account.charge(block.bytes().clone(), connections, 2 * account.budget_bytes() / RESERVE_PARTS) {
                Ok(frame) => pending.blocks.push_back(frame),
                Err(_) => {
                    pending.is_withheld = true;
                    self.outbox.withheld.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        drop(pending);
        self.outbox.came.notify_one();
    }

    /// Takes notice of where the stream stands, where no block tells it.
    pub(crate) fn stands_at(&self, end: Position) {
        self.outbox.lock().end = end;
    }

    /// Subscribers' connections now.
    pub(crate) fn connections(&self) -> Connections {
        self.server.connections()
    }

    /// What waits for subscribers now.
    pub(crate) fn held(&self) -> Held {
        self.server.account.held()
    }

    /// Blocks that were not sent for want of room.
    pub(crate) fn withheld(&self) -> u64 {
        self.outbox.withheld.load(Ordering::Relaxed)
    }

    /// Sends a last head, and waits until the subscribers' connections have taken all, for at most
    /// `wait`. Returns how many messages they have not taken.
    pub(crate) async fn drain(&self, wait: Duration) -> u64 {
        if self.connections().open == 0 {
            return 0;
        }
        self.outbox.lock().is_withheld = true;
        self.outbox.came.notify_one();
        let sent = async {
            while self.outbox.lock().is_withheld {
                tokio::time::sleep(WITHHELD_HEAD_PAUSE).await;
            }
        };
        let begun = Instant::now();
        let _ = tokio::time::timeout(wait, sent).await;
        self.server.drain(wait.saturating_sub(begun.elapsed())).await
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        self.outbox.closing.cancel();
        self.server.close().await;
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task on the socket's thread.
struct Sender {
    socket: PubSocket,
    account: Arc<Account>,
    connections: watch::Receiver<Connections>,
    identity: Identity,
    oldest: Box<dyn Fn() -> Position + Send>,
}

impl Sender {
    async fn run(mut self, outbox: Arc<Outbox>) {
        let mut tick = interval(HEAD_PAUSE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_head = Instant::now();
        let mut comers = self.connections.clone();
        let (mut known, mut greetings) = (0, VecDeque::new());
        loop {
            let is_withheld = outbox.lock().is_withheld;
            let greeting = greetings.front().copied();
            let is_due = tokio::select! {
                () = outbox.closing.cancelled() => return,
                _ = tick.tick() => true,
                () = sleep_until(next_head), if is_withheld => false,
                () = sleep_until(greeting.unwrap_or(next_head)), if greeting.is_some() => {
                    greetings.pop_front();
                    true
                }
                // Its other end lives as long as the socket.
                Ok(()) = comers.changed() => {
                    let connected = comers.borrow_and_update().open;
                    if std::mem::replace(&mut known, connected) < connected {
                        let now = Instant::now();
                        greetings = GREETINGS_MS.map(|pause| now + Duration::from_millis(pause)).into();
                    }
                    continue;
                }
                () = outbox.came.notified() => false,
            };
            let (blocks, end, is_withheld) = {
                let mut pending = outbox.lock();
                (std::mem::take(&mut pending.blocks), pending.end, pending.is_withheld)
            };
            for block in blocks {
                self.send(block).await;
            }
            let now = Instant::now();
            if is_due || (is_withheld && now >= next_head) {
                next_head = now + WITHHELD_HEAD_PAUSE;
                if self.send_head(end, is_due).await {
                    let mut pending = outbox.lock();
                    // What was withheld since is for the next one.
                    pending.is_withheld &= pending.end != end;
                }
            }
        }
    }

    /// Sends a head if there is room for it; says whether there was.
    async fn send_head(&mut self, end: Position, is_due: bool) -> bool {
        let head = self.identity.head((self.oldest)(), end).expect("the texts were tried when the feed began");
        let reserve = if is_due { 0 } else { self.account.budget_bytes() / RESERVE_PARTS };
        let connections = self.connections.borrow().open;
        match self.account.charge(head, connections, reserve) {
            Ok(frame) => {
                self.send(frame).await;
                true
            }
            Err(_) => false,
        }
    }

    async fn send(&mut self, frame: Bytes) {
        if let Err(error) = self.socket.send(frame.into()).await {
            warn!(%error, "cannot publish on the feed");
        }
    }
}
