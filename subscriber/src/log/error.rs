//! What can go wrong with a log; each names the path.

use super::names::NAME_BYTES_MAX;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

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
    /// The names of full files, which are longer, have no room.
    #[error("the name of {} is too long: those of full files, which have more in them, take {NAME_BYTES_MAX} bytes at most", .0.display())]
    LongName(PathBuf),
    /// There is text, and nothing that tells what it is.
    #[error("{} has text but no index beside it: move it away, or have it set aside with --adopt or SUBSCRIBER_ADOPT=true", .0.display())]
    NoIndex(PathBuf),
    /// The index was written by a later version.
    #[error("{} is an index of version {version}, which this program does not read: upgrade it", path.display())]
    Version {
        /// The index.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
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
    /// A sync failed: what was written since the last one has to be written again.
    #[error("cannot sync {}", path.display())]
    Sync {
        /// Which file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// As many names as were tried for a full file are taken.
    #[error("cannot rotate {}: {tried} names for it are taken", path.display())]
    NamesTaken {
        /// The log.
        path: PathBuf,
        /// How many.
        tried: u32,
    },
}

impl LogError {
    /// It and its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        let causes = std::iter::successors(self.source(), |&cause| cause.source());
        causes.fold(self.to_string(), |reason, cause| format!("{reason}: {cause}"))
    }

    /// For `map_err`: what was tried, and on what.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
