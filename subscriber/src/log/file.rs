//! A log: its text and its index, as one thing that is opened, appended to, synced and rotated.
//!
//! - **Entry first, then text**, both where they belong ([`pair`](super::pair)).
//! - **At the start** ([`open`](super::open)) what is behind the last `synced` entry is believed as far as
//!   the text is there, and written again. Entries whose text is not there are *unfinished*: the writer
//!   finishes them in order, or the first that he cannot finish ends index and log.
//! - **Files are cut between entries only** ([`rotate`](super::rotate)). A file is never longer than the
//!   limit, unless it is one entry that is. A full file is never written to again and never replaced.
//! - A log that was moved, deleted or cut from outside is looked for before each append; its pair is then
//!   set aside, and a new one begun where the streams stand.
//!
//! `tail -F` takes a shorter file for another one, and prints it from its start; so a file is cut only
//! where nothing else is left to do.

pub(crate) use super::error::LogError;
use super::format::{Format, statement};
use super::index::{Aside, Entry, Kind};
use super::names::Names;
use super::pair::{Batch, Pair};
use super::positions::Positions;
use super::rotate::Sealed;
use faults::Faults;
use prometheus_client::metrics::counter::Counter;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The least that a file may hold, in bytes: so little that it is for tests.
pub const ROTATE_BYTES_MIN: u64 = 1024;

/// How a log is to be kept.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) path: PathBuf,
    /// Bytes after which a file is full.
    pub(crate) rotate_bytes: u64,
    /// The time after which it is full, counted from the beginning of 1970.
    pub(crate) rotate_every: Option<Duration>,
    /// How many full files are kept.
    pub(crate) keep: Option<u64>,
    /// Sets aside what has no index.
    pub(crate) adopt: bool,
    /// How lines look: those that say something of the log itself.
    pub(crate) format: Format,
    pub(crate) faults: Faults,
}

/// What a log counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) rotations: Counter,
    pub(crate) asides: Counter,
    pub(crate) finished: Counter,
    pub(crate) cut: Counter,
}

/// A log that this process holds.
pub(crate) struct Log {
    pub(super) names: Names,
    pub(super) options: Options,
    pub(super) counters: Counters,
    pub(super) positions: Positions,
    pub(super) pair: Pair,
    /// A rotation that was begun: its steps are done before anything else.
    pub(super) sealed: Option<Sealed>,
    pub(super) unfinished: VecDeque<Unfinished>,
    pub(super) _lock: File,
}

/// An entry whose text may not be there.
#[derive(Debug, Clone)]
pub(crate) struct Unfinished {
    pub(crate) entry: Entry,
    /// Where it is in the index.
    pub(super) offset: u64,
    /// Where its text begins.
    pub(super) begin: u64,
    /// Its text is there.
    pub(super) is_whole: bool,
}

impl Log {
    /// Where the streams stand by what was appended.
    pub(crate) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The first entry whose text is not there. Nothing is appended before it is finished or cut.
    pub(crate) fn unfinished(&self) -> Option<&Entry> {
        self.unfinished.front().map(|front| &front.entry)
    }

    /// All entries from there on, in order, and whether the text of each is there.
    pub(crate) fn all_unfinished(&self) -> impl Iterator<Item = (&Entry, bool)> {
        self.unfinished.iter().map(|unfinished| (&unfinished.entry, unfinished.is_whole))
    }

    /// A point at which a test may strike: a stream has been named.
    ///
    /// # Errors
    /// What the test planned.
    pub(crate) fn pass_base(&mut self) -> Result<(), LogError> {
        self.pair.pass("log.base.after")
    }

    /// Whether text that would end `after` bytes from the end of the current file is too much for it, if what
    /// comes before begins another: at `before` bytes. An empty file takes anything.
    pub(crate) fn would_overflow(&self, before: usize, after: usize) -> bool {
        let length = self.pair.ends.text;
        length + after as u64 > self.options.rotate_bytes && length + before as u64 > 0
    }

    /// In how many nanoseconds the current file is full by its age; 0 if it is. Never, if it is empty.
    ///
    /// It is of one period: one that was begun in a later one, by a clock that was ahead, is full as well.
    pub(crate) fn full_in_ns(&self, now_ns: i64) -> Option<u64> {
        let every = i64::try_from(self.options.rotate_every?.as_nanos()).ok()?;
        let (begun, now) = (self.pair.begun_ns.div_euclid(every), now_ns.div_euclid(every));
        let left = if begun == now { every - now_ns.rem_euclid(every) } else { 0 };
        (self.pair.ends.text > 0).then(|| left.unsigned_abs())
    }

    /// Whether anything is not on the disk for certain; how much text that is at most.
    pub(crate) fn unsynced_bytes(&self) -> Option<u64> {
        let (ends, synced) = (self.pair.ends, self.pair.synced);
        (ends != synced).then(|| ends.text - synced.text.min(ends.text) + ends.index - synced.index)
    }

