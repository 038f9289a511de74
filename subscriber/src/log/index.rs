//! The index of a log: what is in its text, and where. `LOG.idx`, beside the log and rotated with it.
//!
//! Entries of [`ENTRY_BYTES`], one after the other, each with a checksum of its own. Integers are
//! little-endian.
//!
//! | offset | field |
//! |---|---|
//! | 0 | crc32c of bytes 4 to the end `u32` |
//! | 4 | kind `u8`, see [`Kind`] |
//! | 5 | version `u8`, 1 |
//! | 6 | length of the entry's own words `u16`, in bytes |
//! | 8 | stream: 16 bytes, zeros for what is of none |
//! | 24 | first `u64` |
//! | 32 | next `u64` |
//! | 40 | end `u64`: where the entry's text ends in the log, in bytes |
//! | 48 | lines `u32`: how many its text has |
//! | 52 | crc32c of its text `u32`, 0 for none |
//! | 56 | previous `u32`: the chain value at next |
//! | 60 | detail `u32` |
//! | 64 | time `i64`: of receipt, nanoseconds since the Unix epoch |
//! | 72 | the first 56 bytes of its words, then zeros |
//!
//! Words that are longer go on in entries of the kind [`Kind::More`] right behind, 120 bytes each from
//! offset 8. An entry counts only with all of them.
//!
//! | kind | | first | next, previous | detail | words |
//! |---|---|---|---|---|---|
//! | 1 | begin: the first entry of every index; its time is the file's | number of the file | | | |
//! | 2 | stream: where it stands, and who it is | base | position | length of the name | name, then home |
//! | 3 | block | of its records | behind it | | |
//! | 4 | plain messages; of stream zero | | | | |
//! | 5 | lost records | the first | behind them | reason, as in a gap | |
//! | 6 | fork | where the log stood | where it goes on | | |
//! | 7 | replaced: the stream's home has another now | where the log stood | highest heard | length of the name | 16 bytes: the new stream, 12 bytes: its base, name, then home |
//! | 8 | moved: the file before was moved, deleted, cut or damaged | number of that file | | why, see [`Aside`] | |
//! | 9 | synced: what is before is on the disk | bytes of the index | | | |
//! | 10 | sealed: the log is complete, and gets this name | | | | name |
//!
//! An index begins with a begin entry and a stream entry for each stream that the log knows, the one that
//! was named last for a home behind the others; so the newest index alone tells where to go on.
//!
//! A stream entry for a stream that is new to the log is its first contact: `base` and position are the
//! same. A replaced entry is the first contact of the new stream, or its return, in the same breath. The
//! end of a synced entry is that of the text that is on the disk.

use feed::{Position, StreamId};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 128;
/// The longest words of an entry, in bytes: a name and an address, or a file's name.
pub const WORDS_BYTES_MAX: usize = 640;

/// The longest entry with all that its words take, in bytes.
pub const LONGEST_BYTES: usize = ENTRY_BYTES + WORDS_BYTES_MAX.next_multiple_of(ENTRY_BYTES);

const VERSION: u8 = 1;
const FIRST_WORDS: usize = 56;
const MORE_WORDS: usize = ENTRY_BYTES - 8;
/// The kind of an entry that has no more than words of the one before.
pub(crate) const MORE: u8 = 11;

/// Bytes in the words of a [`Kind::Replaced`] entry before the name: the new stream, and where the log stands in it.
pub const REPLACED_BYTES: usize = 28;

/// Why a file was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Aside {
    /// The log was moved or deleted.
    Moved = 1,
    /// The log is shorter than what was on the disk.
    Shorter = 2,
    /// The index is damaged.
    Damaged = 3,
    /// The log had no index.
    Adopted = 4,
}

impl Aside {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Moved, Self::Shorter, Self::Damaged, Self::Adopted];

    /// As lines and names of files have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Shorter => "shorter",
            Self::Damaged => "damaged",
            Self::Adopted => "adopted",
        }
    }
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first entry of every index.
    Begin = 1,
    /// Where a stream stands, and who it is.
    Stream = 2,
    /// A block of records.
    Block = 3,
    /// Messages of plain sources.
    Plain = 4,
    /// Records that are lost.
    Lost = 5,
    /// The stream's history went another way.
    Fork = 6,
    /// The stream ended: its home has another.
    Replaced = 7,
    /// The log was moved, deleted or cut from outside.
    Moved = 8,
    /// All before it is on the disk.
    Synced = 9,
    /// The log is complete.
    Sealed = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Begin,
        Self::Stream,
        Self::Block,
        Self::Plain,
        Self::Lost,
        Self::Fork,
        Self::Replaced,
        Self::Moved,
        Self::Synced,
        Self::Sealed,
    ];
}

