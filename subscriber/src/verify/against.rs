//! What a publisher says of its stream, asked through its replay.

use bytes::Bytes;
use feed::{DecodeError, Fetch, Head, Message, Position, StreamId};
use futures_util::future::select_ok;
use net::Endpoint;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketOptions, SocketRecv, SocketSend, ZmqError};

/// The wait for a connection: the name, the connection, the handshake.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// The wait for each message of an answer; a publisher that is busy says so each second.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Messages of an answer, those that say busy included.
const ANSWERS_MAX: usize = 60;
/// Addresses of one name that are tried, all at once.
const ADDRESSES_MAX: usize = 8;
/// The version of blocks that this program reads.
const VERSION: u32 = 1;

/// Why a publisher did not say.
#[derive(Debug, thiserror::Error)]
pub enum AgainstError {
    /// Its name does not resolve.
    #[error("cannot resolve the name")]
    Resolve(#[source] io::Error),
    /// It cannot be connected to.
    #[error("{0}")]
    Socket(#[from] ZmqError),
    /// Nobody there speaks the protocol.
    #[error("no connection within {CONNECT_WAIT_MAX:?}")]
    NotConnected,
    /// Nothing was heard.
    #[error("no answer within {ANSWER_WAIT_MAX:?}")]
    Silent,
    /// It was told to wait too often.
    #[error("no end of the answer within {ANSWERS_MAX} messages")]
    Endless,
    /// What it said is no message.
    #[error("the answer is not one of a replay: {0}")]
    Decode(#[from] DecodeError),
    /// What it said has no place there.
    #[error("the answer does not begin with a head")]
    NoHead,
}

/// What a publisher says.
pub(super) struct Answer {
    pub(super) head: Head,
    /// The position that was asked for is not one of its history.
    pub(super) is_fork: bool,
}

/// Asks where the publisher's stream stands, and whether a position is one of it. For stream zero, only who is there.
pub(super) async fn ask(at: &Endpoint, stream: StreamId, from: Position) -> Result<Answer, AgainstError> {
    let connected = timeout(CONNECT_WAIT_MAX, connect(at)).await;
    let mut socket = connected.map_err(|_| AgainstError::NotConnected)??;
    let fetch = Fetch { stream, from, credit_bytes: 0, version: VERSION };
    let sent = timeout(ANSWER_WAIT_MAX, socket.send(Bytes::from(fetch.encode()).into())).await;
    sent.map_err(|_| AgainstError::Silent)??;
    let (mut head, mut is_fork) = (None, false);
    for _ in 0..ANSWERS_MAX {
        let message = timeout(ANSWER_WAIT_MAX, socket.recv()).await.map_err(|_| AgainstError::Silent)??;
        match Message::decode(message.into_vec().into_iter().next().unwrap_or_default())? {
            Message::Head(found) => head = Some(found),
            Message::Fork(fork) => is_fork |= fork.stream == stream && fork.from == from,
            Message::End(_) => return head.map(|head| Answer { head, is_fork }).ok_or(AgainstError::NoHead),
            Message::Busy(_) | Message::Gap(_) | Message::Block(_) | Message::Fetch(_) => {}
        }
    }
    Err(AgainstError::Endless)
}

async fn connect(at: &Endpoint) -> Result<DealerSocket, AgainstError> {
    let address = at.address();
    let found = lookup_host((address.host(), address.port())).await.map_err(AgainstError::Resolve)?;
    let attempts: Vec<_> = found.take(ADDRESSES_MAX).map(|address| Box::pin(connect_to(address))).collect();
    if attempts.is_empty() {
        return Err(AgainstError::Resolve(io::ErrorKind::NotFound.into()));
    }
    Ok(select_ok(attempts).await?.0)
}

async fn connect_to(address: SocketAddr) -> Result<DealerSocket, ZmqError> {
    let mut options = SocketOptions::default();
    options.connect_timeout(CONNECT_WAIT_MAX);
    let mut socket = DealerSocket::with_options(options);
    socket.connect(&Endpoint::from(address).to_string()).await?;
    Ok(socket)
}
