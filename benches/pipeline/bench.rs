//! What all groups are given: how long to measure, and where on the disk. It measures nothing itself.

use measure::progress;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The variable that says how many seconds the longest round takes: all times and counts go with it.
const SECONDS: &str = "BENCH_SECONDS";
const DEFAULT_SECONDS: f64 = 30.0;

/// A run of the benchmarks.
pub(crate) struct Bench {
    folder: PathBuf,
    /// How long rounds are, of their whole length.
    part: f64,
    _lock: File,
}

impl Bench {
    /// Takes the folder for data. What a run that was killed has left there goes.
    pub(crate) fn prepare() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-data");
        let lock = File::create(folder.with_extension("lock")).expect("the target folder can be written to");
        lock.try_lock().expect("two runs at once would measure each other");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the target folder can be written to");
        let seconds = std::env::var(SECONDS).map(|text| text.parse().unwrap_or_else(|_| panic!("{SECONDS}={text}")));
        let part = seconds.unwrap_or(DEFAULT_SECONDS) / DEFAULT_SECONDS;
        if part != 1.0 {
            println!("Rounds of {part:.3} of their length, by {SECONDS}: to try it out, not to quote.");
        }
        Self { folder, part, _lock: lock }
    }

    /// A folder on a real disk, gone when it is dropped.
    pub(crate) fn folder(&self) -> TempDir {
        tempfile::tempdir_in(&self.folder).expect("a folder")
    }

    /// So much time, or the part of it that was asked for.
    pub(crate) fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.part)
    }

    /// So many, or the part of them that was asked for.
    pub(crate) fn count(&self, count: u64) -> u64 {
        ((count as f64 * self.part) as u64).max(1000)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        progress::clear();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
