//! The journal: every record that was acknowledged, on disk, in order.
//!
//! A folder of segments ([`folder`] has the names, `feed` the formats). Records are queued
//! ([`queue`]); one thread ([`writer`]) takes what waits as one block, writes it with one write, makes
//! it durable with one `fdatasync`, and only then answers who waits and hands the same bytes on. While
//! it does, the next block gathers: group commit. What is durable can be read ([`read`]) while the
//! journal is written.
//!
//! - A segment that is full is sealed: nothing in it changes any more, until retention removes it whole.
//! - What opening finds at the end of the last segment is no proof of what the disk has, so its whole
//!   part is written anew before anything is served ([`open`]).
//! - A full disk stops the commits until there is room. A failed `fdatasync` stops them for good, since
//!   the kernel may have dropped what it could not write.
//!
//! It knows nothing of ZeroMQ or HTTP.

mod catalog;
mod folder;
mod keeper;
mod open;
mod queue;
mod read;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use folder::FolderError;
pub use open::JournalError;
pub(crate) use read::{MESSAGE_OVERHEAD_BYTES, Part, ReadError, Reply};

use crate::Name;
use catalog::Catalog;
use faults::Faults;
use feed::block::{PAYLOAD_BYTES_MAX, PushError, RECORDS_MAX};
use feed::{Block, Index, Position, StreamId};
use folder::Folder;
use queue::Queue;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use writer::Writer;

/// The least that a segment may hold, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// The most that a segment may hold, in bytes: what is read at once to find a way behind damage.
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most segments that there may be.
pub const SEGMENTS_MAX: u64 = 65_536;
/// The least that may wait for its commit, in bytes: one block.
pub const QUEUE_BYTES_MIN: u64 = 1024 * 1024;

/// A commit that has taken this long is shown.
const COMMIT_SLOW: Duration = Duration::from_secs(2);
/// The most ranges of damage that are remembered.
const DAMAGE_MAX: usize = 64;

/// What a journal needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) folder: PathBuf,
    /// The publisher's name, if it was given.
    pub(crate) name: Option<Name>,
    /// The name of a new journal if none was given.
    pub(crate) default_name: Name,
    pub(crate) retain_bytes: u64,
    pub(crate) retain_age: Option<Duration>,
    pub(crate) segment_bytes: u64,
    pub(crate) queue_bytes: u64,
    /// The journal that is there is taken out of the way.
    pub(crate) new_stream: bool,
    pub(crate) faults: Faults,
}

/// Who hears what the writer has done, on the writer's thread: it must not wait.
pub(crate) trait Outlet: Send {
    /// The journal is open after all; the stream stands here.
    fn opened(&self, at: Position);

    /// A block is durable.
    fn committed(&self, block: &Block);
}

/// Why a record was not acknowledged. Only [`AppendError::Unknown`] leaves open whether it is in the
/// journal; if so, it is there once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No block takes it.
    #[error(transparent)]
    Record(#[from] PushError),
    /// There is nothing to append.
    #[error("no records")]
    Nothing,
    /// What is to be appended together does not go into one block.
    #[error("records that are more than a block: {PAYLOAD_BYTES_MAX} bytes or {RECORDS_MAX} records")]
    TooMuch,
    /// The topic begins with `$`, which is for our own lines.
    #[error("a topic that begins with $")]
    Reserved,
    /// As much waits for its commit as may.
    #[error("{0} bytes wait for the disk already")]
    QueueFull(u64),
    /// The journal takes nothing now.
    #[error("the journal takes nothing: {0}")]
    Unavailable(Arc<str>),
    /// The commit failed.
    #[error("the commit failed, the record may be in the journal or not: {0}")]
    Unknown(Arc<str>),
    /// The publisher has stopped.
    #[error("the publisher has stopped")]
    Closed,
}

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// In front of the first record kept.
    pub(crate) oldest: Position,
    /// Behind the last durable record.
    pub(crate) next: Position,
}

/// How the journal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    Writing,
    /// It takes nothing, for a reason that may pass.
    Waiting(Arc<str>),
    /// It takes nothing until a restart.
    Failed(Arc<str>),
}

/// What the journal counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) commit_us: AtomicU64,
    pub(crate) torn: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) retired_segments: AtomicU64,
}

/// What the writer, the readers and the owner of a journal share.
pub(crate) struct Shared {
    folder: Folder,
    stream: StreamId,
    name: Name,
    queue: Queue,
    catalog: Mutex<Catalog>,
    /// Indexes of segments that were just sealed, by their first numbers, until they are on the disk.
    unwritten: Mutex<HashMap<u64, Arc<Index>>>,
    health: Mutex<Health>,
    /// When the commit that is being made began, in microseconds since `opened`, plus one; 0 if there is none.
    commit_since: AtomicU64,
    opened: Instant,
    counters: Counters,
    /// Ranges that were found damaged: first missing, first behind.
    damage: Mutex<Vec<(u64, u64)>>,
    faults: Faults,
}

