//! Opening a log: what a kill, a power cut, a damaged disk or somebody else has left of it.
//!
//! | found | what is done |
//! |---|---|
//! | an index that ends with `sealed` | the rotation is completed |
//! | no index; a text, not empty | refused, or set aside if that was asked for |
//! | no index, and no text | begun where the newest numbered index ends, or from nothing |
//! | an index with damage before its last `synced` entry | what follows that is dealt with, then the pair is set aside; the streams go on where all that can be read of it says |
//! | an index, and a text shorter than what was on the disk, or none | set aside; the streams go on where they stood then |
//! | else | the entries behind the last `synced` are judged, one after the other |
//!
//! Of those an entry that cannot be read, or does not follow, ends the index. One whose text is there is
//! believed; from the first whose text is not, all are unfinished. Text behind the last entry is kept in a
//! file of its own, and cut. What is left of both files behind the last `synced` entry is then written again:
//! that it could be read is no proof that it is on the disk.

use super::file::{Counters, Log, LogError, Options, Unfinished, length_of};
use super::index::{Aside, ENTRY_BYTES};
use super::names::{Names, Numbered, index_of};
use super::pair::{Ends, Pair};
use super::positions::Positions;
use super::rotate::{Begun, Sealed, adopt, begin};
use super::scan::Scan;
use rustix::fs::OFlags;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// How many pieces that were cut from the end of a text are kept, at most.
const TAILS_MAX: u32 = 10_000;
/// What is read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// A pair that is open, and what is known of it.
struct Restored {
    pair: Pair,
    positions: Positions,
    unfinished: VecDeque<Unfinished>,
}

impl Log {
    /// Takes the lock of a log, then opens or creates it, and its folder.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) fn open(options: Options, counters: Counters) -> Result<Self, LogError> {
        let path = &options.path;
        // By another name it is the same log, with the same lock.
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let path =
            if is_link { fs::canonicalize(path).map_err(LogError::io("follow the link", path))? } else { path.clone() };
        let names = Names::of(&path).ok_or_else(|| LogError::NoName(path.clone()))?;
        if !names.fit() {
            return Err(LogError::LongName(path));
        }
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(LogError::NotAFile(path));
        }
        let folder = names.folder();
        fs::create_dir_all(folder).map_err(LogError::io("create the folder", folder))?;
        let lock = lock(&names)?;
        let Restored { pair, positions, unfinished } = restore(&names, &options)?;
        let mut log = Self { names, options, counters, positions, pair, sealed: None, unfinished, _lock: lock };
        log.become_whole()?;
        log.keep_few();
        Ok(log)
    }

    /// Opens the files once more, as a start does: after a sync that failed nothing is sure but what the
    /// last `synced` entry says.
    ///
    /// # Errors
    /// See [`LogError`]; call it again.
    pub(crate) fn reopen(&mut self) -> Result<(), LogError> {
        let Restored { pair, positions, unfinished } = restore(&self.names, &self.options)?;
        (self.pair, self.positions, self.unfinished, self.sealed) = (pair, positions, unfinished, None);
        self.become_whole()
    }

    fn become_whole(&mut self) -> Result<(), LogError> {
        self.pass_whole();
        self.settle()?;
        if self.unfinished.is_empty() {
            self.pair.sync()?;
        }
        self.pair.pass("log.open.done")
    }

    /// Ends the text at `length`; what is behind it is kept in a file of its own.
    pub(super) fn cut_text(&mut self, length: u64) -> Result<(), LogError> {
        cut_text(&self.names, &mut self.pair, length)
    }
}

