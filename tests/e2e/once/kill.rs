//! SIGKILL of either side at random moments, under load, and pauses.

use super::*;

/// How a number of publishers and subscribers come to their many ends.
pub(super) struct Kills<'a> {
    /// The addresses of the publishers, each the only one there.
    pub(super) hosts: &'a [&'a str],
    pub(super) subscribers: usize,
    pub(super) options: &'a [&'a str],
    pub(super) rounds: u64,
    /// Of each publisher.
    pub(super) clients: usize,
    /// How much a text is prolonged at most.
    pub(super) padding_max: u64,
    /// About how many records come to a log or are acknowledged before somebody is killed.
    pub(super) life_records: u64,
    /// How many are acknowledged by all publishers in the end, at least.
    pub(super) records_min: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Killed {
    pub(super) publishers: u64,
    pub(super) subscribers: u64,
    /// How many of them were killed once more before they were known to be ready.
    pub(super) in_haste: u64,
    pub(super) acknowledged: u64,
    /// The files of all logs.
    pub(super) files: usize,
}

/// Before one of so many rounds, `verify` judges a log beside its writer.
const VERIFIED: u64 = 4;
/// One of so many starts follows another that was killed before it was known to serve.
const HASTY: u64 = 3;

impl Kills<'_> {
    /// Kills and looks whether all is there in the end. Everybody runs in a folder of its own.
    pub(super) fn run(&self) -> Killed {
        let (folder, mut random) = (folder(), Random::new());
        let (origins, mut world) = World::begin(self, folder.path());
        let mut killed = Killed::default();
        while_all_ask(&origins, &mut || {
            for _ in 0..self.rounds {
                world.round(&origins, self.life_records, &mut random, &mut killed);
            }
            for origin in &origins {
                let enough = self.records_min.div_ceil(origins.len() as u64).max(self.life_records);
                origin.load.until_acknowledged(enough.saturating_sub(origin.load.acknowledged()).max(1));
            }
        });
        killed.acknowledged = origins.iter().map(|origin| origin.load.acknowledged()).sum();
        killed.files = world.end(&origins);
        killed
    }
}

/// Who runs, and where.
struct World {
    publishers: Vec<Option<Daemon>>,
    logs: Vec<LogSite>,
    subscribers: Vec<Option<Daemon>>,
}

impl World {
    fn begin(kills: &Kills<'_>, folder: &Path) -> (Vec<Origin>, Self) {
        let (mut origins, mut publishers) = (Vec::new(), Vec::new());
        for (number, host) in kills.hosts.iter().enumerate() {
            let load = Load::new(kills.clients, kills.padding_max);
            let (origin, publisher) = Origin::new(folder, &format!("publisher-{number}"), host, load);
            origins.push(origin);
            publishers.push(Some(publisher));
        }
        let feeds: Vec<_> = publishers.iter().flatten().map(|publisher| publisher.told("publisher", "feed")).collect();
        let logs: Vec<_> = (0..kills.subscribers)
            .map(|number| {
                let folder = folder.join(format!("log-{number}"));
                std::fs::create_dir(&folder).unwrap();
                LogSite::new(&folder, &feeds, kills.options)
            })
            .collect();
        let subscribers = logs.iter().map(|log| Some(log.start())).collect();
        (origins, Self { publishers, logs, subscribers })
    }

    /// Somebody is killed at some moment, and started again.
    fn round(&mut self, origins: &[Origin], records: u64, random: &mut Random, killed: &mut Killed) {
        let in_haste = random.below(HASTY) == 0;
        killed.in_haste += u64::from(in_haste);
        let more = 1 + random.below(2 * records);
        if random.below(VERIFIED) == 0 {
            self.logs[random.below(self.logs.len() as u64) as usize].verify().assert_well();
        }
        // As many of the one side as of the other.
        if random.below(2) == 0 {
            let which = random.below(self.logs.len() as u64) as usize;
            let log = &self.logs[which];
            log.until_more(more);
            kill(&mut self.subscribers[which]);
            if in_haste {
                kill_in_haste(log.command(""), random);
            }
            self.subscribers[which] = Some(log.start());
            killed.subscribers += 1;
        } else {
            let which = random.below(origins.len() as u64) as usize;
            let origin = &origins[which];
            origin.load.until_acknowledged(more);
            kill(&mut self.publishers[which]);
            if in_haste {
                kill_in_haste(origin.site.command(""), random);
            }
            self.publishers[which] = Some(origin.next());
            killed.publishers += 1;
        }
    }

