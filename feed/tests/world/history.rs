//! One history: what happens to publishers, network and subscriber, and then a quiet phase.

use crate::network::{Address, Frame};
use crate::oracle::Oracle;
use crate::publisher::{Journal, Publisher};
use crate::random::Random;
use crate::subscriber::Source;
use crate::writer::{Entry, Writer};
use crate::{SECOND, World};
use feed::{BlockBuilder, FirstContact, Message, Position, StreamId};
use std::collections::BTreeMap;

/// Long enough for the longest silence, back-off and search, several times over.
const QUIET: u64 = 400;

/// Who is at the second address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    Nobody,
    /// The publisher of the first.
    Same,
    /// A clone of it, started at some time.
    Clone,
    Another,
}

pub struct History {
    world: World,
    sources: Vec<Source>,
    second: Second,
    first_contact: FirstContact,
    streams: u8,
    /// The subscriber is not running.
    away_until: u64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let first_contact = if random.permille(700) { FirstContact::Earliest } else { FirstContact::Latest };
        let second = match random.within(0..10) {
            0..5 => Second::Nobody,
            5..7 => Second::Same,
            7..9 => Second::Clone,
            _ => Second::Another,
        };
        let mut publishers = vec![Publisher::new("a", Journal::new(StreamId([1; 16])))];
        let mut addresses = vec![Address::new(Some(0))];
        match second {
            Second::Nobody => {}
            Second::Same => addresses.push(Address::new(Some(0))),
            Second::Clone => addresses.push(Address::new(None)),
            Second::Another => {
                publishers.push(Publisher::new("b", Journal::new(StreamId([2; 16]))));
                addresses.push(Address::new(Some(1)));
            }
        }
        let sources = (0..addresses.len()).map(|index| Source::new(index, first_contact, 0)).collect();
        let world = World {
            now: 0,
            random,
            publishers,
            addresses,
            writer: Writer::new(),
            oracle: Oracle::new(first_contact),
            counts: BTreeMap::new(),
            content: 0,
        };
        Self { world, sources, second, first_contact, streams: 2, away_until: 0 }
    }

    /// Runs it, and says how often what happened.
    pub fn run(mut self) -> BTreeMap<&'static str, u64> {
        let active = self.world.random.within(100..350);
        while self.world.now < active {
            self.happen();
            self.step(true);
        }
        self.calm();
        for _ in 0..QUIET {
            self.step(false);
        }
        self.world.oracle.finish(&self.sources, &self.world);
        let (entries, fetches) = (self.world.writer.entries.len(), self.world.counts.get("Fetch, feed kept").copied());
        for _ in 0..10 * SECOND {
            self.step(false);
        }
        assert_eq!(entries, self.world.writer.entries.len(), "an entry although nothing happens");
        assert_eq!(fetches, self.world.counts.get("Fetch, feed kept").copied(), "a fetch although nothing happens");
        self.world.oracle.finish(&self.sources, &self.world);
        let counts = self.world.counts;
        assert!(!counts.contains_key("Unexpected"), "no publisher here sends what has no place");
        let is_faulty = counts.contains_key("faulty");
        assert!(is_faulty || !counts.contains_key("NoProgress"), "a publisher without fault makes progress");
        counts
    }

    fn step(&mut self, is_active: bool) {
        let Self { world, sources, .. } = self;
        world.now += 1;
        for publisher in 0..world.publishers.len() {
            world.remember(publisher);
            if !world.publishers[publisher].running {
                continue;
            }
            if is_active && world.random.permille(300) {
                publish(world, sources, publisher);
            }
            if world.now.is_multiple_of(SECOND) {
                let head = world.publishers[publisher].head();
                send(world, sources, publisher, &head, 0);
            }
        }
        for source in sources.iter_mut() {
            let is_stalled = world.now < world.addresses[source.index].stalled_until;
            if let Some(dealer) = source.dealer.as_mut().filter(|_| !is_stalled) {
                let publisher = &world.publishers[dealer.publisher];
                if publisher.running && publisher.process == dealer.process {
                    dealer.serve(publisher, world.now, &mut world.random);
                }
            }
        }
        if self.world.now >= self.away_until {
            for source in &mut self.sources {
                source.step(&mut self.world);
            }
        }
    }

    /// What may happen in a quarter of a second.
    fn happen(&mut self) {
        let sources = self.sources.len();
        let world = &mut self.world;
        let publisher = world.random.index(world.publishers.len());
        let source = world.random.index(sources);
        let until = world.now + world.random.within(1..40);
        let random = &mut world.random;
        let kind = random.within(0..400);
        let state = &mut world.publishers[publisher];
        let journal = &mut state.journal;
        let event = match kind {
            0..4 => {
                self.stop(publisher);
                "crashed"
            }
            4..8 => {
                state.copy = Some(state.journal.clone());
                "copied"
            }
            8..11 if state.copy.is_some() => {
                state.journal = state.copy.clone().unwrap();
                self.stop(publisher);
                "restored"
            }
            11..13 if !journal.slots.is_empty() => {
                journal.slots.pop();
                journal.kept = journal.kept.min(journal.slots.len());
                self.stop(publisher);
                "cut back"
            }
            13..15 if self.second != Second::Same => {
                self.streams += 1;
                state.journal = Journal::new(StreamId([self.streams; 16]));
                if sources > 1 {
                    state.copy = None;
                }
                self.stop(publisher);
                "wiped"
            }
            15..25 => {
                journal.kept += random.index(journal.slots.len() - journal.kept + 1);
                "retired"
            }
            25..27 => {
                journal.kept = journal.slots.len();
                "retired all"
            }
            27..31 if journal.kept < journal.slots.len() => {
                let first = journal.kept + random.index(journal.slots.len() - journal.kept);
                let count = random.within(1..4) as usize;
                journal.slots.iter_mut().skip(first).take(count).for_each(|slot| slot.damaged = true);
                "damaged"
            }
            31..37 => {
                state.withholds_until = until;
                "over budget"
            }
            37..39 => {
                state.upgraded_until = until;
                "upgraded"
            }
            39..42 => {
                state.faulty_until = until;
                "faulty"
            }
            42..50 => {
                world.addresses[source].stalled_until = until;
                "stalled"
            }
            50..56 => {
                world.addresses[source].down_until = world.now + 1;
                "cut"
            }
            56..58 => {
                world.addresses[source].down_until = world.now + random.within(1..80);
                "unreachable"
            }
            58..60 => {
                world.addresses[source].replay = Some(publisher);
                "misrouted"
            }
            60..66 => {
                world.addresses[source].replay = world.addresses[source].feed;
                "routed"
            }
            66..70 => {
                self.sources[source].slow_until = until;
                "slow writer"
            }
            70..73 => {
                self.restart();
                "subscriber restarted"
            }
            73..75 if self.second == Second::Clone && world.addresses[1].feed.is_none() => {
                let mut clone = Publisher::new("clone", world.publishers[0].journal.clone());
                clone.copy = world.publishers[0].copy.clone().filter(|copy| copy.stream == clone.journal.stream);
                world.publishers.push(clone);
                world.addresses[1] = Address::new(Some(1));
                "cloned"
            }
            75..80 => {
                if let Some(sub) = &mut self.sources[source].sub {
                    sub.down.send(Frame::Garbage, world.now, &mut world.random);
                }
                "garbage"
            }
            _ => return,
        };
        self.world.count(event);
    }

    /// A process ends, and everything that was connected to it.
    fn stop(&mut self, publisher: usize) {
        let publisher = &mut self.world.publishers[publisher];
        publisher.running = false;
        publisher.process += 1;
        publisher.past.clear();
    }

    /// The subscriber's process ends, and with it what it had not synced.
    fn restart(&mut self) {
        let world = &mut self.world;
        let entries = &mut world.writer.entries;
        let blocks = entries.iter().rev().take_while(|(_, entry)| matches!(entry, Entry::Block(_))).count();
        let cut = entries.split_off(entries.len() - world.random.index(blocks.min(5) + 1));
        world.oracle.restart(&cut);
        self.away_until = world.now + world.random.within(1..60);
        world.writer.restart(self.away_until);
        let fresh = |index| Source::new(index, self.first_contact, self.away_until);
        self.sources = (0..self.sources.len()).map(fresh).collect();
    }

    /// Everything works again. If two addresses lead to one stream, the first may be gone for good.
    fn calm(&mut self) {
        let world = &mut self.world;
        world.publishers.iter_mut().for_each(|publisher| {
            publisher.running = true;
            (publisher.withholds_until, publisher.upgraded_until, publisher.faulty_until) = (0, 0, 0);
        });
        for (index, address) in world.addresses.iter_mut().enumerate() {
            (address.stalled_until, address.down_until) = (0, 0);
            address.replay = address.feed;
            // What is connected to another publisher of the same stream is in its own eyes well.
            let source = &mut self.sources[index];
            if source.dealer.as_ref().is_some_and(|dealer| Some(dealer.publisher) != address.feed) {
                source.reset(world.now);
            }
        }
        let is_shared = matches!(self.second, Second::Same | Second::Clone);
        if is_shared && world.random.permille(300) && world.addresses[1].feed.is_some() {
            world.addresses[0].down_until = u64::MAX;
            world.count("first address gone");
        }
        self.sources.iter_mut().for_each(|source| source.slow_until = 0);
    }
}

