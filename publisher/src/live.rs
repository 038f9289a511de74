//! The plain feed: a PUB socket that any SUB can read, one frame a message, the text itself.
//!
//! Best effort, as PUB/SUB is: who is not connected misses it, and what the account's budget does
//! not hold is dropped and counted. Sending never waits for a subscriber: it only queues, and what
//! the socket does with its subscribers it does on a thread of its own.

use crate::account::{Account, Held, Refused};
use crate::socket_thread::SocketThread;
use futures_util::StreamExt;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinError;
use tracing::debug;
use zeromq::util::PeerIdentity;
use zeromq::{PubSocket, Socket, SocketEvent, SocketSend, ZmqResult};

/// The wait at the end for the kernel to take what connections have in their buffers.
pub(crate) const FLUSH_WAIT_MAX: Duration = Duration::from_millis(500);
/// How many connections that ended before they were announced are remembered.
const EARLY_ENDS_MAX: usize = 64;

/// A bound PUB socket and its account.
pub(crate) struct PlainFeed {
    /// `None` once it is closed.
    socket: Mutex<Option<Socketed>>,
    account: Arc<Account>,
    connections: watch::Receiver<Connections>,
    sent: AtomicU64,
}

/// A socket and the thread that its tasks live on. Made, bound and dropped there.
struct Socketed {
    socket: PubSocket,
    thread: SocketThread,
}

/// Subscribers' connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// How many there are now.
    pub(crate) open: usize,
    /// How many have ended. What was on its way on one of them is lost, to that subscriber.
    pub(crate) ended: u64,
}

/// Why a message was not handed to the PUB socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The queues are full. It is dropped and counted.
    #[error("the plain feed's budget is full, {} messages dropped", .0.count)]
    Dropped(Refused),
    #[error("cannot publish")]
    Socket(#[from] zeromq::ZmqError),
    #[error("the plain feed is closed")]
    Closed,
}

/// Why there is no feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The socket does not take its listener.
    #[error("the PUB socket does not serve")]
    Socket(#[from] zeromq::ZmqError),
    /// The system has no thread to give.
    #[error("cannot start the feed's thread")]
    Thread(#[source] io::Error),
    /// A defect: the thread panicked.
    #[error("the feed's thread ended by itself")]
    Ended(#[from] JoinError),
}

impl PlainFeed {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub(crate) async fn serve(listener: TcpListener, budget_bytes: u64) -> Result<Self, FeedError> {
        let thread = SocketThread::start("plain-feed", FLUSH_WAIT_MAX).map_err(FeedError::Thread)?;
        let bind = async move {
            let mut socket = PubSocket::new();
            let events = socket.monitor();
            socket.bind_listener(listener).await?;
            ZmqResult::Ok((socket, events))
        };
        let (socket, mut events) = thread.run(bind).await??;
        let (told, connections) = watch::channel(Connections::default());
        // Not on the socket's thread: it drops events where more than 1,024 wait, so they are to be
        // read while it makes them. Ends with the socket, which owns the other end.
        tokio::spawn(async move {
            let mut peers = Peers::default();
            while let Some(event) = events.next().await {
                peers.note(event);
                told.send_replace(Connections { open: peers.connected.len(), ended: peers.ended });
            }
        });
        let socket = Mutex::new(Some(Socketed { socket, thread }));
        Ok(Self { socket, account: Account::new(budget_bytes), connections, sent: AtomicU64::new(0) })
    }

    /// Hands a message to the PUB socket, if the account allows.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub(crate) async fn publish(&self, text: String) -> Result<(), PublishError> {
        let frame = self.account.charge(text.into_bytes(), self.connections().open).map_err(PublishError::Dropped)?;
        let mut socketed = self.socket.lock().await;
        socketed.as_mut().ok_or(PublishError::Closed)?.socket.send(frame.into()).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Subscribers' connections now.
    pub(crate) fn connections(&self) -> Connections {
        *self.connections.borrow()
    }

    /// What sits in the socket's queues now.
    pub(crate) fn held(&self) -> Held {
        self.account.held()
    }

    /// Messages handed to the socket so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.account.refused()
    }

    /// Waits until a subscriber is connected.
    pub(crate) async fn subscriber_connected(&self) {
        let mut connections = self.connections.clone();
        // The sender lives as long as the socket, which is `self`'s.
        let _ = connections.wait_for(|connections| connections.open > 0).await;
    }

    /// Waits until the subscribers' connections have taken all that was sent, for at most `wait`.
    /// Returns how many messages they have not taken.
    pub(crate) async fn drain(&self, wait: Duration) -> u64 {
        let _ = tokio::time::timeout(wait, self.account.settled()).await;
        self.held().messages
    }

    /// Closes every connection, once the kernel has what it took; for that there is [`FLUSH_WAIT_MAX`].
    pub(crate) async fn close(&self) {
        let Some(Socketed { socket, thread }) = self.socket.lock().await.take() else { return };
        // A thread that ended has dropped what it had.
        let _ = thread.run(async move { drop(socket) }).await;
        thread.close().await;
    }
}

/// The connections of the socket, as its events tell them.
///
/// The crate announces a connection after it has begun to read from it, so the end of a short one
/// can be told before its beginning, and an end can be told twice.
#[derive(Default)]
struct Peers {
    connected: HashSet<PeerIdentity>,
    ended: u64,
    ended_early: VecDeque<PeerIdentity>,
}

impl Peers {
    fn note(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(address, peer) => {
                debug!(%address, "subscriber connected");
                match self.ended_early.iter().position(|early| *early == peer) {
                    Some(index) => {
                        self.ended_early.remove(index);
                        self.ended += 1;
                    }
                    None => drop(self.connected.insert(peer)),
                }
            }
            SocketEvent::Disconnected(peer) if self.connected.remove(&peer) => self.ended += 1,
            SocketEvent::Disconnected(peer) => {
                self.ended_early.truncate(EARLY_ENDS_MAX - 1);
                self.ended_early.push_front(peer);
            }
            SocketEvent::AcceptFailed(error) => debug!(%error, "a subscriber's connection failed"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(peer: &PeerIdentity) -> SocketEvent {
        SocketEvent::Accepted("tcp://127.0.0.1:1".parse().unwrap(), peer.clone())
    }

    #[test]
    fn connections_are_counted_whatever_the_order_of_the_events() {
        let (one, two, three) = (PeerIdentity::new(), PeerIdentity::new(), PeerIdentity::new());
        let gone = SocketEvent::Disconnected;
        let mut peers = Peers::default();
        peers.note(accepted(&one));
        peers.note(gone(two.clone()));
        peers.note(accepted(&two));
        peers.note(accepted(&three));
        assert_eq!(peers.connected.len(), 2);
        peers.note(gone(one.clone()));
        peers.note(gone(one));
        peers.note(gone(three));
        assert_eq!((peers.connected.len(), peers.ended), (0, 3));
    }

    #[test]
    fn ends_that_nothing_follows_are_forgotten() {
        let mut peers = Peers::default();
        for _ in 0..10 * EARLY_ENDS_MAX {
            peers.note(SocketEvent::Disconnected(PeerIdentity::new()));
        }
        assert_eq!(peers.ended_early.len(), EARLY_ENDS_MAX);
    }
}
