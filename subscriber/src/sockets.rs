//! Sockets that are connected to a publisher: a SUB or a DEALER of the zeromq crate, each with one
//! connection, and nothing of the crate's own reconnecting.
//!
//! The crate's SUB reconnects by itself, but its greeting on reconnect has no timeout and outlives
//! the socket; its DEALER does not reconnect at all, and tells some ends of a connection over and
//! over. So a socket is used until the first sign that its connection is lost, and then dropped by
//! whoever holds it. New ones are made with a timeout, names resolved anew, all addresses tried.

use futures_util::future::select_ok;
use futures_util::{Stream, StreamExt};
use net::{Endpoint, HostPort};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend};
use zeromq::{SubSocket, ZmqError, ZmqMessage};

/// The wait for a name to be resolved.
const RESOLVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The wait for a connection and its handshake, by the crate's own clock.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// The same by ours, in case that the crate's leaves something out.
const CONNECT_WAIT_OUTER_MAX: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried, all at once.
const ADDRESSES_MAX: usize = 8;
/// The wait for a subscription or a request to be sent.
const SEND_WAIT_MAX: Duration = Duration::from_secs(2);
/// What is subscribed to, and at once no more, to have something sent.
const NUDGE_PREFIX: &str = "\0downpipe\0still there?";

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("cannot resolve the name: {0}")]
    Resolve(io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("the publisher does not answer")]
    NoAnswer,
    #[error("the publisher takes no subscription")]
    NoSubscription,
    #[error("the publisher takes no request")]
    NoRequest,
    #[error("the publisher closed the connection")]
    Closed,
    #[error("{0}")]
    Socket(#[from] ZmqError),
}

/// A socket with its one connection.
pub(crate) struct Connected<S> {
    socket: S,
    events: Events,
    address: SocketAddr,
}

/// What a socket tells of its connection.
type Events = Box<dyn Stream<Item = SocketEvent> + Send + Unpin>;

impl<S: SocketRecv> Connected<S> {
    /// The next message. It may be dropped while it waits, and nothing is lost.
    ///
    /// # Errors
    /// The connection is lost, and what it had brought has been read. The socket is to be dropped at once.
    pub(crate) async fn receive(&mut self) -> Result<ZmqMessage, ConnectionError> {
        tokio::select! {
            // What was received comes before what ends the connection.
            biased;
            message = self.socket.recv() => Ok(message?),
            () = disconnected(&mut self.events) => Err(ConnectionError::Closed),
        }
    }
}

impl<S> Connected<S> {
    /// The address that answered.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn disconnected(events: &mut Events) {
    while let Some(event) = events.next().await {
        if matches!(event, SocketEvent::Disconnected(_)) {
            return;
        }
    }
}

/// A SUB that is subscribed to everything.
pub(crate) type Subscription = Connected<SubSocket>;

impl Subscription {
    /// Connects to the first address of the host that answers, and subscribes.
    pub(crate) async fn open(at: &HostPort) -> Result<Self, ConnectionError> {
        first(at, Self::open_at).await
    }

    async fn open_at(address: SocketAddr) -> Result<Self, ConnectionError> {
        let mut connected = connect(SubSocket::with_options(options()), address).await?;
        // Not before the connection: the crate would send it then, and say nothing if that failed.
        let subscribed = timeout(SEND_WAIT_MAX, connected.socket.subscribe("")).await;
        subscribed.map_err(|_| ConnectionError::NoSubscription)??;
        Ok(connected)
    }

    /// Sends something that changes nothing.
    pub(crate) async fn nudge(&mut self) -> Result<(), ConnectionError> {
        let nudge = async {
            self.socket.subscribe(NUDGE_PREFIX).await?;
            self.socket.unsubscribe(NUDGE_PREFIX).await
        };
        Ok(timeout(SEND_WAIT_MAX, nudge).await.map_err(|_| ConnectionError::NoSubscription)??)
    }
}

/// A DEALER.
pub(crate) type Dealer = Connected<DealerSocket>;

impl Dealer {
    /// Connects to the first address of the host that answers.
    pub(crate) async fn open(at: &HostPort) -> Result<Self, ConnectionError> {
        first(at, |address| connect(DealerSocket::with_options(options()), address)).await
    }

    /// Sends a request of one frame.
    pub(crate) async fn send(&mut self, frame: Vec<u8>) -> Result<(), ConnectionError> {
        let sent = timeout(SEND_WAIT_MAX, self.socket.send(frame.into())).await;
        Ok(sent.map_err(|_| ConnectionError::NoRequest)??)
    }
}

fn options() -> SocketOptions {
    let mut options = SocketOptions::default();
    options.connect_timeout(CONNECT_WAIT_MAX);
    options
}

/// What the first of the host's addresses gives that gives anything.
async fn first<T, F>(at: &HostPort, attempt: impl Fn(SocketAddr) -> F) -> Result<T, ConnectionError>
where
    F: Future<Output = Result<T, ConnectionError>>,
{
    let addresses = resolve(at).await?;
    if addresses.is_empty() {
        return Err(ConnectionError::NoAddress);
    }
    let attempts = addresses.into_iter().take(ADDRESSES_MAX).map(|address| Box::pin(attempt(address)));
    let (connected, _) = select_ok(attempts).await?;
    Ok(connected)
}

async fn connect<S: Socket>(mut socket: S, address: SocketAddr) -> Result<Connected<S>, ConnectionError> {
    let events = Box::new(socket.monitor());
    let endpoint = Endpoint::from(address).to_string();
    let connected = timeout(CONNECT_WAIT_OUTER_MAX, socket.connect(&endpoint)).await;
    connected.map_err(|_| ConnectionError::NoAnswer)??;
    Ok(Connected { socket, events, address })
}

/// The addresses that a host has now.
pub(crate) async fn resolve(at: &HostPort) -> Result<Vec<SocketAddr>, ConnectionError> {
    match timeout(RESOLVE_WAIT_MAX, lookup_host((at.host(), at.port()))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(ConnectionError::Resolve(error)),
        Err(_) => Err(ConnectionError::Resolve(io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeromq::{PubSocket, RouterSocket};

    async fn bound(socket: &mut impl Socket) -> HostPort {
        let endpoint: Endpoint = socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string().parse().unwrap();
        endpoint.address().clone()
    }

    #[tokio::test]
    async fn a_nudge_reaches_the_publisher_and_changes_nothing() {
        let mut publisher = PubSocket::new();
        let mut subscription = Subscription::open(&bound(&mut publisher).await).await.unwrap();
        for number in 0..10 {
            subscription.nudge().await.unwrap();
            // The first ones may be sent before the subscription has arrived.
            let received = loop {
                publisher.send(format!("{number}").into()).await.unwrap();
                if let Ok(received) = timeout(Duration::from_millis(10), subscription.receive()).await {
                    break received.unwrap();
                }
            };
            assert!(received.get(0).is_some_and(|frame| *frame != NUDGE_PREFIX.as_bytes()));
        }
    }

    #[tokio::test]
    async fn a_dealer_whose_peer_has_gone_says_so() {
        let mut router = RouterSocket::new();
        let mut dealer = Dealer::open(&bound(&mut router).await).await.unwrap();
        dealer.send(b"request".to_vec()).await.unwrap();
        assert_eq!(router.recv().await.unwrap().into_vec()[1], "request");
        drop(router);
        assert!(dealer.receive().await.is_err());
    }
}
