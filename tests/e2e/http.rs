//! The HTTP contract of the publisher, byte for byte, on raw sockets.

use crate::harness::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

#[test]
fn downcase_answers_as_the_contract_says() {
    let publisher = publisher(&[]);
    let http = publisher.told("publisher", "http");
    let long = "A".repeat(8192);
    let cases = [
        ("/downcase?param=HELLO", 200, "lower case of HELLO is hello".to_owned()),
        ("/downcase/?param=HELLO", 200, "lower case of HELLO is hello".to_owned()),
        ("/downcase?param=", 200, "lower case of  is ".to_owned()),
        ("/downcase?param=A+B&param=C", 200, "lower case of A B is a b".to_owned()),
        ("/downcase?param=50%25%zz", 200, "lower case of 50%%zz is 50%%zz".to_owned()),
        ("/downcase?param=%C3%84%C3%96", 200, "lower case of ÄÖ is äö".to_owned()),
        (&format!("/downcase?param={long}"), 200, format!("lower case of {long} is {}", long.to_lowercase())),
    ];
    for (path, status, body) in cases {
        let answer = get(http, path);
        assert_eq!((answer.status, &answer.body), (status, &body), "{path}");
        assert!(answer.headers["content-type"].starts_with("text/plain"));
    }
    for (path, status, named) in [
        ("/downcase", 400, "`param` is missing"),
        ("/downcase?x=1", 400, "`param` is missing"),
        ("/downcase?param=%ff", 400, "`param` is not UTF-8"),
        (&format!("/downcase?param={long}A"), 414, "8193 bytes long, more than 8192"),
        (&format!("/downcase?param={}", "%41".repeat(9 * 1024)), 414, "9216 bytes long"),
        ("/nothing", 404, ""),
    ] {
        let answer = get(http, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body.contains(named), "{path}: {}", answer.body);
    }
    assert_eq!(publisher.metric("publisher", r#"downpipe_publisher_requests_total{status="200"}"#), 7);
    assert_eq!(publisher.metric("publisher", r#"downpipe_publisher_requests_total{status="400"}"#), 3);
    assert_eq!(publisher.metric("publisher", r#"downpipe_publisher_requests_total{status="414"}"#), 2);
}

#[test]
fn only_get_is_allowed_anywhere() {
    let publisher = publisher(&[]);
    let http = publisher.told("publisher", "http");
    for path in ["/downcase?param=X", "/downcase/?param=X", "/livez", "/readyz", "/healthz", "/metrics"] {
        assert_eq!(get(http, path).status, 200, "{path}");
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let answer = request(http, method, path);
            assert_eq!((answer.status, &*answer.headers["allow"]), (405, "GET"), "{method} {path}");
        }
    }
}

#[test]
fn requests_that_are_no_http_end_their_connection_alone() {
    let mut publisher = publisher(&[]);
    let http = publisher.told("publisher", "http").to_owned();
    let endless = format!("GET /downcase?param=X HTTP/1.1\r\nX: {}", "y".repeat(100 * 1024));
    for nonsense in
        ["\r\n\r\n\r\n", "\0\0\0\0", "GET /downcase?param=\x01 HTTP/1.1\r\n\r\n", &endless, "GET / HTTP/9\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(&http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The answer may come, and the connection end, before all is sent.
        let _ = stream.write_all(nonsense.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    publisher.assert_running();
    assert_eq!(get(&http, "/downcase?param=X").status, 200);
}

#[test]
fn a_client_that_stalls_does_not_hold_up_the_end() {
    let mut publisher = publisher(&[]);
    let mut stalled = TcpStream::connect(publisher.told("publisher", "http")).unwrap();
    stalled.write_all(b"GET /downcase?param=HEL").unwrap();
    // Served, so the connection before it has been accepted.
    assert_eq!(publisher.page("publisher", "/livez").status, 200);
    publisher.signal("TERM");
    assert!(publisher.ended_within(Duration::from_secs(10)).success());
}

#[test]
fn what_finds_no_room_to_wait_for_the_disk_is_refused_and_the_rest_is_kept() {
    // One commit is slow; more wait for it than may.
    const CLIENTS: usize = 100;
    let folder = folder();
    let mut command = downpipe();
    command.args(["publisher", "--append-queue=1MiB"]).env("PUBLISHER_JOURNAL", folder.path().join("journal"));
    on_free_ports(&mut command);
    command.env("DOWNPIPE_FAULTS", "sync=delay:3000@1");
    let publisher = Daemon::start(command, 1);
    let http = publisher.told("publisher", "http");
    let param = "X".repeat(8000);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let path = |client| format!("/downcase?param={client}{param}");
        let asking: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || get(http, &path(client)))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(!refused.is_empty() && refused.len() < CLIENTS, "{}", refused.len());
    for answer in refused {
        assert_eq!(answer.body, "cannot keep the answer: 1048576 bytes wait for the disk already\n");
    }
    let kept = answers.iter().filter(|answer| answer.status == 200).count() as u64;
    assert_eq!(publisher.metric("publisher", "downpipe_publisher_journal_records_total"), kept);
    assert_eq!(publisher.metric("publisher", "downpipe_publisher_journal_queue_refused_total"), CLIENTS as u64 - kept);
    assert_eq!(publisher.metric("publisher", "downpipe_publisher_journal_queue_bytes"), 0);
}
