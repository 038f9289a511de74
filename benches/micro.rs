//! What the steps of a record's way cost by themselves, each beside a copy of the same bytes in memory: `cargo bench
//! --bench micro`. Criterion measures; the table at the end has how many times as long as the copy each takes.
//!
//! Journal and log are on a tmpfs, where a sync costs nothing: what is left is our own work and the system calls.
//! What they do on a disk is what the benchmark `pipeline` tells.

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use feed::{Block, BlockBuilder, Position, StreamId};
use measure::median;
use measure::roles::publisher_config;
use measure::table::{Table, ratio};
use publisher::{Config, Publisher};
use rustix::fs::statfs;
use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use subscriber::Format;
use subscriber::bench::{Lines, Log, escape};
use subscriber::index::{Entry, Kind};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const RECORDS: usize = 1000;
const BODY_BYTES: usize = 100;
/// When all records are published and received.
const TIME_NS: i64 = 1_764_000_000_123_456_789;
const STREAM: StreamId = StreamId([7; 16]);
/// A little of everything that is escaped in one of the formats, and of what is not.
const HOSTILE: &[u8] = b"\x1b[31m\n\t\\\"/ \xff\xc3\xa9\xe2\x80\xae$ plain text";
const SHARED_MEMORY: &str = "/dev/shm";
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// So little that the 64 MiB are enough that a container has there.
const KEPT_BYTES: u64 = 8 << 20;
/// Entries that are written to an index at once.
const ENTRIES: usize = 64;
const COLUMNS: [&str; 5] = ["", "of a copy", "ns a record", "MB/s", "copy MB/s"];

fn main() {
    let mut suite = Suite { criterion: criterion(), rows: Vec::new() };
    let bodies = Bodies::new();
    blocks(&mut suite, &bodies);
    lines(&mut suite, &bodies);
    match tmpfs() {
        Some(folder) => {
            index(&mut suite, folder.path());
            journal(&mut suite, folder.path(), &bodies);
            log(&mut suite, folder.path(), &bodies);
        }
        None => println!("Index, journal and log are left out: {SHARED_MEMORY} is no tmpfs here."),
    }
    suite.criterion.final_summary();
    suite.table();
}

fn criterion() -> Criterion {
    let criterion = Criterion::default().without_plots().sample_size(30);
    let times = [Duration::from_millis(500), Duration::from_secs(2)];
    criterion.warm_up_time(times[0]).measurement_time(times[1]).configure_from_args()
}

/// What was measured, beside criterion, which does not tell.
struct Row {
    name: String,
    records: usize,
    bytes: usize,
    seconds: f64,
    copy_seconds: f64,
}

struct Suite {
    criterion: Criterion,
    rows: Vec<Row>,
}

impl Suite {
    /// Measures something that goes through so many bytes of so many records, and a copy of as many.
    fn measure(&mut self, name: &str, records: usize, bytes: usize, work: impl FnMut()) {
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes as u64));
        let (source, mut target) = (vec![1_u8; bytes], vec![0_u8; bytes]);
        let copy = || black_box(&mut target).copy_from_slice(black_box(&source));
        let copy_seconds = sample(&mut group, "copy", copy);
        let seconds = sample(&mut group, "it", work);
        group.finish();
        // Neither is there if the command line asks for others.
        if let (Some(seconds), Some(copy_seconds)) = (seconds, copy_seconds) {
            self.rows.push(Row { name: name.to_owned(), records, bytes, seconds, copy_seconds });
        }
    }

    fn table(&self) {
        let table = Table::new("micro: one step, beside a copy of the same bytes", 28, &COLUMNS);
        for Row { name, records, bytes, seconds, copy_seconds } in &self.rows {
            let speed = |seconds: f64| format!("{:.0}", *bytes as f64 / seconds / 1e6);
            let each = format!("{:.1}", seconds * 1e9 / *records as f64);
            table.row(&[name, &ratio(*seconds, *copy_seconds), &each, &speed(*seconds), &speed(*copy_seconds)]);
        }
    }
}

/// The median of how many seconds it takes.
fn sample(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut work: impl FnMut()) -> Option<f64> {
    let times = RefCell::new(Vec::new());
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let begun = Instant::now();
            (0..iterations).for_each(|_| work());
            let took = begun.elapsed();
            times.borrow_mut().push(took.as_secs_f64() / iterations as f64);
            took
        });
    });
    let times = times.into_inner();
    (!times.is_empty()).then(|| median(times))
}

/// Bodies of records.
struct Bodies {
    ordinary: Vec<Vec<u8>>,
    hostile: Vec<Vec<u8>>,
}

