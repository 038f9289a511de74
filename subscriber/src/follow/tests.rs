//! The shell with real sockets, a publisher and a writer of the tests' own.

mod proxy;
mod publisher;
mod writer;

use super::*;
use crate::log::queue::Statement;
use feed::{Block, Position, StreamId};
use proxy::Proxy;
use publisher::{Journal, Publisher};
use std::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use writer::Writer;

const STREAM: StreamId = StreamId([7; 16]);
/// In the end everything has to have happened.
const PATIENCE: Duration = Duration::from_secs(60);
/// Waits that let a test go on soon.
const SHORT: Waits = Waits {
    silence: Duration::from_secs(5),
    writer: Duration::from_millis(20),
    again: Duration::from_millis(20),
    back_off: (Duration::from_millis(1), Duration::from_millis(20)),
};

/// A source that is followed, until this is dropped.
struct Followed {
    link: watch::Receiver<Link>,
    metrics: FeedMetrics,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn start(source: FeedSource, queue: Queue, waits: Waits) -> Self {
        let link = watch::Sender::new(Link::Waiting("not connected yet".to_owned()));
        let (metrics, shutdown) = (FeedMetrics::default(), CancellationToken::new());
        let linked = link.subscribe();
        let follower = FeedFollower {
            source,
            first_contact: FirstContact::Earliest,
            queue,
            link,
            metrics: metrics.clone(),
            waits,
            shutdown: shutdown.clone(),
        };
        Self { link: linked, metrics, shutdown, task: tokio::spawn(follower.run()) }
    }

    /// Waits until the link is as wanted.
    async fn is(&mut self, wanted: impl Fn(&Link) -> bool) -> Link {
        let link = timeout(PATIENCE, self.link.wait_for(wanted)).await;
        link.unwrap_or_else(|_| panic!("it is another")).unwrap().clone()
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it has to happen some time")
}

fn at(publisher: &Publisher) -> FeedSource {
    FeedSource::at(publisher.feed.clone())
}

/// One source, and one publisher that has a few blocks.
async fn one() -> (Publisher, Writer, Queue) {
    let publisher = Publisher::start(STREAM).await;
    publisher.withhold(5, 10).await;
    let (writer, mut queues) = Writer::start(1, &[]);
    (publisher, writer, queues.remove(0))
}

fn reason(link: &Link) -> &str {
    match link {
        Link::Waiting(reason) | Link::Refused(reason) => reason,
        Link::Connected | Link::Parked { .. } => "",
    }
}

#[tokio::test]
async fn a_fresh_start_takes_everything_from_the_oldest_on() {
    let (publisher, mut writer, queue) = one().await;
    publisher.change(|journal| journal.keep(3)).await;
    let mut followed = Followed::start(at(&publisher), queue, Waits::default());
    followed.is(Link::is_ready).await;
    publisher.publish(4).await;
    let written = within(writer.has(7)).await;
    let blocks = publisher.blocks().await;
    assert_eq!(written.blocks, blocks[2..]);
    let base = Statement::Base { stream: STREAM, at: blocks[2].start(), name: "test".to_owned() };
    assert_eq!(written.statements, [base]);
    let metrics = &followed.metrics;
    assert_eq!((metrics.connects.get(), metrics.blocks.get(), metrics.records.get()), (1, 7, 14));
    assert_eq!((metrics.refusals.get(), metrics.lost.get()), (0, 0));
}

#[tokio::test]
async fn what_the_feed_does_not_bring_is_fetched() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, Waits::default());
    followed.is(Link::is_ready).await;
    // A later block tells of it, or a head.
    publisher.withhold(1, 10).await;
    publisher.publish(2).await;
    within(writer.has(8)).await;
    publisher.withhold(30, 100 * 1024).await;
    let written = within(writer.has(38)).await;
    assert_eq!(written.blocks, publisher.blocks().await);
    assert_eq!(followed.metrics.connects.get(), 1);
}

#[tokio::test]
async fn what_retention_took_is_stated_and_counted() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    publisher
        .change(|journal| {
            (0..4).for_each(|_| drop(journal.append(10)));
            journal.keep(1);
        })
        .await;
    let written = within(writer.has(6)).await;
    assert!(matches!(&written.statements[..], [_, Statement::Lost(gap)] if gap.from == 10 && gap.to.next == 16));
    assert_eq!(followed.metrics.lost.get(), 6);
}

#[tokio::test]
async fn a_reply_that_is_cut_inside_a_frame_is_gone_on_with() {
    let (publisher, mut writer, queue) = one().await;
    publisher.withhold(40, 50 * 1024).await;
    let proxy = Proxy::to(&publisher.replay).await;
    let replay = proxy.at.address().to_string();
    publisher.change(|journal| journal.replay = replay).await;
    proxy.cut_after(1024 * 1024);
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    let written = within(writer.has(45)).await;
    assert_eq!(written.blocks, publisher.blocks().await);
    followed.is(Link::is_ready).await;
    // And when both are cut while nothing is under way.
    proxy.cut();
    publisher.withhold(1, 10).await;
    assert_eq!(within(writer.has(46)).await.blocks, publisher.blocks().await);
}

