//! How fast the whole pipeline is, on the real binary: `cargo bench`.
//!
//! Each figure stands beside a baseline that is measured in the same run, in turn with it; of
//! [`ROUNDS`] rounds the medians are printed. On a shared machine only the ratio says something.
//!
//! - requests/s of `/downcase`, beside an axum handler that answers the same and publishes nothing;
//! - lines/s from a libzmq PUB to the log, beside libzmq PUB to a libzmq SUB that counts;
//! - resident memory of the daemons, when idle and after that load.

#[allow(dead_code, clippy::unwrap_used, reason = "the tests use what is not used here")]
#[path = "../tests/e2e/harness.rs"]
mod harness;

use axum::extract::RawQuery;
use axum::routing::get;
use harness::{Client, Daemon, Feeder, Listener, eventually, folder, publisher, subscriber, up};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// How long a round of requests takes.
const ROUND: Duration = Duration::from_secs(2);
const MESSAGES: usize = 500_000;
const MESSAGE: [u8; 100] = [b'm'; 100];

fn main() {
    // The baseline runs in a process of its own, as the product does.
    if std::env::args().any(|arg| arg == "bare-axum") {
        return bare_axum();
    }
    requests();
    lines();
    memory();
}

fn requests() {
    println!("\nGET /downcase, requests/s             bare axum   publisher   ratio          up   ratio");
    for connections in [1, 16, 64] {
        let data = folder();
        let mut bare = Command::new(std::env::current_exe().expect("this program"));
        bare.arg("bare-axum");
        let daemons = [Daemon::start(bare, 1), publisher(&[]), up(data.path(), &[])];
        let mut rates = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (daemon, rates) in daemons.iter().zip(&mut rates) {
                rates.push(requests_per_second(daemon.told("publisher", "http"), connections));
            }
        }
        let [bare, publisher, up] = rates.map(median);
        println!(
            "{connections:3} connections                  {bare:12.0}{publisher:12.0}{:8.2}{up:12.0}{:8.2}",
            publisher / bare,
            up / bare
        );
    }
}

fn requests_per_second(http: &str, connections: usize) -> f64 {
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut client = Client::connect(http).expect("a connection");
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/downcase?param=HELLO").expect("an answer").status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(ROUND);
        stop.store(true, Ordering::Relaxed);
    });
    answered.into_inner() as f64 / start.elapsed().as_secs_f64()
}

fn bare_axum() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let answer = async |RawQuery(query): RawQuery| {
            let text = query.as_deref().and_then(|query| query.strip_prefix("param=")).unwrap_or_default().to_owned();
            format!("lower case of {text} is {}", text.to_lowercase())
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("ready publisher http={}", listener.local_addr().expect("an address"));
        let router = axum::Router::new().route("/downcase", get(answer));
        axum::serve(listener, router).await.expect("it serves");
    });
}

fn lines() {
    println!("\nplain messages of {} bytes, from a libzmq PUB       per second   ratio", MESSAGE.len());
    let (mut counted, mut written) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        counted.push(MESSAGES as f64 / to_libzmq_sub().as_secs_f64());
        written.push(MESSAGES as f64 / to_log().as_secs_f64());
    }
    let (counted, written) = (median(counted), median(written));
    println!("to a libzmq SUB that counts                     {counted:14.0}");
    println!("to the log, lines                               {written:14.0}{:8.2}", written / counted);
}

fn to_libzmq_sub() -> Duration {
    let feeder = Feeder::new();
    let listener = Listener::new();
    listener.0.connect(&feeder.endpoint).expect("a connection");
    feeder.until_subscribed();
    let start = Instant::now();
    let sender = thread::spawn(move || (0..MESSAGES).for_each(|_| feeder.send(&[&MESSAGE])));
    for _ in 0..MESSAGES {
        listener.0.recv_bytes(0).expect("a message");
    }
    let took = start.elapsed();
    sender.join().expect("the sender");
    took
}

fn to_log() -> Duration {
    let (data, feeder) = (folder(), Feeder::new());
    let subscriber = subscriber(data.path(), &feeder.endpoint, &[]);
    feeder.until_subscribed();
    let start = Instant::now();
    let sender = thread::spawn(move || (0..MESSAGES).for_each(|_| feeder.send(&[&MESSAGE])));
    eventually("all lines", || {
        let written = subscriber.metric("subscriber", "downpipe_subscriber_lines_written_total");
        (written == MESSAGES as u64).then_some(())
    });
    let took = start.elapsed();
    sender.join().expect("the sender");
    subscriber.stop();
    took
}

fn memory() {
    println!("\nresident memory, MiB                               idle    after load");
    let (data, feeder) = (folder(), Feeder::new());
    let publisher = publisher(&[]);
    let subscriber = subscriber(data.path(), &feeder.endpoint, &[]);
    feeder.until_subscribed();
    let idle = [&publisher, &subscriber].map(resident_mib);
    requests_per_second(publisher.told("publisher", "http"), 64);
    (0..MESSAGES).for_each(|_| feeder.send(&[&MESSAGE]));
    harness::lines_once_there_are(data.path(), MESSAGES);
    for (who, daemon, idle) in [("publisher", &publisher, idle[0]), ("subscriber", &subscriber, idle[1])] {
        println!("{who:<48} {idle:6.1}{:14.1}", resident_mib(daemon));
    }
}

fn resident_mib(daemon: &Daemon) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
