//! The log's files: rotation under load, a full disk, one writer at a time, `tail -F`.

use crate::harness::*;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn rotation_under_load_loses_and_repeats_nothing() {
    const MESSAGES: usize = 300_000;
    const ROTATE: u64 = 128 * 1024;
    let (folder, feeder) = (folder(), Feeder::new());
    let subscriber = subscriber(folder.path(), &feeder.endpoint, &["--rotate-size=128KiB"]);
    feeder.until_subscribed();
    let mut random = Random::new();
    let bodies: Vec<String> =
        (0..MESSAGES).map(|number| format!("{number} {}", "x".repeat(random.below(90) as usize))).collect();
    for body in &bodies {
        feeder.send(&[body]);
    }
    let lines = lines_once_there_are(folder.path(), MESSAGES);
    assert_eq!(lines.len(), MESSAGES);
    assert!(lines.iter().zip(&bodies).all(|(line, expected)| body(line) == expected));
    let files = log_files(folder.path());
    assert!(files.len() > 100, "{} files", files.len());
    for file in &files {
        let text = fs::read(file).unwrap();
        assert!(text.len() as u64 <= ROTATE && text.ends_with(b"\n"), "{}: {}", file.display(), text.len());
    }
    assert_eq!(subscriber.metric("subscriber", "downpipe_subscriber_lines_written_total"), MESSAGES as u64);
    assert_eq!(subscriber.metric("subscriber", "downpipe_subscriber_rotations_total"), files.len() as u64 - 1);
    subscriber.stop();
}

#[test]
fn tail_follows_the_log_over_rotations_and_restarts() {
    let (folder, feeder) = (folder(), Feeder::new());
    let log = folder.path().join("subscriber.log");
    fs::write(&log, "").unwrap();
    let tail = tail(&log);
    let mut sent = 0;
    for _restart in 0..3 {
        let subscriber = subscriber(folder.path(), &feeder.endpoint, &["--rotate-size=1KiB"]);
        feeder.until_subscribed();
        for _ in 0..20 {
            // Two of these lines fill a file.
            let body_sent = format!("{sent} {}", "y".repeat(500));
            feeder.send(&[&body_sent]);
            assert_eq!(body(&tail.line()), body_sent);
            sent += 1;
        }
        subscriber.stop();
    }
    assert!(log_files(folder.path()).len() > 20);
}

/// `tail -F` from the first line on. It polls, as it must on a mounted folder where inotify does not reach.
fn tail(log: &Path) -> Helper {
    let mut command = Command::new("tail");
    command.args(["-F", "-n", "+1", "-s", "0.01", "---disable-inotify"]).arg(log);
    Helper::start(command)
}

#[test]
fn a_second_subscriber_on_the_same_log_is_refused_and_harms_nothing() {
    let (folder, feeder) = (folder(), Feeder::new());
    let first = subscriber(folder.path(), &feeder.endpoint, &[]);
    let mut command = downpipe();
    let refused = outcome(command.args(subscriber_args(folder.path(), &feeder.endpoint)));
    assert_eq!((refused.code, &*refused.stdout), (1, ""));
    let log = folder.path().join("subscriber.log");
    let sentence = format!("downpipe: another subscriber is writing {0}: it holds {0}.lock\n", log.display());
    assert_eq!(refused.stderr, sentence);

    feeder.until_subscribed();
    feeder.send(&["still written"]);
    lines_once_there_are(folder.path(), 1);
    // SIGKILL leaves the lock's file, but not the lock.
    first.kill();
    subscriber(folder.path(), &feeder.endpoint, &[]).stop();
}

#[test]
fn a_full_disk_stops_the_writing_until_there_is_room_and_loses_nothing() {
    // In one file, so that `tail -F` has to show every line once: it prints a file that shrinks again.
    let tailed = a_full_disk_and_then_room_again("1MiB", true);
    assert!(tailed.is_some());
}

#[test]
fn a_full_disk_in_the_middle_of_rotations_loses_nothing() {
    a_full_disk_and_then_room_again("20KiB", false);
}

fn a_full_disk_and_then_room_again(rotate_size: &str, with_tail: bool) -> Option<Helper> {
    const MESSAGES: usize = 4000;
    let (folder, feeder) = (folder(), Feeder::new());
    // A small disk in a mount namespace of the subscriber's own, seen from here through its root.
    let script = format!("mount -t tmpfs -o size=1m none {} && exec \"$0\" \"$@\"", folder.path().display());
    let mut command = downpipe_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.args(subscriber_args(folder.path(), &feeder.endpoint)).arg(format!("--rotate-size={rotate_size}"));
    let subscriber = Daemon::start(command, 1);
    let inside = format!("/proc/{}/root{}", subscriber.pid(), folder.path().display());
    let inside = Path::new(&inside);
    let filler = inside.join("filler");
    fs::write(&filler, vec![0; 700 * 1024]).unwrap();
    let tail = with_tail.then(|| tail(&inside.join("subscriber.log")));

    feeder.until_subscribed();
    let body_of = |number: usize| format!("{number} {}", "z".repeat(100));
    for number in 0..MESSAGES {
        feeder.send(&[body_of(number)]);
    }
    let reason = eventually("the full disk shows", || {
        let readyz = subscriber.page("subscriber", "/readyz");
        (readyz.status == 503).then_some(readyz.body)
    });
    assert!(reason.contains("No space left on device") && reason.contains("subscriber.log"), "{reason}");
    let before = lines(inside).len();
    assert!(before > 0 && before < MESSAGES, "{before}");

    fs::remove_file(filler).unwrap();
    let lines = lines_once_there_are(inside, MESSAGES);
    assert_eq!(lines.len(), MESSAGES);
    assert!(lines.iter().enumerate().all(|(number, line)| body(line) == body_of(number)));
    if let Some(tail) = &tail {
        for line in lines {
            assert_eq!(tail.line(), line);
        }
    }
    subscriber.until_ready("subscriber");
    subscriber.stop();
    tail
}