fn restore(names: &Names, options: &Options) -> Result<Restored, LogError> {
    remove_if_there(&names.new_index())?;
    let new = |positions: Positions, before: Option<Numbered>| {
        let Begun { pair, unfinished } = begin(names, &positions, before, options.format, &options.faults)?;
        Ok(Restored { pair, positions, unfinished: unfinished.into_iter().collect() })
    };
    let path = names.index();
    let index = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(index) => index,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::metadata(names.log()).is_ok_and(|found| found.len() > 0) {
                if !options.adopt {
                    return Err(LogError::NoIndex(names.log().to_owned()));
                }
                adopt(names, last_number(names)? + 1)?;
            }
            // If that was set aside last, and no more was done, what was to be said of it is said now.
            let newest =
                numbered_files(names, ".idx")?.into_iter().map(|(numbered, _)| numbered).max_by_key(|last| last.number);
            return new(last_positions(names)?, newest);
        }
        Err(error) => return Err(LogError::io("open", &path)(error)),
    };

    let scan = Scan::read(&index, &path, || last_positions(names))?;
    if let Some(sealed) = scan.sealed().and_then(|entry| Sealed::of(entry, names)) {
        let mut positions = scan.positions;
        scan.tail.iter().for_each(|known| positions.apply_anyway(&known.entry));
        let mut pair = unsure_pair(names, options, index, scan.length)?;
        // That it is sealed could be read, which is no proof.
        pair.sync_index()?;
        let sealed = rename(names, options, &mut pair, sealed)?;
        return new(positions, Some(sealed.numbered()));
    }
    let log = match fs::metadata(names.log()) {
        Ok(found) => Some(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(LogError::io("examine", names.log())(error)),
    };
    let aside = match log {
        _ if scan.damaged.is_some() => Some(Aside::Damaged),
        None if scan.synced.text > 0 => Some(Aside::Moved),
        Some(length) if length < scan.synced.text => Some(Aside::Shorter),
        _ => None,
    };
    let Some(aside) = aside else {
        let log = open_log(names)?;
        // It may have been created just now, or its pair renamed by a process that did not come to this.
        sync_folder(names.folder())?;
        return judge(names, options, index, log, scan);
    };
    warn!(log = %names.log().display(), reason = aside.word(), "setting the log aside, beginning a new one");
    let number = scan.begin.map_or(0, |(number, _)| number).max(last_number(names)? + 1);
    let synced = scan.synced;
    let (positions, length) = match aside {
        Aside::Damaged => what_can_be_read(names, options, &index, scan)?,
        // Whatever was written behind the last sync may not have been: rather twice than never.
        _ => (scan.positions, synced.index + ENTRY_BYTES as u64),
    };
    index.set_len(length).map_err(LogError::io("cut", &path))?;
    let mut pair = unsure_pair(names, options, index, length)?;
    pair.number = number;
    pair.ends.text = pair.ends.text.max(synced.text);
    let sealed = Sealed::seal(names, &mut pair, Some(aside))?;
    let sealed = rename(names, options, &mut pair, sealed)?;
    new(positions, Some(sealed.numbered()))
}

/// Where the streams stand by all that can be read of a damaged index whose texts are there; and where the
/// entries end that count. The text that counts is on the disk then.
fn what_can_be_read(names: &Names, options: &Options, index: &File, scan: Scan) -> Result<(Positions, u64), LogError> {
    let log = open_log(names)?;
    let index = index.try_clone().map_err(LogError::io("open", &names.index()))?;
    let pair = Pair::new(log, index, names, options.faults.clone());
    let mut positions = scan.positions.clone();
    let weighed = weigh(&pair, &scan)?;
    let mut ends = weighed.ends;
    for Unfinished { entry, offset, begin, is_whole } in weighed.unfinished {
        if !is_whole {
            ends = Ends { index: offset, text: begin };
            break;
        }
        positions.apply_anyway(&entry);
    }
    pair.write_again(scan.synced, ends)?;
    pair.log.sync_data().map_err(|source| LogError::Sync { path: names.log().to_owned(), source })?;
    Ok((positions, ends.index))
}

/// Gives a pair the name that it was sealed with, or another if that is taken.
fn rename(names: &Names, options: &Options, pair: &mut Pair, sealed: Sealed) -> Result<Sealed, LogError> {
    if sealed.rename(names, &options.faults)? {
        return Ok(sealed);
    }
    pair.number = sealed.numbered().number;
    pair.ends.text = sealed.end();
    let sealed = Sealed::seal(names, pair, sealed.numbered().aside)?;
    match sealed.rename(names, &options.faults)? {
        true => Ok(sealed),
        false => Err(LogError::NamesTaken { path: names.log().to_owned(), tried: 2 }),
    }
}

