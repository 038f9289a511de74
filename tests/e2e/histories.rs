//! Journals with a history: run as two copies at once, retired while nobody publishes, killed while a
//! client catches up. What a position of one history means to another.

use crate::collector::*;
use crate::harness::*;
use crate::publishing::*;
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    let copied = outcome(Command::new("cp").arg("-r").arg(from).arg(to));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
}

/// What the replay says behind its head to a fetch from `from`.
fn answer(publisher: &Daemon, stream: Stream, from: Position) -> (Head, Vec<Message>) {
    let reply = Replay::connect(publisher.told("publisher", "replay")).fetch(stream, from, 1 << 20);
    let Some((Message::Head(head), rest)) = reply.split_first() else { panic!("no head: {reply:?}") };
    (head.clone(), rest.to_vec())
}

#[test]
fn a_journal_that_is_run_twice_is_one_stream_with_two_histories() {
    let (one, two) = (folder(), folder());
    let publisher = first_publisher(one.path(), "127.0.1.40");
    let mut common = publish_many(&publisher, 10);
    publisher.kill();
    copy(&one.path().join("journal"), &two.path().join("journal"));
    let publishers = [first_publisher(one.path(), "127.0.1.41"), first_publisher(two.path(), "127.0.1.42")];
    let collectors = publishers.each_ref().map(|publisher| Collector::follow(publisher.told("publisher", "feed")));
    // As many of the same numbers here as there, and other records.
    let own = [0, 1].map(|index| {
        let mut client = Client::connect(publishers[index].told("publisher", "http")).unwrap();
        (0..20).map(|number| publish(&mut client, &format!("{index}-{number}")).unwrap()).collect::<Vec<_>>()
    });
    collectors.iter().for_each(|collector| collector.until_next(30));
    let at = collectors.each_ref().map(|collector| collector.look(|collected| collected.position));
    assert_ne!(at[0], at[1]);

    // Each goes on at the other's.
    for (index, collector) in collectors.iter().enumerate() {
        collector.moved_to(publishers[1 - index].told("publisher", "feed"));
        collector.until_statements(1);
    }
    let collected = collectors.map(Collector::stop);
    let stream = collected[0].stream.unwrap();
    assert_eq!(collected[1].stream, Some(stream));
    for index in [0, 1] {
        assert_eq!(collected[index].statements, [Statement::Fork { stream, at: at[index] }]);
        assert_eq!(bodies(&collected[index]), [common.clone(), own[index].clone()].concat());
        let (head, reply) = answer(&publishers[1 - index], stream, at[index]);
        assert_eq!(head.next, at[1 - index]);
        assert_eq!(reply, [Message::Fork { stream, at: at[index] }, Message::End { stream, at: at[index] }]);
    }
    // What both have is no fork.
    let last_common = collected[0].blocks.iter().find(|block| block.end().next == 10).unwrap().end();
    for (publisher, own) in publishers.iter().zip(own) {
        let (head, reply) = answer(publisher, stream, last_common);
        assert_eq!(reply.last(), Some(&Message::End { stream, at: head.next }));
        assert!(reply[..reply.len() - 1].iter().all(|part| matches!(part, Message::Block(_))));
        common.extend(own);
    }
    publishers.into_iter().for_each(Daemon::stop);
}

/// Starts a publisher on what is in `folder` that is to begin a new stream.
fn new_stream(folder: &Path, host: &str, faults: &str) -> Command {
    let mut command = downpipe();
    command.args(["publisher", "--new-stream", &format!("--journal={}", folder.join("journal").display())]);
    on_free_ports(&mut command);
    for variable in ["PUBLISHER_FEED", "PUBLISHER_REPLAY"] {
        command.env(variable, format!("tcp://{host}:0"));
    }
    command.env("DOWNPIPE_FAULTS", faults);
    command
}

#[test]
fn a_clone_that_is_given_a_new_stream_is_another_publisher() {
    let (one, two) = (folder(), folder());
    let publisher = first_publisher(one.path(), "127.0.1.60");
    let common = publish_many(&publisher, 10);
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    collector.until_next(10);
    publisher.kill();
    copy(&one.path().join("journal"), &two.path().join("journal"));
    let first = first_publisher(one.path(), "127.0.1.60");
    let second = Daemon::start(new_stream(two.path(), "127.0.1.61", ""), 1);
    let heads = [&first, &second].map(|publisher| answer(publisher, Stream::default(), BEGINNING).0);
    let [old, new] = heads.each_ref().map(|head| head.stream);
    assert_ne!(old, new);
    assert_eq!((heads[0].next.next, heads[1].next.next), (10, 0));
    let said = second.stderr();
    let names_both = |line: &str| [old, new].iter().all(|stream| line.contains(&uuid(stream)));
    assert!(said.lines().any(|line| line.contains("WARN") && names_both(line)), "{said}");

    // The old stream is nobody's there any more; who had it there takes it for a journal that was wiped.
    let own = publish_many(&second, 5);
    assert_eq!(answer(&second, old, BEGINNING).1, []);
    collector.moved_to(second.told("publisher", "feed"));
    collector.until_statements(1);
    collector.until_next(5);
    let collected = collector.stop();
    let at = collected.statements[0];
    assert!(matches!(at, Statement::Replaced { stream, by, .. } if (stream, by) == (old, new)), "{at:?}");
    assert_eq!(bodies(&collected), [common, own].concat());
    // And stays another, without the flag.
    let at = endpoints(&second);
    second.kill();
    let second = next_publisher(two.path(), &at);
    let (head, _) = answer(&second, Stream::default(), BEGINNING);
    assert_eq!((head.stream, head.next.next), (new, 5));
    second.stop();
    first.stop();
}

