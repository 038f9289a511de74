//! The vocabulary of the tests of the numbered feed: publishers in lives at the same endpoints, who asks
//! them for records, and what was acknowledged against what came.

#![allow(unreachable_pub, reason = "a vocabulary, as the harness is")]

use crate::collector::*;
use crate::harness::*;
use crate::pyzmq::python;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

pub const BEGINNING: Position = Position { next: 0, previous: 0 };

/// A publisher with its journal in `folder`, on free ports of a loopback address that no other test uses.
pub fn first_publisher(folder: &Path, host: &str) -> Daemon {
    let endpoint = format!("tcp://{host}:0");
    next_publisher(folder, &Endpoints { feed: endpoint.clone(), replay: endpoint })
}

/// Where a publisher listens, which its next life is to do as well.
pub struct Endpoints {
    pub feed: String,
    pub replay: String,
}

pub fn endpoints(publisher: &Daemon) -> Endpoints {
    let told = |field| publisher.told("publisher", field).to_owned();
    Endpoints { feed: told("feed"), replay: told("replay") }
}

/// The next life of a publisher, at the same endpoints.
pub fn next_publisher(folder: &Path, last: &Endpoints) -> Daemon {
    let journal = folder.join("journal");
    publisher(&[
        &format!("--journal={}", journal.display()),
        &format!("--feed={}", last.feed),
        &format!("--replay={}", last.replay),
    ])
}

/// What the replay says to who asks who is there.
#[track_caller]
pub fn who_is_there(replay: &Replay) -> Head {
    match &replay.fetch(Stream::default(), BEGINNING, 0)[..] {
        [Message::Head(head)] => head.clone(),
        other => panic!("not a head alone: {other:?}"),
    }
}

/// Publishes the lower case of `text`, and returns it once it is durable.
pub fn publish(client: &mut Client, text: &str) -> std::io::Result<String> {
    let answer = client.get(&format!("/downcase?param={text}"))?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    Ok(answer.body)
}

/// Publishes `count` records and returns their bodies.
pub fn publish_many(publisher: &Daemon, count: u64) -> Vec<String> {
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    (0..count).map(|number| publish(&mut client, &format!("A{number}")).unwrap()).collect()
}

pub fn bodies(collected: &Collected) -> Vec<String> {
    collected.records().map(|record| String::from_utf8(record.body.to_vec()).unwrap()).collect()
}

/// A client that asks on and on, whoever answers.
#[derive(Default)]
pub struct Asker {
    /// Where the publisher of the moment is.
    http: Mutex<String>,
    /// What was answered 200, in order.
    pub answered: Mutex<Vec<String>>,
    pub is_done: AtomicBool,
}

impl Asker {
    pub fn run(&self) {
        let mut number = 0;
        while !self.is_done.load(Ordering::Relaxed) {
            let http = self.http.lock().unwrap().clone();
            let Ok(mut client) = Client::connect(&http) else {
                thread::sleep(Duration::from_millis(3));
                continue;
            };
            // A text whose answer did not come may have been published: it is not asked again.
            while !self.is_done.load(Ordering::Relaxed) {
                number += 1;
                let Ok(body) = publish(&mut client, &format!("N{number}")) else { break };
                self.answered.lock().unwrap().push(body);
            }
        }
    }

    pub fn goes_to(&self, publisher: &Daemon) {
        *self.http.lock().unwrap() = publisher.told("publisher", "http").to_owned();
    }

