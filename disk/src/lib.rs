//! Write-behind: has the kernel write what is appended to a long file soon, and not keep it.
//!
//! Left alone, the kernel gathers what is written until a share of the memory is dirty, or 30 s are over, and then
//! holds up who writes while it catches up; and each page that it takes is one that nothing has used for
//! long, which costs more than the copy into it. A writer that says how far it has come ([`WriteBehind`]) keeps the
//! disk at work all the time, and gets the pages back that have just been written.
//!
//! It is advice, and changes nothing about what is durable: only a sync tells that, and it reports what went
//! wrong in between (errseq, Linux 4.13).

use rustix::fs::{Advice, fadvise};
use std::num::NonZeroU64;
use std::os::fd::AsFd;

/// How much is appended before the kernel is told to write it.
const STEP_BYTES: u64 = 2 * 1024 * 1024;

/// How far the kernel has been told to write a file that is appended to.
#[derive(Debug, Clone, Copy)]
pub struct WriteBehind {
    /// What stays in the kernel's memory behind the end, for those who read it.
    keep_bytes: u64,
    told: u64,
}

impl WriteBehind {
    /// Of a file of whose end at least `keep_bytes` stay in memory.
    pub const fn new(keep_bytes: u64) -> Self {
        Self { keep_bytes, told: 0 }
    }

    /// The file is `length` bytes long now. Does not wait for the disk, unless its queue is full.
    pub fn advance(&mut self, file: impl AsFd, length: u64) {
        if length < self.told {
            self.told = length;
        }
        while length - self.told >= STEP_BYTES {
            let (from, keep) = (self.told, self.keep_bytes.max(STEP_BYTES));
            // Of what is dirty this begins to write and keeps all (mm/fadvise.c); what is clean it forgets.
            advise(&file, from, STEP_BYTES);
            self.told += STEP_BYTES;
            if let Some(behind) = self.told.checked_sub(keep + STEP_BYTES) {
                advise(&file, behind, STEP_BYTES);
            }
        }
    }
}

fn advise(file: impl AsFd, offset: u64, bytes: u64) {
    // A file system that knows no advice does without.
    let _ = fadvise(file, offset, NonZeroU64::new(bytes), Advice::DontNeed);
}
