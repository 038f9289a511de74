//! What a replay finds in the journal.

use crate::journal::Shared;
use crate::journal::catalog::{Active, Sealed};
use crate::journal::folder::FolderError;
use crate::journal::segment::{FIRST_BLOCK, SegmentReader, Step, Unreadable};
use feed::index::INDEX_BYTES_MAX;
use feed::{Block, Gap, GapReason, Index, IndexEntry, Position};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use tracing::warn;

/// What a message costs beside its bytes, in the queues that it goes through.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 512;
/// The most that the blocks of a reply may cost, beside the first: bytes and overhead.
const REPLY_COST_MAX: usize = 1024 * 1024;

/// What a gap costs: its message, and the search behind it.
const GAP_COST: usize = 64 * 1024;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Block(Block),
    Gap(Gap),
    /// The position is not one of this history.
    Fork,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) oldest: Position,
    pub(crate) next: Position,
    pub(crate) parts: Vec<Part>,
    /// The place behind it.
    pub(crate) end: Position,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Where the stream ends is not known before the journal is open, and the position may be behind.
    #[error("the journal is not open yet")]
    NotOpen,
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// A segment as the catalog had it when a reply began.
#[derive(Debug, Clone)]
struct Extent {
    start: Position,
    /// Where the durable data end.
    bytes: u64,
    file: Where,
}

/// Where a segment is to be read.
#[derive(Debug, Clone)]
enum Where {
    /// By its name: it is sealed.
    Sealed,
    /// From the writer's own file. `None`: it is not there yet, and has nothing.
    Active(Option<Arc<File>>),
}

impl From<&Sealed> for Extent {
    fn from(sealed: &Sealed) -> Self {
        Self { start: sealed.start, bytes: sealed.bytes, file: Where::Sealed }
    }
}

