//! The two files of a log: its text and its index, appended to together.
//!
//! The entries of what is appended are written first, then its text, each where it belongs, so that an
//! append that failed can be made again as it is. What an entry says of its text tells the next start
//! whether the text is there. A `synced` entry tells up to where both are on the disk.

use super::LogError;
use super::index::{Entry, Kind};
use super::names::Names;
use disk::WriteBehind;
use faults::Faults;
use feed::{Position, StreamId};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What stays in the kernel's memory of the text, for those who follow it, in bytes.
const KEEP_BYTES: u64 = 16 * 1024 * 1024;

/// Entries and their texts on the way to the files.
#[derive(Default)]
pub(crate) struct Batch {
    entries: Vec<Entry>,
    /// Where the text of each entry ends in the batch.
    ends: Vec<usize>,
    /// The texts, one behind the other.
    pub(crate) text: Vec<u8>,
    lines: u64,
    moves: HashMap<StreamId, Position>,
}

impl Batch {
    /// Adds an entry for the text behind that of the last one; its end, lines and checksum are filled in.
    pub(crate) fn close(&mut self, mut entry: Entry, lines: u32) {
        let begin = self.open_from();
        entry.lines = lines;
        entry.text_crc = crc32c::crc32c(&self.text[begin..]);
        self.ends.push(self.text.len());
        self.lines += u64::from(lines);
        if let Kind::Block | Kind::Lost | Kind::Fork = entry.kind {
            self.moves.insert(entry.stream, entry.next);
        }
        self.entries.push(entry);
    }

    /// Where the text begins that has no entry yet.
    pub(crate) fn open_from(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where its entries bring a stream.
    pub(crate) fn position(&self, stream: StreamId) -> Option<Position> {
        self.moves.get(&stream).copied()
    }

    /// Leaves messages of plain sources, and nothing else.
    pub(crate) fn keep_plain(&mut self) {
        let all = std::mem::take(self);
        let mut begin = 0;
        for (entry, end) in all.entries.into_iter().zip(all.ends) {
            if entry.kind == Kind::Plain {
                self.text.extend_from_slice(&all.text[begin..end]);
                let lines = entry.lines;
                self.close(entry, lines);
            }
            begin = end;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.text.is_empty()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// Empties it, and does not hold on to the memory of a long text.
    pub(crate) fn clear(&mut self, keep_bytes: usize) {
        self.entries.clear();
        self.ends.clear();
        self.text.clear();
        self.text.shrink_to(keep_bytes);
        self.lines = 0;
        self.moves.clear();
    }
}

/// How far both files go, or are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ends {
    pub(crate) index: u64,
    pub(crate) text: u64,
}

/// The current text and its index, open.
pub(crate) struct Pair {
    pub(crate) log: File,
    pub(crate) index: File,
    pub(crate) log_path: PathBuf,
    pub(crate) index_path: PathBuf,
    /// The number that the file gets when it is full.
    pub(crate) number: u64,
    /// When it was begun.
    pub(crate) begun_ns: i64,
    pub(crate) ends: Ends,
    pub(crate) synced: Ends,
    pub(crate) faults: Faults,
    behind: WriteBehind,
    encoded: Vec<u8>,
}

impl Pair {
    pub(crate) fn new(log: File, index: File, names: &Names, faults: Faults) -> Self {
        let (log_path, index_path) = (names.log().to_owned(), names.index());
        let (ends, synced) = (Ends::default(), Ends::default());
        Self {
            log,
            index,
            log_path,
            index_path,
            number: 0,
            begun_ns: 0,
            ends,
            synced,
            faults,
            behind: WriteBehind::new(KEEP_BYTES),
            encoded: Vec::new(),
        }
    }

    /// Appends the entries of a batch, then its text. After an error, call it again with the same batch.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.pass("log.entry.before")?;
        self.encoded.clear();
        for (entry, end) in batch.entries.iter().zip(&batch.ends) {
            entry.encode_at(self.ends.text + *end as u64, &mut self.encoded);
        }
        let encoded = std::mem::take(&mut self.encoded);
        let written = self.write_index(self.ends.index, &encoded);
        self.encoded = encoded;
        written?;
        self.pass("log.entry.after")?;
        self.write_text(self.ends.text, &batch.text)?;
        self.pass("log.text.after")?;
        self.ends.index += self.encoded.len() as u64;
        self.ends.text += batch.text.len() as u64;
        self.behind.appended(&self.log, self.ends.text);
        Ok(())
    }

    /// Appends one entry without text.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn append_entry(&mut self, entry: &Entry) -> Result<(), LogError> {
        let mut bytes = Vec::new();
        entry.encode_at(self.ends.text, &mut bytes);
        self.write_index(self.ends.index, &bytes)?;
        self.ends.index += bytes.len() as u64;
        Ok(())
    }

    /// Writes text where it belongs.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn write_text(&self, at: u64, text: &[u8]) -> Result<(), LogError> {
        let written = self.faults.at("log.write").and_then(|()| self.log.write_all_at(text, at));
        written.map_err(LogError::io("write to", &self.log_path))
    }

    /// Writes entries where they belong.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn write_index(&self, at: u64, entries: &[u8]) -> Result<(), LogError> {
        self.index.write_all_at(entries, at).map_err(LogError::io("write to", &self.index_path))
    }

    /// Has all that was appended on the disk, and says so in the index.
    ///
    /// # Errors
    /// [`LogError::Sync`] if a sync failed: then nothing behind the last `synced` entry can be trusted to
    /// reach the disk by itself any more, and has to be written again.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        if self.ends == self.synced {
            return Ok(());
        }
        self.pass("log.sync.before")?;
        self.sync_file(&self.log, &self.log_path)?;
        self.pass("log.sync.text")?;
        self.sync_file(&self.index, &self.index_path)?;
        self.pass("log.sync.index")?;
        self.append_entry(&Entry { first: self.ends.index, ..Entry::new(Kind::Synced, 0) })?;
        self.synced = self.ends;
        self.pass("log.sync.after")
    }

    /// Has what was appended to the index on the disk.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub(crate) fn sync_index(&self) -> Result<(), LogError> {
        self.sync_file(&self.index, &self.index_path)
    }

    fn sync_file(&self, file: &File, path: &std::path::Path) -> Result<(), LogError> {
        let synced = self.faults.at("log.sync").and_then(|()| file.sync_data());
        synced.map_err(|source| LogError::Sync { path: path.to_owned(), source })
    }

    /// Passes a point at which a test may strike.
    ///
    /// # Errors
    /// What the test planned.
    pub(crate) fn pass(&self, point: &'static str) -> Result<(), LogError> {
        self.faults.at(point).map_err(LogError::io(point, &self.log_path))
    }

    /// Writes what the files have from `from` on once more: what was read back from the kernel's memory
    /// is no proof that it is on the disk.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn write_again(&self, from: Ends, to: Ends) -> Result<(), LogError> {
        write_again(&self.index, from.index, to.index).map_err(LogError::io("write again", &self.index_path))?;
        write_again(&self.log, from.text, to.text).map_err(LogError::io("write again", &self.log_path))
    }
}

/// What is read and written at a time.
const COPY_BYTES: usize = 1024 * 1024;

fn write_again(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    while from < to {
        let wanted = buffer.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        let count = file.read_at(&mut buffer[..wanted], from)?;
        if count == 0 {
            break;
        }
        file.write_all_at(&buffer[..count], from)?;
        from += count as u64;
    }
    Ok(())
}
