//! The plain feed: a PUB socket that any SUB can read, one frame a message, the text itself.
//!
//! Best effort, as PUB/SUB is: who is not connected misses it, and what the account's budget does
//! not hold is dropped and counted. Sending never waits for a subscriber.

use crate::account::{Account, Held};
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
    connections: watch::Receiver<usize>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// The PUB socket has it.
    Sent,
    /// The queues are full; it was dropped, and the account has counted it.
    Dropped,
}

impl PlainFeed {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them.
    pub(crate) async fn serve(listener: TcpListener, budget_bytes: u64) -> ZmqResult<Self> {
        let mut socket = PubSocket::new();
        let mut events = socket.monitor();
        socket.bind_listener(listener).await?;
        let (count, connections) = watch::channel(0);
        // Ends with the socket, which owns the other end of the events.
        tokio::spawn(async move {
            let mut peers = Peers::default();
            while let Some(event) = events.next().await {
                peers.note(event);
                count.send_replace(peers.connected.len());
            }
        });
        Ok(Self { socket: Mutex::new(socket), account: Account::new(budget_bytes), connections })
    }

    /// Hands a message to the PUB socket, if the account allows.
    pub(crate) async fn publish(&self, text: String) -> ZmqResult<Published> {
        let Some(frame) = self.account.charge(text.into_bytes(), self.connections()) else {
            return Ok(Published::Dropped);
        };
        self.socket.lock().await.send(frame.into()).await?;
        Ok(Published::Sent)
    }

    /// Subscribers connected now.
    pub(crate) fn connections(&self) -> usize {
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
        let _ = connections.wait_for(|&count| count > 0).await;
    }

    /// Waits until the subscribers' connections have taken all that was sent, for at most `wait`.
    /// Returns how many messages they have not taken.
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
    ended_early: VecDeque<PeerIdentity>,
}

impl Peers {
    fn note(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(address, peer) => {
                debug!(%address, "subscriber connected");
                match self.ended_early.iter().position(|early| *early == peer) {
                    Some(index) => drop(self.ended_early.remove(index)),
                    None => drop(self.connected.insert(peer)),
                }
            }
            SocketEvent::Disconnected(peer) if !self.connected.remove(&peer) => {
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
        assert!(peers.connected.is_empty());
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
