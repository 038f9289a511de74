//! Journals with a history, and logs with one: what retention took, two addresses of one publisher, wiped,
//! restored and cloned journals, logs that were there before, moved, deleted or cut. What is lost is stated
//! with its numbers, and nothing else is.

use super::proxy::{Cut, Ways};
use super::*;
use crate::collector::{Stream, crc32c};
use std::collections::BTreeMap;
use std::fs;
use std::slice;

const NAME: &str = "one";
/// A record is about twice as long as its text.
const TEXT_BYTES: usize = 2000;

/// A publisher in `folder` called [`NAME`], and its site.
#[track_caller]
fn publisher_at(folder: &Path, host: &str, options: &[&str]) -> (Site, Daemon) {
    let site = Site::new(folder, host, &[&[&*format!("--name={NAME}")], options].concat());
    let publisher = site.start();
    (site.at_place_of(&publisher), publisher)
}

/// Publishes `count` records that begin with a word; returns their bodies.
#[track_caller]
fn publish(publisher: &Daemon, word: &str, count: u64, padding: usize) -> Vec<String> {
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    let padding = "x".repeat(padding);
    let texts = (0..count).map(|number| format!("{word}{number}{padding}"));
    texts.map(|text| crate::publishing::publish(&mut client, &text).unwrap()).collect()
}

fn feed_of(publisher: &Daemon) -> &str {
    publisher.told("publisher", "feed")
}

/// As lines and the index have it.
fn uuid(stream: Stream) -> String {
    let hex: String = stream.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Waits until the log has so many lines of records, and reads it.
#[track_caller]
fn until_records(log: &LogSite, count: usize) -> Logged {
    log.until(&format!("{count} lines of records"), || log.standing().is_written && log.read().records() >= count);
    log.read()
}

/// Waits until the log has so many lines of its own.
#[track_caller]
fn until_own(log: &LogSite, count: usize) {
    log.until(&format!("{count} lines of its own"), || log.standing().is_written && log.read().own().len() >= count);
}

#[track_caller]
fn bodies(logged: &Logged) -> Vec<String> {
    logged.bodies_of(NAME).map(str::to_owned).collect()
}

/// That `verify` ends with 1, and has these counts and 0 of all the others that tell of something wrong.
#[track_caller]
fn assert_verify_finds(log: &LogSite, found: &[(&str, u64)]) {
    let verified = log.verify();
    let Outcome { code, stdout, stderr } = &verified.outcome;
    assert_eq!(*code, 1, "{stdout}{stderr}");
    for name in ["missing", "duplicated", "lost", "forks", "damaged"] {
        let expected = found.iter().find(|(found, _)| *found == name).map_or(0, |(_, count)| *count);
        assert_eq!(verified.count(name), expected, "{name}: {stdout}");
    }
}

/// The text of `/readyz` once it has this status and says all of that.
#[track_caller]
fn until_readyz(subscriber: &Daemon, status: u16, said: &[&str]) -> String {
    eventually(&format!("readyz is {status} and says {said:?}"), || {
        let readyz = subscriber.page("subscriber", "/readyz");
        (readyz.status == status && said.iter().all(|said| readyz.body.contains(said))).then_some(readyz.body)
    })
}

#[test]
fn what_retention_took_is_one_statement_with_its_numbers() {
    let folder = folder();
    let (_, publisher) = publisher_at(folder.path(), "127.0.4.10", &["--segment-bytes=64KiB", "--retain-bytes=192KiB"]);
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &[]);
    let subscriber = log.start();
    let mut published = publish(&publisher, "a", 20, 10);
    until_records(&log, 20);
    subscriber.stop();
    published.extend(publish(&publisher, "b", 200, TEXT_BYTES));
    let head = head_of(&publisher);
    let (oldest, next) = (head.oldest.next, head.next.next);
    assert!(20 < oldest && oldest < next && next == 220, "{head:?}");

    let subscriber = log.start();
    log.until_all_of(slice::from_ref(&publisher));
    published.extend(publish(&publisher, "c", 5, 10));
    let logged = until_records(&log, (20 + next - oldest + 5) as usize);
    let kept = (0..).zip(&published).filter(|(number, _)| *number < 20 || *number >= oldest);
    assert!(logged.bodies_of(NAME).eq(kept.map(|(_, body)| &**body)));
    let (stream, records) = (uuid(head.stream), oldest - 20);
    let lost = format!("lost source={NAME} stream={stream} from=20 to={oldest} records={records} reason=retention");
    assert_eq!(logged.own(), slice::from_ref(&lost));
    let metrics = subscriber.page("subscriber", "/metrics").body;
    let counts = |line: &str| line.contains("lost") && line.ends_with(&format!(" {records}"));
    assert!(metrics.lines().any(counts), "{metrics}");
    subscriber.stop();
    assert_verify_finds(&log, &[("lost", records)]);

    // It is said once, and found for as long as its file is there.
    let subscriber = log.start();
    published.extend(publish(&publisher, "d", 5, 10));
    log.until_all_of(slice::from_ref(&publisher));
    subscriber.stop();
    assert_eq!(log.read().own(), [lost]);
    assert_verify_finds(&log, &[("lost", records)]);
    publisher.stop();
}

