//! A journal is taken out of the way, so that a new stream begins in its folder: `--new-stream`.
//!
//! Its files move to a folder of their own, `stream-STREAM`, which is a journal like any other. A file
//! cannot move together with others; so first a marker says durably that they are to, and goes when all
//! have. Whoever opens a folder with a marker finishes that. Without one nothing has moved, or everything:
//! whenever the process or the machine ends, the next start has the old stream, or a new one.

use super::{DAMAGED, Folder, FolderError, INDEX, SEGMENT, name_of, number};
use feed::StreamId;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, renameat, statat};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The marker: a file with the name of the folder that the journal moves to.
const MARKER: &str = "new-stream";
/// What the name of such a folder begins with; behind it is the stream.
const STREAM: &str = "stream-";

/// A journal that was taken out of the way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    /// Its stream, as it is written.
    pub(crate) stream: String,
    /// Where it is.
    pub(crate) folder: PathBuf,
}

impl Folder {
    /// Takes the journal that is here, of this stream, out of the way.
    ///
    /// # Errors
    /// There is no room for it, or its place is taken: then it is as it was. Else it goes on at the next start.
    pub(crate) fn renew(&self, stream: StreamId) -> Result<Option<SetAside>, FolderError> {
        let name = format!("{STREAM}{stream}");
        let place = self.path.join(&name);
        // Nothing that was kept is ever replaced.
        match statat(&self.locked, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from) {
            Ok(_) => return Err(FolderError::new("create", &place, io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FolderError::new("examine", &place, error));
            }
            Err(_) => {}
        }
        let write = |file: &File| io::Write::write_all(&mut &*file, format!("{name}\n").as_bytes());
        self.replace(&self.path.join(MARKER), ["renew.marked"; 3], write)?;
        self.finish_renewal()
    }

    /// Moves what a marker says is to be moved, if there is one.
    ///
    /// # Errors
    /// Something cannot be moved. The marker is there then, and it is to be tried again.
    pub(crate) fn finish_renewal(&self) -> Result<Option<SetAside>, FolderError> {
        let marker = self.path.join(MARKER);
        let Some(name) = self.text(&marker)? else { return Ok(None) };
        let Some(stream) = name.strip_prefix(STREAM).filter(|stream| !stream.contains('/')) else {
            let source = io::Error::other(format!("`{name}` is no place for the journal that was here"));
            return Err(FolderError::new("follow", &marker, source));
        };
        let set_aside = SetAside { stream: stream.to_owned(), folder: self.path.join(&name) };
        let place = self.make_folder(&set_aside.folder)?;
        for path in self.of_journal()? {
            let moved = renameat(&self.locked, name_of(&path), &place, name_of(&path));
            moved.map_err(|errno| FolderError::new("rename", &path, errno.into()))?;
            self.at("renew.moved", &path)?;
        }
        // There before they are gone from here, and both before the marker is.
        place.sync_all().map_err(|source| FolderError::new("sync", &set_aside.folder, source))?;
        self.sync()?;
        self.unlink(&marker)?;
        self.sync()?;
        self.at("renew.done", &self.path)?;
        Ok(Some(set_aside))
    }

    /// Makes a folder in this one if it is not there, and makes it durable.
    fn make_folder(&self, path: &Path) -> Result<File, FolderError> {
        match mkdirat(&self.locked, name_of(path), Mode::from_raw_mode(0o777)).map_err(io::Error::from) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FolderError::new("create", path, source));
            }
            _ => self.sync()?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&self.locked, name_of(path), flags, Mode::empty());
        folder.map(File::from).map_err(|errno| FolderError::new("open", path, errno.into()))
    }

    /// Every file that belongs to the stream that is here.
    fn of_journal(&self) -> Result<Vec<PathBuf>, FolderError> {
        let fail = |source| FolderError::new("read", &self.path, source);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.locked).map_err(io::Error::from).map_err(fail)? {
            let entry = entry.map_err(io::Error::from).map_err(fail)?;
            let path = self.path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
            let extension = path.extension().and_then(OsStr::to_str);
            if matches!(extension, Some(SEGMENT | INDEX | DAMAGED)) && number(&path).is_some() {
                found.push(path);
            }
        }
        Ok(found)
    }
}
