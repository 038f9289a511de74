//! Subscribers that stop in the middle (SIGSTOP: the connection stays, and nobody reads), under load.
//!
//! What they do not take is held for them in memory, up to a limit, until they are cut off. Whoever
//! follows beside them does not notice.

use crate::collector::*;
use crate::harness::*;
use crate::publishing::*;
use crate::pyzmq::python;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const FEED_SUBSCRIBERS: &str = "downpipe_publisher_feed_subscribers";
const PLAIN_SUBSCRIBERS: &str = "downpipe_publisher_plain_subscribers";
const PLAIN_DROPPED: &str = "downpipe_publisher_plain_dropped_total";
const WITHHELD: &str = "downpipe_publisher_feed_withheld_blocks_total";

const MIB: u64 = 1024 * 1024;
/// What the publisher may hold: `--live-budget`, `--replay-budget` and `--append-queue`, by default.
const BUDGETS_BYTES: u64 = (32 + 32 + 16) * MIB;
/// And what it is without them: the program, its threads, the buffers of a dozen connections, and
/// what the allocator keeps.
const BASE_BYTES: u64 = 48 * MIB;
const MEMORY_BYTES_MAX: u64 = BUDGETS_BYTES + BASE_BYTES;

/// Clients that ask as fast as they are answered.
const CLIENTS: usize = 32;
/// How long nobody reads.
const STOP: Duration = Duration::from_secs(60);
/// The collector's rate is taken over so long before the stop, and from so long behind its beginning.
const SETTLED: Duration = Duration::from_secs(10);

/// A SUB that says `first` when it has received something, and receives for ever.
const SUB: &str = "
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RCVHWM, 16)
socket.setsockopt(zmq.RCVBUF, 65536)
socket.subscribe(b'')
socket.connect(sys.argv[1])
socket.recv()
print('first')
while True:
    socket.recv()
";

fn start_sub(endpoint: &str) -> Helper {
    let mut command = Command::new(python());
    command.args(["-u", "-c", SUB, endpoint]);
    Helper::start(command)
}

#[test]
fn a_stopped_subscriber_holds_bounded_memory_and_holds_up_nobody_and_catches_up() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &[]);
    let feed = publisher.told("publisher", "feed");
    let collector = Collector::follow(feed);
    // Fewer than can ask: the example has no checksum in C, and is to catch up in time.
    let crowd = Crowd::new(&publisher, CLIENTS / 8, 60);
    let before = crowd.during(|| Rates::over(SETTLED, &crowd, &collector));
    // It saves its position behind each block, which on a disk would be what the test takes most of its time for.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (example, mut printed) = (start_example(feed, &memory.path().join("state")), Vec::new());
    until_printed(&example, &mut printed, crowd.answers());
    eventually("it is on the feed", || (publisher.metric("publisher", FEED_SUBSCRIBERS) == 2).then_some(()));
    crowd.during(|| stop_under_load(&publisher, &collector, &crowd, &before, &[&example]));

    // It finds out that it was cut off, and asks for what it has missed.
    until_printed(&example, &mut printed, crowd.answers());
    let collected = assert_all_collected(collector, &crowd);
    assert!(collected.records().map(|record| printed_line(&record)).eq(printed));
    publisher.stop();
}

#[test]
fn four_stopped_subscribers_and_one_of_the_plain_feed_are_no_worse() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &["--retain-bytes=4GiB"]);
    let (feed, plain) = (publisher.told("publisher", "feed"), publisher.told("publisher", "plain"));
    let collector = Collector::follow(feed);
    let crowd = Crowd::new(&publisher, CLIENTS, 400);
    let subs = [feed, feed, feed, feed, plain].map(start_sub);
    crowd.during(|| {
        assert!(subs.iter().all(|sub| sub.line() == "first"));
        let before = Rates::over(SETTLED, &crowd, &collector);
        let connected = stop_under_load(&publisher, &collector, &crowd, &before, &subs.each_ref());
        assert_eq!(connected, 1, "who takes nothing is cut off");
        // They find that they were cut off, and connect again.
        eventually("four and the collector, and one", || {
            let connected = [FEED_SUBSCRIBERS, PLAIN_SUBSCRIBERS].map(|metric| publisher.metric("publisher", metric));
            (connected == [5, 1]).then_some(())
        });
    });
    let refused = [WITHHELD, PLAIN_DROPPED].map(|metric| publisher.metric("publisher", metric));
    assert!(refused[0] > 0 && refused[1] > 0, "the kernel took it all: load more");
    assert_all_collected(collector, &crowd);
    publisher.stop();
}

/// Records per second.
#[derive(Debug)]
struct Rates {
    acknowledged: f64,
    collected: f64,
}

impl Rates {
    /// From now on, for so long. `crowd` asks meanwhile.
    fn over(time: Duration, crowd: &Crowd, collector: &Collector) -> Self {
        let counts = || (crowd.answers(), collector.look(|collected| collected.position.next));
        let (begun, before) = (Instant::now(), counts());
        thread::sleep(time);
        let (now, seconds) = (counts(), begun.elapsed().as_secs_f64());
        Self { acknowledged: (now.0 - before.0) as f64 / seconds, collected: (now.1 - before.1) as f64 / seconds }
    }
}

/// Stops the `subscribers` for [`STOP`], and looks at the publisher's memory and the collector's rate.
/// Returns how many were still connected to the feed then.
fn stop_under_load(
    publisher: &Daemon,
    collector: &Collector,
    crowd: &Crowd,
    before: &Rates,
    subscribers: &[&Helper],
) -> u64 {
    let (memory, _) = publisher.memory();
    let (during, connected) = {
        subscribers.iter().for_each(|subscriber| subscriber.signal("STOP"));
        let _continue = ContinueOnDrop(subscribers);
        thread::sleep(SETTLED);
        let during = Rates::over(STOP - SETTLED, crowd, collector);
        (during, publisher.metric("publisher", FEED_SUBSCRIBERS))
    };
    let (_, most) = publisher.memory();
    let after = Rates::over(SETTLED, crowd, collector);
    println!("{} stopped: {} MiB before, {} at most", subscribers.len(), memory / MIB, most / MIB);
    println!("records/s: {before:.0?} before, {during:.0?}, {after:.0?} after");
    assert!(most <= MEMORY_BYTES_MAX, "{} MiB", most / MIB);
    // The machine may have become slower or faster by itself.
    let unstopped = before.collected.min(after.collected);
    assert!(2.0 * during.collected >= unstopped, "{before:?}, {during:?}, {after:?}");
    assert!(2.0 * during.collected >= during.acknowledged, "{during:?}");
    connected
}

/// That all is there, and that no connection was lost.
#[track_caller]
fn assert_all_collected(collector: Collector, crowd: &Crowd) -> Collected {
    collector.until_next(crowd.answers());
    let collected = collector.stop();
    assert_eq!((collected.statements.len(), collected.trouble.as_str()), (0, ""));
    // It makes new sockets also when it is four replies behind, which takes a machine that stands still.
    assert!(collected.connections <= 2, "{}", collected.connections);
    crowd.assert_are_all(texts(&collected));
    collected
}

/// A stopped process would not hear of its end.
struct ContinueOnDrop<'a>(&'a [&'a Helper]);

impl Drop for ContinueOnDrop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|subscriber| subscriber.signal("CONT"));
    }
}
