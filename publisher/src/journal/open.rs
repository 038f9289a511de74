//! Opening a journal: what is there, what of it can be trusted, and where the stream goes on.
//!
//! Sealed segments are believed and not read: they were durable before the next one was made, and
//! every block is checked when it is sent. The last segment's whole blocks are written to a new file,
//! which is made durable and takes the old one's place: after a crash or a failed sync what can be read
//! is not yet on the disk.
//!
//! What follows the last whole block is cut: nobody was told that it is durable, as its commit had not
//! ended. If a whole block of a later sequence follows it, it is damage instead, and a jump remains. If
//! it is more than the one block that can be torn, and no way behind it is found, the file is kept aside.
//!
//! On demand all of that is taken out of the way first, and a new stream begins.

use crate::Name;
use crate::journal::catalog::{Active, Catalog, Sealed};
use crate::journal::folder::{Folder, FolderError, SetAside};
use crate::journal::queue::Queue;
use crate::journal::segment::{FIRST_BLOCK, SegmentReader, Step, Unreadable, first_block, read_header};
use crate::journal::writer::Writer;
use crate::journal::{Health, Options, Shared};
use feed::block::{BLOCK_BYTES_MAX, RECORD_BYTES_MIN};
use feed::{DecodeError, IndexEntry, Position, SegmentHeader, StreamId};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tracing::{info, warn};

/// What is written at once when a segment is rewritten.
const COPY_BYTES: usize = 256 * 1024;

/// Why a journal does not open.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or the folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// It was made under another name.
    #[error("the journal {} is that of `{kept}`, not of `{given}`", path.display())]
    Name {
        /// The folder.
        path: PathBuf,
        /// The name that was given.
        given: Name,
        /// The name that it was made under.
        kept: Name,
    },
    /// The name that is kept is none.
    #[error("the name in {} is wrong: {reason}", path.display())]
    KeptName {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: crate::NameError,
    },
    /// Segments of two journals lie in one folder.
    #[error("{} is of the stream {found}, the segments behind it are of {stream}", path.display())]
    OtherStream {
        /// The segment.
        path: PathBuf,
        /// Its stream.
        found: StreamId,
        /// That of the newest segment.
        stream: StreamId,
    },
    /// A segment was written by a later version.
    #[error("{}: {error}", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its version.
        error: DecodeError,
    },
}

/// What the active segment is to be made of.
pub(super) struct Plan {
    header: SegmentHeader,
    /// The length of the segment that is there.
    there_bytes: Option<u64>,
}

/// A segment that is there.
struct Found {
    header: SegmentHeader,
    bytes: u64,
}

/// Opens the journal, as far as there is room for it.
pub(super) fn open(options: Options) -> Result<Writer, JournalError> {
    let folder = Folder::lock(&options.folder, options.faults.clone())?;
    folder.at("open.locked", folder.path())?;
    let name = name(&folder, &options)?;
    let Start { mut found, behind_lost, set_aside } = start(&folder, &options)?;
    let plan = match (behind_lost, found.pop()) {
        (Some(header), last) => {
            found.extend(last);
            Plan { header, there_bytes: None }
        }
        (None, Some(last)) => Plan { header: last.header, there_bytes: Some(last.bytes) },
        (None, None) => Plan { header: new_stream(), there_bytes: None },
    };
    let ends = found.iter().skip(1).map(|next| next.header).chain([plan.header]);
    let sealed: VecDeque<Sealed> = found
        .iter()
        .zip(ends)
        .map(|(found, next)| Sealed { start: found.header.start, bytes: found.bytes, last_time_ns: next.last_time_ns })
        .collect();
    let stream = plan.header.stream;
    if let Some(SetAside { stream: old, folder }) = set_aside {
        warn!(%old, new = %stream, kept = %folder.display(), "a new stream begins; the old one is kept aside, and is not served any more");
    }
    let catalog = Catalog { sealed, active: Active::new(&plan.header), open: false };
    let shared = Shared {
        folder,
        stream,
        name,
        queue: Queue::new(options.queue_bytes, plan.header.last_time_ns),
        catalog: Mutex::new(catalog),
        unwritten: Mutex::default(),
        health: Mutex::new(Health::Waiting("it is not open yet".into())),
        commit_since: AtomicU64::new(0),
        opened: Instant::now(),
        counters: Default::default(),
        damage: Mutex::default(),
        faults: options.faults.clone(),
    };
    Ok(Writer::new(Arc::new(shared), options, plan)?)
}

