//! Rotation: the current pair gets a number, and a new one takes its place. Each step can be done again.
//!
//! 1. Both files are synced, `sealed` with the name to be is appended to the index, and that is synced.
//! 2. The text is renamed. 3. The index is renamed.
//! 4. A new index, which begins with the position of every stream, is written, synced and renamed into place.
//! 5. The new text is created. 6. The folder is synced.
//!
//! A start that finds an index that ends with `sealed` goes on with step 2; one that finds no index, but a
//! numbered one, with step 4. A pair is set aside in the same steps: only the name says why, and the new
//! index has a `moved` entry. No file is ever replaced: if a name is taken, the pair is sealed once more.

use super::file::{Log, LogError, Unfinished};
use super::format::{Format, statement};
use super::index::{Aside, ENTRY_BYTES, Entry, Kind, LONGEST_BYTES, WORDS_BYTES_MAX};
use super::names::{Names, Numbered, RETIRED, index_of, with};
use super::open::{numbered_files, open_log, remove_if_there, sync_folder};
use super::pair::{Ends, Pair};
use super::positions::Positions;
use chrono::{DateTime, TimeDelta, Utc};
use faults::Faults;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// How many names are tried for a full file before rotation fails.
const NAME_TRIES_MAX: u32 = 1000;

/// What becomes of a pair that is complete.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    /// The name that its text gets.
    name: OsString,
    numbered: Numbered,
    /// How long the text is.
    end: u64,
    /// Both files have it.
    is_renamed: bool,
}

impl Sealed {
    pub(super) fn numbered(&self) -> Numbered {
        self.numbered
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// As a `sealed` entry has it. `None` if its words are no name of this log.
    pub(super) fn of(entry: &Entry, names: &Names) -> Option<Self> {
        let name = OsString::from_vec(entry.words.clone());
        Some(Self { numbered: names.parse(&name)?, name, end: entry.end, is_renamed: false })
    }

    /// Seals a pair that is synced, under a name that nothing has.
    pub(super) fn seal(names: &Names, pair: &mut Pair, aside: Option<Aside>) -> Result<Self, LogError> {
        // Entries of an append whose text was refused may lie behind the end.
        pair.cut_index(pair.ends.index)?;
        let numbered = Numbered { number: pair.number, aside };
        let name = free_name(names, numbered)?;
        let words = name.as_bytes().to_vec();
        if words.len() > WORDS_BYTES_MAX {
            return Err(LogError::NoName(names.log().to_owned()));
        }
        let time_ns = Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        pair.append_entry(&Entry { words, time_ns, ..Entry::new(Kind::Sealed, 0) })?;
        pair.pass("log.rotate.sealed")?;
        pair.sync_index()?;
        pair.pass("log.rotate.synced")?;
        Ok(Self { name, numbered, end: pair.ends.text, is_renamed: false })
    }

    /// Gives both files the name. `false` if it is taken.
    pub(super) fn rename(&self, names: &Names, faults: &Faults) -> Result<bool, LogError> {
        let target = names.folder().join(&self.name);
        let pass = |point| faults.at(point).map_err(LogError::io(point, names.log()));
        if self.is_current(names, &target)? && !rename(names.log(), &target)? {
            return Ok(false);
        }
        pass("log.rotate.log")?;
        let index = names.index();
        let has_index = index.try_exists().map_err(LogError::io("examine", &index))?;
        if has_index && !rename(&index, &index_of(&target))? {
            return Err(LogError::NamesTaken { path: names.log().to_owned(), tried: 1 });
        }
        pass("log.rotate.index")?;
        info!(file = %target.display(), "rotated the log");
        Ok(true)
    }

    /// Whether the text that was sealed still has the log's name. If it has the other by now, a file of the
    /// log's name is somebody else's.
    fn is_current(&self, names: &Names, target: &Path) -> Result<bool, LogError> {
        let length = |path: &Path| match fs::metadata(path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::io("examine", path)(error)),
        };
        let (current, renamed) = (length(names.log())?, length(target)?);
        Ok(current.is_some() && (renamed != Some(self.end) || current == Some(self.end)))
    }
}

impl Log {
    /// Gives the current pair its number, and begins a new one. After an error, call it again.
    ///
    /// # Errors
    /// The disk refused; or [`LogError::Sync`], see [`Log::sync`].
    pub(crate) fn rotate(&mut self) -> Result<(), LogError> {
        if self.sealed.is_none() {
            let number = self.pair.number;
            self.look()?;
            self.settle()?;
            if self.pair.number != number {
                // It was set aside: the new one is not full.
                return Ok(());
            }
            assert!(self.unfinished.is_empty(), "what is unfinished is not sealed");
            self.pair.pass("log.rotate.before")?;
            self.pair.sync()?;
            self.sealed = Some(Sealed::seal(&self.names, &mut self.pair, None)?);
        }
        self.complete_rotation()
    }