fn uuid(stream: &Stream) -> String {
    let hex: String = stream.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[test]
fn a_publisher_killed_while_it_begins_a_new_stream_has_the_old_one_or_a_new_one() {
    let one = folder();
    let publisher = first_publisher(one.path(), "127.0.1.62");
    publish_many(&publisher, 10);
    let (old, _) = answer(&publisher, Stream::default(), BEGINNING);
    publisher.stop();
    for (point, is_old) in [
        ("renew.marked=kill@1", true),
        ("renew.marked=kill@2", true),
        ("renew.marked=kill@3", false),
        ("renew.moved=kill", false),
        ("renew.done=kill", false),
    ] {
        let two = folder();
        copy(&one.path().join("journal"), &two.path().join("journal"));
        let killed = new_stream(two.path(), "127.0.1.62", point).output().unwrap();
        assert_eq!((killed.status.code(), &*killed.stdout), (None, &b""[..]), "{point}");
        let publisher = first_publisher(two.path(), "127.0.1.62");
        let (head, _) = answer(&publisher, Stream::default(), BEGINNING);
        assert_eq!((head.stream == old.stream, head.next.next), (is_old, if is_old { 10 } else { 0 }), "{point}");
        publish_many(&publisher, 1);
        publisher.stop();
        let kept = two.path().join("journal").join(format!("stream-{}", uuid(&old.stream)));
        assert_eq!(kept.exists(), !is_old, "{point}");
    }
}

#[test]
fn what_is_retired_while_nobody_publishes_is_a_gap_up_to_next() {
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.43");
    let collector = Collector::follow(publisher.told("publisher", "feed"));
    let mut published = publish_many(&publisher, 20);
    collector.until_next(20);
    let (stream, old) = collector.look(|collected| (collected.stream.unwrap(), collected.position));
    publisher.kill();

    let publisher =
        publisher_in(folder.path(), &["--retain-age=1s", "--feed=tcp://127.0.1.44:0", "--replay=tcp://127.0.1.44:0"]);
    publish_many(&publisher, 20);
    let next = eventually("all is retired", || {
        let (head, _) = answer(&publisher, Stream::default(), BEGINNING);
        (head.oldest == head.next).then_some(head.next)
    });
    assert_eq!(next.next, 40);
    let gap = |from| Message::Gap(Gap { stream, from, to: next, reason: Reason::Retention });
    let end = Message::End { stream, at: next };
    assert_eq!(answer(&publisher, stream, old).1, [gap(20), end.clone()]);
    assert_eq!(answer(&publisher, stream, BEGINNING).1, [gap(0), end.clone()]);
    assert_eq!(answer(&publisher, stream, next).1, [end]);

    // Who had half of it states the rest; who has nothing begins behind it. Both get what comes then.
    collector.moved_to(publisher.told("publisher", "feed"));
    collector.until_statements(1);
    let newcomer = Collector::follow(publisher.told("publisher", "feed"));
    newcomer.until("the first contact", |collected| collected.stream.is_some());
    let more = publish_many(&publisher, 20);
    let lost = Statement::Lost { stream, from: 20, to: 40, reason: Reason::Retention };
    collector.until_next(60);
    newcomer.until_next(60);
    let (collected, newcome) = (collector.stop(), newcomer.stop());
    assert_eq!(collected.statements, [lost]);
    published.extend(more.clone());
    assert_eq!(bodies(&collected), published);
    assert_eq!((newcome.base, newcome.statements.len()), (next, 0));
    assert_eq!(bodies(&newcome), more);
    publisher.stop();
}

#[test]
fn a_publisher_killed_in_the_middle_of_a_catch_up_is_asked_for_the_rest() {
    const LIVES: u64 = 5;
    let mut random = Random::new();
    let folder = folder();
    let publisher = first_publisher(folder.path(), "127.0.1.45");
    let at = endpoints(&publisher);
    let crowd = Crowd::new(&publisher, 2, 8000);
    crowd.until(3000);
    let count = crowd.answers();
    let collector = Collector::follow(&at.feed);
    let (mut publisher, mut killed_in_the_middle) = (publisher, 0);
    for life in 1..=LIVES {
        let some = life * count / (LIVES + 1) + random.below(count / (2 * LIVES));
        collector.until("some of it", |collected| collected.position.next >= some);
        publisher.kill();
        killed_in_the_middle += u64::from(collector.look(|collected| collected.position.next < count));
        publisher = next_publisher(folder.path(), &at);
    }
    collector.until_next(count);
    let collected = collector.stop();
    println!("{killed_in_the_middle} of {LIVES} kills were in the middle");
    assert!(killed_in_the_middle > 0, "{:?}", collected.position);
    assert_eq!(collected.statements, []);
    assert_eq!(collected.replayed, count);
    crowd.assert_are_all(texts(&collected));
    publisher.stop();
}
