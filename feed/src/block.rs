//! Record and block: the unit of commit, of sending and of replay.
//!
//! A block is encoded once, and the same bytes go to disk and to every socket.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `DPB1` |
//! | 4 | crc32c of bytes 0 to 3 and 8 to the end |
//! | 8 | stream: 16 bytes |
//! | 24 | first sequence `u64` |
//! | 32 | record count `u32`, 1 to 16,384 |
//! | 36 | payload length `u32`, at most 1 MiB |
//! | 40 | base time `i64`: of the first record, nanoseconds since the Unix epoch |
//! | 48 | previous `u32`: the crc32c field of the stream's block before this one, 0 for the first |
//! | 52 | flags `u32`, 0 |
//! | 56 | payload |
//!
//! The payload is, for each record: the time since the record before as a zigzag varint, the topic's
//! length as a varint, the topic (UTF-8, 1 to 255 bytes), the body's length as a varint, the body
//! (0 to 256 KiB). Times do not go back; varints are as short as they can be. So a block has one
//! encoding.
//!
//! Bytes 0 to 55 keep their meaning in every version, and what the checksum covers as well:
//! [`BlockHead`] reads them of any.

use crate::pool;
use crate::wire::{self, DecodeError, Kind, Reader, put_varint, put_zigzag, varint_bytes};
use crate::{Position, StreamId};
use bytes::Bytes;

/// Bytes in front of the payload.
pub const HEAD_BYTES: usize = 56;
/// The longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// The longest block, in bytes.
pub const BLOCK_BYTES_MAX: usize = HEAD_BYTES + PAYLOAD_BYTES_MAX;
/// The most records in a block.
pub const RECORDS_MAX: u32 = 16_384;
/// The shortest record in a payload, in bytes: its time, a topic of one byte, an empty body.
pub const RECORD_BYTES_MIN: u64 = 4;
/// The longest topic, in bytes.
pub const TOPIC_BYTES_MAX: usize = 255;
/// The longest body, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

const KIND: Kind = Kind { name: "block", magic: *b"DPB1" };

/// What was published: one of a block's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the stream: dense, from 0.
    pub sequence: u64,
    /// When it was published, in nanoseconds since the Unix epoch. Does not go back within a stream.
    pub time_ns: i64,
    /// What it is about: 1 to [`TOPIC_BYTES_MAX`] bytes.
    pub topic: &'a str,
    /// What it says: at most [`BODY_BYTES_MAX`] bytes.
    pub body: &'a [u8],
}

/// The first [`HEAD_BYTES`] bytes of a block, of whatever version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// The letter of the version: `1` is the one that [`Block`] reads.
    pub version: u8,
    /// The crc32c field.
    pub checksum: u32,
    /// Whose block it is.
    pub stream: StreamId,
    /// The number of its first record.
    pub first: u64,
    /// How many records it has.
    pub count: u32,
    /// How long the payload is, in bytes: a claim.
    pub payload_bytes: u32,
    /// The time of its first record.
    pub base_time_ns: i64,
    /// The crc32c field of the block before it.
    pub previous: u32,
    /// None are defined.
    pub flags: u32,
}

