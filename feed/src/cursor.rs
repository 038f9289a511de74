//! How a subscriber follows a publisher: the decision what to do with what arrived.
//!
//! A [`Cursor`] stands for one publisher address. It is told what came and answers with a
//! [`Verdict`]; it does no I/O, has no clock, and keeps no records. Around it is a shell with a SUB
//! for the feed, a DEALER for the replay and a way to the one writer, who owns the positions.
//!
//! The shell's part:
//!
//! - It follows every verdict before it tells the cursor more, and hands entries and blocks to the
//!   writer in the order of the verdicts.
//! - A disconnect, an error, silence for 5 s where something is waited for, a claim that the writer
//!   gave to another address, a block or entry that he refused: it drops both sockets and, after a
//!   back-off, calls [`Cursor::start`]. What still comes from sockets that were dropped is dropped
//!   as well. Everything that comes ends a silence, a `busy` too.
//! - A connection of the DEALER belongs to one process of the publisher: it does not reconnect by
//!   itself. Within one, a publisher's history grows at its end and is lost to retention or
//!   damage, but never changes.
//! - Head and judgement of a reply are of one moment: a position at or behind the head's oldest
//!   that is not said to be a fork is one of the publisher's.
//! - It answers [`Verdict::Ask`] from the writer, behind all that it has handed over before, so that
//!   an answer's position is the one that the next block has to meet.
//! - While the writer takes nothing, it reads no socket; if that lasts, it closes the SUB and calls
//!   [`Cursor::fell_behind`] when the writer goes on.
//!
//! What each input leads to. *Over* is the state before a start, and after a `Reconnect` or `Refuse`
//! verdict; there everything but a start is ignored. A message of the replay, or of the feed while
//! it is read, whose stream is not the connection's is `Reconnect(Streams)`. Any other message or
//! answer that is not in the table is `Reconnect(Unexpected)`; `again` and `fell_behind` are `Ignore`.
//!
//! | state | input | verdict | then |
//! |---|---|---|---|
//! | any | `start` | `Read` | meeting |
//! | any but over | undecodable, of an unknown version | `Refuse(Version)` | over |
//! | | undecodable otherwise | `Reconnect(Undecodable)` | over |
//! | any but meeting, reading | a message of the feed | `Ignore` | |
//! | any but over | a busy of the replay | `Ignore` | |
//! | meeting | feed: block, of any stream | `Ignore` | |
//! | | feed: head | `Ask(Claim)` | claiming |
//! | | `fell_behind` | `Read` | |
//! | claiming | granted; in the index, and the address had no other stream, or the home is elsewhere | `Fetch` from the position | fetching |
//! | | granted; otherwise | `Fetch`, credit 0 | greeting |
//! | | not granted; in the index | `Fetch` from the position, credit 0 | parked |
//! | | not granted; otherwise | `Park` | parked |
//! | greeting | head, the address had no stream | `Base`: oldest or next, as [`FirstContact`] says | |
//! | | head, it had another | `Replaced`: base is the oldest, or the log's position if it has one | |
//! | | gap, fork | `Ignore` | |
//! | | end | `Fetch` from the base | fetching |
//! | fetching | head | `Ignore` | |
//! | | block that is next | `Append` | |
//! | | block from the past | `Ignore` | |
//! | | gap that begins at the position | `Lost` | |
//! | | gap that begins elsewhere | `Ignore` | |
//! | | fork of the position that was asked, at home | `Ignore` | |
//! | | the same, not at home | `Refuse(Fork)` | over |
//! | | end, after a fork | `Ask(Boundary)`, or as under seeking | seeking |
//! | | end, the reply's own head reached | `Read` | reading |
//! | | end, not reached, but nearer | `Fetch` | |
//! | | end, otherwise | `Reconnect(NoProgress)` | over |
//! | reading | block or head from the past; head at the position | `Ignore` | |
//! | | block that is next | `Append` | |
//! | | block or head beyond, or at the position with another chain value | `Fetch` | fetching |
//! | | `fell_behind` | `Fetch`, feed closed | fetching |
//! | seeking | answer: a boundary of ours, not judged yet | `Fetch` from it, credit 0 | |
//! | | answer: none; or end of that reply; and more to look for | `Ask(Boundary)` | |
//! | | the same, and all is decided | `Forked` | fetching |
//! | | the same, but it is the position that was denied | `Reconnect(NoProgress)` | over |
//! | | the same, but retention has passed the position | `Fetch` from the position: a gap will follow | fetching |
//! | | head; fork or gap, and the candidate is not common | `Ignore` | |
//! | parked | reply: head, gap | `Ignore` | |
//! | | fork | `Refuse(Fork)` | over |
//! | | end | `Park` | |
//! | | `again` | `Ask(Claim)` | claiming |
//!
//! What always holds:
//!
//! - `Append` is said only of a block that begins at the position, by sequence *and* chain value; the
//!   position then is its end. It moves otherwise only by `Lost`, `Forked`, `Base`, `Replaced`, and
//!   to where the writer's answer to a claim says that the log stands.
//! - `Lost` is said only of a gap that a reply to a fetch with credit held, and that begins at the
//!   position. No head, block or silence is ground for a loss.
//! - `Forked` and `Refuse(Fork)` are said only after the publisher answered a fetch of this
//!   connection with a fork. What a SUB brings may be old, or of another process: it is ground for a
//!   fetch and nothing else.
//! - One fetch at a time: the next is sent after the end of the one before, or on new sockets.
//!   So a reply is the one to the last fetch.
//! - Every connection begins with a fetch from the writer's position, so a fork shows at once, also
//!   where a publisher came back with less than the log has and says nothing more.
//! - A reply either reaches the `next` of its own head, or comes nearer, or ends the connection.

