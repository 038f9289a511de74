//! What must be true, judged from what each publisher's journal holds and held.
//!
//! It shares nothing with the cursor but the types. It looks at each statement when it is made, with
//! the journal of the process that the source is connected to in view, and at the whole when all has
//! come to rest.

use crate::World;
use crate::publisher::{Place, Publisher};
use crate::subscriber::{Source, Status};
use crate::writer::Entry;
use feed::{Block, FirstContact, Gap, GapReason, Message, Position, StreamId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the log says of a stream, record by record.
struct Log {
    at: Position,
    base: u64,
    /// Of the history that it follows.
    boundaries: Vec<Position>,
    records: BTreeMap<u64, Vec<u8>>,
    lost: BTreeSet<u64>,
    /// Before this, log and publisher had nothing in common that could be known.
    comparable_from: u64,
}

pub struct Oracle {
    first_contact: FirstContact,
    logs: HashMap<StreamId, Log>,
    current: HashMap<usize, StreamId>,
    homes: HashMap<StreamId, usize>,
    /// By source and stream: the highest next that was delivered.
    heard: HashMap<(usize, StreamId), u64>,
    /// By source: the next of the last head of a reply.
    replied: HashMap<usize, u64>,
}

fn contents(block: &Block) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
    block.records().map(|record| (record.sequence, record.body.to_vec()))
}

impl Publisher {
    fn has(&self, at: Position) -> bool {
        (0..=self.journal.slots.len()).any(|slot| self.journal.before(slot) == at)
    }

    /// Where its journal began and ended, at any time since `since`.
    fn bounds(&self, since: u64) -> impl Iterator<Item = (Position, Position)> + '_ {
        let first = self.past.iter().rposition(|(at, ..)| *at <= since).unwrap_or(0);
        let now = (self.journal.oldest(), self.journal.next());
        self.past[first..].iter().map(|(_, oldest, next)| (*oldest, *next)).chain([now])
    }
}

impl Oracle {
    pub fn new(first_contact: FirstContact) -> Self {
        Self {
            first_contact,
            logs: HashMap::new(),
            current: HashMap::new(),
            homes: HashMap::new(),
            heard: HashMap::new(),
            replied: HashMap::new(),
        }
    }

    pub fn hear(&mut self, source: usize, message: &Message, is_reply: bool) {
        let next = match message {
            Message::Head(head) => head.next.next,
            Message::Block(block) => block.end().next,
            _ => return,
        };
        let heard = self.heard.entry((source, message.stream())).or_default();
        *heard = next.max(*heard);
        if let (true, Message::Head(_)) = (is_reply, message) {
            self.replied.insert(source, next);
        }
    }

    /// The publisher goes another way: what was heard of the old one counts no more.
    pub fn turn(&mut self, source: usize, stream: StreamId) {
        self.heard.insert((source, stream), self.replied[&source]);
    }

    /// The subscriber's memory is gone, and what it had not synced of its last blocks.
    pub fn restart(&mut self, cut: &[(usize, Entry)]) {
        self.heard.clear();
        for (_, entry) in cut.iter().rev() {
            let Entry::Block(block) = entry else { panic!("only blocks are not synced") };
            let log = self.logs.get_mut(&block.head().stream).unwrap();
            assert_eq!(log.boundaries.pop(), Some(block.end()));
            log.at = block.start();
            contents(block).for_each(|(sequence, _)| assert!(log.records.remove(&sequence).is_some()));
        }
    }

