//! Opening the files of a log beside a writer who may rotate them meanwhile.

use super::VerifyError;
use super::names::{Key, Names, Rotated, index_of};
use super::pair::{Pair, Role};
use super::reader::Reader;
use crate::log::index::Kind;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often the current pair is opened anew because a rotation came between, and the pause before that.
const OPEN_TRIES: (u32, Duration) = (100, Duration::from_millis(10));

/// What a log has: the current pair, and those that are there beside it.
pub(super) struct Opened {
    /// `None`: a rotation ended between the last renaming and the next index.
    pub(super) current: Option<Pair>,
    pub(super) rotated: BTreeMap<Key, Rotated>,
}

/// Opens the current pair, and lists those before it.
pub(super) fn open(names: &Names) -> Result<Opened, VerifyError> {
    let log = names.log();
    let mut tries = 0;
    loop {
        tries += 1;
        let current = match open_current(log)? {
            Current::Pair(mut pair) => {
                if pair.text.is_none() {
                    find_sealed(names, &mut pair)?;
                }
                Some(*pair)
            }
            Current::NoIndex => return Err(VerifyError::NoIndex(log.to_owned())),
            Current::Changing if tries == OPEN_TRIES.0 => return Err(VerifyError::Changing(log.to_owned())),
            Current::Changing | Current::Nothing => None,
        };
        let rotated = names.rotated()?;
        match current {
            None if !rotated.values().any(|pair| pair.has_index) => return Err(VerifyError::NoLog(log.to_owned())),
            None if tries < OPEN_TRIES.0 => thread::sleep(OPEN_TRIES.1),
            current => return Ok(Opened { current, rotated }),
        }
    }
}

/// Between the renaming of the log and that of its index, the index knows where the log is.
fn find_sealed(names: &Names, pair: &mut Pair) -> Result<(), VerifyError> {
    let Some(sealed) = pair.last_entry()?.filter(|entry| entry.kind == Kind::Sealed) else { return Ok(()) };
    let name = OsStr::from_bytes(&sealed.words);
    if names.is_numbered(name) {
        let path = names.beside(name);
        pair.text = open_file(&path)?.map(Reader::new);
        pair.text_path = path;
    }
    Ok(())
}

/// What the log's own name leads to.
enum Current {
    Pair(Box<Pair>),
    /// A log alone.
    NoIndex,
    Nothing,
    /// Something else each time.
    Changing,
}

/// Opens index and log so that they belong together.
fn open_current(log: &Path) -> Result<Current, VerifyError> {
    let index_path = index_of(log);
    let (index, text) = (open_file(&index_path)?, open_file(log)?);
    let of = |file: &Option<File>| file.as_ref().and_then(inode_of);
    let opened = (of(&index), of(&text));
    // With the length that the index has now: what is entered later may be about a text that was not
    // there when it was looked for.
    let (has_text, index) = (text.is_some(), index.map(|index| (index_path.clone(), index)));
    let pair = index.map(|(path, index)| pair(Role::Current, path, index, log.to_owned(), text)).transpose()?;
    if opened != (inode(&index_path), inode(log)) {
        return Ok(Current::Changing);
    }
    Ok(match pair {
        Some(pair) => Current::Pair(Box::new(pair)),
        None if has_text => Current::NoIndex,
        None => Current::Nothing,
    })
}

/// A pair whose index counts as far as it goes now.
pub(super) fn pair(
    role: Role,
    index_path: PathBuf,
    index: File,
    text_path: PathBuf,
    text: Option<File>,
) -> Result<Pair, VerifyError> {
    let index = Reader::new(index);
    let length = index.length().map_err(|source| VerifyError::Read { path: index_path.clone(), source })?;
    Ok(Pair { role, index_path, index, index_bytes: length, text_path, text: text.map(Reader::new) })
}

/// `None` if there is none.
pub(super) fn open_file(path: &Path) -> Result<Option<File>, VerifyError> {
    let read = |source| VerifyError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        // A pipe would wait to be opened.
        Ok(found) if !found.is_file() => return Err(VerifyError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(read)?,
    };
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some).map_err(read),
    }
}

/// What a name leads to, whatever it is called later.
pub(super) fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

pub(super) fn inode_of(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|found| (found.dev(), found.ino()))
}
