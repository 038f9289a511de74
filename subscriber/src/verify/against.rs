//! What a publisher says of its stream, asked through its replay.

use crate::sockets::{ConnectionError, Dealer};
use feed::cursor::VERSION;
use feed::{DecodeError, Fetch, Head, Message, Position, StreamId};
use net::Endpoint;
use std::time::Duration;
use tokio::time::timeout;

/// The wait for each message of an answer; a publisher that is busy says so each second.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// Messages of an answer, those that say busy included.
const ANSWERS_MAX: usize = 60;

/// Why a publisher did not say.
#[derive(Debug, thiserror::Error)]
pub enum AgainstError {
    /// There is no connection.
    #[error("{0}")]
    Connection(String),
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

impl From<ConnectionError> for AgainstError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error.to_string())
    }
}

/// What a publisher says.
pub(super) struct Answer {
    pub(super) head: Head,
    /// The position that was asked for is not one of its history.
    pub(super) is_fork: bool,
}

/// Asks where the publisher's stream stands, and whether a position is one of it. For stream zero, only who is there.
pub(super) async fn ask(at: &Endpoint, stream: StreamId, from: Position) -> Result<Answer, AgainstError> {
    let mut replay = Dealer::open(at.address()).await?;
    replay.send(Fetch { stream, from, credit_bytes: 0, version: VERSION }.encode()).await?;
    let (mut head, mut is_fork) = (None::<Head>, false);
    for _ in 0..ANSWERS_MAX {
        let message = timeout(ANSWER_WAIT_MAX, replay.receive()).await.map_err(|_| AgainstError::Silent)??;
        match Message::decode(message.into_vec().into_iter().next().unwrap_or_default())? {
            // Who asks for another stream than the publisher's is told whose it is, and no more.
            Message::Head(found) if found.stream != stream => return Ok(Answer { head: found, is_fork }),
            Message::Head(found) => head = Some(found),
            Message::Fork(fork) => is_fork |= fork.stream == stream && fork.from == from,
            Message::End(_) => return head.map(|head| Answer { head, is_fork }).ok_or(AgainstError::NoHead),
            Message::Busy(_) | Message::Gap(_) | Message::Block(_) | Message::Fetch(_) => {}
        }
    }
    Err(AgainstError::Endless)
}