    pub fn check(&mut self, source: &Source, entry: &Entry, publishers: &[Publisher]) -> Option<&'static str> {
        let replay = source.dealer.as_ref().map(|dealer| &publishers[dealer.publisher]);
        match entry {
            Entry::Block(block) => {
                let feed = source.sub.as_ref().map(|sub| &publishers[sub.publisher]);
                let mut slots = feed.iter().chain(&replay).flat_map(|publisher| &publisher.journal.slots);
                assert!(slots.any(|slot| slot.block == *block), "a block that its publisher never had");
                self.append(block);
                None
            }
            Entry::Lost(gap) => self.lost(gap, replay.unwrap()),
            Entry::Forked { stream, from, at } => {
                assert_eq!(self.homes[stream], source.index, "a fork is followed at the stream's home only");
                let publisher = replay.unwrap();
                self.forked(*stream, *from, *at, publisher, source.opened_at);
                None
            }
            Entry::Base { stream, at } => {
                assert_eq!(self.current.get(&source.index), None, "a base where there was a stream");
                let begins = |(oldest, next)| match self.first_contact {
                    FirstContact::Earliest => oldest == *at,
                    FirstContact::Latest => next == *at,
                };
                assert!(replay.unwrap().bounds(source.opened_at).any(begins), "a base that is none: {at:?}");
                assert!(!self.logs.contains_key(stream), "a base for a stream that had one");
                self.begin(source.index, *stream, *at);
                None
            }
            Entry::Replaced { old, at, heard, stream, base } => {
                assert_eq!(self.current.get(&source.index), Some(old), "replaced is not what was there");
                assert_eq!(self.logs[old].at, *at, "replaced at another position");
                let known = self.heard.get(&(source.index, *old)).copied().unwrap_or(0);
                let lost = |heard: u64| heard.saturating_sub(at.next);
                assert_eq!(lost(*heard), lost(known), "the loss of what was replaced");
                match self.logs.get(stream) {
                    Some(log) => assert_eq!(log.at, *base, "a stream that came back goes on"),
                    None => {
                        let mut bounds = replay.unwrap().bounds(source.opened_at);
                        assert!(bounds.any(|(oldest, _)| oldest == *base), "a new stream begins at its oldest");
                    }
                }
                self.begin(source.index, *stream, *base);
                None
            }
        }
    }

    fn begin(&mut self, source: usize, stream: StreamId, at: Position) {
        self.current.insert(source, stream);
        self.homes.entry(stream).or_insert(source);
        self.heard.insert((source, stream), self.replied[&source]);
        self.logs.entry(stream).or_insert_with(|| Log {
            at,
            base: at.next,
            boundaries: vec![at],
            records: BTreeMap::new(),
            lost: BTreeSet::new(),
            comparable_from: at.next,
        });
    }

    fn append(&mut self, block: &Block) {
        let log = self.logs.get_mut(&block.head().stream).expect("a stream has a base before all else");
        assert_eq!(log.at, block.start(), "a block that is not the next one");
        for (sequence, content) in contents(block) {
            assert!(!log.lost.contains(&sequence), "{sequence} was stated lost");
            assert_eq!(log.records.insert(sequence, content), None, "{sequence} written twice");
        }
        log.at = block.end();
        log.boundaries.push(log.at);
    }

    fn lost(&mut self, gap: &Gap, publisher: &Publisher) -> Option<&'static str> {
        let log = self.logs.get_mut(&gap.stream).unwrap();
        assert_eq!(log.at.next, gap.from, "a loss that begins elsewhere");
        assert!(publisher.has(gap.to), "a loss that ends nowhere");
        for (index, slot) in publisher.journal.slots.iter().enumerate() {
            if slot.block.end().next > gap.from && slot.block.start().next < gap.to.next {
                let is_real = match gap.reason {
                    GapReason::Retention => index < publisher.journal.kept,
                    GapReason::Damage => slot.damaged,
                };
                assert!(is_real, "a loss of what can be had: {gap:?}");
            }
        }
        let is_unjudged = !publisher.has(log.at);
        if is_unjudged {
            log.comparable_from = gap.to.next;
        }
        log.lost.extend(gap.from..gap.to.next);
        log.at = gap.to;
        log.boundaries.push(gap.to);
        is_unjudged.then_some("lost, and what was before could not be judged")
    }

    fn forked(&mut self, stream: StreamId, from: Position, at: Position, publisher: &Publisher, since: u64) {
        let log = self.logs.get_mut(&stream).unwrap();
        assert_eq!(log.at, from, "a fork from another position");
        assert!(!publisher.has(from), "a fork from a position that is the publisher's");
        let mut common = log.boundaries.iter().filter(|at| at.next < from.next && publisher.has(**at));
        let is_common = common.clone().any(|common| *common == at);
        assert!(is_common || publisher.bounds(since).any(|(oldest, _)| oldest == at), "a fork to nowhere: {at:?}");
        // What retention has passed meanwhile, or what is damaged, cannot be judged: there the search may end earlier.
        let oldest = publisher.journal.oldest().next;
        let is_damaged = publisher.journal.slots.iter().any(|slot| slot.damaged);
        let later = common.find(|common| common.next >= oldest && (!is_common || common.next > at.next));
        assert!(
            later.is_none() || is_damaged || at.next < log.comparable_from,
            "a fork at {at:?}, but {later:?} is common"
        );
        assert!(at.next <= from.next);
        if !log.boundaries.contains(&at) {
            log.comparable_from = at.next;
        }
        log.comparable_from = log.comparable_from.min(at.next);
        log.boundaries.retain(|boundary| boundary.next < at.next);
        log.boundaries.push(at);
        log.records.split_off(&at.next);
        log.lost.split_off(&at.next);
        log.at = at;
    }

    /// All has come to rest: what each source does, and what the log has of each stream.
    pub fn finish(&self, sources: &[Source], world: &World) {
        for source in sources {
            let address = &world.addresses[source.index];
            let Some(publisher) = address.feed.filter(|_| world.now >= address.down_until) else { continue };
            let (index, publisher) = (source.index, &world.publishers[publisher]);
            let stream = publisher.journal.stream;
            let log = self.logs.get(&stream).unwrap_or_else(|| panic!("nothing of source {index}"));
            let home = world.writer.home(stream).unwrap();
            let at_home = world.addresses[home].feed.filter(|_| world.now >= world.addresses[home].down_until);
            let is_home_serving = at_home.is_some_and(|home| world.publishers[home].journal.stream == stream);
            let expected = match publisher.journal.place(log.at) {
                _ if home == index => Status::Reading,
                Place::NotOurs => Status::Forked,
                // Among what is damaged it may be refused or not.
                Place::Missing(Gap { reason: GapReason::Damage, .. }) => continue,
                _ if is_home_serving => Status::Parked,
                _ => Status::Reading,
            };
            assert_eq!(source.status, expected, "source {index}");
            if expected == Status::Reading {
                log.compare(publisher);
            }
        }
    }
}

impl Log {
    /// Every record of the publisher's history once, or stated lost.
    fn compare(&self, publisher: &Publisher) {
        assert_eq!(self.at, publisher.journal.next(), "the log has not caught up");
        let held: BTreeMap<u64, Vec<u8>> =
            publisher.journal.slots.iter().flat_map(|slot| contents(&slot.block).collect::<Vec<_>>()).collect();
        for sequence in self.comparable_from.max(self.base)..self.at.next {
            match self.records.get(&sequence) {
                Some(content) => assert_eq!(content, &held[&sequence], "another record {sequence}"),
                None => assert!(self.lost.contains(&sequence), "{sequence} is missing and not stated"),
            }
        }
        assert!(self.records.range(self.at.next..).next().is_none());
    }
}
