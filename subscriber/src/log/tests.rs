//! A log through kills, cuts and damage, without a writer: what is finished is finished from a table.

use super::error::LogError;
use super::file::{Counters, Log, Options};
use super::format::Format;
use super::index::{ENTRY_BYTES, Entry, Kind};
use super::pair::Batch;
use super::positions::stream_entry;
use faults::Faults;
use feed::{Position, StreamId};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const STREAM: StreamId = StreamId([7; 16]);

fn options(folder: &Path) -> Options {
    Options {
        path: folder.join("subscriber.log"),
        rotate_bytes: 1 << 20,
        rotate_every: None,
        keep: None,
        adopt: false,
        format: Format::Text,
        faults: Faults::default(),
    }
}

fn open(folder: &Path) -> Log {
    Log::open(options(folder), Counters::default()).unwrap()
}

fn at(next: u64) -> Position {
    Position { next, previous: next as u32 }
}

/// What the block of two records from `first` on is as text.
fn text(first: u64) -> String {
    format!("line {first}\nline {}\n", first + 1)
}

fn name(log: &mut Log) {
    let mut batch = Batch::default();
    batch.close(stream_entry(STREAM, 0, at(0), "publisher", "a:1"), 0);
    log.append(&batch).unwrap();
    log.sync().unwrap();
}

/// Appends blocks, each with its entry, in one batch.
fn append(log: &mut Log, firsts: &[u64]) {
    let mut batch = Batch::default();
    for &first in firsts {
        batch.text.extend(text(first).bytes());
        let entry = Entry { stream: STREAM, first, next: at(first + 2), time_ns: 1, ..Entry::new(Kind::Block, 0) };
        batch.close(entry, 2);
    }
    log.append(&batch).unwrap();
}

fn standing(log: &Log) -> u64 {
    log.positions().get(STREAM).map_or(0, |standing| standing.at.next)
}

/// Finishes what can be finished of the blocks, and says how many.
fn finish(log: &mut Log) -> usize {
    let mut count = 0;
    while let Some(entry) = log.unfinished().cloned() {
        assert_eq!(entry.kind, Kind::Block);
        assert!(log.finish(text(entry.first).as_bytes()).unwrap());
        log.settle().unwrap();
        count += 1;
    }
    count
}

