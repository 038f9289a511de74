//! Reads journal files: the oracle for what a publisher has kept.

use super::codec::{Block, Message, Position, Stream, at, envelope, position, u32_at};
use std::fs;
use std::path::Path;

/// What a journal file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub stream: Stream,
    pub start: Position,
    pub last_time_ns: i64,
}

impl SegmentHeader {
    /// Where the blocks begin.
    pub const BYTES: usize = 48;

    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let header = file.get(..Self::BYTES).ok_or("shorter than a segment's header")?;
        if &header[..4] != b"DPS1" || u32_at(header, 36)? != 0 {
            return Err(format!("no segment: {header:02x?}"));
        }
        let last_time_ns = i64::from_le_bytes(at(header, 40)?);
        Ok(Self { stream: envelope(header)?, start: position(header, 24)?, last_time_ns })
    }
}

/// The blocks of a file's bytes from an offset on.
#[derive(Debug)]
pub struct Blocks {
    pub blocks: Vec<Block>,
    /// Where the last one ends.
    pub end: usize,
    /// Why no further one was read, if not because only zeros follow, or nothing.
    pub torn: Option<String>,
}

/// Reads one block behind the other, up to what is none.
pub fn blocks(file: &[u8], offset: usize) -> Blocks {
    let mut read = Blocks { blocks: Vec::new(), end: offset, torn: None };
    while file[read.end..].iter().any(|byte| *byte != 0) {
        match block(&file[read.end..]) {
            Ok(block) => {
                read.end += block.bytes.len();
                read.blocks.push(block);
            }
            Err(error) => {
                read.torn = Some(format!("at {}: {error}", read.end));
                break;
            }
        }
    }
    read
}

fn block(rest: &[u8]) -> Result<Block, String> {
    let length = 56 + u32_at(rest, 36)? as usize;
    let bytes = rest.get(..length).ok_or_else(|| format!("{length} bytes, and {} are there", rest.len()))?;
    match Message::decode(bytes)? {
        Message::Block(block) => Ok(block),
        other => Err(format!("{other:?} instead of a block")),
    }
}

/// The segments of a journal, oldest first.
pub fn segments(journal: &Path) -> Vec<(SegmentHeader, Vec<u8>)> {
    let paths = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|name| name == "segment"));
    let files = files.map(|path| fs::read(path).unwrap());
    let mut segments: Vec<_> = files.map(|file| (SegmentHeader::decode(&file).unwrap(), file)).collect();
    segments.sort_by_key(|(header, _)| header.start.next);
    segments
}