impl BlockHead {
    /// Reads a block's head, and checks nothing but that it is one.
    ///
    /// # Errors
    /// Fewer than [`HEAD_BYTES`] bytes, or no block.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match KIND.check_magic(bytes) {
            Ok(()) | Err(DecodeError::Version { .. }) => {}
            Err(error) => return Err(error),
        }
        let head = bytes.get(..HEAD_BYTES).ok_or(DecodeError::Short(bytes.len()))?;
        let mut reader = Reader(&head[3..]);
        let [version] = reader.array()?;
        Ok(Self {
            version,
            checksum: reader.u32()?,
            stream: StreamId(reader.array()?),
            first: reader.u64()?,
            count: reader.u32()?,
            payload_bytes: reader.u32()?,
            base_time_ns: reader.i64()?,
            previous: reader.u32()?,
            flags: reader.u32()?,
        })
    }

    /// The place in front of the block.
    pub fn start(&self) -> Position {
        Position { next: self.first, previous: self.previous }
    }

    /// The place behind the block, as it claims.
    pub fn end(&self) -> Position {
        Position { next: self.first.saturating_add(self.count.into()), previous: self.checksum }
    }

    /// How long the whole block is, in bytes, in whatever version: a claim without any bound.
    pub fn claimed_bytes(&self) -> usize {
        HEAD_BYTES.saturating_add(self.payload_bytes as usize)
    }

    /// How long the whole block is, in bytes: a claim, and never more than [`BLOCK_BYTES_MAX`].
    ///
    /// # Errors
    /// The version is not known, or the head claims what no block has.
    pub fn block_bytes(&self) -> Result<usize, DecodeError> {
        if self.version != KIND.magic[3] {
            return Err(DecodeError::Version { kind: KIND.name, version: self.version });
        }
        let bounds = |field, value, ok| if ok { Ok(()) } else { Err(DecodeError::Bounds { field, value }) };
        bounds("payload length", self.payload_bytes.into(), self.payload_bytes as usize <= PAYLOAD_BYTES_MAX)?;
        bounds("record count", self.count.into(), (1..=RECORDS_MAX).contains(&self.count))?;
        bounds("flags", self.flags.into(), self.flags == 0)?;
        bounds("first sequence", self.first, self.first.checked_add(self.count.into()).is_some())?;
        Ok(self.claimed_bytes())
    }
}

/// A block that is whole: every check has been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    head: BlockHead,
    last_time_ns: i64,
    bytes: Bytes,
}

impl Block {
    /// Takes bytes for a block, if they are one, whole and alone.
    ///
    /// # Errors
    /// What is wrong with them; see [`DecodeError`].
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let (head, last_time_ns) = Self::check(&bytes)?;
        match bytes.len() - head.block_bytes()? {
            0 => Ok(Self { head, last_time_ns, bytes }),
            more => Err(DecodeError::Long(more)),
        }
    }

    /// Checks that `bytes` begin with a whole block, and tells its head. Others may follow.
    ///
    /// # Errors
    /// What is wrong with it; see [`DecodeError`].
    pub fn check_front(bytes: &[u8]) -> Result<BlockHead, DecodeError> {
        Self::check(bytes).map(|(head, _)| head)
    }

    /// The same; with the time of its last record.
    fn check(bytes: &[u8]) -> Result<(BlockHead, i64), DecodeError> {
        let head = BlockHead::decode(bytes)?;
        let claimed = head.block_bytes();
        if let Err(DecodeError::Bounds { .. }) = claimed {
            claimed?;
        }
        let bytes = bytes.get(..head.claimed_bytes()).ok_or(DecodeError::Short(bytes.len()))?;
        // Only what is whole is of another version; else it is damaged.
        wire::check(bytes)?;
        claimed?;
        let mut records = Records::of(&head, bytes);
        for _ in 0..head.count {
            records.read()?;
        }
        records.payload.end()?;
        Ok((head, records.time_ns))
    }

    /// What its head says.
    pub fn head(&self) -> &BlockHead {
        &self.head
    }

    /// Its encoding.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The place in front of it.
    pub fn start(&self) -> Position {
        self.head.start()
    }

    /// The place behind it.
    pub fn end(&self) -> Position {
        self.head.end()
    }

    /// When its last record was published.
    pub fn last_time_ns(&self) -> i64 {
        self.last_time_ns
    }

    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut records = Records::of(&self.head, &self.bytes);
        (0..self.head.count).map(move |_| records.read().expect("every record was read when the block was decoded"))
    }
}

/// Reads records off a payload.
struct Records<'a> {
    payload: Reader<'a>,
    first: u64,
    index: u32,
    time_ns: i64,
    /// That of the record before: most have the same, which need not be looked at again.
    topic: &'a str,
}

