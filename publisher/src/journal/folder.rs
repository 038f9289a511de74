//! The folder of a journal: its lock, its names, and how a file in it is replaced durably.
//!
//! | name | holds |
//! |---|---|
//! | `NUMBER.segment` | a segment; NUMBER is its first sequence in 20 digits, so that names sort |
//! | `NUMBER.index` | the sparse index of a sealed segment, rebuilt if it is missing or bad |
//! | `NUMBER.damaged` | a segment that nothing, or not all, can be read from, set aside |
//! | `name` | the publisher's name, a line of text |
//! | `stream-STREAM` | a folder: the journal that was here before `--new-stream`, see [`renew`] |
//! | `new-stream` | the name of such a folder, to which the journal is being moved |
//! | `*.new` | a file that was not finished when the process ended; removed at the next start |
//!
//! Whatever else lies there is left alone. Who has the folder has an exclusive `flock` on it, and works in
//! the folder that is locked, wherever it has been moved since: paths are only for messages.

mod renew;

pub(crate) use renew::SetAside;

use faults::Faults;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, linkat, openat, renameat, unlinkat};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SEGMENT: &str = "segment";
const INDEX: &str = "index";
const DAMAGED: &str = "damaged";
const UNFINISHED: &str = "new";
const NAME: &str = "name";
/// Digits of a sequence number in a file's name.
const NUMBER_DIGITS: usize = 20;
/// The most that is read of a file with a name.
const NAME_FILE_BYTES_MAX: u64 = 4096;

/// Why something in the folder could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FolderError {
    action: &'static str,
    path: PathBuf,
    /// Why.
    pub(crate) source: io::Error,
    is_undone: bool,
}

impl FolderError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source, is_undone: false }
    }

    /// The same, of something that has changed nothing.
    fn undone(self) -> Self {
        Self { is_undone: true, ..self }
    }

    /// Whether it is as if it had not been tried, so that it can be tried again.
    pub(crate) fn is_undone(&self) -> bool {
        self.is_undone
    }

    /// Whether that was only for want of room.
    pub(crate) fn is_full(&self) -> bool {
        self.is_undone && is_full(&self.source)
    }
}

/// Whether a write failed because there is no room: on the disk, in the quota, below the limit on a
/// file's size.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A folder that this process has to itself.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked; given up when the process ends, however it ends.
    locked: File,
    faults: Faults,
}

