//! `downpipe up`: from request to line, in one process.

use crate::harness::*;
use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

#[test]
fn two_thousand_requests_from_fifty_connections_are_two_thousand_lines() {
    let folder = folder();
    let up = up(folder.path(), &[]);
    let http = up.told("publisher", "http");
    let answers = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for connection in 0..50 {
            let answers = &answers;
            scope.spawn(move || {
                let mut client = Client::connect(http).unwrap();
                for request in 0..40 {
                    let answer = client.get(&format!("/downcase?param=C{connection}R{request}")).unwrap();
                    assert_eq!(answer.status, 200);
                    answers.lock().unwrap().push(answer.body);
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    assert_eq!(answers.len(), 2000);
    let lines = lines_once_there_are(folder.path(), 2000);
    assert_eq!(lines.len(), 2000);
    let logged: HashSet<_> = lines.iter().map(|line| body(line)).collect();
    assert_eq!(logged, answers.iter().map(String::as_str).collect());
    up.stop();
}

#[test]
fn the_first_answer_after_ready_is_logged_and_the_last_before_the_end() {
    for _ in 0..20 {
        let folder = folder();
        let up = up(folder.path(), &[]);
        assert_eq!(up.page("publisher", "/downcase?param=ONLY").status, 200);
        up.stop();
        let lines = lines(folder.path());
        assert_eq!(lines.iter().map(|line| body(line)).collect::<Vec<_>>(), ["lower case of ONLY is only"]);
    }
}

#[test]
fn what_was_answered_before_a_signal_is_logged() {
    for signal in ["TERM", "INT"] {
        let folder = folder();
        let mut up = up(folder.path(), &[]);
        let http = up.told("publisher", "http").to_owned();
        let answered = Mutex::new(HashSet::new());
        thread::scope(|scope| {
            for connection in 0..16 {
                let (http, answered) = (&http, &answered);
                scope.spawn(move || {
                    // Until the publisher hangs up.
                    let Ok(mut client) = Client::connect(http) else { return };
                    for request in 0.. {
                        let Ok(answer) = client.get(&format!("/downcase?param=C{connection}R{request}")) else {
                            return;
                        };
                        answered.lock().unwrap().insert(answer.body);
                    }
                });
            }
            eventually("some answers", || (answered.lock().unwrap().len() > 1000).then_some(()));
            up.signal(signal);
            assert!(up.ended_within(Duration::from_secs(10)).success(), "{}", up.stderr());
        });
        let lines = lines(folder.path());
        let logged: HashSet<_> = lines.iter().map(|line| body(line)).collect();
        assert_eq!(logged.len(), lines.len(), "no line twice");
        let answered = answered.into_inner().unwrap();
        let missing: Vec<_> = answered.iter().filter(|answer| !logged.contains(answer.as_str())).collect();
        assert!(missing.is_empty(), "{signal}: {} of {} missing: {missing:?}", missing.len(), answered.len());
    }
}

#[test]
fn a_request_that_is_completed_too_late_is_not_answered() {
    let folder = folder();
    let mut up = up(folder.path(), &[]);
    let mut stalled = TcpStream::connect(up.told("publisher", "http")).unwrap();
    stalled.write_all(b"GET /downcase?param=LA").unwrap();
    // Served, so the connection before it has been accepted.
    assert_eq!(up.page("publisher", "/downcase?param=FIRST").status, 200);
    up.signal("TERM");
    // This is said when it has hung up.
    eventually("it gives the request up", || up.stderr().contains("still had requests open").then_some(()));
    let _ = stalled.write_all(b"TE HTTP/1.1\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stalled.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert!(up.ended_within(Duration::from_secs(10)).success());
    assert_eq!(lines(folder.path()).len(), 1);
}

#[test]
fn a_second_signal_does_not_wait_for_an_orderly_end() {
    let folder = folder();
    let mut up = up(folder.path(), &[]);
    let mut stalled = TcpStream::connect(up.told("publisher", "http")).unwrap();
    stalled.write_all(b"GET /downcase?param=LA").unwrap();
    assert_eq!(up.page("publisher", "/downcase?param=FIRST").status, 200);
    // It would take two seconds to give the request up. What comes within one is the same signal.
    up.signal("INT");
    let status = eventually("it ends", || {
        up.signal("TERM");
        up.ended()
    });
    assert_eq!(status.code(), Some(1));
    eventually("it says why", || up.stderr().contains("downpipe: a second signal came (SIGTERM)").then_some(()));
}

#[test]
fn what_is_answered_and_cannot_be_logged_is_counted_at_the_end() {
    let folder = folder();
    // A disk of the log's own, with room for an index, and none for a text.
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = format!("mount -t tmpfs -o size=4k none {0} && exec \"$0\" \"$@\"", disk.display());
    let mut command = downpipe_under(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg("up").env("UP_DATA", folder.path()).env("SUBSCRIBER_LOG", disk.join("subscriber.log"));
    on_free_ports(&mut command);
    let mut up = Daemon::start(command, 2);
    for number in 0..100 {
        assert_eq!(up.page("publisher", &format!("/downcase?param=N{number}")).status, 200);
    }
    up.signal("TERM");
    assert_eq!(up.ended_within(Duration::from_secs(10)).code(), Some(1));
    eventually("it says why", || {
        up.stderr().contains("downpipe: 100 lines could not be written: cannot write to ").then_some(())
    });
}

#[test]
fn its_own_publisher_is_followed_once_by_whatever_name() {
    let folder = folder();
    let [plain, feed] = ["127.0.1.4", "127.0.1.5"].map(Feeder::endpoint_to_be);
    let mut command = downpipe();
    command.args(["up", "--data"]).arg(folder.path());
    on_free_ports(&mut command);
    command.env("PUBLISHER_NAME", "own").env("PUBLISHER_PLAIN", &plain).env("PUBLISHER_FEED", &feed);
    command.env("SUBSCRIBER_PLAIN", format!("other={plain}")).env("SUBSCRIBER_FEED", &feed);
    command.env("PUBLISHER_REPLAY", "tcp://127.0.1.5:0");
    let up = Daemon::start(command, 2);
    up.page("publisher", "/downcase?param=ONCE");
    up.stop();
    let lines = lines(folder.path());
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with(" own/downcase lower case of ONCE is once"), "{}", lines[0]);
}

#[test]
fn a_folder_given_as_a_flag_goes_over_a_log_in_the_environment() {
    let (folder, other) = (folder(), crate::harness::folder());
    let log = other.path().join("subscriber.log");
    for (flag, expected) in [(true, folder.path()), (false, other.path())] {
        let mut command = downpipe();
        on_free_ports(&mut command);
        let journal = other.path().join("journal");
        command.arg("up").env("SUBSCRIBER_LOG", &log).env("PUBLISHER_JOURNAL", &journal).env("UP_DATA", "/nowhere");
        if flag {
            command.arg("--data").arg(folder.path());
        }
        let up = Daemon::start(command, 2);
        assert_eq!(up.told("subscriber", "log"), expected.join("subscriber.log").to_str().unwrap());
        assert!(expected.join("journal/name").exists());
    }
}

#[test]
fn hostile_params_forge_no_line_and_stop_nothing() {
    let folder = folder();
    let mut up = up(folder.path(), &[]);
    let nine_kib = "A".repeat(9 * 1024);
    let cases = [
        ("a%0A2026-01-01T00:00:00.000000Z%20x/-%20forged", 200),
        ("%00", 200),
        ("%1b[2J", 200),
        ("%ff%fe", 400),
        (&*nine_kib, 414),
        ("a%0d%0ab", 200),
        ("%e2%80%ae%e2%80%a8%c2%85", 200),
        ("%5Cn", 200),
        ("last", 200),
    ];
    for (param, status) in cases {
        assert_eq!(up.page("publisher", &format!("/downcase?param={param}")).status, status, "{param}");
    }
    let lines = lines_once_there_are(folder.path(), 7);
    let forged = "a\\n2026-01-01T00:00:00.000000Z x/- forged";
    let expected = [
        format!("lower case of {forged} is {}", forged.replace('T', "t").replace('Z', "z")),
        "lower case of \\u{0} is \\u{0}".to_owned(),
        "lower case of \\u{1b}[2J is \\u{1b}[2j".to_owned(),
        "lower case of a\\r\\nb is a\\r\\nb".to_owned(),
        "lower case of \\u{202e}\\u{2028}\\u{85} is \\u{202e}\\u{2028}\\u{85}".to_owned(),
        "lower case of \\\\n is \\\\n".to_owned(),
        "lower case of last is last".to_owned(),
    ];
    assert_eq!(lines.iter().map(|line| body(line)).collect::<Vec<_>>(), expected);
    assert!(fs::read(folder.path().join("subscriber.log")).unwrap().iter().all(|&byte| byte == b'\n' || byte >= b' '));
    up.assert_running();
    up.stop();
}

#[test]
fn other_sources_may_be_followed_besides_its_own_publisher() {
    let (folder, feeder) = (folder(), Feeder::new());
    let mut command = downpipe();
    command.arg("--data").arg(folder.path());
    on_free_ports(&mut command);
    command.env("SUBSCRIBER_PLAIN", format!("other={}", feeder.endpoint)).env("SUBSCRIBER_FORMAT", "article");
    let up = Daemon::start(command, 2);
    feeder.until_subscribed();
    feeder.send(&["from elsewhere"]);
    lines_once_there_are(folder.path(), 1);
    up.page("publisher", "/downcase?param=OWN");
    let lines = lines_once_there_are(folder.path(), 2);
    assert!(lines[0].starts_with("INFO:root:from elsewhere   - 20"), "{}", lines[0]);
    assert!(lines[1].starts_with("INFO:root:lower case of OWN is own   - 20"), "{}", lines[1]);
    up.stop();
}
