//! The journal as its owner and its readers see it, through damage, full disks and restarts.

use super::*;
use feed::{GapReason, Index};
use std::fs;
use tempfile::TempDir;

/// What a reader who starts at the oldest position gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Record(u64, String),
    Gap(u64, u64, GapReason),
}

struct Nobody;

impl Outlet for Nobody {
    fn opened(&self, _at: Position) {}
    fn committed(&self, _block: &Block) {}
}

impl Outlet for std::sync::mpsc::Sender<Block> {
    fn opened(&self, _at: Position) {}
    fn committed(&self, block: &Block) {
        self.send(block.clone()).unwrap();
    }
}

struct World {
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    options: Options,
}

impl World {
    fn new(segment_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            folder: dir.path().join("journal"),
            name: None,
            default_name: "tester".parse().unwrap(),
            retain_bytes: u64::MAX,
            retain_age: None,
            segment_bytes,
            queue_bytes: QUEUE_BYTES_MIN,
            new_stream: false,
            faults: Faults::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { dir, runtime, options }
    }

    fn open(&self) -> Journal {
        self.open_with("")
    }

    fn open_with(&self, faults: &str) -> Journal {
        let faults = if faults.is_empty() { Faults::default() } else { Faults::planned(&crate::FAULT_POINTS, faults) };
        let journal = Journal::open(Options { faults, ..self.options.clone() }).unwrap();
        journal.start(Nobody).unwrap();
        journal
    }

    fn append(&self, journal: &Journal, body: &str) -> Result<u64, AppendError> {
        self.runtime.block_on(journal.append("t", &[body]))
    }

    /// Appends bodies that tell their number, each a commit.
    fn fill(&self, journal: &Journal, numbers: std::ops::Range<u64>) {
        for number in numbers {
            assert_eq!(self.append(journal, &body(number)), Ok(number));
        }
    }

    fn close(&self, journal: Journal) {
        self.runtime.block_on(journal.close());
    }

    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.options.folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == kind)).collect();
        files.sort();
        files
    }
}

/// Waits for what the journal does beside its commits.
#[track_caller]
fn soon(is_done: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
}

fn body(number: u64) -> String {
    format!("the body of {number}")
}

fn records(numbers: std::ops::Range<u64>) -> Vec<Item> {
    numbers.map(|number| Item::Record(number, body(number))).collect()
}

/// Reads all there is, in replies of `credit` bytes, as a subscriber would.
fn everything(journal: &Journal, credit: usize) -> Vec<Item> {
    let standing = journal.standing();
    let mut items = Vec::new();
    let mut at = standing.oldest;
    while at != standing.next {
        let reply = journal.read(at, credit).unwrap();
        assert_ne!(reply.end, at, "a reply goes on");
        for part in reply.parts {
            match part {
                Part::Block(block) => {
                    assert_eq!(block.start(), at);
                    let item = |record: feed::Record| {
                        Item::Record(record.sequence, String::from_utf8(record.body.to_vec()).unwrap())
                    };
                    items.extend(block.records().map(item));
                    at = block.end();
                }
                Part::Gap(gap) => {
                    assert_eq!(gap.from, at.next);
                    items.push(Item::Gap(gap.from, gap.to.next, gap.reason));
                    at = gap.to;
                }
                Part::Fork => panic!("a fork at {at:?}"),
            }
        }
        assert_eq!(reply.end, at);
    }
    items
}

#[test]
fn what_was_appended_is_there_after_a_restart_and_the_numbers_go_on() {
    let world = World::new(1000);
    let journal = world.open();
    world.fill(&journal, 0..30);
    let (stream, standing) = (journal.stream(), journal.standing());
    assert_eq!(everything(&journal, 1 << 20), records(0..30));
    world.close(journal);
    assert!(world.files("segment").len() > 2);

    let journal = world.open();
    assert_eq!((journal.stream(), journal.standing()), (stream, standing));
    world.fill(&journal, 30..40);
    for credit in [1, 200, 1 << 20] {
        assert_eq!(everything(&journal, credit), records(0..40));
    }
    assert_eq!(journal.counters().torn.load(Ordering::Relaxed), 0);
}

#[test]
fn what_waits_is_committed_together_and_handed_on_once_it_is_durable() {
    let world = World::new(1 << 20);
    let journal = Journal::open(world.options.clone()).unwrap();
    let answers: Vec<_> = (0..100).map(|number| journal.shared.queue.append("t", &[body(number)])).collect();
    let (sender, blocks) = std::sync::mpsc::channel();
    journal.start(sender).unwrap();
    for (number, answer) in (0..).zip(answers) {
        assert_eq!(world.runtime.block_on(answer.unwrap()).unwrap(), Ok(number));
    }
    assert_eq!(blocks.recv().unwrap().records().count(), 100);
    assert_eq!(journal.counters().commits.load(Ordering::Relaxed), 1);
}

