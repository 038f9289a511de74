//! How fast a subscriber that starts late gets what it missed, by the replay, beside a copy of the same journal's
//! files. Both with the files in the kernel's memory and from the disk. Nothing is published meanwhile.

use crate::bench::Bench;
use crate::daemons::{Subscriber, append, appender};
use measure::process::Process;
use measure::table::{Table, bandwidth, rate, ratio};
use measure::{disk, median, progress};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Size of a record, and how many there are.
const JOURNALS: [(&str, usize, u64); 3] =
    [("100 B", 100, 10_000_000), ("1 KiB", 1024, 2_000_000), ("10 KiB", 10_240, 200_000)];
const ROUNDS: usize = 3;
/// More than any of them.
const RETAIN: &str = "8589934592";
const COLUMNS: [&str; 6] = ["record, journal", "journal / copy", "records", "journal", "log", "copy"];

pub(crate) fn run(bench: &Bench) {
    let table = Table::new("catchup: a subscriber that starts late", 17, &COLUMNS);
    for (name, size, records) in JOURNALS {
        let records = bench.count(records);
        let data = bench.folder();
        let mut appender = appender(data.path(), size, &["--retain", RETAIN]);
        progress::say(&format!("catchup: {name}, {records} records for the journal"));
        append(&mut appender, &format!("records {records}"));
        let journal = Journal::of(&data.path().join("journal"));
        let mut found = [const { Vec::new() }; 2];
        for round in 1..=ROUNDS {
            progress::say(&format!("catchup: {name}, round {round} of {ROUNDS}"));
            for (is_cold, found) in [false, true].into_iter().zip(&mut found) {
                found.push(journal.round(bench, &appender, records, is_cold));
            }
        }
        for (kind, found) in ["in memory", "on disk"].into_iter().zip(found) {
            let bytes = journal.bytes as f64;
            let middle = |of: fn(&Round) -> f64| median(found.iter().map(of).collect());
            let (journal, copy) = (bytes / middle(|it| it.catch_up), bytes / middle(|it| it.copy));
            let log = middle(|it| it.log_bytes / it.catch_up);
            let records = rate(records as f64 / middle(|it| it.catch_up));
            let row = [ratio(journal, copy), records, bandwidth(journal), bandwidth(log), bandwidth(copy)];
            table.row(&[&[format!("{name}, {kind}")], &row[..]].concat());
        }
    }
}

struct Journal {
    files: Vec<PathBuf>,
    bytes: u64,
}

/// Seconds, and what the log has then.
struct Round {
    catch_up: f64,
    copy: f64,
    log_bytes: f64,
}

impl Journal {
    fn of(folder: &Path) -> Self {
        let entries = folder.read_dir().expect("a journal").map(|entry| entry.expect("an entry"));
        let with_length = |path: PathBuf| path.metadata().map(|found| (path, found.len())).expect("a file");
        let files: Vec<_> = entries.map(|entry| with_length(entry.path())).collect();
        let bytes = files.iter().map(|(_, bytes)| bytes).sum();
        Self { files: files.into_iter().map(|(path, _)| path).collect(), bytes }
    }

    fn round(&self, bench: &Bench, appender: &Process, records: u64, is_cold: bool) -> Round {
        let prepare = if is_cold { disk::cool } else { disk::warm };
        let folder = bench.folder();
        prepare(&self.files).expect("the journal can be read");
        let begun = Instant::now();
        let subscriber = Subscriber::start([appender], folder.path(), &[]);
        subscriber.wait_for_all(records);
        let catch_up = begun.elapsed().as_secs_f64();
        let log_bytes = subscriber.metric("bytes_written_total") as f64;
        drop((subscriber, folder));

        let folder = bench.folder();
        prepare(&self.files).expect("the journal can be read");
        let copy = disk::copy(&self.files, folder.path()).expect("the journal can be copied").as_secs_f64();
        Round { catch_up, copy, log_bytes }
    }
}
