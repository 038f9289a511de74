//! What a [`Cursor`](super::Cursor) says, what it asks, and what it is told.

use crate::{DecodeError, Fetch, Gap, Position, StreamId};

/// Where to begin at the first contact with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstContact {
    /// With the oldest record that is kept.
    Earliest,
    /// With the next one that is published.
    Latest,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The block is the next one: give it to the writer.
    Append,
    /// Nothing to do; read on where the last verdict said.
    Ignore,
    /// Send this on the DEALER, connected to the replay address of the last head, and read only its
    /// replies until another verdict says otherwise.
    Fetch {
        /// The request.
        fetch: Fetch,
        /// What becomes of the SUB meanwhile.
        feed: FeedSocket,
    },
    /// Read the SUB; open it if it is closed. The DEALER, if there is one, stays open.
    Read,
    /// The stream is served through another address: close the SUB, and call
    /// [`again`](super::Cursor::again) in a second. The DEALER, if there is one, stays open.
    Park,
    /// Ask the writer, behind all that this address has already given it, and call
    /// [`answer`](super::Cursor::answer) before anything else.
    Ask(Question),
    /// The log has nothing of this stream: state where it begins, and sync it, before anything else
    /// of it. From now on this address is the stream's home. Said of a head, which has the name.
    Base {
        /// The stream.
        stream: StreamId,
        /// Its base.
        at: Position,
    },
    /// The stream's records from the position to [`Gap::to`] are no more: state it. The position
    /// has moved there.
    Lost(Gap),
    /// The publisher has gone back and taken another way: state it, and send the fetch; the SUB stays
    /// as it is. The records
    /// in the log from `at.next` up to `from.next` are of a history that is no more.
    Forked {
        /// The stream.
        stream: StreamId,
        /// Where the log stood.
        from: Position,
        /// The last position that both have, or the oldest that the publisher keeps.
        at: Position,
        /// Goes on from there.
        fetch: Fetch,
    },
    /// The journal behind this address was wiped: state it, and sync it, before anything else of the
    /// new stream. From now on this address is the new stream's home. Said of a head, which has
    /// the name.
    Replaced {
        /// The stream that the address had.
        old: StreamId,
        /// The highest `next` heard of it, 0 if nothing was: the records from the log's position up
        /// to this are lost. The writer knows that position; another address may have moved it since.
        heard: u64,
        /// The stream that the address has now.
        stream: StreamId,
        /// Where the log begins in it; or where it stands, if it had been here before.
        base: Position,
    },
    /// Refuse the stream by name: drop both sockets and any claim, say why, and call
    /// [`start`](super::Cursor::start) after a back-off. It is refused again unless something changed.
    Refuse(Refusal),
    /// Drop both sockets, and call [`start`](super::Cursor::start) after a back-off.
    Reconnect(Fault),
}

/// What becomes of the SUB during a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedSocket {
    /// It stays open unread, and is the buffer.
    Keep,
    /// It is closed: the wait may be long, and what it would buffer can be fetched.
    Close,
}

/// Why a stream is not taken from an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its history is not the log's, and its home is another address: two publishers share a stream,
    /// until one is started with a new stream.
    Fork {
        /// The stream.
        stream: StreamId,
        /// The log's position, which is not one of the publisher's.
        at: Position,
    },
    /// It is of a version that this program cannot read: upgrade the subscriber. Nothing is lost.
    Version(DecodeError),
}

/// Why a connection is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// SUB and DEALER are connected to different publishers, or to one that was replaced meanwhile.
    #[error("feed and replay name different streams, {expected} and {found}")]
    Streams {
        /// The stream that the first head named.
        expected: StreamId,
        /// The other.
        found: StreamId,
    },
    /// The bytes are not a message.
    #[error("not a message: {0}")]
    Undecodable(DecodeError),
    /// A message that has no place where it came.
    #[error("an unexpected {0}")]
    Unexpected(&'static str),
    /// A reply ended, neither where its head ends nor farther than the one before.
    #[error("a reply without progress at sequence {0}")]
    NoProgress(u64),
}

/// A question to the writer, who knows the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// May this address serve the stream? Whatever other stream it served, it serves no more. Answered by [`Answer::Claim`].
    Claim(StreamId),
    /// Where did a block, a loss or the base of this stream end, last at or below this sequence, in
    /// the history that the log follows now? Answered by [`Answer::Boundary`].
    Boundary {
        /// The stream.
        stream: StreamId,
        /// The highest sequence that counts.
        at_most: u64,
    },
}

/// What the writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Who serves a stream, and where the log stands in it.
    Claim(Claim),
    /// A position of the log's own history.
    Boundary(Option<Position>),
}

/// Who serves a stream, and where the log stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// This address serves it from now on, and the writer takes its blocks from nobody else.
    ///
    /// To be granted to the stream's home always; to another address if no other has the claim, or
    /// the one that has it was not heard for 5 s (the home counts as heard when the process starts).
    pub granted: bool,
    /// The index names this address for the stream.
    pub home: bool,
    /// Where the log stands in it, all that was given to the writer before included. `None`: the
    /// index does not have the stream.
    pub at: Option<Position>,
    /// The stream that the index named last for this address.
    pub had: Option<StreamId>,
}