impl Shared {
    pub(super) fn read(&self, from: Position, credit_bytes: usize) -> Result<Reply, ReadError> {
        loop {
            let mut walk = Walk::begin(self, from)?;
            match walk.locate(from).and_then(|()| walk.collect(from, credit_bytes)) {
                Ok(()) => return Ok(walk.reply),
                // Retention was faster: the catalog does not have it any more.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound && walk.is_outdated() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One way through the segments.
struct Walk<'a> {
    shared: &'a Shared,
    /// Those from the one that holds the position on.
    extents: std::vec::IntoIter<Extent>,
    /// Where to begin in the first of them.
    hint: Option<IndexEntry>,
    reader: Option<(SegmentReader, Extent)>,
    reply: Reply,
}

impl<'a> Walk<'a> {
    fn begin(shared: &'a Shared, from: Position) -> Result<Self, ReadError> {
        let catalog = shared.catalog();
        let (oldest, next) = (catalog.oldest(), catalog.next());
        if !catalog.open && from.next > next.next {
            return Err(ReadError::NotOpen);
        }
        let Active { start, bytes, file, .. } = &catalog.active;
        let active = Extent { start: *start, bytes: *bytes, file: Where::Active(file.clone()) };
        let begun = catalog.sealed.partition_point(|sealed| sealed.start.next <= from.next);
        let is_in_active = active.start.next <= from.next;
        let first = if is_in_active { catalog.sealed.len() } else { begun.saturating_sub(1) };
        let sealed = catalog.sealed.range(first..).map(Extent::from);
        let extents: Vec<Extent> = sealed.chain([active]).collect();
        let in_active = catalog.active.index.iter().rfind(|entry| entry.start.next <= from.next);
        let hint = if is_in_active { in_active.copied() } else { None };
        let reply = Reply { oldest, next, parts: Vec::new(), end: from };
        Ok(Self { shared, extents: extents.into_iter(), hint, reader: None, reply })
    }

    fn is_outdated(&self) -> bool {
        self.shared.catalog().oldest() != self.reply.oldest
    }

    /// Finds the position: leaves the reader there, or behind the gap that it is in.
    fn locate(&mut self, from: Position) -> Result<(), FolderError> {
        let Reply { oldest, next, .. } = self.reply;
        if from.next > next.next || (from.next == next.next && from != next) {
            self.reply.parts.push(Part::Fork);
        } else if from.next < oldest.next {
            self.gap(oldest, GapReason::Retention);
            self.open_next()?;
        } else if from != next {
            self.open_next()?;
            self.walk_to(from)?;
        }
        Ok(())
    }

    fn walk_to(&mut self, from: Position) -> Result<(), FolderError> {
        while let Some((reader, _)) = &mut self.reader {
            let before = reader.position();
            if before.next >= from.next {
                if before != from {
                    self.reply.parts.push(Part::Fork);
                    self.reader = None;
                }
                return Ok(());
            }
            match reader.step()? {
                Step::Block(..) => {}
                Step::Gap(to) => self.pass_gap(from, before, to),
                Step::End { .. } => {
                    let to = self.next_start();
                    if to.next > before.next {
                        self.pass_gap(from, before, to);
                    }
                    self.open_next()?;
                }
            }
            if !self.reply.parts.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes damage on the way to a position, which is answered with the gap if it lies in it.
    fn pass_gap(&mut self, from: Position, before: Position, to: Position) {
        self.note(before, to);
        if to.next > from.next {
            self.gap(to, GapReason::Damage);
        }
    }

    /// Where the segment behind this one begins, or the stream ends.
    fn next_start(&self) -> Position {
        self.extents.as_slice().first().map_or(self.reply.next, |next| next.start)
    }

    /// Reads on from where the reader stands, as far as the credit goes.
    fn collect(&mut self, from: Position, credit_bytes: usize) -> Result<(), FolderError> {
        if credit_bytes == 0 {
            // Nothing was asked for but whether the position is one of this history.
            self.reply.parts.retain(|part| *part == Part::Fork);
            self.reply.end = from;
            return Ok(());
        }
        let (mut bytes, mut cost) = (0, 0);
        while let Some((reader, _)) = &mut self.reader
            && cost <= REPLY_COST_MAX
        {
            let before = reader.position();
            match reader.step()? {
                Step::Block(block, _) => {
                    let length = block.bytes().len();
                    (bytes, cost) = (bytes + length, cost + length + MESSAGE_OVERHEAD_BYTES);
                    let is_first = bytes == length;
                    if !is_first && (bytes > credit_bytes || cost > REPLY_COST_MAX) {
                        return Ok(());
                    }
                    self.reply.end = block.end();
                    self.reply.parts.push(Part::Block(block));
                }
                Step::Gap(to) => {
                    self.note(before, to);
                    self.gap(to, GapReason::Damage);
                    cost += GAP_COST;
                }
                Step::End { .. } => {
                    let to = self.next_start();
                    if to.next > before.next {
                        self.note(before, to);
                        self.gap(to, GapReason::Damage);
                        cost += GAP_COST;
                    } else if to != before {
                        warn!(sequence = to.next, "segments of the journal do not follow each other");
                        return Ok(());
                    }
                    self.open_next()?;
                }
            }
        }
        Ok(())
    }

    /// Goes on with a gap, from the end of the reply so far.
    fn gap(&mut self, to: Position, reason: GapReason) {
        let from = self.reply.end.next;
        if to.next > from {
            self.reply.parts.push(Part::Gap(Gap { stream: self.shared.stream, from, to, reason }));
        }
        self.reply.end = to;
    }

    fn note(&self, from: Position, to: Position) {
        let start = self.reader.as_ref().map_or(from, |(_, extent)| extent.start);
        self.shared.note_damage(&self.shared.folder.segment(start.next), from.next, to.next);
    }

    /// Goes on with the next segment. Behind the last there is none.
    fn open_next(&mut self) -> Result<(), FolderError> {
        self.reader = None;
        let Some(extent) = self.extents.next() else { return Ok(()) };
        let beginning = IndexEntry { start: extent.start, offset: FIRST_BLOCK };
        let path = self.shared.folder.segment(extent.start.next);
        let (file, bytes) = match &extent.file {
            Where::Active(Some(file)) => (Some(file.clone()), extent.bytes),
            Where::Active(None) => (None, 0),
            Where::Sealed => match self.shared.folder.open(&path) {
                // Gone, but not retired: all of it is damage.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound && !self.is_outdated() => (None, 0),
                opened => (Some(Arc::new(opened?)), extent.bytes),
            },
        };
        let Some(file) = file else {
            let nothing = Arc::new(File::open("/dev/null").map_err(|source| FolderError::new("open", &path, source))?);
            let reader = SegmentReader::new(path, nothing, self.shared.stream, 0, beginning, Unreadable::Error);
            self.reader = Some((reader, extent));
            return Ok(());
        };
        // What the active segment has is durable; only the disk's own failure is damage there too.
        let mut reader = SegmentReader::new(path, file, self.shared.stream, bytes, beginning, Unreadable::Damage);
        if let Some(entry) = self.entry_near(&extent, self.reply.end) {
            // Only a hint: it counts if the block is there.
            reader.seek(entry);
            let is_there = matches!(reader.step()?, Step::Block(..));
            reader.seek(if is_there { entry } else { beginning });
        }
        self.reader = Some((reader, extent));
        Ok(())
    }

    /// The last block known in a segment that begins at or before a position.
    fn entry_near(&mut self, extent: &Extent, from: Position) -> Option<IndexEntry> {
        if from.next <= extent.start.next {
            return None;
        }
        if matches!(extent.file, Where::Active(_)) {
            return self.hint.take();
        }
        let index = self.shared.sealed_index(extent)?;
        index.entries.iter().rfind(|entry| entry.start.next <= from.next).copied()
    }
}

impl Shared {
    /// The index of a sealed segment, made anew if it is not there or not right.
    fn sealed_index(&self, extent: &Extent) -> Option<Arc<Index>> {
        if let Some(index) = self.unwritten().get(&extent.start.next) {
            return Some(index.clone());
        }
        let path = self.folder.index(extent.start.next);
        let kept = self.read_index(&path).ok().and_then(|bytes| Index::decode(&bytes).ok());
        match kept {
            Some(index) if index.stream == self.stream && index.segment_bytes == extent.bytes => Some(Arc::new(index)),
            _ => self.rebuild_index(extent, &path).map(Arc::new),
        }
    }

    fn rebuild_index(&self, extent: &Extent, path: &Path) -> Option<Index> {
        let beginning = IndexEntry { start: extent.start, offset: FIRST_BLOCK };
        let segment = self.folder.segment(extent.start.next);
        let entries = || {
            let file = Arc::new(self.folder.open(&segment).ok()?);
            let mut reader =
                SegmentReader::new(segment, file, self.stream, extent.bytes, beginning, Unreadable::Damage);
            let mut entries = Vec::new();
            let mut indexed = 0;
            loop {
                match reader.step().ok()? {
                    Step::Block(block, offset) if offset >= indexed + super::segment::INDEX_STRIDE_BYTES => {
                        entries.push(IndexEntry { start: block.start(), offset });
                        indexed = offset;
                    }
                    Step::Block(..) | Step::Gap(_) => {}
                    Step::End { .. } => return Some(entries),
                }
            }
        };
        let index = Index { stream: self.stream, segment_bytes: extent.bytes, entries: entries()? };
        warn!(index = %path.display(), "the index of a segment was missing or bad, and is made anew");
        self.write_index(path, &index);
        Some(index)
    }

    fn read_index(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.folder.open(path).map_err(|error| error.source)?;
        file.take(INDEX_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes an index, which can be done without: if it cannot be written, that is only said.
    pub(super) fn write_index(&self, path: &Path, index: &Index) {
        let bytes = index.encode();
        let steps = ["index.written", "index.renamed", "index.renamed"];
        let written = self.folder.replace(path, steps, |mut file| io::Write::write_all(&mut file, &bytes));
        if let Err(error) = written {
            warn!(error = &error as &dyn std::error::Error, "the index of a segment is not kept");
        }
    }
}
