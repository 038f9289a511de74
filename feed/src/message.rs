//! What is said about blocks: head, fetch, and what answers a fetch.
//!
//! Each begins with the envelope that all formats share (magic, crc32c, stream); these are the
//! fields behind it, from offset 24.
//!
//! [`Head`], `DPH1`, on the feed and as the first answer to every fetch:
//!
//! | offset | field |
//! |---|---|
//! | 24 | oldest `u64`: the first sequence that is kept |
//! | 32 | next `u64`: the sequence that the next record will have |
//! | 40 | previous at oldest `u32` |
//! | 44 | previous at next `u32` |
//! | 48 | name: UTF-8, 1 to 64 bytes, then zeros up to 64 |
//! | 112 | length of the replay address `u16`, 1 to 255 |
//! | 114 | replay address: UTF-8, `HOST:PORT` |
//!
//! [`Fetch`], `DPF1`, a request: blocks from a position on. Its stream may be all zeros, to ask who is there.
//!
//! | offset | field |
//! |---|---|
//! | 24 | from `u64` |
//! | 32 | previous known `u32` |
//! | 36 | credit `u32`: bytes of blocks that may be sent; 0 asks for the head alone |
//! | 40 | version `u32`: the highest version of blocks that the asker reads |
//!
//! [`Gap`], `DPG1`, in place of blocks that are no more:
//!
//! | offset | field |
//! |---|---|
//! | 24 | from `u64` |
//! | 32 | to `u64`: the first sequence behind it, more than from |
//! | 40 | previous at to `u32` |
//! | 44 | reason `u32`: 1 retention, 2 damage |
//!
//! [`Fork`], `DPX1`, to who asks from a position that this history does not have:
//!
//! | offset | field |
//! |---|---|
//! | 24 | from `u64`: as asked |
//! | 32 | previous `u32`: as asked |
//!
//! [`Busy`], `DPW1`, each second while a request waits: nothing behind the envelope.
//!
//! [`End`], `DPE1`, the last answer to a fetch:
//!
//! | offset | field |
//! |---|---|
//! | 24 | next `u64`: the position after the reply |
//! | 32 | previous `u32` there |

use crate::block::Block;
use crate::wire::{self, DecodeError, Kind, Reader};
use crate::{Position, StreamId};
use bytes::Bytes;

/// The longest name of a publisher, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest replay address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// The longest message that is not a block, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 114 + ADDRESS_BYTES_MAX;

const HEAD: Kind = Kind { name: "head", magic: *b"DPH1" };
const FETCH: Kind = Kind { name: "fetch", magic: *b"DPF1" };
const GAP: Kind = Kind { name: "gap", magic: *b"DPG1" };
const FORK: Kind = Kind { name: "fork", magic: *b"DPX1" };
const BUSY: Kind = Kind { name: "busy", magic: *b"DPW1" };
const END: Kind = Kind { name: "end", magic: *b"DPE1" };

/// Where a stream stands, and where its blocks can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The stream.
    pub stream: StreamId,
    /// What is kept begins here.
    pub oldest: Position,
    /// What is durable ends here. Not before [`Head::oldest`].
    pub next: Position,
    /// The publisher's name: 1 to [`NAME_BYTES_MAX`] bytes, no zeros.
    pub name: String,
    /// `HOST:PORT` of the replay socket: 1 to [`ADDRESS_BYTES_MAX`] bytes.
    pub replay: String,
}

