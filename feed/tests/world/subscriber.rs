//! The thinnest shell around a cursor that keeps its part of the contract.

use crate::network::{Dealer, Frame, Sub, Way};
use crate::writer::Entry;
use crate::{SECOND, SILENCE, World};
use feed::cursor::{Answer, Fault, FeedSocket, Question, Refusal};
use feed::{Cursor, DecodeError, Fetch, FirstContact, Message, StreamId, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    New,
    Reading,
    Parked,
    Forked,
    Unknown,
}

enum Mode {
    Off { until: u64 },
    Feed,
    Replies,
    Parked { until: u64 },
}

/// What follows one address.
pub struct Source {
    pub index: usize,
    cursor: Cursor,
    pub sub: Option<Sub>,
    pub dealer: Option<Dealer>,
    mode: Mode,
    pub status: Status,
    heard_at: u64,
    pub opened_at: u64,
    /// Until then the writer takes nothing.
    pub slow_until: u64,
    slow_since: Option<u64>,
    /// The stream that the writer takes from here, as far as is known.
    serves: Option<StreamId>,
}

impl Source {
    pub fn new(index: usize, first_contact: FirstContact, now: u64) -> Self {
        Self {
            index,
            cursor: Cursor::new(first_contact),
            sub: None,
            dealer: None,
            mode: Mode::Off { until: now },
            status: Status::New,
            heard_at: now,
            opened_at: now,
            slow_until: 0,
            slow_since: None,
            serves: None,
        }
    }

    /// Its sockets are closed from outside.
    pub fn reset(&mut self, until: u64) {
        (self.sub, self.dealer, self.slow_since, self.serves) = (None, None, None, None);
        self.mode = Mode::Off { until };
    }

    fn drop_sockets(&mut self, world: &mut World) {
        self.reset(world.now + world.random.within(1..8));
    }

    fn is_broken(&self, world: &World) -> bool {
        let gone = |publisher: usize, process| {
            !world.publishers[publisher].running || world.publishers[publisher].process != process
        };
        world.now < world.addresses[self.index].down_until
            || self.sub.as_ref().is_some_and(|sub| gone(sub.publisher, sub.process))
            || self.dealer.as_ref().is_some_and(|dealer| gone(dealer.publisher, dealer.process))
    }

    pub fn step(&mut self, world: &mut World) {
        if let Mode::Off { until } = self.mode {
            if world.now >= until {
                (self.heard_at, self.opened_at) = (world.now, world.now);
                let verdict = self.cursor.start();
                self.follow(verdict, world);
            }
            return;
        }
        if self.is_broken(world) || world.now - self.heard_at > SILENCE {
            world.count(if self.is_broken(world) { "disconnected" } else { "silent" });
            return self.drop_sockets(world);
        }
        // The news that another address has the claim takes a while, or a block that is refused brings it.
        if self.serves.is_some_and(|stream| !world.writer.owns(self.index, stream)) && world.random.permille(200) {
            world.count("displaced");
            return self.drop_sockets(world);
        }
        if world.now < self.slow_until {
            self.heard_at = world.now;
            let since = *self.slow_since.get_or_insert(world.now);
            if matches!(self.mode, Mode::Feed) && world.now - since >= SECOND {
                self.sub = None;
            }
            return;
        }
        self.slow_since = None;
        if world.now < world.addresses[self.index].stalled_until {
            return;
        }
        if matches!(self.mode, Mode::Feed) && self.sub.is_none() {
            let verdict = self.cursor.fell_behind();
            self.follow(verdict, world);
        }
        self.read(world);
    }

    /// Takes some of what has arrived where the last verdict said to read.
    fn read(&mut self, world: &mut World) {
        for _ in 0..world.random.within(1..6) {
            let frame = match self.mode {
                Mode::Off { .. } => return,
                Mode::Parked { until } if world.now < until => return,
                Mode::Parked { .. } => {
                    self.heard_at = world.now;
                    let verdict = self.cursor.again();
                    self.follow(verdict, world);
                    continue;
                }
                Mode::Feed => self.sub.as_mut().and_then(|sub| sub.down.receive(world.now)),
                Mode::Replies => self.dealer.as_mut().and_then(|dealer| dealer.down.receive(world.now)),
            };
            let Some(frame) = frame else { return };
            self.heard_at = world.now;
            world.writer.heard(self.index, world.now);
            let verdict = match &frame {
                Frame::Newer => self.cursor.undecodable(DecodeError::Version { kind: "head", version: b'2' }),
                Frame::Garbage => self.cursor.undecodable(DecodeError::Short(3)),
                Frame::Message(message) => {
                    let is_reply = matches!(self.mode, Mode::Replies);
                    let verdict = if is_reply { self.cursor.reply(message) } else { self.cursor.feed(message) };
                    // Not heard is what another publisher says of a stream, and a block before any head.
                    let is_early = matches!((message, verdict), (Message::Block(_), Verdict::Ignore));
                    if !is_early && !matches!(verdict, Verdict::Reconnect(Fault::Streams { .. })) {
                        world.oracle.hear(self.index, message, is_reply);
                    }
                    verdict
                }
            };
            let block = if let Frame::Message(Message::Block(block)) = frame { Some(block) } else { None };
            if verdict == Verdict::Append {
                world.count("Append");
                self.write(Entry::Block(block.expect("append is said of a block")), world);
            } else {
                self.follow(verdict, world);
            }
        }
    }

