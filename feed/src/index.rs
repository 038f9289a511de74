//! The sparse index of a sealed segment: where in the file some of its blocks begin.
//!
//! Nothing is in it that the segment does not have, so it can be lost, and made again.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `DPI1` |
//! | 4 | crc32c of bytes 0 to 3 and 8 to the end |
//! | 8 | stream: 16 bytes |
//! | 24 | the segment's length `u64`, in bytes |
//! | 32 | count of entries `u32`, at most 65,536 |
//! | 36 | reserved `u32`, 0 |
//! | 40 | entries, 20 bytes each, in order |
//!
//! An entry is the first sequence of a block `u64`, its previous `u32`, and its offset in the segment `u64`.

use crate::segment::HEADER_BYTES;
use crate::wire::{self, DecodeError, Kind};
use crate::{Position, StreamId};

/// The most entries of an index.
pub const ENTRIES_MAX: usize = 65_536;
/// The longest index, in bytes.
pub const INDEX_BYTES_MAX: usize = HEAD_BYTES + ENTRIES_MAX * ENTRY_BYTES;

const KIND: Kind = Kind { name: "index", magic: *b"DPI1" };
const HEAD_BYTES: usize = 40;
const ENTRY_BYTES: usize = 20;

/// Where a block begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its place in the stream.
    pub start: Position,
    /// Its place in the segment, in bytes.
    pub offset: u64,
}

/// Where some blocks of a segment begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Whose segment it is.
    pub stream: StreamId,
    /// The segment's length, in bytes.
    pub segment_bytes: u64,
    /// In order; at most [`ENTRIES_MAX`].
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// Its bytes. Entries beyond [`ENTRIES_MAX`] are left out: readers walk on from the last.
    pub fn encode(&self) -> Vec<u8> {
        let count = self.entries.len().min(ENTRIES_MAX);
        let mut bytes = KIND.begin(self.stream, HEAD_BYTES + count * ENTRY_BYTES);
        bytes.extend(self.segment_bytes.to_le_bytes());
        bytes.extend((count as u32).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        for entry in &self.entries[..count] {
            bytes.extend(entry.start.next.to_le_bytes());
            bytes.extend(entry.start.previous.to_le_bytes());
            bytes.extend(entry.offset.to_le_bytes());
        }
        wire::seal(&mut bytes);
        bytes
    }

    /// Reads an index.
    ///
    /// # Errors
    /// What is wrong with it; see [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (stream, mut reader) = KIND.open(bytes)?;
        let (segment_bytes, count, reserved) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let bounds = |field, value, ok| if ok { Ok(()) } else { Err(DecodeError::Bounds { field, value }) };
        bounds("reserved", reserved.into(), reserved == 0)?;
        bounds("count", count.into(), count as usize <= ENTRIES_MAX)?;
        if reader.0.len() < count as usize * ENTRY_BYTES {
            return Err(DecodeError::Short(bytes.len()));
        }
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = Position { next: reader.u64()?, previous: reader.u32()? };
            let offset = reader.u64()?;
            let (least, first) = entries.last().map_or((HEADER_BYTES as u64, 0), |last| {
                (last.offset.saturating_add(1), last.start.next.saturating_add(1))
            });
            bounds("offset", offset, (least..segment_bytes).contains(&offset))?;
            bounds("first sequence", start.next, start.next >= first)?;
            entries.push(IndexEntry { start, offset });
        }
        reader.end()?;
        Ok(Self { stream, segment_bytes, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index() -> Index {
        let entry = |next, previous, offset| IndexEntry { start: Position { next, previous }, offset };
        let entries = vec![entry(41, 0xdead_beef, 48), entry(50, 7, 70_000)];
        Index { stream: StreamId(*b"0123456789abcdef"), segment_bytes: 80_000, entries }
    }

    #[test]
    fn an_index_has_these_bytes() {
        let hex: String = index().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.split_whitespace().collect::<String>());
    }

    const GOLDEN: &str = "445049319dd0245230313233343536373839616263646566803801000000000002000000000000002900000000000000efbe \
        adde30000000000000003200000000000000070000007011010000000000";

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let refused = |offset: usize, field: &[u8]| {
            let mut bytes = index().encode();
            bytes[offset..offset + field.len()].copy_from_slice(field);
            wire::seal(&mut bytes);
            Index::decode(&bytes).unwrap_err()
        };
        assert_eq!(refused(36, &[1]), DecodeError::Bounds { field: "reserved", value: 1 });
        assert_eq!(refused(32, &65_537_u32.to_le_bytes()), DecodeError::Bounds { field: "count", value: 65_537 });
        assert_eq!(refused(32, &[3]), DecodeError::Short(80));
        assert_eq!(refused(32, &[1]), DecodeError::Long(20));
        assert_eq!(refused(52, &[47]), DecodeError::Bounds { field: "offset", value: 47 });
        assert_eq!(refused(72, &[48, 0, 0]), DecodeError::Bounds { field: "offset", value: 48 });
        assert_eq!(refused(24, &70_000_u32.to_le_bytes()), DecodeError::Bounds { field: "offset", value: 70_000 });
        assert_eq!(refused(60, &[41]), DecodeError::Bounds { field: "first sequence", value: 41 });
    }

    proptest! {
        #[test]
        fn indexes_read_back_and_damaged_ones_are_refused(
            stream: [u8; 16], steps in prop::collection::vec((1..1_000_000_u64, any::<u32>(), 1..1_000_000_u64), 0..40),
            at: prop::sample::Index, bit in 0..8
        ) {
            let (mut next, mut offset) = (0, 47);
            let entries = steps.into_iter().map(|(records, previous, bytes)| {
                (next, offset) = (next + records, offset + bytes);
                IndexEntry { start: Position { next, previous }, offset }
            });
            let index = Index { stream: StreamId(stream), entries: entries.collect(), segment_bytes: u64::MAX };
            let mut bytes = index.encode();
            prop_assert_eq!(Index::decode(&bytes), Ok(index));
            let at = at.index(bytes.len());
            prop_assert!(Index::decode(&bytes[..at]).is_err());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Index::decode(&bytes).is_err());
        }
    }
}