    /// Appends a batch. After an error, call it again with the same batch.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.look()?;
        self.settle()?;
        assert!(self.unfinished.is_empty(), "what is unfinished comes before what is new");
        self.pair.append(batch)?;
        for entry in batch.entries() {
            self.positions.apply(entry).expect("entries are checked against the positions before they are appended");
        }
        Ok(())
    }

    /// Has all that was appended on the disk.
    ///
    /// # Errors
    /// The disk refused. After [`LogError::Sync`] call [`Self::reopen`].
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        if self.sealed.is_some() {
            return self.complete_rotation();
        }
        // It would vouch for texts that are not there.
        if self.is_torn() {
            return Ok(());
        }
        self.pair.sync()
    }

    /// Sees to it that the current files are those that have the names, and as long as they are to be.
    pub(super) fn look(&mut self) -> Result<(), LogError> {
        if self.sealed.is_some() {
            self.complete_rotation()?;
        }
        let length = length_of(&self.pair.log, &self.pair.log_path)?;
        let is_moved = !is_at(&self.pair.log, &self.pair.log_path)? || !is_at(&self.pair.index, &self.pair.index_path)?;
        let aside = if is_moved {
            Aside::Moved
        } else if length < self.pair.ends.text && !self.is_torn() {
            Aside::Shorter
        } else {
            return Ok(());
        };
        tracing::warn!(log = %self.names.log().display(), reason = aside.word(), "the log was changed from outside, beginning a new one");
        self.set_aside(aside)
    }

    /// Whether text may be missing because it was not written yet.
    fn is_torn(&self) -> bool {
        self.unfinished.iter().any(|unfinished| !unfinished.is_whole)
    }

    /// Writes the text of the first unfinished entry, if it is the right one. Those behind it whose texts are
    /// there are done then as well. After an error, call it again.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn finish(&mut self, text: &[u8]) -> Result<bool, LogError> {
        let Some(front) = self.unfinished.front() else { return Ok(true) };
        let is_right =
            front.begin + text.len() as u64 == front.entry.end && crc32c::crc32c(text) == front.entry.text_crc;
        if !is_right {
            return Ok(false);
        }
        self.pair.pass("log.finish.before")?;
        self.pair.write_text(front.begin, text)?;
        self.pair.pass("log.finish.after")?;
        if let Some(front) = self.unfinished.front_mut() {
            front.is_whole = true;
        }
        self.counters.finished.inc();
        self.pass_whole();
        Ok(true)
    }

    /// Takes the entries from the front whose texts are there for done.
    pub(super) fn pass_whole(&mut self) {
        while self.unfinished.front().is_some_and(|front| front.is_whole) {
            let Some(front) = self.unfinished.pop_front() else { return };
            self.positions.apply(&front.entry).expect("unfinished entries were checked when the log was opened");
        }
    }

    /// Finishes what is unfinished up to the first block: our own statements say in their entries what their
    /// texts are. Plain messages are nowhere else, and end index and log.
    ///
    /// # Errors
    /// The disk refused; call it again.
    pub(crate) fn settle(&mut self) -> Result<(), LogError> {
        while let Some(front) = self.unfinished.front() {
            match front.entry.kind {
                Kind::Block => break,
                Kind::Plain => self.cut()?,
                _ => {
                    let mut text = Vec::new();
                    statement(self.options.format, &front.entry, &self.positions, &mut text);
                    if !self.finish(&text)? {
                        self.cut()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends index and log before the first unfinished entry.
    ///
    /// # Errors
    /// The disk refused; call it again.
    pub(crate) fn cut(&mut self) -> Result<(), LogError> {
        let Some(front) = self.unfinished.front() else { return Ok(()) };
        let (index, text) = (front.offset, front.begin);
        tracing::warn!(
            log = %self.names.log().display(), offset = text, kind = ?front.entry.kind, entries = self.unfinished.len(),
            "the end of the log cannot be finished, cutting it off"
        );
        self.pair.cut_index(index)?;
        self.cut_text(text)?;
        self.counters.cut.inc_by(self.unfinished.len() as u64);
        self.unfinished.clear();
        Ok(())
    }

    /// How many entries were cut off in all.
    pub(crate) fn cuts(&self) -> u64 {
        self.counters.cut.get()
    }

    /// Where a block, a loss or the base of a stream ended last at or below a sequence.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn boundary(&self, stream: feed::StreamId, at_most: u64) -> Result<Option<feed::Position>, LogError> {
        let mut limit = at_most;
        for index in self.indexes()?.into_iter().rev() {
            match super::boundary::in_index(&index, stream, limit) {
                Ok((None, lower)) => limit = lower,
                Ok((found, _)) => return Ok(found),
                // One that is farther back will do.
                Err(error) => tracing::warn!(reason = error.chain(), "an index is left out of the search for a fork"),
            }
        }
        Ok(None)
    }

    /// The indexes of this log, the current one last.
    fn indexes(&self) -> Result<Vec<PathBuf>, LogError> {
        let mut numbered: Vec<_> = super::open::numbered_files(&self.names, ".idx")?;
        numbered.sort_unstable_by_key(|(numbered, _)| numbered.number);
        let rotated = numbered.into_iter().map(|(_, path)| super::names::index_of(&path));
        Ok(rotated.filter(|index| index.exists()).chain([self.names.index()]).collect())
    }
}

impl Pair {
    /// Ends the index at `length`.
    ///
    /// # Errors
    /// The disk refused.
    pub(super) fn cut_index(&mut self, length: u64) -> Result<(), LogError> {
        self.index.set_len(length).map_err(LogError::io("cut", &self.index_path))?;
        self.ends.index = length;
        Ok(())
    }
}

pub(super) fn length_of(file: &File, path: &Path) -> Result<u64, LogError> {
    file.metadata().map(|found| found.len()).map_err(LogError::io("examine", path))
}

/// Whether `file` is still what `path` names.
fn is_at(file: &File, path: &Path) -> Result<bool, LogError> {
    let open = file.metadata().map_err(LogError::io("examine", path))?;
    match fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LogError::io("examine", path)(error)),
    }
}