/// An open journal.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    stage: Mutex<Stage>,
}

/// Left behind by the writer's thread, however it ends: nobody waits for it in vain.
struct LastWords {
    shared: Arc<Shared>,
    _end: oneshot::Sender<()>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason: Arc<str> = "the journal's thread has panicked".into();
            *self.shared.health() = Health::Failed(reason.clone());
            self.shared.queue.refuse(&reason);
        }
    }
}

/// What has become of the writer.
enum Stage {
    Open(Box<Writer>),
    /// Tells when its thread has ended.
    Started(oneshot::Receiver<()>),
    Ended,
}

impl Journal {
    /// Opens the journal in a folder, or makes it. Takes appends already; commits from [`Journal::start`] on.
    ///
    /// # Errors
    /// See [`JournalError`]. A disk without room is none: the journal waits for room.
    pub(crate) fn open(options: Options) -> Result<Self, JournalError> {
        let writer = open::open(options)?;
        Ok(Self { shared: writer.shared(), stage: Mutex::new(Stage::Open(Box::new(writer))) })
    }

    /// Starts the commits, with what is to get every block.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(&self, outlet: impl Outlet + 'static) -> io::Result<()> {
        let mut stage = self.stage();
        if let Stage::Open(writer) = std::mem::replace(&mut *stage, Stage::Ended) {
            let (end, ended) = oneshot::channel();
            let last_words = LastWords { shared: self.shared.clone(), _end: end };
            thread::Builder::new().name("journal".to_owned()).spawn(move || {
                let _last_words = last_words;
                writer.run(&outlet);
            })?;
            *stage = Stage::Started(ended);
        }
        Ok(())
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends records of a topic, in one block, and waits until they are durable. Returns the sequence number of
    /// the first.
    ///
    /// Once they are queued they are committed, whether or not anybody still waits.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub(crate) async fn append<B: AsRef<[u8]>>(&self, topic: &str, bodies: &[B]) -> Result<u64, AppendError> {
        if topic.starts_with('$') {
            return Err(AppendError::Reserved);
        }
        let answered = self.shared.queue.append(topic, bodies)?;
        // The writer answers all that it took, unless its thread has panicked.
        answered.await.unwrap_or_else(|_| Err(AppendError::Unknown("the journal's thread has ended".into())))
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.shared.stream
    }

    pub(crate) fn name(&self) -> &Name {
        &self.shared.name
    }

    pub(crate) fn standing(&self) -> Standing {
        let catalog = self.shared.catalog();
        Standing { oldest: catalog.oldest(), next: catalog.next() }
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.catalog().bytes()
    }

    /// Bytes that wait for their commit, and records that found no room to wait.
    pub(crate) fn queued(&self) -> (u64, u64) {
        (self.shared.queue.bytes(), self.shared.queue.refused())
    }

    pub(crate) fn health(&self) -> Health {
        self.shared.health().clone()
    }

    /// How long the disk has been at work on one commit, if it is long.
    pub(crate) fn slow_commit(&self) -> Option<Duration> {
        let since = self.shared.commit_since.load(Ordering::Relaxed).checked_sub(1)?;
        let taken = self.shared.opened.elapsed().saturating_sub(Duration::from_micros(since));
        (taken >= COMMIT_SLOW).then_some(taken)
    }

    /// The ranges of records that were found damaged, up to a number: first missing, first behind.
    pub(crate) fn damage(&self) -> Vec<(u64, u64)> {
        self.shared.damage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What a replay answers to one who asks from `from` on: at most `credit_bytes` of blocks, one at
    /// least if there is any. Reads files: not for an async task.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn read(&self, from: Position, credit_bytes: usize) -> Result<Reply, ReadError> {
        self.shared.read(from, credit_bytes)
    }

    /// What is volatile about the folder's file system, if anything is.
    pub(crate) fn is_volatile(&self) -> Option<String> {
        self.shared.folder.is_volatile()
    }

    pub(crate) fn path(&self) -> &Path {
        self.shared.folder.path()
    }

    /// Takes no more appends, and waits until those before are committed and answered.
    pub(crate) async fn close(&self) {
        self.shared.queue.close();
        let stage = std::mem::replace(&mut *self.stage(), Stage::Ended);
        if let Stage::Started(ended) = stage {
            // An error is the end as well.
            let _ = ended.await;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        // Changed in steps that do not panic.
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<u64, Arc<Index>>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that records are damaged.
    fn note_damage(&self, path: &Path, from: u64, to: u64) {
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.contains(&(from, to)) || damage.len() == DAMAGE_MAX {
            return;
        }
        self.counters.damaged.fetch_add(to - from, Ordering::Relaxed);
        tracing::error!(segment = %path.display(), from, to, "records of the journal are damaged");
        damage.push((from, to));
    }
}
