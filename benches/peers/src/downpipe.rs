//! Ours: records are appended to a publisher's journal, and `downpipe subscriber` writes the log. Either it is there
//! from the start, or it comes when all the records are in the journal, and catches up. A publisher that has much to
//! say appends many records at once; the others here take them one by one, so that is measured too.

use crate::output::Output;
use crate::round::{Contestant, Outcome, Turn, UNDER_WAY_MAX};
use bytesize::ByteSize;
use measure::process::{Process, eventually, get};
use measure::roles::role;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const LIVE: Contestant = Contestant {
    name: "downpipe",
    title: "many records an append",
    promise: "synced before it is acknowledged; log exactly once",
    share: 1,
    lacks: |_| None,
    version: || None,
    run: |turn| live(turn, together(turn.size), APPENDS),
};

pub(crate) const SINGLY: Contestant = Contestant {
    name: "downpipe-singly",
    title: "one record an append",
    promise: "the same",
    run: |turn| live(turn, 1, UNDER_WAY_MAX),
    ..LIVE
};

pub(crate) const WARM: Contestant = Contestant {
    name: "catch-up",
    title: "all is in the journal",
    promise: "the same",
    run: |turn| catch_up(turn, |_| ()),
    ..LIVE
};

pub(crate) const COLD: Contestant = Contestant {
    name: "catch-up-cold",
    title: "and not in memory",
    promise: "the same",
    run: |turn| catch_up(turn, evict),
    ..LIVE
};

/// What goes into one append of many records, in bytes of bodies.
const TOGETHER_BYTES: usize = 100_000;
/// Appends of many records that wait for the disk at once.
const APPENDS: usize = 64;
/// What a record has in the journal beside its body, at most.
const OVERHEAD_BYTES: u64 = 64;

/// How many records go into one append of many.
fn together(size: usize) -> usize {
    (TOGETHER_BYTES / size).max(1)
}

fn live(turn: &Turn, together: usize, under_way: usize) -> Outcome {
    let (output, mut publisher) = (turn.output(), publisher(turn, together, under_way));
    let subscriber = subscriber(turn, &publisher, &output);
    let http = subscriber.told("subscriber.http").to_owned();
    eventually("the subscriber is ready", Duration::from_millis(5), || {
        get(&http, "/readyz").starts_with("ready").then_some(())
    });
    let begun = Instant::now();
    publisher.tell(&format!("numbered {}", turn.records));
    let took = output.complete(turn.records) - begun;
    drop((subscriber, publisher));
    checked(turn.outcome(took, &output))
}

fn catch_up(turn: &Turn, prepare: impl Fn(&Path)) -> Outcome {
    let (output, mut publisher) = (turn.output(), publisher(turn, together(turn.size), APPENDS));
    publisher.ask(&format!("numbered {}", turn.records));
    prepare(&journal(turn));
    let begun = Instant::now();
    let subscriber = subscriber(turn, &publisher, &output);
    let took = output.complete(turn.records) - begun;
    drop((subscriber, publisher));
    checked(turn.outcome(took, &output))
}

/// What the others lose is a figure; what this one loses is a defect.
fn checked(outcome: Outcome) -> Outcome {
    assert_eq!((outcome.lost, outcome.repeated), (0, 0), "records that downpipe lost, and repeated");
    outcome
}

fn publisher(turn: &Turn, together: usize, under_way: usize) -> Process {
    let retain = turn.records * (turn.size as u64 + OVERHEAD_BYTES) + ByteSize::gib(1).0;
    let mut command = role("appender");
    command.arg("--journal").arg(journal(turn));
    command.args(["--size", &turn.size.to_string(), "--together", &together.to_string()]);
    command.args(["--under-way", &under_way.to_string(), "--retain", &retain.to_string()]);
    Process::start(command, 1)
}

fn subscriber(turn: &Turn, publisher: &Process, output: &Output) -> Process {
    let mut command = Command::new(turn.downpipe);
    command.args(["subscriber", "--http=127.0.0.1:0", "--feed", publisher.told("publisher.feed")]);
    command.arg("--log").arg(output.file());
    Process::start(command, 1)
}

fn journal(turn: &Turn) -> PathBuf {
    turn.folder.join("journal")
}

/// Has the kernel forget what it keeps of the journal in memory. All of it is synced, so all of it can go.
fn evict(journal: &Path) {
    for entry in fs::read_dir(journal).expect("the journal can be read") {
        let path = entry.expect("the journal can be read").path();
        let file = File::open(path).expect("a file of the journal can be opened");
        if file.metadata().is_ok_and(|found| found.is_file()) {
            fadvise(&file, 0, None, Advice::DontNeed).expect("the kernel takes the advice");
        }
    }
}