impl Head {
    /// Its bytes. `None` if name or address are of a length that the format has no room for.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let fits = |text: &str, max| (1..=max).contains(&text.len());
        if !fits(&self.name, NAME_BYTES_MAX) || !fits(&self.replay, ADDRESS_BYTES_MAX) || self.name.contains('\0') {
            return None;
        }
        let mut bytes = HEAD.begin(self.stream, MESSAGE_BYTES_MAX);
        bytes.extend(self.oldest.next.to_le_bytes());
        bytes.extend(self.next.next.to_le_bytes());
        bytes.extend(self.oldest.previous.to_le_bytes());
        bytes.extend(self.next.previous.to_le_bytes());
        let mut name = [0; NAME_BYTES_MAX];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes.extend(name);
        bytes.extend((self.replay.len() as u16).to_le_bytes());
        bytes.extend(self.replay.as_bytes());
        wire::seal(&mut bytes);
        Some(bytes)
    }

    fn read(stream: StreamId, mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (oldest, next) = (reader.u64()?, reader.u64()?);
        let (previous_at_oldest, previous_at_next) = (reader.u32()?, reader.u32()?);
        if oldest > next {
            return Err(DecodeError::Bounds { field: "oldest", value: oldest });
        }
        let name: [u8; NAME_BYTES_MAX] = reader.array()?;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES_MAX);
        if length == 0 || name[length..].iter().any(|&byte| byte != 0) {
            return Err(DecodeError::Text("name"));
        }
        let name = std::str::from_utf8(&name[..length]).map_err(|_| DecodeError::Text("name"))?;
        let length = reader.u16()?;
        if !(1..=ADDRESS_BYTES_MAX).contains(&length.into()) {
            return Err(DecodeError::Bounds { field: "length of the replay address", value: length.into() });
        }
        let replay = reader.take(length.into())?;
        let replay = std::str::from_utf8(replay).map_err(|_| DecodeError::Text("replay address"))?;
        reader.end()?;
        Ok(Self {
            stream,
            oldest: Position { next: oldest, previous: previous_at_oldest },
            next: Position { next, previous: previous_at_next },
            name: name.to_owned(),
            replay: replay.to_owned(),
        })
    }
}

/// Asks for blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The stream, or all zeros.
    pub stream: StreamId,
    /// From where.
    pub from: Position,
    /// Bytes of blocks that may be sent; 0 asks for the head alone. The server has its own limit.
    pub credit_bytes: u32,
    /// The highest version of blocks that the asker reads.
    pub version: u32,
}

impl Fetch {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = FETCH.begin(self.stream, 44);
        put_position(self.from, &mut bytes);
        bytes.extend(self.credit_bytes.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        wire::seal(&mut bytes);
        bytes
    }

    fn read(stream: StreamId, mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let fetch = Self { stream, from: position(&mut reader)?, credit_bytes: reader.u32()?, version: reader.u32()? };
        reader.end()?;
        Ok(fetch)
    }
}

/// Why records are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// They were older, or more, than the journal keeps.
    Retention,
    /// The disk did not keep them.
    Damage,
}

/// Records that cannot be had any more: the only ground on which a loss is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The stream.
    pub stream: StreamId,
    /// The first that is missing.
    pub from: u64,
    /// Where the stream goes on: behind [`Gap::from`].
    pub to: Position,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = GAP.begin(self.stream, 48);
        bytes.extend(self.from.to_le_bytes());
        put_position(self.to, &mut bytes);
        let reason: u32 = match self.reason {
            GapReason::Retention => 1,
            GapReason::Damage => 2,
        };
        bytes.extend(reason.to_le_bytes());
        wire::seal(&mut bytes);
        bytes
    }

    fn read(stream: StreamId, mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (from, to) = (reader.u64()?, position(&mut reader)?);
        if to.next <= from {
            return Err(DecodeError::Bounds { field: "to", value: to.next });
        }
        let reason = match reader.u32()? {
            1 => GapReason::Retention,
            2 => GapReason::Damage,
            other => return Err(DecodeError::Bounds { field: "reason", value: other.into() }),
        };
        reader.end()?;
        Ok(Self { stream, from, to, reason })
    }
}

/// The position that was asked for is not one of this history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The stream.
    pub stream: StreamId,
    /// The position, as asked.
    pub from: Position,
}

impl Fork {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_with_position(FORK, self.stream, self.from)
    }
}

/// The request waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// The stream.
    pub stream: StreamId,
}

impl Busy {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = BUSY.begin(self.stream, wire::ENVELOPE_BYTES);
        wire::seal(&mut bytes);
        bytes
    }
}

/// The reply is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The stream.
    pub stream: StreamId,
    /// The position after the reply.
    pub at: Position,
}

impl End {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_with_position(END, self.stream, self.at)
    }
}

fn encode_with_position(kind: Kind, stream: StreamId, position: Position) -> Vec<u8> {
    let mut bytes = kind.begin(stream, 36);
    put_position(position, &mut bytes);
    wire::seal(&mut bytes);
    bytes
}

fn put_position(position: Position, bytes: &mut Vec<u8>) {
    bytes.extend(position.next.to_le_bytes());
    bytes.extend(position.previous.to_le_bytes());
}

fn position(reader: &mut Reader<'_>) -> Result<Position, DecodeError> {
    Ok(Position { next: reader.u64()?, previous: reader.u32()? })
}

