//! The numbered feed and the replay as docs/PROTOCOL.md has them, seen by peers that are not ours: the
//! collector on libzmq, and examples/subscriber.py on pyzmq.

use crate::collector::*;
use crate::harness::*;
use crate::pyzmq::python;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const BEGINNING: Position = Position { next: 0, previous: 0 };

/// A publisher with its journal in `folder`, on free ports of a loopback address that no other test uses.
fn first_publisher(folder: &Path, host: &str) -> Daemon {
    let endpoint = format!("tcp://{host}:0");
    next_publisher(folder, &Endpoints { feed: endpoint.clone(), replay: endpoint })
}

/// Where a publisher listens, which its next life is to do as well.
struct Endpoints {
    feed: String,
    replay: String,
}

fn endpoints(publisher: &Daemon) -> Endpoints {
    let told = |field| publisher.told("publisher", field).to_owned();
    Endpoints { feed: told("feed"), replay: told("replay") }
}

/// The next life of a publisher, at the same endpoints.
fn next_publisher(folder: &Path, last: &Endpoints) -> Daemon {
    let journal = folder.join("journal");
    publisher(&[
        &format!("--journal={}", journal.display()),
        &format!("--feed={}", last.feed),
        &format!("--replay={}", last.replay),
    ])
}

/// Publishes the lower case of `text`, and returns it once it is durable.
fn publish(client: &mut Client, text: &str) -> std::io::Result<String> {
    let answer = client.get(&format!("/downcase?param={text}"))?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    Ok(answer.body)
}

/// Publishes `count` records and returns their bodies.
fn publish_many(publisher: &Daemon, count: u64) -> Vec<String> {
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    (0..count).map(|number| publish(&mut client, &format!("A{number}")).unwrap()).collect()
}

fn bodies(collected: &Collected) -> Vec<String> {
    collected.records().map(|record| String::from_utf8(record.body.to_vec()).unwrap()).collect()
}

/// A client that asks on and on, whoever answers.
#[derive(Default)]
struct Asker {
    /// Where the publisher of the moment is.
    http: Mutex<String>,
    /// What was answered 200, in order.
    answered: Mutex<Vec<String>>,
    is_done: AtomicBool,
}

