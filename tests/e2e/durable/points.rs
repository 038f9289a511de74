//! The process killed at every named point of the journal's work, and started again.

use super::load::Load;
use super::*;
use publisher::FAULT_POINTS;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;

/// How many publishers are killed at the same time: most of it is waiting for heads.
const AT_ONCE: usize = 6;

/// When a point is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// While a new journal is made.
    New,
    /// While one with records and a torn end is opened.
    Opening,
    /// While one is opened that is to keep less than before.
    Shrinking,
    /// Under load.
    Running,
}

#[derive(Debug, Clone, Copy)]
struct Crash {
    point: &'static str,
    pass: u64,
    when: When,
}

impl Crash {
    fn fault(&self) -> String {
        format!("{}=kill@{}", self.point, self.pass)
    }
}

/// For each point when it is passed, and how often at least in a test's time.
fn crashes(random: &mut Random) -> Vec<Crash> {
    let mut crashes = Vec::new();
    for point in FAULT_POINTS {
        let (stage, _) = point.split_once('.').unwrap_or((point, ""));
        let mut add = |when, passes: &[u64]| {
            crashes.extend(passes.iter().map(|&pass| Crash { point, pass, when }));
        };
        match (stage, point) {
            // Once the name is written, synced, and renamed.
            (_, "open.named") => add(When::New, &[1, 2, 3]),
            ("open", _) => {
                add(When::New, &[1]);
                add(When::Opening, &[1]);
            }
            // Passed by who is told to: see `histories`.
            ("renew", _) => {}
            ("seal" | "index", _) => add(When::Running, &[1, 2 + random.below(6)]),
            // Once for all that goes at a time.
            (_, "retire.done") => {
                add(When::Running, &[1, 2 + random.below(3)]);
                add(When::Shrinking, &[1]);
            }
            ("retire", _) => {
                add(When::Running, &[1, 2 + random.below(3)]);
                add(When::Shrinking, &[1, 2 + random.below(3)]);
            }
            _ => add(When::Running, &[1, 2 + random.below(80)]),
        }
    }
    crashes
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_every_point() {
    let mut random = Random::new();
    let crashes = Mutex::new(crashes(&mut random).into_iter().zip(20..).collect::<VecDeque<_>>());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = crashes.lock().unwrap().pop_front();
                    let Some((crash, number)) = next else { return };
                    println!("{crash:?}");
                    survives(crash, &format!("127.0.2.{number}"));
                }
            });
        }
    });
}

/// Kills a publisher at the point, and looks whether the next has everything and goes on.
fn survives(crash: Crash, host: &str) {
    let folder = folder();
    let site = Site::new(folder.path(), host, &["--segment-bytes=64KiB", "--retain-bytes=1MiB"]);
    // Nobody is there yet. Who begins before there is a record gets all of them.
    let collector = Collector::follow(&format!("tcp://{host}:1"));
    // Of about 2 KiB each.
    let load = Load::new(4, 1800).held_back_by(&collector, 100);
    match crash.when {
        When::New => dies_opening(&site, crash),
        When::Opening => {
            live(&site, &load, &collector, 120);
            tear(&site.journal);
            // Twice: what the first has left is there for the second.
            dies_opening(&site, crash);
            dies_opening(&site, crash);
        }
        When::Shrinking => {
            live(&site, &load, &collector, 300);
            let options = ["--segment-bytes=64KiB", "--retain-bytes=64KiB"];
            dies_opening(&Site::new(folder.path(), host, &options), crash);
        }
        When::Running => {
            let mut publisher = site.start_with(&crash.fault());
            all_go_to(&publisher, &load, &collector);
            let status = load.during(|| publisher.ended_within(PATIENCE));
            assert_eq!(status.signal(), Some(SIGKILL), "{crash:?}: {status}: {}", publisher.stderr());
        }
    }
    live(&site, &load, &collector, 100);
}

/// A publisher is killed at the point before it is ready.
fn dies_opening(site: &Site, crash: Crash) {
    let mut command = site.command(&crash.fault());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    // A line, or the end of the process.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.is_empty() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), &*line), (Some(SIGKILL), ""), "{crash:?}: {status}");
}

/// Has a publisher acknowledge some more records, all of which the collector gets, and kills it.
fn live(site: &Site, load: &Load<'_>, collector: &Collector, records: u64) {
    let publisher = site.start();
    all_go_to(&publisher, load, collector);
    load.during(|| load.until_acknowledged(records));
    assert_all_is_there(&publisher, load, collector);
    publisher.kill();
}

/// Leaves the beginning of a block behind the last, as a write does that was cut short.
fn tear(journal: &Path) {
    let (header, file) = segments(journal).pop().unwrap();
    let mut there = blocks(&file, SegmentHeader::BYTES);
    let block = there.blocks.pop().unwrap();
    let path = journal.join(format!("{:020}.segment", header.start.next));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&block.bytes[..block.bytes.len() / 2], there.end as u64).unwrap();
}
