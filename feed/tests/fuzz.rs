//! Bytes of anybody's making, and what the decoders make of them.
//!
//! Valid encodings of every kind are mutated by a seeded generator: bits flipped, bytes replaced,
//! cut, repeated, spliced with one another, integers set to their edges; half of them get a checksum
//! that is right again. Whatever comes of it: no decoder panics, and what is accepted encodes to
//! the same bytes, so nothing is read into them.
//!
//! That no decoder allocates on a claim is not tested, since a counting allocator takes unsafe code.
//! It follows from the types: a block keeps the frame it is read from and is iterated in place, a
//! head copies its two texts after their bytes were taken from the frame, an index its entries after
//! their bytes were found to be there, all else is of fixed size.
//!
//! `SEED` and `FUZZ_ROUNDS` are read from the environment.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use bytes::Bytes;
use feed::block::HEAD_BYTES;
use feed::{
    Block, BlockBuilder, BlockHead, Busy, End, Fetch, Fork, Gap, GapReason, Head, Index, IndexEntry, Message, Position,
    SegmentHeader, StreamId, recovery,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

const STREAM: StreamId = StreamId(*b"0123456789abcdef");
const AT: Position = Position { next: 41, previous: 0xdead_beef };

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// crc32c of bytes 0 to 3 and 8 to the end, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes[..4].iter().chain(&bytes[8..]) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn block(records: &[(i64, &str, &[u8])]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for (time_ns, topic, body) in records {
        builder.push(*time_ns, topic, body).unwrap();
    }
    builder.finish(STREAM, AT).unwrap().bytes().to_vec()
}

fn examples() -> Vec<Vec<u8>> {
    let head = |name: &str, replay: &str| {
        let oldest = Position { next: 7, previous: 3 };
        Head { stream: STREAM, oldest, next: AT, name: name.into(), replay: replay.into() }.encode().unwrap()
    };
    let far: Vec<(i64, &str, &[u8])> = vec![(i64::MIN, "a", b""), (-1, "b", b"x"), (i64::MAX - 1, "ü", &[0xff; 200])];
    vec![
        block(&[(1_000_000_000, "downcase", b"lower case of A is a"), (1_000_000_300, "x", b"")]),
        block(&far),
        block(&vec![(5, "t", &b"body"[..]); 40]),
        head("publisher-1", "127.0.0.1:4446"),
        head(&"n".repeat(64), &"a".repeat(255)),
        Fetch { stream: STREAM, from: AT, credit_bytes: 1 << 20, version: 1 }.encode(),
        Gap { stream: STREAM, from: 7, to: AT, reason: GapReason::Retention }.encode(),
        Gap { stream: STREAM, from: 7, to: AT, reason: GapReason::Damage }.encode(),
        Fork { stream: STREAM, from: AT }.encode(),
        Busy { stream: STREAM }.encode(),
        End { stream: STREAM, at: AT }.encode(),
        SegmentHeader { stream: STREAM, start: AT, last_time_ns: -2 }.encode().to_vec(),
        index(),
    ]
}

fn index() -> Vec<u8> {
    let entry = |next, offset| IndexEntry { start: Position { next, previous: 7 }, offset };
    Index { stream: STREAM, segment_bytes: 80_000, entries: vec![entry(41, 48), entry(50, 70_000)] }.encode()
}