impl Bodies {
    fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let ordinary = (0..RECORDS).map(|_| (0..BODY_BYTES).map(|_| random.alphanumeric() as u8).collect());
        let hostile = HOSTILE.iter().copied().cycle().take(BODY_BYTES).collect();
        Self { ordinary: ordinary.collect(), hostile: vec![hostile; RECORDS] }
    }

    /// Each with what to call it.
    fn kinds(&self) -> [(&str, &[Vec<u8>]); 2] {
        [("ordinary", &self.ordinary), ("hostile", &self.hostile)]
    }
}

fn block(builder: &mut BlockBuilder, bodies: &[Vec<u8>]) -> Block {
    let records = bodies.iter().map(|body| ("bench", &body[..]));
    builder.push_all(TIME_NS, records).expect("they fit into a block");
    builder.finish(STREAM, Position::default()).expect("a block")
}

fn blocks(suite: &mut Suite, bodies: &Bodies) {
    let bytes = block(&mut BlockBuilder::new(), &bodies.ordinary).bytes().clone();
    let mut builder = BlockBuilder::new();
    suite.measure("block, encode", RECORDS, bytes.len(), || {
        black_box(block(&mut builder, black_box(&bodies.ordinary)));
    });
    suite.measure("block, decode", RECORDS, bytes.len(), || {
        let block = Block::decode(Bytes::clone(black_box(&bytes))).expect("a block");
        assert_eq!(black_box(&block).records().count(), RECORDS);
    });
    suite.measure("crc32c", RECORDS, bytes.len(), || {
        black_box(crc32c::crc32c(black_box(&bytes)));
    });
}

fn lines(suite: &mut Suite, bodies: &Bodies) {
    let mut out = Vec::new();
    for (name, format) in [("text", Format::Text), ("json", Format::Json)] {
        for (kind, bodies) in bodies.kinds() {
            let block = block(&mut BlockBuilder::new(), bodies);
            let mut lines = Lines::new(format);
            suite.measure(&format!("lines, {name}, {kind}"), RECORDS, block.bytes().len(), || {
                out.clear();
                lines.render(black_box(&block), TIME_NS, &mut out);
                black_box(&out);
            });
            suite.measure(&format!("escape, {name}, {kind}"), RECORDS, RECORDS * BODY_BYTES, || {
                out.clear();
                black_box(bodies).iter().for_each(|body| escape(body, format, &mut out));
                black_box(&out);
            });
        }
    }
}

/// A folder in memory.
fn tmpfs() -> Option<TempDir> {
    let found = statfs(SHARED_MEMORY).ok()?;
    (found.f_type as u64 == TMPFS_MAGIC).then(|| tempfile::tempdir_in(SHARED_MEMORY).ok())?
}

/// As an append of the log does it for its blocks: all entries into one buffer, and one write.
fn index(suite: &mut Suite, folder: &Path) {
    let file = File::create(folder.join("index")).expect("a file in memory");
    let entry = |at: usize| Entry { first: at as u64, lines: RECORDS as u32, ..Entry::new(Kind::Block, at as u64) };
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    let (mut bytes, mut end) = (Vec::new(), 0);
    let length = ENTRIES * subscriber::index::ENTRY_BYTES;
    suite.measure("index, append of entries", ENTRIES, length, || {
        bytes.clear();
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        file.write_all_at(&bytes, end).expect("room in memory");
        end = (end + length as u64) % KEPT_BYTES;
    });
}

fn journal(suite: &mut Suite, folder: &Path, bodies: &Bodies) {
    let runtime = Runtime::new().expect("a runtime");
    let publisher = runtime.block_on(Publisher::bind(config(folder))).expect("a publisher");
    let appender = publisher.appender();
    let bytes = block(&mut BlockBuilder::new(), &bodies.ordinary).bytes().len();
    suite.measure("journal, append of a block", RECORDS, bytes, || {
        let appended = runtime.block_on(appender.append_all("bench", &bodies.ordinary));
        appended.expect("a journal that takes records");
    });
}

fn log(suite: &mut Suite, folder: &Path, bodies: &Bodies) {
    let mut text = Vec::new();
    let block = block(&mut BlockBuilder::new(), &bodies.ordinary);
    Lines::new(Format::Text).render(&block, TIME_NS, &mut text);
    let mut log = Log::begin(folder.join("log"), KEPT_BYTES).expect("a log in memory");
    suite.measure("log, append of lines", RECORDS, text.len(), || {
        log.append(black_box(&text), RECORDS as u32).expect("a log that takes lines");
    });
}

/// A publisher in memory that nobody follows.
fn config(folder: &Path) -> Config {
    Config {
        segment_bytes: KEPT_BYTES / 2,
        append_queue_bytes: KEPT_BYTES,
        live_budget_bytes: KEPT_BYTES,
        replay_budget_bytes: KEPT_BYTES,
        ..publisher_config(folder.join("journal"), KEPT_BYTES)
    }
}
