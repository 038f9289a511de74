//! Networks that fail: that cut, stall without a word, are slow, lead nowhere. Every line is there once and in
//! order, and what was left behind is closed.

use super::proxy::{Cut, Proxy, Ways};
use super::*;
use crate::publishing::journal_blocks;
use std::slice;

const MIB: u64 = 1024 * 1024;

/// A publisher behind proxies, and who asks it.
fn behind(ways: &Ways, folder: &Path, name: &str, host: &str, load: Load<'static>) -> (Origin, Daemon) {
    let folder = folder.join(name);
    std::fs::create_dir(&folder).unwrap();
    let site = Site::new(&folder, host, &[&format!("--name={name}"), &ways.advertised()]);
    let (origin, publisher) = Origin::start(site, name, load);
    ways.lead_to(&publisher);
    (origin, publisher)
}

/// That the log has what the journal in `folder` has, in its order.
#[track_caller]
fn assert_is_journal(log: &LogSite, folder: &Path) {
    let (blocks, logged) = (journal_blocks(&folder.join("journal")), log.read());
    let records = blocks.iter().flat_map(|block| block.records());
    let published = records.map(|record| (record.topic, str::from_utf8(record.body).unwrap()));
    assert!(
        published.eq(logged.lines.iter().map(|line| (&*line.topic, &*line.body))),
        "another order, or other records"
    );
}

fn stop_within(daemon: &mut Daemon) {
    daemon.signal("TERM");
    let status = daemon.ended_within(Duration::from_secs(10));
    assert!(status.success(), "{status}: {}", daemon.stderr());
}

/// What a network does.
#[derive(Debug, Clone, Copy)]
enum Fault {
    CutFeed(Cut),
    CutReplay(Cut),
    CutBoth(Cut),
    /// Nothing more comes on the feed's connections, or on any, and nobody says so.
    StallFeed,
    StallBoth,
    Delay,
    /// Connections are taken, and nothing is ever said on them.
    SilentFeed,
    SilentReplay,
    /// Nobody takes a connection.
    Refuse,
}

impl Fault {
    /// Each as often as it is to happen.
    const ALL: [(Self, usize); 12] = [
        (Self::CutFeed(Cut::Closed), 4),
        (Self::CutFeed(Cut::Reset), 4),
        (Self::CutReplay(Cut::Closed), 2),
        (Self::CutReplay(Cut::Reset), 2),
        (Self::CutBoth(Cut::Closed), 3),
        (Self::CutBoth(Cut::Reset), 3),
        (Self::StallFeed, 1),
        (Self::StallBoth, 1),
        (Self::Delay, 3),
        (Self::SilentFeed, 1),
        (Self::SilentReplay, 1),
        (Self::Refuse, 2),
    ];

    /// All of them in some order.
    fn shuffled(random: &mut Random) -> Vec<Self> {
        let mut faults: Vec<_> = Self::ALL.iter().flat_map(|(fault, times)| [*fault].repeat(*times)).collect();
        for index in (1..faults.len()).rev() {
            faults.swap(index, random.below(index as u64 + 1) as usize);
        }
        faults
    }

    /// Happens, and is over, but for the connections that it leaves stalled.
    fn happen(self, ways: &Ways, log: &LogSite, publisher: &Daemon, subscriber: &Daemon) {
        match self {
            Self::CutFeed(how) => drop(ways.feed.cut(how)),
            Self::CutReplay(how) => drop(ways.replay.cut(how)),
            Self::CutBoth(how) => ways.cut(how),
            Self::StallFeed => until_left(&[&ways.feed]),
            Self::StallBoth => until_left(&[&ways.feed, &ways.replay]),
            Self::Delay => {
                let delay = |delay| [&ways.feed, &ways.replay].map(|way| way.delay(delay));
                delay(Duration::from_millis(30));
                log.until_more(100);
                delay(Duration::ZERO);
            }
            Self::SilentFeed => until_given_up(&ways.feed, ways, publisher),
            Self::SilentReplay => until_given_up(&ways.replay, ways, publisher),
            Self::Refuse => {
                ways.feed.refuse();
                ways.cut(Cut::Reset);
                eventually("the subscriber says so", || {
                    (subscriber.page("subscriber", "/readyz").status == 503).then_some(())
                });
                ways.feed.listen();
            }
        }
    }
}

