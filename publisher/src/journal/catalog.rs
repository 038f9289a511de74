//! What the journal has, at this moment: its segments, and how far they are durable.
//!
//! Small enough to be copied under a lock: readers take what they need and read without it.

use crate::journal::segment::{FIRST_BLOCK, INDEX_STRIDE_BYTES};
use feed::{Block, IndexEntry, Position, SegmentHeader};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

/// A segment that nothing is added to any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    /// Where it begins.
    pub(crate) start: Position,
    /// How long it is.
    pub(crate) bytes: u64,
    /// When its last record was published.
    pub(crate) last_time_ns: i64,
}

/// The segment that is written to.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    /// Where it begins.
    pub(crate) start: Position,
    /// Where the last durable block ends, and with it the stream.
    pub(crate) end: Position,
    /// How much of the file that is.
    pub(crate) bytes: u64,
    /// When its first record was published, if it has one.
    pub(crate) first_time_ns: Option<i64>,
    /// When the stream's last record was published.
    pub(crate) last_time_ns: i64,
    /// Some of its blocks.
    pub(crate) index: Vec<IndexEntry>,
    /// The file, once it is there: readers read what the writer writes, whatever has become of its name.
    pub(crate) file: Option<Arc<File>>,
}

impl Active {
    pub(crate) fn new(header: &SegmentHeader) -> Self {
        Self {
            start: header.start,
            end: header.start,
            bytes: FIRST_BLOCK,
            first_time_ns: None,
            last_time_ns: header.last_time_ns,
            index: Vec::new(),
            file: None,
        }
    }

    /// Adds a block, where the data ended.
    pub(crate) fn push(&mut self, block: &Block) {
        let indexed = self.index.last().map_or(0, |last| last.offset);
        if self.bytes >= indexed + INDEX_STRIDE_BYTES {
            self.index.push(IndexEntry { start: block.start(), offset: self.bytes });
        }
        self.bytes += block.bytes().len() as u64;
        self.end = block.end();
        self.last_time_ns = self.last_time_ns.max(block.last_time_ns());
        self.first_time_ns.get_or_insert(block.head().base_time_ns);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes <= FIRST_BLOCK
    }
}

/// The segments of a journal.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Oldest first.
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Active,
    /// Whether the active segment is there. Until it is, nobody knows where the stream ends.
    pub(crate) open: bool,
}

impl Catalog {
    /// The place in front of the first record that is kept.
    pub(crate) fn oldest(&self) -> Position {
        self.sealed.front().map_or(self.active.start, |oldest| oldest.start)
    }

    /// The place behind the last durable record.
    pub(crate) fn next(&self) -> Position {
        self.active.end
    }

    /// How much is kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.active.bytes
    }
}