/// All files of the log that have lines: full and set aside by number, then the current one.
fn texts(folder: &Path) -> Vec<(String, String)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".log") {
            let key = if name == "subscriber.log" { "~".to_owned() } else { name[29..].to_owned() };
            found.insert(key, (name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.into_values().collect()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn current(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("subscriber.log"), folder.join("subscriber.log.idx"))
}

fn set_len(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn a_log_goes_on_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    name(&mut log);
    append(&mut log, &[0, 2]);
    log.sync().unwrap();
    drop(log);
    let mut log = open(folder.path());
    assert_eq!((standing(&log), log.unfinished()), (4, None));
    append(&mut log, &[4]);
    assert_eq!(texts(folder.path())[0].1, [0, 2, 4].map(text).concat());
}

#[test]
fn cut_anywhere_behind_the_last_sync_a_log_is_finished_to_what_it_was() {
    let made = tempfile::tempdir().unwrap();
    let mut log = open(made.path());
    name(&mut log);
    append(&mut log, &[0]);
    log.sync().unwrap();
    let (text_path, index_path) = current(made.path());
    let length = |path: &Path| fs::metadata(path).unwrap().len();
    let (text_synced, index_synced) = (length(&text_path), length(&index_path));
    append(&mut log, &[2, 4]);
    append(&mut log, &[6]);
    drop(log);
    let (text_bytes, index_bytes) = (length(&text_path), length(&index_path));
    for index in (index_synced..=index_bytes).step_by(ENTRY_BYTES / 2) {
        for text_length in (text_synced..=text_bytes).step_by(3) {
            let folder = tempfile::tempdir().unwrap();
            copy(made.path(), folder.path());
            let (text_path, index_path) = current(folder.path());
            set_len(&index_path, index);
            set_len(&text_path, text_length);
            let entries = (index - index_synced) / ENTRY_BYTES as u64;
            let mut log = open(folder.path());
            finish(&mut log);
            assert_eq!(standing(&log), 2 + 2 * entries, "index {index}, text {text_length}");
            // It can be written on at once, and the whole is what it would have been.
            let next = standing(&log);
            append(&mut log, &[next]);
            drop(log);
            assert_eq!(standing(&open(folder.path())), next + 2);
            let expected = (0..=next).step_by(2).map(text).collect::<String>();
            assert_eq!(texts(folder.path()), [("subscriber.log".to_owned(), expected)]);
        }
    }
}

#[test]
fn what_cannot_be_finished_is_cut_and_what_was_there_of_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    name(&mut log);
    append(&mut log, &[0]);
    append(&mut log, &[2]);
    drop(log);
    let (text_path, _) = current(folder.path());
    set_len(&text_path, 20);
    let mut log = open(folder.path());
    assert_eq!(log.unfinished().map(|entry| entry.first), Some(2));
    assert!(!log.finish(b"something else\n").unwrap());
    log.cut().unwrap();
    assert_eq!((standing(&log), log.unfinished()), (2, None));
    assert_eq!(fs::read_to_string(&text_path).unwrap(), text(0));
    assert_eq!(fs::read_to_string(folder.path().join("subscriber.log.tail.1")).unwrap(), text(2)[..6]);
    append(&mut log, &[2]);
    assert_eq!(fs::read_to_string(&text_path).unwrap(), text(0) + &text(2));
}

#[test]
fn a_sync_vouches_for_nothing_that_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    name(&mut log);
    append(&mut log, &[0]);
    drop(log);
    set_len(&current(folder.path()).0, 3);
    for _ in 0..2 {
        let mut log = open(folder.path());
        assert_eq!(log.unfinished().map(|entry| entry.first), Some(0));
        // As at the end of a process that was told to stop before its publisher was there.
        log.sync().unwrap();
    }
    let mut log = open(folder.path());
    assert_eq!((finish(&mut log), standing(&log)), (1, 2));
    assert_eq!(texts(folder.path())[0].1, text(0));
}

#[test]
fn entries_of_an_append_whose_text_was_refused_are_not_believed_when_the_log_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    // The first write of a text is that of the naming, and empty.
    let faults = Faults::planned(&crate::FAULT_POINTS, "log.write=error:28@2");
    let mut log = Log::open(Options { faults, ..options(folder.path()) }, Counters::default()).unwrap();
    name(&mut log);
    let mut batch = Batch::default();
    for first in [0, 2, 4, 6] {
        batch.text.extend(text(first).bytes());
        batch.close(Entry { stream: STREAM, first, next: at(first + 2), ..Entry::new(Kind::Block, 0) }, 2);
    }
    log.append(&batch).unwrap_err();
    let (text_path, index_path) = current(folder.path());
    fs::remove_file(&text_path).unwrap();
    log.append(&batch).unwrap();
    drop(log);
    // As if the process had ended before it made the next index.
    fs::remove_file(&text_path).unwrap();
    fs::remove_file(&index_path).unwrap();
    let mut log = open(folder.path());
    assert_eq!(standing(&log), 0);
    append(&mut log, &[0]);
    let written = &texts(folder.path())[0].1;
    assert!(written.contains("$downpipe/moved file=1 reason=moved") && written.ends_with(&text(0)), "{written}");
}

