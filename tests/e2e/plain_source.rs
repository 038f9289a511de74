//! The subscriber's plain sources, with a libzmq PUB at the other end.

use crate::harness::*;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;

fn metric(subscriber: &Daemon, name: &str, endpoint: &str) -> u64 {
    let source = endpoint.trim_start_matches("tcp://");
    subscriber.metric("subscriber", &format!("downpipe_subscriber_source_{name}_total{{source=\"{source}\"}}"))
}

#[test]
fn messages_of_one_frame_or_several_become_lines() {
    let (folder, feeder) = (folder(), Feeder::new());
    let subscriber = subscriber(folder.path(), &format!("{},other=tcp://127.0.0.1:9", feeder.endpoint), &[]);
    feeder.until_subscribed();
    feeder.send(&["one"]);
    feeder.send(&["topic", "two"]);
    feeder.send(&["three", "is", "many"]);
    feeder.send(&[""]);
    feeder.send(&["$downpipe/lost", "a\nb\0"]);
    feeder.send(&[&b"\xff\x1b[2J"[..]]);
    let source = feeder.endpoint.trim_start_matches("tcp://");
    let expected = [
        format!("{source}/- one"),
        format!("{source}/topic two"),
        format!("{source}/- three is many"),
        format!("{source}/- "),
        format!("{source}/\\x24downpipe\\x2flost a\\nb\\u{{0}}"),
        format!("{source}/- \\xff\\u{{1b}}[2J"),
    ];
    let lines = lines_once_there_are(folder.path(), expected.len());
    assert_eq!(lines.iter().map(|line| line.split_once(' ').unwrap().1).collect::<Vec<_>>(), expected);
    // One of the two sources is not there: the subscriber writes, but is not ready, and says why.
    let readyz = subscriber.page("subscriber", "/readyz");
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.starts_with("other=tcp://127.0.0.1:9 is not connected: "), "{}", readyz.body);
    subscriber.stop();
}

