//! The formats of the numbered feed: what is written to a journal and sent on a socket.
//!
//! Pure: no I/O, no clock, no randomness, no tokio. Encoders make bytes; decoders take bytes of
//! anybody's making, reject what is malformed by name, and allocate nothing on a claim.
//!
//! Every format begins alike:
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic: three letters for the kind, one for the version |
//! | 4 | crc32c (Castagnoli, as in RFC 3720) of bytes 0 to 3 and 8 to the end |
//! | 8 | stream: the 16 bytes of a UUID, made with the journal |
//!
//! Integers are little-endian. What follows is in the table of each module: [`block`] (the unit of
//! commit, of sending and of replay), [`segment`] (what a journal file begins with), [`index`] (where
//! its blocks are), [`message`] (what is said about blocks). What a subscriber does with them is
//! decided in [`cursor`], the way behind damage is found in [`recovery`].
//!
//! A version that is not known is an error of its own, [`DecodeError::Version`]: it means that the
//! reader is to be upgraded, and is never taken for damage or loss.

pub mod block;
pub mod cursor;
pub mod index;
pub mod message;
pub mod pool;
pub mod recovery;
pub mod segment;
mod wire;

pub use block::{Block, BlockBuilder, BlockHead, Record};
pub use cursor::{Cursor, FirstContact, Verdict};
pub use index::{Index, IndexEntry};
pub use message::{Busy, End, Fetch, Fork, Gap, GapReason, Head, Message};
pub use segment::SegmentHeader;
pub use wire::DecodeError;

use std::fmt;

/// Identifies the history that a journal holds. A journal that was wiped is another stream.
///
/// All zeros stands for no stream: a fetch for it asks only who is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub [u8; 16]);

impl fmt::Display for StreamId {
    /// As a UUID is written (RFC 9562, 4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A place between two records of a stream, and the block that ends there.
///
/// `previous` is the crc32c field of that block, 0 at the beginning of the stream. It tells a
/// stream from another that reused its numbers: the next block is the one that begins at `next`
/// *and* names this `previous`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the record after this place.
    pub next: u64,
    /// The crc32c field of the block before this place.
    pub previous: u32,
}
