//! How long a request takes to be a line that a reader of the log sees: from just before it is written to when
//! somebody who reads the file again and again has found it. Beside it is what one fdatasync of 4 KiB takes, since
//! there is one on the way. The load is open: requests are sent when they are due, whatever has become of others.

use crate::bench::Bench;
use crate::daemons::{Subscriber, publisher};
use measure::load::open_loop;
use measure::table::{Table, millis, ratio};
use measure::{disk, median, percentile, process, progress};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PER_SECOND: u32 = 1000;
const ROUNDS: usize = 5;
const SECONDS: f64 = 10.0;
/// Of a round's requests the first of so many are not counted.
const WARM_PART: usize = 20;
/// Each of four times a round.
const SYNCS: usize = 500;
/// How long the reader waits at the end of the file.
const READ_PAUSE: Duration = Duration::from_micros(50);
/// Digits of the number that a request has, and its line ends with.
const DIGITS: usize = 8;
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
const COLUMNS: [&str; 6] =
    ["percentile", "visible / growing", "visible / in place", "visible", "sync, growing", "sync, in place"];

pub(crate) fn run(bench: &Bench) {
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        progress::say(&format!("latency: round {round} of {ROUNDS}"));
        rounds.push(measure_round(bench));
    }
    let table = Table::new("latency: from request to visible line", 10, &COLUMNS);
    for (name, part) in PERCENTILES {
        let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        let visible = middle(&|it| percentile(&it.visible, part));
        let growing = middle(&|it| percentile(&it.growing, part));
        let in_place = middle(&|it| percentile(&it.in_place, part));
        let times = [visible, growing, in_place].map(millis);
        table.row(&[&[name.to_owned(), ratio(visible, growing), ratio(visible, in_place)], &times[..]].concat());
    }
}

/// Sorted seconds.
struct Round {
    visible: Vec<f64>,
    growing: Vec<f64>,
    in_place: Vec<f64>,
}

fn measure_round(bench: &Bench) -> Round {
    let mut round = Round { visible: Vec::new(), growing: Vec::new(), in_place: Vec::new() };
    round.syncs(bench);
    round.visible = visible(bench);
    round.syncs(bench);
    round.growing.sort_by(f64::total_cmp);
    round.in_place.sort_by(f64::total_cmp);
    round
}

impl Round {
    fn syncs(&mut self, bench: &Bench) {
        let folder = bench.folder();
        for (times, grows) in [(&mut self.growing, true), (&mut self.in_place, false)] {
            times.extend(disk::sync_times(folder.path(), SYNCS, grows).expect("a disk"));
        }
    }
}

fn visible(bench: &Bench) -> Vec<f64> {
    let (journal, log) = (bench.folder(), bench.folder());
    let publisher = publisher(journal.path());
    let subscriber = Subscriber::caught_up([&publisher], log.path(), &[]);
    let count = (bench.time(SECONDS).as_secs_f64() * f64::from(PER_SECOND)) as usize;
    let reader = read(subscriber.log().to_owned(), count);
    let sent = open_loop(publisher.told("publisher.http"), PER_SECOND, count, |number| {
        format!("/downcase?param=N{number:0DIGITS$}")
    });
    let seen = reader.join().expect("all lines are seen");
    let took = sent.iter().zip(&seen).map(|(sent, seen)| seen.duration_since(*sent).as_secs_f64());
    let mut took: Vec<_> = took.skip(count / WARM_PART).collect();
    took.sort_by(f64::total_cmp);
    took
}

/// Follows a log until it has seen the lines of all requests, and tells when it saw each.
fn read(log: PathBuf, count: usize) -> JoinHandle<Vec<Instant>> {
    thread::spawn(move || {
        let mut file = File::open(log).expect("the log is there");
        let (begun, mut left) = (Instant::now(), count);
        let mut seen = vec![begun; count];
        let (mut buffer, mut text) = (vec![0; 64 * 1024], Vec::new());
        while left > 0 {
            assert!(begun.elapsed() < process::PATIENCE, "{left} lines were not seen");
            let bytes = file.read(&mut buffer).expect("the log can be read");
            if bytes == 0 {
                thread::sleep(READ_PAUSE);
                continue;
            }
            let now = Instant::now();
            text.extend_from_slice(&buffer[..bytes]);
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                seen[number_of(line)] = now;
                left -= 1;
            }
            text.drain(..whole);
        }
        seen
    })
}

fn number_of(line: &[u8]) -> usize {
    let digits = line.split_at(line.len().saturating_sub(DIGITS)).1;
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("no line of a request: {}", String::from_utf8_lossy(line)))
}
