//! A bit that turned, zeros, an end that is gone or one that is not ours, anywhere in the index and the text of a
//! log whose writer was killed.
//!
//! Whatever was damaged: the next subscriber writes no wrong line and none twice, every record is somewhere (but
//! for what was damaged of the text itself), and `verify` finds what was damaged of that which was on the disk.

use super::*;
use crate::collector::crc32c;
use crate::publishing::journal_blocks;
use std::fs;
use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const NAME: &str = "one";
const ENTRY_BYTES: usize = 128;
/// So that a file is synced a few times before it is full.
const OPTIONS: [&str; 2] = ["--rotate-size=256KiB", "--sync=50ms"];
/// Subscribers at once, each with a log of its own.
const WORKERS: usize = 4;
/// How often each place is damaged in each way, unless the variable TIMES says something else.
const TIMES: usize = 3;

/// An entry of an index, as far as this is concerned with it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: Kind,
    /// Where its text ends.
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Begin,
    Stream,
    Block,
    Synced,
    Sealed,
    More,
}

fn entries(index: &[u8]) -> Vec<Entry> {
    let read = |(number, bytes): (usize, &[u8])| {
        assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()), crc32c(&[&bytes[4..]]), "entry {number}");
        let kind = match bytes[4] {
            1 => Kind::Begin,
            2 => Kind::Stream,
            3 => Kind::Block,
            9 => Kind::Synced,
            10 => Kind::Sealed,
            11 => Kind::More,
            other => panic!("entry {number} is of kind {other}"),
        };
        let end = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        Entry { kind, end }
    };
    index.chunks_exact(ENTRY_BYTES).enumerate().map(read).collect()
}

/// What `verify` is to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finds {
    Damage,
    Nothing,
    /// Nobody can tell it from what was never synced.
    Either,
}

/// A place that can be damaged.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    what: &'static str,
    file: String,
    bytes: Range<usize>,
    /// If something in it is another, and if the file ends there.
    finds: [Finds; 2],
    /// The text of records that are synced is there: what is damaged of it is nowhere else.
    is_synced_text: bool,
}

/// What happens to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A bit turns.
    Bit(u8),
    /// So many bytes are zeros, as far as the place goes.
    Zeros(usize),
    /// The file ends there.
    Cut,
    /// So many bytes of somebody else are behind the file's end.
    Grown(usize),
}

impl Way {
    /// One of each.
    fn all(random: &mut Random) -> [Self; 4] {
        let mut bytes = |bound| 1 + random.below(bound) as usize;
        [Self::Bit(1 << (bytes(8) - 1)), Self::Zeros(bytes(4096)), Self::Cut, Self::Grown(bytes(1000))]
    }
}

/// What was done to a place.
#[derive(Debug, Clone, PartialEq)]
struct Damage {
    place: Place,
    at: usize,
    way: Way,
}

impl Damage {
    fn random(place: &Place, way: Way, random: &mut Random) -> Self {
        let at = place.bytes.start + random.below(place.bytes.len() as u64) as usize;
        Self { place: place.clone(), at, way }
    }

    /// In the files that the next subscriber goes on with, which ends them where they are to end.
    fn is_current(&self) -> bool {
        self.place.file.starts_with("subscriber.log")
    }

    fn finds(&self) -> Finds {
        match self.way {
            Way::Bit(_) | Way::Zeros(_) => self.place.finds[0],
            Way::Cut => self.place.finds[1],
            Way::Grown(_) if self.is_current() => Finds::Nothing,
            Way::Grown(_) => Finds::Damage,
        }
    }

    fn happen(&self, folder: &Path) {
        let path = folder.join(&self.place.file);
        let mut bytes = fs::read(&path).unwrap();
        match self.way {
            Way::Bit(bit) => bytes[self.at] ^= bit,
            Way::Zeros(count) => {
                let end = self.place.bytes.end.min(self.at + count);
                // What is zero already is none the worse.
                bytes[self.at] = if bytes[self.at] == 0 { 0xff } else { 0 };
                bytes[self.at + 1..end].fill(0);
            }
            Way::Cut => bytes.truncate(self.at),
            Way::Grown(count) => bytes.resize(bytes.len() + count, b'?'),
        }
        fs::write(path, bytes).unwrap();
    }

    /// The bytes of the place's file whose text nobody can have again.
    fn lost_text(&self) -> Range<usize> {
        match self.way {
            _ if !self.place.is_synced_text => 0..0,
            Way::Grown(_) if self.is_current() => 0..0,
            Way::Bit(_) => self.at..self.at + 1,
            Way::Zeros(count) => self.at..self.place.bytes.end.min(self.at + count),
            Way::Cut => self.at..usize::MAX,
            // It is a line that nobody wrote, and takes none away.
            Way::Grown(_) => self.place.bytes.end..usize::MAX,
        }
    }
}