mod reply;
mod search;
mod verdict;

#[cfg(test)]
mod tests;

use crate::{Block, DecodeError, Fetch, Head, Message, Position, StreamId};
use search::Search;
pub use verdict::{Answer, Claim, Fault, FeedSocket, FirstContact, Question, Refusal, Verdict};

/// The bytes of blocks that one fetch asks for.
pub const CREDIT_BYTES: u32 = 1024 * 1024;
/// The highest version of blocks that is understood.
pub const VERSION: u32 = 1;
/// Behind by more replies than this, a subscriber closes the SUB, which would only fill up.
pub const REPLIES_MAX: u32 = 4;

/// Follows one publisher address; see the [module](self).
#[derive(Debug)]
pub struct Cursor {
    first_contact: FirstContact,
    state: State,
    /// The connection's stream, once its first head came.
    stream: StreamId,
    /// This address is the stream's home.
    home: bool,
    /// Where the log will stand when the writer has written all that was handed over.
    position: Position,
    /// The stream that the index names for the address (before that is known: the first one met),
    /// and the highest `next` heard of it, for when it is replaced. Outlives connections.
    heard: Option<(StreamId, u64)>,
    /// The same of the stream that was there before, until it is known that the writer took the
    /// statement: he refuses it if another address got the claim meanwhile.
    replaced: Option<(StreamId, u64)>,
}

/// Where a publisher's history begins and ends.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    oldest: Position,
    next: Position,
}

/// What has come of the reply to the outstanding fetch.
#[derive(Debug, Clone, Copy, Default)]
struct Reply {
    head: Option<Bounds>,
    forked: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// No connection.
    Over,
    /// Waits for the first head.
    Meeting,
    /// Waits for the writer to say who serves the stream.
    Claiming { head: Bounds },
    /// Waits for a head that is fresh, to begin the stream.
    Greeting { known: Option<Position>, had: Option<StreamId>, reply: Reply },
    /// Reads the reply to a fetch from `from`, the `count`-th in a row.
    Fetching { from: Position, count: u32, reply: Reply },
    /// Reads the SUB.
    Reading,
    /// Looks for the last common position at or below `middle`; `probe` is what the publisher judges.
    Seeking { search: Search, middle: u64, probe: Option<(Position, Reply)>, head: Bounds },
    /// Another address serves the stream. The reply is that to the head fetch of this second.
    Parked { head: Bounds, reply: Option<Reply> },
}

