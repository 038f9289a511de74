//! Verify: whether the text of a log is what its indexes say, and whether its streams have holes.
//!
//! It reads every pair of index and text once, in the order of their numbers, the current one last, and
//! changes nothing. For each entry it compares the checksum and the lines of the text; for each stream it
//! follows the numbers, from file to file, by the same function as the writer (`log::positions`).
//!
//! - **In flight** is what the current pair has behind its last synced entry and is not whole: the entry is
//!   written first, then the text. From there on nothing of that index counts. Everything before must be
//!   there, and all of the other pairs.
//! - **Damaged** counts entries and texts with another checksum, texts that end before or behind what
//!   their index says, indexes that are gone, and pairs that were set aside as damaged.
//! - **Missing** counts records between two entries, or two files, of one stream that do not meet, and
//!   those whose text is gone. **Duplicated** counts those that two entries have.
//! - The oldest files may be gone: each stream's base is where the first index that there is has it.
//!
//! Beside a live writer: the current pair is opened before the folder is listed, so whatever rotates
//! meanwhile is the pair that is held or one behind it. Memory is bounded whatever the files contain: by
//! buffers of a fixed size, and by the streams that a log may have.

mod against;
mod ledger;
mod names;
mod open;
mod pair;
mod reader;
#[cfg(test)]
mod tests;

pub use against::AgainstError;

use crate::log::index::{Aside, Kind};
use feed::{Head, Position, StreamId};
use ledger::{Ledger, Place};
use names::{Key, Names, Rotated, index_of};
use net::Endpoint;
use open::{Opened, inode_of, open, open_file};
use pair::{Pair, Role};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a log cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is nothing.
    #[error("there is no log {}", .0.display())]
    NoLog(PathBuf),
    /// There is a log, and nothing that tells what is in it.
    #[error("the log {} has no index", .0.display())]
    NoIndex(PathBuf),
    /// The path has no file name.
    #[error("{} does not name a file", .0.display())]
    NoName(PathBuf),
    /// The path is a folder, a device or the like.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The files had other names each time.
    #[error("the files of the log {} change faster than they can be opened", .0.display())]
    Changing(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or the folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The publisher does not say what it has.
    #[error("cannot compare with {endpoint}")]
    Against {
        /// Its replay.
        endpoint: Endpoint,
        /// Why.
        source: AgainstError,
    },
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records whose line is in the text.
    pub records: u64,
    /// Addresses that streams were first met at.
    pub publishers: u64,
    /// Records between the bases and the positions that are not there.
    pub missing: u64,
    /// Records that are there twice.
    pub duplicated: u64,
    /// Records that the log says are lost.
    pub lost: u64,
    /// How often a stream's history went another way.
    pub forks: u64,
    /// Entries, texts and files that are not what they were.
    pub damaged: u64,
    /// Lines of plain sources, which have no numbers.
    pub plain: u64,
    /// Where each stream stands, in the order in which they were met.
    pub positions: Vec<StreamPosition>,
    /// What is wrong, a line each; the first of them.
    pub problems: Vec<String>,
    /// How many more there are.
    pub problems_more: u64,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPosition {
    /// The stream.
    pub stream: StreamId,
    /// The first record that the files could have.
    pub base: u64,
    /// The one behind the last.
    pub next: u64,
    /// The publisher's name, of anybody's making.
    pub name: String,
}

impl Report {
    /// Whether nothing is missing, duplicated, lost or damaged, and no history went another way.
    pub fn is_clean(&self) -> bool {
        [self.missing, self.duplicated, self.lost, self.forks, self.damaged] == [0; 5]
    }
}

impl StreamPosition {
    /// The name, so that it cannot break a line or drive a terminal.
    pub fn shown_name(&self) -> String {
        let mut shown = Vec::new();
        crate::log::escape::escape(self.name.as_bytes(), crate::log::escape::Style::Text, &mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }
}

/// Bytes that were read, and who wants to know.
struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Progress<'_> {
    fn moved(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes).min(self.total);
        (self.tell)(self.done, self.total);
    }
}

/// Verifies the log at `path`, and compares it with what the replay `against` has if one is given.
///
/// `progress` is told the bytes that were read and those that there are, often. Files are read on the
/// calling thread: for a runtime that has nothing else to do.
///
/// # Errors
/// There is no log to be verified, it cannot be read, or the publisher does not answer. What is wrong
/// with the log is no error but in the [`Report`].
pub async fn verify(
    path: &Path,
    against: Option<&Endpoint>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    // Who misspelt it is told now, not after all has been read.
    head_of(against).await?;
    let names = Names::of(path)?;
    let progress = Progress { done: 0, total: 0, tell: progress };
    let mut verification = Verification { names, ledger: Ledger::default(), last: None, begun: false, progress };
    verification.rotated()?;
    // What the publisher has now is in the log in a moment, which passes until the current pair is opened.
    let head = head_of(against).await?;
    // What was rotated meanwhile, and the pair that is current then.
    if let Some(mut current) = verification.rotated()? {
        verification.begin();
        current.walk(&mut verification.ledger, &mut verification.progress)?;
    }
    let mut ledger = verification.ledger;
    if let Some((endpoint, head)) = against.zip(head) {
        compare(endpoint, &head, &mut ledger).await?;
    }
    Ok(ledger.finish())
}

