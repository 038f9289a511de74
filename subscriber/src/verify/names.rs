//! Which files are a log: the current pair, and beside it the rotated pairs and those that were set aside.
//!
//! ```text
//! subscriber.log                                   subscriber.log.idx
//! subscriber.20261121T080000Z.000042.log           …000042.log.idx
//! subscriber.20261121T080000Z.000043.damaged.log   …000043.damaged.log.idx
//! ```

use super::VerifyError;
use crate::log::index::Aside;
pub(super) use crate::log::names::index_of;
use crate::log::names::{self, Numbered};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names of one log.
pub(super) struct Names(names::Names);

/// A pair that is not the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rotated {
    pub(super) log: PathBuf,
    pub(super) aside: Option<Aside>,
    pub(super) has_text: bool,
    pub(super) has_index: bool,
}

/// The order of the pairs: the number, and where two have the same one, the name.
pub(super) type Key = (u64, OsString);

impl Names {
    /// # Errors
    /// The path names no file, or a link that leads nowhere.
    pub(super) fn of(path: &Path) -> Result<Self, VerifyError> {
        // The writer keeps a log that is linked beside what the link leads to.
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let log = if is_link { fs::canonicalize(path) } else { Ok(path.to_owned()) };
        let log = log.map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
        names::Names::of(&log).map(Self).ok_or_else(|| VerifyError::NoName(path.to_owned()))
    }

    /// The current file.
    pub(super) fn log(&self) -> &Path {
        self.0.log()
    }

    /// The path of another file of the log.
    pub(super) fn beside(&self, name: &OsStr) -> PathBuf {
        self.log().with_file_name(name)
    }

    /// Whether this is the name of a log file that is not current.
    pub(super) fn is_numbered(&self, name: &OsStr) -> bool {
        self.0.parse(name).is_some()
    }

    /// Every pair that is there, in order.
    pub(super) fn rotated(&self) -> Result<BTreeMap<Key, Rotated>, VerifyError> {
        let folder = self.0.folder();
        let fail = |source| VerifyError::Read { path: folder.to_owned(), source };
        let mut pairs = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(fail)? {
            let file = entry.map_err(fail)?.file_name();
            let base = file.as_bytes().strip_suffix(b".idx");
            let name = OsStr::from_bytes(base.unwrap_or(file.as_bytes()));
            let Some(Numbered { number, aside }) = self.0.parse(name) else { continue };
            let new = || Rotated { log: self.beside(name), aside, has_text: false, has_index: false };
            let pair = pairs.entry((number, name.to_owned())).or_insert_with(new);
            if base.is_some() { pair.has_index = true } else { pair.has_text = true }
        }
        Ok(pairs)
    }
}