impl Cursor {
    /// For an address to which there is no connection yet.
    pub fn new(first_contact: FirstContact) -> Self {
        Self {
            first_contact,
            state: State::Over,
            stream: StreamId::default(),
            home: false,
            position: Position::default(),
            heard: None,
            replaced: None,
        }
    }

    /// There are no sockets, or new ones: everything begins anew.
    pub fn start(&mut self) -> Verdict {
        self.state = State::Meeting;
        Verdict::Read
    }

    /// A message came on the SUB.
    pub fn feed(&mut self, message: &Message) -> Verdict {
        match (self.state, message) {
            (State::Meeting, Message::Block(_)) => return Verdict::Ignore,
            (State::Meeting, Message::Head(head)) => self.stream = head.stream,
            (State::Meeting | State::Reading, _) => {}
            _ => return Verdict::Ignore,
        }
        if let Err(fault) = self.check_stream(message) {
            return self.reconnect(fault);
        }
        self.hear(message);
        match (self.state, message) {
            (State::Meeting, Message::Head(head)) => self.claim(bounds(head)),
            (_, Message::Block(block)) if block.start() == self.position => self.append(block),
            (_, Message::Block(block)) => self.compare(block.start(), true),
            (_, Message::Head(head)) => self.compare(head.next, false),
            (_, other) => self.reconnect(unexpected(other)),
        }
    }

    /// A message came on the DEALER.
    pub fn reply(&mut self, message: &Message) -> Verdict {
        if matches!(self.state, State::Over) {
            return Verdict::Ignore;
        }
        if let Err(fault) = self.check_stream(message) {
            return self.reconnect(fault);
        }
        if let Message::Busy(_) = message {
            return Verdict::Ignore;
        }
        self.hear(message);
        let verdict = match self.state {
            State::Greeting { known, had, reply } => self.greeting(known, had, reply, message),
            State::Fetching { from, count, reply } => self.fetching(from, count, reply, message),
            State::Seeking { search, middle, probe: Some((candidate, reply)), .. } => {
                self.probing(search, middle, candidate, reply, message)
            }
            State::Parked { head, reply: Some(reply) } => self.parked(head, reply, message),
            _ => None,
        };
        verdict.unwrap_or_else(|| self.reconnect(unexpected(message)))
    }

    /// A frame came that is no message, on either socket.
    pub fn undecodable(&mut self, error: DecodeError) -> Verdict {
        match (self.state, error) {
            (State::Over, _) => Verdict::Ignore,
            (_, DecodeError::Version { .. }) => self.refuse(Refusal::Version(error)),
            _ => self.reconnect(Fault::Undecodable(error)),
        }
    }

    /// The writer's answer to the last [`Verdict::Ask`].
    pub fn answer(&mut self, answer: Answer) -> Verdict {
        match (self.state, answer) {
            (State::Over, _) => Verdict::Ignore,
            (State::Claiming { head }, Answer::Claim(claim)) => self.claimed(head, claim),
            (State::Seeking { mut search, middle, probe: None, head }, Answer::Boundary(boundary)) => {
                let Some(candidate) = search.found(middle, boundary) else { return self.seek(search, head) };
                self.state = State::Seeking { search, middle, probe: Some((candidate, Reply::default())), head };
                Verdict::Fetch { fetch: self.request(candidate, 0), feed: FeedSocket::Close }
            }
            _ => self.reconnect(Fault::Unexpected("answer")),
        }
    }

    /// A second has passed since [`Verdict::Park`].
    pub fn again(&mut self) -> Verdict {
        match self.state {
            State::Parked { head, reply: None } => self.claim(head),
            _ => Verdict::Ignore,
        }
    }

    /// The SUB was closed because the writer took nothing for a while; now it does.
    pub fn fell_behind(&mut self) -> Verdict {
        match self.state {
            State::Meeting => Verdict::Read,
            State::Reading => self.fetch(FeedSocket::Close, 1),
            _ => Verdict::Ignore,
        }
    }