#[test]
fn two_addresses_of_one_publisher_are_one_source_and_stand_in_for_each_other() {
    let folder = folder();
    // One replay for both, as the publisher has one to advertise.
    let ways = ["127.0.4.11", "127.0.4.12"].map(Ways::new);
    let (_, publisher) = publisher_at(folder.path(), "127.0.4.13", &[&ways[0].advertised()]);
    ways.iter().for_each(|ways| ways.lead_to(&publisher));
    let feeds = ways.each_ref().map(|ways| ways.feed.endpoint());
    let log = LogSite::new(folder.path(), &feeds.each_ref().map(|feed| &**feed), &[]);
    let subscriber = log.start();
    let mut published = publish(&publisher, "a", 20, 10);
    assert_eq!(bodies(&until_records(&log, 20)), published);
    let active = eventually("one is followed and one is parked", || {
        let links = ways.each_ref().map(|ways| ways.feed.links());
        [[1, 0], [0, 1]].iter().position(|one| *one == links)
    });
    let parked = 1 - active;
    until_readyz(&subscriber, 200, &[&ways[parked].feed.address]);

    // The other takes over, and gives it back or not.
    ways[active].feed.refuse();
    ways[active].feed.cut(Cut::Reset);
    published.extend(publish(&publisher, "b", 20, 10));
    assert_eq!(bodies(&until_records(&log, 40)), published);
    until_readyz(&subscriber, 503, &[&ways[active].feed.address]);
    published.extend(publish(&publisher, "c", 20, 10));
    assert_eq!(bodies(&until_records(&log, 60)), published);
    ways[active].feed.listen();
    until_readyz(&subscriber, 200, &[]);
    ways[parked].feed.refuse();
    ways[parked].feed.cut(Cut::Closed);
    published.extend(publish(&publisher, "d", 20, 10));
    until_records(&log, 80);
    subscriber.stop();
    let logged = log.read();
    assert_eq!((bodies(&logged), logged.own().len()), (published, 0));
    log.verify().assert_whole(80, 1);
    let replay = publisher.told("publisher", "replay");
    let against = outcome(downpipe().arg("verify").arg(log.log()).args(["--against", replay]));
    assert_eq!(against.code, 0, "{}{}", against.stdout, against.stderr);
    publisher.stop();
}