/// A log whose subscriber was killed, in a folder that is copied for each damage.
struct Killed {
    folder: tempfile::TempDir,
    places: Vec<Place>,
}

impl Killed {
    /// Where it can be damaged, if it has all the parts that this is about.
    fn new(folder: tempfile::TempDir) -> Result<Self, tempfile::TempDir> {
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        let (index, text) = (read("subscriber.log.idx"), read("subscriber.log"));
        let all = entries(&index);
        let last_synced = all.iter().rposition(|entry| entry.kind == Kind::Synced);
        let files = oracle::files(folder.path());
        let (Some(last_synced), true) = (last_synced, files.len() > 3) else { return Err(folder) };
        let first_block = all.iter().position(|entry| entry.kind == Kind::Block);
        let (synced, tail) = all.split_at(last_synced);
        let synced_end = tail[0].end;
        let written_end = text.len().min(all.last().unwrap().end);
        let has_blocks = |entries: &[Entry]| entries.iter().filter(|entry| entry.kind == Kind::Block).count() >= 3;
        if !has_blocks(synced) || !has_blocks(tail) || synced_end == 0 || written_end < synced_end + 100 {
            return Err(folder);
        }
        let sealed = files[files.len() / 2].file_name().unwrap().to_str().unwrap().to_owned();
        let places = places(&all, first_block.unwrap(), last_synced, synced_end..written_end);
        let sealed_places = sealed_places(&folder.path().join(&sealed), &sealed);
        Ok(Self { folder, places: [places, sealed_places].concat() })
    }
}

fn places(all: &[Entry], first_block: usize, last_synced: usize, tail_text: Range<usize>) -> Vec<Place> {
    use Finds::{Damage, Either, Nothing};
    let index = |what, entries: Range<usize>, finds| Place {
        what,
        file: "subscriber.log.idx".to_owned(),
        bytes: entries.start * ENTRY_BYTES..entries.end * ENTRY_BYTES,
        finds,
        is_synced_text: false,
    };
    let text = |what, bytes, finds, is_synced_text| Place {
        what,
        file: "subscriber.log".to_owned(),
        bytes,
        finds,
        is_synced_text,
    };
    // An index that ends earlier looks like one that was written less; what the text has beyond it comes again.
    vec![
        index("begin", 0..1, [Damage, Either]),
        index("streams", 1..first_block, [Damage, Either]),
        index("synced entries", first_block..last_synced, [Damage, Either]),
        index("last synced", last_synced..last_synced + 1, [Either, Either]),
        index("tail", last_synced + 1..all.len(), [Nothing, Nothing]),
        text("synced text", 0..tail_text.start, [Damage, Damage], true),
        text("tail of the text", tail_text, [Nothing, Nothing], false),
    ]
}

fn sealed_places(path: &Path, file: &str) -> Vec<Place> {
    let index = fs::read(format!("{}.idx", path.display())).unwrap();
    let all = entries(&index);
    let sealed = all.iter().position(|entry| entry.kind == Kind::Sealed).expect("it is sealed");
    let place = |what, file: String, bytes, is_synced_text| Place {
        what,
        file,
        bytes,
        finds: [Finds::Damage; 2],
        is_synced_text,
    };
    vec![
        place("sealed: begin", format!("{file}.idx"), 0..ENTRY_BYTES, false),
        place("sealed: entries", format!("{file}.idx"), ENTRY_BYTES..sealed * ENTRY_BYTES, false),
        place("sealed: the last", format!("{file}.idx"), sealed * ENTRY_BYTES..(sealed + 1) * ENTRY_BYTES, false),
        place("sealed: text", file.to_owned(), 0..all[sealed].end, true),
    ]
}

