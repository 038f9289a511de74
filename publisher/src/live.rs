//! The plain feed: a PUB socket that any SUB can read, one frame a message, the text itself.
//!
//! Best effort, as PUB/SUB is: who is not connected misses it, and what the account's budget does
//! not hold is dropped and counted. Sending never waits for a subscriber.

use crate::account::{Account, Held, Refused};
use futures_util::StreamExt;
use std::collections::{HashSet, VecDeque};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tracing::debug;
use zeromq::util::PeerIdentity;
use zeromq::{PubSocket, Socket, SocketEvent, SocketSend, ZmqResult};

/// How many connections that ended before they were announced are remembered.
const EARLY_ENDS_MAX: usize = 64;

/// A bound PUB socket and its account.
pub(crate) struct PlainFeed {
    socket: Mutex<PubSocket>,
    account: Arc<Account>,
    connections: watch::Receiver<Connections>,
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
}

impl PlainFeed {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them.
    pub(crate) async fn serve(listener: TcpListener, budget_bytes: u64) -> ZmqResult<Self> {
        let mut socket = PubSocket::new();
        let mut events = socket.monitor();
        socket.bind_listener(listener).await?;
        let (told, connections) = watch::channel(Connections::default());
        // Ends with the socket, which owns the other end of the events.
        tokio::spawn(async move {
            let mut peers = Peers::default();
            while let Some(event) = events.next().await {
                peers.note(event);
                told.send_replace(Connections { open: peers.connected.len(), ended: peers.ended });
            }
        });
        Ok(Self { socket: Mutex::new(socket), account: Account::new(budget_bytes), connections })
    }

    /// Hands a message to the PUB socket, if the account allows.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub(crate) async fn publish(&self, text: String) -> Result<(), PublishError> {
        let frame = self.account.charge(text.into_bytes(), self.connections().open).map_err(PublishError::Dropped)?;
        Ok(self.socket.lock().await.send(frame.into()).await?)
    }

    /// Subscribers' connections now.
    pub(crate) fn connections(&self) -> Connections {
        *self.connections.borrow()
    }

    /// What sits in the socket's queues now.
    pub(crate) fn held(&self) -> Held {
        self.account.held()
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
    /// Returns how many messages they have not taken. (Taken is not sent: a subscriber that does not
    /// read leaves up to 128 KiB in its connection's buffer, behind what the kernel has.)
    pub(crate) async fn drain(&self, wait: Duration) -> u64 {
        let _ = tokio::time::timeout(wait, self.account.settled()).await;
        self.held().messages
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
