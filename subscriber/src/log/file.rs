//! Lines in files: the current one always has the log's own name, full ones are numbered beside it.
//!
//! ```text
//! subscriber.log                            the current file, for `tail -F`
//! subscriber.20261121T080000Z.000042.log    a full one: when it was closed (for people), its number (the order)
//! subscriber.log.lock                       held by the one process that writes here
//! ```
//!
//! Files are cut between lines only. A file is never longer than the limit, unless it is one line
//! that is. A rotated file is never written to again and never replaced.
//!
//! The file is opened for appending, so whoever truncates it in place leaves no hole, and looked up
//! by its name before each write, so whoever moves or deletes it gets a new one.
//!
//! A file never shrinks: `tail -F` takes a shorter file for another one, and prints it from its
//! start. What a full disk leaves of a line is not cut off but completed once there is room, and
//! what a kill leaves of one is ended at the next start.

use chrono::Utc;
use prometheus_client::metrics::counter::Counter;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// The least that a file may hold, in bytes: so little that it is for tests.
pub const ROTATE_BYTES_MIN: u64 = 1024;

/// No file has this number, nor one beyond: what looks like one is not ours.
const NUMBER_END: u64 = 1_000_000_000_000;
/// How often a rotated file's name may turn out to be taken before rotation fails.
const NAME_TRIES_MAX: u32 = 1000;

/// What went wrong with a log; each names the path.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process writes this log.
    #[error("another subscriber is writing {log}: it holds {lock}", log = log.display(), lock = lock.display())]
    Locked {
        /// The log.
        log: PathBuf,
        /// The file that is locked.
        lock: PathBuf,
    },
    /// The path is a folder, a device or the like.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The path has no file name.
    #[error("{} does not name a file", .0.display())]
    NoName(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// As many names as were tried for a full file are taken.
    #[error("cannot rotate {}: {NAME_TRIES_MAX} names for it are taken", .0.display())]
    NamesTaken(PathBuf),
}

/// For `map_err`: what was tried, and on what.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// A log that this process holds.
pub(crate) struct LogFile {
    name: RotatedName,
    path: PathBuf,
    folder: PathBuf,
    rotate_bytes: u64,
    rotations: Counter,
    /// The number of the last rotated file.
    number: u64,
    /// `None` after a rotation, until the next write.
    current: Option<File>,
    /// How long the current file was after the last write.
    length: u64,
    _lock: File,
}

/// Whole lines on their way to a file.
pub(crate) struct Batch<'a> {
    lines: &'a [u8],
    /// Up to here they are on file. May be inside a line, after a write that failed.
    written: usize,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(lines: &'a [u8]) -> Self {
        Self { lines, written: 0 }
    }

    /// The lines that are on file as a whole.
    pub(crate) fn done(&self) -> &'a [u8] {
        &self.lines[..self.line_start()]
    }

    /// The others.
    pub(crate) fn left(&self) -> &'a [u8] {
        &self.lines[self.line_start()..]
    }

    fn line_start(&self) -> usize {
        self.lines[..self.written].iter().rposition(is_newline).map_or(0, |newline| newline + 1)
    }
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

