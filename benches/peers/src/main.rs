//! Downpipe beside what users would pick instead: the same numbered records, from a publisher of this machine to a
//! log file, in one run, in turn. What each contestant does and promises is in its module and in README.md.
//!
//! Nothing here asserts a time. What is asserted is that Downpipe loses and repeats nothing.

mod downpipe;
mod feeder;
mod install;
mod nats;
mod options;
mod output;
mod pyzmq;
mod raw;
mod round;
mod rsyslog;

use anyhow::Result;
use clap::Parser;
use measure::median;
use measure::table::{Table, bandwidth, rate};
use options::Options;
use round::{Contestant, Outcome, Setting};
use std::process::ExitCode;

/// Whom the others are compared with: as it is meant to be used, and as those are that take records one by one.
const OURS: [&Contestant; 2] = [&downpipe::LIVE, &downpipe::SINGLY];

/// In this order they take turns, and stand in the table.
const CONTESTANTS: [&Contestant; 9] = [
    &downpipe::LIVE,
    &downpipe::SINGLY,
    &downpipe::WARM,
    &downpipe::COLD,
    &rsyslog::CONTESTANT,
    &raw::CONTESTANT,
    &pyzmq::CONTESTANT,
    &nats::BY_DEFAULT,
    &nats::SYNCED,
];

fn main() -> ExitCode {
    if measure::roles::play() || raw::play() || nats::play() {
        return ExitCode::SUCCESS;
    }
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    let names: Vec<_> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
    options.check_names(&names)?;
    let setting = Setting::new(options)?;
    let chosen: Vec<_> = CONTESTANTS.into_iter().filter(|contestant| options.has(contestant.name)).collect();
    let present = install::present(chosen, &setting, options.install);
    let mut outcomes: Vec<Vec<Outcome>> = present.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (contestant, outcomes) in present.iter().zip(&mut outcomes) {
            let outcome = round::play(contestant, &setting)?;
            eprintln!("round {round}: {} {}", contestant.name, rate(outcome.rate()));
            outcomes.push(outcome);
        }
    }
    print(options, &present, &outcomes);
    Ok(())
}

fn print(options: &Options, present: &[&Contestant], outcomes: &[Vec<Outcome>]) {
    let Options { records, size, rounds, .. } = options;
    let title = format!("{records} records of {size} bytes, medians of {rounds} rounds");
    let promise = present.iter().map(|contestant| contestant.promise.chars().count()).max().unwrap_or_default();
    let promise = format!("{:<promise$}", "what it promises on disk");
    let columns = ["", "downpipe is", "singly is", "records/s", "MB/s", "lost", "repeated", &promise];
    let table = Table::new(&title, 38, &columns);
    let of = |ours: &Contestant| present.iter().position(|other| other.name == ours.name).map(|at| &outcomes[at][..]);
    let [together, singly] = OURS.map(of);
    for (contestant, theirs) in present.iter().zip(outcomes) {
        let rates = median(theirs.iter().map(Outcome::rate).collect());
        table.row(&[
            format!("{}: {}", contestant.name, contestant.title),
            ratio(together, theirs),
            ratio(singly, theirs),
            rate(rates),
            bandwidth(rates * *size as f64),
            theirs.iter().map(|outcome| outcome.lost).sum::<u64>().to_string(),
            theirs.iter().map(|outcome| outcome.repeated).sum::<u64>().to_string(),
            contestant.promise.to_owned(),
        ]);
    }
    println!("\nLost and repeated are those of all rounds together, as counted in what was written.");
    let versions: Vec<_> = present.iter().filter_map(|contestant| (contestant.version)()).collect();
    println!("With {}.", std::iter::once(feeder::version()).chain(versions).collect::<Vec<_>>().join(", "));
    for Contestant { name, share, .. } in present.iter().filter(|contestant| contestant.share > 1) {
        println!("{name} had one record of {share}: it is slow.");
    }
}

/// How many times as fast ours is, round by round; without ours there is nothing to say.
fn ratio(ours: Option<&[Outcome]>, theirs: &[Outcome]) -> String {
    let Some(ours) = ours else { return "-".to_owned() };
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate() / theirs.rate());
    format!("{:.2} ×", median(ratios.collect()))
}