/// A block becomes durable, and goes out, unless there is no room for it.
fn publish(world: &mut World, sources: &mut [Source], publisher: usize) {
    let World { publishers, content, random, .. } = world;
    let state = &mut publishers[publisher];
    let block = state.journal.append(content, random);
    let is_faulty = world.now < state.faulty_until;
    if world.now < state.withholds_until {
        let head = state.head();
        return send(world, sources, publisher, &head, 0);
    }
    if is_faulty {
        // The right number, and another history.
        let mut builder = BlockBuilder::new();
        builder.push(0, "t", b"forged").unwrap();
        let at = Position { next: block.start().next, previous: !block.start().previous };
        let forged = builder.finish(block.head().stream, at).unwrap();
        send(world, sources, publisher, &Message::Block(forged), 0);
    }
    send(world, sources, publisher, &Message::Block(block), 100);
}

/// To all who are subscribed; some of it is lost, some comes twice.
fn send(world: &mut World, sources: &mut [Source], publisher: usize, message: &Message, lost_permille: u64) {
    let World { publishers, random, now, addresses, .. } = world;
    let state = &publishers[publisher];
    for source in sources {
        let is_down = *now < addresses[source.index].down_until;
        let Some(sub) = source.sub.as_mut().filter(|sub| sub.publisher == publisher && !is_down) else { continue };
        if sub.process != state.process || *now < sub.joined_at || random.permille(lost_permille) {
            continue;
        }
        for _ in 0..if random.permille(30) { 2 } else { 1 } {
            sub.down.send(Frame::of(message.clone(), state, *now), *now, random);
        }
    }
}