#[test]
fn a_wiped_journal_replaces_its_stream_and_what_was_heard_of_it_is_lost() {
    let folder = folder();
    let ways = Ways::new("127.0.4.14");
    let (site, publisher) = publisher_at(folder.path(), "127.0.4.14", &[&ways.advertised()]);
    ways.lead_to(&publisher);
    let log = LogSite::new(folder.path(), &[&ways.feed.endpoint()], &[]);
    let subscriber = log.start();
    let mut published = publish(&publisher, "a", 20, 10);
    until_records(&log, 20);

    // It hears of ten more, and cannot have them: it asks the replay only when it has heard of them.
    ways.feed.refuse();
    ways.replay.leads_nowhere();
    ways.cut(Cut::Reset);
    let gone = publish(&publisher, "gone", 10, 10);
    let before = ways.replay.accepted();
    ways.feed.listen();
    ways.replay.until_accepted(before, 1);
    let mut streams = vec![head_of(&publisher).stream];
    publisher.kill();

    let journal = folder.path().join("journal");
    let mut begin_anew = |word: &str| {
        let publisher = site.start();
        ways.lead_to(&publisher);
        ways.cut(Cut::Reset);
        streams.push(head_of(&publisher).stream);
        published.extend(publish(&publisher, word, 10, 10));
        assert_eq!(bodies(&until_records(&log, published.len())), published);
        publisher
    };
    let first = folder.path().join("first");
    fs::rename(&journal, &first).unwrap();
    begin_anew("b").kill();
    fs::remove_dir_all(&journal).unwrap();
    let publisher = begin_anew("c");
    let [one, two, three] = [0, 1, 2].map(|index| uuid(streams[index]));
    let mut own = vec![
        format!("replaced source={NAME} stream={one} by={two} from=20 to=30 records=10"),
        format!("replaced source={NAME} stream={two} by={three} from=10 to=10 records=0"),
    ];
    assert_eq!(log.read().own(), own);
    subscriber.stop();
    assert_verify_finds(&log, &[("lost", 10)]);
    publisher.kill();

    // The first comes back, and has what was lost.
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&first, &journal).unwrap();
    let subscriber = log.start();
    let publisher = site.start();
    ways.lead_to(&publisher);
    ways.cut(Cut::Reset);
    published.extend(gone);
    published.extend(publish(&publisher, "d", 10, 10));
    assert_eq!(bodies(&until_records(&log, published.len())), published);
    subscriber.stop();
    // This subscriber has not heard of the third stream, and says what it knows.
    own.push(format!("replaced source={NAME} stream={three} by={one} from=10 to=10 records=0"));
    assert_eq!(log.read().own(), own);
    assert_eq!(log.verify().outcome.code, 1);
    publisher.stop();
}

fn copy(from: &Path, to: &Path) {
    let copied = outcome(Command::new("cp").arg("-r").arg(from).arg(to));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
}

#[test]
fn a_journal_restored_from_a_backup_is_a_fork_and_its_new_history_is_followed() {
    let folder = folder();
    let (journal, backup) = (folder.path().join("journal"), folder.path().join("backup"));
    let (site, publisher) = publisher_at(folder.path(), "127.0.4.15", &[]);
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &["--rotate-size=1KiB"]);
    let mut published = publish(&publisher, "common", 20, 10);
    publisher.kill();
    copy(&journal, &backup);

    let publisher = site.start();
    let subscriber = log.start();
    published.extend(publish(&publisher, "old", 20, 10));
    until_records(&log, 40);
    let stream = uuid(head_of(&publisher).stream);
    publisher.kill();
    fs::remove_dir_all(&journal).unwrap();
    copy(&backup, &journal);
    // As many of the same numbers as there were, and more.
    let publisher = site.start();
    published.extend(publish(&publisher, "new", 30, 10));
    let logged = until_records(&log, 70);
    assert_eq!(bodies(&logged), published);
    assert_eq!(logged.own(), [format!("fork source={NAME} stream={stream} from=40 to=20")]);
    until_readyz(&subscriber, 200, &[]);

    // It happens again, to one that says nothing afterwards.
    publisher.kill();
    fs::remove_dir_all(&journal).unwrap();
    copy(&backup, &journal);
    let publisher = site.start();
    until_own(&log, 2);
    published.extend(publish(&publisher, "newer", 10, 10));
    let logged = until_records(&log, 80);
    subscriber.stop();
    assert_eq!(bodies(&logged), published);
    assert_eq!(logged.own()[1..], [format!("fork source={NAME} stream={stream} from=50 to=20")]);
    assert_verify_finds(&log, &[("forks", 2)]);
    publisher.stop();
}