#[test]
fn each_bit_of_an_index_may_flip() {
    let made = tempfile::tempdir().unwrap();
    let mut log = open(made.path());
    name(&mut log);
    append(&mut log, &[0, 2]);
    log.sync().unwrap();
    append(&mut log, &[4, 6]);
    drop(log);
    let (_, index_path) = current(made.path());
    let index = fs::read(&index_path).unwrap();
    // Begin, synced, stream, synced, two blocks, synced, two blocks.
    assert_eq!(index.len(), 9 * ENTRY_BYTES);
    for bit in (0..8 * index.len()).step_by(29) {
        let folder = tempfile::tempdir().unwrap();
        copy(made.path(), folder.path());
        let mut damaged = index.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(folder.path().join("subscriber.log.idx"), &damaged).unwrap();
        let mut log = open(folder.path());
        let entry = bit / 8 / ENTRY_BYTES;
        let found = texts(folder.path());
        // What is synced and damaged is set aside; the last entries are cut, to come again.
        let is_aside = entry < 6;
        assert_eq!(found[0].0.contains(".damaged."), is_aside, "entry {entry}");
        let stands = match entry {
            6 | 7 => 4,
            8 => 6,
            _ => 8,
        };
        assert_eq!(standing(&log), stands, "entry {entry}");
        let line = found.last().unwrap().1.clone();
        assert_eq!(line.contains("$downpipe/moved file=1 reason=damaged"), is_aside, "{line}");
        append(&mut log, &[stands]);
        drop(log);
        assert_eq!(standing(&open(folder.path())), stands + 2);
    }
}

#[test]
fn an_index_cut_before_it_says_where_the_streams_stand_is_damaged() {
    let made = tempfile::tempdir().unwrap();
    let mut log = open(made.path());
    name(&mut log);
    append(&mut log, &[0]);
    log.rotate().unwrap();
    append(&mut log, &[2]);
    drop(log);
    // Begin, stream, synced, block.
    for length in (0..3 * ENTRY_BYTES as u64).step_by(ENTRY_BYTES / 2) {
        let folder = tempfile::tempdir().unwrap();
        copy(made.path(), folder.path());
        set_len(&current(folder.path()).1, length);
        let log = open(folder.path());
        assert_eq!(standing(&log), 2, "{length}");
        let found = texts(folder.path());
        assert!(found[1].0.contains(".damaged."), "{length}: {found:?}");
        assert_eq!(found[1].1, text(2), "{length}");
    }
}

#[test]
fn a_rotation_is_completed_from_every_step() {
    for point in ["sealed", "synced", "log", "index", "new", "created", "done"] {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::planned(&crate::FAULT_POINTS, &format!("log.rotate.{point}=error:5"));
        let mut log = Log::open(Options { faults, ..options(folder.path()) }, Counters::default()).unwrap();
        name(&mut log);
        append(&mut log, &[0]);
        log.rotate().unwrap_err();
        // As if it had been killed there; or it goes on, as the second round has it.
        let other = tempfile::tempdir().unwrap();
        copy(folder.path(), other.path());
        log.rotate().unwrap();
        drop(log);
        for folder in [folder.path(), other.path()] {
            let mut log = open(folder);
            assert_eq!(standing(&log), 2, "{point}");
            append(&mut log, &[2]);
            let found = texts(folder);
            assert_eq!(found.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), [text(0), text(2)], "{point}");
        }
    }
}

#[test]
fn a_log_moved_deleted_or_cut_from_outside_begins_anew_where_it_stood() {
    type Act = fn(&Path);
    let acts: [(Act, &str); 3] = [
        (|log| fs::rename(log, log.with_extension("elsewhere")).unwrap(), "moved"),
        (|log| fs::remove_file(log).unwrap(), "moved"),
        (|log| set_len(log, 3), "shorter"),
    ];
    for (act, reason) in acts {
        for is_running in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = open(folder.path());
            name(&mut log);
            append(&mut log, &[0]);
            log.sync().unwrap();
            if is_running {
                act(&folder.path().join("subscriber.log"));
            } else {
                drop(log);
                act(&folder.path().join("subscriber.log"));
                log = open(folder.path());
            }
            append(&mut log, &[2]);
            let written = fs::read_to_string(folder.path().join("subscriber.log")).unwrap();
            let (first, rest) = written.split_once('\n').unwrap();
            assert!(first.ends_with(&format!("$downpipe/moved file=1 reason={reason}")), "{first}");
            assert_eq!(rest, text(2));
            drop(log);
            assert_eq!(standing(&open(folder.path())), 4);
        }
    }
}

