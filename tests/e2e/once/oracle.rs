//! What is in a log: its lines, read by hand from all its files, and where its index says that it stands.
//!
//! Nothing here shares code with the product. What judges are the lines; the index is read to know how
//! long to wait, and what a power cut has left.

use crate::collector::{Stream, crc32c};
use crate::harness::eventually;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A line of the text format: `TIME SOURCE/TOPIC body`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) source: String,
    pub(super) topic: String,
    pub(super) body: String,
}

/// All lines of a log, in the order of its files.
pub(super) struct Logged {
    /// Those of records.
    pub(super) lines: Vec<Line>,
    /// The subscriber's own, from the topic on: `lost source=…`.
    own: Vec<String>,
}

impl Logged {
    /// Reads the files of the log in `folder`: rotated ones and those that were set aside by their number,
    /// then the current one.
    #[track_caller]
    pub(super) fn read(folder: &Path) -> Self {
        let mut logged = Self { lines: Vec::new(), own: Vec::new() };
        for (path, text) in texts(folder) {
            assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
            for line in text.lines() {
                logged.add(line).unwrap_or_else(|what| panic!("{what} in {}: {line:?}", path.display()));
            }
        }
        logged
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let (time, rest) = line.split_once(' ').ok_or("no time")?;
        let (from, body) = rest.split_once(' ').ok_or("no source")?;
        let (source, topic) = from.split_once('/').ok_or("no topic")?;
        if !is_time(time) {
            return Err("another time");
        }
        match source.strip_prefix('$') {
            Some("downpipe") => self.own.push(format!("{topic} {body}")),
            Some(_) => return Err("a marker of nobody"),
            None => self.lines.push(Line { source: source.into(), topic: topic.into(), body: body.into() }),
        }
        Ok(())
    }

    /// The subscriber's own lines, from the topic on.
    pub(super) fn own(&self) -> &[String] {
        &self.own
    }

    /// How many lines of records there are.
    pub(super) fn records(&self) -> usize {
        self.lines.len()
    }

    /// Whose records there are.
    pub(super) fn sources(&self) -> BTreeSet<&str> {
        self.lines.iter().map(|line| &*line.source).collect()
    }

    /// The bodies of one source's records, all of which are to be of the topic `downcase`.
    pub(super) fn bodies_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |line| line.source == source).map(|line| {
            assert_eq!(line.topic, "downcase", "{line:?}");
            &*line.body
        })
    }
}

/// `2026-11-21T08:03:53.861943Z`
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z";
    let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() == FORM.len() && text.as_bytes().iter().zip(FORM).all(fits)
}

/// The texts of the files of a log, which may be rotated meanwhile: then it is looked again, or one would be left out.
#[track_caller]
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    eventually("the log is read between two rotations", || {
        let listed = files(folder);
        let read = |path: &PathBuf| fs::read_to_string(path).map(|text| (path.clone(), text));
        match listed.iter().map(read).collect::<Result<_, _>>() {
            Ok(texts) => (files(folder) == listed).then_some(texts),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{}: {error}", folder.display()),
        }
    })
}

/// The files of the log in `folder`, oldest first. Those that were set aside have their number like the others.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut numbered: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.split('.').collect::<Vec<_>>()[..] {
            ["subscriber", "log"] => numbered.push((u64::MAX, path)),
            ["subscriber", _, number, "log"]
            | ["subscriber", _, number, "moved" | "shorter" | "damaged" | "adopted", "log"] => {
                numbered.push((number.parse().unwrap(), path));
            }
            _ => {}
        }
    }
    numbered.sort();
    assert!(numbered.windows(2).all(|pair| pair[0].0 != pair[1].0), "a number twice: {numbered:?}");
    numbered.into_iter().map(|(_, path)| path).collect()
}

/// Copies of text that was cut: `subscriber.log.tail.N`.
pub(super) fn tails(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("subscriber.log.tail.")).count()
}

const ENTRY_BYTES: usize = 128;
const STREAM: u8 = 2;
const BLOCK: u8 = 3;
const LOST: u8 = 5;
const FORK: u8 = 6;
const REPLACED: u8 = 7;
const SYNCED: u8 = 9;
const MORE: u8 = 11;

/// What a current index and its log say, as they lie there.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The next number of each stream.
    pub(super) positions: HashMap<Stream, u64>,
    /// Whether the log ends where the last entry says.
    pub(super) is_written: bool,
    /// Bytes of whole and valid entries.
    pub(super) index_bytes: u64,
    /// Where the text of the last of them ends.
    pub(super) entered_end: u64,
    /// Up to where the log has the text of the entries.
    pub(super) text_end: u64,
    /// Bytes of the log.
    pub(super) log_bytes: u64,
    /// Bytes of the index behind its last `synced` entry, and the text's end there.
    pub(super) synced: Option<(u64, u64)>,
}

impl Standing {
    /// Without the checksums: what matters is how far it is.
    pub(super) fn read(folder: &Path) -> Self {
        let index = fs::read(folder.join("subscriber.log.idx")).unwrap_or_default();
        let mut standing = Self::default();
        index.chunks_exact(ENTRY_BYTES).for_each(|entry| standing.follow(entry));
        let log = fs::metadata(folder.join("subscriber.log"));
        standing.log_bytes = log.map_or(0, |log| log.len());
        standing.is_written = standing.log_bytes == standing.entered_end;
        standing
    }