#[test]
fn a_clone_of_a_journal_is_refused_by_name_until_it_has_a_stream_of_its_own() {
    let folders = [folder(), folder()];
    let (site, publisher) = publisher_at(folders[0].path(), "127.0.4.16", &[]);
    let first = feed_of(&publisher).to_owned();
    let log = LogSite::new(folders[0].path(), &[&first], &[]);
    let subscriber = log.start();
    let mut published = publish(&publisher, "common", 10, 10);
    until_records(&log, 10);
    subscriber.stop();
    publisher.kill();
    copy(&folders[0].path().join("journal"), &folders[1].path().join("journal"));

    let one = site.start();
    let (second_site, two) = publisher_at(folders[1].path(), "127.0.4.17", &[]);
    let second = feed_of(&two).to_owned();
    // As many of the same numbers here as there, and other records.
    published.extend(publish(&one, "one", 10, 10));
    publish(&two, "two", 10, 10);
    let stream = uuid(head_of(&one).stream);
    assert_eq!(stream, uuid(head_of(&two).stream));
    let both = LogSite::new(folders[0].path(), &[&first, &second], &[]);
    let subscriber = both.start();
    let clone_address = second.trim_start_matches("tcp://");
    until_readyz(&subscriber, 503, &[&stream, "--new-stream", clone_address]);
    published.extend(publish(&one, "more", 10, 10));
    assert_eq!(bodies(&until_records(&both, 30)), published);
    // Also while the first is silent: a clone is no stand-in.
    one.kill();
    publish(&two, "twice", 10, 10);
    until_readyz(&subscriber, 503, &[&stream, "--new-stream", first.trim_start_matches("tcp://"), clone_address]);
    let one = site.start();
    published.extend(publish(&one, "again", 10, 10));
    assert_eq!(bodies(&until_records(&both, 40)), published);

    two.kill();
    let mut command = second_site.command("");
    command.arg("--new-stream");
    let two = Daemon::start(command, 1);
    assert_ne!(uuid(head_of(&two).stream), stream);
    let own = publish(&two, "own", 10, 10);
    until_readyz(&subscriber, 200, &[]);
    both.until("the clone's own records", || {
        both.standing().is_written
            && both.read().bodies_of(NAME).filter(|body| own.iter().any(|own| own == body)).count() >= 10
    });
    published.extend(publish(&one, "last", 10, 10));
    both.until_all_of(&[one, two]);
    subscriber.stop();
    let logged = both.read();
    let (owns, others): (Vec<_>, Vec<_>) = bodies(&logged).into_iter().partition(|body| own.contains(body));
    assert_eq!(owns, own);
    // Whether a new stream takes the clone's records along is its own affair; the first's are there once, in order.
    let firsts: Vec<_> = others.iter().filter(|body| published.contains(body)).collect();
    assert!(firsts.iter().copied().eq(&published), "{firsts:?}");
    assert_eq!(logged.own(), [""; 0]);
}

#[test]
fn from_latest_begins_with_what_comes_next_at_the_first_contact_alone() {
    let folder = folder();
    let (_, publisher) = publisher_at(folder.path(), "127.0.4.18", &[]);
    publish(&publisher, "before", 20, 10);
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &["--from=latest"]);
    let subscriber = log.start();
    until_readyz(&subscriber, 200, &[]);
    let mut published = publish(&publisher, "a", 10, 10);
    assert_eq!(bodies(&until_records(&log, 10)), published);
    subscriber.kill();
    published.extend(publish(&publisher, "b", 10, 10));
    let subscriber = log.start();
    assert_eq!(bodies(&until_records(&log, 20)), published);
    subscriber.stop();
    assert_eq!(log.read().own(), [""; 0]);
    log.verify().assert_whole(20, 1);
    publisher.stop();
}

