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

/// How far the kernel has been told about a file that is appended to.
#[derive(Debug, Clone, Copy)]
pub struct WriteBehind {
    /// What stays in the kernel's memory behind the end, for those who read it.
    keep_bytes: u64,
    /// Up to where; what was there before is nothing that was appended.
    told: Option<u64>,
}

impl WriteBehind {
    /// Of a file of whose end at least `keep_bytes` stay in memory.
    pub const fn new(keep_bytes: u64) -> Self {
        Self { keep_bytes, told: None }
    }

    /// The file has been appended to, and is `length` bytes long now: what is new is to be written soon, what is far
    /// behind forgotten. Does not wait for the disk, unless its queue is full.
    pub fn appended(&mut self, file: impl AsFd, length: u64) {
        self.advance(length, |begin, keep| {
            // Of what is dirty this begins to write and keeps all (mm/fadvise.c); what is clean it forgets.
            advise(&file, begin, STEP_BYTES);
            if let Some(behind) = begin.checked_sub(keep) {
                advise(&file, behind, STEP_BYTES);
            }
        });
    }

    /// The file has been synced, and is `length` bytes long: what is far behind is to be forgotten.
    pub fn synced(&mut self, file: impl AsFd, length: u64) {
        self.advance(length, |begin, keep| {
            if let Some(behind) = begin.checked_sub(keep) {
                advise(&file, behind, STEP_BYTES);
            }
        });
    }

    fn advance(&mut self, length: u64, step: impl Fn(u64, u64)) {
        let told = self.told.get_or_insert(length);
        *told = length.min(*told);
        while length - *told >= STEP_BYTES {
            step(*told, self.keep_bytes.max(STEP_BYTES));
            *told += STEP_BYTES;
        }
    }
}

fn advise(file: impl AsFd, offset: u64, bytes: u64) {
    // A file system that knows no advice does without.
    let _ = fadvise(file, offset, NonZeroU64::new(bytes), Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::os::unix::fs::FileExt;

    #[test]
    fn advice_changes_nothing_of_what_is_in_the_file() -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        let (mut appended, mut synced) = (WriteBehind::new(0), WriteBehind::new(4 * STEP_BYTES));
        let piece: Vec<u8> = (0..1_000_000).map(|at| (at % 251) as u8).collect();
        for number in 1..=20 {
            file.write_all(&piece)?;
            appended.appended(&file, number * piece.len() as u64);
            file.sync_data()?;
            synced.synced(&file, number * piece.len() as u64);
        }
        // One that was cut, and goes on.
        file.set_len(5_000_000)?;
        appended.appended(&file, 5_000_000);
        let mut read = vec![0; piece.len()];
        for number in 0..5 {
            file.read_exact_at(&mut read, number * piece.len() as u64)?;
            assert_eq!(read, piece);
        }
        Ok(())
    }
}
