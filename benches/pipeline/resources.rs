//! What the daemons take: memory and processor time when nothing happens, processor time for each record under load,
//! memory while subscribers are stopped under load, the time of a start, the size of the binary. Beside each is the
//! same of something that does as little as can be.

use crate::bench::Bench;
use crate::daemons::{Subscriber, append, appender, metric, publisher, subscribers};
use crate::frames::Frames;
use measure::process::{Process, Signal};
use measure::table::{Table, mib, millis, ratio};
use measure::{median, progress, roles};
use std::iter::repeat_with;
use std::path::Path;
use std::thread;

const IDLE_SECONDS: f64 = 20.0;
const LOAD_ROUNDS: usize = 5;
const LOAD_RECORDS: u64 = 2_000_000;
const LOAD_SIZE: usize = 100;
const STOPPED_SECONDS: f64 = 60.0;
const EMPTY_STARTS: usize = 20;
const FULL_STARTS: usize = 5;
/// As much as the journal of a publisher keeps by default.
const FULL_BYTES: u64 = 1 << 30;
const COLUMNS: [&str; 4] = ["", "ratio", "measured", "beside"];

pub(crate) fn run(bench: &Bench) {
    let table = Table::new("resources", 69, &COLUMNS);
    idle(bench, &table);
    load(bench, &table);
    stopped(bench, &table);
    starts(bench, &table);
    let binary = Path::new(env!("CARGO_BIN_EXE_downpipe")).metadata().expect("the binary").len();
    table.row(&["size of the binary", "-", &mib(binary), "-"]);
}

/// A row of which both figures are shown alike.
fn row(table: &Table, name: &str, measured: f64, beside: f64, show: impl Fn(f64) -> String) {
    table.row(&[name, &ratio(measured, beside), &show(measured), &show(beside)]);
}

fn memory(bytes: f64) -> String {
    mib(bytes as u64)
}

fn idle(bench: &Bench, table: &Table) {
    progress::say("resources: nothing happens");
    let (journal, log) = (bench.folder(), bench.folder());
    let bare = Process::start(roles::role("bare-axum"), 1);
    let publisher = publisher(journal.path());
    let subscriber = Subscriber::caught_up([&publisher], log.path(), &[]);
    let processes = [&bare, &publisher, &subscriber.process];
    let before = processes.map(Process::cpu);
    let time = bench.time(IDLE_SECONDS);
    thread::sleep(time);
    let used = |at: usize| (processes[at].cpu() - before[at]).as_secs_f64() / time.as_secs_f64() * 100.0;
    let resident = |at: usize| processes[at].memory().0 as f64;
    for (at, name) in [(1, "publisher"), (2, "subscriber")] {
        row(table, &format!("{name}, idle: memory, beside bare axum"), resident(at), resident(0), memory);
        let percent = |part: f64| format!("{part:.2} %");
        row(table, &format!("{name}, idle: of a processor, beside bare axum"), used(at), used(0), percent);
    }
}

/// Seconds of a processor.
struct Load {
    publisher: f64,
    subscriber: f64,
    frames_out: f64,
    frames_in: f64,
}

fn load(bench: &Bench, table: &Table) {
    let mut rounds = Vec::new();
    for round in 1..=LOAD_ROUNDS {
        progress::say(&format!("resources: load, round {round} of {LOAD_ROUNDS}"));
        rounds.push(load_round(bench));
    }
    let middle = |of: fn(&Load) -> f64| median(rounds.iter().map(of).collect());
    let seconds = |seconds: f64| format!("{seconds:.3} s");
    let (out, into) = (middle(|it| it.frames_out), middle(|it| it.frames_in));
    let name = |who: &str, beside: &str| format!("{who}: processor for 1 M records of 100 B, beside a {beside}");
    row(table, &name("publisher", "PUB"), middle(|it| it.publisher), out, seconds);
    row(table, &name("subscriber", "SUB"), middle(|it| it.subscriber), into, seconds);
}

fn load_round(bench: &Bench) -> Load {
    let records = bench.count(LOAD_RECORDS);
    let millions = records as f64 / 1e6;
    let (journal, log) = (bench.folder(), bench.folder());
    let mut appender = appender(journal.path(), LOAD_SIZE, &[]);
    let subscriber = Subscriber::caught_up([&appender], log.path(), &[]);
    let before = (appender.cpu(), subscriber.process.cpu());
    append(&mut appender, &format!("records {records}"));
    subscriber.wait_for_all(records);
    let used = (appender.cpu() - before.0, subscriber.process.cpu() - before.1);
    let (blocks, bytes) = (metric(&appender, "journal_commits_total"), metric(&appender, "journal_bytes_total"));
    drop((appender, subscriber));

    let mut frames = Frames::start(bytes / blocks.max(1));
    let before = frames.cpu();
    frames.send(&format!("frames {blocks}"));
    let after = frames.cpu();
    Load {
        publisher: used.0.as_secs_f64() / millions,
        subscriber: used.1.as_secs_f64() / millions,
        frames_out: (after.0 - before.0).as_secs_f64() / millions,
        frames_in: (after.1 - before.1).as_secs_f64() / millions,
    }
}

fn stopped(bench: &Bench, table: &Table) {
    let [reading, one, four] = [(1, false), (1, true), (4, true)].map(|(count, are_stopped)| {
        let how = if are_stopped { "stopped" } else { "reading" };
        progress::say(&format!("resources: {count} {how} at full load"));
        high_water(bench, count, are_stopped)
    });
    let name = |who: &str| format!("publisher, {who} stopped under load: most memory, beside none");
    row(table, &name("1 subscriber"), one, reading, memory);
    row(table, &name("4 subscribers"), four, reading, memory);
}

/// The most memory that a publisher has had by the end of a minute of full load.
fn high_water(bench: &Bench, count: usize, are_stopped: bool) -> f64 {
    let journal = bench.folder();
    let logs: Vec<_> = repeat_with(|| bench.folder()).take(count).collect();
    let mut appender = appender(journal.path(), LOAD_SIZE, &[]);
    let subscribers = subscribers(&appender, &logs, &["--keep=2"]);
    if are_stopped {
        subscribers.iter().for_each(|subscriber| subscriber.process.signal(Signal::STOP));
    }
    append(&mut appender, &format!("seconds {}", bench.time(STOPPED_SECONDS).as_secs_f64()));
    appender.memory().1 as f64
}

fn starts(bench: &Bench, table: &Table) {
    let (mut bare, mut empty, mut full) = (Vec::new(), Vec::new(), Vec::new());
    let seconds = |process: &Process| process.ready_after.as_secs_f64();
    for round in 1..=EMPTY_STARTS {
        progress::say(&format!("resources: start {round} of {EMPTY_STARTS}"));
        bare.push(seconds(&Process::start(roles::role("bare-axum"), 1)));
        empty.push(seconds(&publisher(bench.folder().path())));
    }
    progress::say("resources: a full journal");
    let data = bench.folder();
    let full_bytes = bench.count(FULL_BYTES);
    let mut appender = appender(data.path(), LOAD_SIZE, &[]);
    append(&mut appender, &format!("records {}", full_bytes / LOAD_SIZE as u64));
    appender.stop();
    for round in 1..=FULL_STARTS {
        progress::say(&format!("resources: start {round} of {FULL_STARTS} with a full journal"));
        full.push(seconds(&publisher(data.path())));
    }
    let [bare, empty, full] = [bare, empty, full].map(median);
    row(table, "publisher, start with an empty journal, beside bare axum", empty, bare, millis);
    row(table, "publisher, start with a journal of 1 GiB, beside an empty one", full, empty, millis);
}