async fn head_of(against: Option<&Endpoint>) -> Result<Option<Head>, VerifyError> {
    match against {
        Some(endpoint) => Ok(Some(ask(endpoint, StreamId::default(), Position::default()).await?.head)),
        None => Ok(None),
    }
}

async fn ask(endpoint: &Endpoint, stream: StreamId, from: Position) -> Result<against::Answer, VerifyError> {
    let answer = against::ask(endpoint, stream, from).await;
    answer.map_err(|source| VerifyError::Against { endpoint: endpoint.clone(), source })
}

/// Counts what the publisher has and the log has not.
async fn compare(endpoint: &Endpoint, head: &Head, ledger: &mut Ledger) -> Result<(), VerifyError> {
    let (stream, next) = (head.stream, head.next.next);
    let at = ledger.position(stream);
    let from = at.unwrap_or(head.oldest).next;
    if next > from {
        ledger.missing(endpoint, stream, from, next);
    }
    let Some(at) = at else { return Ok(()) };
    if ask(endpoint, stream, at).await?.is_fork {
        ledger.report.forks += 1;
        let what = format_args!("stream {stream} has another history than the log, which stands at {}", at.next);
        ledger.problem_at(endpoint, what);
    }
    Ok(())
}

struct Verification<'a> {
    names: Names,
    ledger: Ledger,
    /// The last pair that was gone through.
    last: Option<Key>,
    /// An index has been read.
    begun: bool,
    progress: Progress<'a>,
}

impl Verification<'_> {
    /// Opens the current pair, then goes through all those before it that were not gone through yet.
    fn rotated(&mut self) -> Result<Option<Pair>, VerifyError> {
        let Opened { mut current, rotated: mut pairs } = open(&self.names)?;
        // What is held as the current one may have its number by now, and others theirs behind it.
        let inode = current.as_ref().and_then(|current| inode_of(current.index.file()));
        let first = current.as_mut().map(Pair::first_entry).transpose()?.flatten();
        let number = first.filter(|entry| entry.kind == Kind::Begin).map(|entry| entry.first);
        pairs.retain(|key, pair| {
            let is_new = self.last.as_ref().is_none_or(|last| key > last);
            let is_current = inode.is_some() && open::inode(&index_of(&pair.log)) == inode;
            is_new && !is_current && number.is_none_or(|number| key.0 < number)
        });
        self.progress.total = self.progress.done + bytes(self.names.log());
        self.progress.total += pairs.values().map(|pair| bytes(&pair.log)).sum::<u64>();
        for (key, pair) in pairs {
            let before = self.last.as_ref().filter(|last| key.0 > last.0 + 1);
            if let Some(before) = before
                && self.is_retired(before)?
            {
                // What was in between was made and removed meanwhile.
                self.ledger.adopt();
            }
            self.one(&key, &pair)?;
            self.last = Some(key);
        }
        // The same before the current one.
        let before = self.last.as_ref().filter(|last| number.is_some_and(|number| number > last.0 + 1));
        if let Some(before) = before
            && self.is_retired(before)?
        {
            self.ledger.adopt();
        }
        Ok(current)
    }

    /// The first index that there is tells where its streams stand.
    fn begin(&mut self) {
        if !self.begun {
            self.ledger.adopt();
        }
        self.begun = true;
    }

    fn one(&mut self, key: &Key, rotated: &Rotated) -> Result<(), VerifyError> {
        let (log, index_path) = (&rotated.log, index_of(&rotated.log));
        let index = if rotated.has_index { open_file(&index_path)? } else { None };
        let text = if rotated.has_text { open_file(log)? } else { None };
        let is_gone = (rotated.has_index && index.is_none()) || (rotated.has_text && text.is_none());
        if is_gone && self.is_retired(key)? {
            self.ledger.adopt();
            return Ok(());
        }
        self.ledger.reached(key.0);
        let Some(index) = index else {
            // Of a time before there were indexes, or one that never had any.
            let is_expected = rotated.aside == Some(Aside::Adopted) || (rotated.aside.is_none() && !self.begun);
            if !is_expected {
                self.ledger.damaged(Place { file: log, offset: 0 }, "a file of the log that has no index");
            }
            return Ok(());
        };
        self.begin();
        let role = rotated.aside.map_or(Role::Sealed, Role::Aside);
        let mut pair = open::pair(role, index_path, index, log.clone(), text)?;
        pair.walk(&mut self.ledger, &mut self.progress)
    }

    /// Whether a file was removed since it was listed because it was one of the oldest.
    fn is_retired(&self, key: &Key) -> Result<bool, VerifyError> {
        let pairs = self.names.rotated()?;
        let oldest = pairs.iter().find(|(_, pair)| pair.has_index).map(|(key, _)| key);
        Ok(oldest.is_none_or(|oldest| oldest > key))
    }
}

/// Bytes of a log and its index.
fn bytes(log: &Path) -> u64 {
    [log, &index_of(log)].iter().map(|path| fs::metadata(path).map_or(0, |found| found.len())).sum()
}
