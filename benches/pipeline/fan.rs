//! What a record costs in processor time, with more subscribers of one publisher, and with more publishers of one
//! subscriber: of all processes together, beside the same with one of each. How long it takes is not looked at.

use crate::bench::Bench;
use crate::daemons::{Subscriber, append, appender, cpu_of, subscribers};
use measure::table::{Table, rate, ratio};
use measure::{median, progress};
use std::iter::repeat_with;
use std::time::{Duration, Instant};

const SIZE: usize = 100;
const MANY: [usize; 3] = [1, 4, 16];
const ROUNDS: usize = 5;
/// Of one publisher, to each subscriber.
const OUT_RECORDS: u64 = 500_000;
/// Of all publishers together.
const IN_RECORDS: u64 = 2_000_000;
const COLUMNS: [&str; 6] = ["", "of 1", "ns a record", "publishers", "subscribers", "written"];

pub(crate) fn run(bench: &Bench) {
    let table = Table::new("fan: processor time for a record that is written", 16, &COLUMNS);
    for (fan, name) in [(fan_out as fn(&Bench, usize) -> Cost, "subscribers"), (fan_in, "publishers")] {
        let mut costs = [const { Vec::new() }; MANY.len()];
        for round in 1..=ROUNDS {
            for (many, costs) in MANY.into_iter().zip(&mut costs) {
                progress::say(&format!("fan: {many} {name}, round {round} of {ROUNDS}"));
                costs.push(fan(bench, many));
            }
        }
        let mut one = None;
        for (many, costs) in MANY.into_iter().zip(costs) {
            let middle = |of: fn(&Cost) -> f64| median(costs.iter().map(of).collect());
            let all = middle(|it| it.publishers + it.subscribers);
            let one = *one.get_or_insert(all);
            let [all_ns, publishers, subscribers] =
                [all, middle(|it| it.publishers), middle(|it| it.subscribers)].map(|ns| format!("{ns:.0}"));
            let name = if many == 1 { name.trim_end_matches('s') } else { name };
            let written = rate(middle(|it| it.per_second));
            table.row(&[format!("{many} {name}"), ratio(all, one), all_ns, publishers, subscribers, written]);
        }
    }
}

/// Nanoseconds for each record that is written, and how many are in a second.
struct Cost {
    publishers: f64,
    subscribers: f64,
    per_second: f64,
}

fn fan_out(bench: &Bench, many: usize) -> Cost {
    let records = bench.count(OUT_RECORDS);
    let journal = bench.folder();
    let logs: Vec<_> = repeat_with(|| bench.folder()).take(many).collect();
    let mut appender = appender(journal.path(), SIZE, &[]);
    let subscribers = subscribers(&appender, &logs, &[]);
    let processes = || subscribers.iter().map(|subscriber| &subscriber.process);
    let (begun, before) = (Instant::now(), (appender.cpu(), cpu_of(processes())));
    append(&mut appender, &format!("records {records}"));
    subscribers.iter().for_each(|subscriber| subscriber.wait_for_all(records));
    let seconds = begun.elapsed().as_secs_f64();
    Cost::of(records * many as u64, seconds, before, (appender.cpu(), cpu_of(processes())))
}

fn fan_in(bench: &Bench, many: usize) -> Cost {
    let each = bench.count(IN_RECORDS) / many as u64;
    let log = bench.folder();
    let journals: Vec<_> = repeat_with(|| bench.folder()).take(many).collect();
    let mut appenders: Vec<_> = journals.iter().map(|journal| appender(journal.path(), SIZE, &[])).collect();
    let subscriber = Subscriber::caught_up(&appenders, log.path(), &[]);
    let (begun, before) = (Instant::now(), (cpu_of(&appenders), subscriber.process.cpu()));
    appenders.iter_mut().for_each(|appender| appender.tell(&format!("records {each}")));
    subscriber.wait_for_all(each * many as u64);
    let seconds = begun.elapsed().as_secs_f64();
    Cost::of(each * many as u64, seconds, before, (cpu_of(&appenders), subscriber.process.cpu()))
}

impl Cost {
    /// From what publishers and subscribers had used before and after.
    fn of(written: u64, seconds: f64, before: (Duration, Duration), after: (Duration, Duration)) -> Self {
        let each = |before: Duration, after: Duration| (after - before).as_nanos() as f64 / written as f64;
        Self {
            publishers: each(before.0, after.0),
            subscribers: each(before.1, after.1),
            per_second: written as f64 / seconds,
        }
    }
}