#[test]
fn a_torn_end_is_cut_wherever_it_was_torn() {
    let world = World::new(1 << 20);
    let journal = world.open();
    world.fill(&journal, 0..3);
    world.close(journal);
    let path = &world.files("segment")[0];
    let whole = fs::read(path).unwrap();
    let block = (whole.len() - 48) / 3;
    for length in 48..whole.len() {
        fs::write(path, &whole[..length]).unwrap();
        let journal = world.open();
        let kept = ((length - 48) / block) as u64;
        assert_eq!(everything(&journal, 1 << 20), records(0..kept), "torn at {length}");
        let torn = journal.counters().torn.load(Ordering::Relaxed);
        assert_eq!(torn, u64::from((length - 48) % block != 0), "torn at {length}");
        world.fill(&journal, kept..kept + 2);
        assert_eq!(everything(&journal, 1 << 20), records(0..kept + 2), "torn at {length}");
        world.close(journal);
    }
}

#[test]
fn what_is_too_much_to_be_torn_is_kept_aside() {
    let world = World::new(1 << 22);
    let journal = world.open();
    world.fill(&journal, 0..3);
    world.close(journal);
    let path = &world.files("segment")[0];
    let mut bytes = fs::read(path).unwrap();
    for (added, kept) in [(1 << 20, 0), (1 << 20, 1)] {
        bytes.extend(std::iter::repeat_n(7, added));
        fs::write(path, &bytes).unwrap();
        let journal = world.open();
        assert_eq!(everything(&journal, 1 << 20), records(0..3));
        assert_eq!(world.files("damaged").len(), kept);
        world.close(journal);
    }
    assert_eq!(fs::read(&world.files("damaged")[0]).unwrap(), bytes);
}

#[test]
fn zeros_behind_the_last_block_are_not_damage() {
    let world = World::new(1 << 20);
    let journal = world.open();
    world.fill(&journal, 0..3);
    world.close(journal);
    let path = &world.files("segment")[0];
    fs::OpenOptions::new().append(true).open(path).unwrap().set_len(1 << 19).unwrap();
    let journal = world.open();
    assert_eq!(journal.counters().torn.load(Ordering::Relaxed), 0);
    world.fill(&journal, 3..5);
    assert_eq!(everything(&journal, 1 << 20), records(0..5));
}

/// What a process that was killed leaves: the files as they are now, in another folder.
fn as_killed(world: &World) -> World {
    let killed = World::new(world.options.segment_bytes);
    fs::create_dir(&killed.options.folder).unwrap();
    for entry in fs::read_dir(&world.options.folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, killed.options.folder.join(path.file_name().unwrap())).unwrap();
    }
    killed
}

#[test]
fn a_segment_is_filled_ahead_and_what_is_torn_in_the_zeros_is_cut() {
    let world = World::new(1 << 20);
    let journal = world.open();
    world.fill(&journal, 0..3);
    let data = journal.bytes() as usize;
    let filled = fs::read(&world.files("segment")[0]).unwrap();
    assert!(filled.len() >= 256 * 1024 && filled[data..].iter().all(|byte| *byte == 0));
    let block = (data - 48) / 3;
    let killed = as_killed(&world);
    let path = &killed.files("segment")[0];
    // The last block's pages need not have reached the disk in order: any part of it may still be zeros.
    for (from, to) in (0..block).flat_map(|at| [(at, block), (0, at + 1)]) {
        let mut torn = filled.clone();
        torn[data - block..][from..to].fill(0);
        let is_whole = torn == filled;
        fs::write(path, &torn).unwrap();
        let journal = killed.open();
        let kept = if is_whole { 3 } else { 2 };
        assert_eq!(everything(&journal, 1 << 20), records(0..kept), "zeros from {from} to {to}");
        let is_torn = !is_whole && torn[data - block..data].iter().any(|byte| *byte != 0);
        assert_eq!(journal.counters().torn.load(Ordering::Relaxed), u64::from(is_torn), "zeros from {from} to {to}");
        assert!(journal.damage().is_empty() && killed.files("damaged").is_empty());
        killed.close(journal);
    }
}