#[test]
fn old_files_are_removed_by_number_and_only_those_that_are_ours() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = ["subscriber.20200101T000000Z.000001.log", "subscriber.20200101T000000Z.000001.log.gz"];
    for name in foreign {
        fs::write(folder.path().join(name), "not ours\n").unwrap();
    }
    let mut log = Log::open(Options { keep: Some(2), ..options(folder.path()) }, Counters::default()).unwrap();
    name(&mut log);
    for first in (0..10).step_by(2) {
        append(&mut log, &[first]);
        log.rotate().unwrap();
    }
    let mut left: Vec<String> = texts(folder.path()).into_iter().map(|(_, text)| text).collect();
    left.sort();
    assert_eq!(left, ["".to_owned(), text(6), text(8), "not ours\n".to_owned()]);
    // As a kill leaves it that comes before the text is removed.
    let (index, retired) = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with(".000005.log.idx"))
        .map(|path| (path.clone(), PathBuf::from(format!("{}.retired", path.display()))))
        .unwrap();
    fs::rename(&index, &retired).unwrap();
    append(&mut log, &[10]);
    log.rotate().unwrap();
    assert!(!retired.exists() && !index.with_extension("").exists());
    assert!(foreign.iter().all(|name| folder.path().join(name).exists()));
}

#[test]
fn a_name_that_is_not_utf_8_is_as_good_as_any_and_one_that_is_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &[u8]| Options { path: folder.path().join(OsStr::from_bytes(name)), ..options(folder.path()) };
    let mut log = Log::open(Options { keep: Some(1), ..named(b"caf\xe9.log") }, Counters::default()).unwrap();
    name(&mut log);
    for first in [0, 2, 4] {
        append(&mut log, &[first]);
        log.rotate().unwrap();
    }
    drop(log);
    // Text and index of two files, and the lock: no more than one full file is kept.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    // As a kill leaves it before the new index is made.
    fs::remove_file(folder.path().join(OsStr::from_bytes(b"caf\xe9.log.idx"))).unwrap();
    assert_eq!(standing(&Log::open(named(b"caf\xe9.log"), Counters::default()).unwrap()), 6);

    let refused = Log::open(named(&[b'n'; 240]), Counters::default()).err().unwrap();
    assert!(matches!(refused, LogError::LongName(_)), "{refused}");
}

#[test]
fn a_file_is_full_by_its_age_at_the_end_of_its_period_also_if_the_clock_was_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let every = Some(std::time::Duration::from_secs(10));
    let mut log = Log::open(Options { rotate_every: every, ..options(folder.path()) }, Counters::default()).unwrap();
    name(&mut log);
    assert_eq!(log.full_in_ns(0), None);
    append(&mut log, &[0]);
    let begun = log.pair.begun_ns.div_euclid(10_000_000_000) * 10_000_000_000;
    assert_eq!(log.full_in_ns(begun), Some(10_000_000_000));
    assert_eq!(log.full_in_ns(begun + 9_999_999_999), Some(1));
    for full in [begun + 10_000_000_000, begun - 1, 0] {
        assert_eq!(log.full_in_ns(full), Some(0));
    }
}

/// `verify` beside a writer that removes what is old faster than it can be read.
#[test]
fn a_log_that_keeps_few_files_is_clean_also_while_it_rotates() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::open(Options { keep: Some(1), ..options(folder.path()) }, Counters::default()).unwrap();
    name(&mut log);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut first = 0;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                append(&mut log, &[first]);
                log.rotate().unwrap();
                first += 2;
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let path = folder.path().join("subscriber.log");
        let reports: Vec<_> = (0..300)
            .map(|_| runtime.block_on(crate::verify::verify(&path, None, &mut |_, _| {})))
            .map(|report| report.map(|report| (report.is_clean(), report.problems)))
            .collect();
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        for report in reports {
            let (is_clean, problems) = report.unwrap();
            assert!(is_clean, "{problems:?}");
        }
    });
}

