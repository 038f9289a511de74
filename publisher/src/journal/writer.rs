//! The thread that writes the journal.
//!
//! One commit is one block, one write and one `fdatasync`; the next waits for it. Who waits is answered,
//! and the block handed on, when it is durable and not before.
//!
//! A file that grows has each `fdatasync` write where it ends now, and where its blocks are, which takes longer than
//! the block itself. So behind a small block that needs room the file is filled with zeros, and the
//! commits that follow only write over them. A large block makes its own room: to write zeros first would double what is written.

use crate::journal::catalog::{Active, Sealed};
use crate::journal::folder::{FolderError, is_full};
use crate::journal::keeper::{Chore, Keeper, is_older};
use crate::journal::open::{self, Plan};
use crate::journal::queue::{Batch, Taken};
use crate::journal::segment::FIRST_BLOCK;
use crate::journal::{AppendError, Health, Options, Outlet, Shared};
use disk::WriteBehind;
use feed::{Block, Index, SegmentHeader};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How often a disk without room is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long after a commit began the next one waits for as many appends as the last one had: what it costs is
/// then shared by more.
const COMMIT_PAUSE: Duration = Duration::from_micros(600);
/// The fewest appends in a commit that make the next one wait. Who is alone with a few others is not held up.
const CROWD_MIN: usize = 4;
/// How much of a segment is filled with zeros at a time.
const FILL_BYTES: u64 = 256 * 1024;
/// The longest block behind which that pays.
const FILL_BLOCK_BYTES_MAX: u64 = 32 * 1024;
/// What it is filled with, piece by piece.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// What stays in the kernel's memory of what was committed, for those who fetch it, in bytes.
const KEEP_BYTES: u64 = 16 * 1024 * 1024;
/// How often the age of segments is looked at.
const AGE_PAUSE: Duration = Duration::from_secs(1);

/// What the thread does now.
enum State {
    /// The active segment is not there: there was no room for it.
    Opening(Plan),
    Writing(Arc<File>),
    /// Something could not be done, and is tried again.
    Waiting(Arc<File>, Retry),
    Failed,
}

/// What is tried again.
#[derive(Debug, Clone, Copy)]
enum Retry {
    /// Whether there is room for as many bytes.
    Room(u64),
    /// To begin the next segment.
    Seal,
}

/// Owner of the active segment.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    keeper: Keeper,
    state: State,
    retired: Option<Instant>,
    /// How long the active file is: what is behind the blocks is zeros.
    file_bytes: u64,
    behind: WriteBehind,
}

/// Why a block is not durable.
enum CommitError {
    /// It is as if it had not been tried.
    Refused(Arc<str>, Retry),
    /// Nothing more can be written.
    Failed(Arc<str>),
}

impl Writer {
    /// Makes the active segment, or waits for room for it.
    pub(super) fn new(shared: Arc<Shared>, options: Options, plan: Plan) -> Result<Self, FolderError> {
        let behind = WriteBehind::new(KEEP_BYTES);
        let keeper = Keeper::new(shared.clone(), &options);
        let mut writer = Self { shared, options, keeper, state: State::Failed, retired: None, file_bytes: 0, behind };
        writer.keeper.take(Chore::Retire);
        writer.open(plan, FolderError::is_full)?;
        Ok(writer)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Commits until the queue is closed and empty.
    pub(super) fn run(mut self, outlet: &dyn Outlet) {
        thread::scope(|scope| {
            self.keeper.start(scope);
            self.commit_all(outlet);
        });
    }

    fn commit_all(mut self, outlet: &dyn Outlet) {
        loop {
            let wait = match self.state {
                State::Writing(_) if self.options.retain_age.is_none() => Duration::MAX,
                State::Writing(_) => AGE_PAUSE,
                State::Opening(_) | State::Waiting(..) => RETRY_PAUSE,
                State::Failed => Duration::MAX,
            };
            match self.shared.queue.take(wait) {
                Taken::Batch(batch) => {
                    let (next, waiting) = (Instant::now() + COMMIT_PAUSE, batch.waiting());
                    self.commit(batch, outlet);
                    if waiting >= CROWD_MIN {
                        self.shared.queue.gather(next, waiting);
                    }
                }
                Taken::Idle => self.idle(outlet),
                Taken::Closed => return self.trim(),
            }
            self.retire_by_age();
        }
    }

    fn idle(&mut self, outlet: &dyn Outlet) {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Opening(plan) => match self.open(plan, FolderError::is_undone) {
                Ok(()) => outlet.opened(self.shared.catalog().next()),
                Err(error) => self.fail(describe(&error)),
            },
            State::Waiting(file, Retry::Room(bytes)) => self.try_room(file, bytes),
            State::Waiting(file, Retry::Seal) => {
                self.state = State::Writing(file);
                match self.seal() {
                    Ok(()) => self.resume(),
                    Err(error) if error.is_undone() => self.wait(Retry::Seal, describe(&error)),
                    Err(error) => self.fail(describe(&error)),
                }
            }
            state => self.state = state,
        }
    }

