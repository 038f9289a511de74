//! Requests a second of `/downcase`, of which each is on the disk before it is answered, beside an axum handler that
//! answers the same and keeps nothing. It does not look at what becomes of the records.

use crate::bench::Bench;
use crate::daemons::{publisher, up};
use measure::load::closed_loop;
use measure::process::Process;
use measure::table::{Table, rate, ratio};
use measure::{median, progress, roles};

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
const ROUNDS: usize = 5;
const ROUND_SECONDS: f64 = 2.0;
const COLUMNS: [&str; 6] = ["connections", "publisher / bare", "up / bare", "bare axum", "publisher", "up"];

pub(crate) fn run(bench: &Bench) {
    let table = Table::new("downcase: requests a second", 12, &COLUMNS);
    for connections in CONNECTIONS {
        let (data, data_up) = (bench.folder(), bench.folder());
        let servers = [
            (Process::start(roles::role("bare-axum"), 1), "bare.http"),
            (publisher(data.path()), "publisher.http"),
            (up(data_up.path()), "publisher.http"),
        ];
        let mut rates = [const { Vec::new() }; 3];
        for round in 1..=ROUNDS {
            progress::say(&format!("downcase: {connections} connections, round {round} of {ROUNDS}"));
            for ((server, http), rates) in servers.iter().zip(&mut rates) {
                let time = bench.time(ROUND_SECONDS);
                rates.push(closed_loop(server.told(http), "/downcase?param=HELLO", connections, time));
            }
        }
        let [bare, publisher, up] = rates.map(median);
        let (of_bare, up_of_bare) = (ratio(publisher, bare), ratio(up, bare));
        table.row(&[connections.to_string(), of_bare, up_of_bare, rate(bare), rate(publisher), rate(up)]);
    }
}