impl<'a> Records<'a> {
    fn of(head: &BlockHead, bytes: &'a [u8]) -> Self {
        Self {
            payload: Reader(&bytes[HEAD_BYTES..]),
            first: head.first,
            index: 0,
            time_ns: head.base_time_ns,
            topic: "",
        }
    }

    fn read(&mut self) -> Result<Record<'a>, DecodeError> {
        let since = self.payload.zigzag()?;
        let later = self.time_ns.checked_add(since).filter(|_| since >= 0 && (self.index > 0 || since == 0));
        self.time_ns = later.ok_or(DecodeError::Time(self.index))?;
        let topic = self.text("topic length", 1, TOPIC_BYTES_MAX)?;
        if topic != self.topic.as_bytes() {
            self.topic = std::str::from_utf8(topic).map_err(|_| DecodeError::Text("topic"))?;
        }
        let body = self.text("body length", 0, BODY_BYTES_MAX)?;
        let sequence = self.first + u64::from(self.index);
        self.index += 1;
        Ok(Record { sequence, time_ns: self.time_ns, topic: self.topic, body })
    }

    fn text(&mut self, field: &'static str, min: usize, max: usize) -> Result<&'a [u8], DecodeError> {
        let value = self.payload.varint()?;
        let length = usize::try_from(value).ok().filter(|length| (min..=max).contains(length));
        self.payload.take(length.ok_or(DecodeError::Bounds { field, value })?)
    }
}

/// Why a record does not go into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It goes into the next one.
    #[error("the block is full")]
    Full,
    /// No block takes such a topic.
    #[error("a topic of {0} bytes, not 1 to {TOPIC_BYTES_MAX}")]
    Topic(usize),
    /// No block takes such a body.
    #[error("a body of {0} bytes, more than {BODY_BYTES_MAX}")]
    Body(usize),
    /// Times do not go back; the caller has the last one.
    #[error("a time before that of the last record")]
    Time,
}

/// Encodes one block at a time.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    /// Empty, or the head's place and the payload so far.
    bytes: Vec<u8>,
    count: u32,
    base_time_ns: i64,
    time_ns: i64,
}

impl BlockBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds a record behind those before.
    ///
    /// # Errors
    /// It does not go in, and nothing has changed; see [`PushError`]. An empty block is not full.
    pub fn push(&mut self, time_ns: i64, topic: &str, body: &[u8]) -> Result<(), PushError> {
        if !(1..=TOPIC_BYTES_MAX).contains(&topic.len()) {
            return Err(PushError::Topic(topic.len()));
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(PushError::Body(body.len()));
        }
        if self.count == 0 {
            if self.bytes.capacity() == 0 {
                self.bytes = pool::take();
            }
            self.bytes.resize(HEAD_BYTES, 0);
            (self.base_time_ns, self.time_ns) = (time_ns, time_ns);
        }
        // Times so far apart that their distance has no number are more than 292 years apart.
        let since = time_ns.checked_sub(self.time_ns).filter(|since| *since >= 0).ok_or(PushError::Time)?;
        let length = zigzag_bytes(since)
            + varint_bytes(topic.len() as u64)
            + topic.len()
            + varint_bytes(body.len() as u64)
            + body.len();
        if self.count == RECORDS_MAX || self.bytes.len() + length > BLOCK_BYTES_MAX {
            return Err(PushError::Full);
        }
        let (full, capacity) = (self.bytes.len() + length, self.bytes.capacity());
        if full > capacity && full > BLOCK_BYTES_MAX / 4 {
            // The last time that it grows.
            self.bytes.reserve_exact(BLOCK_BYTES_MAX - self.bytes.len());
        }
        put_zigzag(since, &mut self.bytes);
        put_varint(topic.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(topic.as_bytes());
        put_varint(body.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(body);
        self.count += 1;
        self.time_ns = time_ns;
        Ok(())
    }

    /// Adds records of one time behind those before: all of them, or none.
    ///
    /// # Errors
    /// One of them does not go in, and nothing has changed; see [`PushError`]. An empty block is full if all of
    /// them are more than a block.
    pub fn push_all<'a>(
        &mut self,
        time_ns: i64,
        records: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), PushError> {
        let (length, count, base_time_ns, last_ns) = (self.bytes.len(), self.count, self.base_time_ns, self.time_ns);
        let pushed = records.into_iter().try_for_each(|(topic, body)| self.push(time_ns, topic, body));
        if pushed.is_err() {
            self.bytes.truncate(length);
            (self.count, self.base_time_ns, self.time_ns) = (count, base_time_ns, last_ns);
        }
        pushed
    }

    /// The block of what was pushed, at its place in the stream, and an empty builder again.
    /// `None` if nothing was pushed, or the stream has no numbers left.
    pub fn finish(&mut self, stream: StreamId, at: Position) -> Option<Block> {
        if self.count == 0 || at.next.checked_add(self.count.into()).is_none() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let count = std::mem::take(&mut self.count);
        let payload_bytes = u32::try_from(bytes.len() - HEAD_BYTES).expect("a payload is at most 1 MiB long");
        let mut head = KIND.begin(stream, HEAD_BYTES);
        head.extend(at.next.to_le_bytes());
        head.extend(count.to_le_bytes());
        head.extend(payload_bytes.to_le_bytes());
        head.extend(self.base_time_ns.to_le_bytes());
        head.extend(at.previous.to_le_bytes());
        head.extend(0_u32.to_le_bytes());
        bytes[..HEAD_BYTES].copy_from_slice(&head);
        wire::seal(&mut bytes);
        let head = BlockHead::decode(&bytes).expect("a block has just been encoded");
        Some(Block { head, last_time_ns: self.time_ns, bytes: pool::freeze(bytes) })
    }
}