impl Folder {
    /// Makes the folder if there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another process has it.
    pub(crate) fn lock(path: &Path, faults: Faults) -> Result<Self, FolderError> {
        create(path).map_err(|source| FolderError::new("create", path, source))?;
        let locked = File::open(path).map_err(|source| FolderError::new("open", path, source))?;
        locked.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FolderError::new("lock", path, io::Error::other("another process has it")),
            TryLockError::Error(source) => FolderError::new("lock", path, source),
        })?;
        Ok(Self { path: path.to_owned(), locked, faults })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn segment(&self, first: u64) -> PathBuf {
        self.numbered(first, SEGMENT)
    }

    pub(crate) fn index(&self, first: u64) -> PathBuf {
        self.numbered(first, INDEX)
    }

    fn numbered(&self, first: u64, kind: &str) -> PathBuf {
        self.path.join(format!("{first:0width$}.{kind}", width = NUMBER_DIGITS))
    }

    /// The first sequences of the segments that are there, in order. Removes what was not finished, and
    /// indexes without a segment.
    pub(crate) fn list(&self) -> Result<Vec<u64>, FolderError> {
        let fail = |source| FolderError::new("read", &self.path, source);
        let (mut found, mut indexes) = (Vec::new(), Vec::new());
        for entry in Dir::read_from(&self.locked).map_err(io::Error::from).map_err(fail)? {
            let entry = entry.map_err(io::Error::from).map_err(fail)?;
            let path = self.path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(SEGMENT) => found.extend(number(&path)),
                Some(INDEX) => indexes.extend(number(&path)),
                Some(UNFINISHED) => self.unlink(&path)?,
                _ => {}
            }
        }
        found.sort_unstable();
        // Retention was ended between the two.
        for first in indexes.into_iter().filter(|first| found.binary_search(first).is_err()) {
            self.remove_index(first)?;
        }
        Ok(found)
    }

    /// Takes a segment that nothing can be read from out of the way.
    pub(crate) fn set_aside(&self, first: u64) -> Result<PathBuf, FolderError> {
        let (from, to) = (self.segment(first), self.numbered(first, DAMAGED));
        self.rename(&from, &to)?;
        self.sync()?;
        Ok(to)
    }

    /// Keeps what a segment is now under another name, whatever takes its place. What was kept so before goes.
    pub(crate) fn keep_damaged(&self, first: u64) -> io::Result<PathBuf> {
        let (from, to) = (self.segment(first), self.numbered(first, DAMAGED));
        let there = unlinkat(&self.locked, name_of(&to), AtFlags::empty());
        match there.map_err(io::Error::from) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => linkat(&self.locked, name_of(&from), &self.locked, name_of(&to), AtFlags::empty())?,
        }
        Ok(to)
    }

    /// Replaces a file, or makes it, so that after whatever end of the process or the machine there is
    /// the old one or the whole new one. Returns the new one.
    ///
    /// The points of `steps` are passed once the file is written, synced, and renamed.
    ///
    /// # Errors
    /// Before the new file is synced, and between that and the renaming, nothing has changed
    /// ([`FolderError::is_undone`]). A failed sync, and whatever fails behind the renaming, is for good.
    pub(crate) fn replace(
        &self,
        path: &Path,
        steps: [&'static str; 3],
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<File, FolderError> {
        let new = unfinished(path);
        let made = self.write_new(&new, steps, write).and_then(|file| {
            self.rename(&new, path).map_err(FolderError::undone)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                self.at(steps[2], path)?;
                self.sync()?;
                Ok(file)
            }
            Err(error) => {
                let _ = self.unlink(&new);
                Err(error)
            }
        }
    }

    fn write_new(
        &self,
        new: &Path,
        steps: [&'static str; 3],
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<File, FolderError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&self.locked, name_of(new), flags, Mode::from_raw_mode(0o666));
        let file = File::from(file.map_err(|errno| FolderError::new("create", new, errno.into()).undone())?);
        write(&file).map_err(|source| FolderError::new("write", new, source).undone())?;
        self.at(steps[0], new).map_err(FolderError::undone)?;
        file.sync_data().map_err(|source| FolderError::new("sync", new, source))?;
        self.at(steps[1], new).map_err(FolderError::undone)?;
        Ok(file)
    }

    /// Whether there may be room for a file of so many bytes. Room that is there may still be refused.
    ///
    /// # Errors
    /// There is none, as if it had been tried.
    pub(crate) fn check_room(&self, path: &Path, bytes: u64) -> Result<(), FolderError> {
        match rustix::fs::fstatvfs(&self.locked) {
            Ok(found) if found.f_bfree.saturating_mul(found.f_frsize) < bytes => {
                let source = rustix::io::Errno::NOSPC.into();
                Err(FolderError::new("write", &unfinished(path), source).undone())
            }
            // A file system that does not tell is asked by writing.
            _ => Ok(()),
        }
    }

    /// Passes a point of the file at `path`.
    pub(crate) fn at(&self, point: &'static str, path: &Path) -> Result<(), FolderError> {
        self.faults.at(point).map_err(|source| FolderError::new(point, path, source))
    }

    /// Opens a file of the folder to be read.
    pub(crate) fn open(&self, path: &Path) -> Result<File, FolderError> {
        let file = openat(&self.locked, name_of(path), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        file.map(File::from).map_err(|errno| FolderError::new("open", path, errno.into()))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FolderError> {
        let renamed = renameat(&self.locked, name_of(from), &self.locked, name_of(to));
        renamed.map_err(|errno| FolderError::new("rename", from, errno.into()))
    }

    fn unlink(&self, path: &Path) -> Result<(), FolderError> {
        match unlinkat(&self.locked, name_of(path), AtFlags::empty()).map_err(io::Error::from) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FolderError::new("remove", path, source)),
            _ => Ok(()),
        }
    }

    /// Removes a segment and its index. A segment that is gone already is no error.
    pub(crate) fn remove(&self, first: u64) -> Result<(), FolderError> {
        self.unlink(&self.segment(first))?;
        self.at("retire.unlinked", &self.path)?;
        self.remove_index(first)
    }

    /// Removes the index of a segment, if it has one.
    pub(crate) fn remove_index(&self, first: u64) -> Result<(), FolderError> {
        self.unlink(&self.index(first))
    }

    /// Makes what was created, renamed and removed durable.
    pub(crate) fn sync(&self) -> Result<(), FolderError> {
        self.locked.sync_all().map_err(|source| FolderError::new("sync", &self.path, source))
    }

    /// The name that is kept here.
    pub(crate) fn name(&self) -> Result<Option<String>, FolderError> {
        self.text(&self.path.join(NAME))
    }

    /// The line in a small file, if there is one.
    fn text(&self, path: &Path) -> Result<Option<String>, FolderError> {
        let file = match self.open(path) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        let read = file.take(NAME_FILE_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|source| FolderError::new("read", path, source))?;
        Ok(Some(text.trim_end_matches('\n').to_owned()))
    }

    /// Keeps a name.
    pub(crate) fn keep_name(&self, name: &str) -> Result<(), FolderError> {
        let write = |file: &File| io::Write::write_all(&mut &*file, format!("{name}\n").as_bytes());
        self.replace(&self.path.join(NAME), ["open.named"; 3], write).map(drop)
    }

    /// Whether what is written here survives the machine, as far as the mount table tells.
    pub(crate) fn is_volatile(&self) -> Option<String> {
        let device = self.locked.metadata().ok()?.dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        volatile_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?, &device)
    }
}