/// A pair of which only the index is written to, at its end.
fn unsure_pair(names: &Names, options: &Options, index: File, length: u64) -> Result<Pair, LogError> {
    let log = index.try_clone().map_err(LogError::io("open", &names.index()))?;
    let mut pair = Pair::new(log, index, names, options.faults.clone());
    pair.ends = Ends { index: length, text: fs::metadata(names.log()).map_or(0, |found| found.len()) };
    Ok(pair)
}

/// The entries behind the last `synced` one, and where they end.
struct Weighed {
    unfinished: VecDeque<Unfinished>,
    ends: Ends,
    log_bytes: u64,
}

/// Weighs the entries behind the last `synced` one: which follow, and whose texts are there.
fn weigh(pair: &Pair, scan: &Scan) -> Result<Weighed, LogError> {
    let log_bytes = length_of(&pair.log, &pair.log_path)?;
    let mut ahead = scan.positions.clone();
    let (mut unfinished, mut ends) = (VecDeque::new(), Ends { index: scan.length, text: scan.synced.text });
    for known in &scan.tail {
        let (begin, end) = (ends.text, known.entry.end);
        let follows = match scan.damaged {
            None => ahead.apply(&known.entry).is_ok(),
            // What it would follow may be what cannot be read.
            Some(_) => true,
        };
        if end < begin || !follows {
            ends.index = known.offset;
            break;
        }
        let is_whole = end == begin
            || end <= log_bytes
                && checksum(&pair.log, begin, end).map_err(LogError::io("read", &pair.log_path))?
                    == known.entry.text_crc;
        ends.text = end;
        unfinished.push_back(Unfinished { entry: known.entry.clone(), offset: known.offset, begin, is_whole });
    }
    Ok(Weighed { unfinished, ends, log_bytes })
}

/// Has both files end where the entries that follow end, and all that is left of them written again.
fn judge(names: &Names, options: &Options, index: File, log: File, scan: Scan) -> Result<Restored, LogError> {
    let mut pair = Pair::new(log, index, names, options.faults.clone());
    (pair.number, pair.begun_ns) = scan.begin.unwrap_or_default();
    let Weighed { unfinished, ends, log_bytes } = weigh(&pair, &scan)?;
    if length_of(&pair.index, &pair.index_path)? > ends.index {
        pair.cut_index(ends.index)?;
    }
    if log_bytes > ends.text {
        cut_text(names, &mut pair, ends.text)?;
    }
    (pair.ends, pair.synced) = (ends, scan.synced);
    pair.write_again(scan.synced, Ends { index: ends.index, text: ends.text.min(log_bytes) })?;
    pair.pass("log.open.rewritten")?;
    let torn = unfinished.iter().filter(|unfinished| !unfinished.is_whole).count();
    if torn > 0 {
        info!(log = %names.log().display(), entries = torn, "the log ends with entries whose texts are to be finished");
    }
    Ok(Restored { pair, positions: scan.positions, unfinished })
}

fn checksum(file: &File, mut begin: u64, end: u64) -> io::Result<u32> {
    let mut buffer = vec![0; READ_BYTES.min((end - begin) as usize)];
    let mut crc = 0;
    while begin < end {
        let wanted = buffer.len().min(usize::try_from(end - begin).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..wanted], begin)?;
        crc = crc32c::crc32c_append(crc, &buffer[..wanted]);
        begin += wanted as u64;
    }
    Ok(crc)
}

fn cut_text(names: &Names, pair: &mut Pair, length: u64) -> Result<(), LogError> {
    let end = length_of(&pair.log, &pair.log_path)?;
    if end > length {
        keep_tail(names, &pair.log, length, end)?;
        pair.log.set_len(length).map_err(LogError::io("cut", &pair.log_path))?;
    }
    pair.ends.text = length;
    Ok(())
}

/// Copies what is about to be cut; zeros, which a power cut leaves where nothing was written, are nothing.
fn keep_tail(names: &Names, log: &File, begin: u64, end: u64) -> Result<(), LogError> {
    let mut kept = None;
    let copied = copy_tail(names, log, begin, end, &mut kept);
    let Some((file, path)) = kept else { return copied };
    let synced = copied.and_then(|()| {
        file.sync_data().map_err(LogError::io("sync", &path))?;
        sync_folder(names.folder())
    });
    match &synced {
        Ok(()) => {
            warn!(log = %names.log().display(), kept = %path.display(), "text behind the last entry of the log is kept and cut");
        }
        // It is tried again, and a part of it is of no use.
        Err(_) => remove_if_there(&path)?,
    }
    synced
}