    /// Makes the active segment, or waits until it can be made, if it is for a reason that `passes`.
    fn open(&mut self, plan: Plan, passes: fn(&FolderError) -> bool) -> Result<(), FolderError> {
        match open::rewrite(&self.shared, &plan) {
            Ok((file, active)) => {
                let file = Arc::new(file);
                (self.file_bytes, self.behind) = (active.bytes, WriteBehind::new(KEEP_BYTES));
                let mut catalog = self.shared.catalog();
                catalog.active = Active { file: Some(file.clone()), ..active };
                catalog.open = true;
                self.shared.queue.not_before(catalog.active.last_time_ns);
                drop(catalog);
                self.state = State::Writing(file);
                self.resume();
                Ok(())
            }
            Err(error) if passes(&error) => {
                self.refuse(describe(&error));
                self.state = State::Opening(plan);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Looks whether there is room again for what there was none for.
    fn try_room(&mut self, file: Arc<File>, bytes: u64) {
        let end = self.shared.catalog().active.bytes;
        let zeros = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).min(feed::block::BLOCK_BYTES_MAX)];
        let wrote = file.write_all_at(&zeros, end);
        self.file_bytes = end;
        match (wrote, file.set_len(end)) {
            (Ok(()), Ok(())) => {
                self.state = State::Writing(file);
                self.resume();
            }
            (Err(error), Ok(())) if is_full(&error) => self.state = State::Waiting(file, Retry::Room(bytes)),
            (Err(error), _) | (_, Err(error)) => self.fail(format!("cannot write: {error}")),
        }
    }

    fn resume(&mut self) {
        let had_refused = self.shared.queue.accept();
        *self.shared.health() = Health::Writing;
        if had_refused {
            info!("the journal takes records again");
        }
    }

    /// Takes nothing until what failed can be done.
    fn wait(&mut self, retry: Retry, reason: String) {
        if let State::Writing(file) = std::mem::replace(&mut self.state, State::Failed) {
            self.state = State::Waiting(file, retry);
        }
        self.refuse(reason);
    }

    fn refuse(&self, reason: String) {
        let reason: Arc<str> = reason.into();
        let mut health = self.shared.health();
        if !matches!(*health, Health::Waiting(ref known) if *known == reason) {
            warn!(%reason, "the journal takes nothing until this is over");
        }
        *health = Health::Waiting(reason.clone());
        drop(health);
        self.shared.queue.refuse(&reason);
    }

    fn fail(&mut self, reason: String) {
        error!(reason, "the journal takes nothing until a restart");
        let reason: Arc<str> = reason.into();
        *self.shared.health() = Health::Failed(reason.clone());
        self.state = State::Failed;
        self.shared.queue.refuse(&reason);
    }

    fn commit(&mut self, mut batch: Batch, outlet: &dyn Outlet) {
        let at = self.shared.catalog().next();
        let Some(block) = batch.builder.finish(self.shared.stream, at) else {
            let reason = "the stream has no sequence numbers left".into();
            return self.shared.queue.give_up(batch, &AppendError::Unavailable(reason));
        };
        let begun = Instant::now();
        let since = begun.duration_since(self.shared.opened).as_micros() as u64;
        self.shared.commit_since.store(since + 1, Ordering::Relaxed);
        let written = self.write(&block);
        self.shared.commit_since.store(0, Ordering::Relaxed);
        match written {
            Ok(()) => {
                let counters = &self.shared.counters;
                counters.commits.fetch_add(1, Ordering::Relaxed);
                counters.records.fetch_add(block.head().count.into(), Ordering::Relaxed);
                counters.bytes.fetch_add(block.bytes().len() as u64, Ordering::Relaxed);
                counters.commit_us.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                self.answer(batch, &block);
                outlet.committed(&block);
                self.pass("feed.after");
                if let State::Writing(file) = &self.state {
                    let bytes = self.shared.catalog().active.bytes;
                    self.behind.synced(file, bytes);
                }
            }
            Err(CommitError::Refused(reason, retry)) => {
                // Who is refused finds that the journal says so.
                self.wait(retry, reason.to_string());
                self.shared.queue.give_up(batch, &AppendError::Unavailable(reason));
            }
            Err(CommitError::Failed(reason)) => {
                self.fail(reason.to_string());
                self.shared.queue.give_up(batch, &AppendError::Unknown(reason));
            }
        }
    }

    fn answer(&self, batch: Batch, block: &Block) {
        self.pass("answer.before");
        self.shared.queue.done(batch.bytes());
        batch.answer(block.head().first);
        self.pass("answer.after");
    }

    /// Writes a block behind the last, in a new segment if this one is full, and makes it durable.
    fn write(&mut self, block: &Block) -> Result<(), CommitError> {
        let is_sealing = {
            let active = &self.shared.catalog().active;
            !active.is_empty() && active.bytes + block.bytes().len() as u64 > self.options.segment_bytes
        };
        if is_sealing {
            self.seal().map_err(|error| match error.is_undone() {
                true => CommitError::Refused(describe(&error).into(), Retry::Seal),
                false => CommitError::Failed(describe(&error).into()),
            })?;
        }
        let State::Writing(file) = &self.state else {
            return Err(CommitError::Failed("the journal is not open".into()));
        };
        let (shared, file) = (self.shared.clone(), file.clone());
        let (first, end) = {
            let active = &shared.catalog().active;
            (active.start.next, active.bytes)
        };
        let faults = &shared.faults;
        let failed = |action: &str, error: &io::Error| -> Arc<str> {
            format!("cannot {action} {}: {error}", shared.folder.segment(first).display()).into()
        };
        let write = || {
            faults.at("commit.encoded")?;
            faults.at("write")?;
            file.write_all_at(block.bytes(), end)?;
            faults.at("commit.written")
        };
        write().map_err(|error| match (is_full(&error), file.set_len(end)) {
            (true, Ok(())) => {
                self.file_bytes = end;
                CommitError::Refused(failed("write", &error), Retry::Room(block.bytes().len() as u64))
            }
            (false, _) => CommitError::Failed(failed("write", &error)),
            (_, Err(error)) => CommitError::Failed(failed("cut", &error)),
        })?;
        self.fill(&file, end, block.bytes().len() as u64);
        let sync = faults.at("sync").and_then(|()| file.sync_data());
        sync.map_err(|error| CommitError::Failed(failed("sync", &error)))?;
        // On the disk, but under no name: the next start would not find it.
        let links = file.metadata().map(|found| found.nlink());
        if links.as_ref().is_ok_and(|links| *links == 0) {
            let gone = io::Error::new(io::ErrorKind::NotFound, "somebody has removed it");
            return Err(CommitError::Failed(failed("keep", &gone)));
        }
        self.shared.catalog().active.push(block);
        self.pass("commit.synced");
        Ok(())
    }

    /// Makes room for the commits to come, if the block that was written at `begin` has used up what there was.
    fn fill(&mut self, file: &File, begin: u64, block_bytes: u64) {
        let end = begin + block_bytes;
        if end <= self.file_bytes {
            return;
        }
        self.file_bytes = end;
        if block_bytes > FILL_BLOCK_BYTES_MAX {
            return;
        }
        while let limit = (begin + FILL_BYTES).min(self.options.segment_bytes)
            && self.file_bytes < limit
        {
            let piece = ZEROS.len().min((limit - self.file_bytes) as usize);
            match file.write_all_at(&ZEROS[..piece], self.file_bytes) {
                Ok(()) => self.file_bytes += piece as u64,
                // It is not needed, and others may need the room. What cannot be cut off is zeros as well.
                Err(_) => return drop(file.set_len(self.file_bytes)),
            }
        }
    }

    /// Ends the active file behind its last block.
    fn trim(&self) {
        let (file, bytes) = {
            let active = &self.shared.catalog().active;
            (active.file.clone(), active.bytes)
        };
        if let Some(file) = file.filter(|_| self.file_bytes > bytes) {
            // Zeros that stay are no damage.
            let _ = file.set_len(bytes);
        }
    }

    /// Ends the active segment where it is, and begins the next.
    fn seal(&mut self) -> Result<(), FolderError> {
        let shared = self.shared.clone();
        let folder = &shared.folder;
        folder.at("seal.before", folder.path())?;
        self.trim();
        let sealed = shared.catalog().active.clone();
        self.file_bytes = sealed.bytes;
        let header = SegmentHeader { stream: shared.stream, start: sealed.end, last_time_ns: sealed.last_time_ns };
        let steps = ["seal.created", "seal.synced", "seal.renamed"];
        let path = folder.segment(sealed.end.next);
        let file = Arc::new(folder.replace(&path, steps, |file| file.write_all_at(&header.encode(), 0))?);
        let index = Index { stream: shared.stream, segment_bytes: sealed.bytes, entries: sealed.index };
        shared.unwritten().insert(sealed.start.next, Arc::new(index));
        {
            let mut catalog = shared.catalog();
            catalog.active = Active { file: Some(file.clone()), ..Active::new(&header) };
            let (start, bytes, last_time_ns) = (sealed.start, sealed.bytes, sealed.last_time_ns);
            catalog.sealed.push_back(Sealed { start, bytes, last_time_ns });
        }
        self.state = State::Writing(file);
        (self.file_bytes, self.behind) = (FIRST_BLOCK, WriteBehind::new(KEEP_BYTES));
        self.keeper.take(Chore::Sealed(sealed.start.next));
        folder.at("seal.done", folder.path())
    }

    /// Seals the active segment if its first record is too old, so that it can be removed when its last
    /// one is; and removes what is.
    fn retire_by_age(&mut self) {
        let Some(age) = self.options.retain_age else { return };
        if self.retired.is_some_and(|last| last.elapsed() < AGE_PAUSE) {
            return;
        }
        self.retired = Some(Instant::now());
        let first = self.shared.catalog().active.first_time_ns;
        if matches!(self.state, State::Writing(_)) && first.is_some_and(|first| is_older(first, age)) {
            match self.seal() {
                Err(error) if !error.is_undone() => return self.fail(describe(&error)),
                // Else it is tried again.
                Ok(()) | Err(_) => {}
            }
        }
        self.keeper.take(Chore::Retire);
    }

    /// Passes a point that is only there to be killed at.
    fn pass(&self, point: &'static str) {
        let _ = self.shared.faults.at(point);
    }
}

fn describe(error: &FolderError) -> String {
    format!("{error}: {}", error.source)
}
