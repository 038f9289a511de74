//! Full, failing and slow disks under the log: its publisher goes on, and the log catches up.

use super::*;

const EIO: i32 = 5;
const NO_ROOM: &str = "No space left on device";

/// The text of a subscriber's `/readyz` once it is 503.
#[track_caller]
fn unready(subscriber: &Daemon) -> String {
    eventually("readyz is 503", || {
        let readyz = subscriber.page("subscriber", "/readyz");
        (readyz.status == 503).then_some(readyz.body)
    })
}

/// The next subscriber has everything, and nobody's line is there twice.
#[track_caller]
fn assert_next_has_all(log: &LogSite, publisher: Daemon, origin: Origin) {
    let subscriber = log.start();
    origin.load.during(|| origin.load.until_acknowledged(50));
    log.until_all_of([&publisher]);
    subscriber.stop();
    log.assert_exact(&[origin]);
}

#[test]
fn a_full_disk_holds_up_the_log_and_not_its_publisher_until_there_is_room() {
    fill_and_empty("127.0.3.8", &["--sync=200ms"]);
}

#[test]
fn a_full_disk_in_the_middle_of_rotations_holds_up_the_log_until_there_is_room() {
    fill_and_empty("127.0.3.9", &["--rotate-size=4KiB", "--sync=200ms"]);
}

fn fill_and_empty(host: &str, options: &[&str]) {
    let (folder, mut random) = (folder(), Random::new());
    let disk = Disk::memory(folder.path(), "64m");
    let (origin, publisher) = Origin::new(folder.path(), "publisher", host, Load::new(4, 200));
    let log = LogSite::on(&disk, &[publisher.told("publisher", "feed")], options);
    let subscriber = log.start();
    let load = &origin.load;
    load.during(|| {
        for _ in 0..4 {
            log.until_more(1 + random.below(500));
            let filler = disk.fill();
            let reason = unready(&subscriber);
            assert!(reason.contains(NO_ROOM), "{reason}");
            load.until_acknowledged(200);
            drop(filler);
            subscriber.until_ready("subscriber");
            log.until_more(1);
        }
        // And once to its end.
        let filler = disk.fill();
        unready(&subscriber);
        let mut subscriber = subscriber;
        subscriber.signal("TERM");
        subscriber.ended_within(Duration::from_secs(10));
        load.until_acknowledged(50);
        drop(filler);
    });
    assert_eq!(load.refused(), 0);
    assert_next_has_all(&log, publisher, origin);
}

#[test]
fn a_sync_that_fails_once_costs_nothing() {
    let mut random = Random::new();
    // The latter syncs at each rotation.
    for (pass, options) in
        [(1, "--sync=50ms"), (2 + random.below(20), "--sync=50ms"), (2 + random.below(40), "--rotate-size=4KiB")]
    {
        let folder = folder();
        let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.10", Load::new(4, 200));
        let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &[options]);
        let subscriber = log.start_with(&format!("log.sync=error:{EIO}@{pass}"));
        goes_on_and_next_has_all(&log, subscriber, publisher, origin);
    }
}

#[test]
fn a_system_call_that_fails_once_costs_nothing() {
    let (folder, mut random) = (folder(), Random::new());
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.14", Load::new(4, 200));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &["--sync=50ms"]);
    // It counts each thread's calls.
    let inject = format!("inject=fdatasync:error=EIO:when={}", 1 + random.below(20));
    let strace = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject];
    let subscriber = log.under(&strace).start();
    goes_on_and_next_has_all(&log, subscriber, publisher, origin);
}

#[test]
fn a_write_that_fails_once_costs_nothing() {
    let mut random = Random::new();
    const ENOSPC: i32 = 28;
    for errno in [EIO, ENOSPC] {
        let folder = folder();
        let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.15", Load::new(4, 200));
        let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &["--rotate-size=4KiB"]);
        let subscriber = log.start_with(&format!("log.write=error:{errno}@{}", 1 + random.below(60)));
        goes_on_and_next_has_all(&log, subscriber, publisher, origin);
    }
}

/// A subscriber whose disk fails once says so, and has all of it in the end; and so has the next one
/// after it was killed.
fn goes_on_and_next_has_all(log: &LogSite, subscriber: Daemon, publisher: Daemon, origin: Origin) {
    let load = &origin.load;
    load.during(|| {
        eventually("the failure is told", || {
            (subscriber.stderr().contains("Input/output error") || subscriber.stderr().contains(NO_ROOM)).then_some(())
        });
        log.until_more(500);
    });
    assert_eq!(load.refused(), 0);
    subscriber.until_ready("subscriber");
    log.until_all_of([&publisher]);
    subscriber.kill();
    log.assert_exact(std::slice::from_ref(&origin));
    assert_next_has_all(log, publisher, origin);
}

#[test]
fn a_slow_disk_under_the_log_holds_up_nobody_else() {
    let folder = folder();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.16", Load::new(4, 200));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &[]);
    let mut subscriber = log.start_with("log.write=delay:300@1+");
    origin.load.during(|| {
        log.until_more(1);
        origin.load.until_acknowledged(5000);
    });
    println!("{} of {} records in the log", log.records(), origin.load.acknowledged());
    assert_eq!(origin.load.refused(), 0);
    subscriber.assert_running();
    subscriber.signal("TERM");
    subscriber.ended_within(Duration::from_secs(15));
    assert_next_has_all(&log, publisher, origin);
}

#[test]
fn a_subscriber_that_comes_late_gets_everything_from_the_beginning() {
    const RECORDS: u64 = 100_000;
    let folder = folder();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.17", Load::new(64, 20));
    origin.load.during(|| origin.load.until_acknowledged(RECORDS));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &["--rotate-size=4MiB"]);
    assert_next_has_all(&log, publisher, origin);
}