    fn claim(&mut self, head: Bounds) -> Verdict {
        self.state = State::Claiming { head };
        Verdict::Ask(Question::Claim(self.stream))
    }

    fn claimed(&mut self, head: Bounds, claim: Claim) -> Verdict {
        let Claim { granted, home, at, had } = claim;
        self.home = home;
        self.recall(had, head);
        let other = had.filter(|stream| *stream != self.stream);
        match (granted, at) {
            (true, Some(at)) if !home || other.is_none() => {
                self.position = at;
                self.fetch(FeedSocket::Close, 1)
            }
            (true, known) => {
                self.state = State::Greeting { known, had: other, reply: Reply::default() };
                Verdict::Fetch { fetch: self.request(head.oldest, 0), feed: FeedSocket::Close }
            }
            (false, Some(at)) => {
                self.position = at;
                self.state = State::Parked { head, reply: Some(Reply::default()) };
                Verdict::Fetch { fetch: self.request(at, 0), feed: FeedSocket::Close }
            }
            (false, None) => {
                self.state = State::Parked { head, reply: None };
                Verdict::Park
            }
        }
    }

    /// The feed says where the stream is: a block that begins there, or a head that ends there.
    fn compare(&mut self, at: Position, is_block: bool) -> Verdict {
        let is_news = at.next > self.position.next
            || at.next == self.position.next && (is_block || at.previous != self.position.previous);
        if is_news { self.fetch(FeedSocket::Keep, 1) } else { Verdict::Ignore }
    }

    fn append(&mut self, block: &Block) -> Verdict {
        self.position = block.end();
        Verdict::Append
    }

    fn fetch(&mut self, feed: FeedSocket, count: u32) -> Verdict {
        self.state = State::Fetching { from: self.position, count, reply: Reply::default() };
        Verdict::Fetch { fetch: self.request(self.position, CREDIT_BYTES), feed }
    }

    fn request(&self, from: Position, credit_bytes: u32) -> Fetch {
        Fetch { stream: self.stream, from, credit_bytes, version: VERSION }
    }

    fn check_stream(&self, message: &Message) -> Result<(), Fault> {
        let found = message.stream();
        if found == self.stream { Ok(()) } else { Err(Fault::Streams { expected: self.stream, found }) }
    }

    /// Notes how far the address's stream goes. Of another nothing is noted: as long as no
    /// replacement is stated, the old one's figure is needed.
    fn hear(&mut self, message: &Message) {
        let next = match message {
            Message::Head(head) => head.next.next,
            Message::Block(block) => block.end().next,
            _ => return,
        };
        let (stream, heard) = self.heard.get_or_insert((message.stream(), next));
        if *stream == message.stream() {
            *heard = next.max(*heard);
        }
    }

    /// The writer has said which stream is the address's: what is known of it?
    fn recall(&mut self, had: Option<StreamId>, head: Bounds) {
        let Some(had) = had else { return };
        let known = [self.heard, self.replaced.take()].into_iter().flatten().find(|(stream, _)| *stream == had);
        let met = if had == self.stream { head.next.next } else { 0 };
        self.heard = Some((had, known.map_or(met, |(_, next)| next.max(met))));
    }

    fn refuse(&mut self, refusal: Refusal) -> Verdict {
        self.state = State::Over;
        Verdict::Refuse(refusal)
    }

    fn reconnect(&mut self, fault: Fault) -> Verdict {
        self.state = State::Over;
        Verdict::Reconnect(fault)
    }
}

fn bounds(head: &Head) -> Bounds {
    Bounds { oldest: head.oldest, next: head.next }
}

fn unexpected(message: &Message) -> Fault {
    Fault::Unexpected(match message {
        Message::Block(_) => "block",
        Message::Head(_) => "head",
        Message::Fetch(_) => "fetch",
        Message::Gap(_) => "gap",
        Message::Fork(_) => "fork",
        Message::Busy(_) => "busy",
        Message::End(_) => "end",
    })
}
