//! Which files are a log: the current pair, and beside it the rotated pairs and those that were set aside.
//!
//! ```text
//! subscriber.log                                   subscriber.log.idx
//! subscriber.20261121T080000Z.000042.log           …000042.log.idx
//! subscriber.20261121T080000Z.000043.damaged.log   …000043.damaged.log.idx
//! ```

use super::VerifyError;
use crate::log::index::Aside;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What an index's name has behind its log's.
const INDEX: &str = ".idx";
/// How the time in a name looks; it is for people.
const TIME: &str = "20261121T080000Z";
/// The least digits of a number in a name.
const NUMBER_DIGITS: usize = 6;

/// The names of one log.
pub(super) struct Names {
    log: PathBuf,
    stem: OsString,
    extension: Option<OsString>,
}

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

/// The index of the log at `path`.
pub(super) fn index_of(path: &Path) -> PathBuf {
    let mut index = path.as_os_str().to_owned();
    index.push(INDEX);
    index.into()
}

impl Names {
    /// # Errors
    /// The path names no file, or a link that leads nowhere.
    pub(super) fn of(path: &Path) -> Result<Self, VerifyError> {
        // The writer keeps a log that is linked beside what the link leads to.
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let log = if is_link { fs::canonicalize(path) } else { Ok(path.to_owned()) };
        let log = log.map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
        let stem = log.file_stem().ok_or_else(|| VerifyError::NoName(path.to_owned()))?.to_owned();
        let extension = log.extension().map(OsStr::to_owned);
        Ok(Self { log, stem, extension })
    }

    /// The current file.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    fn folder(&self) -> &Path {
        self.log.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The path of another file of the log.
    pub(super) fn beside(&self, name: &OsStr) -> PathBuf {
        self.log.with_file_name(name)
    }

    /// The number in the name of a log file, and why it was set aside if it was.
    pub(super) fn parse(&self, name: &OsStr) -> Option<(u64, Option<Aside>)> {
        let rest = name.as_bytes().strip_prefix(self.stem.as_bytes())?.strip_prefix(b".")?;
        let (time, rest) = rest.split_at_checked(TIME.len())?;
        let rest = rest.strip_prefix(b".").filter(|_| time.ends_with(b"Z"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&rest[..digits]).ok().filter(|_| digits >= NUMBER_DIGITS)?;
        let rest = match &self.extension {
            Some(extension) => rest[digits..].strip_suffix(extension.as_bytes())?.strip_suffix(b".")?,
            None => &rest[digits..],
        };
        let word = |aside: &Aside| rest.strip_prefix(b".").is_some_and(|word| word == aside.word().as_bytes());
        let aside = Aside::ALL.into_iter().find(word);
        if aside.is_none() && !rest.is_empty() {
            return None;
        }
        Some((number.parse().ok()?, aside))
    }

    /// Every pair that is there, in order.
    pub(super) fn rotated(&self) -> Result<BTreeMap<Key, Rotated>, VerifyError> {
        let fail = |source| VerifyError::Read { path: self.folder().to_owned(), source };
        let mut pairs = BTreeMap::new();
        for entry in fs::read_dir(self.folder()).map_err(fail)? {
            let file = entry.map_err(fail)?.file_name();
            let base = file.as_bytes().strip_suffix(INDEX.as_bytes());
            let name = OsStr::from_bytes(base.unwrap_or(file.as_bytes()));
            let Some((number, aside)) = self.parse(name) else { continue };
            let new = || Rotated { log: self.beside(name), aside, has_text: false, has_index: false };
            let pair = pairs.entry((number, name.to_owned())).or_insert_with(new);
            if base.is_some() { pair.has_index = true } else { pair.has_text = true }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_log_count_as_its_files() {
        let names = Names::of(Path::new("x/subscriber.log")).unwrap();
        let parse = |text: &str| names.parse(OsStr::new(text));
        assert_eq!(parse("subscriber.20261121T080000Z.000042.log"), Some((42, None)));
        assert_eq!(parse("subscriber.20261121T080000Z.1000000.log"), Some((1_000_000, None)));
        for aside in Aside::ALL {
            let name = format!("subscriber.20261121T080000Z.000042.{}.log", aside.word());
            assert_eq!(parse(&name), Some((42, Some(aside))));
        }
        for other in [
            "subscriber.log",
            "subscriber.log.tail.1",
            "subscriber.log.lock",
            "subscriber.000042.log",
            "other.20261121T080000Z.000042.log",
            "subscriber.20261121T080000Z.42.log",
            "subscriber.20261121T080000Z.000042x.log",
            "subscriber.20261121T080000Z.000042.gone.log",
            "subscriber.20261121T080000Z.000042.log.gz",
            "subscriber.20261121T080000Z.99999999999999999999.log",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        let bare = Names::of(Path::new("log")).unwrap();
        let parse = |text: &str| bare.parse(OsStr::new(text));
        assert_eq!(parse("log.20261121T080000Z.000007"), Some((7, None)));
        assert_eq!(parse("log.20261121T080000Z.000007.moved"), Some((7, Some(Aside::Moved))));
        assert_eq!((bare.folder(), bare.beside(OsStr::new("x"))), (Path::new("."), PathBuf::from("x")));
    }
}