#[test]
fn the_three_formats_look_as_documented() {
    let feeder = Feeder::new();
    for (format, is_expected) in [
        ("text", (|line: &str| line.len() > 26 && &line[26..] == "Z pub\\x201/t \"a\\\\b\"\\n") as fn(&str) -> bool),
        ("json", |line| {
            line.starts_with("{\"observed_timestamp\":\"20")
                && line.ends_with(r#"Z","source":"pub 1","topic":"t","body":"\"a\\b\"\n"}"#)
        }),
        ("article", |line| {
            let (text, time) = line.split_once("   - ").unwrap();
            let digits = time.replace(|c: char| c.is_ascii_digit(), "9");
            text == r#"INFO:root:"a\b"\n"# && digits == "9999-99-99 99:99"
        }),
    ] {
        let folder = folder();
        let subscriber =
            subscriber(folder.path(), &format!("pub 1={}", feeder.endpoint), &[&format!("--format={format}")]);
        feeder.until_subscribed();
        feeder.send(&["t", "\"a\\b\"\n"]);
        let line = &lines_once_there_are(folder.path(), 1)[0];
        assert!(is_expected(line), "{format}: {line}");
        subscriber.stop();
    }
}

#[test]
fn a_publisher_may_come_later_die_and_come_again() {
    let endpoint = Feeder::endpoint_to_be("127.0.1.1");
    let folder = folder();
    let subscriber = subscriber(folder.path(), &endpoint, &[]);
    assert_eq!(subscriber.page("subscriber", "/readyz").status, 503);
    for life in 1..=3 {
        let feeder = Feeder::at(&endpoint);
        feeder.until_subscribed();
        subscriber.until_ready("subscriber");
        feeder.send(&[format!("life {life}")]);
        let lines = lines_once_there_are(folder.path(), life);
        assert_eq!(body(&lines[life - 1]), format!("life {life}"));
        drop(feeder);
        eventually("the death is noticed", || (subscriber.page("subscriber", "/readyz").status == 503).then_some(()));
    }
    assert_eq!(metric(&subscriber, "connects", &endpoint), 3);
}

#[test]
fn a_publisher_that_moves_is_found_by_its_name() {
    // The subscriber sees a hosts file of its own, in a mount namespace of its own.
    let folder = folder();
    let hosts = folder.path().join("hosts");
    let first = Feeder::at("tcp://127.0.0.2:*");
    let port = first.endpoint.rsplit(':').next().unwrap().to_owned();
    std::fs::write(&hosts, "127.0.0.2 wanderer\n").unwrap();

    let script = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", hosts.display());
    let mut command = downpipe_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.args(subscriber_args(folder.path(), &format!("tcp://wanderer:{port}")));
    let subscriber = Daemon::start(command, 1);
    first.until_subscribed();
    first.send(&["here"]);
    lines_once_there_are(folder.path(), 1);

    drop(first);
    let second = Feeder::at(&format!("tcp://127.0.0.3:{port}"));
    std::fs::write(&hosts, "127.0.0.3 wanderer\n").unwrap();
    second.until_subscribed();
    second.send(&["there"]);
    let lines = lines_once_there_are(folder.path(), 2);
    assert_eq!(lines.iter().map(|line| body(line)).collect::<Vec<_>>(), ["here", "there"]);
    subscriber.stop();
}

#[test]
fn a_peer_that_accepts_and_never_greets_is_given_up() {
    let folder = folder();
    let mute = TcpListener::bind("127.0.1.3:0").unwrap();
    let endpoint = format!("tcp://{}", mute.local_addr().unwrap());
    let subscriber = subscriber(folder.path(), &endpoint, &[]);
    // Twice: the first connection was dropped by the subscriber, not by us.
    mute.set_nonblocking(true).unwrap();
    let accept = || eventually("a connection", || mute.accept().ok()).0;
    let mut first = accept();
    let _second = accept();
    first.set_nonblocking(false).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = Vec::new();
    first.read_to_end(&mut greeting).expect("the end of the first connection");
    assert_eq!(subscriber.page("subscriber", "/readyz").status, 503);
    drop(mute);
    let feeder = Feeder::at(&endpoint);
    feeder.until_subscribed();
    feeder.send(&["greeted"]);
    lines_once_there_are(folder.path(), 1);
    subscriber.stop();
}

#[test]
fn a_hundred_reconnects_leak_no_descriptor() {
    let endpoint = Feeder::endpoint_to_be("127.0.1.2");
    let folder = folder();
    let subscriber = subscriber(folder.path(), &endpoint, &[]);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", subscriber.pid())).unwrap().count();
    let mut after_first = 0;
    for life in 1..=100 {
        let feeder = Feeder::at(&endpoint);
        feeder.until_subscribed();
        feeder.send(&["."]);
        lines_once_there_are(folder.path(), life);
        if life == 1 {
            after_first = descriptors();
        }
    }
    eventually("no more descriptors than at first", || (descriptors() <= after_first).then_some(()));
}

#[test]
fn all_that_was_received_is_written_when_the_publisher_dies_and_at_the_end() {
    let (folder, feeder) = (folder(), Feeder::new());
    let subscriber = subscriber(folder.path(), &feeder.endpoint, &[]);
    feeder.until_subscribed();
    for number in 0..10_000 {
        feeder.send(&[number.to_string()]);
    }
    // libzmq lingers until the peer's kernel has it all.
    drop(feeder);
    subscriber.stop();
    let lines = lines(folder.path());
    assert_eq!(lines.len(), 10_000);
    assert!(lines.iter().enumerate().all(|(number, line)| body(line) == number.to_string()));
}

#[test]
fn a_message_too_large_is_dropped_counted_and_named() {
    let (folder, feeder) = (folder(), Feeder::new());
    let subscriber = subscriber(folder.path(), &feeder.endpoint, &[]);
    feeder.until_subscribed();
    let most = "x".repeat(1024 * 1024);
    feeder.send(&[&most]);
    feeder.send(&[most.clone() + "y"]);
    feeder.send(&["next"]);
    let lines = lines_once_there_are(folder.path(), 2);
    assert!(body(&lines[0]) == most && body(&lines[1]) == "next");
    assert_eq!(metric(&subscriber, "oversize", &feeder.endpoint), 1);
    assert!(subscriber.stderr().contains("message too large"), "{}", subscriber.stderr());
    assert!(subscriber.stderr().contains("limit=1048576"), "{}", subscriber.stderr());
}

#[test]
fn several_sources_interleave_each_in_its_own_order() {
    let folder = folder();
    let feeders = [Feeder::new(), Feeder::new(), Feeder::new()];
    let sources: Vec<_> = feeders.iter().enumerate().map(|(id, feeder)| format!("p{id}={}", feeder.endpoint)).collect();
    let subscriber = subscriber(folder.path(), &sources.join(","), &["--rotate-size=64KiB"]);
    feeders.iter().for_each(Feeder::until_subscribed);
    for number in 0..5000 {
        feeders.iter().for_each(|feeder| feeder.send(&[number.to_string()]));
    }
    let lines = lines_once_there_are(folder.path(), 15_000);
    assert_eq!(lines.len(), 15_000);
    for id in 0..3 {
        let source = format!(" p{id}/- ");
        let numbers = lines.iter().filter_map(|line| line.split_once(&source));
        assert!(numbers.map(|(_, number)| number.parse::<u32>().unwrap()).eq(0..5000));
    }
    subscriber.stop();
}

#[test]
fn as_the_first_process_of_a_container_it_ends_when_it_is_told() {
    let folder = folder();
    let mut command = downpipe_under(&["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]);
    command.args(subscriber_args(folder.path(), "tcp://127.0.0.1:9")).process_group(0);
    let mut unshare = Daemon::start(command, 1);
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let first = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    signal_process(first, "TERM");
    assert!(unshare.ended_within(std::time::Duration::from_secs(10)).success());
}
