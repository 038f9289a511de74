//! The connections of a socket, as its events tell them.

use futures_util::{Stream, StreamExt};
use std::collections::{HashSet, VecDeque};
use tokio::sync::watch;
use tracing::debug;
use zeromq::SocketEvent;
use zeromq::util::PeerIdentity;

/// How many connections that ended before they were announced are remembered.
const EARLY_ENDS_MAX: usize = 64;

/// A socket's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// How many there are now.
    pub(crate) open: usize,
    /// How many have ended. What was on its way on one of them is lost, to that peer.
    pub(crate) ended: u64,
}

/// What has become of a peer.
pub(crate) enum Change<'a> {
    Came(&'a PeerIdentity),
    Left(&'a PeerIdentity),
}

/// Who is connected.
///
/// The crate announces a connection after it has begun to read from it, so the end of a short one
/// can be told before its beginning, and an end can be told twice.
#[derive(Default)]
pub(crate) struct Peers {
    connected: HashSet<PeerIdentity>,
    ended: u64,
    ended_early: VecDeque<PeerIdentity>,
}

impl Peers {
    /// Counts a socket's events until it is gone. `told` hears of each peer that came, and then that it left.
    ///
    /// Not on the socket's thread: it drops events where more than 1,024 wait, so they are to be read
    /// while it makes them.
    pub(crate) fn watch(
        mut events: impl Stream<Item = SocketEvent> + Unpin + Send + 'static,
        who: &'static str,
        told: impl Fn(Change<'_>) + Send + 'static,
    ) -> watch::Receiver<Connections> {
        let (sender, connections) = watch::channel(Connections::default());
        tokio::spawn(async move {
            let mut peers = Self::default();
            while let Some(event) = events.next().await {
                peers.note(event, who, &told);
                sender.send_replace(Connections { open: peers.connected.len(), ended: peers.ended });
            }
        });
        connections
    }

    fn note(&mut self, event: SocketEvent, who: &'static str, told: impl Fn(Change<'_>)) {
        match event {
            SocketEvent::Accepted(address, peer) => {
                debug!(%address, who, "connected");
                match self.ended_early.iter().position(|early| *early == peer) {
                    Some(index) => {
                        self.ended_early.remove(index);
                        self.ended += 1;
                    }
                    None => {
                        told(Change::Came(&peer));
                        self.connected.insert(peer);
                    }
                }
            }
            SocketEvent::Disconnected(peer) if self.connected.remove(&peer) => {
                told(Change::Left(&peer));
                self.ended += 1;
            }
            SocketEvent::Disconnected(peer) => {
                self.ended_early.truncate(EARLY_ENDS_MAX - 1);
                self.ended_early.push_front(peer);
            }
            SocketEvent::AcceptFailed(error) => debug!(%error, who, "a connection failed"),
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
        peers.note(accepted(&one), "peer", |_| {});
        peers.note(gone(two.clone()), "peer", |_| {});
        peers.note(accepted(&two), "peer", |_| {});
        peers.note(accepted(&three), "peer", |_| {});
        assert_eq!(peers.connected.len(), 2);
        peers.note(gone(one.clone()), "peer", |_| {});
        peers.note(gone(one), "peer", |_| {});
        peers.note(gone(three), "peer", |_| {});
        assert_eq!((peers.connected.len(), peers.ended), (0, 3));
    }

    #[test]
    fn ends_that_nothing_follows_are_forgotten() {
        let mut peers = Peers::default();
        for _ in 0..10 * EARLY_ENDS_MAX {
            peers.note(SocketEvent::Disconnected(PeerIdentity::new()), "peer", |_| {});
        }
        assert_eq!(peers.ended_early.len(), EARLY_ENDS_MAX);
    }
}