impl Asker {
    fn run(&self) {
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

    fn goes_to(&self, publisher: &Daemon) {
        *self.http.lock().unwrap() = publisher.told("publisher", "http").to_owned();
    }

    fn answers(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

/// Whatever happens to the test, the client ends.
struct EndOnDrop<'a>(&'a Asker);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_done.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_example_in_python_prints_every_record_through_kills() {
    const KILLS: u64 = 6;
    const ANSWERS_PER_LIFE: u64 = 300;
    let folder = folder();
    let mut random = Random::new();
    let publisher = first_publisher(folder.path(), "127.0.1.30");
    let at = endpoints(&publisher);
    let collector = Collector::follow(&at.feed);
    let state = folder.path().join("state");
    let (mut example, mut printed) = (start_example(&at.feed, &state), Vec::new());
    let asker = Asker::default();
    asker.goes_to(&publisher);

    let publisher = thread::scope(|scope| {
        scope.spawn(|| asker.run());
        let _end = EndOnDrop(&asker);
        let mut publisher = publisher;
        for kill in 1..=KILLS {
            let enough = asker.answers() + (ANSWERS_PER_LIFE + random.below(ANSWERS_PER_LIFE)) as usize;
            eventually("records are published", || (asker.answers() >= enough).then_some(()));
            publisher.kill();
            publisher = next_publisher(folder.path(), &at);
            asker.goes_to(&publisher);
            if kill == KILLS / 2 {
                printed.extend(example.kill());
                example = start_example(&at.feed, &state);
                take_what_comes_twice(&example, &mut printed);
            }
        }
        publisher
    });

    let reply = Replay::connect(&at.replay).fetch(Stream::default(), BEGINNING, 0);
    let [Message::Head(head)] = &reply[..] else { panic!("not a head alone: {reply:?}") };
    collector.until_next(head.next.next);
    until_printed(&example, &mut printed, head.next.next);
    let collected = collector.stop();
    assert_eq!(collected.statements, []);
    assert!(collected.live > 0 && collected.replayed > 0, "{} live, {} replayed", collected.live, collected.replayed);
    assert!(collected.records().map(|record| printed_line(&record)).eq(printed));
    assert_is_subsequence(&asker.answered.into_inner().unwrap(), &bodies(&collected));
    publisher.stop();
}

/// An example that was killed goes on behind what it had printed; the block that it had not noted may
/// come twice. Takes that, and the line behind it.
fn take_what_comes_twice(example: &Helper, printed: &mut Vec<String>) {
    loop {
        let line = example.line();
        let sequence: usize = line.split(' ').next().unwrap().parse().unwrap();
        let Some(known) = printed.get(sequence) else {
            assert_eq!(sequence, printed.len());
            printed.push(line);
            return;
        };
        assert_eq!(&line, known);
    }
}

fn start_example(feed: &str, state: &Path) -> Helper {
    let mut command = Command::new(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/subscriber.py")).arg(feed).arg("--state").arg(state);
    Helper::start(command)
}

/// Takes lines until that of record `next` - 1.
#[track_caller]
fn until_printed(example: &Helper, printed: &mut Vec<String>, next: u64) {
    while (printed.len() as u64) < next {
        printed.push(example.line());
    }
}

/// What the example prints for a record without anything that it would escape.
fn printed_line(record: &Record<'_>) -> String {
    format!("{} {} {}", record.sequence, record.topic, str::from_utf8(record.body).unwrap())
}

/// That all of `some` is in `all`, in this order, and nothing twice.
#[track_caller]
fn assert_is_subsequence(some: &[String], all: &[String]) {
    let mut rest = all.iter();
    for text in some {
        assert!(rest.any(|other| other == text), "{text:?} is missing, or not in its place");
    }
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort();
    assert!(sorted.windows(2).all(|pair| pair[0] != pair[1]), "a record was published twice");
}

#[test]
fn who_comes_late_gets_what_was_missed_and_then_the_feed() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.31");
    let mut published = publish_many(&publisher, 300);
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    collector.until_next(300);
    assert_eq!(collector.look(|collected| collected.replayed), 300);
    eventually("a record comes on the feed", || {
        published.extend(publish_many(&publisher, 10));
        collector.look(|collected| collected.live > 0).then_some(())
    });
    collector.until_next(published.len() as u64);
    let collected = collector.stop();
    assert_eq!((collected.base, collected.statements.len()), (BEGINNING, 0));
    assert_eq!(bodies(&collected), published);
    publisher.stop();
}

#[test]
fn a_publisher_that_moved_is_followed_from_where_it_was() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.32");
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    let mut published = publish_many(&publisher, 50);
    collector.until_next(50);
    publisher.kill();
    let publisher = first_publisher(folder.path(), "127.0.1.33");
    collector.moved_to(publisher.told("publisher", "feed"));
    published.extend(publish_many(&publisher, 50));
    collector.until_next(100);
    assert_eq!(bodies(&collector.stop()), published);
    publisher.stop();
}

#[test]
fn a_wiped_journal_is_another_stream() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.34");
    let at = endpoints(&publisher);
    let collector = Collector::follow(&at.feed);
    publish_many(&publisher, 20);
    collector.until_next(20);
    let (old, position) = collector.look(|collected| (collected.stream.unwrap(), collected.position));
    publisher.kill();
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let publisher = next_publisher(folder.path(), &at);
    let published = publish_many(&publisher, 10);
    collector.until_statements(1);
    collector.until_next(10);
    let collected = collector.stop();
    let by = collected.stream.unwrap();
    assert_ne!(by, old);
    let replaced = Statement::Replaced { stream: old, at: position, heard: 20, by, from: BEGINNING };
    assert_eq!(collected.statements, [replaced]);
    assert_eq!(bodies(&collected)[20..], published);
    publisher.stop();
}