impl LogFile {
    /// Takes the lock of the log at `path`, then opens or creates it, and its folder.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) fn open(path: &Path, rotate_bytes: u64, rotations: Counter) -> Result<Self, LogError> {
        // By another name it is the same log, with the same lock.
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let path =
            &if is_link { fs::canonicalize(path).map_err(failed("follow the link", path))? } else { path.to_owned() };
        let name = RotatedName::of(path).ok_or_else(|| LogError::NoName(path.to_owned()))?;
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(LogError::NotAFile(path.to_owned()));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&folder).map_err(failed("create the folder", &folder))?;
        let lock = lock(path)?;
        let number = name.last_number(&folder)?;
        let path = path.to_owned();
        let mut log =
            Self { name, path, folder, rotate_bytes, rotations, number, current: None, length: 0, _lock: lock };
        log.look_up()?;
        Ok(log)
    }

    /// Appends a batch, in order, over as many files as it takes. After an error, call again with
    /// the same batch: it goes on where the disk refused.
    ///
    /// # Errors
    /// A write or a rotation failed.
    pub(crate) fn append(&mut self, batch: &mut Batch<'_>) -> Result<(), LogError> {
        while batch.written < batch.lines.len() {
            let is_another = self.look_up()?;
            if is_another {
                // The beginning of a line that was begun is not in this file.
                batch.written = batch.line_start();
            }
            let is_within_line = batch.written > batch.line_start();
            let left = &batch.lines[batch.written..];
            match fitting(left, self.length, self.rotate_bytes, is_within_line) {
                0 => self.rotate()?,
                fitting => self.write(batch, batch.written + fitting)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &mut Batch<'_>, until: usize) -> Result<(), LogError> {
        let file = self.current.as_mut().expect("a file has been looked up before each write");
        while batch.written < until {
            let count = match file.write(&batch.lines[batch.written..until]) {
                Ok(0) => return Err(failed("write to", &self.path)(io::ErrorKind::WriteZero.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                written => written.map_err(failed("write to", &self.path))?,
            };
            batch.written += count;
            self.length += count as u64;
        }
        Ok(())
    }

    /// Waits until all that was appended is on the disk.
    ///
    /// # Errors
    /// The disk refused. What was not on it by then may be lost.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        match &self.current {
            Some(file) => file.sync_data().map_err(failed("sync", &self.path)),
            None => Ok(()),
        }
    }

    /// Sees to it that the current file is the one that has the log's name now, and its length is
    /// known. Returns whether what was written last is no longer at its end.
    fn look_up(&mut self) -> Result<bool, LogError> {
        if self.current.as_ref().is_some_and(|file| !is_at(file, &self.path)) {
            warn!(log = %self.path.display(), "the log was moved or deleted, beginning a new one");
            self.current = None;
        }
        let is_new = self.current.is_none();
        let mut file = match self.current.take() {
            Some(file) => file,
            None => self.open_current()?,
        };
        let length = |file: &File| file.metadata().map(|found| found.len()).map_err(failed("examine", &self.path));
        let is_shorter = !is_new && length(&file)? < self.length;
        if is_new || is_shorter {
            end_torn_line(&mut file).map_err(failed("end the last line of", &self.path))?;
        }
        self.length = length(&file)?;
        self.current = Some(file);
        Ok(is_new || is_shorter)
    }

    fn open_current(&self) -> Result<File, LogError> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&self.path);
        let file = opened.map_err(failed("open", &self.path))?;
        if !file.metadata().map_err(failed("examine", &self.path))?.is_file() {
            return Err(LogError::NotAFile(self.path.clone()));
        }
        sync_folder(&self.folder)?;
        Ok(file)
    }

    /// Gives the current file its number. Each step can be tried again.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let target = self.rename_to_next_number()?;
        self.current = None;
        sync_folder(&self.folder)?;
        self.rotations.inc();
        info!(file = %target.display(), "rotated the log");
        Ok(())
    }

    fn rename_to_next_number(&mut self) -> Result<PathBuf, LogError> {
        for _ in 0..NAME_TRIES_MAX {
            let target = self.folder.join(self.name.numbered(self.number + 1));
            let renamed = rename_without_replacing(&self.path, &target);
            match renamed {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.number += 1,
                Err(error) => return Err(failed("rotate", &self.path)(error)),
                Ok(()) => {
                    self.number += 1;
                    return Ok(target);
                }
            }
        }
        Err(LogError::NamesTaken(self.path.clone()))
    }
}

/// How much of `lines` goes into a file of `length` bytes: as many whole lines as fit, but at least
/// one into an empty file, and in any case the rest of one that was begun.
fn fitting(lines: &[u8], length: u64, rotate_bytes: u64, is_within_line: bool) -> usize {
    let room = usize::try_from(rotate_bytes.saturating_sub(length)).unwrap_or(usize::MAX);
    if lines.len() <= room {
        return lines.len();
    }
    match lines[..room].iter().rposition(is_newline) {
        Some(newline) => newline + 1,
        None if length == 0 || is_within_line => {
            lines.iter().position(is_newline).map_or(lines.len(), |newline| newline + 1)
        }
        None => 0,
    }
}

