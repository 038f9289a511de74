//! The publisher's plain feed, as a libzmq SUB sees it.

use crate::harness::*;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const DROPPED: &str = "downpipe_publisher_plain_dropped_total";
const QUEUED_BYTES: &str = "downpipe_publisher_plain_queued_bytes";
const QUEUED_MESSAGES: &str = "downpipe_publisher_plain_queued_messages";

#[test]
fn every_answer_is_one_frame_of_exactly_its_text_in_order() {
    let publisher = publisher(&[]);
    let listener = Listener::new();
    listener.join(&publisher);
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    let mut answers = Vec::new();
    for param in ["HELLO", "", "a%0Ab%00%1b[2J", "%C3%84", "A+B"].into_iter().cycle().take(1000) {
        answers.push(client.get(&format!("/downcase?param={param}")).unwrap().body);
    }
    for answer in answers {
        assert_eq!(listener.next(), [answer]);
    }
}

#[test]
fn what_is_not_answered_200_is_not_published() {
    let publisher = publisher(&[]);
    let listener = Listener::new();
    listener.join(&publisher);
    let http = publisher.told("publisher", "http");
    for path in ["/downcase", "/downcase?param=%ff", &format!("/downcase?param={}", "x".repeat(8193))] {
        assert_ne!(get(http, path).status, 200);
    }
    assert_eq!(request(http, "HEAD", "/downcase?param=HEAD").status, 405);
    assert_eq!(get(http, "/downcase?param=AFTER").status, 200);
    assert_eq!(listener.next(), ["lower case of AFTER is after"]);
}

#[test]
fn a_request_never_waits_for_a_subscriber_and_every_drop_is_counted() {
    const REQUESTS: u64 = 3000;
    // Half of it, for each feed.
    const BUDGET: u64 = 2 * 1024 * 1024;
    let publisher = publisher(&["--live-budget=4MiB", "--peer-timeout=1h"]);
    let listener = Listener::new();
    listener.0.set_rcvhwm(1).unwrap();
    listener.0.set_rcvbuf(64 * 1024).unwrap();
    listener.join(&publisher);

    // It reads no more. 3,000 messages of 16 KiB are more than the kernel's buffers and the budget hold.
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    let param = "X".repeat(8000);
    for number in 0..REQUESTS {
        assert_eq!(client.get(&format!("/downcase?param={number}{param}")).unwrap().status, 200);
        if number % 100 == 0 {
            assert!(publisher.metric("publisher", QUEUED_BYTES) <= BUDGET);
        }
    }
    assert!(publisher.metric("publisher", DROPPED) > 0, "the kernel took it all: send more");

    // It reads again: what was not dropped is all there, in order.
    let mut received = Vec::new();
    eventually("all that was queued arrives", || {
        while listener.0.poll(zmq::POLLIN, 0).unwrap() > 0 {
            received.push(listener.next());
        }
        let expected = REQUESTS - publisher.metric("publisher", DROPPED);
        (received.len() as u64 >= expected).then_some(())
    });
    assert_eq!(received.len() as u64, REQUESTS - publisher.metric("publisher", DROPPED));
    let number = |message: &Vec<String>| -> u64 {
        let text = message[0].strip_prefix("lower case of ").unwrap();
        text[..text.find('X').unwrap()].parse().unwrap()
    };
    assert!(received.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])));
    eventually("the account is empty", || (publisher.metric("publisher", QUEUED_MESSAGES) == 0).then_some(()));
    assert_eq!(publisher.metric("publisher", QUEUED_BYTES), 0);
}

#[test]
fn a_subscriber_that_takes_nothing_is_cut_off_and_gives_back_the_budget() {
    let publisher = publisher(&["--live-budget=4MiB", "--peer-timeout=3s"]);
    let stopped = Listener::new();
    stopped.0.set_rcvhwm(1).unwrap();
    stopped.0.set_rcvbuf(64 * 1024).unwrap();
    stopped.join(&publisher);
    // Many at once: between what fills the kernel's buffers and what fills the budget must not be as
    // much time as cuts the subscriber off.
    let path = format!("/downcase?param={}", "X".repeat(8000));
    let http = publisher.told("publisher", "http");
    eventually("the budget is full", || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = Client::connect(http).unwrap();
                    (0..100).for_each(|_| assert_eq!(client.get(&path).unwrap().status, 200));
                });
            }
        });
        (publisher.metric("publisher", DROPPED) > 0).then_some(())
    });
    eventually("the account is empty", || (publisher.metric("publisher", QUEUED_MESSAGES) == 0).then_some(()));

    let other = Listener::new();
    other.join(&publisher);
    publisher.page("publisher", "/downcase?param=AFTER");
    assert_eq!(other.next(), ["lower case of AFTER is after"]);
}

#[test]
fn connections_are_counted_as_they_come_and_go() {
    let publisher = publisher(&[]);
    let count = || publisher.metric("publisher", "downpipe_publisher_plain_subscribers");
    let first = Listener::new();
    first.join(&publisher);
    let second = Listener::new();
    second.join(&publisher);
    eventually("two subscribers", || (count() == 2).then_some(()));
    drop(first);
    eventually("one subscriber", || (count() == 1).then_some(()));
    drop(second);
    eventually("no subscriber", || (count() == 0).then_some(()));
}

#[test]
fn subscribers_that_come_and_go_under_load_stop_nothing() {
    // The crate's own locks did, with all of its tasks on several threads, within 20 such rounds.
    let publisher = publisher(&[]);
    let http = publisher.told("publisher", "http");
    let count = || publisher.metric("publisher", "downpipe_publisher_plain_subscribers");
    let done = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut client = Client::connect(http).unwrap();
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(client.get("/downcase?param=HELLO").unwrap().status, 200);
                answered += 1;
            }
            answered
        });
        for _ in 0..100 {
            let listeners: Vec<_> = (0..20).map(|_| Listener::new()).collect();
            for listener in &listeners {
                listener.0.connect(publisher.told("publisher", "plain")).unwrap();
            }
            eventually("all are connected", || (count() >= 20).then_some(()));
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert!(answered > 0);
    eventually("all are gone", || (count() == 0).then_some(()));
    publisher.stop();
}

#[test]
fn a_peer_that_speaks_no_zmtp_ends_alone() {
    let mut publisher = publisher(&[]);
    let plain = publisher.told("publisher", "plain").strip_prefix("tcp://").unwrap().to_owned();
    let listener = Listener::new();
    listener.join(&publisher);
    let mut held = Vec::new();
    for nonsense in ["GET / HTTP/1.1\r\n\r\n", "", "\u{7f}", &"\0".repeat(64), &"z".repeat(100_000)] {
        let mut stream = TcpStream::connect(&plain).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        held.push(stream);
    }
    assert_eq!(publisher.page("publisher", "/downcase?param=STILL").status, 200);
    assert_eq!(listener.next(), ["lower case of STILL is still"]);
    publisher.assert_running();
}
