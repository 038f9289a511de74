//! What the pipeline takes without a pause: records that are appended as fast as they become durable, until the log
//! has the last of them. Beside it is what the disk takes if it is written to in order and past the kernel's memory,
//! as many bytes as the pipeline has written; and what the zeromq crate carries from a PUB to a SUB in the same frames.

use crate::bench::Bench;
use crate::daemons::{Subscriber, append, appender, metric};
use crate::frames::Frames;
use measure::table::{Table, bandwidth, rate, ratio};
use measure::{disk, median, progress};
use std::path::Path;
use std::time::{Duration, Instant};

const SIZES: [(&str, usize); 3] = [("100 B", 100), ("1 KiB", 1024), ("10 KiB", 10_240)];
const SECONDS: f64 = 30.0;
/// The pass that tells how much the others are to write, and how long blocks are.
const TRIAL_SECONDS: f64 = 5.0;
const FRAMES_SECONDS: f64 = 10.0;
const PIECE_BYTES_MAX: u64 = 1 << 30;
const COLUMNS: [&str; 8] =
    ["record", "written / disk", "feed / frames", "records", "written", "disk", "feed", "frames"];

pub(crate) fn run(bench: &Bench) {
    let table = Table::new("sustained: appended, and in the log", 10, &COLUMNS);
    for (name, size) in SIZES {
        let say = |what: &str| progress::say(&format!("sustained: {name}, {what}"));
        say("a trial");
        let trial = pass(bench, size, bench.time(TRIAL_SECONDS));
        let expected = trial.written() / trial.seconds * bench.time(SECONDS).as_secs_f64();
        let frame = trial.feed_bytes / trial.blocks.max(1);
        let mut baselines = Baselines::default();
        say("baselines");
        baselines.measure(bench, expected, frame);
        say("the pipeline");
        let pass = pass(bench, size, bench.time(SECONDS));
        say("baselines again");
        baselines.measure(bench, pass.written(), frame);

        let (disk, frames) = (median(baselines.disk), median(baselines.frames));
        let (written, feed) = (pass.written() / pass.seconds, pass.feed_bytes as f64 / pass.seconds);
        let (of_disk, of_frames) = (ratio(written, disk), ratio(feed, frames));
        let records = rate(pass.records as f64 / pass.seconds);
        let [written, disk, feed, frames] = [written, disk, feed, frames].map(bandwidth);
        table.row(&[name.to_owned(), of_disk, of_frames, records, written, disk, feed, frames]);
    }
}

/// What went through.
struct Pass {
    records: u64,
    seconds: f64,
    blocks: u64,
    feed_bytes: u64,
    log_bytes: u64,
}

impl Pass {
    fn written(&self) -> f64 {
        (self.feed_bytes + self.log_bytes) as f64
    }
}

fn pass(bench: &Bench, size: usize, time: Duration) -> Pass {
    let (journal, log) = (bench.folder(), bench.folder());
    let mut appender = appender(journal.path(), size, &[]);
    let subscriber = Subscriber::caught_up([&appender], log.path(), &["--keep=2"]);
    let begun = Instant::now();
    let (records, _) = append(&mut appender, &format!("seconds {}", time.as_secs_f64()));
    let lost = subscriber.wait_for(records);
    assert_eq!(lost, 0, "the log fell behind by more than the journal keeps");
    Pass {
        records,
        seconds: begun.elapsed().as_secs_f64(),
        blocks: metric(&appender, "journal_commits_total"),
        feed_bytes: metric(&appender, "journal_bytes_total"),
        log_bytes: subscriber.metric("bytes_written_total"),
    }
}

/// Bytes a second.
#[derive(Default)]
struct Baselines {
    disk: Vec<f64>,
    frames: Vec<f64>,
}

impl Baselines {
    fn measure(&mut self, bench: &Bench, bytes: f64, frame: u64) {
        let folder = bench.folder();
        self.disk.push(direct(folder.path(), bytes as u64));
        self.frames.push(frames(frame, bench.time(FRAMES_SECONDS)));
    }
}

/// In pieces, so that a disk that is nearly full will do: each is synced, and gone before the next.
fn direct(folder: &Path, bytes: u64) -> f64 {
    let pieces = bytes.div_ceil(PIECE_BYTES_MAX).max(1);
    let piece = bytes / pieces;
    let write = |_| disk::write_direct(folder, piece).expect("a disk that takes O_DIRECT");
    (piece * pieces) as f64 / (0..pieces).map(write).sum::<Duration>().as_secs_f64()
}

fn frames(size: u64, time: Duration) -> f64 {
    let mut frames = Frames::start(size);
    let begun = Instant::now();
    let sent = frames.send(&format!("seconds {}", time.as_secs_f64()));
    (sent * size) as f64 / begun.elapsed().as_secs_f64()
}
