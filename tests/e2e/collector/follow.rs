//! The thread of a collector: the conversation, and everything that it must not contain.

use super::codec::{Block, Gap, Head, Message, Position, Reason, Stream, fetch};
use super::peer::{Nothing, Peer, decode, reached_at};
use super::{CREDIT_BYTES, Collected, PAUSE, REPLIES_BEHIND_MAX, SILENCE, Shared, Statement};
use std::cmp::Ordering;
use std::thread;
use std::time::Instant;

/// Why a connection ended.
enum End {
    /// New sockets, and again.
    Lost(String),
    /// The collector was told something else.
    Orders,
    /// The publisher has another history: nothing more from it.
    Fork,
    /// The protocol was breached.
    Breach(String),
}

type Outcome<T> = Result<T, End>;

fn breach<T>(what: impl Into<String>) -> Outcome<T> {
    Err(End::Breach(what.into()))
}

/// Follows until it is told to stop, or the protocol is breached.
pub(super) fn run(shared: &Shared) {
    let mut forked_at = None;
    loop {
        let (endpoint, generation, stop) = {
            let orders = shared.orders.lock().unwrap();
            (orders.endpoint.clone(), orders.generation, orders.stop)
        };
        if stop {
            return;
        }
        if forked_at == Some(generation) {
            thread::sleep(PAUSE);
            continue;
        }
        shared.collected.lock().unwrap().connections += 1;
        match (Connection { shared, endpoint: &endpoint, generation }).follow() {
            Ok(()) | Err(End::Orders) => {}
            Err(End::Fork) => forked_at = Some(generation),
            Err(End::Lost(why)) => {
                shared.collected.lock().unwrap().trouble = why;
                thread::sleep(PAUSE);
            }
            Err(End::Breach(what)) => {
                shared.collected.lock().unwrap().breach = Some(what);
                shared.changed.notify_all();
                return;
            }
        }
    }
}

/// One time from new sockets to their end.
struct Connection<'a> {
    shared: &'a Shared,
    endpoint: &'a str,
    generation: u64,
}