fn copy_tail(
    names: &Names,
    log: &File,
    mut begin: u64,
    end: u64,
    kept: &mut Option<(File, PathBuf)>,
) -> Result<(), LogError> {
    let mut buffer = vec![0; READ_BYTES];
    while begin < end {
        let wanted = buffer.len().min(usize::try_from(end - begin).unwrap_or(usize::MAX));
        let count = log.read_at(&mut buffer[..wanted], begin).map_err(LogError::io("read", names.log()))?;
        if count == 0 {
            break;
        }
        if kept.is_none() && buffer[..count].iter().any(|byte| *byte != 0) {
            *kept = Some(new_tail(names)?);
        }
        if let Some((file, path)) = kept {
            file.write_all(&buffer[..count]).map_err(LogError::io("write to", path))?;
        }
        begin += count as u64;
    }
    Ok(())
}

fn new_tail(names: &Names) -> Result<(File, PathBuf), LogError> {
    for number in 1..=TAILS_MAX {
        let path = names.tail(number);
        match File::create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LogError::io("create", &path)(error)),
        }
    }
    Err(LogError::NamesTaken { path: names.log().to_owned(), tried: TAILS_MAX })
}

/// Where the streams stand at the end of the newest index that has a number.
fn last_positions(names: &Names) -> Result<Positions, LogError> {
    let mut files = numbered_files(names, ".idx")?;
    files.sort_unstable_by_key(|(numbered, _)| numbered.number);
    positions_behind(&files)
}

/// Where the streams stand behind the last of these files. Those before it count if it is damaged.
fn positions_behind(files: &[(Numbered, PathBuf)]) -> Result<Positions, LogError> {
    let Some(((_, log), before)) = files.split_last() else { return Ok(Positions::default()) };
    let path = index_of(log);
    let index = File::open(&path).map_err(LogError::io("open", &path))?;
    let scan = Scan::read(&index, &path, || positions_behind(before))?;
    let mut positions = scan.positions;
    scan.tail.iter().for_each(|known| positions.apply_anyway(&known.entry));
    Ok(positions)
}

/// The full texts, and those that were set aside, beside which is a file whose name has `suffix` behind theirs.
pub(super) fn numbered_files(names: &Names, suffix: &str) -> Result<Vec<(Numbered, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for_each_name(names, |name| {
        let Some(name) = name.as_bytes().strip_suffix(suffix.as_bytes()).map(OsStr::from_bytes) else { return };
        if let Some(numbered) = names.parse(name) {
            found.push((numbered, names.folder().join(name)));
        }
    })?;
    Ok(found)
}

/// The highest number that a file has.
pub(super) fn last_number(names: &Names) -> Result<u64, LogError> {
    let mut last = 0;
    for_each_name(names, |name| last = last.max(names.number_in(name).unwrap_or(0)))?;
    Ok(last)
}

fn for_each_name(names: &Names, mut see: impl FnMut(&OsStr)) -> Result<(), LogError> {
    let failed = || LogError::io("list", names.folder());
    for entry in fs::read_dir(names.folder()).map_err(failed())? {
        see(&entry.map_err(failed())?.file_name());
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LogError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Opens the text, or creates it.
pub(super) fn open_log(names: &Names) -> Result<File, LogError> {
    let path = names.log();
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(LogError::io("open", path))?;
    match file.metadata().map_err(LogError::io("examine", path))?.is_file() {
        true => Ok(file),
        false => Err(LogError::NotAFile(path.to_owned())),
    }
}

fn lock(names: &Names) -> Result<File, LogError> {
    let path = names.lock();
    // Non-blocking, should somebody have left a pipe of that name there.
    let non_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(non_blocking).open(&path);
    let file = opened.map_err(LogError::io("create the lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { log: names.log().to_owned(), lock: path }),
        Err(TryLockError::Error(error)) => Err(LogError::io("lock", &path)(error)),
    }
}

/// A name survives a power cut once its folder is synced.
pub(super) fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(LogError::io("sync the folder", folder))
}