/// An entry with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub kind: Kind,
    /// The stream, or zeros.
    pub stream: StreamId,
    /// See the table.
    pub first: u64,
    /// See the table.
    pub next: Position,
    /// Where its text ends in the log, in bytes.
    pub end: u64,
    /// Lines of its text.
    pub lines: u32,
    /// The checksum of its text.
    pub text_crc: u32,
    /// See the table.
    pub detail: u32,
    /// When it was received.
    pub time_ns: i64,
    /// At most [`WORDS_BYTES_MAX`] bytes.
    pub words: Vec<u8>,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// They end before it does.
    #[error("an entry is cut short")]
    Short,
    /// They have another checksum.
    #[error("an entry has another checksum")]
    Checksum,
    /// A field has a value that there is not.
    #[error("{field} of an entry is {value}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl Entry {
    /// An entry with nothing but its kind and where the text stands.
    pub fn new(kind: Kind, end: u64) -> Self {
        Self {
            kind,
            stream: StreamId::default(),
            first: 0,
            next: Position::default(),
            end,
            lines: 0,
            text_crc: 0,
            detail: 0,
            time_ns: 0,
            words: Vec::new(),
        }
    }

    /// Appends its bytes: one entry, and as many more as its words take.
    ///
    /// # Panics
    /// The words are longer than [`WORDS_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_at(self.end, out);
    }

    /// The same, with another end.
    ///
    /// # Panics
    /// As [`Self::encode`].
    pub(crate) fn encode_at(&self, end: u64, out: &mut Vec<u8>) {
        assert!(self.words.len() <= WORDS_BYTES_MAX, "names are checked before they are entered");
        let begin = out.len();
        let (here, more) = self.words.split_at(self.words.len().min(FIRST_WORDS));
        out.extend([0; 4]);
        out.extend([self.kind as u8, VERSION]);
        out.extend((self.words.len() as u16).to_le_bytes());
        out.extend(self.stream.0);
        out.extend(self.first.to_le_bytes());
        out.extend(self.next.next.to_le_bytes());
        out.extend(end.to_le_bytes());
        out.extend(self.lines.to_le_bytes());
        out.extend(self.text_crc.to_le_bytes());
        out.extend(self.next.previous.to_le_bytes());
        out.extend(self.detail.to_le_bytes());
        out.extend(self.time_ns.to_le_bytes());
        out.extend(here);
        seal(out, begin);
        for words in more.chunks(MORE_WORDS) {
            let begin = out.len();
            out.extend([0, 0, 0, 0, MORE, VERSION, 0, 0]);
            out.extend(words);
            seal(out, begin);
        }
    }

    /// Reads the entry that `bytes` begin with, and tells how long it is.
    ///
    /// # Errors
    /// What is wrong with it; see [`EntryError`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), EntryError> {
        let (head, mut rest) = bytes.split_first_chunk::<ENTRY_BYTES>().ok_or(EntryError::Short)?;
        check(head)?;
        let field = |field, value, ok: bool| if ok { Ok(()) } else { Err(EntryError::Field { field, value }) };
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == head[4]);
        let kind = kind.ok_or(EntryError::Field { field: "kind", value: head[4].into() })?;
        field("version", head[5].into(), head[5] == VERSION)?;
        let length = usize::from(u16::from_le_bytes([head[6], head[7]]));
        field("length of words", length as u64, length <= WORDS_BYTES_MAX)?;
        let (first, next) = (u64_at(head, 24), u64_at(head, 32));
        let mut words = Vec::new();
        if length > 0 || head[72..] != [0; FIRST_WORDS] {
            words.extend(&head[72..]);
        }
        while words.len() < length {
            let (more, behind) = rest.split_first_chunk::<ENTRY_BYTES>().ok_or(EntryError::Short)?;
            check(more)?;
            field("kind", more[4].into(), more[4..8] == [MORE, VERSION, 0, 0])?;
            words.extend(&more[8..]);
            rest = behind;
        }
        let padding = words.split_off(length);
        field("padding", 1, padding.iter().all(|&byte| byte == 0))?;
        let entry = Self {
            kind,
            stream: StreamId(head[8..24].try_into().expect("16 bytes")),
            first,
            next: Position { next, previous: u32_at(head, 56) },
            end: u64_at(head, 40),
            lines: u32_at(head, 48),
            text_crc: u32_at(head, 52),
            detail: u32_at(head, 60),
            time_ns: u64_at(head, 64) as i64,
            words,
        };
        Ok((entry, bytes.len() - rest.len()))
    }
}

