//! What no commit has to wait for: the index of a segment that was sealed, and the removal of what is not kept.
//!
//! To remove a file takes the file system milliseconds, and an index is synced; so a thread of its own does it, a few
//! segments behind at most. Readers need neither: an index is in memory until it is on the disk, and what is
//! retired is taken from the catalog first.

use crate::journal::catalog::Sealed;
use crate::journal::{Options, Shared};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SendError, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, SystemTime};
use tracing::warn;

/// What may wait to be done, beside what is being done; whoever brings more waits.
const CHORES_MAX: usize = 1;

/// Something to be done.
pub(super) enum Chore {
    /// Writes the index of the segment that begins with this number, which is among those that are not written yet;
    /// and removes what is not kept.
    Sealed(u64),
    /// Removes what is not kept.
    Retire,
}

/// Does chores: at once, or on its thread once it has one.
pub(super) struct Keeper {
    work: Arc<Work>,
    chores: Option<SyncSender<Chore>>,
}

struct Work {
    shared: Arc<Shared>,
    retain_bytes: u64,
    retain_age: Option<Duration>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, options: &Options) -> Self {
        let Options { retain_bytes, retain_age, .. } = *options;
        Self { work: Arc::new(Work { shared, retain_bytes, retain_age }), chores: None }
    }

    /// Gives it a thread, which ends when the keeper is dropped and all is done. Where there is none to be had,
    /// things are done at once.
    pub(super) fn start<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) {
        let (chores, work) = (sync_channel(CHORES_MAX), self.work.clone());
        let (sender, receiver) = chores;
        let run = move || work.run(receiver);
        match Builder::new().name("journal-keeper".to_owned()).spawn_scoped(scope, run) {
            Ok(_) => self.chores = Some(sender),
            Err(error) => warn!(%error, "no thread for what the journal keeps: its commits wait for that"),
        }
    }

    /// Has something done.
    pub(super) fn take(&self, chore: Chore) {
        let left = match (&self.chores, &chore) {
            (None, _) => Some(chore),
            // One that waits does as much.
            (Some(chores), Chore::Retire) => match chores.try_send(chore) {
                Ok(()) | Err(TrySendError::Full(_)) => None,
                Err(TrySendError::Disconnected(chore)) => Some(chore),
            },
            (Some(chores), Chore::Sealed(_)) => chores.send(chore).err().map(|SendError(chore)| chore),
        };
        // It has no thread, or not any more: a defect.
        if let Some(chore) = left {
            self.work.perform(&chore);
        }
    }
}

impl Work {
    fn run(&self, chores: Receiver<Chore>) {
        chores.into_iter().for_each(|chore| self.perform(&chore));
    }

    fn perform(&self, chore: &Chore) {
        if let Chore::Sealed(first) = chore {
            self.write_index(*first);
        }
        self.retire();
    }

    fn write_index(&self, first: u64) {
        // What is retired meanwhile needs none. Nobody else removes anything.
        let is_kept = self.shared.catalog().sealed.iter().any(|sealed| sealed.start.next == first);
        let index = self.shared.unwritten().get(&first).cloned();
        if let Some(index) = index.filter(|_| is_kept) {
            self.shared.write_index(&self.shared.folder.index(first), &index);
        }
        self.shared.unwritten().remove(&first);
    }

    /// Removes the oldest segments while there is more than is to be kept, or they are too old.
    fn retire(&self) {
        let folder = &self.shared.folder;
        let mut removed = 0;
        loop {
            let retired = {
                let mut catalog = self.shared.catalog();
                let too_much = catalog.bytes() > self.retain_bytes;
                let is_due =
                    |sealed: &Sealed| too_much || self.retain_age.is_some_and(|age| is_older(sealed.last_time_ns, age));
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
            // Only there to be killed at.
            let _ = self.shared.faults.at("retire.done");
        }
    }
}

/// Whether a time is longer ago than `age`, by a clock that may have been set.
pub(super) fn is_older(time_ns: i64, age: Duration) -> bool {
    let Some(limit) = SystemTime::now().checked_sub(age) else { return false };
    let since_epoch = limit.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::from(time_ns) < i128::try_from(since_epoch.as_nanos()).unwrap_or(i128::MAX)
}