/// What was published, in order. One at a time publishes.
struct Published {
    client: Client,
    bodies: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Published {
    fn new(publisher: &Daemon, bodies: Vec<String>) -> Self {
        let client = Client::connect(publisher.told("publisher", "http")).unwrap();
        let numbers = bodies.iter().cloned().zip(0..).collect();
        Self { client, bodies, numbers }
    }

    fn publish(&mut self, text: &str) -> String {
        let body = crate::publishing::publish(&mut self.client, text).unwrap();
        self.numbers.insert(body.clone(), self.bodies.len());
        self.bodies.push(body.clone());
        body
    }
}

#[test]
fn whatever_is_damaged_no_line_is_wrong_and_no_record_gone() {
    let (home, mut random) = (folder(), Random::new());
    let (origin, publisher) = Origin::new(home.path(), NAME, "127.0.4.31", Load::new(3, 200));
    let feed = publisher.told("publisher", "feed").to_owned();
    let killed = killed(&origin, &feed);
    let blocks = journal_blocks(&home.path().join(NAME).join("journal"));
    let records = blocks.iter().flat_map(|block| block.records());
    let bodies = records.map(|record| str::from_utf8(record.body).unwrap().to_owned()).collect();
    let published = Mutex::new(Published::new(&publisher, bodies));

    let times = std::env::var("TIMES").map_or(TIMES, |times| times.parse().expect("a number"));
    let mut damages = Vec::new();
    for place in killed.places.iter().filter(|place| !place.bytes.is_empty()) {
        for way in (0..times).flat_map(|_| Way::all(&mut random)).collect::<Vec<_>>() {
            damages.push(Damage::random(place, way, &mut random));
        }
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The others are worth knowing, too.
                    if panic::catch_unwind(|| survive(&killed, damage, &feed, &published)).is_err() {
                        failed.lock().unwrap().push(damage);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), [] as [&Damage; 0]);
    publisher.stop();
}

/// Has subscribers write and be killed until a log has all the parts.
fn killed(origin: &Origin, feed: &str) -> Killed {
    let mut folder = folder();
    origin.load.during(|| {
        loop {
            let log = LogSite::new(folder.path(), &[feed], &OPTIONS);
            let subscriber = log.start();
            log.until_more(500);
            // It has synced something of its current file, and written more.
            log.until("there is a tail", || {
                let standing = log.standing();
                standing.synced.is_some_and(|(bytes, end)| {
                    bytes > 10 * ENTRY_BYTES as u64 && end > 0 && standing.index_bytes > bytes + 10 * ENTRY_BYTES as u64
                })
            });
            subscriber.kill();
            match Killed::new(folder) {
                Ok(killed) => return killed,
                Err(again) => folder = again,
            }
        }
    })
}

/// A damaged log, its next subscriber, and what there is then.
fn survive(killed: &Killed, damage: &Damage, feed: &str, published: &Mutex<Published>) {
    let folder = folder();
    let copied = outcome(Command::new("cp").arg("-r").arg(killed.folder.path().join(".")).arg(folder.path()));
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    let allowed = Allowed::new(folder.path(), damage);
    damage.happen(folder.path());
    let log = LogSite::new(folder.path(), &[feed], &OPTIONS);
    assert_ends_by_itself(&log.verify(), damage);

    let subscriber = log.start();
    let marker = {
        let mut published = locked(published);
        let number = published.bodies.len();
        published.publish(&format!("MARKER{number}"))
    };
    eventually("the next record is logged", || {
        lines_of(&log.log()).iter().any(|line| line.ends_with(&marker)).then_some(())
    });
    subscriber.stop();

    let verified = log.verify();
    assert_ends_by_itself(&verified, damage);
    let published = locked(published);
    let last = published.numbers[&marker];
    let found = Found::new(&log, &published, &allowed).unwrap_or_else(|what| panic!("{what}: {damage:?}"));
    for number in 0..=last {
        let body = &published.bodies[number];
        assert!(found.anywhere.contains(&number) || allowed.is_lost(body), "{body} is nowhere: {damage:?}");
    }
    let expected = match damage.finds() {
        Finds::Either => verified.outcome.code,
        Finds::Damage => 1,
        Finds::Nothing => 0,
    };
    assert_eq!(verified.outcome.code, expected, "{}: {damage:?}", verified.outcome.stdout);
}

/// Also after another damage was not survived.
fn locked(published: &Mutex<Published>) -> MutexGuard<'_, Published> {
    published.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn an_end_that_nobody_can_give_again_is_cut_and_comes_again_later() {
    let (home, mut random) = (folder(), Random::new());
    let (origin, publisher) = Origin::new(home.path(), NAME, "127.0.4.32", Load::new(3, 200));
    let killed = killed(&origin, publisher.told("publisher", "feed"));
    let log = LogSite::new(killed.folder.path(), &[publisher.told("publisher", "feed")], &OPTIONS);
    publisher.kill();
    let torn = killed.places.iter().find(|place| place.what == "tail of the text").unwrap();
    let damage = Damage::random(torn, Way::Cut, &mut random);
    damage.happen(killed.folder.path());

    // It is not known, and asked for in vain. What is not torn stays.
    let subscriber = log.start();
    log.until("the torn end is given up", || log.standing().is_written);
    let (standing, synced) = (log.standing(), torn.bytes.start as u64);
    assert!((synced..=damage.at as u64).contains(&standing.log_bytes), "{standing:?}: {damage:?}");
    let publisher = origin.next();
    origin.load.during(|| origin.load.until_acknowledged(10));
    log.until_all_of(std::slice::from_ref(&publisher));
    subscriber.stop();
    log.assert_exact(std::slice::from_ref(&origin));
    publisher.stop();
}

/// Whatever it finds, it says so and ends.
#[track_caller]
fn assert_ends_by_itself(verified: &Verified, damage: &Damage) {
    let Outcome { code, stdout, stderr } = &verified.outcome;
    assert!([0, 1].contains(code) && !stderr.contains("panicked"), "{damage:?}: {code}: {stdout}{stderr}");
}

/// The text that the damage itself took.
struct Allowed {
    file: PathBuf,
    damaged: Range<usize>,
    /// The lines that were there, as far as they are damaged.
    lines: Vec<String>,
}

impl Allowed {
    /// Read before it is done.
    fn new(folder: &Path, damage: &Damage) -> Self {
        let (file, damaged) = (folder.join(&damage.place.file), damage.lost_text());
        if damaged.is_empty() {
            return Self { file, damaged, lines: Vec::new() };
        }
        let text = String::from_utf8(fs::read(&file).unwrap()).unwrap();
        let (mut begin, mut lines) = (0, Vec::new());
        for line in text.split_inclusive('\n') {
            let end = begin + line.len();
            // A newline that is gone takes the next line along.
            if begin <= damaged.end && damaged.start < end {
                lines.push(line.to_owned());
            }
            begin = end;
        }
        Self { file, damaged, lines }
    }