/// Stalls what there is, and waits until the subscriber makes a new connection to the first by itself.
fn until_left(stalled: &[&Proxy]) {
    let before = eventually("there is something to stall", || {
        // Not before all of it is there: stalled at its beginning, a connection leads to no other.
        let before = stalled[0].accepted();
        let are_there = stalled.iter().all(|way| way.links() > 0);
        (are_there && stalled.iter().map(|way| way.stall()).min() > Some(0)).then_some(before)
    });
    stalled[0].until_accepted(before, 1);
}

/// Has connections lead nowhere, and waits until the subscriber has given up one of them.
fn until_given_up(way: &Proxy, ways: &Ways, publisher: &Daemon) {
    way.leads_nowhere();
    let before = way.accepted();
    ways.cut(Cut::Reset);
    way.until_accepted(before, 2);
    ways.lead_to(publisher);
    way.cut(Cut::Reset);
}

#[test]
fn every_record_is_one_line_whatever_the_network_does() {
    let (folder, mut random) = (folder(), Random::new());
    let ways = Ways::new("127.0.4.2");
    let (origin, publisher) = behind(&ways, folder.path(), "one", "127.0.4.2", Load::new(2, 300));
    let log = LogSite::new(folder.path(), &[&ways.feed.endpoint()], &["--rotate-size=256KiB"]);
    let mut subscriber = log.start();
    origin.load.during(|| {
        log.until_more(1);
        for fault in Fault::shuffled(&mut random) {
            let begun = Instant::now();
            fault.happen(&ways, &log, &publisher, &subscriber);
            log.until_all_of(slice::from_ref(&publisher));
            println!("{fault:?}: {:?}", begun.elapsed());
            subscriber.assert_running();
        }
    });
    log.until_all_of(slice::from_ref(&publisher));
    subscriber.until_ready("subscriber");
    subscriber.stop();
    log.assert_exact(slice::from_ref(&origin));
    assert_is_journal(&log, &folder.path().join("one"));
    publisher.stop();
}

#[test]
fn every_record_is_one_line_whichever_of_two_addresses_fails() {
    const FAULTS: usize = 24;
    let (folder, mut random) = (folder(), Random::new());
    // One replay for both, as the publisher has one to advertise.
    let ways = ["127.0.4.6", "127.0.4.7"].map(Ways::new);
    let (origin, publisher) = behind(&ways[0], folder.path(), "one", "127.0.4.6", Load::new(2, 300));
    ways[1].lead_to(&publisher);
    let feeds = ways.each_ref().map(|ways| ways.feed.endpoint()).join(",");
    let log = LogSite::new(folder.path(), &[&feeds], &["--rotate-size=256KiB"]);
    let mut subscriber = log.start();
    origin.load.during(|| {
        log.until_more(1);
        for _ in 0..FAULTS {
            let feed = &ways[random.below(2) as usize].feed;
            let how = if random.below(2) == 0 { Cut::Closed } else { Cut::Reset };
            match random.below(8) {
                // The other takes over when this one has been silent for long enough.
                0 => {
                    feed.refuse();
                    feed.cut(how);
                    log.until_all_of(slice::from_ref(&publisher));
                    feed.listen();
                }
                1 => drop(feed.stall()),
                2 => drop(ways[0].replay.cut(how)),
                _ => drop(feed.cut(how)),
            }
            log.until_more(1 + random.below(500));
            subscriber.assert_running();
        }
    });
    log.until_all_of(slice::from_ref(&publisher));
    subscriber.until_ready("subscriber");
    subscriber.stop();
    log.assert_exact(slice::from_ref(&origin));
    assert_is_journal(&log, &folder.path().join("one"));
    publisher.stop();
}

#[test]
fn connections_that_say_nothing_are_left_and_closed() {
    let folder = folder();
    let ways = Ways::new("127.0.4.3");
    let (origin, publisher) = behind(&ways, folder.path(), "one", "127.0.4.3", Load::new(1, 10));
    let log = LogSite::new(folder.path(), &[&ways.feed.endpoint()], &[]);
    let subscriber = log.start();
    let publish_and_wait = || {
        origin.load.during(|| origin.load.until_acknowledged(5));
        log.until_all_of(slice::from_ref(&publisher));
    };
    publish_and_wait();
    subscriber.until_ready("subscriber");
    until_left(&[&ways.feed, &ways.replay]);
    publish_and_wait();
    subscriber.until_ready("subscriber");
    // What was stalled comes to its ends when it goes on.
    ways.feed.resume();
    ways.replay.resume();
    eventually("what was left is closed", || (ways.feed.links() == 1 && ways.replay.links() <= 1).then_some(()));
    publish_and_wait();
    subscriber.stop();
    log.assert_exact(slice::from_ref(&origin));
    publisher.stop();
}

