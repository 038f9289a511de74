//! A bound PUB socket with its account, its connections and its thread: what both feeds stand on.
//!
//! The socket itself goes to the task that sends; the rest is here, for whoever asks. It is made when the first
//! subscriber comes: the crate's PUB holds 4 MB from its beginning, a place for each of the 100,000 messages
//! that its front queue takes, and a feed that nobody reads needs none of it.

use crate::account::Account;
use crate::peers::{Connections, Peers};
use crate::socket_thread::SocketThread;
use futures_util::{Stream, StreamExt, stream};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::error;
use zeromq::{PubSocket, Socket, SocketEvent};

/// The wait at the end for the kernel to take what connections have in their buffers.
pub(crate) const FLUSH_WAIT_MAX: Duration = Duration::from_millis(500);

/// The surroundings of a PUB socket.
pub(crate) struct PubServer {
    pub(crate) account: Arc<Account>,
    pub(crate) connections: watch::Receiver<Connections>,
    thread: SocketThread,
}

/// A socket that is made when somebody connects.
pub(crate) struct FirstSubscriber {
    name: &'static str,
    arrival: TcpStream,
    listener: TcpListener,
    told: oneshot::Sender<SocketEvents>,
}

/// What a socket tells of its connections.
type SocketEvents = Box<dyn Stream<Item = SocketEvent> + Send + Unpin>;

impl FirstSubscriber {
    /// The socket, once somebody waits to be accepted. For the socket's thread. `None`: it is closed before, or does
    /// not take its listener.
    pub(crate) async fn until_needed(self, closing: CancellationToken) -> Option<PubSocket> {
        let Self { name, arrival, listener, told } = self;
        // Ready or in error: in either case it is the socket's turn.
        let _ = closing.run_until_cancelled(arrival.readable()).await?;
        drop(arrival);
        let mut socket = PubSocket::new();
        let _ = told.send(Box::new(socket.monitor()));
        match socket.bind_listener(listener).await {
            Ok(_) => Some(socket),
            Err(error) => {
                error!(%error, socket = name, "cannot serve subscribers");
                None
            }
        }
    }
}

/// Why a socket does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket does not take its listener.
    #[error("the socket does not serve")]
    Socket(#[from] zeromq::ZmqError),
    /// The listener cannot be waited for.
    #[error("cannot wait for connections")]
    Listener(#[source] io::Error),
    /// The system has no thread to give.
    #[error("cannot start the socket's thread")]
    Thread(#[source] io::Error),
    /// A defect: the thread panicked.
    #[error("the socket's thread ended by itself")]
    Ended(#[from] JoinError),
}

impl PubServer {
    /// Serves subscribers on a bound listener, which does not block, holding at most `budget_bytes` for them. The
    /// thread is called `name`.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(crate) async fn bind(
        name: &'static str,
        listener: TcpListener,
        budget_bytes: u64,
    ) -> Result<(Self, FirstSubscriber), ServeError> {
        let thread = SocketThread::start(name, FLUSH_WAIT_MAX).map_err(ServeError::Thread)?;
        let listened = listener.try_clone().map_err(ServeError::Listener)?;
        // tokio lets a stream be waited for, but not a listener without accepting: to the kernel both are sockets.
        let listened = std::net::TcpStream::from(OwnedFd::from(listened));
        // Registered on the socket's thread, where it is waited for.
        let arrival = thread.run(async { TcpStream::from_std(listened) }).await?.map_err(ServeError::Listener)?;
        let (told, events) = oneshot::channel();
        let socket = FirstSubscriber { name, arrival, listener, told };
        let events = stream::once(events).filter_map(async |events| events.ok()).flatten();
        let connections = Peers::watch(Box::pin(events), "subscriber", |_| {});
        Ok((Self { account: Account::new(budget_bytes), connections, thread }, socket))
    }

    /// Leaves the sending to the socket's thread. The task owns the socket, and ends with it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.thread.spawn(task);
    }

    /// Subscribers' connections now.
    pub(crate) fn connections(&self) -> Connections {
        *self.connections.borrow()
    }

    /// Waits until a subscriber is connected.
    pub(crate) async fn subscriber_connected(&self) {
        let mut connections = self.connections.clone();
        if connections.wait_for(|connections| connections.open > 0).await.is_err() {
            // The socket is gone: nobody will be.
            std::future::pending().await
        }
    }

    /// Waits until the subscribers' connections have taken all that was charged, for at most `wait`.
    /// Returns how many messages they have not taken.
    pub(crate) async fn drain(&self, wait: Duration) -> u64 {
        let _ = tokio::time::timeout(wait, self.account.settled()).await;
        self.account.held().messages
    }

    /// Waits until the tasks have ended, once the kernel has what their connections had; for that
    /// there is [`FLUSH_WAIT_MAX`]. Who owns the socket has been told to drop it.
    pub(crate) async fn close(&self) {
        self.thread.close().await;
    }
}