    /// Everybody ends in order, with all that was acknowledged in each log. Returns how many files those have.
    fn end(self, origins: &[Origin]) -> usize {
        let publishers: Vec<_> = self.publishers.into_iter().flatten().collect();
        let mut count = 0;
        for (log, subscriber) in self.logs.iter().zip(self.subscribers.into_iter().flatten()) {
            log.until_all_of(&publishers);
            subscriber.stop();
            log.assert_exact(origins);
            count += oracle::files(&log.seen).len();
        }
        publishers.into_iter().for_each(Daemon::kill);
        count
    }
}

fn kill(daemon: &mut Option<Daemon>) {
    daemon.take().expect("it runs").kill();
}

#[test]
fn every_record_is_one_line_whichever_side_is_killed() {
    let killed = Kills {
        hosts: &["127.0.3.1"],
        subscribers: 1,
        options: &["--rotate-size=32KiB", "--rotate-every=1s"],
        rounds: 50,
        clients: 6,
        padding_max: 200,
        life_records: 300,
        records_min: 0,
    };
    let killed = killed.run();
    println!("{killed:?}");
    assert!(killed.files > 10, "{killed:?}");
}

#[test]
fn every_record_is_one_line_of_two_logs_whoever_of_three_publishers_and_two_subscribers_is_killed() {
    let killed = Kills {
        hosts: &["127.0.3.2", "127.0.3.3", "127.0.3.4"],
        subscribers: 2,
        // By age alone: a file is as long as it comes to be in a second.
        options: &["--rotate-every=1s", "--sync=200ms"],
        rounds: 40,
        clients: 3,
        padding_max: 100,
        life_records: 300,
        records_min: 0,
    };
    let killed = killed.run();
    println!("{killed:?}");
    assert!(killed.files > 2 * 2, "{killed:?}");
}

#[test]
fn a_subscriber_whose_publisher_was_killed_ends_in_time_with_what_it_has() {
    let (folder, mut random) = (folder(), Random::new());
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.18", Load::new(4, 100));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &[]);
    let subscriber = log.start();
    origin.load.during(|| log.until_more(1 + random.below(500)));
    log.until_all_of([&publisher]);
    publisher.kill();
    eventually("it notices", || (subscriber.page("subscriber", "/readyz").status == 503).then_some(()));
    subscriber.stop();
    log.assert_exact(&[origin]);
}

#[test]
fn a_subscriber_that_was_stopped_catches_up() {
    is_stopped_for(Duration::from_secs(4), "127.0.3.5", 200);
}

/// Nobody runs in a subscriber for so long, while clients ask as fast as they are answered.
pub(super) fn is_stopped_for(time: Duration, host: &str, padding_max: u64) {
    const CLIENTS: usize = 32;
    let folder = folder();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", host, Load::new(CLIENTS, padding_max));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &["--rotate-size=1MiB"]);
    let subscriber = log.start();
    let (before, behind) = origin.load.during(|| {
        log.until_more(1000);
        subscriber.signal("STOP");
        let before = (log.records(), origin.load.acknowledged());
        thread::sleep(time);
        let behind = origin.load.acknowledged() - log.records();
        subscriber.signal("CONT");
        log.until_more(behind);
        (before, behind)
    });
    println!("{before:?} in the log and acknowledged; {behind} behind after {time:?}");
    assert!(behind > 0);
    log.until_all_of([&publisher]);
    subscriber.stop();
    log.assert_exact(&[origin]);
}