fn mutate(random: &mut Random, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = examples[random.below(examples.len())].clone();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes.extend((0..random.below(20)).map(|_| random.next() as u8)),
            4 => {
                let other = &examples[random.below(examples.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            5 => {
                let edges = [0, 1, 0x7f, 0x80, 0xffff, 0x10_0000, 0x10_0001, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
                let edge = edges[random.below(edges.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)];
                bytes.iter_mut().skip(at / 4 * 4).zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
            }
            6 => {
                let part = bytes[at..].iter().copied().take(random.below(30)).collect::<Vec<_>>();
                bytes.splice(at..at, part);
            }
            // A payload's length that is right again lets what was changed in it be read.
            7 if bytes.starts_with(b"DPB") && bytes.len() >= HEAD_BYTES => {
                let payload_bytes = (bytes.len() - HEAD_BYTES) as u32;
                bytes[36..40].copy_from_slice(&payload_bytes.to_le_bytes());
            }
            _ => {}
        }
    }
    if random.below(2) == 0 && bytes.len() >= 8 {
        let seal = checksum(&bytes).to_le_bytes();
        bytes[4..8].copy_from_slice(&seal);
    }
    bytes
}

/// A block made anew of what was read from one.
fn encode_again(block: &Block) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for record in block.records() {
        builder.push(record.time_ns, record.topic, record.body).unwrap();
    }
    builder.finish(block.head().stream, block.start()).unwrap().bytes().to_vec()
}

/// Whether each decoder took the bytes. Panics if what was taken is not what the bytes say.
fn decode(bytes: &[u8]) -> [bool; 4] {
    let message = Message::decode(Bytes::copy_from_slice(bytes));
    if let Ok(message) = &message {
        let again = match message {
            Message::Block(block) => encode_again(block),
            Message::Head(head) => head.encode().unwrap(),
            Message::Fetch(fetch) => fetch.encode(),
            Message::Gap(gap) => gap.encode(),
            Message::Fork(fork) => fork.encode(),
            Message::Busy(busy) => busy.encode(),
            Message::End(end) => end.encode(),
        };
        assert_eq!(again, bytes, "a message that was accepted encodes to other bytes");
        assert_eq!(checksum(bytes).to_le_bytes(), bytes[4..8], "a message was accepted with another checksum");
    }
    let head = BlockHead::decode(bytes);
    if let Ok(head) = &head {
        assert_eq!(head.stream.0, bytes[8..24]);
        assert_eq!(head.first.to_le_bytes(), bytes[24..32]);
        assert_eq!(head.previous.to_le_bytes(), bytes[48..52]);
        assert!(head.block_bytes().is_err() || head.version == b'1');
    }
    let segment = SegmentHeader::decode(bytes);
    if let Ok(segment) = &segment {
        assert_eq!(segment.encode(), bytes[..48], "a segment's header that was accepted encodes to other bytes");
    }
    let index = Index::decode(bytes);
    if let Ok(index) = &index {
        assert_eq!(index.encode(), bytes, "an index that was accepted encodes to other bytes");
    }
    if let Some((offset, head)) = recovery::find_next(bytes, STREAM, AT) {
        assert_eq!(Block::check_front(&bytes[offset..]), Ok(head), "what follows damage is whole");
        assert!(offset > 0 && head.stream == STREAM && head.first > AT.next);
    }
    [message.is_ok(), head.is_ok(), segment.is_ok(), index.is_ok()]
}

#[test]
fn the_checksum_is_the_published_one() {
    // RFC 3720, B.4: 32 bytes of zeros. The field at 4 to 7 is left out.
    assert_eq!(checksum(&[0; 36]), 0x8a91_36aa);
}

#[test]
fn no_bytes_make_a_decoder_panic_and_what_is_accepted_encodes_to_the_same() {
    let (seed, rounds) = (setting("SEED", 1), setting("FUZZ_ROUNDS", 200_000));
    let examples = examples();
    let mut random = Random(seed);
    let mut taken = [0_u64; 4];
    for round in 0..rounds {
        let bytes = mutate(&mut random, &examples);
        match catch_unwind(AssertUnwindSafe(|| decode(&bytes))) {
            Ok(which) => taken.iter_mut().zip(which).for_each(|(count, ok)| *count += u64::from(ok)),
            Err(panic) => {
                eprintln!("SEED={seed}, round {round}, bytes {bytes:02x?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{rounds} rounds, accepted: {taken:?} messages, block heads, segment headers, indexes");
    // Neither everything nor nothing, or the mutations say little.
    assert!(rounds < 10_000 || taken.iter().all(|count| (rounds / 100..rounds).contains(count)), "{taken:?}");
}