#[test]
fn a_log_without_an_index_is_refused_until_it_may_be_set_aside() {
    let folder = folder();
    let (_, publisher) = publisher_at(folder.path(), "127.0.4.19", &[]);
    let published = publish(&publisher, "a", 10, 10);
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &[]);
    const BEFORE: &str = "2026-11-21T08:03:53.861943Z elsewhere/- a line\nand one that is not ended";
    fs::write(log.log(), BEFORE).unwrap();
    let refused = outcome(&mut log.command(""));
    assert_eq!((refused.code, &*refused.stdout), (1, ""), "{}", refused.stderr);
    let path = log.log().display().to_string();
    assert!(refused.stderr.contains(&path) && refused.stderr.contains("--adopt"), "{}", refused.stderr);
    assert!(refused.stderr.starts_with("downpipe: ") && !refused.stderr.contains("panicked"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(log.log()).unwrap(), BEFORE);

    let subscriber = log.with(&["--adopt"]).start();
    eventually("ten lines", || (lines_of(&log.log()).len() >= 10).then_some(()));
    subscriber.stop();
    let adopted =
        names(folder.path()).into_iter().find(|name| name.ends_with(".adopted.log")).expect("it is set aside");
    assert_eq!(fs::read_to_string(folder.path().join(&adopted)).unwrap(), BEFORE);
    assert_eq!(lines_of(&log.log()).iter().map(|line| body(line)).collect::<Vec<_>>(), published);
    // There is nothing to adopt any more; an option that stays does no harm.
    let subscriber = log.with(&["--adopt"]).start();
    let more = publish(&publisher, "b", 10, 10);
    eventually("ten more", || (lines_of(&log.log()).len() >= 20).then_some(()));
    subscriber.stop();
    assert_eq!(lines_of(&log.log()).iter().map(|line| body(line)).collect::<Vec<_>>(), [published, more].concat());
    assert_eq!(names(folder.path()).iter().filter(|name| name.contains(".adopted.")).count(), 1);
    publisher.stop();
}