    /// With the checksums of entries and text, up to the first entry that is none.
    pub(super) fn examine(folder: &Path) -> Self {
        let index = fs::read(folder.join("subscriber.log.idx")).unwrap_or_default();
        let log = fs::read(folder.join("subscriber.log")).unwrap_or_default();
        let mut standing = Self { log_bytes: log.len() as u64, ..Self::default() };
        let mut is_torn = false;
        for entry in index.chunks_exact(ENTRY_BYTES) {
            if u32_at(entry, 0) != crc32c(&[&entry[4..]]) {
                break;
            }
            let begin = standing.entered_end;
            standing.follow(entry);
            let text = log.get(begin as usize..standing.entered_end as usize);
            let is_there =
                text.is_some_and(|text| standing.entered_end == begin || crc32c(&[text]) == u32_at(entry, 52));
            is_torn |= !is_there;
            if !is_torn {
                standing.text_end = standing.entered_end;
            }
        }
        standing.is_written = !is_torn && standing.log_bytes == standing.entered_end;
        standing
    }

    fn follow(&mut self, entry: &[u8]) {
        self.index_bytes += ENTRY_BYTES as u64;
        let (stream, next) = (entry[8..24].try_into().unwrap(), u64_at(entry, 32));
        match entry[4] {
            MORE => return,
            STREAM | BLOCK | LOST | FORK => drop(self.positions.insert(stream, next)),
            REPLACED => {
                let (stream, base) = (entry[72..88].try_into().unwrap(), u64_at(entry, 88));
                self.positions.insert(stream, base);
            }
            _ => {}
        }
        self.entered_end = u64_at(entry, 40);
        if entry[4] == SYNCED {
            self.synced = Some((self.index_bytes, self.entered_end));
        }
    }
}

fn u32_at(entry: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(entry[offset..offset + 4].try_into().unwrap())
}

fn u64_at(entry: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(entry[offset..offset + 8].try_into().unwrap())
}

#[test]
fn lines_are_read_in_the_order_of_their_files_and_own_ones_apart() {
    let folder = crate::harness::folder();
    let write = |name: &str, lines: &[&str]| {
        let text: String = lines.iter().map(|line| format!("2026-11-21T08:03:53.861943Z {line}\n")).collect();
        fs::write(folder.path().join(name), text).unwrap();
    };
    write("subscriber.log", &["a/downcase 4"]);
    write("subscriber.20261121T080000Z.000010.log", &["a/downcase 3 with/words"]);
    write("subscriber.20261121T090000Z.000009.log", &["a/downcase 1", "b/t one"]);
    write("subscriber.20261121T090000Z.000011.shorter.log", &["$downpipe/lost source=a", "a/downcase "]);
    for other in ["subscriber.log.idx", "subscriber.log.lock", "subscriber.log.tail.1"] {
        fs::write(folder.path().join(other), "no line").unwrap();
    }
    let logged = Logged::read(folder.path());
    assert_eq!(logged.bodies_of("a").collect::<Vec<_>>(), ["1", "3 with/words", "", "4"]);
    assert_eq!(logged.own(), ["lost source=a"]);
    assert_eq!(logged.sources(), BTreeSet::from(["a", "b"]));
    assert_eq!((logged.records(), tails(folder.path())), (5, 1));
}

#[test]
fn an_index_tells_how_far_it_is_and_what_of_its_text_is_there() {
    let folder = crate::harness::folder();
    let entry = |kind: u8, next: u64, end: u64, text: &str| {
        let mut entry = [0; ENTRY_BYTES];
        (entry[4], entry[8]) = (kind, 7);
        entry[32..40].copy_from_slice(&next.to_le_bytes());
        entry[40..48].copy_from_slice(&end.to_le_bytes());
        entry[52..56].copy_from_slice(&crc32c(&[text.as_bytes()]).to_le_bytes());
        let sum = crc32c(&[&entry[4..]]);
        entry[..4].copy_from_slice(&sum.to_le_bytes());
        entry
    };
    let entries =
        [entry(STREAM, 4, 0, ""), entry(BLOCK, 6, 4, "one\n"), entry(SYNCED, 0, 4, ""), entry(BLOCK, 9, 8, "two\n")];
    let standing = |index: &[u8], log: &str| {
        fs::write(folder.path().join("subscriber.log.idx"), index).unwrap();
        fs::write(folder.path().join("subscriber.log"), log).unwrap();
        let standing = Standing::examine(folder.path());
        let next = standing.positions.values().copied().next().unwrap_or(0);
        (next, standing.entered_end, standing.text_end, standing.is_written)
    };
    let index = entries.concat();
    assert_eq!(standing(&index, "one\ntwo\n"), (9, 8, 8, true));
    assert_eq!(standing(&index, "one\ntwo\nand"), (9, 8, 8, false));
    assert_eq!(standing(&index, "one\ntw"), (9, 8, 4, false));
    assert_eq!(standing(&index, "one\n\0\0\0\0"), (9, 8, 4, false));
    assert_eq!(standing(&index[..ENTRY_BYTES * 4 - 1], "one\ntwo\n"), (6, 4, 4, false));
    let mut damaged = index.clone();
    damaged[ENTRY_BYTES + 9] = 1;
    assert_eq!(standing(&damaged, "one\ntwo\n"), (4, 0, 0, false));
    assert_eq!(Standing::examine(folder.path()).synced, None);
    fs::write(folder.path().join("subscriber.log.idx"), &index).unwrap();
    assert_eq!(Standing::examine(folder.path()).synced, Some((3 * ENTRY_BYTES as u64, 4)));
    assert_eq!(Standing::read(folder.path()).positions, HashMap::from([(entry_stream(), 9)]));
}

fn entry_stream() -> Stream {
    let mut stream = Stream::default();
    stream[0] = 7;
    stream
}