    pub fn answers(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

/// Whatever happens to the test, the clients end.
pub struct EndOnDrop<'a>(pub &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn start_example(feed: &str, state: &Path) -> Helper {
    let mut command = Command::new(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/subscriber.py")).arg(feed).arg("--state").arg(state);
    Helper::start(command)
}

/// Takes lines until that of record `next` - 1.
#[track_caller]
pub fn until_printed(example: &Helper, printed: &mut Vec<String>, next: u64) {
    while (printed.len() as u64) < next {
        printed.push(example.line());
    }
}

/// What the example prints for a record without anything that it would escape.
pub fn printed_line(record: &Record<'_>) -> String {
    format!("{} {} {}", record.sequence, record.topic, str::from_utf8(record.body).unwrap())
}

/// That all of `some` is in `all`, in this order, and nothing twice.
#[track_caller]
pub fn assert_is_subsequence(some: &[String], all: &[String]) {
    let mut rest = all.iter();
    for text in some {
        assert!(rest.any(|other| other == text), "{text:?} is missing, or not in its place");
    }
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort();
    assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "a record was published twice");
}

/// Clients that ask as fast as they are answered, until they are told to stop. Every answer is to be 200.
pub struct Crowd {
    http: String,
    padding: String,
    /// How many answers each client has had.
    answered: Vec<AtomicU64>,
    is_done: AtomicBool,
}

impl Crowd {
    /// Each record has `padding` characters beside its number, twice.
    pub fn new(publisher: &Daemon, clients: usize, padding: usize) -> Self {
        Self {
            http: publisher.told("publisher", "http").to_owned(),
            padding: "x".repeat(padding),
            answered: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            is_done: AtomicBool::new(false),
        }
    }

    /// Has all ask as long as the work takes.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.is_done.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            for client in 0..self.answered.len() {
                scope.spawn(move || self.ask(client));
            }
            let _end = EndOnDrop(&self.is_done);
            work()
        })
    }

    /// Has all ask until there are `count` answers, or a few more.
    pub fn until(&self, count: u64) {
        self.during(|| eventually(&format!("{count} answers"), || (self.answers() >= count).then_some(())));
    }

    fn ask(&self, client: usize) {
        let mut connection = Client::connect(&self.http).unwrap();
        while !self.is_done.load(Ordering::Relaxed) {
            let number = self.answered[client].load(Ordering::Relaxed);
            let text = self.text(client, number);
            assert_eq!(publish(&mut connection, &text).unwrap(), format!("lower case of {text} is {text}"));
            self.answered[client].store(number + 1, Ordering::Relaxed);
        }
    }

    fn text(&self, client: usize, number: u64) -> String {
        format!("{client}-{number}-{}", self.padding)
    }

    /// How many answers there were.
    pub fn answers(&self) -> u64 {
        self.answered.iter().map(|answered| answered.load(Ordering::Relaxed)).sum()
    }

    /// That these are the records that were acknowledged: each once, every client's in its order, and no other.
    #[track_caller]
    pub fn assert_are_all<'a>(&self, bodies: impl Iterator<Item = &'a str>) {
        let mut next = vec![0; self.answered.len()];
        for body in bodies {
            let text = body.strip_prefix("lower case of ").expect("a body of downcase");
            let client: usize = text[..text.find('-').unwrap()].parse().unwrap();
            let text = self.text(client, next[client]);
            assert!(body == format!("lower case of {text} is {text}"), "{body} instead of number {}", next[client]);
            next[client] += 1;
        }
        let answered: Vec<_> = self.answered.iter().map(|answered| answered.load(Ordering::Relaxed)).collect();
        assert_eq!(next, answered, "records of each client, and answers");
    }
}

/// The bodies of collected records, as text.
pub fn texts(collected: &Collected) -> impl Iterator<Item = &str> {
    collected.records().map(|record| str::from_utf8(record.body).unwrap())
}

/// The blocks of a journal, each behind the one before.
#[track_caller]
pub fn journal_blocks(journal: &Path) -> Vec<Block> {
    let mut kept: Vec<Block> = Vec::new();
    for (header, file) in segments(journal) {
        assert!(kept.last().is_none_or(|block| block.end() == header.start));
        let read = blocks(&file, SegmentHeader::BYTES);
        assert_eq!(read.torn, None);
        kept.extend(read.blocks);
    }
    kept
}
