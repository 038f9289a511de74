//! What the messages of a reply lead to, by what the fetch was for.
//!
//! `None` stands for a message that has no place there.

use super::{Bounds, CREDIT_BYTES, Cursor, Fault, FeedSocket, FirstContact, REPLIES_MAX, Refusal};
use super::{Reply, Search, State, Verdict, bounds};
use crate::cursor::verdict::Question;
use crate::{Fork, Gap, Head, Message, Position, StreamId};

impl Cursor {
    pub(super) fn greeting(
        &mut self,
        known: Option<Position>,
        had: Option<StreamId>,
        mut reply: Reply,
        message: &Message,
    ) -> Option<Verdict> {
        match message {
            Message::Head(head) if reply.head.is_none() => {
                reply.head = Some(bounds(head));
                self.state = State::Greeting { known, had, reply };
                Some(self.begin(known, had, head))
            }
            Message::Gap(_) | Message::Fork(_) if reply.head.is_some() => Some(Verdict::Ignore),
            Message::End(_) if reply.head.is_some() => Some(self.fetch(FeedSocket::Close, 1)),
            _ => None,
        }
    }

    /// The log's position in a stream that this address did not have before.
    fn begin(&mut self, known: Option<Position>, had: Option<StreamId>, head: &Head) -> Verdict {
        let stream = self.stream;
        self.home = true;
        let verdict = match had {
            None => {
                self.position = match self.first_contact {
                    FirstContact::Earliest => head.oldest,
                    FirstContact::Latest => head.next,
                };
                Verdict::Base { stream, at: self.position }
            }
            Some(old) => {
                self.position = known.unwrap_or(head.oldest);
                self.replaced = self.heard.filter(|(stream, _)| *stream == old);
                let heard = self.replaced.map_or(0, |(_, next)| next);
                Verdict::Replaced { old, heard, stream, base: self.position }
            }
        };
        self.heard = Some((stream, head.next.next));
        verdict
    }

    pub(super) fn fetching(
        &mut self,
        from: Position,
        count: u32,
        mut reply: Reply,
        message: &Message,
    ) -> Option<Verdict> {
        let verdict = match (message, reply.head) {
            (Message::Head(head), None) => {
                reply.head = Some(bounds(head));
                Verdict::Ignore
            }
            (Message::End(_), Some(head)) => return Some(self.fetched(from, count, head, reply.forked)),
            // A fork stands in place of blocks, never beside them.
            _ if reply.forked => return None,
            (Message::Block(block), Some(_)) if block.start() == self.position => self.append(block),
            (Message::Block(block), Some(_)) if block.head().first < self.position.next => Verdict::Ignore,
            (Message::Gap(gap), Some(_)) => self.lose(gap),
            (Message::Fork(fork), Some(_)) if fork.from == from && from == self.position => {
                if !self.home {
                    return Some(self.refuse_fork(fork));
                }
                reply.forked = true;
                Verdict::Ignore
            }
            _ => return None,
        };
        self.state = State::Fetching { from, count, reply };
        Some(verdict)
    }

    /// A reply to a fetch with credit has ended.
    fn fetched(&mut self, from: Position, count: u32, head: Bounds, forked: bool) -> Verdict {
        if forked {
            return self.seek(Search::new(self.position, head.oldest), head);
        }
        let moved = self.position != from;
        if self.position == head.next || (moved && self.position.next > head.next.next) {
            self.state = State::Reading;
            Verdict::Read
        } else if moved && self.position.next < head.next.next {
            let feed = if count < REPLIES_MAX { FeedSocket::Keep } else { FeedSocket::Close };
            self.fetch(feed, count.saturating_add(1))
        } else {
            self.reconnect(Fault::NoProgress(self.position.next))
        }
    }

    /// The next step of a search, or what it has found.
    pub(super) fn seek(&mut self, search: Search, head: Bounds) -> Verdict {
        if let Some(middle) = search.middle() {
            self.state = State::Seeking { search, middle, probe: None, head };
            return Verdict::Ask(Question::Boundary { stream: self.stream, at_most: middle });
        }
        let from = self.position;
        let at = search.common().unwrap_or(head.oldest);
        if at.next > from.next {
            return self.fetch(FeedSocket::Close, 1);
        }
        if at == from {
            // It has denied a position that it then names.
            return self.reconnect(Fault::NoProgress(from.next));
        }
        self.position = at;
        self.heard = Some((self.stream, head.next.next));
        self.state = State::Fetching { from: at, count: 1, reply: Reply::default() };
        Verdict::Forked { stream: self.stream, from, at, fetch: self.request(at, CREDIT_BYTES) }
    }

    pub(super) fn probing(
        &mut self,
        mut search: Search,
        middle: u64,
        candidate: Position,
        mut reply: Reply,
        message: &Message,
    ) -> Option<Verdict> {
        match (message, reply.head) {
            (Message::Head(head), None) => reply.head = Some(bounds(head)),
            (Message::Fork(fork), Some(_)) if fork.from == candidate => reply.forked = true,
            // Among what is damaged: the publisher cannot tell, so it is not common.
            (Message::Gap(_), Some(_)) => reply.forked = true,
            (Message::End(_), Some(head)) => {
                search.judged(middle, candidate, reply.forked, head.oldest);
                return Some(self.seek(search, head));
            }
            _ => return None,
        }
        if let State::Seeking { probe, .. } = &mut self.state {
            *probe = Some((candidate, reply));
        }
        Some(Verdict::Ignore)
    }

    pub(super) fn parked(&mut self, mut head: Bounds, mut reply: Reply, message: &Message) -> Option<Verdict> {
        match (message, reply.head) {
            (Message::Head(now), None) => {
                head = bounds(now);
                reply.head = Some(head);
            }
            (Message::Gap(_), Some(_)) => {}
            (Message::Fork(fork), Some(_)) if fork.from == self.position => return Some(self.refuse_fork(fork)),
            (Message::End(_), Some(_)) => {
                self.state = State::Parked { head, reply: None };
                return Some(Verdict::Park);
            }
            _ => return None,
        }
        self.state = State::Parked { head, reply: Some(reply) };
        Some(Verdict::Ignore)
    }

    fn lose(&mut self, gap: &Gap) -> Verdict {
        if gap.from != self.position.next {
            return Verdict::Ignore;
        }
        self.position = gap.to;
        Verdict::Lost(*gap)
    }

    fn refuse_fork(&mut self, fork: &Fork) -> Verdict {
        self.refuse(Refusal::Fork { stream: fork.stream, at: fork.from })
    }
}
