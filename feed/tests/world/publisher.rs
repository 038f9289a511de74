//! A publisher: its journal, its feed, and how it answers a fetch.

use crate::random::Random;
use feed::{Block, BlockBuilder, Busy, End, Fetch, Fork, Gap, GapReason, Head, Message, Position, StreamId};

/// Every block that a history ever had; the ones that retention removed too, for who must know.
#[derive(Clone)]
pub struct Journal {
    pub stream: StreamId,
    pub slots: Vec<Slot>,
    /// Those before this index are no more.
    pub kept: usize,
}

#[derive(Clone)]
pub struct Slot {
    pub block: Block,
    pub damaged: bool,
}

/// What a publisher can say of a position.
pub enum Place {
    /// In front of this slot.
    Before(usize),
    /// Among what is no more: it cannot be judged.
    Missing(Gap),
    NotOurs,
}

impl Journal {
    pub fn new(stream: StreamId) -> Self {
        Self { stream, slots: Vec::new(), kept: 0 }
    }

    /// The position in front of a slot, or behind the last.
    pub fn before(&self, slot: usize) -> Position {
        match self.slots.get(slot) {
            Some(slot) => slot.block.start(),
            None => self.slots.last().map_or(Position::default(), |slot| slot.block.end()),
        }
    }

    pub fn oldest(&self) -> Position {
        self.before(self.kept)
    }

    pub fn next(&self) -> Position {
        self.before(self.slots.len())
    }

    /// A block whose content nobody else ever writes.
    pub fn append(&mut self, content: &mut u64, random: &mut Random) -> Block {
        let mut builder = BlockBuilder::new();
        for _ in 0..random.within(1..5) {
            *content += 1;
            builder.push(0, "t", &content.to_le_bytes()).unwrap();
        }
        let block = builder.finish(self.stream, self.next()).unwrap();
        self.slots.push(Slot { block: block.clone(), damaged: false });
        block
    }

    /// Where the damage ends that a slot is in.
    fn behind_damage(&self, slot: usize) -> Position {
        let whole = (slot..self.slots.len()).find(|slot| !self.slots[*slot].damaged);
        self.before(whole.unwrap_or(self.slots.len()))
    }

    pub fn place(&self, at: Position) -> Place {
        let gap = |to, reason| Place::Missing(Gap { stream: self.stream, from: at.next, to, reason });
        if at.next < self.oldest().next {
            return gap(self.oldest(), GapReason::Retention);
        }
        let Some(slot) = (self.kept..=self.slots.len()).find(|slot| self.before(*slot).next >= at.next) else {
            return Place::NotOurs;
        };
        let damaged = |slot: usize| self.slots.get(slot).is_some_and(|slot| slot.damaged);
        let known = slot == self.kept || !damaged(slot - 1) || !damaged(slot);
        if self.before(slot).next != at.next {
            if damaged(slot - 1) { gap(self.behind_damage(slot - 1), GapReason::Damage) } else { Place::NotOurs }
        } else if !known {
            gap(self.behind_damage(slot), GapReason::Damage)
        } else if self.before(slot) == at {
            Place::Before(slot)
        } else {
            Place::NotOurs
        }
    }
}

pub struct Publisher {
    pub name: String,
    pub journal: Journal,
    pub running: bool,
    /// An earlier copy of the journal.
    pub copy: Option<Journal>,
    /// Until then blocks are withheld from the feed: its memory bound is reached.
    pub withholds_until: u64,
    /// Until then everything is of a version that nobody knows yet.
    pub upgraded_until: u64,
    /// Until then gaps are sent that begin elsewhere, and blocks that are not the stream's.
    pub faulty_until: u64,
    /// Counts its processes: a connection does not outlive one.
    pub process: u64,
    /// Every state of the journal, and since when: for the oracle.
    pub past: Vec<(u64, Position, Position)>,
}

impl Publisher {
    pub fn new(name: &str, journal: Journal) -> Self {
        Self {
            name: name.to_owned(),
            journal,
            running: true,
            copy: None,
            withholds_until: 0,
            upgraded_until: 0,
            faulty_until: 0,
            process: 0,
            past: Vec::new(),
        }
    }