/// What is volatile about the file system of `device` (proc(5), mountinfo).
fn volatile_mount(mounts: &str, device: &str) -> Option<String> {
    let mount = mounts.lines().rfind(|line| line.split(' ').nth(2) == Some(device))?;
    let (_, behind) = mount.split_once(" - ")?;
    let fields: Vec<&str> = behind.split(' ').collect();
    match fields[..] {
        [kind @ ("tmpfs" | "ramfs"), ..] => Some(format!("a {kind}, which is memory")),
        ["overlay", _, options] if options.split(',').any(|option| option == "volatile") => {
            Some("an overlay that is mounted volatile, where nothing is synced".to_owned())
        }
        _ => None,
    }
}

/// Makes the folder with its parents, each durable in the one above it.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        // Perhaps made by one who was killed before that was durable. What it takes to sync it may be
        // refused for a folder that is not ours, and was there before.
        let parent = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        let _ = parent.map(|parent| File::open(parent).and_then(|parent| parent.sync_all()));
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

fn number(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    (stem.len() == NUMBER_DIGITS && stem.bytes().all(|byte| byte.is_ascii_digit())).then(|| stem.parse().ok())?
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().expect("every file of the folder has a name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(&dir.path().join("a/b"), Faults::default()).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_folder_has_one_owner() {
        let (_dir, folder) = folder();
        let error = Folder::lock(folder.path(), Faults::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot lock {}", folder.path().display()));
        assert_eq!(error.source.to_string(), "another process has it");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(Folder::lock(&path, Faults::default()).is_ok());
    }

    #[test]
    fn only_segments_are_listed_and_only_unfinished_files_are_removed() {
        let (_dir, folder) = folder();
        for name in
            ["00000000000000000042.segment", "00000000000000000007.segment", "7.segment", "x.segment.new", "name"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        for first in [7, 8] {
            fs::write(folder.index(first), "").unwrap();
        }
        assert_eq!(folder.list().unwrap(), [7, 42]);
        assert!(!folder.path().join("x.segment.new").exists());
        assert!(folder.path().join("7.segment").exists());
        assert!(folder.index(7).exists() && !folder.index(8).exists());
    }

    #[test]
    fn a_file_that_could_not_be_written_leaves_the_old_one() {
        let (_dir, folder) = folder();
        let path = folder.segment(7);
        folder.replace(&path, ["sync"; 3], |mut file| file.write_all(b"old")).unwrap();
        let error = folder.replace(&path, ["sync"; 3], |mut file| {
            file.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(error.unwrap_err().is_full());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_kept() {
        let (_dir, folder) = folder();
        assert_eq!(folder.name().unwrap(), None);
        folder.keep_name("publisher-1").unwrap();
        assert_eq!(folder.name().unwrap().as_deref(), Some("publisher-1"));
    }

    #[test]
    fn memory_and_volatile_overlays_are_told_from_disks() {
        let mounts = "21 1 254:0 / / rw - ext4 /dev/vda rw\n\
                      22 21 0:30 / /shm rw - tmpfs tmpfs rw,size=64k\n\
                      23 21 0:31 / /merged rw shared:1 - overlay overlay rw,lowerdir=/l,volatile\n\
                      24 21 0:32 / /kept rw - overlay overlay rw,lowerdir=/l,upperdir=/u";
        assert!(volatile_mount(mounts, "0:30").unwrap().contains("tmpfs"));
        assert!(volatile_mount(mounts, "0:31").unwrap().contains("volatile"));
        assert_eq!(volatile_mount(mounts, "0:32"), None);
        assert_eq!(volatile_mount(mounts, "254:0"), None);
        assert_eq!(volatile_mount(mounts, "9:9"), None);
    }
}
