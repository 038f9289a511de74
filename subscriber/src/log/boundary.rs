//! Where something of a stream ended, in the history that the log follows now.
//!
//! Asked only when a publisher's history has forked, and then some twenty times: an index is read anew for
//! each question rather than kept in memory.

use super::LogError;
use super::index::Kind;
use super::positions::replacement;
use super::scan::Entries;
use feed::{Position, StreamId};
use std::fs::File;
use std::path::Path;

/// The last boundary of `stream` at or below `limit` in one index, and the limit that holds for the indexes
/// before it: what a fork has left behind does not count.
pub(super) fn in_index(index: &Path, stream: StreamId, limit: u64) -> Result<(Option<Position>, u64), LogError> {
    let file = File::open(index).map_err(LogError::io("open", index))?;
    let mut entries = Entries::new(&file);
    // In ascending order, and in the history that is followed at the end of the index.
    let mut boundaries: Vec<Position> = Vec::new();
    let mut lower = limit;
    while let Some((_, read)) = entries.next().map_err(LogError::io("read", index))? {
        let Ok(entry) = read else { continue };
        match entry.kind {
            Kind::Stream | Kind::Block | Kind::Lost if entry.stream == stream => boundaries.push(entry.next),
            Kind::Fork if entry.stream == stream => {
                boundaries.retain(|boundary| boundary.next < entry.next.next);
                boundaries.push(entry.next);
                lower = lower.min(entry.next.next);
            }
            Kind::Replaced => {
                let new = replacement(&entry).filter(|(new, ..)| *new == stream);
                boundaries.extend(new.map(|(_, base, ..)| base));
            }
            _ => {}
        }
    }
    Ok((boundaries.into_iter().rev().find(|boundary| boundary.next <= limit), lower))
}
