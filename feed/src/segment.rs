//! What a journal file begins with.
//!
//! It says where the stream stands even if no block follows.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `DPS1` |
//! | 4 | crc32c of bytes 0 to 3 and 8 to the end |
//! | 8 | stream: 16 bytes |
//! | 24 | first sequence `u64`: of the first record in the file |
//! | 32 | previous `u32`: the crc32c field of the block before it, 0 for none |
//! | 36 | reserved `u32`, 0 |
//! | 40 | last publish time `i64` before it, nanoseconds since the Unix epoch |
//!
//! In every version these 48 bytes, and no more, are what the checksum covers.

use crate::wire::{self, DecodeError, Kind};
use crate::{Position, StreamId};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 48;

const KIND: Kind = Kind { name: "segment", magic: *b"DPS1" };

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose segment it is.
    pub stream: StreamId,
    /// Where it begins.
    pub start: Position,
    /// The time of the last record before it; no record in it is earlier.
    pub last_time_ns: i64,
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = KIND.begin(self.stream, HEADER_BYTES);
        bytes.extend(self.start.next.to_le_bytes());
        bytes.extend(self.start.previous.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.last_time_ns.to_le_bytes());
        wire::seal(&mut bytes);
        bytes.try_into().expect("the table above adds up to the header's bytes")
    }

    /// Reads a header that `bytes` begin with.
    ///
    /// # Errors
    /// What is wrong with it; see [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(DecodeError::Short(bytes.len()))?;
        let (stream, mut reader) = KIND.open(bytes)?;
        let start = Position { next: reader.u64()?, previous: reader.u32()? };
        match reader.u32()? {
            0 => Ok(Self { stream, start, last_time_ns: reader.i64()? }),
            value => Err(DecodeError::Bounds { field: "reserved", value: value.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        let start = Position { next: 41, previous: 0xdead_beef };
        SegmentHeader { stream: StreamId(*b"0123456789abcdef"), start, last_time_ns: -2 }
    }

    #[test]
    fn a_header_has_these_bytes() {
        let hex: String = header().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.split_whitespace().collect::<String>());
    }

    const GOLDEN: &str =
        "4450533191c59876303132333435363738396162636465662900000000000000efbeadde00000000feffffffffffffff";

    #[test]
    fn what_is_reserved_is_zero() {
        let mut bytes = header().encode();
        bytes[36] = 1;
        wire::seal(&mut bytes);
        assert_eq!(SegmentHeader::decode(&bytes), Err(DecodeError::Bounds { field: "reserved", value: 1 }));
    }

    proptest! {
        #[test]
        fn headers_read_back_and_damaged_ones_are_refused(
            stream: [u8; 16], next: u64, previous: u32, last_time_ns: i64, at in 0..HEADER_BYTES, bit in 0..8
        ) {
            let header = SegmentHeader { stream: StreamId(stream), start: Position { next, previous }, last_time_ns };
            let mut bytes = header.encode();
            prop_assert_eq!(SegmentHeader::decode(&[&bytes[..], b"blocks"].concat()), Ok(header));
            prop_assert!(SegmentHeader::decode(&bytes[..at]).is_err());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }
    }
}