    /// Sets the current pair aside, and begins a new one with a statement of that, which is unfinished.
    pub(super) fn set_aside(&mut self, aside: Aside) -> Result<(), LogError> {
        let found = self.pair.log.metadata().map_err(LogError::io("examine", self.names.log()))?;
        if found.nlink() == 0 {
            self.let_go()?;
        }
        self.pair.sync()?;
        self.sealed = Some(Sealed::seal(&self.names, &mut self.pair, Some(aside))?);
        self.complete_rotation()
    }

    /// Closes a text that is not written to any more: if it was deleted, only that gives its room back, which
    /// what comes next may need.
    fn let_go(&mut self) -> Result<(), LogError> {
        self.pair.log = self.pair.index.try_clone().map_err(LogError::io("open", &self.pair.index_path))?;
        Ok(())
    }

    pub(super) fn complete_rotation(&mut self) -> Result<(), LogError> {
        let Some(mut sealed) = self.sealed.clone() else { return Ok(()) };
        if !sealed.is_renamed {
            if !sealed.rename(&self.names, &self.options.faults)? {
                self.sealed = Some(Sealed::seal(&self.names, &mut self.pair, sealed.numbered.aside)?);
                return self.complete_rotation();
            }
            sealed.is_renamed = true;
            self.sealed = Some(sealed.clone());
            self.let_go()?;
        }
        let begun =
            begin(&self.names, &self.positions, Some(sealed.numbered), self.options.format, &self.options.faults)?;
        (self.pair, self.unfinished) = (begun.pair, begun.unfinished.into_iter().collect());
        self.sealed = None;
        match sealed.numbered.aside {
            Some(_) => self.counters.asides.inc(),
            None => self.counters.rotations.inc(),
        };
        self.keep_few();
        Ok(())
    }

    /// Removes the oldest full files beyond those that are kept.
    pub(super) fn keep_few(&self) {
        let Some(keep) = self.options.keep else { return };
        if let Err(error) = self.remove_all_but(usize::try_from(keep).unwrap_or(usize::MAX)) {
            // The next rotation tries again.
            warn!(reason = error.chain(), "old files of the log cannot be removed");
        }
    }

    /// The index is renamed first, the text goes next: so it is never a text that has lost its index, and what a
    /// kill leaves is removed by the next.
    fn remove_all_but(&self, keep: usize) -> Result<(), LogError> {
        let mut files = numbered_files(&self.names, ".idx")?;
        files.retain(|(numbered, log)| numbered.aside.is_none() && is_ours(log, &index_of(log)));
        files.sort_unstable_by_key(|(numbered, _)| std::cmp::Reverse(numbered.number));
        for (_, log) in files.into_iter().skip(keep) {
            let index = index_of(&log);
            fs::rename(&index, with(&index, RETIRED)).map_err(LogError::io("rename", &index))?;
        }
        for (_, log) in numbered_files(&self.names, &format!(".idx{RETIRED}"))? {
            let retired = with(&index_of(&log), RETIRED);
            if is_ours(&log, &retired) {
                remove_if_there(&log)?;
                remove_if_there(&retired)?;
                info!(file = %log.display(), "removed an old file of the log");
            }
        }
        Ok(())
    }
}

/// Whether an index says that it is that of this numbered text.
fn is_ours(log: &Path, index: &Path) -> bool {
    let says = || -> io::Result<bool> {
        let index = File::open(index)?;
        let length = index.metadata()?.len();
        let begin = length.saturating_sub(LONGEST_BYTES as u64);
        let mut end = vec![0; (length - begin) as usize];
        index.read_exact_at(&mut end, begin)?;
        let starts = (1..=end.len() / ENTRY_BYTES).map(|entries| end.len() - entries * ENTRY_BYTES);
        let sealed = starts.filter_map(|start| Entry::decode(&end[start..]).ok()).map(|(entry, _)| entry);
        let is_name = |entry: Entry| Some(entry.words.as_slice()) == log.file_name().map(OsStrExt::as_bytes);
        Ok(sealed.into_iter().find(|entry| entry.kind == Kind::Sealed).is_some_and(is_name))
    };
    says().unwrap_or(false)
}

/// A pair that has just been begun.
pub(super) struct Begun {
    pub(super) pair: Pair,
    /// That the one before was set aside.
    pub(super) unfinished: Option<Unfinished>,
}

