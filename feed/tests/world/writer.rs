//! The writer's model: the index, and who may write what.

use crate::SILENCE;
use feed::cursor::Claim;
use feed::{Block, Gap, Position, StreamId};
use std::collections::HashMap;

#[derive(Clone)]
pub enum Entry {
    Base {
        stream: StreamId,
        at: Position,
    },
    Block(Block),
    Lost(Gap),
    Forked {
        stream: StreamId,
        from: Position,
        at: Position,
    },
    /// The records of the old stream from `at` up to what was heard are lost.
    Replaced {
        old: StreamId,
        at: Position,
        heard: u64,
        stream: StreamId,
        base: Position,
    },
}

impl Entry {
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Block(block) => block.head().stream,
            Self::Lost(gap) => gap.stream,
            Self::Base { stream, .. } | Self::Forked { stream, .. } | Self::Replaced { stream, .. } => *stream,
        }
    }
}

struct Standing {
    at: Position,
    home: usize,
    /// The ends of blocks and losses, and the base, in the history that is followed.
    boundaries: Vec<Position>,
}

pub struct Writer {
    /// Each with the source that it came from.
    pub entries: Vec<(usize, Entry)>,
    streams: HashMap<StreamId, Standing>,
    /// The stream of each source's address.
    current: HashMap<usize, StreamId>,
    /// Who serves a stream, and was heard when.
    claims: HashMap<StreamId, (usize, u64)>,
    began_at: u64,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            streams: HashMap::new(),
            current: HashMap::new(),
            claims: HashMap::new(),
            began_at: 0,
        }
    }

    /// A new process reads what the old one left.
    pub fn restart(&mut self, now: u64) {
        let entries = std::mem::take(&mut self.entries);
        *self = Self { began_at: now, ..Self::new() };
        for (source, entry) in entries {
            self.append(source, entry);
        }
    }

    pub fn position(&self, stream: StreamId) -> Position {
        self.streams[&stream].at
    }

    pub fn home(&self, stream: StreamId) -> Option<usize> {
        self.streams.get(&stream).map(|standing| standing.home)
    }

    pub fn claim(&mut self, source: usize, stream: StreamId, now: u64) -> Claim {
        self.claims.retain(|claimed, (owner, _)| *owner != source || *claimed == stream);
        let standing = self.streams.get(&stream);
        let home = standing.is_some_and(|standing| standing.home == source);
        let granted = match self.claims.get(&stream) {
            _ if home => true,
            Some((owner, heard_at)) => *owner == source || now - heard_at > SILENCE,
            None => standing.is_none() || now - self.began_at > SILENCE,
        };
        if granted {
            self.claims.insert(stream, (source, now));
        }
        let had = self.current.get(&source).copied();
        Claim { granted, home, at: standing.map(|standing| standing.at), had }
    }

    /// A source has heard from its publisher.
    pub fn heard(&mut self, source: usize, now: u64) {
        self.claims.values_mut().filter(|(owner, _)| *owner == source).for_each(|(_, heard_at)| *heard_at = now);
    }

    pub fn release(&mut self, source: usize) {
        self.claims.retain(|_, (owner, _)| *owner != source);
    }

    pub fn owns(&self, source: usize, stream: StreamId) -> bool {
        self.claims.get(&stream).is_some_and(|(owner, _)| *owner == source)
    }

    pub fn boundary(&self, stream: StreamId, at_most: u64) -> Option<Position> {
        let boundaries = &self.streams.get(&stream)?.boundaries;
        boundaries.iter().rev().find(|boundary| boundary.next <= at_most).copied()
    }

    pub fn append(&mut self, source: usize, entry: Entry) {
        let stream = entry.stream();
        match &entry {
            Entry::Base { at: base, .. } | Entry::Replaced { base, .. } => {
                self.current.insert(source, stream);
                let new = Standing { at: *base, home: source, boundaries: vec![*base] };
                self.streams.entry(stream).or_insert(new);
            }
            Entry::Block(block) => self.moved(stream, block.end()),
            Entry::Lost(gap) => self.moved(stream, gap.to),
            Entry::Forked { at, .. } => {
                let standing = self.streams.get_mut(&stream).unwrap();
                standing.boundaries.retain(|boundary| boundary.next < at.next);
                self.moved(stream, *at);
            }
        }
        self.entries.push((source, entry));
    }

    fn moved(&mut self, stream: StreamId, at: Position) {
        let standing = self.streams.get_mut(&stream).unwrap();
        standing.at = at;
        standing.boundaries.push(at);
    }
}
