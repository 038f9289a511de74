//! Finding the way behind damage: where a run of blocks goes on after one that is no more.
//!
//! A body may hold anything, a whole block of this very stream too, so not everything behind the
//! damage that looks like a block is one. What is taken is one of:
//!
//! - the block that a damaged one's head leads to, if that head is the one expected there;
//! - a block that names the damaged one as its previous, by the checksum in the damaged head. Who
//!   writes a body does not know it: it depends on the time of the commit and on what else it holds;
//! - where a head and its checksum are gone: the first block from which whole blocks chain to the very
//!   end of the data, or farther than any body goes.
//!
//! What is between is a gap. What is cut short at the end leads nowhere, so nothing in it is taken.

use crate::block::{BODY_BYTES_MAX, Block, BlockHead, RECORD_BYTES_MIN};
use crate::wire;
use crate::{Position, StreamId};
use std::cell::Cell;
use std::collections::HashSet;

const MAGIC: &[u8] = b"DPB1";
/// The most bytes that are summed to tell blocks from what looks like them: seconds, for data made
/// to be slow. Beyond it nothing is taken.
const SUMMED_BYTES_MAX: u64 = 8 << 30;

/// Where whole blocks go on behind damage: the offset of the next one, and its head.
///
/// `bytes` begin where a block of `stream` at the position `expected` should begin and is not whole,
/// and end where the data end. `None` if nothing whole follows.
pub fn find_next(bytes: &[u8], stream: StreamId, expected: Position) -> Option<(usize, BlockHead)> {
    let search = Search { bytes, stream, left: Cell::new(SUMMED_BYTES_MAX) };
    let (mut at, mut expected) = (0, expected);
    loop {
        let head = search.head_at(at).filter(|head| head.start() == expected);
        let end = head.and_then(|head| Some(at + head.block_bytes().ok()?));
        let successor = end.and_then(|end| Some((end, search.successor(at, end, expected)?)));
        // A linked block that is damaged itself leads on.
        let Some((next, head)) = successor.or_else(|| search.linked(at, expected)) else {
            match (head, end) {
                (Some(head), Some(end)) if end < bytes.len() => (at, expected) = (end, head.end()),
                (Some(_), _) => return None,
                (None, _) => return search.chained(at, expected),
            }
            continue;
        };
        if search.is_whole(next) {
            return Some((next, head));
        }
        (at, expected) = (next, head.start());
    }
}

struct Search<'a> {
    bytes: &'a [u8],
    stream: StreamId,
    /// What is left of [`SUMMED_BYTES_MAX`].
    left: Cell<u64>,
}

impl Search<'_> {
    /// The head at an offset, if it is one of this stream and claims what a block can have.
    fn head_at(&self, at: usize) -> Option<BlockHead> {
        let head = BlockHead::decode(self.bytes.get(at..)?).ok()?;
        (head.stream == self.stream && head.block_bytes().is_ok()).then_some(head)
    }

    fn is_whole(&self, at: usize) -> bool {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        let claimed = BlockHead::decode(bytes).and_then(|head| head.block_bytes()).unwrap_or(0);
        let left = self.left.get().saturating_sub(claimed as u64);
        self.left.set(left);
        left > 0 && Block::check_front(bytes).is_ok()
    }

    /// The whole block where a damaged one's head ends it, if it follows that one; also if it is only
    /// the damaged one's checksum that is damaged.
    fn successor(&self, at: usize, end: usize, expected: Position) -> Option<BlockHead> {
        let found = self.head_at(end).filter(|found| found.first > expected.next && self.is_whole(end))?;
        let damaged = &self.bytes[at..end];
        let links = [wire::u32_at(damaged, 4), wire::checksum(damaged)];
        links.contains(&found.previous).then_some(found)
    }

    /// The first head behind a damaged one that names it as its previous.
    fn linked(&self, damaged: usize, expected: Position) -> Option<(usize, BlockHead)> {
        let checksum = self.bytes.get(damaged + 4..damaged + 8).map(|_| wire::u32_at(&self.bytes[damaged..], 4))?;
        // Where a sector is gone there is one value, which anybody can guess.
        if [0, u32::MAX].contains(&checksum) {
            return None;
        }
        self.heads_behind(damaged, expected).find(|(_, head)| head.previous == checksum)
    }

    /// The first whole block behind a damaged one from which whole blocks follow each other to the end,
    /// or farther than they could in a body.
    fn chained(&self, damaged: usize, expected: Position) -> Option<(usize, BlockHead)> {
        // Where a chain has failed, the one that begins on it would fail too.
        let mut failed = HashSet::new();
        self.heads_behind(damaged, expected).find(|(start, _)| {
            if failed.contains(start) {
                return false;
            }
            let (mut at, mut end) = (*start, None);
            while let Some(head) = self.head_at(at).filter(|head| end.is_none_or(|end| end == head.start()))
                && self.is_whole(at)
            {
                failed.insert(at);
                end = Some(head.end());
                at += head.block_bytes().expect("the claim of this head was checked");
            }
            end.is_some() && (at - start > BODY_BYTES_MAX || is_zero(&self.bytes[at..]))
        })
    }

    /// The heads behind a damaged block of numbers that its bytes have room for.
    fn heads_behind(&self, damaged: usize, expected: Position) -> impl Iterator<Item = (usize, BlockHead)> {
        let starts = (damaged + 1..self.bytes.len()).filter(|&at| self.bytes[at..].starts_with(MAGIC));
        starts.filter_map(move |at| {
            let room = (at - damaged) as u64 / RECORD_BYTES_MIN;
            let head = self.head_at(at)?;
            let missing = head.first.checked_sub(expected.next)?;
            (1..=room).contains(&missing).then_some((at, head))
        })
    }
}

