//! The network: messages take their time, in order; connections break, and stall.

use crate::publisher::{Publisher, Reply};
use crate::random::Random;
use feed::{Fetch, Message};
use std::collections::VecDeque;

/// What arrives.
#[derive(Clone)]
pub enum Frame {
    Message(Message),
    /// Of a version that is not known.
    Newer,
    /// No message at all.
    Garbage,
}

/// One way of a connection.
pub struct Way<T>(VecDeque<(u64, T)>);

impl<T> Way<T> {
    pub fn new() -> Self {
        Self(VecDeque::new())
    }

    pub fn send(&mut self, item: T, now: u64, random: &mut Random) {
        let delay = if random.permille(50) { random.within(1..12) } else { random.within(0..2) };
        let after = self.0.back().map_or(0, |(at, _)| *at);
        self.0.push_back((after.max(now + delay), item));
    }

    pub fn receive(&mut self, now: u64) -> Option<T> {
        if self.0.front()?.0 > now {
            return None;
        }
        self.0.pop_front().map(|(_, item)| item)
    }
}

/// A subscriber's SUB, connected to a process of a publisher.
pub struct Sub {
    pub publisher: usize,
    pub process: u64,
    /// The subscription is not known to the publisher before.
    pub joined_at: u64,
    pub down: Way<Frame>,
}

/// A subscriber's DEALER.
pub struct Dealer {
    pub publisher: usize,
    pub process: u64,
    pub up: Way<Fetch>,
    pub down: Way<Frame>,
    reply: Option<Reply>,
}

impl Dealer {
    pub fn new(publisher: usize, process: u64) -> Self {
        Self { publisher, process, up: Way::new(), down: Way::new(), reply: None }
    }

    /// The publisher's side: takes a request, or says the next message of the reply.
    pub fn serve(&mut self, publisher: &Publisher, now: u64, random: &mut Random) {
        for _ in 0..random.within(1..4) {
            if let Some(fetch) = self.up.receive(now) {
                assert!(self.reply.is_none(), "a fetch was sent before the end of the reply to the last one");
                self.reply = Some(Reply::new(fetch, random));
            }
            let Some(reply) = &mut self.reply else { return };
            let (message, is_last) = reply.message(publisher, now < publisher.faulty_until && random.permille(500));
            if is_last {
                self.reply = None;
            }
            self.down.send(Frame::of(message, publisher, now), now, random);
        }
    }
}

impl Frame {
    pub fn of(message: Message, publisher: &Publisher, now: u64) -> Self {
        if now < publisher.upgraded_until { Self::Newer } else { Self::Message(message) }
    }
}

/// Where an address leads, and how well.
pub struct Address {
    pub feed: Option<usize>,
    pub replay: Option<usize>,
    pub stalled_until: u64,
    pub down_until: u64,
}

impl Address {
    pub fn new(publisher: Option<usize>) -> Self {
        Self { feed: publisher, replay: publisher, stalled_until: 0, down_until: 0 }
    }
}