/// Begins a pair where the streams stand: the index first, whole and synced, then an empty text.
pub(super) fn begin(
    names: &Names,
    positions: &Positions,
    before: Option<Numbered>,
    format: Format,
    faults: &Faults,
) -> Result<Begun, LogError> {
    let last = super::open::last_number(names)?;
    let number = before.map_or(0, |before| before.number).max(last) + 1;
    let now = Utc::now();
    let begun_ns = now.timestamp_nanos_opt().unwrap_or(i64::MAX);
    let (bytes, synced) = first_entries(number, begun_ns, positions);
    let moved = before.and_then(|before| Some((before.aside?, before.number)));
    let moved = moved.map(|(aside, number)| moved_entry(aside, number, begun_ns, format, positions));

    // The first pair of a log is not one of a rotation.
    let faults_here = if before.is_some() { faults.clone() } else { Faults::default() };
    let pass = |point| faults_here.at(point).map_err(LogError::io(point, names.log()));
    let index_bytes = bytes.len() as u64;
    let bytes = moved.iter().fold(bytes, |mut bytes, entry| {
        entry.encode(&mut bytes);
        bytes
    });
    write_new(&names.new_index(), &bytes)?;
    // Nothing has that name, unless it was made here and what comes next then failed.
    fs::rename(names.new_index(), names.index()).map_err(LogError::io("rename", &names.new_index()))?;
    pass("log.rotate.new")?;
    let log = new_log(names, number)?;
    pass("log.rotate.created")?;
    sync_folder(names.folder())?;
    pass("log.rotate.done")?;

    let index_path = names.index();
    let index = File::options().read(true).write(true).open(&index_path).map_err(LogError::io("open", &index_path))?;
    let mut pair = Pair::new(log, index, names, faults.clone());
    (pair.number, pair.begun_ns) = (number, begun_ns);
    pair.synced = Ends { index: synced, text: 0 };
    pair.ends = Ends { index: bytes.len() as u64, text: moved.as_ref().map_or(0, |entry| entry.end) };
    if moved.is_none() {
        pair.synced = pair.ends;
    }
    let unfinished = moved.map(|entry| Unfinished { entry, offset: index_bytes, begin: 0, is_whole: false });
    Ok(Begun { pair, unfinished })
}

/// What every index begins with. Also where its `synced` entry is.
fn first_entries(number: u64, time_ns: i64, positions: &Positions) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    Entry { first: number, time_ns, ..Entry::new(Kind::Begin, 0) }.encode(&mut bytes);
    for (stream, standing) in positions.in_order() {
        standing.entry(stream).encode(&mut bytes);
    }
    let synced = bytes.len() as u64;
    Entry { first: synced, ..Entry::new(Kind::Synced, 0) }.encode(&mut bytes);
    (bytes, synced)
}

fn moved_entry(aside: Aside, number: u64, time_ns: i64, format: Format, positions: &Positions) -> Entry {
    let mut entry = Entry { first: number, detail: aside as u32, time_ns, lines: 1, ..Entry::new(Kind::Moved, 0) };
    let mut text = Vec::new();
    statement(format, &entry, positions, &mut text);
    (entry.end, entry.text_crc) = (text.len() as u64, crc32c::crc32c(&text));
    entry
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(LogError::io("write", path))
}

/// The text that is to be current. Whatever has its name and is not empty is not ours, and is set aside.
fn new_log(names: &Names, number: u64) -> Result<File, LogError> {
    let found = fs::metadata(names.log()).map_or(0, |found| found.len());
    if found > 0 {
        adopt(names, number)?;
    }
    open_log(names)
}

/// Sets a text aside that has no index.
pub(super) fn adopt(names: &Names, number: u64) -> Result<(), LogError> {
    let target = free_name(names, Numbered { number, aside: Some(Aside::Adopted) })?;
    let target = names.folder().join(target);
    if !rename(names.log(), &target)? {
        return Err(LogError::NamesTaken { path: names.log().to_owned(), tried: 1 });
    }
    warn!(log = %names.log().display(), file = %target.display(), "set aside a text that had no index");
    Ok(())
}

/// A name that no text and no index has. The time in it is for people: if it is taken, the next second is.
fn free_name(names: &Names, numbered: Numbered) -> Result<OsString, LogError> {
    let now: DateTime<Utc> = Utc::now();
    let is_free = |name: &OsString| {
        let path: PathBuf = names.folder().join(name);
        !path.exists() && !index_of(&path).exists()
    };
    let candidates = (0..NAME_TRIES_MAX).map(|later| names.numbered(now + TimeDelta::seconds(later.into()), numbered));
    let taken = || LogError::NamesTaken { path: names.log().to_owned(), tried: NAME_TRIES_MAX };
    candidates.into_iter().find(is_free).ok_or_else(taken)
}

/// Renames without replacing. `false` if the new name is taken.
fn rename(from: &Path, to: &Path) -> Result<bool, LogError> {
    let failed = LogError::io("rename", from);
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // Not every file system knows the flag. The lock keeps other subscribers away meanwhile.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match to.try_exists() {
            Ok(true) => Ok(false),
            Ok(false) => fs::rename(from, to).map(|()| true).map_err(failed),
            Err(error) => Err(failed(error)),
        },
        Err(error) => Err(failed(error.into())),
    }
}
