//! Reading a segment: its header, then block after block, and what is missing in between.

use crate::journal::folder::FolderError;
use bytes::Bytes;
use feed::block::{BLOCK_BYTES_MAX, HEAD_BYTES};
use feed::segment::HEADER_BYTES;
use feed::{Block, BlockHead, DecodeError, IndexEntry, Position, SegmentHeader, StreamId, pool, recovery};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the first block begins.
pub(crate) const FIRST_BLOCK: u64 = HEADER_BYTES as u64;
/// How far apart the entries of a sparse index are, at least: what a reader walks over to find a block.
pub(crate) const INDEX_STRIDE_BYTES: u64 = 64 * 1024;
/// What is read at once.
const WINDOW_BYTES: usize = 256 * 1024;
/// What a disk reads or cannot read.
const PAGE_BYTES: usize = 4096;

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A block, whole, and where it begins.
    Block(Block, u64),
    /// Nothing until here: what was there is damaged.
    Gap(Position),
    /// The end of the blocks. What is left behind it, in bytes up to the last that is not zero, is no block
    /// and leads to none.
    End { left_bytes: u64 },
}

/// What to do where the disk cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Fail.
    Error,
    /// Take it for zeros, which are no block: damage, to be stated.
    Damage,
}

/// Reads a segment from some block on.
pub(crate) struct SegmentReader {
    path: PathBuf,
    file: Arc<File>,
    stream: StreamId,
    unreadable: Unreadable,
    /// Where the data end.
    limit: u64,
    offset: u64,
    at: Position,
    window: Window,
}

impl SegmentReader {
    /// Reads `file`, which is called `path` in errors and has `limit` bytes of data, from a block on.
    pub(crate) fn new(
        path: PathBuf,
        file: Arc<File>,
        stream: StreamId,
        limit: u64,
        from: IndexEntry,
        unreadable: Unreadable,
    ) -> Self {
        let window = Window::default();
        Self { path, file, stream, unreadable, limit, offset: from.offset, at: from.start, window }
    }

    /// The place that it has reached.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Goes back, or on, to another block.
    pub(crate) fn seek(&mut self, to: IndexEntry) {
        (self.offset, self.at) = (to.offset, to.start);
    }

