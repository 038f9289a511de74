//! What takes minutes, by hand.

use super::kill::{Kills, is_stopped_for};
use std::time::{Duration, Instant};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// As many rounds and records as are asked for, about as many kills of the one side as of the other:
///
/// `ROUNDS=600 RECORDS=1000000 cargo test --test e2e either_side_is_killed_for_long -- --ignored --nocapture`
#[test]
#[ignore = "minutes: see the command above"]
fn every_record_is_one_line_though_either_side_is_killed_for_long() {
    let (rounds, records) = (number("ROUNDS", 600), number("RECORDS", 1_000_000));
    let begun = Instant::now();
    let kills = Kills {
        hosts: &["127.0.3.11", "127.0.3.12"],
        subscribers: 2,
        options: &["--rotate-size=1MiB", "--rotate-every=10s"],
        rounds,
        clients: 16,
        padding_max: 60,
        life_records: records.div_ceil(rounds),
        records_min: records,
    };
    let killed = kills.run();
    println!("{killed:?}, {:.0} s", begun.elapsed().as_secs_f64());
    assert!(killed.acknowledged >= records, "{killed:?}");
}

/// `cargo test --test e2e stopped_for_a_minute -- --ignored --nocapture`
#[test]
#[ignore = "minutes: see the command above"]
fn a_subscriber_that_was_stopped_for_a_minute_catches_up() {
    // What comes meanwhile is less than the journal keeps.
    is_stopped_for(Duration::from_secs(60), "127.0.3.13", 30);
}