fn zigzag_bytes(value: i64) -> usize {
    varint_bytes((value << 1 ^ value >> 63) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: StreamId = StreamId(*b"0123456789abcdef");

    fn block(at: Position, records: &[(i64, &str, &[u8])]) -> Block {
        let mut builder = BlockBuilder::new();
        for (time_ns, topic, body) in records {
            builder.push(*time_ns, topic, body).unwrap();
        }
        builder.finish(STREAM, at).unwrap()
    }

    fn small() -> Block {
        let at = Position { next: 41, previous: 0xdead_beef };
        block(at, &[(1_000_000_000, "downcase", b"lower case of A is a"), (1_000_000_300, "x", b"")])
    }

    /// `bytes` with a checksum that is right again: what a broken or hostile encoder could send.
    fn resealed(mut bytes: Vec<u8>) -> Bytes {
        wire::seal(&mut bytes);
        bytes.into()
    }

    #[test]
    fn a_block_has_these_bytes() {
        // Computed from the table above by a program of another language.
        let golden = GOLDEN.split_whitespace().collect::<String>();
        let hex: String = small().bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    const GOLDEN: &str = "44504231e7da65b9303132333435363738396162636465662900000000000000020000002400000000ca9a3b00000000 \
        efbeadde000000000008646f776e63617365146c6f7765722063617365206f6620412069732061d804017800";

    #[test]
    fn a_full_block_refuses_the_next_record_and_takes_it_when_empty() {
        let mut builder = BlockBuilder::new();
        let body = vec![7; BODY_BYTES_MAX];
        for _ in 0..3 {
            builder.push(0, "t", &body).unwrap();
        }
        assert_eq!(builder.push(0, "t", &body), Err(PushError::Full));
        let rest = PAYLOAD_BYTES_MAX - (builder.bytes.len() - HEAD_BYTES);
        builder.push(0, "t", &body[..rest - 6]).unwrap();
        assert_eq!(builder.push(0, "t", b""), Err(PushError::Full));
        let full = builder.finish(STREAM, Position::default()).unwrap();
        assert_eq!(full.bytes().len(), BLOCK_BYTES_MAX);
        assert_eq!(Block::decode(full.bytes().clone()), Ok(full));
        builder.push(0, "t", &body).unwrap();

        let mut builder = BlockBuilder::new();
        for _ in 0..RECORDS_MAX {
            builder.push(0, "t", b"").unwrap();
        }
        assert_eq!(builder.push(0, "t", b""), Err(PushError::Full));
        let full = builder.finish(STREAM, Position::default()).unwrap();
        assert_eq!(Block::decode(full.bytes().clone()).unwrap().records().count(), RECORDS_MAX as usize);
    }

    #[test]
    fn records_that_go_together_all_go_in_or_none() {
        let mut builder = BlockBuilder::new();
        let records = |bodies: &[&'static [u8]]| bodies.iter().map(|body| ("t", *body)).collect::<Vec<_>>();
        assert_eq!(builder.push_all(1, [("t", &b"a"[..]), ("", b"b")]), Err(PushError::Topic(0)));
        builder.push(5, "t", b"x").unwrap();
        builder.push_all(6, records(&[b"a", b"b"])).unwrap();
        assert_eq!(builder.push_all(7, [("t", &[0; BODY_BYTES_MAX][..]); 5]), Err(PushError::Full));
        builder.push_all(6, []).unwrap();
        let expected = block(Position::default(), &[(5, "t", b"x"), (6, "t", b"a"), (6, "t", b"b")]);
        assert_eq!(builder.finish(STREAM, Position::default()), Some(expected));
        let too_many = std::iter::repeat_n(("t", &b""[..]), RECORDS_MAX as usize + 1);
        assert_eq!(builder.push_all(8, too_many), Err(PushError::Full));
        assert_eq!(builder.finish(STREAM, Position::default()), None);
    }

    #[test]
    fn what_no_block_may_hold_is_refused_and_changes_nothing() {
        let mut builder = BlockBuilder::new();
        builder.push(5, "t", b"x").unwrap();
        assert_eq!(builder.push(5, "", b""), Err(PushError::Topic(0)));
        assert_eq!(builder.push(5, &"t".repeat(256), b""), Err(PushError::Topic(256)));
        assert_eq!(builder.push(5, "t", &vec![0; BODY_BYTES_MAX + 1]), Err(PushError::Body(BODY_BYTES_MAX + 1)));
        assert_eq!(builder.push(4, "t", b""), Err(PushError::Time));
        assert_eq!(builder.finish(STREAM, Position::default()), Some(block(Position::default(), &[(5, "t", b"x")])));
        assert_eq!(builder.finish(STREAM, Position::default()), None);
        builder.push(5, "t", b"x").unwrap();
        assert_eq!(builder.finish(STREAM, Position { next: u64::MAX, previous: 0 }), None);
    }

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let refused = |offset: usize, field: &[u8]| {
            let mut bytes = small().bytes().to_vec();
            bytes[offset..offset + field.len()].copy_from_slice(field);
            Block::decode(resealed(bytes)).unwrap_err()
        };
        assert_eq!(refused(0, b"DPS1"), DecodeError::Kind { kind: "block", found: *b"DPS1" });
        assert_eq!(refused(3, b"2"), DecodeError::Version { kind: "block", version: b'2' });
        assert_eq!(refused(24, &[0xff; 8]), DecodeError::Bounds { field: "first sequence", value: u64::MAX });
        assert_eq!(refused(32, &[0; 4]), DecodeError::Bounds { field: "record count", value: 0 });
        assert_eq!(
            refused(32, &16_385_u32.to_le_bytes()),
            DecodeError::Bounds { field: "record count", value: 16_385 }
        );
        assert_eq!(refused(36, &[0xff; 4]), DecodeError::Bounds { field: "payload length", value: 0xffff_ffff });
        assert_eq!(refused(52, &[1]), DecodeError::Bounds { field: "flags", value: 1 });
        assert_eq!(refused(32, &[3]), DecodeError::Short(0));
        assert_eq!(refused(32, &[1]), DecodeError::Long(5));
        assert_eq!(refused(56, &[2]), DecodeError::Time(0));
        assert_eq!(refused(57, &[0]), DecodeError::Bounds { field: "topic length", value: 0 });
        assert_eq!(refused(58, &[0xff]), DecodeError::Text("topic"));
        let mut bytes = small().bytes().to_vec();
        bytes[60] ^= 1;
        assert!(matches!(Block::decode(bytes.into()), Err(DecodeError::Checksum { .. })));
    }

    #[test]
    fn a_head_of_another_version_can_be_read() {
        let mut bytes = small().bytes().to_vec();
        bytes[3] = b'2';
        let head = BlockHead::decode(&resealed(bytes)).unwrap();
        assert_eq!((head.version, head.first, head.count), (b'2', 41, 2));
        assert_eq!(head.block_bytes(), Err(DecodeError::Version { kind: "block", version: b'2' }));
    }

    prop_compose! {
        fn records()(
            start in any::<i64>().prop_map(|time| time / 2),
            records in prop::collection::vec(
                (0..i64::MAX / 1000, "\\PC{1,60}", prop::collection::vec(any::<u8>(), 0..300)), 1..60)
        ) -> Vec<(i64, String, Vec<u8>)> {
            let mut time = start;
            records.into_iter().map(|(since, topic, body)| {
                time += since;
                (time, topic, body)
            }).collect()
        }
    }

    proptest! {
        #[test]
        fn records_read_back(records in records(), next in 0..u64::MAX - 100, previous: u32, stream: [u8; 16]) {
            let mut builder = BlockBuilder::new();
            for (time_ns, topic, body) in &records {
                builder.push(*time_ns, topic, body).unwrap();
            }
            let at = Position { next, previous };
            let block = builder.finish(StreamId(stream), at).unwrap();
            let read = Block::decode(block.bytes().clone()).unwrap();
            prop_assert_eq!(&read, &block);
            prop_assert_eq!(read.start(), at);
            prop_assert_eq!(read.end().next, next + records.len() as u64);
            for (sequence, (record, (time_ns, topic, body))) in (next..).zip(read.records().zip(&records)) {
                prop_assert_eq!(record, Record { sequence, time_ns: *time_ns, topic, body });
            }
        }

        #[test]
        fn a_block_that_was_damaged_is_refused(records in records(), at: prop::sample::Index, bit in 0..8, cut: bool) {
            let mut builder = BlockBuilder::new();
            for (time_ns, topic, body) in &records {
                builder.push(*time_ns, topic, body).unwrap();
            }
            let mut bytes = builder.finish(STREAM, Position::default()).unwrap().bytes().to_vec();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1_u8 << bit;
            }
            prop_assert!(Block::decode(bytes.into()).is_err());
        }

        /// With a checksum that is right: whatever is taken for a block encodes to the same bytes again.
        #[test]
        fn a_block_has_one_encoding(records in records(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut builder = BlockBuilder::new();
            for (time_ns, topic, body) in &records {
                builder.push(*time_ns, topic, body).unwrap();
            }
            let mut bytes = builder.finish(STREAM, Position::default()).unwrap().bytes().to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(block) = Block::decode(resealed(bytes)) {
                let mut builder = BlockBuilder::new();
                for record in block.records() {
                    builder.push(record.time_ns, record.topic, record.body).unwrap();
                }
                prop_assert_eq!(builder.finish(block.head().stream, block.start()), Some(block));
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), is_block: bool) {
            if is_block && bytes.len() >= HEAD_BYTES {
                let payload_bytes = (bytes.len() - HEAD_BYTES) as u32;
                bytes[..4].copy_from_slice(b"DPB1");
                bytes[32..36].copy_from_slice(&1_u32.to_le_bytes());
                bytes[36..40].copy_from_slice(&payload_bytes.to_le_bytes());
                bytes[52..56].fill(0);
                wire::seal(&mut bytes);
            }
            let _ = Block::decode(bytes.into());
        }
    }
}