/// The name that the journal has, or has from now on.
fn name(folder: &Folder, options: &Options) -> Result<Name, JournalError> {
    let path = || folder.path().to_owned();
    let Some(kept) = folder.name()? else {
        return Ok(options.name.clone().unwrap_or_else(|| options.default_name.clone()));
    };
    let kept: Name = kept.parse().map_err(|reason| JournalError::KeptName { path: path(), reason })?;
    match &options.name {
        Some(given) if *given != kept => Err(JournalError::Name { path: path(), given: given.clone(), kept }),
        _ => Ok(kept),
    }
}

fn new_stream() -> SegmentHeader {
    let stream = StreamId(*uuid::Uuid::new_v4().as_bytes());
    info!(%stream, "a new journal");
    SegmentHeader { stream, start: Position::default(), last_time_ns: i64::MIN }
}

/// What the stream begins with.
struct Start {
    found: Vec<Found>,
    behind_lost: Option<SegmentHeader>,
    /// The journal that was here before.
    set_aside: Option<SetAside>,
}

/// What is there, unless it is to be, or was being, taken out of the way.
fn start(folder: &Folder, options: &Options) -> Result<Start, JournalError> {
    let mut set_aside = folder.finish_renewal()?;
    let (mut found, mut behind_lost) = self::found(folder, options.segment_bytes)?;
    if let (true, Some(newest)) = (options.new_stream, found.last()) {
        set_aside = folder.renew(newest.header.stream)?;
        (found, behind_lost) = (Vec::new(), None);
    }
    Ok(Start { found, behind_lost, set_aside })
}

/// The segments that are there, in order, each with what its header says or, if that is damaged, what
/// can be told from the blocks behind it or the segment before it. One that nothing can be told of is
/// set aside. If that is the newest, also where the stream goes on: behind every number that it may
/// have had, so that none is used again.
fn found(folder: &Folder, segment_bytes: u64) -> Result<(Vec<Found>, Option<SegmentHeader>), JournalError> {
    let mut headers = Vec::new();
    for first in folder.list()? {
        let path = folder.segment(first);
        let file = folder.open(&path)?;
        let (header, bytes) = read_header(&path, &file)?;
        if let Err(error @ DecodeError::Version { .. }) = header {
            return Err(JournalError::Version { path, error });
        }
        let header = header.ok().filter(|header| header.start.next == first);
        headers.push((first, header.or_else(|| header_from_block(&path, &file, first)), bytes));
    }
    let newest = headers.iter().rev().find_map(|(_, header, _)| *header);
    let mut found: Vec<Found> = Vec::new();
    let mut behind_lost = None;
    for (first, header, bytes) in headers {
        let path = folder.segment(first);
        behind_lost = None;
        match (header.or_else(|| header_from_segment(folder, found.last()?, first)), newest) {
            (Some(header), Some(newest)) if header.stream != newest.stream => {
                return Err(JournalError::OtherStream { path, found: header.stream, stream: newest.stream });
            }
            (Some(header), _) => found.push(Found { header, bytes }),
            (None, _) => {
                set_aside(folder, first)?;
                let records_max = bytes.max(segment_bytes + BLOCK_BYTES_MAX as u64) / RECORD_BYTES_MIN;
                behind_lost = found.last().map(|before| {
                    let start = Position { next: first.saturating_add(records_max), previous: 0 };
                    SegmentHeader { start, ..before.header }
                });
            }
        }
    }
    Ok((found, behind_lost))
}

/// What a damaged header said, if the first block behind it is whole.
fn header_from_block(path: &Path, file: &File, first: u64) -> Option<SegmentHeader> {
    let head = first_block(file).filter(|head| head.first == first)?;
    warn!(segment = %path.display(), "the header of a segment is damaged, the block behind it is not");
    Some(SegmentHeader { stream: head.stream, start: head.start(), last_time_ns: head.base_time_ns })
}