/// Fills an entry up with zeros and writes its checksum.
fn seal(out: &mut Vec<u8>, begin: usize) {
    out.resize(begin + ENTRY_BYTES, 0);
    let checksum = crc32c::crc32c(&out[begin + 4..]);
    out[begin..begin + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn check(entry: &[u8; ENTRY_BYTES]) -> Result<(), EntryError> {
    if u32_at(entry, 0) == crc32c::crc32c(&entry[4..]) { Ok(()) } else { Err(EntryError::Checksum) }
}

fn u32_at(entry: &[u8; ENTRY_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(entry[offset..offset + 4].try_into().expect("4 bytes"))
}

fn u64_at(entry: &[u8; ENTRY_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(entry[offset..offset + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        Entry {
            kind: Kind::Stream,
            stream: StreamId(*b"0123456789abcdef"),
            first: 7,
            next: Position { next: 41, previous: 0xdead_beef },
            end: 4096,
            lines: 3,
            text_crc: 0x0102_0304,
            detail: 11,
            time_ns: -2,
            words: b"publisher-1127.0.0.1:4445".to_vec(),
        }
    }

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut out = Vec::new();
        entry.encode(&mut out);
        out
    }

    #[test]
    fn an_entry_has_these_bytes() {
        let hex: String = encoded(&entry()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.split_whitespace().collect::<String>());
    }

    const GOLDEN: &str = "1c55ceaa0201190030313233343536373839616263646566070000000000000029000000000000000010000000000000 \
        0300000004030201efbeadde0b000000feffffffffffffff7075626c69736865722d313132372e302e302e313a343434 \
        3500000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let refused = |offset: usize, value: u8| {
            let mut bytes = encoded(&entry());
            bytes[offset] = value;
            bytes[..4].fill(0);
            let checksum = crc32c::crc32c(&bytes[4..ENTRY_BYTES]);
            bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            Entry::decode(&bytes).unwrap_err()
        };
        assert_eq!(refused(4, 0), EntryError::Field { field: "kind", value: 0 });
        assert_eq!(refused(4, MORE), EntryError::Field { field: "kind", value: 11 });
        assert_eq!(refused(5, 2), EntryError::Field { field: "version", value: 2 });
        assert_eq!(refused(7, 3), EntryError::Field { field: "length of words", value: 0x300 + 25 });
        assert_eq!(refused(6, 24), EntryError::Field { field: "padding", value: 1 });
        assert_eq!(refused(6, 57), EntryError::Short);
    }

    proptest! {
        #[test]
        fn entries_read_back_and_damaged_ones_are_refused(
            kind in 0..10_usize, stream: [u8; 16], numbers: [u64; 3], small: [u32; 4], time_ns: i64,
            words in prop::collection::vec(any::<u8>(), 0..WORDS_BYTES_MAX), at: prop::sample::Index, bit in 0..8
        ) {
            let entry = Entry {
                kind: Kind::ALL[kind],
                stream: StreamId(stream),
                first: numbers[0],
                next: Position { next: numbers[1], previous: small[0] },
                end: numbers[2],
                lines: small[1],
                text_crc: small[2],
                detail: small[3],
                time_ns,
                words,
            };
            let mut bytes = encoded(&entry);
            let length = bytes.len();
            prop_assert_eq!(length % ENTRY_BYTES, 0);
            bytes.extend(b"behind it");
            prop_assert_eq!(Entry::decode(&bytes), Ok((entry, length)));
            bytes.truncate(length);
            let at = at.index(length);
            prop_assert!(Entry::decode(&bytes[..at]).is_err());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Entry::decode(&bytes).is_err());
        }
    }
}
