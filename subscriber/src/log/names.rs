//! How the files of one log are called.
//!
//! ```text
//! subscriber.log                                     the current text, for `tail -F`
//! subscriber.log.idx                                 what is in it, and where: its index
//! subscriber.log.lock                                held by the one process that writes here
//! subscriber.20261121T080000Z.000042.log             a full one: when it was closed (for people), its number (the order)
//! subscriber.20261121T080000Z.000042.log.idx         its index
//! subscriber.20261121T080000Z.000043.damaged.log     one that was set aside, and why; with its index, if it had one
//! ….000041.log.idx.retired                           the index of one that is being removed
//! subscriber.log.tail.1                              what was cut from the end of a text, because nothing told what it was
//! ```

use super::index::Aside;
use chrono::{DateTime, Utc};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// No file has this number, nor one beyond: what looks like one is not ours.
const NUMBER_END: u64 = 1_000_000_000_000;
/// Files with numbers from here on are nobody's, or we would count on from them to [`NUMBER_END`].
const FOREIGN_FROM: u64 = 100_000_000_000;
/// The longest name of a file, in bytes (NAME_MAX of Linux's file systems).
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// As in `20261121T080000Z`.
const TIME_BYTES: usize = 16;

/// The names of one log.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    folder: PathBuf,
    log: PathBuf,
    stem: OsString,
    extension: Option<OsString>,
}

/// What a name of a file that is not current says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) aside: Option<Aside>,
}

impl Names {
    /// Of the log at `path`. `None` if that names no file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let stem = path.file_stem()?.to_owned();
        Some(Self { folder, log: path.to_owned(), stem, extension: path.extension().map(OsStr::to_owned) })
    }

    /// Whether the longest name that a file of the log may get fits.
    pub(crate) fn fit(&self) -> bool {
        let longest = Numbered { number: NUMBER_END - 1, aside: Some(Aside::Damaged) };
        index_of(Path::new(&self.numbered(DateTime::UNIX_EPOCH, longest))).as_os_str().len() <= NAME_BYTES_MAX
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn index(&self) -> PathBuf {
        index_of(&self.log)
    }

    /// Where an index is made before it gets its name.
    pub(crate) fn new_index(&self) -> PathBuf {
        with(&self.log, ".idx.new")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        with(&self.log, ".lock")
    }

    /// The `number`-th piece that was cut from an end.
    pub(crate) fn tail(&self, number: u32) -> PathBuf {
        with(&self.log, &format!(".tail.{number}"))
    }

    /// The name of a file that was closed at a time.
    pub(crate) fn numbered(&self, time: DateTime<Utc>, Numbered { number, aside }: Numbered) -> OsString {
        let mut name = self.stem.clone();
        name.push(time.format(".%Y%m%dT%H%M%SZ").to_string());
        name.push(format!(".{number:06}"));
        if let Some(aside) = aside {
            name.push(".");
            name.push(aside.word());
        }
        if let Some(extension) = &self.extension {
            name.push(".");
            name.push(extension);
        }
        name
    }

    /// What a name says that [`Self::numbered`] made; of any other, nothing.
    pub(crate) fn parse(&self, name: &OsStr) -> Option<Numbered> {
        let (number, rest) = self.split(name)?;
        let rest = match &self.extension {
            Some(extension) => rest.strip_suffix(extension.as_bytes())?.strip_suffix(b".")?,
            None => rest,
        };
        if rest.is_empty() {
            return Some(Numbered { number, aside: None });
        }
        let word = rest.strip_prefix(b".")?;
        let aside = Aside::ALL.into_iter().find(|aside| aside.word().as_bytes() == word)?;
        Some(Numbered { number, aside: Some(aside) })
    }

    /// The number in such a name, also if somebody compressed the file since and added to its name.
    pub(crate) fn number_in(&self, name: &OsStr) -> Option<u64> {
        self.split(name).map(|(number, _)| number).filter(|&number| number < FOREIGN_FROM)
    }

    fn split<'a>(&self, name: &'a OsStr) -> Option<(u64, &'a [u8])> {
        let rest = name.as_bytes().strip_prefix(self.stem.as_bytes())?.strip_prefix(b".")?;
        let (time, rest) = rest.split_at_checked(TIME_BYTES)?;
        let rest = rest.strip_prefix(b".").filter(|_| time.ends_with(b"Z"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ends = matches!(rest.get(digits), None | Some(b'.'));
        let number = str::from_utf8(&rest[..digits]).ok().filter(|_| digits >= 6 && ends)?;
        let number = number.parse().ok().filter(|&number| number < NUMBER_END)?;
        Some((number, &rest[digits..]))
    }
}

/// The index of the log at `path`.
pub(crate) fn index_of(path: &Path) -> PathBuf {
    with(path, ".idx")
}

/// What becomes of an index before its text is removed: no verification counts the text any more, and who finds
/// it knows that the text was to go.
pub(crate) const RETIRED: &str = ".retired";

pub(super) fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_log_count_as_its_files() {
        let names = Names::of(Path::new("x/subscriber.log")).unwrap();
        let number = |text: &str| names.number_in(OsStr::new(text));
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
            "subscriber.20261121T080000Z.999999999999.log.gz",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn names_read_back_as_they_were_made() {
        let time = "2026-11-21T08:00:00Z".parse().unwrap();
        for path in ["x/subscriber.log", "log"] {
            let names = Names::of(Path::new(path)).unwrap();
            for aside in [None].into_iter().chain(Aside::ALL.map(Some)) {
                let numbered = Numbered { number: 42, aside };
                assert_eq!(names.parse(&names.numbered(time, numbered)), Some(numbered));
            }
        }
        let names = Names::of(Path::new("x/subscriber.log")).unwrap();
        let numbered = Numbered { number: 42, aside: Some(Aside::Damaged) };
        assert_eq!(names.numbered(time, numbered), "subscriber.20261121T080000Z.000042.damaged.log");
        for other in [
            "subscriber.20261121T080000Z.000042.log.gz",
            "subscriber.20261121T080000Z.000042.other.log",
            "subscriber.log",
            "subscriber.log.tail.1",
        ] {
            assert_eq!(names.parse(OsStr::new(other)), None);
        }
    }
}