    pub fn head(&self) -> Message {
        Message::Head(Head {
            stream: self.journal.stream,
            oldest: self.journal.oldest(),
            next: self.journal.next(),
            name: self.name.clone(),
            replay: "127.0.0.1:4446".to_owned(),
        })
    }
}

/// A reply under way: one message at a time, so that anything may happen between two of them.
pub struct Reply {
    fetch: Fetch,
    stage: Stage,
    at: Position,
    credit_bytes_max: u64,
    credit_bytes: u64,
}

enum Stage {
    Wait(u64),
    Fork,
    Gap(Gap),
    Blocks,
    End,
}

impl Reply {
    pub fn new(fetch: Fetch, random: &mut Random) -> Self {
        let busy = if random.permille(100) { random.within(1..4) } else { 0 };
        let credit_bytes_max = random.within(1..400);
        let credit_bytes = u64::from(fetch.credit_bytes).min(credit_bytes_max);
        Self { fetch, stage: Stage::Wait(busy), at: fetch.from, credit_bytes_max, credit_bytes }
    }

    /// The next message, and whether it is the last one.
    pub fn message(&mut self, publisher: &Publisher, is_faulty: bool) -> (Message, bool) {
        let (journal, stream) = (&publisher.journal, publisher.journal.stream);
        match self.stage {
            Stage::Wait(left) if left > 0 => {
                self.stage = Stage::Wait(left - 1);
                return (Message::Busy(Busy { stream }), false);
            }
            Stage::Wait(_) => {
                // Head and judgement are of one moment; what follows may be of a later one.
                self.stage = if self.fetch.stream == stream { self.judge(journal) } else { Stage::End };
                return (publisher.head(), false);
            }
            Stage::Fork => {
                self.stage = Stage::End;
                return (Message::Fork(Fork { stream, from: self.at }), false);
            }
            Stage::Gap(gap) => {
                self.stage = Stage::End;
                return (Message::Gap(gap), false);
            }
            Stage::Blocks | Stage::End => {}
        }
        if matches!(self.stage, Stage::Blocks)
            && let Some(message) = self.content(journal, is_faulty)
        {
            return (message, false);
        }
        (Message::End(End { stream, at: self.at }), true)
    }

    /// What comes behind the head.
    fn judge(&self, journal: &Journal) -> Stage {
        let is_probe = self.fetch.credit_bytes == 0;
        match journal.place(self.at) {
            Place::NotOurs => Stage::Fork,
            // What a probe among damage is told is left open: both have to do.
            Place::Missing(gap) if is_probe && gap.reason == GapReason::Damage => {
                if self.credit_bytes_max.is_multiple_of(2) { Stage::Fork } else { Stage::Gap(gap) }
            }
            _ if is_probe => Stage::End,
            _ => Stage::Blocks,
        }
    }

    /// The next block or gap, as far as the credit goes.
    fn content(&mut self, journal: &Journal, is_faulty: bool) -> Option<Message> {
        if self.credit_bytes == 0 {
            return None;
        }
        let gap = match journal.place(self.at) {
            Place::Before(slot) if slot == journal.slots.len() => return None,
            _ if is_faulty => {
                self.credit_bytes = 0;
                let to = Position { next: self.at.next + 3, previous: 1 };
                return Some(Message::Gap(Gap {
                    stream: journal.stream,
                    from: self.at.next + 1,
                    to,
                    reason: GapReason::Damage,
                }));
            }
            Place::Before(slot) if !journal.slots[slot].damaged => {
                let block = journal.slots[slot].block.clone();
                self.at = block.end();
                self.credit_bytes = self.credit_bytes.saturating_sub(block.bytes().len() as u64);
                return Some(Message::Block(block));
            }
            Place::Before(slot) => Gap {
                stream: journal.stream,
                from: self.at.next,
                to: journal.behind_damage(slot),
                reason: GapReason::Damage,
            },
            Place::Missing(gap) => gap,
            Place::NotOurs => unreachable!("a position was judged, and histories do not change within a process"),
        };
        self.at = gap.to;
        Some(Message::Gap(gap))
    }
}