/// The whole lines of a file.
fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An entry of an index, by its table.
fn entry(kind: u8, stream: Stream, first: u64, end: u64, name: &str, home: &str) -> Vec<u8> {
    const TIME_NS: i64 = 1_795_248_233_861_943_000;
    let words = format!("{name}{home}");
    assert!(words.len() <= 56);
    let mut bytes = vec![0; 4];
    bytes.extend([kind, 1]);
    bytes.extend((words.len() as u16).to_le_bytes());
    bytes.extend(stream);
    bytes.extend(first.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(end.to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend(TIME_NS.to_le_bytes());
    bytes.extend(words.bytes());
    bytes.resize(128, 0);
    let crc = crc32c(&[&bytes[4..]]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn one_stream_more_than_an_index_takes_is_refused_by_name_and_the_others_go_on() {
    const STREAMS_MAX: u64 = 4096;
    let folders = [folder(), folder()];
    let (_, known) = publisher_at(folders[0].path(), "127.0.4.20", &[]);
    let (_, new) = publisher_at(folders[1].path(), "127.0.4.21", &[]);
    let log = LogSite::new(folders[0].path(), &[feed_of(&known), feed_of(&new)], &[]);
    let mut index = entry(1, Stream::default(), 1, 0, "", "");
    for number in 1..STREAMS_MAX {
        let mut stream = Stream::default();
        stream[..8].copy_from_slice(&number.to_be_bytes());
        index.extend(entry(2, stream, 0, 0, "gone", &format!("10.0.0.1:{number}")));
    }
    index.extend(entry(2, head_of(&known).stream, 0, 0, NAME, feed_of(&known).trim_start_matches("tcp://")));
    let bytes = index.len() as u64;
    index.extend(entry(9, Stream::default(), bytes, 0, "", ""));
    fs::write(folders[0].path().join("subscriber.log.idx"), index).unwrap();
    fs::write(log.log(), "").unwrap();

    let published = publish(&known, "a", 10, 10);
    publish(&new, "b", 10, 10);
    let subscriber = log.start();
    assert_eq!(bodies(&until_records(&log, 10)), published);
    let stream = uuid(head_of(&new).stream);
    until_readyz(&subscriber, 503, &[&stream, "4096", feed_of(&new).trim_start_matches("tcp://")]);
    let more = publish(&known, "c", 10, 10);
    assert_eq!(bodies(&until_records(&log, 20)), [published, more].concat());
    subscriber.stop();
    assert_eq!(log.verify().outcome.code, 0);
}

#[test]
fn only_the_oldest_files_of_the_log_are_removed_and_nothing_that_looks_like_them() {
    const KEEP: usize = 3;
    const FOREIGN: [&str; 8] = [
        "subscriber.20200101T000000Z.000001.log.old",
        "subscriber.20200101T000000Z.000001.log.gz",
        "subscriber.20200101T000000Z.1x.log",
        "subscriber.20200101.000001.log",
        "subscriber.20200101T000000Z.000001.json",
        "subscriber.log.1",
        "other.20200101T000000Z.000001.log",
        "xsubscriber.20200101T000000Z.000001.log",
    ];
    let folder = folder();
    let (_, publisher) = publisher_at(folder.path(), "127.0.4.22", &[]);
    for name in FOREIGN {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &["--rotate-size=1KiB", "--keep=3"]);
    let rotated = || {
        let is_own =
            |name: &String| name.ends_with(".log") && name.starts_with("subscriber.2") && !FOREIGN.contains(&&**name);
        let named = names(folder.path()).into_iter().filter(is_own);
        named.map(|name| (name.split('.').nth(2).unwrap().parse().unwrap(), name)).collect::<BTreeMap<u64, _>>()
    };
    let mut published = Vec::new();
    // A start removes what is too many as well.
    for life in 0..3 {
        let subscriber = log.start();
        for number in 0..10 {
            // One fills a file.
            published.extend(publish(&publisher, &format!("{life}-{number}-"), 1, 600));
            let last = published.last().unwrap();
            eventually("it is logged", || lines_of(&log.log()).iter().any(|line| body(line) == last).then_some(()));
        }
        eventually("the oldest are removed", || (rotated().len() <= KEEP).then_some(()));
        subscriber.kill();
    }
    let files = rotated();
    assert_eq!(files.len(), KEEP);
    let newest = *files.keys().last().unwrap();
    assert!(files.keys().copied().eq(newest + 1 - KEEP as u64..=newest), "{files:?}");
    assert!(newest >= 28, "{files:?}");
    let kept: Vec<_> = files.values().map(|name| folder.path().join(name)).chain([log.log()]).collect();
    let lines: Vec<_> = kept.iter().flat_map(|path| lines_of(path)).collect();
    assert!(published.ends_with(&lines.iter().map(|line| body(line).to_owned()).collect::<Vec<_>>()));
    let indexes = names(folder.path()).iter().filter(|name| name.ends_with(".idx")).count();
    assert_eq!(indexes, KEEP + 1);
    for name in FOREIGN {
        assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), name);
    }
    let verified = log.verify();
    assert_eq!((verified.outcome.code, verified.count("missing")), (0, 0), "{}", verified.outcome.stdout);
    publisher.stop();
}

/// What somebody does to a log.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meddling {
    Moved,
    Deleted,
    Emptied,
    Shortened,
}

impl Meddling {
    const ALL: [Self; 4] = [Self::Moved, Self::Deleted, Self::Emptied, Self::Shortened];

    fn happen(self, log: &Path, saved: &Path) {
        match self {
            Self::Moved => fs::rename(log, saved).unwrap(),
            Self::Deleted => fs::remove_file(log).unwrap(),
            Self::Emptied => fs::write(log, "").unwrap(),
            Self::Shortened => {
                let file = fs::OpenOptions::new().write(true).open(log).unwrap();
                file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            }
        }
    }

    /// As the subscriber states it.
    fn reason(self) -> &'static str {
        match self {
            Self::Moved | Self::Deleted => "moved",
            Self::Emptied | Self::Shortened => "shorter",
        }
    }
}

