//! libzmq alone: PUB to SUB, no high-water mark on either side, and nothing is written. What the transport can do.

use crate::feeder::Feeder;
use crate::round::{Contestant, Outcome, Turn};
use measure::process::Process;
use measure::records::{Records, Tally};
use measure::roles::role;
use std::time::{Duration, Instant};
use zmq::{Context, SocketType};

pub(crate) const CONTESTANT: Contestant = Contestant {
    name: "raw",
    title: "libzmq PUB to SUB, counted",
    promise: "none: nothing is written",
    share: 1,
    lacks: |_| None,
    version: || None,
    run,
};

/// The first argument of the process that receives.
const ROLE: &str = "receiver";
/// After so long without a record there will be none.
const QUIET: Duration = Duration::from_secs(5);

fn run(turn: &Turn) -> Outcome {
    let feeder = Feeder::bind();
    let mut receiver = role(ROLE);
    receiver.args([&feeder.endpoint, &turn.records.to_string(), &turn.size.to_string()]);
    let receiver = Process::start(receiver, 0);
    feeder.wait_for_subscriber();
    let begun = Instant::now();
    feeder.feed(turn.records, turn.size);
    let line = receiver.line();
    let took = begun.elapsed();
    let counts: Vec<u64> = line.split(' ').map(|count| count.parse().expect("a number")).collect();
    let [records, lost, repeated] = counts[..] else { panic!("three numbers, not {line:?}") };
    Outcome { took: if lost > 0 { took - QUIET } else { took }, records, lost, repeated }
}

/// Becomes the process that receives, if the command line says so. It says a line when it has all.
pub(crate) fn play() -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, endpoint, records, size] = &args[..] else { return false };
    if role != ROLE {
        return false;
    }
    let tally = receive(endpoint, records.parse().expect("a number"), size.parse().expect("a number"));
    println!("{} {} {}", tally.distinct(), tally.lost(), tally.repeated());
    true
}

fn receive(endpoint: &str, records: u64, size: usize) -> Tally {
    let socket = Context::new().socket(SocketType::SUB).expect("a socket");
    socket.set_rcvhwm(0).expect("an option of the socket");
    socket.set_rcvtimeo(QUIET.as_millis() as i32).expect("an option of the socket");
    socket.connect(endpoint).expect("an endpoint");
    socket.set_subscribe(b"").expect("an option of the socket");
    let mut tally = Tally::new(Records::new(size), records);
    let mut message = zmq::Message::new();
    while tally.lost() > 0 && socket.recv(&mut message, 0).is_ok() {
        tally.count(&message);
    }
    tally
}