#[test]
fn two_hundred_reconnects_leave_no_descriptor_no_thread_and_no_memory() {
    const PUBLISHERS: u64 = 8;
    const WARM_UP: u64 = 3;
    const RECONNECTS: u64 = 200;
    const GROWTH_BYTES_MAX: u64 = 16 * MIB;
    /// What the runtime and the log may have open for a moment.
    const MORE_MAX: usize = 2;
    let (folder, mut random) = (folder(), Random::new());
    let ways: Vec<_> = (0..PUBLISHERS).map(|_| Ways::new("127.0.4.4")).collect();
    let (origins, publishers): (Vec<_>, Vec<_>) = ways
        .iter()
        .enumerate()
        .map(|(number, ways)| behind(ways, folder.path(), &format!("p{number}"), "127.0.4.4", Load::new(1, 100)))
        .unzip();
    let feeds = ways.iter().map(|ways| ways.feed.endpoint()).collect::<Vec<_>>().join(",");
    let log = LogSite::new(folder.path(), &[&feeds], &[]);
    let subscriber = log.start();
    let accepted = || ways.iter().map(|ways| ways.feed.accepted()).sum::<u64>();
    let mut round = || {
        for ways in &ways {
            let how = if random.below(2) == 0 { Cut::Closed } else { Cut::Reset };
            match random.below(3) {
                0 => drop(ways.feed.cut(how)),
                1 => drop(ways.replay.cut(how)),
                _ => ways.cut(how),
            }
        }
        for origin in &origins {
            origin.load.during(|| origin.load.until_acknowledged(1));
        }
        log.until_all_of(&publishers);
        subscriber.until_ready("subscriber");
    };
    (0..WARM_UP).for_each(|_| round());
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", subscriber.pid())).unwrap().count();
    let (files, threads, memory, connections) = (open_files(), subscriber.threads(), subscriber.memory().0, accepted());
    for rounds in 1.. {
        round();
        let reconnects = accepted() - connections;
        if reconnects >= RECONNECTS {
            println!("{reconnects} reconnects; {files} descriptors, {threads} threads, {} MiB", memory / MIB);
            break;
        }
        assert!(rounds < RECONNECTS, "{reconnects} reconnects in {rounds} rounds");
    }
    eventually("no descriptor is left", || (open_files() <= files + MORE_MAX).then_some(()));
    eventually("no thread is left", || (subscriber.threads() <= threads + MORE_MAX).then_some(()));
    let now = subscriber.memory().0;
    assert!(now < memory + GROWTH_BYTES_MAX, "{} MiB, {} before", now / MIB, memory / MIB);
    subscriber.stop();
    log.assert_exact(&origins);
    publishers.into_iter().for_each(Daemon::stop);
}

#[test]
fn a_publisher_that_never_greets_holds_up_nobody() {
    let folder = folder();
    let (silent, refusing, ways) = (Proxy::new("127.0.4.5"), Proxy::new("127.0.4.5"), Ways::new("127.0.4.5"));
    refusing.refuse();
    let (origin, publisher) = behind(&ways, folder.path(), "one", "127.0.4.5", Load::new(1, 100));
    let feeds = [&silent, &ways.feed, &refusing].map(Proxy::endpoint);
    let log = LogSite::new(folder.path(), &feeds.each_ref().map(|feed| &**feed), &[]);
    let mut subscriber = log.start();
    origin.load.during(|| {
        // It has tried one for as long as it tries, and again.
        silent.until_accepted(0, 2);
        log.until_more(100);
        log.until_all_of(slice::from_ref(&publisher));
    });
    log.until_all_of(slice::from_ref(&publisher));
    let readyz = subscriber.page("subscriber", "/readyz");
    assert_eq!(readyz.status, 503);
    assert!(readyz.body.contains(&silent.address) && readyz.body.contains(&refusing.address), "{}", readyz.body);
    assert!(!readyz.body.contains(&ways.feed.address), "{}", readyz.body);
    stop_within(&mut subscriber);
    log.assert_exact(slice::from_ref(&origin));
    publisher.stop();
}