#[test]
fn a_log_that_was_meddled_with_under_the_daemon_begins_anew_and_says_so() {
    meddle("127.0.4.23", true);
}

#[test]
fn a_log_that_was_meddled_with_while_the_daemon_was_away_begins_anew_and_says_so() {
    meddle("127.0.4.24", false);
}

fn meddle(host: &str, is_running: bool) {
    let folder = folder();
    let (_, publisher) = publisher_at(folder.path(), host, &[]);
    // What is there is on the disk soon: less than that may be repaired.
    let log = LogSite::new(folder.path(), &[feed_of(&publisher)], &["--sync=10ms"]);
    let mut subscriber = log.start();
    let mut published = publish(&publisher, "first", 10, 10);
    until_bodies(&log.log(), &published);
    for (round, meddling) in Meddling::ALL.into_iter().enumerate() {
        until_synced(&log);
        let saved = folder.path().join("saved");
        let had = fs::read(log.log()).unwrap();
        if is_running {
            meddling.happen(&log.log(), &saved);
            subscriber.assert_running();
        } else {
            subscriber.stop();
            meddling.happen(&log.log(), &saved);
            subscriber = log.start();
        }
        // What is written from now on: nothing of what was there before, and nothing less than all that comes.
        published = publish(&publisher, &format!("round{round}-"), 10, 10);
        until_bodies(&log.log(), &published);
        assert_begins_anew(&log.log(), meddling);
        if meddling == Meddling::Moved {
            assert_eq!(fs::read(&saved).unwrap(), had);
            fs::remove_file(saved).unwrap();
        }
    }
    subscriber.stop();
    let own: Vec<_> = names(folder.path()).into_iter().filter(|name| name.ends_with(".idx")).collect();
    assert_eq!(own.len(), 5, "{own:?}");
    publisher.stop();
}

/// Waits until a file has lines of these bodies, beside the subscriber's own, and no others.
#[track_caller]
fn until_bodies(path: &Path, expected: &[String]) {
    let found = || {
        let lines = lines_of(path).into_iter().filter(|line| !line.contains(" $downpipe/"));
        lines.map(|line| body(&line).to_owned()).collect::<Vec<_>>()
    };
    eventually("as many lines as were published", || (found().len() >= expected.len()).then_some(()));
    assert_eq!(found(), expected);
}

/// Waits until all that the log has is on the disk, as its index says.
#[track_caller]
fn until_synced(log: &LogSite) {
    log.until("all is synced", || {
        let standing = log.standing();
        standing.is_written && standing.synced.is_some_and(|(_, end)| end == standing.log_bytes)
    });
}

/// That the current file's first line says why it begins anew, with the number of the file before.
#[track_caller]
fn assert_begins_anew(log: &Path, meddling: Meddling) {
    let lines = lines_of(log);
    let own: Vec<_> = lines.iter().filter(|line| line.contains(" $downpipe/")).collect();
    let aside =
        names(log.parent().unwrap()).into_iter().filter(|name| name.contains(&format!(".{}.log", meddling.reason())));
    let number =
        aside.filter_map(|name| name.split('.').nth(2)?.parse::<u64>().ok()).max().expect("the index is set aside");
    assert_eq!(own.len(), 1, "{meddling:?}: {own:?}");
    let said = format!(" $downpipe/moved file={number} reason={}", meddling.reason());
    assert!(lines[0].ends_with(&said), "{meddling:?}: {:?} does not end with {said:?}", lines[0]);
}