#[test]
fn a_journal_restored_from_a_backup_is_a_fork() {
    let folder = folder();
    let (journal, backup) = (folder.path().join("journal"), folder.path().join("backup"));
    let publisher = first_publisher(folder.path(), "127.0.1.35");
    let at = endpoints(&publisher);
    let collector = Collector::follow(&at.feed);
    publish_many(&publisher, 10);
    publisher.kill();
    let copy = outcome(Command::new("cp").arg("-r").arg(&journal).arg(&backup));
    assert_eq!(copy.code, 0, "{}", copy.stderr);
    let publisher = next_publisher(folder.path(), &at);
    publish_many(&publisher, 10);
    collector.until_next(20);
    publisher.kill();

    // The same numbers for other records, as many of them and more.
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&backup, &journal).unwrap();
    let publisher = next_publisher(folder.path(), &at);
    publish_many(&publisher, 30);
    collector.until_statements(1);
    let collected = collector.stop();
    let (stream, position) = (collected.stream.unwrap(), collected.position);
    assert_eq!(collected.statements, [Statement::Fork { stream, at: position }]);
    assert_eq!(position.next, 20);
    publisher.stop();
}

#[test]
fn the_replay_answers_as_the_page_has_it() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.36");
    publish_many(&publisher, 100);
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    collector.until_next(100);
    let Collected { blocks, stream, position, .. } = collector.stop();
    let stream = stream.unwrap();
    let replay = Replay::connect(publisher.told("publisher", "replay"));
    let ask = |from, credit_bytes| {
        let reply = replay.fetch(stream, from, credit_bytes);
        let Some((Message::Head(head), rest)) = reply.split_first() else { panic!("no head: {reply:?}") };
        assert_eq!((head.next, head.oldest), (position, BEGINNING));
        rest.to_vec()
    };
    let end = |at| Message::End { stream, at };
    let fork = |at| vec![Message::Fork { stream, at }, end(at)];

    // All, one block for the least credit, and nothing for none.
    let mut all: Vec<_> = blocks.iter().cloned().map(Message::Block).collect();
    all.push(end(position));
    assert_eq!(ask(BEGINNING, 1 << 20), all);
    assert_eq!(ask(BEGINNING, u32::MAX), all);
    assert_eq!(ask(BEGINNING, 1), [Message::Block(blocks[0].clone()), end(blocks[0].end())]);
    assert_eq!(ask(position, 1 << 20), [end(position)]);
    assert_eq!(ask(BEGINNING, 0), [end(BEGINNING)]);
    // Positions of no history: beyond the end, another block before it, and none before the first.
    for at in [
        Position { next: 101, ..position },
        Position { previous: !position.previous, ..position },
        Position { next: 0, previous: 1 },
        Position { next: u64::MAX, previous: 0 },
    ] {
        assert_eq!(ask(at, 1 << 20), fork(at));
        assert_eq!(ask(at, 0), fork(at));
    }
    // Another stream, and what is no fetch: it is the next fetch that is answered.
    let mut damaged = fetch(stream, BEGINNING, 1 << 20);
    damaged[24] ^= 1;
    let mut prolonged = fetch(stream, BEGINNING, 1 << 20);
    prolonged.push(0);
    seal(&mut prolonged);
    for nonsense in [&b""[..], b"DPF1", &damaged, &prolonged, &blocks[0].bytes] {
        replay.send(nonsense);
        for other in [Stream::default(), [0xab; 16]] {
            let reply = replay.fetch(other, position, 1 << 20);
            assert!(matches!(&reply[..], [Message::Head(head)] if head.stream == stream), "{reply:?}");
        }
    }
    publisher.stop();
}

#[test]
fn journal_files_hold_the_blocks_that_were_sent() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.37");
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    publish_many(&publisher, 200);
    collector.until_next(200);
    publisher.kill();
    let collected = collector.stop();
    let mut kept: Vec<Block> = Vec::new();
    for (header, file) in segments(&folder.path().join("journal")) {
        let at = kept.last().map_or(BEGINNING, Block::end);
        assert_eq!((Some(header.stream), header.start), (collected.stream, at));
        assert!(kept.last().is_none_or(|block| block.last_time_ns <= header.last_time_ns));
        let read = blocks(&file, SegmentHeader::BYTES);
        assert_eq!(read.torn, None);
        kept.extend(read.blocks);
    }
    assert_eq!(kept, collected.blocks);
}

/// The segments of a journal, oldest first.
fn segments(journal: &Path) -> Vec<(SegmentHeader, Vec<u8>)> {
    let paths = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|name| name == "segment"));
    let files = files.map(|path| fs::read(path).unwrap());
    let mut segments: Vec<_> = files.map(|file| (SegmentHeader::decode(&file).unwrap(), file)).collect();
    segments.sort_by_key(|(header, _)| header.start.next);
    segments
}
