//! The golden bytes of the formats, which are also the examples of docs/PROTOCOL.md.

use super::codec::*;
use super::segment::{SegmentHeader, blocks};

const STREAM: Stream = *b"0123456789abcdef";
const AT: Position = Position { next: 41, previous: 0xdead_beef };

const BLOCK: &str = "44504231e7da65b9303132333435363738396162636465662900000000000000020000002400000000ca9a3b00000000 \
    efbeadde000000000008646f776e63617365146c6f7765722063617365206f6620412069732061d804017800";
const HEAD: &str = "445048311e55c2cd303132333435363738396162636465660700000000000000290000000000000004030201efbeadde \
    7075626c69736865722d3100000000000000000000000000000000000000000000000000000000000000000000000000 \
    000000000000000000000000000000000e003132372e302e302e313a34343436";
const FETCH: &str = "44504631b11b533b303132333435363738396162636465662900000000000000efbeadde0000100001000000";
const GAP: &str = "44504731273fbd8d3031323334353637383961626364656607000000000000002900000000000000efbeadde02000000";
const FORK: &str = "445058316500d494303132333435363738396162636465662900000000000000efbeadde";
const BUSY: &str = "44505731b55cdd9e30313233343536373839616263646566";
const END: &str = "44504531612b0024303132333435363738396162636465662900000000000000efbeadde";
const SEGMENT: &str =
    "4450533191c59876303132333435363738396162636465662900000000000000efbeadde00000000feffffffffffffff";
/// Only a help for whoever reads journal files; this client does without.
const INDEX: &str = "445049319dd0245230313233343536373839616263646566803801000000000002000000000000002900000000000000 \
    efbeadde30000000000000003200000000000000070000007011010000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn block() -> Block {
    let Ok(Message::Block(block)) = Message::decode(&bytes(BLOCK)) else { panic!("the golden block is read") };
    block
}

#[test]
fn the_golden_messages_are_read() {
    let read = |hex| Message::decode(&bytes(hex)).unwrap();
    let head = Head {
        stream: STREAM,
        oldest: Position { next: 7, previous: 0x0102_0304 },
        next: AT,
        name: "publisher-1".to_owned(),
        replay: "127.0.0.1:4446".to_owned(),
    };
    assert_eq!(read(HEAD), Message::Head(head));
    assert_eq!(read(GAP), Message::Gap(Gap { stream: STREAM, from: 7, to: AT, reason: Reason::Damage }));
    assert_eq!(read(FORK), Message::Fork { stream: STREAM, at: AT });
    assert_eq!(read(BUSY), Message::Busy { stream: STREAM });
    assert_eq!(read(END), Message::End { stream: STREAM, at: AT });
    assert_eq!(fetch(STREAM, AT, 1 << 20), bytes(FETCH));
}

#[test]
fn the_golden_block_is_read() {
    let block = block();
    assert_eq!((block.start(), block.end()), (AT, Position { next: 43, previous: 0xb965_dae7 }));
    let record = |sequence, time_ns, topic, body| Record { stream: STREAM, sequence, time_ns, topic, body };
    let expected =
        [record(41, 1_000_000_000, "downcase", &b"lower case of A is a"[..]), record(42, 1_000_000_300, "x", b"")];
    assert!(block.records().eq(expected), "{:?}", block.records().collect::<Vec<_>>());
    assert_eq!(block.last_time_ns, 1_000_000_300);
}

#[test]
fn every_changed_bit_is_seen() {
    for golden in [BLOCK, HEAD, GAP, FORK, BUSY, END] {
        let golden = bytes(golden);
        for bit in 0..8 * golden.len() {
            let mut changed = golden.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(&changed).is_err(), "bit {bit}");
        }
        for length in 0..golden.len() {
            assert!(Message::decode(&golden[..length]).is_err());
        }
    }
}

#[test]
fn what_the_page_forbids_is_refused_with_a_right_checksum() {
    let refused = |golden, offset: usize, field: &[u8]| {
        let mut changed = bytes(golden);
        changed[offset..offset + field.len()].copy_from_slice(field);
        seal(&mut changed);
        Message::decode(&changed).unwrap_err()
    };
    for (golden, offset, field) in [
        (BLOCK, 3, &b"2"[..]),
        (BLOCK, 24, &[0xff; 8]),
        (BLOCK, 32, &[0]),
        (BLOCK, 32, &[1]),
        (BLOCK, 32, &[3]),
        (BLOCK, 36, &[0x23]),
        (BLOCK, 52, &[1]),
        (BLOCK, 56, &[1]),
        (BLOCK, 56, &[2]),
        (BLOCK, 57, &[0]),
        (BLOCK, 58, &[0xff]),
        (BLOCK, 66, &[0x80, 0x00]),
        (HEAD, 24, &[42]),
        (HEAD, 48, &[0]),
        (HEAD, 111, &[1]),
        (HEAD, 112, &[13]),
        (HEAD, 114, &[0xff]),
        (GAP, 32, &[7]),
        (GAP, 44, &[3]),
        (END, 0, b"DPF1"),
    ] {
        let error = refused(golden, offset, field);
        assert!(!error.starts_with("checksum"), "{error}");
    }
}

#[test]
fn a_journal_file_is_read_up_to_its_padding_or_its_torn_end() {
    let header = SegmentHeader { stream: STREAM, start: AT, last_time_ns: -2 };
    let mut file = bytes(SEGMENT);
    assert_eq!(SegmentHeader::decode(&file), Ok(header));
    file.extend(block().bytes);
    let end = file.len();
    file.extend([0; 100]);
    let read = blocks(&file, SegmentHeader::BYTES);
    assert_eq!((read.blocks, read.end, read.torn), (vec![block()], end, None));

    file.truncate(end);
    file.extend(&block().bytes[..70]);
    let read = blocks(&file, SegmentHeader::BYTES);
    assert_eq!((read.blocks.len(), read.end), (1, end));
    assert!(read.torn.is_some());
}

/// The examples of docs/PROTOCOL.md: indented lines that begin with an offset and hexadecimal digits.
fn examples() -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut examples: Vec<Vec<u8>> = Vec::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("    ")) {
        let mut words = line.split_whitespace();
        let Some(offset) = words.next().and_then(|word| word.parse::<usize>().ok()) else { continue };
        if offset == 0 {
            examples.push(Vec::new());
        }
        let example = examples.last_mut().unwrap();
        assert_eq!(example.len(), offset, "{line}");
        example.extend(bytes(words.next().unwrap()));
    }
    examples
}

#[test]
fn the_examples_of_the_page_are_these_bytes() {
    let mut examples = examples();
    let mut golden = [BLOCK, HEAD, FETCH, GAP, FORK, BUSY, END, SEGMENT, INDEX].map(bytes).to_vec();
    examples.sort();
    golden.sort();
    assert_eq!(examples, golden);
}