#[test]
fn a_large_block_makes_its_own_room_and_small_ones_go_on_behind_it() {
    let world = World::new(4 << 20);
    let journal = world.open();
    let length = |world: &World| fs::metadata(&world.files("segment")[0]).unwrap().len();
    world.append(&journal, &"x".repeat(200_000)).unwrap();
    assert_eq!(length(&world), journal.bytes());
    world.append(&journal, "small").unwrap();
    assert!(length(&world) > journal.bytes() + 200_000);
    world.append(&journal, &"y".repeat(250_000)).unwrap();
    world.append(&journal, &"z".repeat(250_000)).unwrap();
    assert_eq!(length(&world), journal.bytes());
    let killed = as_killed(&world);
    assert_eq!(everything(&killed.open(), 1 << 20), everything(&journal, 1 << 20));
    world.close(journal);
}

/// Flips a bit of every byte of a file in turn, and checks what a restarted journal has.
fn with_every_byte_damaged(world: &World, path: &Path, check: impl Fn(usize, &Journal)) {
    let whole = fs::read(path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(path, &damaged).unwrap();
        let others: Vec<_> = world.files("segment").into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
        let journal = world.open();
        check(at, &journal);
        world.close(journal);
        for path in [world.files("index"), world.files("damaged")].concat() {
            fs::remove_file(path).unwrap();
        }
        for (bytes, other) in others {
            fs::write(other, bytes).unwrap();
        }
    }
    fs::write(path, whole).unwrap();
}

/// Every record is the one that was appended, or in a gap of damage that was lost with its block.
fn assert_right_or_stated(items: &[Item], count: u64, context: &str) -> u64 {
    let mut next = 0;
    let mut lost = 0;
    for item in items {
        match item {
            Item::Record(sequence, text) => {
                assert_eq!((*sequence, text), (next, &body(next)), "{context}");
                next += 1;
            }
            Item::Gap(from, to, reason) => {
                assert_eq!((*from, *reason), (next, GapReason::Damage), "{context}");
                lost += to - from;
                next = *to;
            }
        }
    }
    assert_eq!(next, count, "{context}");
    lost
}

#[test]
fn damage_in_a_sealed_segment_is_stated_as_a_gap() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    let standing = journal.standing();
    world.close(journal);
    let segments = world.files("segment");
    assert!(segments.len() > 2, "{segments:?}");
    with_every_byte_damaged(&world, &segments[1], |at, journal| {
        let lost = assert_right_or_stated(&everything(journal, 1 << 20), 20, &format!("byte {at}"));
        assert_eq!(lost, u64::from(at >= 48), "byte {at} of a block each");
        assert_eq!(journal.standing(), standing);
        assert_eq!(journal.damage().len(), usize::from(at >= 48));
        assert_eq!(everything(journal, 1), everything(journal, 1 << 20));
    });
}

#[test]
fn damage_in_the_last_segment_is_stated_as_a_gap_unless_it_looks_torn() {
    let world = World::new(1 << 20);
    let journal = world.open();
    world.fill(&journal, 0..5);
    world.close(journal);
    let path = world.files("segment").remove(0);
    let length = fs::metadata(&path).unwrap().len() as usize;
    let last = length - (length - 48) / 5;
    with_every_byte_damaged(&world, &path, |at, journal| {
        let kept = if at >= last { 4 } else { 5 };
        let lost = assert_right_or_stated(&everything(journal, 1 << 20), kept, &format!("byte {at}"));
        assert_eq!(lost, u64::from((48..last).contains(&at)), "byte {at}");
        assert_eq!(journal.counters().torn.load(Ordering::Relaxed), u64::from(at >= last));
        world.fill(journal, kept..kept + 1);
        assert_right_or_stated(&everything(journal, 1 << 20), kept + 1, &format!("byte {at}"));
    });
}