#[test]
fn a_disk_that_stays_full_ends_with_an_error_that_counts_what_is_lost() {
    let (folder, feeder) = (folder(), Feeder::new());
    let script = format!("mount -t tmpfs -o size=64k none {} && exec \"$0\" \"$@\"", folder.path().display());
    let mut command = downpipe_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.args(subscriber_args(folder.path(), &feeder.endpoint));
    let mut subscriber = Daemon::start(command, 1);
    feeder.until_subscribed();
    let received = || {
        let source = feeder.endpoint.trim_start_matches("tcp://");
        subscriber.metric("subscriber", &format!("downpipe_subscriber_source_messages_total{{source=\"{source}\"}}"))
    };
    for number in 0..2000 {
        feeder.send(&[format!("{number} {}", "z".repeat(100))]);
    }
    eventually("all is received", || (received() == 2000).then_some(()));
    eventually("the disk is full", || (subscriber.page("subscriber", "/readyz").status == 503).then_some(()));
    let written = subscriber.metric("subscriber", "downpipe_subscriber_lines_written_total");
    subscriber.signal("TERM");
    assert_eq!(subscriber.ended_within(std::time::Duration::from_secs(10)).code(), Some(1));
    let stderr = subscriber.stderr();
    let said = format!("downpipe: {} lines could not be written: cannot write to ", 2000 - written);
    assert!(stderr.contains(&said), "{said}: {stderr}");
}

#[test]
fn a_limit_on_the_size_of_files_is_like_a_full_disk() {
    const MESSAGES: usize = 1000;
    let (folder, feeder) = (folder(), Feeder::new());
    let mut command = downpipe_under(&["prlimit", "--fsize=8192:unlimited"]);
    command.args(subscriber_args(folder.path(), &feeder.endpoint));
    let subscriber = Daemon::start(command, 1);
    feeder.until_subscribed();
    for number in 0..MESSAGES {
        feeder.send(&[number.to_string()]);
    }
    eventually("the limit shows", || {
        let readyz = subscriber.page("subscriber", "/readyz");
        (readyz.status == 503 && readyz.body.contains("File too large")).then_some(())
    });
    let pid = format!("--pid={}", subscriber.pid());
    assert!(Command::new("prlimit").args([&pid, "--fsize=unlimited"]).status().unwrap().success());
    let lines = lines_once_there_are(folder.path(), MESSAGES);
    assert!(lines.iter().enumerate().all(|(number, line)| body(line) == number.to_string()));
    subscriber.stop();
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nothing() {
    const MESSAGES: usize = 600;
    let (folder, feeder) = (folder(), Feeder::new());
    let mut command = downpipe();
    command.args(subscriber_args(folder.path(), &feeder.endpoint)).arg("--rotate-size=1KiB");
    let subscriber = Daemon::start_unread(command, 1);
    feeder.until_subscribed();
    let filling = "x".repeat(1000);
    for _ in 0..MESSAGES {
        feeder.send(&[&filling]);
    }
    // Each message fills a file and each rotation is told: more than the 64 KiB that a pipe holds.
    assert_eq!(lines_once_there_are(folder.path(), MESSAGES).len(), MESSAGES);
    assert_eq!(log_files(folder.path()).len(), MESSAGES);
    subscriber.stop();
}

#[test]
fn small_messages_that_wait_hold_on_to_no_large_ones() {
    // The index of a log that was just begun has 256 bytes, and takes no more.
    // A frame is a slice of the socket's read buffer, which the frame before it has made large.
    const MESSAGES: u64 = 300;
    let (folder, feeder) = (folder(), Feeder::new());
    let mut command = downpipe_under(&["prlimit", "--fsize=256:unlimited"]);
    command.args(subscriber_args(folder.path(), &feeder.endpoint));
    let subscriber = Daemon::start(command, 1);
    feeder.until_subscribed();
    let large = vec![b'x'; 1536 * 1024];
    let source = feeder.endpoint.trim_start_matches("tcp://");
    let received = format!("downpipe_subscriber_source_messages_total{{source=\"{source}\"}}");
    for number in 1..=MESSAGES {
        feeder.send(&[&large]);
        feeder.send(&["small"]);
        eventually("it is received", || (subscriber.metric("subscriber", &received) == number).then_some(()));
    }
    assert_eq!(subscriber.metric("subscriber", "downpipe_subscriber_lines_written_total"), 0);
    let status = fs::read_to_string(format!("/proc/{}/status", subscriber.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 100 * 1024, "{kib} KiB");
}

#[test]
fn a_log_deleted_under_the_daemon_begins_anew() {
    let (folder, feeder) = (folder(), Feeder::new());
    let _subscriber = subscriber(folder.path(), &feeder.endpoint, &[]);
    feeder.until_subscribed();
    feeder.send(&["one"]);
    lines_once_there_are(folder.path(), 1);
    fs::remove_file(folder.path().join("subscriber.log")).unwrap();
    feeder.send(&["two"]);
    let lines = lines_once_there_are(folder.path(), 2);
    assert!(lines[0].ends_with(" $downpipe/moved file=1 reason=moved"), "{}", lines[0]);
    assert_eq!(body(&lines[1]), "two");
}
