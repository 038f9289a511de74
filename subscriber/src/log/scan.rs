//! Reading an index from its beginning to its end, whatever became of it.
//!
//! Entries up to the last `synced` are on the disk, so one among them that cannot be read, or that does
//! not follow, is damage; the positions are then those of the entries that can be read. Entries behind it
//! may be cut off anywhere, and end with the first that cannot be read.

use super::LogError;
use super::index::{ENTRY_BYTES, Entry, EntryError, Kind, LONGEST_BYTES};
use super::pair::Ends;
use super::positions::Positions;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tracing::warn;

/// What is read at a time: many entries.
const WINDOW_BYTES: usize = 8192 * ENTRY_BYTES;

/// An entry, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) offset: u64,
    pub(crate) entry: Entry,
}

/// What an index says.
pub(crate) struct Scan {
    /// Where the streams stand with the last `synced` entry; or, of a damaged one, with all that can be read.
    pub(crate) positions: Positions,
    /// The number of the file and when it was begun, from its first entry.
    pub(crate) begin: Option<(u64, i64)>,
    /// Up to where all is on the disk.
    pub(crate) synced: Ends,
    /// The entries from there on, up to the first that cannot be read.
    pub(crate) tail: Vec<Located>,
    /// Where the entries end that can be read.
    pub(crate) length: u64,
    /// Where the first damage is, if there is any.
    pub(crate) damaged: Option<u64>,
}

impl Scan {
    /// Reads an index. `before` is where the streams stood at its beginning as far as is known from
    /// elsewhere: it counts where the index is damaged.
    ///
    /// # Errors
    /// It cannot be read, or is of a later version.
    pub(crate) fn read(
        index: &File,
        path: &Path,
        before: impl FnOnce() -> Result<Positions, LogError>,
    ) -> Result<Self, LogError> {
        let mut scan = Self {
            positions: Positions::default(),
            begin: None,
            synced: Ends::default(),
            tail: Vec::new(),
            length: 0,
            damaged: None,
        };
        let mut entries = Entries::new(index);
        let mut unread = None;
        while let Some((offset, read)) = entries.next().map_err(LogError::io("read", path))? {
            match read {
                Ok(entry) => scan.take(Located { offset, entry }, entries.offset, &mut unread),
                Err(EntryError::Field { field: "version", value }) => {
                    return Err(LogError::Version { path: path.to_owned(), version: value });
                }
                Err(_) => unread = unread.or(Some(offset)),
            }
        }
        // Nothing is appended behind the last of these; what is there is left of an append that failed.
        if let Some(sealed) = scan.tail.iter().rposition(|known| known.entry.kind == Kind::Sealed) {
            scan.tail.truncate(sealed + 1);
        }
        // An index has both from the moment when it gets its name.
        if scan.begin.is_none() || scan.synced == Ends::default() {
            scan.damaged = scan.damaged.or(Some(0));
        }
        if scan.damaged.is_some() {
            scan.read_leniently(index, path, before()?)?;
        }
        Ok(scan)
    }

    fn take(&mut self, located: Located, end: u64, unread: &mut Option<u64>) {
        let Located { offset, ref entry } = located;
        match entry.kind {
            Kind::Begin if offset == 0 => self.begin = Some((entry.first, entry.time_ns)),
            Kind::Begin => *unread = unread.or(Some(offset)),
            Kind::Synced if entry.first == offset => {
                self.synced = Ends { index: offset, text: entry.end };
                self.damaged = self.damaged.or(unread.take());
                for known in std::mem::take(&mut self.tail) {
                    if self.positions.apply(&known.entry).is_err() {
                        self.damaged = self.damaged.or(Some(known.offset));
                    }
                }
            }
            _ => {}
        }
        if unread.is_none() {
            self.length = end;
            self.tail.push(located);
        }
    }

    /// Where the streams stand by all that can be read.
    fn read_leniently(&mut self, index: &File, path: &Path, before: Positions) -> Result<(), LogError> {
        self.positions = before;
        let mut entries = Entries::new(index);
        while let Some((offset, read)) = entries.next().map_err(LogError::io("read", path))? {
            if offset >= self.synced.index {
                break;
            }
            if let Ok(entry) = read {
                self.positions.apply_anyway(&entry);
            }
        }
        warn!(index = %path.display(), offset = self.damaged, "the index is damaged");
        Ok(())
    }

    /// The name that the log is to get, if all that is left to do with these files is to rename them.
    pub(crate) fn sealed(&self) -> Option<&Entry> {
        self.tail.last().map(|last| &last.entry).filter(|entry| entry.kind == Kind::Sealed)
    }
}

/// The entries of an index, one after the other; where one cannot be read, the next is looked for.
pub(crate) struct Entries<'a> {
    index: &'a File,
    window: Vec<u8>,
    window_at: u64,
    /// Where the next one begins.
    pub(crate) offset: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(index: &'a File) -> Self {
        Self { index, window: Vec::new(), window_at: 0, offset: 0 }
    }

    /// The next entry and where it is, or why it cannot be read.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<(u64, Result<Entry, EntryError>)>> {
        self.fill()?;
        let bytes = &self.window[(self.offset - self.window_at) as usize..];
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        Ok(Some(match Entry::decode(bytes) {
            Ok((entry, length)) => {
                self.offset += length as u64;
                (offset, Ok(entry))
            }
            Err(error) => {
                self.offset += bytes.len().min(ENTRY_BYTES) as u64;
                (offset, Err(error))
            }
        }))
    }

    /// Sees to it that a whole entry is in the window, if the file has one.
    fn fill(&mut self) -> std::io::Result<()> {
        let begin = (self.offset - self.window_at) as usize;
        if begin + LONGEST_BYTES <= self.window.len() {
            return Ok(());
        }
        self.window.drain(..begin);
        self.window_at = self.offset;
        let mut known = self.window.len();
        self.window.resize(WINDOW_BYTES, 0);
        while known < WINDOW_BYTES {
            match self.index.read_at(&mut self.window[known..], self.window_at + known as u64) {
                Ok(0) => break,
                Ok(count) => known += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(known);
        Ok(())
    }
}