#[test]
fn a_damaged_header_is_made_good_from_its_neighbours() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    let standing = journal.standing();
    world.close(journal);
    for path in world.files("segment") {
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let journal = world.open();
        assert_eq!(everything(&journal, 1 << 20), records(0..20), "{}", path.display());
        assert_eq!(journal.standing(), standing);
        world.close(journal);
        fs::write(&path, whole).unwrap();
    }
    // The first block as well: the segment before tells where this one begins.
    for path in &world.files("segment")[1..] {
        let whole = fs::read(path).unwrap();
        let mut damaged = whole.clone();
        damaged[..100].fill(0);
        fs::write(path, &damaged).unwrap();
        let journal = world.open();
        assert_eq!(assert_right_or_stated(&everything(&journal, 1 << 20), 20, "a page is gone"), 1);
        world.close(journal);
        fs::write(path, whole).unwrap();
    }
    // Nothing tells anything of the newest, and the one before does not reach it: no number of it comes
    // again, and who has some of its records is told that the rest is lost.
    let segments = world.files("segment");
    let wholes: Vec<_> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    let [.., before, last] = &segments[..] else { panic!("{segments:?}") };
    let ends = wholes[wholes.len() - 2].len() - 10;
    fs::write(before, &wholes[wholes.len() - 2][..ends]).unwrap();
    fs::write(last, [0; 20]).unwrap();
    let journal = world.open();
    let next = journal.standing().next.next;
    assert!(next > 20 && next < 1_000_000, "{next}");
    let reply = journal.read(standing.next, 1 << 20).unwrap();
    assert!(matches!(reply.parts[..], [Part::Gap(gap)] if (gap.from, gap.to.next) == (20, next)), "{:?}", reply.parts);
    assert_eq!(world.append(&journal, "goes on"), Ok(next));
    world.close(journal);
    fs::remove_file(world.files("segment").pop().unwrap()).unwrap();
    fs::remove_file(world.files("damaged").pop().unwrap()).unwrap();
    segments.iter().zip(wholes).for_each(|(path, whole)| fs::write(path, whole).unwrap());

    // Nothing tells anything at all: a new stream, and the old bytes are kept.
    let path = world.files("segment").remove(0);
    for other in world.files("segment").split_off(1) {
        fs::remove_file(other).unwrap();
    }
    fs::write(path, [0; 300]).unwrap();
    let journal = world.open();
    assert_eq!(journal.standing(), Standing { oldest: Position::default(), next: Position::default() });
    assert_eq!(fs::read(&world.files("damaged")[0]).unwrap(), [0; 300]);
}

#[test]
fn a_segment_that_is_missing_or_cut_is_a_gap() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    world.close(journal);
    let path = world.files("segment").remove(1);
    let whole = fs::read(&path).unwrap();
    for length in [0, 10, 48, 100, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let journal = world.open();
        assert!(assert_right_or_stated(&everything(&journal, 1 << 20), 20, &format!("cut to {length}")) > 0);
        world.close(journal);
        for aside in world.files("damaged") {
            fs::remove_file(aside).unwrap();
        }
    }
    let _ = fs::remove_file(&path);
    let journal = world.open();
    assert!(assert_right_or_stated(&everything(&journal, 1 << 20), 20, "missing") > 0);
    // Taken away while the journal runs.
    fs::remove_file(world.files("segment").remove(1)).unwrap();
    assert!(assert_right_or_stated(&everything(&journal, 1 << 20), 20, "missing") > 1);
}

#[test]
fn a_folder_that_is_moved_is_still_the_same_and_no_other() {
    let mut world = World::new(600);
    world.options.retain_bytes = 2000;
    let journal = world.open();
    world.fill(&journal, 0..20);
    let moved = world.options.folder.with_extension("moved");
    fs::rename(&world.options.folder, &moved).unwrap();
    // Another publisher begins where it was.
    let other = world.open();
    world.fill(&other, 0..15);
    world.fill(&journal, 20..60);
    let oldest = journal.standing().oldest.next;
    assert!(oldest > 20);
    assert_eq!(everything(&journal, 1 << 20), records(oldest..60));
    assert_eq!(journal.damage(), []);
    assert_eq!(everything(&other, 1 << 20), records(0..15));
    world.close(other);
    assert_eq!(everything(&world.open(), 1 << 20), records(0..15));
}

#[test]
fn a_folder_that_is_removed_takes_nothing_more() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..3);
    fs::remove_dir_all(&world.options.folder).unwrap();
    assert_eq!(everything(&journal, 1 << 20), records(0..3), "the writer has the file open");
    assert!(matches!(world.append(&journal, "nowhere"), Err(AppendError::Unknown(_))));
    assert!(matches!(journal.health(), Health::Failed(_)));
}

#[test]
fn who_asks_from_within_a_gap_is_told_the_rest_of_it() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    let positions = positions(&journal);
    world.close(journal);
    let segments = world.files("segment");
    let first = segments[1].file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let whole = fs::read(&segments[1]).unwrap();
    fs::write(&segments[1], &whole[..50]).unwrap();
    let journal = world.open();
    let end = segments[2].file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    for from in first..end {
        let reply = journal.read(positions[from as usize], 1 << 20).unwrap();
        let Part::Gap(gap) = &reply.parts[0] else { panic!("{:?}", reply.parts[0]) };
        assert_eq!((gap.from, gap.to, gap.reason), (from, positions[end as usize], GapReason::Damage));
        let reply = journal.read(positions[from as usize], 0).unwrap();
        assert_eq!((reply.parts, reply.end), (vec![], positions[from as usize]));
    }
}

