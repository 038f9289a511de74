//! A bound PUB socket with its account, its connections and its thread: what both feeds stand on.
//!
//! The socket itself goes to the task that sends; the rest is here, for whoever asks.

use crate::account::Account;
use crate::peers::{Connections, Peers};
use crate::socket_thread::SocketThread;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinError;
use zeromq::{PubSocket, Socket, ZmqResult};

/// The wait at the end for the kernel to take what connections have in their buffers.
pub(crate) const FLUSH_WAIT_MAX: Duration = Duration::from_millis(500);

/// The surroundings of a PUB socket.
pub(crate) struct PubServer {
    pub(crate) account: Arc<Account>,
    pub(crate) connections: watch::Receiver<Connections>,
    thread: SocketThread,
}

/// Why a socket does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket does not take its listener.
    #[error("the socket does not serve")]
    Socket(#[from] zeromq::ZmqError),
    /// The system has no thread to give.
    #[error("cannot start the socket's thread")]
    Thread(#[source] io::Error),
    /// A defect: the thread panicked.
    #[error("the socket's thread ended by itself")]
    Ended(#[from] JoinError),
}

impl PubServer {
    /// Serves subscribers on a bound listener, holding at most `budget_bytes` for them. The thread is
    /// called `name`.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(crate) async fn bind(
        name: &'static str,
        listener: TcpListener,
        budget_bytes: u64,
    ) -> Result<(Self, PubSocket), ServeError> {
        let thread = SocketThread::start(name, FLUSH_WAIT_MAX).map_err(ServeError::Thread)?;
        let bind = async move {
            let mut socket = PubSocket::new();
            let events = socket.monitor();
            socket.bind_listener(listener).await?;
            ZmqResult::Ok((socket, events))
        };
        let (socket, events) = thread.run(bind).await??;
        let connections = Peers::watch(events, "subscriber", |_| {});
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
        // The sender lives as long as the socket.
        let _ = connections.wait_for(|connections| connections.open > 0).await;
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
