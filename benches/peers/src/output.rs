//! What a contestant writes: the files of a folder, judged from outside, in the same way for all.

use measure::process::PATIENCE;
use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How often the files are looked at: what a figure may be off by, while it disturbs nobody.
const PAUSE: Duration = Duration::from_millis(2);
/// Files that have not grown for so long will not: longer than anybody's buffers wait.
const QUIET: Duration = Duration::from_secs(5);

/// The log files in a folder, rotated ones too.
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// In this folder, which is made.
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).expect("the folder can be made");
        Self { folder }
    }

    /// The file that a contestant is to write to.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("subscriber.log")
    }

    /// Waits until the files have as many lines as there are records, or grow no more, and tells when they last grew.
    pub(crate) fn complete(&self, records: u64) -> Instant {
        let begun = Instant::now();
        let (mut bytes, mut grown, mut expected) = (0, begun, None);
        loop {
            let now = self.bytes();
            if now > bytes {
                (bytes, grown) = (now, Instant::now());
            }
            // All lines of a contestant have the same length, so they are not read while they are written.
            expected = expected.or_else(|| self.line_bytes().map(|line| line * records));
            if expected.is_some_and(|expected| bytes >= expected) || grown.elapsed() > QUIET {
                return grown;
            }
            assert!(begun.elapsed() < PATIENCE, "{bytes} bytes after {PATIENCE:?}, and still growing");
            thread::sleep(PAUSE);
        }
    }

    /// Calls `each` with every line that is whole.
    pub(crate) fn lines(&self, mut each: impl FnMut(&[u8])) {
        let mut line = Vec::new();
        for path in self.files().iter().map(DirEntry::path) {
            let mut file = BufReader::new(File::open(path).expect("the file can be opened"));
            while file.read_until(b'\n', &mut line).expect("the file can be read") > 0 {
                if line.ends_with(b"\n") {
                    each(&line);
                }
                line.clear();
            }
        }
    }

    /// Counted by inode: one that is renamed meanwhile may be listed by both its names.
    fn bytes(&self) -> u64 {
        let files = self.files();
        let lengths = files.iter().filter_map(|file| file.metadata().ok()).map(|found| (found.ino(), found.len()));
        lengths.collect::<HashMap<_, _>>().values().sum()
    }

    /// How long the first line is.
    fn line_bytes(&self) -> Option<u64> {
        let mut line = Vec::new();
        BufReader::new(File::open(self.file()).ok()?).read_until(b'\n', &mut line).ok()?;
        line.ends_with(b"\n").then_some(line.len() as u64)
    }

    fn files(&self) -> Vec<DirEntry> {
        let entries = fs::read_dir(&self.folder).expect("the folder can be read");
        entries.filter_map(|entry| entry.ok().filter(|entry| is_log(&entry.path()))).collect()
    }
}

/// `subscriber.log`, `subscriber.20261121T080000Z.000001.log`, `subscriber.log.1`: not an index, nor a lock.
fn is_log(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.trim_end_matches(|end: char| end.is_ascii_digit() || end == '.').ends_with(".log")
}