fn lock(log: &Path) -> Result<File, LogError> {
    let mut path = log.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    // Non-blocking, should somebody have left a pipe of that name there.
    let non_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(non_blocking).open(&path);
    let file = opened.map_err(failed("create the lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { log: log.to_owned(), lock: path }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// Whether `file` is still what `path` names.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// A process that was killed in the middle of a write may have left half a line: ended here, so
/// that the next one begins a line of its own.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        warn!("the log ends in the middle of a line, ending it");
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// A name survives a power cut once its folder is synced.
fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder", folder))
}

fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag. The lock keeps other subscribers away meanwhile.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.try_exists()? => fs::rename(from, to),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}

/// How the files of one log are named: `STEM.TIME.NUMBER.EXTENSION`.
struct RotatedName {
    stem: OsString,
    extension: Option<OsString>,
}

impl RotatedName {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_stem()?.to_owned();
        Some(Self { stem, extension: path.extension().map(OsStr::to_owned) })
    }

    fn numbered(&self, number: u64) -> OsString {
        let mut name = self.stem.clone();
        name.push(Utc::now().format(".%Y%m%dT%H%M%SZ").to_string());
        name.push(format!(".{number:06}"));
        if let Some(extension) = &self.extension {
            name.push(".");
            name.push(extension);
        }
        name
    }

    /// The number in a name that [`Self::numbered`] made, also if somebody compressed the file
    /// since and added to its name.
    fn number_in(&self, name: &OsStr) -> Option<u64> {
        let rest = name.as_bytes().strip_prefix(self.stem.as_bytes())?.strip_prefix(b".")?;
        let (time, rest) = rest.split_at_checked("20261121T080000Z".len())?;
        let rest = rest.strip_prefix(b".").filter(|_| time.ends_with(b"Z"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ends = matches!(rest.get(digits), None | Some(b'.'));
        let number = std::str::from_utf8(&rest[..digits]).ok().filter(|_| digits >= 6 && ends)?;
        number.parse().ok().filter(|&number| number < NUMBER_END)
    }

    fn last_number(&self, folder: &Path) -> Result<u64, LogError> {
        let mut last = 0;
        for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
            let entry = entry.map_err(failed("list", folder))?;
            last = last.max(self.number_in(&entry.file_name()).unwrap_or(0));
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn open(folder: &Path, rotate_bytes: u64) -> LogFile {
        LogFile::open(&folder.join("subscriber.log"), rotate_bytes, Counter::default()).unwrap()
    }

    fn append(log: &mut LogFile, text: &str) {
        let mut batch = Batch::new(text.as_bytes());
        log.append(&mut batch).unwrap();
        assert!(batch.left().is_empty());
    }

    /// The rotated files by number, then the current one: read without the code under test.
    fn files(folder: &Path) -> Vec<String> {
        let mut rotated = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if let [_, _, number, _] = name.split('.').collect::<Vec<_>>()[..] {
                rotated.insert(number.to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
        let current = fs::read_to_string(folder.join("subscriber.log")).unwrap();
        rotated.into_values().chain([current]).collect()
    }

    #[test]
    fn files_are_cut_between_lines_and_hold_every_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), 1024);
        let lines: Vec<String> = (0..1000).map(|number| format!("{number} {}\n", "x".repeat(number % 97))).collect();
        for batch in lines.chunks(33) {
            append(&mut log, &batch.concat());
        }
        let files = files(folder.path());
        assert!(files.len() > 40);
        assert!(files.iter().all(|file| file.ends_with('\n') && file.len() <= 1024));
        assert_eq!(files.concat(), lines.concat());
    }

    #[test]
    fn a_line_longer_than_a_file_has_one_to_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), 1024);
        let long = "y".repeat(5000);
        append(&mut log, &format!("a\n{long}\nb\n"));
        assert_eq!(files(folder.path()), ["a\n".to_owned(), format!("{long}\n"), "b\n".to_owned()]);
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_no_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let line = "z".repeat(1000) + "\n";
        for _ in 0..3 {
            let mut log = open(folder.path(), 1024);
            append(&mut log, &line.repeat(2));
        }
        // Six lines: five files are full, the sixth is current.
        assert_eq!(files(folder.path()), vec![line.clone(); 6]);

        // Somebody takes the next name, whenever the rotation will be.
        let mut log = open(folder.path(), 1024);
        let taken = folder.path().join(log.name.numbered(6));
        fs::write(&taken, "not ours\n").unwrap();
        append(&mut log, &line);
        assert_eq!(fs::read_to_string(taken).unwrap(), "not ours\n");
        assert_eq!(fs::read_to_string(folder.path().join("subscriber.log")).unwrap(), line);
    }

    #[test]
    fn only_names_of_this_log_count_as_its_files() {
        let name = RotatedName::of(Path::new("x/subscriber.log")).unwrap();
        let number = |text: &str| name.number_in(OsStr::new(text));
        assert_eq!(number("subscriber.20261121T080000Z.000042.log"), Some(42));
        assert_eq!(number("subscriber.20261121T080000Z.1000000.log"), Some(1_000_000));
        assert_eq!(number("subscriber.20261121T080000Z.000043.log.gz"), Some(43));
        for other in [
            "subscriber.log",
            "subscriber.log.lock",
            "subscriber.000042.log",
            "other.20261121T080000Z.000042.log",
            "subscriber.20261121T080000Z.42.log",
            "subscriber.20261121T080000Z.000042x.log",
            "subscriber.20261121T080000Z.18446744073709551615.log",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
        let bare = RotatedName::of(Path::new("log")).unwrap();
        assert_eq!(bare.number_in(&bare.numbered(7)), Some(7));
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subscriber.log");
        let first = LogFile::open(&path, 1024, Counter::default()).unwrap();
        let error = LogFile::open(&path, 1024, Counter::default()).err().unwrap();
        assert!(matches!(error, LogError::Locked { .. }), "{error}");
        drop(first);
        LogFile::open(&path, 1024, Counter::default()).unwrap();
    }

    #[test]
    fn a_log_has_one_holder_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path(), 1024);
        let link = folder.path().join("link.log");
        std::os::unix::fs::symlink("subscriber.log", &link).unwrap();
        let error = LogFile::open(&link, 1024, Counter::default()).err().unwrap();
        assert!(matches!(error, LogError::Locked { .. }), "{error}");

        let nowhere = folder.path().join("nowhere.log");
        std::os::unix::fs::symlink("absent.log", &nowhere).unwrap();
        let error = LogFile::open(&nowhere, 1024, Counter::default()).err().unwrap();
        assert_eq!(error.to_string(), format!("cannot follow the link {}", nowhere.display()));
    }

    #[test]
    fn a_torn_last_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("subscriber.log"), "whole\nto").unwrap();
        append(&mut open(folder.path(), 1024), "next\n");
        assert_eq!(files(folder.path()), ["whole\nto\nnext\n"]);
    }

    #[test]
    fn a_line_that_was_begun_is_completed_and_begun_again_only_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subscriber.log");
        let mut log = open(folder.path(), 1024);
        append(&mut log, &("x".repeat(1000) + "\n"));
        // As a write leaves it that the disk refused after ten bytes.
        let second = "y".repeat(2000) + "\n";
        let mut batch = Batch::new(second.as_bytes());
        log.write(&mut batch, 10).unwrap();
        assert_eq!((batch.done(), batch.left()), (&b""[..], second.as_bytes()));
        log.append(&mut batch).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x".repeat(1000) + "\n" + &second);

        let begin = |log: &mut LogFile| {
            append(log, "before\n");
            let mut batch = Batch::new(b"third\n");
            log.write(&mut batch, 2).unwrap();
            batch
        };
        let mut batch = begin(&mut log);
        fs::remove_file(&path).unwrap();
        log.append(&mut batch).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");

        let mut batch = begin(&mut log);
        File::create(&path).unwrap();
        log.append(&mut batch).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");

        let mut batch = begin(&mut log);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8).unwrap();
        log.append(&mut batch).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\nbe\nthird\n");
    }

    #[test]
    fn a_log_moved_deleted_or_truncated_under_the_writer_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subscriber.log");
        let mut log = open(folder.path(), 1024);
        append(&mut log, "one\n");
        fs::rename(&path, folder.path().join("moved")).unwrap();
        append(&mut log, "two\n");
        assert_eq!(fs::read_to_string(folder.path().join("moved")).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        append(&mut log, "three\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        File::create(&path).unwrap();
        append(&mut log, "four\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| LogFile::open(path, 1024, Counter::default()).err().unwrap().to_string();
        assert!(refused(Path::new("/")).contains("does not name a file"));
        let inside = folder.path().join("folder");
        fs::create_dir(&inside).unwrap();
        assert_eq!(refused(&inside), format!("{} is not a regular file", inside.display()));
        assert_eq!(refused(Path::new("/dev/null")), "/dev/null is not a regular file");
        assert!(!Path::new("/dev/null.lock").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(refused(&folder.path().join("file/log")).contains("cannot create the folder"));
    }
}