#[tokio::test]
async fn a_feed_that_falls_silent_is_connected_to_anew() {
    let (publisher, mut writer, queue) = one().await;
    let waits = Waits { silence: Duration::from_millis(200), ..SHORT };
    let mut followed = Followed::start(at(&publisher), queue, waits);
    followed.is(Link::is_ready).await;
    publisher.change(|journal| journal.sends_heads = false).await;
    let link = followed.is(|link| !link.is_ready()).await;
    assert_eq!(reason(&link), "nothing was heard for 200ms");
    publisher.change(|journal| journal.sends_heads = true).await;
    followed.is(Link::is_ready).await;
    publisher.publish(1).await;
    assert_eq!(within(writer.has(6)).await.blocks, publisher.blocks().await);
}

#[tokio::test]
async fn a_reply_that_does_not_come_is_asked_for_on_new_sockets() {
    let (publisher, mut writer, queue) = one().await;
    publisher.change(|journal| journal.is_busy = true).await;
    let waits = Waits { silence: Duration::from_millis(200), ..SHORT };
    let mut followed = Followed::start(at(&publisher), queue, waits);
    followed.is(|link| reason(link).starts_with("nothing was heard")).await;
    publisher.change(|journal| journal.is_busy = false).await;
    assert_eq!(within(writer.has(5)).await.blocks, publisher.blocks().await);
}

