//! The numbered feed and the replay as docs/PROTOCOL.md has them, seen by peers that are not ours: the
//! collector on libzmq, and examples/subscriber.py on pyzmq.

use crate::collector::*;
use crate::harness::*;
use crate::publishing::*;
use std::fs;
use std::process::Command;
use std::thread;

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
        let _end = EndOnDrop(&asker.is_done);
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

    let head = who_is_there(&Replay::connect(&at.replay));
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
fn a_replay_at_no_host_in_particular_is_at_the_host_of_the_feed() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &["--feed=tcp://0.0.0.0:0", "--replay=tcp://0.0.0.0:0"]);
    let (_, feed_port) = publisher.told("publisher", "feed").rsplit_once(':').unwrap();
    let feed = format!("tcp://127.0.1.38:{feed_port}");
    let mut published = publish_many(&publisher, 20);
    let collector = Collector::follow(&feed);
    collector.until_next(20);
    assert_eq!(bodies(&collector.stop()), published);
    let (_, replay_port) = publisher.told("publisher", "replay").rsplit_once(':').unwrap();
    let head = who_is_there(&Replay::connect(&format!("127.0.1.38:{replay_port}")));
    assert_eq!(head.replay, format!("0.0.0.0:{replay_port}"));
    publisher.kill();

    // Where a connection to that address would lead, nobody listens: only the feed's host has it.
    let last = endpoints(&first_publisher(folder.path(), "127.0.1.39"));
    let (_, replay_port) = last.replay.rsplit_once(':').unwrap();
    for (number, host) in ["0.0.0.0", "[::]", "*"].into_iter().enumerate() {
        let (feed, replay) = (format!("--feed={}", last.feed), format!("--replay={}", last.replay));
        let advertise = format!("--advertise-replay={host}:{replay_port}");
        let publisher = publisher_in(folder.path(), &[&feed, &replay, &advertise]);
        let collector = Collector::follow(&last.feed);
        let example = start_example(&last.feed, &folder.path().join(format!("state{number}")));
        published.extend(publish_many(&publisher, 20));
        collector.until_next(published.len() as u64);
        let (mut printed, collected) = (Vec::new(), collector.stop());
        until_printed(&example, &mut printed, published.len() as u64);
        assert_eq!(bodies(&collected), published);
        assert!(collected.records().map(|record| printed_line(&record)).eq(printed));
        publisher.kill();
    }
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
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    (0..30).for_each(|number| drop(publish(&mut client, &format!("OTHER{number}")).unwrap()));
    collector.until_statements(1);
    let collected = collector.stop();
    let (stream, position) = (collected.stream.unwrap(), collected.position);
    assert_eq!(collected.statements, [Statement::Fork { stream, at: position }]);
    assert_eq!(position.next, 20);
    // What was before the copy is as it was.
    let newcomer = Collector::follow(&at.feed);
    newcomer.until_next(40);
    let newcome = newcomer.stop();
    assert_eq!((newcome.stream, newcome.base), (Some(stream), BEGINNING));
    assert!(newcome.records().take(10).eq(collected.records().take(10)));
    let restored: Vec<_> = newcome.records().skip(10).map(|record| record.body).collect();
    let before: Vec<_> = collected.records().skip(10).map(|record| record.body).collect();
    assert!(restored[..10] != before[..]);
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