fn only_position(mut reader: Reader<'_>) -> Result<Position, DecodeError> {
    let position = position(&mut reader)?;
    reader.end()?;
    Ok(position)
}

/// Anything that comes on a socket of the feed or of the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Records.
    Block(Block),
    /// Where the stream stands.
    Head(Head),
    /// A request.
    Fetch(Fetch),
    /// Records that are no more.
    Gap(Gap),
    /// A position that is not one of this history.
    Fork(Fork),
    /// Wait.
    Busy(Busy),
    /// The end of a reply.
    End(End),
}

impl Message {
    /// Reads a frame of whatever kind.
    ///
    /// # Errors
    /// What is wrong with it; see [`DecodeError`]. The kind is that of a block if it is none at all.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        let small = |kind: Kind| kind.open(&frame);
        let message = match frame.first_chunk::<3>() {
            Some(b"DPH") => small(HEAD).and_then(|(stream, reader)| Ok(Self::Head(Head::read(stream, reader)?)))?,
            Some(b"DPF") => small(FETCH).and_then(|(stream, reader)| Ok(Self::Fetch(Fetch::read(stream, reader)?)))?,
            Some(b"DPG") => small(GAP).and_then(|(stream, reader)| Ok(Self::Gap(Gap::read(stream, reader)?)))?,
            Some(b"DPX") => {
                let (stream, reader) = small(FORK)?;
                Self::Fork(Fork { stream, from: only_position(reader)? })
            }
            Some(b"DPW") => {
                let (stream, reader) = small(BUSY)?;
                reader.end()?;
                Self::Busy(Busy { stream })
            }
            Some(b"DPE") => {
                let (stream, reader) = small(END)?;
                Self::End(End { stream, at: only_position(reader)? })
            }
            _ => Self::Block(Block::decode(frame)?),
        };
        Ok(message)
    }

    /// The stream that it is about.
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Block(block) => block.head().stream,
            Self::Head(Head { stream, .. })
            | Self::Fetch(Fetch { stream, .. })
            | Self::Gap(Gap { stream, .. })
            | Self::Fork(Fork { stream, .. })
            | Self::Busy(Busy { stream })
            | Self::End(End { stream, .. }) => *stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: StreamId = StreamId(*b"0123456789abcdef");
    const AT: Position = Position { next: 41, previous: 0xdead_beef };

    fn head() -> Head {
        Head {
            stream: STREAM,
            oldest: Position { next: 7, previous: 0x0102_0304 },
            next: AT,
            name: "publisher-1".to_owned(),
            replay: "127.0.0.1:4446".to_owned(),
        }
    }

    fn encode(message: &Message) -> Vec<u8> {
        match message {
            Message::Block(block) => block.bytes().to_vec(),
            Message::Head(head) => head.encode().unwrap(),
            Message::Fetch(fetch) => fetch.encode(),
            Message::Gap(gap) => gap.encode(),
            Message::Fork(fork) => fork.encode(),
            Message::Busy(busy) => busy.encode(),
            Message::End(end) => end.encode(),
        }
    }

    fn examples() -> [(Message, &'static str); 6] {
        [
            (
                Message::Head(head()),
                "445048311e55c2cd303132333435363738396162636465660700000000000000290000000000000004030201efbeadde \
        7075626c69736865722d3100000000000000000000000000000000000000000000000000000000000000000000000000 \
        000000000000000000000000000000000e003132372e302e302e313a34343436",
            ),
            (
                Message::Fetch(Fetch { stream: STREAM, from: AT, credit_bytes: 1 << 20, version: 1 }),
                "44504631b11b533b303132333435363738396162636465662900000000000000efbeadde0000100001000000",
            ),
            (
                Message::Gap(Gap { stream: STREAM, from: 7, to: AT, reason: GapReason::Damage }),
                "44504731273fbd8d3031323334353637383961626364656607000000000000002900000000000000efbeadde02000000",
            ),
            (
                Message::Fork(Fork { stream: STREAM, from: AT }),
                "445058316500d494303132333435363738396162636465662900000000000000efbeadde",
            ),
            (Message::Busy(Busy { stream: STREAM }), "44505731b55cdd9e30313233343536373839616263646566"),
            (
                Message::End(End { stream: STREAM, at: AT }),
                "44504531612b0024303132333435363738396162636465662900000000000000efbeadde",
            ),
        ]
    }

    #[test]
    fn messages_have_these_bytes() {
        for (message, golden) in examples() {
            let bytes = encode(&message);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, golden.split_whitespace().collect::<String>(), "{message:?}");
            assert_eq!(Message::decode(bytes.into()), Ok(message));
        }
    }

    #[test]
    fn damaged_cut_and_prolonged_messages_are_refused() {
        for (message, _) in examples() {
            let bytes = encode(&message);
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            for length in 0..bytes.len() {
                assert!(Message::decode(bytes[..length].to_vec().into()).is_err(), "{message:?} cut to {length}");
            }
            for bit in 0..8 * bytes.len() {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Message::decode(damaged.into()).is_err(), "{message:?} with bit {bit} changed");
            }
            let mut prolonged = bytes.clone();
            prolonged.push(0);
            wire::seal(&mut prolonged);
            assert_eq!(Message::decode(prolonged.into()), Err(DecodeError::Long(1)), "{message:?}");
            let mut upgraded = bytes;
            upgraded[3] = b'2';
            wire::seal(&mut upgraded);
            assert!(matches!(Message::decode(upgraded.into()), Err(DecodeError::Version { version: b'2', .. })));
        }
    }

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let refused = |message: Message, offset: usize, field: &[u8]| {
            let mut bytes = encode(&message);
            bytes[offset..offset + field.len()].copy_from_slice(field);
            wire::seal(&mut bytes);
            Message::decode(bytes.into()).unwrap_err()
        };
        let gap = || examples()[2].0.clone();
        assert_eq!(refused(Message::Head(head()), 24, &[42]), DecodeError::Bounds { field: "oldest", value: 42 });
        assert_eq!(refused(Message::Head(head()), 48, &[0]), DecodeError::Text("name"));
        assert_eq!(refused(Message::Head(head()), 48, &[0xff]), DecodeError::Text("name"));
        assert_eq!(refused(Message::Head(head()), 111, &[1]), DecodeError::Text("name"));
        let field = "length of the replay address";
        assert_eq!(refused(Message::Head(head()), 112, &[0]), DecodeError::Bounds { field, value: 0 });
        assert_eq!(refused(Message::Head(head()), 113, &[1]), DecodeError::Bounds { field, value: 256 + 14 });
        assert_eq!(refused(Message::Head(head()), 114, &[0xff]), DecodeError::Text("replay address"));
        assert_eq!(refused(gap(), 32, &[7]), DecodeError::Bounds { field: "to", value: 7 });
        assert_eq!(refused(gap(), 44, &[3]), DecodeError::Bounds { field: "reason", value: 3 });
    }

    #[test]
    fn a_head_without_room_for_its_texts_is_not_encoded() {
        let with = |name: String, replay: String| Head { name, replay, ..head() }.encode();
        assert!(with("n".repeat(64), "r".repeat(255)).is_some());
        assert!(with("n".repeat(65), "r".to_owned()).is_none());
        assert!(with(String::new(), "r".to_owned()).is_none());
        assert!(with("a\0b".to_owned(), "r".to_owned()).is_none());
        assert!(with("n".to_owned(), "r".repeat(256)).is_none());
        assert!(with("n".to_owned(), String::new()).is_none());
    }

    proptest! {
        #[test]
        fn heads_read_back(
            stream: [u8; 16], oldest: u64, more: u64, previous: (u32, u32),
            name in "[^\0]{1,16}", replay in "\\PC{1,60}",
        ) {
            let head = Head {
                stream: StreamId(stream),
                oldest: Position { next: oldest, previous: previous.0 },
                next: Position { next: oldest.saturating_add(more), previous: previous.1 },
                name,
                replay,
            };
            prop_assert_eq!(Message::decode(head.encode().unwrap().into()), Ok(Message::Head(head)));
        }

        /// Of any kind, with a checksum that is right.
        #[test]
        fn no_bytes_panic_and_what_is_read_encodes_to_the_same(
            kind in 0..6_usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut bytes = encode(&examples()[kind].0);
            for (at, value) in changes {
                let at = 8 + at.index(bytes.len() - 8);
                bytes[at] = value;
            }
            wire::seal(&mut bytes);
            if let Ok(message) = Message::decode(bytes.clone().into()) {
                prop_assert_eq!(encode(&message), bytes);
            }
        }
    }
}
