//! Programs that the benchmarks start as processes of their own, since the product runs as one too: a benchmark's
//! binary is also each of these, by its first argument.
//!
//! | first argument | is |
//! |---|---|
//! | `bare-axum` | an axum handler that answers what `/downcase` does, and publishes nothing |
//! | `appender` | a publisher, as `downpipe publisher` has it, that appends records of its own |
//! | `frames-out` | a PUB of the zeromq crate, and no disk; see [`frames`] |
//! | `frames-in` | a SUB that counts what that sends |
//!
//! An appender has the options `--journal FOLDER`, `--size BYTES` (of a body), `--together RECORDS` (in one append),
//! `--retain BYTES`, `--under-way APPENDS` (of numbered records, that wait for the disk at once); it reads commands, a line each, from its stdin, and says a line when one is done:
//!
//! - `records N`: append so many records as fast as they become durable; `appended N SECONDS`.
//! - `seconds S`: append for so long; the same.
//! - `numbered N`: append so many records that have the numbers 0 to N ([`Records`]); the same.
//! - `journal`: `journal BYTES`, what the journal's segments are long.

mod frames;

use crate::records::Records;
use axum::extract::RawQuery;
use axum::routing::get;
use bytesize::ByteSize;
use faults::Faults;
use publisher::{Appender, Config, Publisher};
use std::io::BufRead;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Appends that wait for the disk at once.
const APPENDS_MAX: usize = 64;
/// Different bodies.
const BODIES: usize = 1024;

/// Becomes one of the roles, if the command line says so; then it is to end when this returns `true`.
pub fn play() -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let one_thread = || Builder::new_current_thread().enable_all().build().expect("a runtime");
    match args.first().map(String::as_str) {
        Some("bare-axum") => runtime().block_on(bare_axum()),
        Some("appender") => runtime().block_on(appender(&args[1..])),
        // As many threads as the product gives such a socket.
        Some("frames-out") => one_thread().block_on(frames::send(&args[1..])),
        Some("frames-in") => one_thread().block_on(frames::receive(&args[1..])),
        _ => return false,
    }
    true
}

/// This program in a role.
pub fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(name);
    command
}

async fn bare_axum() {
    let answer = async |RawQuery(query): RawQuery| {
        let text = query.as_deref().and_then(|query| query.strip_prefix("param=")).unwrap_or_default().to_owned();
        format!("lower case of {text} is {}", text.to_lowercase())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("ready bare http={}", listener.local_addr().expect("an address"));
    let router = axum::Router::new().route("/downcase", get(answer));
    axum::serve(listener, router).await.expect("it serves");
}

struct Options {
    journal: PathBuf,
    size: usize,
    together: usize,
    retain: u64,
    under_way: usize,
}

impl Options {
    fn parse(args: &[String]) -> Self {
        let (journal, retain) = ("journal".into(), ByteSize::gib(1).0);
        let mut options = Self { journal, size: 100, together: 1000, retain, under_way: APPENDS_MAX };
        for pair in args.chunks(2) {
            let [name, value] = pair else { panic!("{} wants a value", pair[0]) };
            match name.as_str() {
                "--journal" => options.journal = value.into(),
                "--size" => options.size = value.parse().expect("bytes"),
                "--together" => options.together = value.parse().expect("a number of records"),
                "--retain" => options.retain = value.parse().expect("bytes"),
                "--under-way" => options.under_way = value.parse().expect("a number of appends"),
                other => panic!("no option {other}"),
            }
        }
        options
    }
}

async fn appender(args: &[String]) {
    let options = Options::parse(args);
    let publisher =
        Publisher::bind(publisher_config(options.journal.clone(), options.retain)).await.expect("a publisher");
    println!(
        "ready publisher http={} plain=tcp://{} feed=tcp://{} replay=tcp://{}",
        publisher.http_address(),
        publisher.plain_address(),
        publisher.feed_address(),
        publisher.replay_address(),
    );
    let appender = publisher.appender();
    let bodies = Arc::new(bodies(options.size));
    let journal = options.journal.clone();
    let together = options.together;
    let running = tokio::spawn(publisher.run(CancellationToken::new()));
    let mut commands = commands();
    while let Some(line) = commands.recv().await {
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: f64 = number.parse().expect("a number");
        match command {
            "records" => append(&appender, &bodies, together, number as u64, None).await,
            "seconds" => append(&appender, &bodies, together, u64::MAX, Some(Duration::from_secs_f64(number))).await,
            "numbered" => append_numbered(&appender, &options, number as u64).await,
            "journal" => println!("journal {}", segments_bytes(&journal)),
            other => panic!("no command {other}"),
        }
    }
    running.abort();
}

/// The lines of stdin. They end with whoever started this, and so does the role.
fn commands() -> mpsc::Receiver<String> {
    let (sender, commands) = mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|line| drop(sender.blocking_send(line)));
    });
    commands
}

