//! Power cuts under the log, and under log and journal at once: an ext4 that is shut down without flushing.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

const DISK_BYTES: u64 = 512 << 20;

/// A subscriber, and about how long it is to live: for one or two syncs, or none.
fn start(log: &LogSite, random: &mut Random) -> (Daemon, Duration) {
    let sync_millis = [20, 100, 400, 1000][random.below(4) as usize];
    // Also one that rotates all the time.
    let rotate_kib = [2048, 2048, 32][random.below(3) as usize];
    let options = [format!("--sync={sync_millis}ms"), format!("--rotate-size={rotate_kib}KiB")];
    let subscriber = log.with(&options.each_ref().map(String::as_str)).start();
    (subscriber, Duration::from_millis(random.below(3 * sync_millis)))
}

/// Any moment is as good as another, once there is something in the log that was not.
fn live(log: &LogSite, life: Duration) {
    log.until_more(1);
    thread::sleep(life);
}

/// What cuts left in the files of a log.
#[derive(Debug, Default)]
struct Left {
    cuts: u64,
    /// Entries whose text is not there, or not whole.
    entries_without_text: u64,
    /// Text without entries.
    text_without_entries: u64,
    as_much_of_both: u64,
    /// How many of the former two are the test's own doing.
    made: u64,
}

impl Left {
    /// Whether there was a log with less text than entries, and one with more.
    fn has_both(&self) -> bool {
        self.entries_without_text > 0 && self.text_without_entries > 0
    }

    fn count(&mut self, standing: &Standing) {
        self.cuts += 1;
        if standing.text_end < standing.entered_end {
            self.entries_without_text += 1;
        } else if standing.log_bytes > standing.entered_end {
            self.text_without_entries += 1;
        } else {
            self.as_much_of_both += 1;
        }
    }
}

/// Of what was behind the last `synced` entry, what a disk had not written yet in one of the files.
#[derive(Debug, Clone, Copy)]
enum Unwritten {
    /// All of it, and the length.
    Length,
    /// Everything from somewhere on, but the length.
    End,
    /// A page.
    Page,
}

/// Takes bytes from a file of the log that the disk was free to leave for later, though this one did not. Tells
/// whether there were any.
fn unwrite(log: &LogSite, unwritten: Unwritten, of_index: bool, random: &mut Random) -> bool {
    const PAGE_BYTES: u64 = 4096;
    let standing = Standing::examine(&log.seen);
    let Some((synced_index, synced_text)) = standing.synced else { return false };
    if !standing.is_written || standing.text_end == synced_text {
        return false;
    }
    let (name, from, to) = match of_index {
        true => ("subscriber.log.idx", synced_index, standing.index_bytes),
        false => ("subscriber.log", synced_text, standing.text_end),
    };
    let file = File::options().write(true).open(log.seen.join(name)).unwrap();
    let somewhere = from + random.below(to - from);
    let (begin, end) = match unwritten {
        Unwritten::Length => {
            file.set_len(from).unwrap();
            return true;
        }
        Unwritten::End => (somewhere, to),
        Unwritten::Page => {
            let page = somewhere / PAGE_BYTES * PAGE_BYTES;
            (page.max(from), (page + PAGE_BYTES).min(to))
        }
    };
    file.write_all_at(&vec![0; (end - begin) as usize], begin).unwrap();
    true
}

#[test]
fn every_record_is_one_line_after_power_cuts_under_the_log() {
    const CUTS: u64 = 30;
    // Until either kind was there, which most often takes fewer.
    const CUTS_MAX: u64 = 3 * CUTS;
    let (folder, mut random) = (folder(), Random::new());
    let disk = Disk::ext4(folder.path(), DISK_BYTES);
    let mut switch = disk.switch();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.6", Load::new(6, 100));
    let log = LogSite::on(&disk, &[publisher.told("publisher", "feed")], &[]);
    let (mut left, mut cut_tails) = (Left::default(), 0);
    let subscriber = origin.load.during(|| {
        let (mut subscriber, mut life) = start(&log, &mut random);
        while left.cuts < CUTS || (!left.has_both() && left.cuts < CUTS_MAX) {
            live(&log, life);
            // Nobody outlives a power cut.
            subscriber.signal("KILL");
            switch.cut();
            subscriber.kill();
            disk.remount();
            let unwritten = [Unwritten::Length, Unwritten::End, Unwritten::Page][random.below(3) as usize];
            match left.cuts % 3 {
                0 => {}
                which => left.made += u64::from(unwrite(&log, unwritten, which == 1, &mut random)),
            }
            left.count(&Standing::examine(&log.seen));
            let tails = oracle::tails(&log.seen);
            (subscriber, life) = start(&log, &mut random);
            cut_tails += oracle::tails(&log.seen) - tails;
        }
        log.until_more(100);
        subscriber
    });
    println!("{left:?}, {cut_tails} tails kept beside the log");
    assert!(left.has_both(), "{left:?}");
    log.until_all_of([&publisher]);
    subscriber.stop();
    log.assert_exact(&[origin]);
}

#[test]
fn every_record_is_one_line_after_power_cuts_under_log_and_journal() {
    const CUTS: u64 = 8;
    let (folder, mut random) = (folder(), Random::new());
    let disk = Disk::ext4(folder.path(), DISK_BYTES);
    let mut switch = disk.switch();
    let options = ["--name=publisher", "--segment-bytes=64KiB"];
    let site = Site::on(&disk, "127.0.3.7", &options);
    let (origin, publisher) = Origin::start(site, "publisher", Load::new(6, 100));
    let log = LogSite::on(&disk, &[publisher.told("publisher", "feed")], &[]);
    let mut left = Left::default();
    let (publisher, subscriber) = origin.load.during(|| {
        let (mut publisher, (mut subscriber, mut life)) = (publisher, start(&log, &mut random));
        for _ in 0..CUTS {
            live(&log, life);
            publisher.signal("KILL");
            subscriber.signal("KILL");
            switch.cut();
            publisher.kill();
            subscriber.kill();
            disk.remount();
            left.count(&Standing::examine(&log.seen));
            publisher = origin.next();
            (subscriber, life) = start(&log, &mut random);
        }
        log.until_more(100);
        (publisher, subscriber)
    });
    println!("{left:?}");
    log.until_all_of([&publisher]);
    subscriber.stop();
    log.assert_exact(&[origin]);
}