    fn follow(&mut self, mut verdict: Verdict, world: &mut World) {
        while let Verdict::Ask(question) = verdict {
            world.count("Ask");
            verdict = self.cursor.answer(match question {
                Question::Claim(stream) => {
                    let claim = world.writer.claim(self.index, stream, world.now);
                    self.serves = claim.granted.then_some(stream);
                    Answer::Claim(claim)
                }
                Question::Boundary { stream, at_most } => Answer::Boundary(world.writer.boundary(stream, at_most)),
            });
        }
        match verdict {
            Verdict::Append | Verdict::Ask(_) => unreachable!("done before"),
            Verdict::Ignore => world.count("Ignore"),
            Verdict::Fetch { fetch, feed } => {
                world.count(if feed == FeedSocket::Keep { "Fetch, feed kept" } else { "Fetch, feed closed" });
                if feed == FeedSocket::Close {
                    self.sub = None;
                }
                self.send(fetch, world);
            }
            Verdict::Read => {
                world.count("Read");
                if matches!(self.mode, Mode::Replies) {
                    self.status = Status::Reading;
                }
                self.open_feed(world);
            }
            Verdict::Park => {
                world.count("Park");
                self.status = Status::Parked;
                self.sub = None;
                self.mode = Mode::Parked { until: world.now + SECOND };
            }
            Verdict::Base { stream, at } => {
                world.count("Base");
                self.write(Entry::Base { stream, at }, world);
            }
            Verdict::Lost(gap) => {
                world.count(if gap.reason == feed::GapReason::Damage { "Lost, damage" } else { "Lost, retention" });
                self.write(Entry::Lost(gap), world);
            }
            Verdict::Forked { stream, from, at, fetch } => {
                world.count("Forked");
                world.oracle.turn(self.index, stream);
                if self.write(Entry::Forked { stream, from, at }, world) {
                    self.send(fetch, world);
                }
            }
            Verdict::Replaced { old, heard, stream, base } => {
                world.count("Replaced");
                let at = world.writer.position(old);
                self.write(Entry::Replaced { old, at, heard, stream, base }, world);
            }
            Verdict::Refuse(refusal) => {
                let is_fork = matches!(refusal, Refusal::Fork { .. });
                world.count(if is_fork { "Refuse, fork" } else { "Refuse, version" });
                self.status = if is_fork { Status::Forked } else { Status::Unknown };
                world.writer.release(self.index);
                self.drop_sockets(world);
            }
            Verdict::Reconnect(fault) => {
                world.count(match fault {
                    Fault::Streams { .. } => "Streams",
                    Fault::Undecodable(_) => "Undecodable",
                    Fault::NoProgress(_) => "NoProgress",
                    Fault::Unexpected(_) => "Unexpected",
                });
                self.drop_sockets(world);
            }
        }
    }

    /// Hands an entry to the writer; he takes it only from who serves the stream.
    fn write(&mut self, entry: Entry, world: &mut World) -> bool {
        let is_owner = world.writer.owns(self.index, entry.stream());
        if is_owner {
            world.check(self, &entry);
            world.writer.append(self.index, entry);
        } else {
            world.count("refused by the writer");
            self.drop_sockets(world);
        }
        is_owner
    }

    fn send(&mut self, fetch: Fetch, world: &mut World) {
        // The wait begins now.
        self.heard_at = world.now;
        self.mode = Mode::Replies;
        if self.dealer.is_none() {
            let replay = world.addresses[self.index].replay.filter(|publisher| world.publishers[*publisher].running);
            let Some(publisher) = replay else { return self.drop_sockets(world) };
            self.dealer = Some(Dealer::new(publisher, world.publishers[publisher].process));
        }
        if let Some(dealer) = &mut self.dealer {
            dealer.up.send(fetch, world.now, &mut world.random);
        }
    }

    fn open_feed(&mut self, world: &mut World) {
        self.mode = Mode::Feed;
        self.heard_at = world.now;
        if self.sub.is_some() {
            return;
        }
        let address = &world.addresses[self.index];
        let feed =
            address.feed.filter(|publisher| world.publishers[*publisher].running && world.now >= address.down_until);
        let Some(publisher) = feed else { return self.drop_sockets(world) };
        let joined_at = world.now + world.random.within(0..3);
        let process = world.publishers[publisher].process;
        self.sub = Some(Sub { publisher, process, joined_at, down: Way::new() });
    }
}