fn segments_bytes(journal: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(journal).expect("a journal");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|found| found.len()).sum()
}

/// Appends until `records` are durable or the time is over.
async fn append(
    appender: &Appender,
    bodies: &Arc<Vec<Vec<u8>>>,
    together: usize,
    records: u64,
    time: Option<Duration>,
) {
    let begun = Instant::now();
    let (left, done) = (Arc::new(AtomicU64::new(records)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..APPENDS_MAX)
        .map(|task| {
            let (appender, bodies) = (appender.clone(), bodies.clone());
            let (left, done) = (left.clone(), done.clone());
            tokio::spawn(async move {
                let mut at = task * 37;
                loop {
                    let take = |left: u64| (left > 0).then(|| left.saturating_sub(together as u64));
                    let Ok(before) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else { return };
                    let count = before.min(together as u64) as usize;
                    at = (at + count) % (bodies.len() - count);
                    appender.append_all("bench", &bodies[at..at + count]).await.expect("it is durable");
                    done.fetch_add(count as u64, Ordering::Relaxed);
                    if time.is_some_and(|time| begun.elapsed() >= time) {
                        return;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it appends");
    }
    println!("appended {} {}", done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
}

/// Appends each of `records` numbered records, and waits until they are durable.
async fn append_numbered(appender: &Appender, options: &Options, records: u64) {
    let begun = Instant::now();
    let Options { size, together, .. } = *options;
    let next = Arc::new(AtomicU64::new(0));
    let task = |_| {
        let (appender, next) = (appender.clone(), next.clone());
        let mut bodies = vec![Records::new(size).body(); together];
        tokio::spawn(async move {
            loop {
                let first = next.fetch_add(together as u64, Ordering::Relaxed);
                let count = records.saturating_sub(first).min(together as u64);
                if count == 0 {
                    return;
                }
                let bodies = &mut bodies[..count as usize];
                bodies.iter_mut().zip(first..).for_each(|(body, number)| Records::number(body, number));
                appender.append_all("bench", bodies).await.expect("it is durable");
            }
        })
    };
    let tasks: Vec<_> = (0..options.under_way).map(task).collect();
    for task in tasks {
        task.await.expect("it appends");
    }
    println!("appended {records} {}", begun.elapsed().as_secs_f64());
}

/// Texts of a length that no compressor and no disk finds alike; the same ones each time.
fn bodies(size: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let count = (BODIES * 4).min((64 << 20) / size.max(1));
    let body = |_| (0..size).map(|_| random.alphanumeric() as u8).collect();
    (0..count).map(body).collect()
}

/// A publisher on free ports of loopback, with its journal in a folder, and else as `downpipe publisher` has it by default.
pub fn publisher_config(journal: PathBuf, retain_bytes: u64) -> Config {
    let any = || "tcp://127.0.0.1:0".parse().expect("an endpoint");
    Config {
        http: "127.0.0.1:0".parse().expect("an address"),
        plain: any(),
        feed: any(),
        replay: any(),
        advertise_replay: None,
        journal,
        name: None,
        retain_bytes,
        retain_age: None,
        segment_bytes: ByteSize::mib(32).0,
        append_queue_bytes: ByteSize::mib(16).0,
        new_stream: false,
        live_budget_bytes: ByteSize::mib(32).0,
        replay_budget_bytes: ByteSize::mib(32).0,
        peer_timeout: Duration::from_secs(10),
        faults: Faults::default(),
    }
}