    /// Reads on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn step(&mut self) -> Result<Step, FolderError> {
        if self.offset >= self.limit {
            return Ok(Step::End { left_bytes: 0 });
        }
        if let Some(block) = self.block_here()? {
            if block.start() == self.at {
                let offset = self.offset;
                self.offset += block.bytes().len() as u64;
                self.at = block.end();
                return Ok(Step::Block(block, offset));
            }
            // A jump: what was between was no more when the segment was rewritten.
            if block.head().first > self.at.next {
                self.at = block.start();
                return Ok(Step::Gap(self.at));
            }
        }
        self.step_over_damage()
    }

    /// The block that begins here, if it is whole and of this stream.
    ///
    /// # Errors
    /// The file cannot be read, or not by this version.
    fn block_here(&mut self) -> Result<Option<Block>, FolderError> {
        let Ok(head) = BlockHead::decode(self.read(HEAD_BYTES)?) else { return Ok(None) };
        let is_known = !matches!(head.block_bytes(), Err(DecodeError::Bounds { .. }));
        if head.stream != self.stream || !is_known {
            return Ok(None);
        }
        match Block::decode(self.bytes_here(head.claimed_bytes())?) {
            Ok(block) => Ok(Some(block)),
            Err(error @ DecodeError::Version { .. }) => {
                Err(FolderError::new("read", &self.path, io::Error::new(io::ErrorKind::Unsupported, error)))
            }
            Err(_) => Ok(None),
        }
    }

    /// The next bytes, as many as asked for or those that are left, to be kept.
    fn bytes_here(&mut self, length: usize) -> Result<Bytes, FolderError> {
        let (from, length) = (self.offset, length.min(self.left()));
        let begun = self.window.at(from).len().min(length);
        if length < WINDOW_BYTES / 4 || begun == length {
            return self.read(length).map(pool::copy);
        }
        // Past the window, which would be one more copy of it.
        let mut buffer = pool::take_for(length);
        buffer.extend_from_slice(&self.window.at(from)[..begun]);
        buffer.resize(length, 0);
        let filled = fill(&self.file, &mut buffer[begun..], from + begun as u64, self.unreadable);
        filled.map_err(|source| FolderError::new("read", &self.path, source))?;
        Ok(pool::freeze(buffer))
    }

    /// Reads the rest of the segment, which is at most as long as a segment is.
    fn step_over_damage(&mut self) -> Result<Step, FolderError> {
        let (stream, at) = (self.stream, self.at);
        let rest = self.read(self.left())?;
        let step = match recovery::find_next(rest, stream, at) {
            Some((length, head)) => {
                self.offset += length as u64;
                self.at = head.start();
                Step::Gap(self.at)
            }
            None => {
                // Zeros are what the file was filled with ahead of use.
                let left_bytes = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                self.offset = self.limit;
                Step::End { left_bytes }
            }
        };
        self.window = Window::default();
        Ok(step)
    }

    /// The next bytes: as many as asked for, or those that are left.
    fn read(&mut self, length: usize) -> Result<&[u8], FolderError> {
        let (from, length, left) = (self.offset, length.min(self.left()), self.left());
        if self.window.at(from).len() < length {
            let ahead = length.max(left.min(WINDOW_BYTES));
            let read = self.window.fill(&self.file, from, ahead, self.unreadable);
            read.map_err(|source| FolderError::new("read", &self.path, source))?;
        }
        Ok(&self.window.at(from)[..length])
    }

    /// How many bytes of data are left.
    fn left(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.offset)).unwrap_or(usize::MAX)
    }
}

/// A part of the file in memory, which is used again by other readers if it is no longer than a block.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// What it has from an offset on.
    fn at(&self, offset: u64) -> &[u8] {
        let skip = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default()
    }

    fn fill(&mut self, file: &File, start: u64, length: usize, unreadable: Unreadable) -> io::Result<()> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool::take();
        }
        // Nothing is believed to be there before it has been read.
        self.start = start;
        self.bytes.resize(length, 0);
        fill(file, &mut self.bytes, start, unreadable).inspect_err(|_| self.bytes.clear())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.bytes));
    }
}

fn fill(file: &File, bytes: &mut [u8], offset: u64, unreadable: Unreadable) -> io::Result<()> {
    match file.read_exact_at(bytes, offset) {
        Err(error) if unreadable == Unreadable::Damage && is_damage(&error) => {
            for (index, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
                match file.read_exact_at(page, offset + (index * PAGE_BYTES) as u64) {
                    Err(error) if is_damage(&error) => page.fill(0),
                    result => result?,
                }
            }
            Ok(())
        }
        result => result,
    }
}

/// Whether the disk cannot read, or the file ends before it did: nothing that passes.
fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || Errno::from_io_error(error) == Some(Errno::IO)
}

/// The header of a segment, which is called `path` in errors, and how long the file is.
///
/// # Errors
/// The file cannot be read. A header that the disk cannot read is one that is damaged.
pub(crate) fn read_header(path: &Path, file: &File) -> Result<(Result<SegmentHeader, DecodeError>, u64), FolderError> {
    let read = || {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        match file.take(FIRST_BLOCK).read_to_end(&mut bytes) {
            Err(error) if is_damage(&error) => bytes.clear(),
            read => drop(read?),
        }
        io::Result::Ok((SegmentHeader::decode(&bytes), file.metadata()?.len()))
    };
    read().map_err(|source| FolderError::new("read", path, source))
}

/// The head of the first block of a segment, if that is whole.
pub(crate) fn first_block(mut file: &File) -> Option<BlockHead> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(FIRST_BLOCK)).ok()?;
    file.take(BLOCK_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Block::check_front(&bytes).ok()
}
