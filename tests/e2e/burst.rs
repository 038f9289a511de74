//! Records appended through the library, as fast as the journal takes them.

use crate::collector::*;
use crate::harness::*;
use faults::Faults;
use publisher::{AppendError, Appender, Config, Publisher};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, yield_now};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1024 * 1024;
/// Records of which each task waits for the acknowledgement at once. Together, and with what the journal
/// counts for each, they are more than its queue takes if they have 100 bytes.
const WINDOW: u64 = 10_000;
const TASKS: u64 = 8;

#[test]
fn a_million_records_of_100_bytes_arrive_once_and_in_order() {
    burst(1_000_000, 100);
}

#[test]
fn a_hundred_thousand_small_records_arrive_once_and_in_order() {
    burst(100_000, 20);
}

/// Appends numbered records, with a collector that follows from before the first, and another one that
/// comes after the last.
#[track_caller]
fn burst(count: u64, body_bytes: usize) {
    let folder = folder();
    let runtime = Runtime::new().unwrap();
    let publisher = runtime.block_on(Publisher::bind(config(folder.path()))).unwrap();
    let (feed, appender) = (format!("tcp://{}", publisher.feed_address()), publisher.appender());
    let stop = CancellationToken::new();
    let running = runtime.spawn(publisher.run(stop.clone()));

    let early = Collector::follow(&feed);
    early.until("the first contact", |collected| collected.stream.is_some());
    let begun = Instant::now();
    let acknowledged = runtime.block_on(append(&appender, count, body_bytes));
    let appended = begun.elapsed();
    early.until_next(count);
    let arrived = begun.elapsed();
    let late = Collector::follow(&feed);
    late.until_next(count);
    let (early, late) = (early.stop(), late.stop());
    println!(
        "{count} records in {} blocks: appended in {appended:?}, there after {arrived:?}, {} of them live",
        early.blocks.len(),
        early.live
    );
    for collected in [&early, &late] {
        assert_eq!((collected.statements.len(), collected.trouble.as_str()), (0, ""));
        assert_eq!(collected.records().count() as u64, count);
        // As each append was told, and every one at its place.
        for (record, number) in collected.records().zip(&acknowledged) {
            assert_eq!(record.body.len(), body_bytes);
            assert_eq!(str::from_utf8(record.body).unwrap().parse(), Ok(*number), "record {}", record.sequence);
        }
    }
    assert_eq!(early.blocks, late.blocks);
    stop.cancel();
    runtime.block_on(running).unwrap();
}

/// Appends records 0 to `count` - 1 in any order. Returns which number is at which sequence.
async fn append(appender: &Appender, count: u64, body_bytes: usize) -> Vec<u64> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let appender = appender.clone();
        tasks.spawn(async move {
            let mut told = Vec::new();
            let mut waiting = JoinSet::new();
            for number in (task..count).step_by(TASKS as usize) {
                if waiting.len() as u64 >= WINDOW {
                    told.push(waiting.join_next().await.unwrap().unwrap());
                }
                waiting.spawn(append_one(appender.clone(), number, body_bytes));
            }
            told.extend(waiting.join_all().await);
            told
        });
    }
    let mut numbers = vec![None; count as usize];
    for (sequence, number) in tasks.join_all().await.into_iter().flatten() {
        assert_eq!(numbers[sequence as usize].replace(number), None, "sequence {sequence} was told twice");
    }
    numbers.into_iter().map(|number| number.expect("as many sequences as records")).collect()
}

async fn append_one(appender: Appender, number: u64, body_bytes: usize) -> (u64, u64) {
    let body = format!("{number:0>body_bytes$}");
    loop {
        match appender.append("burst", body.as_bytes()).await {
            Ok(sequence) => return (sequence, number),
            Err(AppendError::QueueFull(_)) => yield_now().await,
            Err(error) => panic!("record {number}: {error}"),
        }
    }
}

/// What the binary has by default, on free ports.
fn config(folder: &Path) -> Config {
    Config {
        http: "127.0.0.1:0".parse().unwrap(),
        plain: "tcp://127.0.0.1:0".parse().unwrap(),
        feed: "tcp://127.0.0.1:0".parse().unwrap(),
        replay: "tcp://127.0.0.1:0".parse().unwrap(),
        advertise_replay: None,
        journal: folder.join("journal"),
        name: None,
        retain_bytes: 1024 * MIB,
        retain_age: None,
        segment_bytes: 32 * MIB,
        append_queue_bytes: 16 * MIB,
        new_stream: false,
        live_budget_bytes: 32 * MIB,
        replay_budget_bytes: 32 * MIB,
        peer_timeout: Duration::from_secs(10),
        faults: Faults::default(),
    }
}