impl Connection<'_> {
    /// Returns if the feed is too far ahead to be left waiting.
    fn follow(&self) -> Outcome<()> {
        let first = self.first_head()?;
        let mut replay = Asked::new(self, &reached_at(&first.replay, self.endpoint))?;
        self.meet(&first, &replay.who()?)?;
        replay.catch_up(u32::MAX)?;
        let feed = self.connect(zmq::SUB, self.endpoint)?;
        let mut order = FeedOrder::default();
        loop {
            let message = self.receive(&feed)?;
            order.check(&message)?;
            let Some(beyond) = self.hear(message)? else { continue };
            if !replay.catch_up(REPLIES_BEHIND_MAX)? {
                return Ok(());
            }
            // What is on the feed is durable, so it is in the replay, and the same.
            if let Some(message) = self.hear(beyond)? {
                return breach(format!("on the feed, and not in the replay: {message:?}"));
            }
        }
    }

    fn connect(&self, kind: zmq::SocketType, endpoint: &str) -> Outcome<Peer> {
        Peer::connect(kind, endpoint).map_err(|error| End::Lost(format!("{endpoint}: {error}")))
    }

    fn receive(&self, peer: &Peer) -> Outcome<Message> {
        let wanted = || {
            let orders = self.shared.orders.lock().unwrap();
            !orders.stop && orders.generation == self.generation
        };
        match peer.receive(SILENCE, wanted) {
            Ok(frames) => decode(&frames).or_else(breach),
            Err(Nothing::Unwanted) => Err(End::Orders),
            Err(nothing @ (Nothing::Disconnected | Nothing::Silent)) => {
                Err(End::Lost(format!("{}: {nothing:?}", self.endpoint)))
            }
        }
    }

    /// The socket is closed again, so that nothing waits in it for as long as the replay takes.
    fn first_head(&self) -> Outcome<Head> {
        let feed = self.connect(zmq::SUB, self.endpoint)?;
        let begin = Instant::now();
        loop {
            match self.receive(&feed)? {
                Message::Head(head) => return Ok(head),
                Message::Block(_) if begin.elapsed() < 10 * SILENCE => {}
                other => return breach(format!("no head on the feed, but {other:?}")),
            }
        }
    }

    /// First contact with a stream, or another one than before.
    fn meet(&self, named: &Head, head: &Head) -> Outcome<()> {
        if named.stream != head.stream {
            return Err(End::Lost("feed and replay are of different streams".to_owned()));
        }
        let mut collected = self.shared.collected.lock().unwrap();
        if collected.stream != Some(head.stream) {
            collected.meet(head);
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// One message of the feed. Given back if it is beyond what was taken, or not of this history.
    fn hear(&self, message: Message) -> Outcome<Option<Message>> {
        let mut collected = self.shared.collected.lock().unwrap();
        collected.check_stream(message.stream())?;
        match message {
            Message::Block(block) if block.start() == collected.position => {
                collected.live += u64::from(block.count);
                collected.take(block)?;
                self.shared.changed.notify_all();
            }
            Message::Block(block) if block.end().next <= collected.position.next => collected.check_past(&block)?,
            Message::Head(head) if head.next.next < collected.position.next => {}
            Message::Head(head) if head.next == collected.position => {}
            Message::Head(head) => {
                collected.heard = collected.heard.max(head.next.next);
                return Ok(Some(Message::Head(head)));
            }
            Message::Block(_) => return Ok(Some(message)),
            other => return breach(format!("on the feed: {other:?}")),
        }
        Ok(None)
    }
}

/// What the messages of one connection to a feed must keep among themselves.
#[derive(Default)]
struct FeedOrder {
    next: u64,
    head: Option<Head>,
}

impl FeedOrder {
    fn check(&mut self, message: &Message) -> Outcome<()> {
        match message {
            Message::Block(block) if block.first < self.next => {
                breach(format!("block {:?} on the feed after {}", block.start(), self.next))
            }
            Message::Block(block) => {
                self.next = block.end().next;
                Ok(())
            }
            Message::Head(head) if head.next.next < self.next => {
                breach(format!("{head:?} on the feed after {}", self.next))
            }
            Message::Head(head) => {
                self.next = head.next.next;
                check_heads(self.head.replace(head.clone()).as_ref(), head)
            }
            _ => Ok(()),
        }
    }
}

/// Two heads, one after the other, of one process.
fn check_heads(before: Option<&Head>, head: &Head) -> Outcome<()> {
    let Some(before) = before else { return Ok(()) };
    let goes_back = head.next.next < before.next.next || head.oldest.next < before.oldest.next;
    let is_torn = head.next.next == before.next.next && head.next != before.next
        || head.oldest.next == before.oldest.next && head.oldest != before.oldest;
    if goes_back || is_torn || (&head.name, &head.replay) != (&before.name, &before.replay) {
        return breach(format!("{head:?} after {before:?}"));
    }
    Ok(())
}

/// A replay, and what it said last.
struct Asked<'a> {
    connection: &'a Connection<'a>,
    peer: Peer,
    head: Option<Head>,
}

impl<'a> Asked<'a> {
    fn new(connection: &'a Connection<'a>, endpoint: &str) -> Outcome<Self> {
        let peer = connection.connect(zmq::DEALER, endpoint)?;
        Ok(Self { connection, peer, head: None })
    }

    /// Sends a fetch, and returns the head that every reply begins with.
    fn fetch(&mut self, stream: Stream, from: Position, credit_bytes: u32) -> Outcome<Head> {
        let sent = self.peer.send(&fetch(stream, from, credit_bytes));
        sent.map_err(|error| End::Lost(format!("replay: {error}")))?;
        loop {
            match self.connection.receive(&self.peer)? {
                Message::Head(head) => {
                    check_heads(self.head.replace(head.clone()).as_ref(), &head)?;
                    return Ok(head);
                }
                Message::Busy { .. } => {}
                other => return breach(format!("a reply that begins with {other:?}")),
            }
        }
    }

    fn who(&mut self) -> Outcome<Head> {
        self.fetch(Stream::default(), Position::default(), 0)
    }