/// What a damaged header said, if the segment before ends where this one begins.
fn header_from_segment(folder: &Folder, before: &Found, first: u64) -> Option<SegmentHeader> {
    let Found { header: SegmentHeader { stream, start, mut last_time_ns }, bytes } = *before;
    let (path, beginning) = (folder.segment(start.next), IndexEntry { start, offset: FIRST_BLOCK });
    let file = Arc::new(folder.open(&path).ok()?);
    let mut reader = SegmentReader::new(path, file, stream, bytes, beginning, Unreadable::Damage);
    loop {
        match reader.step().ok()? {
            Step::Block(block, _) => last_time_ns = last_time_ns.max(block.head().base_time_ns),
            Step::Gap(_) => {}
            Step::End { .. } => break,
        }
    }
    let start = reader.position();
    (start.next == first).then_some(SegmentHeader { stream, start, last_time_ns })
}

fn set_aside(folder: &Folder, first: u64) -> Result<(), JournalError> {
    let to = folder.set_aside(first)?;
    tracing::error!(segment = %to.display(), "nothing can be read from a segment, it is set aside");
    Ok(())
}

/// Writes the active segment anew, whole blocks only, and makes it durable.
///
/// # Errors
/// It cannot be done, perhaps only for lack of room. Nothing has changed then.
pub(super) fn rewrite(shared: &Shared, plan: &Plan) -> Result<(File, Active), FolderError> {
    let folder = &shared.folder;
    if folder.name()?.is_none() {
        folder.keep_name(shared.name.as_str())?;
    }
    let first = plan.header.start.next;
    let path = folder.segment(first);
    // Tried by writing again and again, the copy would take what room there is from everybody else.
    folder.check_room(&path, plan.there_bytes.unwrap_or(0))?;
    let mut copied = None;
    let steps = ["open.copied", "open.synced", "open.renamed"];
    let file = folder.replace(&path, steps, |file| {
        let copy = copy(shared, plan, file)?;
        if copy.cut_bytes > BLOCK_BYTES_MAX as u64 {
            let kept = folder.keep_damaged(first)?;
            let (cut_bytes, kept) = (copy.cut_bytes, kept.display());
            tracing::error!(%kept, cut_bytes, "more than one block is cut: this is damage, and the old file is kept");
        }
        copied = Some(copy);
        Ok(())
    })?;
    // Of a time when the segment was sealed, before those behind it were taken away.
    folder.remove_index(first)?;
    let Copied { active, gaps, cut_bytes } = copied.expect("what replaces a file is called once, or fails");
    for (from, to) in gaps {
        shared.note_damage(&path, from, to);
    }
    if cut_bytes > 0 {
        shared.counters.torn.fetch_add(1, Ordering::Relaxed);
        warn!(segment = %path.display(), next = active.end.next, cut_bytes, "the end of the journal was torn, and is cut");
    }
    folder.at("open.done", folder.path())?;
    Ok((file, active))
}

struct Copied {
    active: Active,
    gaps: Vec<(u64, u64)>,
    cut_bytes: u64,
}

fn copy(shared: &Shared, plan: &Plan, to: &File) -> io::Result<Copied> {
    let mut out = BufWriter::with_capacity(COPY_BYTES, to);
    out.write_all(&plan.header.encode())?;
    let mut copied = Copied { active: Active::new(&plan.header), gaps: Vec::new(), cut_bytes: 0 };
    if let Some(bytes) = plan.there_bytes {
        let beginning = IndexEntry { start: plan.header.start, offset: FIRST_BLOCK };
        let path = shared.folder.segment(plan.header.start.next);
        let file = Arc::new(shared.folder.open(&path).map_err(io::Error::other)?);
        let mut reader = SegmentReader::new(path, file, shared.stream, bytes, beginning, Unreadable::Error);
        loop {
            let before = reader.position();
            match reader.step().map_err(io::Error::other)? {
                Step::Block(block, _) => {
                    out.write_all(block.bytes())?;
                    copied.active.push(&block);
                }
                Step::Gap(to) => copied.gaps.push((before.next, to.next)),
                Step::End { left_bytes } => {
                    copied.cut_bytes = left_bytes;
                    break;
                }
            }
        }
    }
    out.flush()?;
    Ok(copied)
}
