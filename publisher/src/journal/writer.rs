//! The thread that writes the journal.
//!
//! One commit is one block, one write and one `fdatasync`; the next waits for it. Who waits is answered,
//! and the block handed on, when it is durable and not before.

use crate::journal::catalog::{Active, Sealed};
use crate::journal::folder::{FolderError, is_full};
use crate::journal::open::{self, Plan};
use crate::journal::queue::{Batch, Taken};
use crate::journal::{AppendError, Health, Options, Outlet, Shared};
use feed::{Block, Index, SegmentHeader};
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};
use tracing::{error, info, warn};

/// How often a disk without room is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
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
    state: State,
    retired: Option<Instant>,
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
        let mut writer = Self { shared, options, state: State::Failed, retired: None };
        writer.retire();
        writer.open(plan, FolderError::is_full)?;
        Ok(writer)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Commits until the queue is closed and empty.
    pub(super) fn run(mut self, outlet: &dyn Outlet) {
        loop {
            let wait = match self.state {
                State::Writing(_) if self.options.retain_age.is_none() => Duration::MAX,
                State::Writing(_) => AGE_PAUSE,
                State::Opening(_) | State::Waiting(..) => RETRY_PAUSE,
                State::Failed => Duration::MAX,
            };
            match self.shared.queue.take(wait) {
                Taken::Batch(batch) => self.commit(batch, outlet),
                Taken::Idle => self.idle(outlet),
                Taken::Closed => return,
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
        let (first, end) = {
            let active = &self.shared.catalog().active;
            (active.start.next, active.bytes)
        };
        let faults = &self.shared.faults;
        let failed = |action: &str, error: &io::Error| -> Arc<str> {
            format!("cannot {action} {}: {error}", self.shared.folder.segment(first).display()).into()
        };
        let write = || {
            faults.at("commit.encoded")?;
            faults.at("write")?;
            file.write_all_at(block.bytes(), end)?;
            faults.at("commit.written")
        };
        write().map_err(|error| match (is_full(&error), file.set_len(end)) {
            (true, Ok(())) => CommitError::Refused(failed("write", &error), Retry::Room(block.bytes().len() as u64)),
            (false, _) => CommitError::Failed(failed("write", &error)),
            (_, Err(error)) => CommitError::Failed(failed("cut", &error)),
        })?;
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

    /// Ends the active segment where it is, and begins the next.
    fn seal(&mut self) -> Result<(), FolderError> {
        let shared = self.shared.clone();
        let folder = &shared.folder;
        folder.at("seal.before", folder.path())?;
        let sealed = shared.catalog().active.clone();
        let header = SegmentHeader { stream: shared.stream, start: sealed.end, last_time_ns: sealed.last_time_ns };
        let steps = ["seal.created", "seal.synced", "seal.renamed"];
        let path = folder.segment(sealed.end.next);
        let file = Arc::new(folder.replace(&path, steps, |file| file.write_all_at(&header.encode(), 0))?);
        {
            let mut catalog = shared.catalog();
            catalog.active = Active { file: Some(file.clone()), ..Active::new(&header) };
            let (start, bytes, last_time_ns) = (sealed.start, sealed.bytes, sealed.last_time_ns);
            catalog.sealed.push_back(Sealed { start, bytes, last_time_ns });
        }
        self.state = State::Writing(file);
        let index = Index { stream: shared.stream, segment_bytes: sealed.bytes, entries: sealed.index };
        shared.write_index(&folder.index(sealed.start.next), &index);
        folder.at("seal.done", folder.path())?;
        self.retire();
        Ok(())
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
        self.retire();
    }

    /// Removes the oldest segments while there is more than is to be kept, or they are too old.
    fn retire(&mut self) {
        let folder = &self.shared.folder;
        let mut removed = 0;
        loop {
            let retired = {
                let mut catalog = self.shared.catalog();
                let too_much = catalog.bytes() > self.options.retain_bytes;
                let is_due = |sealed: &Sealed| {
                    too_much || self.options.retain_age.is_some_and(|age| is_older(sealed.last_time_ns, age))
                };
                // Taken from the catalog first: no reader finds it any more.
                if catalog.sealed.front().is_some_and(is_due) { catalog.sealed.pop_front() } else { None }
            };
            let Some(retired) = retired else { break };
            let remove = || {
                folder.at("retire.before", folder.path())?;
                folder.remove(retired.start.next)
            };
            if let Err(error) = remove() {
                warn!(error = &error as &dyn Error, "a retired segment stays until the next start");
            }
            removed += 1;
        }
        if removed > 0 {
            self.shared.counters.retired_segments.fetch_add(removed, Ordering::Relaxed);
            // What is gone stays gone, in this order.
            if let Err(error) = folder.sync() {
                warn!(error = &error as &dyn Error, "what was retired may come back");
            }
            self.pass("retire.done");
        }
    }

    /// Passes a point that is only there to be killed at.
    fn pass(&self, point: &'static str) {
        let _ = self.shared.faults.at(point);
    }
}

/// Whether a time is longer ago than `age`, by a clock that may have been set.
fn is_older(time_ns: i64, age: Duration) -> bool {
    let Some(limit) = SystemTime::now().checked_sub(age) else { return false };
    let since_epoch = limit.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::from(time_ns) < i128::try_from(since_epoch.as_nanos()).unwrap_or(i128::MAX)
}

fn describe(error: &FolderError) -> String {
    format!("{error}: {}", error.source)
}
