//! The orderly end of a publisher, under load and with clients that are behind.

use crate::collector::*;
use crate::harness::*;
use crate::publishing::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Less than what the harness gives a process to end.
const SILENCE: Duration = Duration::from_secs(5);

/// Publishes on one connection until that ends; returns what was acknowledged.
fn publish_until_the_end(http: &str, client: usize, is_enough: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut connection = Client::connect(http).unwrap();
    while let Ok(body) = publish(&mut connection, &format!("{client}-{}", acknowledged.len())) {
        acknowledged.push(body);
        is_enough.fetch_or(acknowledged.len() >= 200, Ordering::Relaxed);
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_before_the_end_has_been_delivered_at_the_end() {
    const CLIENTS: usize = 8;
    let folder = folder();
    let publisher = publisher_in(folder.path(), &[]);
    let http = publisher.told("publisher", "http").to_owned();
    let collectors = [(); 2].map(|()| Collector::follow(publisher.told("publisher", "feed")));
    collectors.iter().for_each(|collector| collector.until("a stream", |collected| collected.stream.is_some()));
    let is_enough = AtomicBool::new(false);
    let acknowledged: Vec<_> = thread::scope(|scope| {
        let publish = |client| publish_until_the_end(&http, client, &is_enough);
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || publish(client))).collect();
        eventually("records are published", || is_enough.load(Ordering::Relaxed).then_some(()));
        publisher.stop();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });

    // Nobody is left to ask: what is not here yet is in the collectors' own sockets, or lost.
    let on_disk = journal_blocks(&folder.path().join("journal"));
    for collector in collectors {
        collector.until_next(on_disk.last().unwrap().end().next);
        let collected = collector.stop();
        assert!(collected.blocks == on_disk, "{} blocks of {}", collected.blocks.len(), on_disk.len());
        let bodies = bodies(&collected);
        for acknowledged in &acknowledged {
            assert_is_subsequence(acknowledged, &bodies);
        }
    }
}

#[test]
fn a_client_that_is_far_behind_is_served_on_for_a_while() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &[]);
    let (http, address) =
        (publisher.told("publisher", "http").to_owned(), publisher.told("publisher", "replay").to_owned());
    let crowd = Crowd::new(&publisher, 2, 8000);
    crowd.until(3000);
    let replay = Replay::connect(&address);
    let head = who_is_there(&replay);
    // A block at a time: it is not done before the publisher has stopped waiting for it.
    let ask = |at: Position| {
        let reply = replay.fetch_within(SILENCE, head.stream, at, 1)?;
        let Some(Message::End { at: end, .. }) = reply.last() else { panic!("no end: {reply:?}") };
        assert!(end.next > at.next);
        Some(*end)
    };
    let mut at = ask(BEGINNING).unwrap();
    publisher.signal("TERM");
    eventually("nothing is accepted any more", || Client::connect(&http).is_err().then_some(()));
    let mut served = 0;
    while at.next < head.next.next {
        let Some(end) = ask(at) else { break };
        (at, served) = (end, served + 1);
        thread::sleep(Duration::from_millis(5));
    }
    println!("{served} replies after SIGTERM, to {} of {}", at.next, head.next.next);
    assert!(served > 0);
    publisher.until_stopped();
}