/// The position in front of every record, each of which is a block.
fn positions(journal: &Journal) -> Vec<Position> {
    let Standing { oldest, next } = journal.standing();
    let mut positions = vec![oldest];
    while *positions.last().unwrap() != next {
        let reply = journal.read(*positions.last().unwrap(), 1).unwrap();
        positions.push(reply.end);
    }
    positions
}

#[test]
fn a_position_that_is_not_one_of_this_history_is_a_fork() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    for position in positions(&journal) {
        for credit in [0, 1 << 20] {
            let is_fork = |position| journal.read(position, credit).unwrap().parts.contains(&Part::Fork);
            assert!(!is_fork(position), "{position:?}");
            let other = Position { previous: position.previous ^ 1, ..position };
            assert!(is_fork(other), "{other:?}");
        }
    }
    let Standing { next, .. } = journal.standing();
    let beyond = Position { next: next.next + 1, previous: next.previous };
    assert_eq!(journal.read(beyond, 0).unwrap().parts, [Part::Fork]);
    world.close(journal);

    let world = World::new(1 << 20);
    let journal = Journal::open(world.options.clone()).unwrap();
    let _answers =
        [journal.shared.queue.append("t", &[b"1"]).unwrap(), journal.shared.queue.append("t", &[b"2"]).unwrap()];
    journal.start(Nobody).unwrap();
    world.append(&journal, "3").unwrap();
    let inside = Position { next: 1, previous: 0 };
    assert_eq!(journal.read(inside, 1 << 20).unwrap().parts, [Part::Fork]);
}

#[test]
fn blocks_are_found_by_the_index_and_without_it() {
    let world = World::new(300_000);
    let journal = world.open();
    let long = |number: u64| format!("{number} {}", "x".repeat(3000));
    for number in 0..300 {
        world.append(&journal, &long(number)).unwrap();
    }
    let positions = positions(&journal);
    let check = |journal: &Journal| {
        for (number, position) in (0..300).zip(&positions) {
            let reply = journal.read(*position, 1).unwrap();
            let Part::Block(block) = &reply.parts[0] else { panic!("{:?}", reply.parts) };
            assert_eq!(block.records().next().unwrap().body, long(number).as_bytes());
        }
    };
    check(&journal);
    world.close(journal);
    let indexes = world.files("index");
    assert!(indexes.len() >= 2);
    let right = fs::read(&indexes[0]).unwrap();
    assert!(right.len() > 40 + 20 * 2, "{} bytes", right.len());

    fs::remove_file(&indexes[0]).unwrap();
    let mut damaged = fs::read(&indexes[1]).unwrap();
    damaged[50] ^= 1;
    fs::write(&indexes[1], damaged).unwrap();
    let journal = world.open();
    check(&journal);
    assert_eq!(fs::read(&indexes[0]).unwrap(), right, "made anew");
    world.close(journal);

    // Whole, but of another segment of the same length: a hint that leads nowhere.
    let mut index = Index::decode(&right).unwrap();
    for entry in &mut index.entries {
        entry.offset += 1;
    }
    fs::write(&indexes[0], index.encode()).unwrap();
    check(&world.open());
}

#[test]
fn retention_removes_whole_segments_from_the_oldest_on() {
    let mut world = World::new(600);
    world.options.retain_bytes = 2000;
    let journal = world.open();
    world.fill(&journal, 0..100);
    // The last one is removed behind the commit that made it too much.
    soon(|| journal.bytes() <= 2000);
    let (Standing { oldest, next }, bytes) = (journal.standing(), journal.bytes());
    assert!(oldest.next > 50 && next.next == 100);
    assert_eq!(everything(&journal, 1 << 20), records(oldest.next..100));
    let reply = journal.read(Position { next: 3, previous: 7 }, 1 << 20).unwrap();
    let Part::Gap(gap) = &reply.parts[0] else { panic!("{:?}", reply.parts[0]) };
    assert_eq!((gap.from, gap.to, gap.reason), (3, oldest, GapReason::Retention));
    world.close(journal);
    let kept: u64 = world.files("segment").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(kept, bytes);
    let journal = world.open();
    assert_eq!(journal.standing(), Standing { oldest, next });
    assert_eq!(world.files("index").len(), world.files("segment").len() - 1);
}

