//! Simulated worlds: the cursor among publishers, networks and restarts that behave as badly as
//! the design allows, and an oracle that knows what every journal held.
//!
//! A history is made by its seed alone. `SEED` runs from that one on, `HISTORIES` says how many
//! (10,000). A failure prints the seed; `SEED=n HISTORIES=1` repeats it.
//!
//! Time goes in steps of a quarter of a second.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#![allow(unreachable_pub, reason = "modules of one test")]

mod history;
mod network;
mod oracle;
mod publisher;
mod random;
mod subscriber;
mod writer;

use network::Address;
use oracle::Oracle;
use publisher::Publisher;
use random::Random;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use subscriber::Source;
use writer::{Entry, Writer};

/// Steps in a second.
const SECOND: u64 = 4;
/// Steps after which silence counts.
const SILENCE: u64 = 5 * SECOND;

/// All but the subscriber's sources.
struct World {
    now: u64,
    random: Random,
    publishers: Vec<Publisher>,
    addresses: Vec<Address>,
    writer: Writer,
    oracle: Oracle,
    counts: BTreeMap<&'static str, u64>,
    /// What was published last, anywhere.
    content: u64,
}

impl World {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn check(&mut self, source: &Source, entry: &Entry) {
        if let Some(what) = self.oracle.check(source, entry, &self.publishers) {
            self.count(what);
        }
    }

    /// A publisher that is down comes back some time; one that is up leaves a trace of its bounds.
    fn remember(&mut self, publisher: usize) {
        let state = &mut self.publishers[publisher];
        if !state.running && self.random.permille(100) {
            state.running = true;
        }
        let bounds = (state.journal.oldest(), state.journal.next());
        if state.past.last().is_none_or(|(_, oldest, next)| (*oldest, *next) != bounds) {
            state.past.push((self.now, bounds.0, bounds.1));
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// In how many histories of 10,000 each of these must have happened, so that the rest means something.
const SEEN_MIN: [(&str, u64); 23] = [
    ("Append", 9_000),
    ("Ignore", 9_000),
    ("Fetch, feed kept", 5_000),
    ("Fetch, feed closed", 9_000),
    ("Read", 9_000),
    ("Park", 500),
    ("Ask", 9_000),
    ("Base", 9_000),
    ("Lost, retention", 1_000),
    ("Lost, damage", 500),
    ("Forked", 1_000),
    ("Replaced", 1_000),
    ("Refuse, fork", 300),
    ("Refuse, version", 500),
    ("Streams", 10),
    ("Undecodable", 1_000),
    ("NoProgress", 100),
    ("displaced", 20),
    ("refused by the writer", 5),
    ("silent", 500),
    ("disconnected", 5_000),
    ("first address gone", 500),
    ("lost, and what was before could not be judged", 10),
];

#[test]
fn in_every_history_each_record_is_written_once_or_stated() {
    let (seed, histories) = (setting("SEED", 1), setting("HISTORIES", 10_000));
    let mut seen: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for history in 0..histories {
        let seed = seed + history;
        match catch_unwind(AssertUnwindSafe(|| history::History::new(seed).run())) {
            Ok(counts) => counts.into_iter().for_each(|(what, times)| {
                let (in_histories, in_all) = seen.entry(what).or_default();
                (*in_histories, *in_all) = (*in_histories + 1, *in_all + times);
            }),
            Err(panic) => {
                eprintln!("history {history} failed: SEED={seed} HISTORIES=1 repeats it");
                resume_unwind(panic);
            }
        }
    }
    for (what, (in_histories, in_all)) in &seen {
        println!("{what:48} in {in_histories:6} histories, {in_all:8} times");
    }
    for (what, min) in SEEN_MIN {
        let in_histories = seen.get(what).map_or(0, |(in_histories, _)| *in_histories);
        assert!(in_histories >= min * histories / 10_000, "{what}: only in {in_histories} histories");
    }
}
