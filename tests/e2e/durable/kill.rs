//! SIGKILL at random moments, under load, again and again on one journal.

use super::load::Load;
use super::*;
use std::time::Instant;

/// One journal's many ends.
struct Kills<'a> {
    host: &'a str,
    options: &'a [&'a str],
    rounds: u64,
    clients: usize,
    /// How much a text is prolonged at most.
    padding_max: u64,
    /// About how many records are acknowledged in each life.
    life_records: u64,
    /// How many are acknowledged in the end, at least.
    records_min: u64,
    /// How far the collector may be left behind, if the load waits for it.
    window: Option<u64>,
}

/// One of so many starts follows another that was killed before it was known to serve.
const HASTY: u64 = 3;

impl Kills<'_> {
    /// Returns how many records were acknowledged, and where those begin that are kept.
    fn run(&self) -> (u64, Position) {
        let (folder, mut random) = (folder(), Random::new());
        let site = Site::new(folder.path(), self.host, self.options);
        let publisher = site.start();
        let collector = Collector::follow(feed_of(&publisher));
        let mut load = Load::new(self.clients, self.padding_max);
        if let Some(records_max) = self.window {
            load = load.held_back_by(&collector, records_max);
        }
        load.goes_to(&publisher);
        let publisher = load.during(|| {
            let mut publisher = publisher;
            for _ in 0..self.rounds {
                load.until_acknowledged(1 + random.below(2 * self.life_records));
                publisher.kill();
                if random.below(HASTY) == 0 {
                    kill_in_haste(site.command(""), &mut random);
                }
                publisher = site.start();
                all_go_to(&publisher, &load, &collector);
            }
            load.until_acknowledged(self.life_records.max(self.records_min.saturating_sub(load.acknowledged())));
            publisher
        });
        let base = assert_all_is_there(&publisher, &load, &collector);
        publisher.stop();
        (load.acknowledged(), base)
    }
}

#[test]
fn what_was_acknowledged_survives_kills_at_random_moments() {
    let kills = Kills {
        host: "127.0.2.1",
        options: &["--segment-bytes=64KiB"],
        rounds: 40,
        clients: 6,
        padding_max: 200,
        life_records: 300,
        records_min: 0,
        window: None,
    };
    let (_, base) = kills.run();
    assert_eq!(base, BEGINNING);
}

#[test]
fn what_was_acknowledged_survives_kills_while_old_segments_are_removed() {
    // At most 150 records of about 2 KiB are not collected yet, and 1 MiB is kept.
    let kills = Kills {
        host: "127.0.2.2",
        options: &["--segment-bytes=64KiB", "--retain-bytes=1MiB"],
        rounds: 15,
        clients: 4,
        padding_max: 2000,
        life_records: 250,
        records_min: 0,
        window: Some(150),
    };
    let (_, base) = kills.run();
    assert!(base.next > 0, "nothing was removed");
}

/// As many rounds and records as are asked for; by default two minutes on two cores:
///
/// `ROUNDS=150 RECORDS=1000000 cargo test --test e2e being_killed_for_long -- --ignored --nocapture`
#[test]
#[ignore = "minutes: see the command above"]
fn what_was_acknowledged_survives_being_killed_for_long() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (rounds, records) = (number("ROUNDS", 150), number("RECORDS", 1_000_000));
    let begun = Instant::now();
    let kills = Kills {
        host: "127.0.2.3",
        options: &["--segment-bytes=1MiB", "--retain-bytes=50GiB"],
        rounds,
        clients: 64,
        padding_max: 60,
        life_records: records.div_ceil(rounds),
        records_min: records,
        window: None,
    };
    let (acknowledged, base) = kills.run();
    println!("{rounds} kills, {acknowledged} records acknowledged, {:.0} s", begun.elapsed().as_secs_f64());
    assert!(base == BEGINNING && acknowledged >= records, "{acknowledged} records from {base:?}");
}