#[test]
fn all_is_retired_while_idle_and_the_numbers_go_on() {
    let mut world = World::new(1 << 20);
    world.options.retain_age = Some(Duration::from_millis(1));
    let journal = world.open();
    world.fill(&journal, 0..3);
    soon(|| journal.standing().oldest.next == 3);
    let standing = journal.standing();
    assert_eq!(standing.oldest, standing.next);
    assert_eq!(world.files("segment").len(), 1);
    world.close(journal);
    let journal = world.open();
    assert_eq!(journal.standing(), standing);
    let reply = journal.read(Position::default(), 1 << 20).unwrap();
    assert!(matches!(reply.parts[..], [Part::Gap(gap)] if gap.to == standing.next), "{:?}", reply.parts);
    world.fill(&journal, 3..4);
}

#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    let world = World::new(1 << 20);
    let journal = world.open_with("write=error:28@2");
    world.fill(&journal, 0..1);
    let error = world.append(&journal, "refused").unwrap_err();
    assert!(matches!(&error, AppendError::Unavailable(reason) if reason.contains("No space left")), "{error}");
    let start = Instant::now();
    while journal.health() != Health::Writing {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
    world.fill(&journal, 1..3);
    assert_eq!(everything(&journal, 1 << 20), records(0..3));
}