#[test]
fn a_text_without_an_index_is_refused_or_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("subscriber.log");
    fs::write(&path, "whose?\n").unwrap();
    let refused = Log::open(options(folder.path()), Counters::default()).err().unwrap();
    assert!(matches!(refused, LogError::NoIndex(_)) && refused.to_string().contains("--adopt"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "whose?\n");
    let adopting = Options { adopt: true, ..options(folder.path()) };
    let mut log = Log::open(adopting, Counters::default()).unwrap();
    name(&mut log);
    append(&mut log, &[0]);
    let found = texts(folder.path());
    assert!(found[0].0.ends_with(".000001.adopted.log"), "{found:?}");
    assert_eq!((&*found[0].1, &*found[1].1), ("whose?\n", &*text(0)));
}

#[test]
fn a_sync_that_fails_is_made_good_by_opening_anew() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::planned(&crate::FAULT_POINTS, "log.sync=error:5@5");
    let mut log = Log::open(Options { faults, ..options(folder.path()) }, Counters::default()).unwrap();
    name(&mut log);
    append(&mut log, &[0]);
    log.sync().unwrap();
    append(&mut log, &[2]);
    let failed = log.sync().unwrap_err();
    assert!(matches!(failed, LogError::Sync { .. }), "{failed}");
    log.reopen().unwrap();
    assert_eq!((standing(&log), log.unsynced_bytes()), (4, None));
    append(&mut log, &[4]);
    assert_eq!(texts(folder.path())[0].1, [0, 2, 4].map(text).concat());
}

#[test]
fn the_last_boundary_is_found_in_whatever_file_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    name(&mut log);
    for first in (0..20).step_by(2) {
        append(&mut log, &[first]);
        if first % 6 == 0 {
            log.rotate().unwrap();
        }
    }
    for at_most in 0..25 {
        let expected = at(at_most.min(20) / 2 * 2);
        assert_eq!(log.boundary(STREAM, at_most).unwrap(), Some(expected), "{at_most}");
    }
    assert_eq!(log.boundary(StreamId([8; 16]), 20).unwrap(), None);
    // What a fork leaves behind is of another history.
    let mut batch = Batch::default();
    batch.close(Entry { stream: STREAM, first: 20, next: at(9), ..Entry::new(Kind::Fork, 0) }, 0);
    log.append(&batch).unwrap();
    assert_eq!(log.boundary(STREAM, 20).unwrap(), Some(at(9)));
    assert_eq!(log.boundary(STREAM, 8).unwrap(), Some(at(8)));
    log.rotate().unwrap();
    assert_eq!(log.boundary(STREAM, 20).unwrap(), Some(at(9)));
    assert_eq!(log.boundary(STREAM, 7).unwrap(), Some(at(6)));
}

#[test]
fn a_log_has_one_holder_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    let link = folder.path().join("link.log");
    std::os::unix::fs::symlink("subscriber.log", &link).unwrap();
    let refused = |path: &Path| {
        Log::open(Options { path: path.to_owned(), ..options(folder.path()) }, Counters::default()).err().unwrap()
    };
    for path in [&folder.path().join("subscriber.log"), &link] {
        assert!(matches!(refused(path), LogError::Locked { .. }));
    }
    let nowhere = folder.path().join("nowhere.log");
    std::os::unix::fs::symlink("absent.log", &nowhere).unwrap();
    assert_eq!(refused(&nowhere).to_string(), format!("cannot follow the link {}", nowhere.display()));

    assert!(refused(Path::new("/")).to_string().contains("does not name a file"));
    let inside = folder.path().join("folder");
    fs::create_dir(&inside).unwrap();
    assert_eq!(refused(&inside).to_string(), format!("{} is not a regular file", inside.display()));
    assert_eq!(refused(Path::new("/dev/null")).to_string(), "/dev/null is not a regular file");
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(refused(&folder.path().join("file/log")).to_string().contains("cannot create the folder"));
}