    /// Fetches until a reply has reached its own head. False if that takes too many replies.
    fn catch_up(&mut self, replies_max: u32) -> Outcome<bool> {
        for _ in 0..replies_max {
            let (stream, from) = {
                let collected = self.connection.shared.collected.lock().unwrap();
                (collected.stream.expect("a stream was met"), collected.position)
            };
            let head = self.fetch(stream, from, CREDIT_BYTES)?;
            if head.stream != stream {
                return Err(End::Lost("another stream".to_owned()));
            }
            let at = self.reply(&head, from)?;
            match at.next.cmp(&head.next.next) {
                Ordering::Less if at == from => return breach(format!("an empty reply at {from:?} to {head:?}")),
                Ordering::Less => {}
                Ordering::Equal if at != head.next => return breach(format!("a reply to {at:?} with {head:?}")),
                // What became durable behind the head may be in the reply, but what was asked from may not.
                Ordering::Greater if at == from => return breach(format!("no fork at {at:?} with {head:?}")),
                Ordering::Equal | Ordering::Greater => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Takes a reply from behind its head to its end, and returns the position there.
    fn reply(&mut self, head: &Head, from: Position) -> Outcome<Position> {
        let shared = self.connection.shared;
        let (mut is_fork, mut block_bytes, mut messages) = (false, 0, 0);
        loop {
            let message = self.connection.receive(&self.peer)?;
            let mut collected = shared.collected.lock().unwrap();
            collected.heard = collected.heard.max(head.next.next);
            collected.check_stream(message.stream())?;
            match message {
                Message::Busy { .. } => continue,
                Message::End { at, .. } if is_fork && at == from => {
                    collected.statements.push(Statement::Fork { stream: head.stream, at });
                    shared.changed.notify_all();
                    return Err(End::Fork);
                }
                Message::End { at, .. } if !is_fork && at == collected.position => return Ok(at),
                Message::Fork { at, .. } if messages == 0 && at == from => is_fork = true,
                Message::Gap(gap) if !is_fork => collected.lose(gap, head, messages == 0)?,
                Message::Block(block) if !is_fork => {
                    let is_first = block_bytes == 0;
                    block_bytes += block.bytes.len();
                    if !is_first && block_bytes > CREDIT_BYTES as usize {
                        return breach(format!("{block_bytes} bytes of blocks for {CREDIT_BYTES}"));
                    }
                    collected.replayed += u64::from(block.count);
                    collected.take(block)?;
                }
                other => return breach(format!("in a reply from {from:?} at {:?}: {other:?}", collected.position)),
            }
            messages += 1;
            shared.changed.notify_all();
        }
    }
}

impl Collected {
    fn meet(&mut self, head: &Head) {
        if let Some(stream) = self.stream {
            let (by, from) = (head.stream, head.oldest);
            let heard = self.heard.max(self.position.next);
            self.statements.push(Statement::Replaced { stream, at: self.position, heard, by, from });
        }
        self.stream = Some(head.stream);
        (self.base, self.position) = (head.oldest, head.oldest);
        (self.heard, self.last_time_ns) = (head.next.next, None);
        self.stream_begins_at = self.blocks.len();
    }

    fn check_stream(&self, stream: Stream) -> Outcome<()> {
        if self.stream == Some(stream) { Ok(()) } else { Err(End::Lost("another stream".to_owned())) }
    }

    /// Appends a block, which must be the next one.
    fn take(&mut self, block: Block) -> Outcome<()> {
        if block.start() != self.position {
            return breach(format!("block {:?} does not follow {:?}", block.start(), self.position));
        }
        if self.last_time_ns.is_some_and(|last| block.base_time_ns < last) {
            return breach(format!("block {:?} goes back in time, from {:?}", block.start(), self.last_time_ns));
        }
        (self.position, self.last_time_ns) = (block.end(), Some(block.last_time_ns));
        self.blocks.push(block);
        Ok(())
    }

    /// A block that is behind us must be the one that we have, if we have one there.
    fn check_past(&self, block: &Block) -> Outcome<()> {
        let blocks = &self.blocks[self.stream_begins_at..];
        let is_known = match blocks.binary_search_by_key(&block.first, |known| known.first) {
            Ok(index) => blocks[index] == *block,
            Err(_) => block.end().next <= self.base.next || self.is_lost(block),
        };
        if is_known { Ok(()) } else { breach(format!("{:?} on the feed again, and not the same", block.start())) }
    }

    fn is_lost(&self, block: &Block) -> bool {
        self.statements.iter().any(|statement| {
            matches!(statement, Statement::Lost { stream, from, to, .. }
                if *stream == block.stream && *from <= block.first && block.end().next <= *to)
        })
    }

    fn lose(&mut self, gap: Gap, head: &Head, is_first: bool) -> Outcome<()> {
        // Retention may have gone on behind the head.
        let is_to_oldest = gap.to == head.oldest || gap.to.next > head.oldest.next;
        let is_in_place = gap.reason == Reason::Damage || (is_first && is_to_oldest);
        if gap.from != self.position.next || !is_in_place {
            return breach(format!("{gap:?} at {:?} with {head:?}", self.position));
        }
        let Gap { stream, from, to, reason } = gap;
        self.statements.push(Statement::Lost { stream, from, to: to.next, reason });
        self.position = to;
        Ok(())
    }
}