#[test]
fn a_segment_that_cannot_be_begun_is_tried_again() {
    // No room for it, and no descriptor.
    for errno in [28, 24] {
        let world = World::new(600);
        let journal = world.open_with(&format!("seal.created=error:{errno}"));
        let mut kept = 0;
        let refused = loop {
            match world.append(&journal, &body(kept)) {
                Ok(_) => kept += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
        let start = Instant::now();
        while journal.health() != Health::Writing {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        }
        world.fill(&journal, kept..kept + 5);
        world.close(journal);
        assert_eq!(everything(&world.open(), 1 << 20), records(0..kept + 5));
    }
}

#[test]
fn a_segment_that_is_there_but_perhaps_not_for_good_is_the_last() {
    for fault in ["seal.renamed=error:28", "seal.renamed=error:5"] {
        let world = World::new(600);
        let journal = world.open_with(fault);
        let mut kept = 0;
        while world.append(&journal, &body(kept)).is_ok() {
            kept += 1;
        }
        assert!(matches!(journal.health(), Health::Failed(_)), "{fault}");
        assert!(world.append(&journal, "").is_err());
        world.close(journal);
        let journal = world.open();
        assert_eq!(everything(&journal, 1 << 20), records(0..kept), "{fault}");
        world.fill(&journal, kept..kept + 5);
    }
}

#[test]
fn damage_and_a_torn_end_at_once_lose_one_block_and_state_it() {
    const RECORDS: u64 = 6000;
    let world = World::new(1 << 24);
    let journal = world.open();
    world.fill(&journal, 0..RECORDS);
    world.close(journal);
    let path = &world.files("segment")[0];
    let mut bytes = fs::read(path).unwrap();
    bytes.extend([0x44; 17]);
    let block = 48 + u64::from_le_bytes(bytes[48 + 36..48 + 44].try_into().unwrap()) as u32 as usize + 56;
    bytes[block..block + 40].fill(0);
    fs::write(path, bytes).unwrap();
    let journal = world.open();
    assert_eq!(assert_right_or_stated(&everything(&journal, 1 << 20), RECORDS, "twice"), 1);
    assert_eq!(journal.counters().torn.load(Ordering::Relaxed), 1);
}

#[test]
fn a_journal_without_room_to_open_serves_what_is_sealed_and_opens_once_there_is() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    let end = journal.standing().next;
    world.close(journal);
    let journal = Journal::open(Options {
        faults: Faults::planned(&crate::FAULT_POINTS, "open.copied=error:28"),
        ..world.options.clone()
    });
    let journal = journal.as_ref().unwrap();
    assert!(matches!(journal.health(), Health::Waiting(_)));
    assert!(matches!(world.append(journal, "refused"), Err(AppendError::Unavailable(_))));
    let sealed = journal.standing().next.next;
    assert!(sealed > 10 && sealed < 20);
    assert_eq!(everything(journal, 1 << 20), records(0..sealed));
    assert!(matches!(journal.read(end, 0), Err(ReadError::NotOpen)), "it may well be one of this history");
    journal.start(Nobody).unwrap();
    let start = Instant::now();
    while journal.health() != Health::Writing {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
    world.fill(journal, 20..21);
    assert_eq!(everything(journal, 1 << 20), records(0..21));
}

#[test]
fn after_a_failed_sync_nothing_is_taken_and_what_is_durable_is_served() {
    for fault in ["sync=error:5@3", "write=error:5@3"] {
        let world = World::new(1 << 20);
        let journal = world.open_with(fault);
        world.fill(&journal, 0..2);
        assert!(matches!(world.append(&journal, "unknown"), Err(AppendError::Unknown(_))), "{fault}");
        assert!(matches!(world.append(&journal, "refused"), Err(AppendError::Unavailable(_))), "{fault}");
        assert!(matches!(journal.health(), Health::Failed(_)));
        assert_eq!(everything(&journal, 1 << 20), records(0..2), "{fault}");
        world.close(journal);
        let journal = world.open();
        let next = journal.standing().next.next;
        assert!(next == 2 || next == 3, "{fault}: it may be there, once");
        world.fill(&journal, next..next + 1);
    }
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    struct Panics;
    impl Outlet for Panics {
        fn opened(&self, _at: Position) {}
        fn committed(&self, _block: &Block) {
            panic!("on purpose");
        }
    }
    let world = World::new(1 << 20);
    let journal = Journal::open(world.options.clone()).unwrap();
    journal.start(Panics).unwrap();
    assert_eq!(world.append(&journal, "durable"), Ok(0));
    let start = Instant::now();
    while !matches!(journal.health(), Health::Failed(_)) {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(world.append(&journal, "refused"), Err(AppendError::Unavailable(_))));
    world.close(journal);
}

#[test]
fn a_commit_that_takes_long_shows() {
    let world = World::new(1 << 20);
    let journal = world.open_with("sync=delay:3000@2");
    world.fill(&journal, 0..1);
    assert_eq!(journal.slow_commit(), None);
    world.runtime.block_on(async {
        let append = journal.append("t", &[b"slow"]);
        let shown = async {
            while journal.slow_commit().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (appended, ()) = tokio::join!(append, shown);
        assert_eq!(appended, Ok(1));
    });
    assert_eq!(journal.slow_commit(), None);
}

#[test]
fn a_name_given_later_must_be_the_one_that_is_kept() {
    let mut world = World::new(1 << 20);
    world.close(world.open());
    world.options.default_name = "another".parse().unwrap();
    let journal = world.open();
    assert_eq!(journal.name().as_str(), "tester");
    world.close(journal);
    world.options.name = Some("another".parse().unwrap());
    let error = Journal::open(world.options.clone()).err().unwrap();
    assert!(
        matches!(&error, JournalError::Name { given, kept, .. } if given.as_str() == "another" && kept.as_str() == "tester")
    );
    world.options.name = Some("tester".parse().unwrap());
    world.close(world.open());
    fs::write(world.options.folder.join("name"), "$bad\n").unwrap();
    assert!(matches!(Journal::open(world.options.clone()), Err(JournalError::KeptName { .. })));
}

/// The same, to begin a new stream with what is there.
fn renewing(world: &World, faults: &str) -> Result<Journal, JournalError> {
    let faults = Faults::planned(&crate::FAULT_POINTS, faults);
    Journal::open(Options { new_stream: true, faults, ..world.options.clone() })
}

/// A journal of more than one segment. Returns its stream.
fn of_some_segments(world: &World) -> StreamId {
    let journal = world.open();
    world.fill(&journal, 0..30);
    let stream = journal.stream();
    world.close(journal);
    assert!(world.files("segment").len() > 2 && !world.files("index").is_empty());
    stream
}

/// The journal that was kept aside, opened as any other is.
fn assert_is_kept(world: &World, stream: StreamId) {
    let folder = world.options.folder.join(format!("stream-{stream}"));
    let kept = Journal::open(Options { folder, ..world.options.clone() }).unwrap();
    assert_eq!((kept.stream(), everything(&kept, 1 << 20)), (stream, records(0..30)));
}

#[test]
fn a_new_stream_begins_and_the_old_one_is_kept_whole() {
    let mut world = World::new(1000);
    world.options.name = Some("web-1".parse().unwrap());
    let old = of_some_segments(&world);
    world.options.name = None;
    // It would be in the way of another of that number.
    fs::write(world.options.folder.join(format!("{:020}.damaged", 7)), "damaged").unwrap();

    let journal = renewing(&world, "").unwrap();
    journal.start(Nobody).unwrap();
    let new = journal.stream();
    assert_ne!(new, old);
    assert_eq!((journal.standing().next, journal.name().as_str()), (Position::default(), "web-1"));
    world.fill(&journal, 0..3);
    world.close(journal);
    assert_eq!((world.files("segment").len(), world.files("damaged").len()), (1, 0));
    assert_is_kept(&world, old);

    let journal = world.open();
    assert_eq!((journal.stream(), everything(&journal, 1 << 20)), (new, records(0..3)));
    world.close(journal);
    // Given again it is another; where nothing is, there is nothing to keep.
    let journal = renewing(&world, "").unwrap();
    assert!(![old, new].contains(&journal.stream()));
    let empty = World::new(1000);
    assert_eq!(renewing(&empty, "").unwrap().standing().next, Position::default());
    assert_eq!(fs::read_dir(&empty.options.folder).unwrap().count(), 2);
}

#[test]
fn a_new_stream_that_was_interrupted_is_the_old_one_or_a_new_one() {
    for (point, passes) in [("renew.marked", 3), ("renew.moved", 5), ("renew.done", 1), ("open.copied", 1)] {
        for (pass, again) in (1..=passes).flat_map(|pass| [(pass, false), (pass, true)]) {
            let world = World::new(1000);
            let old = of_some_segments(&world);
            let failed = renewing(&world, &format!("{point}=error:5@{pass}")).err();
            assert!(failed.is_some(), "{point} {pass}");
            let journal = if again { renewing(&world, "").unwrap() } else { world.open() };
            let is_old = point == "renew.marked" && pass < 3 && !again;
            assert_eq!(journal.stream() == old, is_old, "{point} {pass} {again}");
            let count = if is_old { 30 } else { 0 };
            assert_eq!(everything(&journal, 1 << 20), records(0..count));
            world.close(journal);
            if !is_old {
                assert_is_kept(&world, old);
            }
            let stream = world.open().stream();
            assert_eq!(stream == old, is_old);
            let folders =
                fs::read_dir(&world.options.folder).unwrap().filter(|it| it.as_ref().unwrap().path().is_dir());
            assert_eq!(folders.count(), usize::from(!is_old), "{point} {pass} {again}");
        }
    }
}

#[test]
fn what_is_in_the_way_of_a_journal_that_is_to_be_kept_stays() {
    let world = World::new(1000);
    let old = of_some_segments(&world);
    let taken = world.options.folder.join(format!("stream-{old}"));
    fs::create_dir(&taken).unwrap();
    let error = renewing(&world, "").err().unwrap();
    assert_eq!(error.to_string(), format!("cannot create {}", taken.display()));
    let journal = world.open();
    assert_eq!((journal.stream(), everything(&journal, 1 << 20)), (old, records(0..30)));
    world.close(journal);
    // A marker of nobody's making leads nowhere.
    let marker = world.options.folder.join("new-stream");
    for place in ["", "elsewhere", "stream-/../..", "stream-\0"] {
        fs::write(&marker, place).unwrap();
        let error = Journal::open(world.options.clone()).err().unwrap();
        assert!(error.to_string().starts_with("cannot "), "{error}");
    }
    fs::remove_file(&marker).unwrap();
    assert_eq!(world.open().stream(), old);
}

#[test]
fn segments_of_another_journal_or_a_later_version_are_refused_by_name() {
    let world = World::new(600);
    let journal = world.open();
    world.fill(&journal, 0..20);
    world.close(journal);
    let other = World::new(600);
    let journal = other.open();
    other.fill(&journal, 0..20);
    other.close(journal);
    let (mine, others) = (world.files("segment"), other.files("segment"));
    let whole = fs::read(&mine[0]).unwrap();
    fs::copy(&others[0], &mine[0]).unwrap();
    let error = Journal::open(world.options.clone()).err().unwrap();
    assert!(matches!(&error, JournalError::OtherStream { path, .. } if *path == mine[0]), "{error}");

    fs::write(&mine[0], &whole).unwrap();
    let last = mine.last().unwrap();
    let mut later = fs::read(last).unwrap();
    for offset in [3, 48 + 3] {
        let before = later.clone();
        later[offset] = b'2';
        let end = if offset == 3 { 48 } else { later.len() };
        reseal(&mut later, offset - 3..end);
        fs::write(last, &later).unwrap();
        let error = Journal::open(world.options.clone()).err().unwrap();
        let text = format!("{:?}", error);
        assert!(text.contains("Version"), "{text}");
        later = before;
    }
    let _kept = world.dir;
}

/// Makes the checksum of the first encoding in a range right.
fn reseal(bytes: &mut [u8], range: std::ops::Range<usize>) {
    let whole = &mut bytes[range];
    let length = match &whole[..3] {
        b"DPB" => 56 + u32::from_le_bytes(whole[36..40].try_into().unwrap()) as usize,
        _ => 48,
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&whole[..4]), &whole[8..length]);
    whole[4..8].copy_from_slice(&sum.to_le_bytes());
}
