//! How fast the whole pipeline is, on the real binary: `cargo bench`, or `cargo bench --bench pipeline -- GROUP…`
//! for some of its groups. See the README beside for what the tables say.
//!
//! Each figure stands beside a baseline that is measured in the same run, in turn with it. Nothing here asserts a
//! time; whatever is wrong, an answer or a line that is missing, ends the run.

mod bench;
mod catchup;
mod daemons;
mod downcase;
mod fan;
mod frames;
mod latency;
mod resources;
mod sustained;

use bench::Bench;
use std::process::ExitCode;

/// A group by its name.
type Group = (&'static str, fn(&Bench));

const GROUPS: [Group; 6] = [
    ("downcase", downcase::run),
    ("sustained", sustained::run),
    ("catchup", catchup::run),
    ("latency", latency::run),
    ("fan", fan::run),
    ("resources", resources::run),
];

fn main() -> ExitCode {
    if measure::roles::play() {
        return ExitCode::SUCCESS;
    }
    // Cargo's own flag.
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let Some(unknown) = wanted.iter().find(|name| GROUPS.iter().all(|(group, _)| group != name)) {
        eprintln!("no group {unknown}: there are {}", GROUPS.map(|(group, _)| group).join(", "));
        return ExitCode::from(2);
    }
    let bench = Bench::prepare();
    for (name, run) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(&bench);
        }
    }
    ExitCode::SUCCESS
}