/// Whether bytes are what a file holds where nothing was written: zeros, or nothing at all.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockBuilder;

    const STREAM: StreamId = StreamId([7; 16]);

    fn block(stream: StreamId, at: Position, bodies: &[&[u8]]) -> Block {
        let mut builder = BlockBuilder::new();
        for body in bodies {
            builder.push(1, "t", body).unwrap();
        }
        builder.finish(stream, at).unwrap()
    }

    /// Blocks in a row, each of the bodies given.
    fn run(bodies: &[&[u8]]) -> Vec<Block> {
        let mut at = Position::default();
        let chained = |body: &&[u8]| {
            let block = block(STREAM, at, &[b"first", body]);
            at = block.end();
            block
        };
        bodies.iter().map(chained).collect()
    }

    fn concat(blocks: &[Block]) -> Vec<u8> {
        blocks.iter().flat_map(|block| block.bytes().to_vec()).collect()
    }

    fn found(bytes: &[u8]) -> Option<u64> {
        find_next(bytes, STREAM, Position::default()).map(|(_, head)| head.first)
    }

    #[test]
    fn any_damage_of_one_block_ends_with_it() {
        let blocks = run(&[b"some bytes", b"", b"more"]);
        let clean = concat(&blocks);
        for bit in 0..8 * blocks[0].bytes().len() {
            let mut bytes = clean.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let next = find_next(&bytes, STREAM, Position::default());
            assert_eq!(next, Some((blocks[0].bytes().len(), *blocks[1].head())), "bit {bit}");
        }
        let mut bytes = clean;
        bytes[..40].fill(0);
        assert_eq!(found(&bytes), Some(2), "a head that is gone");
    }

    #[test]
    fn damage_of_several_blocks_ends_with_the_last() {
        let blocks = run(&[b"a", b"b", b"c", b"d"]);
        let ends: Vec<usize> = (0..4).map(|index| concat(&blocks[..index]).len()).collect();
        for (one, other) in [(60, 60), (60, 37), (37, 60), (37, 4), (4, 4), (0, 0)] {
            let mut bytes = concat(&blocks);
            bytes[one] ^= 0x80;
            bytes[ends[1] + other] ^= 0x80;
            assert_eq!(found(&bytes), Some(4), "bytes {one} and {other}");
        }
        let mut bytes = concat(&blocks);
        bytes[60] ^= 1;
        bytes[ends[1]..ends[2]].fill(0xff);
        assert_eq!(found(&bytes), Some(4));
    }

    #[test]
    fn a_block_in_a_body_is_not_taken_for_one() {
        let inner = [block(STREAM, Position { next: 5, previous: 9 }, &[b"wrong"])];
        let inner = [inner.to_vec(), vec![block(STREAM, inner[0].end(), &[b"wrong"])]].concat();
        let blocks = run(&[&concat(&inner), b"right", b"right"]);
        let (length, clean) = (blocks[0].bytes().len(), concat(&blocks));
        for at in 0..length {
            let mut bytes = clean.clone();
            bytes[at] ^= 0x10;
            assert_eq!(found(&bytes), Some(2), "byte {at}");
        }
        let guessed = block(STREAM, Position { next: 5, previous: 0 }, &[b"wrong"]);
        let mut bytes = concat(&run(&[guessed.bytes(), b"right"]));
        bytes[..40].fill(0);
        assert_eq!(found(&bytes), Some(2));
        for torn in 56..length {
            assert_eq!(found(&clean[..torn]), None, "torn at {torn}");
        }
    }

    #[test]
    fn a_long_chain_is_taken_although_the_end_is_torn() {
        let body = vec![7; 1000];
        let blocks = run(&vec![&body[..]; 1000]);
        let mut bytes = [concat(&blocks), blocks[0].bytes()[..17].to_vec()].concat();
        bytes[..8].fill(0);
        assert_eq!(found(&bytes), Some(2));
        // And another one in the middle does not make it slow.
        let middle = concat(&blocks[..100]).len();
        bytes[middle] ^= 1;
        assert_eq!(found(&bytes), Some(202));
        let from = concat(&blocks[..101]).len();
        assert_eq!(find_next(&bytes, STREAM, Position::default()).unwrap().0, from);
    }

    #[test]
    fn numbers_that_there_is_no_room_for_are_not_taken() {
        let far = block(STREAM, Position { next: 1 << 40, previous: 9 }, &[b"wrong"]);
        let mut bytes = concat(&run(&[far.bytes()]));
        bytes[..8].fill(0);
        assert_eq!(found(&bytes), None);
    }

    #[test]
    fn blocks_of_another_stream_and_from_the_past_are_not_taken() {
        let blocks = run(&[b"a"]);
        let with = |other: Block| {
            let mut bytes = [concat(&blocks), other.bytes().to_vec()].concat();
            bytes[..8].fill(0);
            found(&bytes)
        };
        assert_eq!(with(block(StreamId([8; 16]), blocks[0].end(), &[b"b"])), None);
        assert_eq!(with(block(STREAM, Position::default(), &[b"b"])), None);
        assert_eq!(with(block(STREAM, blocks[0].end(), &[b"b"])), Some(2));
    }

    #[test]
    fn zeros_and_nothing_lead_nowhere() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[0; 3]), None);
        assert_eq!(found(&[0; 4096]), None);
        let mut bytes = concat(&run(&[b"a"]));
        bytes[60] ^= 1;
        assert_eq!(found(&bytes), None);
        bytes.extend([0; 4096]);
        assert_eq!(found(&bytes), None);
    }
}