/// Has a connection end, as the end of the publisher's process does.
async fn reconnect(publisher: &Publisher, followed: &mut Followed) {
    let connects = followed.metrics.connects.get();
    publisher.order(|_| vec![b"not a message".to_vec()]).await;
    within(async {
        while followed.metrics.connects.get() == connects {
            followed.link.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_publisher_that_went_back_is_gone_back_with_and_that_is_stated() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    let before = publisher.blocks().await;
    publisher.change(|journal| journal.go_back(2)).await;
    publisher.withhold(2, 20).await;
    reconnect(&publisher, &mut followed).await;
    let written = within(writer.has(7)).await;
    let forked = Statement::Forked { stream: STREAM, from: before[4].end(), at: before[2].end() };
    assert_eq!(written.statements[1..], [forked]);
    assert_eq!(written.blocks[5..], publisher.blocks().await[3..]);
}

#[tokio::test]
async fn a_publisher_that_was_wiped_is_replaced() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    let new = StreamId([8; 16]);
    publisher.change(move |journal| journal.wipe(new)).await;
    publisher.withhold(1, 10).await;
    reconnect(&publisher, &mut followed).await;
    let (base, name) = (Position::default(), "test".to_owned());
    let replaced = Statement::Replaced { old: STREAM, heard: 10, stream: new, base, name };
    let written = within(writer.has(6)).await;
    assert_eq!(written.statements[1..], [replaced]);
    assert_eq!(written.blocks[5..], publisher.blocks().await);
}

#[tokio::test]
async fn nonsense_ends_a_connection_and_nothing_else() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    reconnect(&publisher, &mut followed).await;
    publisher.publish(1).await;
    assert_eq!(within(writer.has(6)).await.blocks, publisher.blocks().await);
}

#[tokio::test]
async fn what_the_writer_refuses_is_offered_again_on_a_new_connection() {
    let (publisher, mut writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    writer.refuse_next();
    publisher.publish(3).await;
    within(writer.has_refused(1)).await;
    assert_eq!(within(writer.has(8)).await.blocks, publisher.blocks().await);
}

#[tokio::test]
async fn while_the_writer_takes_nothing_the_feed_is_closed_and_then_caught_up_with() {
    let publisher = Publisher::start(STREAM).await;
    let proxy = Proxy::to(&publisher.feed).await;
    // So many sources share the queue that each has room for little.
    let (mut writer, mut queues) = Writer::start(16, &[]);
    let mut followed = Followed::start(FeedSource::at(proxy.at.clone()), queues.remove(0), SHORT);
    followed.is(Link::is_ready).await;
    within(proxy.has_open(1)).await;
    writer.takes(false);
    let large = |journal: &mut Journal| journal.append(250 * 1024).bytes().to_vec();
    publisher.order(move |journal| (0..8).map(|_| large(journal)).collect()).await;
    within(proxy.has_open(0)).await;
    writer.takes(true);
    assert_eq!(within(writer.has(8)).await.blocks, publisher.blocks().await);
    followed.is(Link::is_ready).await;
    assert_eq!(followed.metrics.connects.get(), 1, "it was the writer, and not the publisher");
}

#[tokio::test]
async fn the_shutdown_does_not_wait_for_the_writer() {
    let (publisher, writer, queue) = one().await;
    writer.takes(false);
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    // The claim waits for the writer, or the connection for the publisher.
    followed.shutdown.cancel();
    within(&mut followed.task).await.unwrap();
}

#[tokio::test]
async fn who_is_without_a_writer_ends() {
    let (publisher, writer, queue) = one().await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    followed.is(Link::is_ready).await;
    writer.end();
    within(&mut followed.task).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_served_through_another_address_is_parked() {
    let (publisher, at_least) = (Publisher::start(STREAM).await, 3);
    publisher.withhold(at_least, 10).await;
    let proxy = Proxy::to(&publisher.feed).await;
    let (mut writer, mut queues) = Writer::start(2, &[]);
    let second = queues.remove(1);
    let mut first = Followed::start(at(&publisher), queues.remove(0), SHORT);
    first.is(Link::is_ready).await;
    let mut second = Followed::start(FeedSource::at(proxy.at.clone()), second, SHORT);
    assert_eq!(second.is(Link::is_ready).await, Link::Parked { stream: STREAM });
    within(proxy.has_open(0)).await;
    publisher.publish(2).await;
    let written = within(writer.has(5)).await;
    assert_eq!(written.blocks, publisher.blocks().await);
    assert_eq!((first.metrics.blocks.get(), second.metrics.blocks.get()), (5, 0));
}

#[tokio::test]
async fn a_publisher_with_another_history_of_a_stream_is_refused_by_name() {
    let publisher = Publisher::start(STREAM).await;
    publisher.withhold(3, 10).await;
    // The log has the stream from elsewhere, and another block in front of its position.
    let elsewhere = Position { next: 4, previous: 0xdead_beef };
    let (writer, mut queues) = Writer::start(2, &[(STREAM, 0, elsewhere)]);
    let mut followed = Followed::start(at(&publisher), queues.remove(1), SHORT);
    let link = followed.is(|link| matches!(link, Link::Refused(_))).await;
    assert!(reason(&link).contains(&STREAM.to_string()) && reason(&link).contains("--new-stream"), "{link:?}");
    assert_eq!(writer.written.borrow().blocks, Vec::<Block>::new());
    // It is tried again.
    publisher.change(|journal| journal.wipe(StreamId([8; 16]))).await;
    followed.is(Link::is_ready).await;
}

#[tokio::test]
async fn a_version_that_nobody_knows_yet_is_refused_and_no_loss() {
    let (publisher, writer, queue) = one().await;
    publisher.change(|journal| journal.sends_heads = false).await;
    let mut followed = Followed::start(at(&publisher), queue, SHORT);
    let newer = |journal: &mut Journal| {
        let mut head = journal.head();
        head[3] = b'2';
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&head[..4]), &head[8..]);
        head[4..8].copy_from_slice(&checksum.to_le_bytes());
        vec![head]
    };
    // The first ones may be sent before the subscription has arrived.
    let link = within(async {
        loop {
            publisher.order(newer).await;
            let refused = followed.link.wait_for(|link| matches!(link, Link::Refused(_)));
            if let Ok(link) = timeout(Duration::from_millis(20), refused).await {
                break link.unwrap().clone();
            }
        }
    })
    .await;
    assert_eq!(reason(&link), "upgrade the subscriber: the publisher sends a head of version '2'");
    assert!(writer.written.borrow().statements.is_empty());
}

/// Descriptors that this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn reconnects_leak_nothing() {
    // In a process of its own, or other tests' descriptors would be counted.
    let name = "follow::tests::two_hundred_reconnects";
    let alone = Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--ignored"]).output().unwrap();
    let output = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && output.contains("1 passed"), "{output}");
}

#[tokio::test]
#[ignore = "run by `reconnects_leak_nothing`"]
async fn two_hundred_reconnects() {
    let (publisher, mut writer, queue) = one().await;
    let (feed, replay) = (Proxy::to(&publisher.feed).await, Proxy::to(&publisher.replay).await);
    let to_replay = replay.at.address().to_string();
    publisher.change(|journal| journal.replay = to_replay).await;
    let mut followed = Followed::start(FeedSource::at(feed.at.clone()), queue, SHORT);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut before = (0, 0);
    for round in 0..=200 {
        // By turns the feed, the replay (which is noticed when it is needed next), and both.
        let connects = followed.metrics.connects.get();
        if round % 3 != 1 {
            feed.cut();
        }
        if round % 3 != 0 {
            replay.cut();
        }
        publisher.withhold(1, 10).await;
        within(async {
            while followed.metrics.connects.get() == connects || !followed.link.borrow().is_ready() {
                followed.link.changed().await.unwrap();
            }
            writer.has(round + 6).await;
            (feed.has_open(1).await, replay.has_open(1).await)
        })
        .await;
        if round == 0 {
            before = (descriptors(), tasks());
        }
    }
    // The other ends take a moment; what leaks stays.
    within(async {
        while descriptors() > before.0 || tasks() > before.1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(writer.written.borrow().blocks, publisher.blocks().await);
}