    /// Whether the damage took the line of a record.
    fn is_lost(&self, body: &str) -> bool {
        self.lines.iter().any(|line| line.trim_end_matches('\n').ends_with(body))
    }

    /// Whether a wrong line of a file, from its first byte up to its last, is the damage itself.
    fn is_damage(&self, file: &Path, line: Range<usize>) -> bool {
        let touches = line.start <= self.damaged.end && self.damaged.start <= line.end;
        file == self.file && !self.damaged.is_empty() && touches
    }
}

/// Which records are in a log, and in what was set aside.
struct Found {
    anywhere: BTreeSet<usize>,
}

impl Found {
    /// Fails at a line of the log that is not the line of a record, or the subscriber's own, or comes again
    /// or too early.
    fn new(log: &LogSite, published: &Published, allowed: &Allowed) -> Result<Self, String> {
        let mut anywhere = BTreeSet::new();
        let mut last = None;
        for path in oracle::files(&log.seen) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_aside = name.split('.').count() == 5;
            let text = fs::read(&path).unwrap();
            let mut begin = 0;
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                let range = begin..begin + line.len();
                begin = range.end;
                match number_of(line, published) {
                    Ok(Some(number)) => {
                        anywhere.insert(number);
                        let before = if is_aside { None } else { last.replace(number) };
                        if before >= Some(number) {
                            return Err(format!("record {number} of {name} is behind {before:?}"));
                        }
                    }
                    Ok(None) => {}
                    Err(_) if is_aside || allowed.is_damage(&path, range) => {}
                    Err(what) => return Err(format!("{name}: {what}")),
                }
            }
        }
        for name in fs::read_dir(&log.seen).unwrap().map(|entry| entry.unwrap().path()) {
            if name.to_str().unwrap().contains(".log.tail.") {
                let text = fs::read(name).unwrap();
                anywhere.extend(text.split(|byte| *byte == b'\n').filter_map(|line| number_in(line, published)));
            }
        }
        Ok(Self { anywhere })
    }
}

/// Which record a line is of; `None` for the subscriber's own.
fn number_of(line: &[u8], published: &Published) -> Result<Option<usize>, String> {
    let wrong = |what: &str| format!("{what}: {:?}", String::from_utf8_lossy(line));
    let text = str::from_utf8(line).map_err(|_| wrong("not UTF-8"))?;
    let text = text.strip_suffix('\n').ok_or_else(|| wrong("a line without an end"))?;
    let [time, source, body] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else { return Err(wrong("no line")) };
    if time.len() != "2026-11-21T08:03:53.861943Z".len() || !time.ends_with('Z') {
        return Err(wrong("no time"));
    }
    match source {
        "one/downcase" => published.numbers.get(body).copied().map(Some).ok_or_else(|| wrong("nobody published it")),
        "$downpipe/moved" => Ok(None),
        _ => Err(wrong("nobody's line")),
    }
}

fn number_in(line: &[u8], published: &Published) -> Option<usize> {
    number_of(&[line, b"\n"].concat(), published).ok().flatten()
}

/// The whole lines of a file, if they are text.
fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let whole = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    whole.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}
