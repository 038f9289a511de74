//! What the entries of an index say together: where each stream stands, and who it is.
//!
//! The same function reads an index at the start, follows what is written, and judges in `verify`: an
//! entry that does not go on where the entries before it have left its stream is a [`Mismatch`].

use super::index::{Entry, Kind, REPLACED_BYTES};
use feed::{Position, StreamId};
use std::collections::HashMap;

/// Streams that one index may know: each takes an entry or two at the beginning of every file.
pub(crate) const STREAMS_MAX: usize = 4096;

/// What is known of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The publisher's name.
    pub(crate) name: String,
    /// Where it was met first: what the source there is called.
    pub(crate) home: String,
    /// Where the log begins in it.
    pub(crate) base: u64,
    /// Where the log stands in it.
    pub(crate) at: Position,
    /// Counts up: the stream that was named last for a home is the home's.
    named: u64,
}

impl Standing {
    /// As the beginning of an index has it.
    pub(crate) fn entry(&self, stream: StreamId) -> Entry {
        stream_entry(stream, self.base, self.at, &self.name, &self.home)
    }
}

/// An entry that says where a stream stands and who it is.
pub(crate) fn stream_entry(stream: StreamId, base: u64, at: Position, name: &str, home: &str) -> Entry {
    let words = [name.as_bytes(), home.as_bytes()].concat();
    let detail = name.len() as u32;
    Entry { stream, first: base, next: at, detail, words, ..Entry::new(Kind::Stream, 0) }
}

/// An entry that says that the stream of `home` was `old`, of which the log has what is before `from` and
/// more was heard of, and is `new` now, in which the log stands at `base`.
pub(crate) fn replaced_entry(
    (old, from, heard): (StreamId, u64, u64),
    (new, base): (StreamId, Position),
    name: &str,
    home: &str,
) -> Entry {
    let mut words = new.0.to_vec();
    words.extend(base.next.to_le_bytes());
    words.extend(base.previous.to_le_bytes());
    words.extend(name.bytes().chain(home.bytes()));
    let next = Position { next: heard, previous: 0 };
    let detail = name.len() as u32;
    Entry { stream: old, first: from, next, detail, words, ..Entry::new(Kind::Replaced, 0) }
}

/// Where all streams stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Positions {
    streams: HashMap<StreamId, Standing>,
    homes: HashMap<String, StreamId>,
    named: u64,
}

/// Why an entry does not follow from those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("an entry of stream {0}, which the index has not named")]
    Unknown(StreamId),
    #[error("stream {stream} stands at {expected}, and an entry goes on at {found}")]
    NotNext { stream: StreamId, expected: u64, found: u64 },
    #[error("the words of an entry of stream {0} are not a name and a home")]
    Words(StreamId),
}

/// Name and home from the words of an entry.
pub(crate) fn identity(words: &[u8], name_bytes: u32) -> Option<(&str, &str)> {
    let (name, home) = words.split_at_checked(name_bytes as usize)?;
    Some((str::from_utf8(name).ok()?, str::from_utf8(home).ok()?))
}

/// The new stream that a [`Kind::Replaced`] entry names: which, where the log stands in it, name and home.
pub(crate) fn replacement(entry: &Entry) -> Option<(StreamId, Position, &str, &str)> {
    let (fixed, words) = entry.words.split_first_chunk::<REPLACED_BYTES>()?;
    let stream = StreamId(fixed[..16].try_into().ok()?);
    let next = u64::from_le_bytes(fixed[16..24].try_into().ok()?);
    let previous = u32::from_le_bytes(fixed[24..].try_into().ok()?);
    let (name, home) = identity(words, entry.detail)?;
    Some((stream, Position { next, previous }, name, home))
}

impl Positions {
    /// Follows an entry.
    ///
    /// # Errors
    /// It does not follow from those before; then nothing has changed.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<(), Mismatch> {
        if let Kind::Block | Kind::Lost | Kind::Fork | Kind::Replaced = entry.kind {
            let expected = self.streams.get(&entry.stream).ok_or(Mismatch::Unknown(entry.stream))?.at.next;
            if entry.first != expected {
                return Err(Mismatch::NotNext { stream: entry.stream, expected, found: entry.first });
            }
        }
        self.follow(entry).ok_or(Mismatch::Words(entry.stream))
    }

    /// Follows an entry of a damaged index, whatever came before it. What makes no sense is passed over.
    ///
    /// A stream whose own entry cannot be read is called by its id, and has no home, which is whoever
    /// serves it next.
    pub(crate) fn apply_anyway(&mut self, entry: &Entry) {
        if let Kind::Block | Kind::Lost | Kind::Fork = entry.kind
            && !self.streams.contains_key(&entry.stream)
        {
            let base = Position { next: entry.first, previous: 0 };
            self.name(entry.stream, &entry.stream.to_string(), "", base.next, base);
        }
        let _ = self.follow(entry);
    }

    /// Whether a source is where a stream was met.
    pub(crate) fn is_home(&self, stream: StreamId, home: &str) -> bool {
        self.get(stream).is_some_and(|standing| standing.home == home || standing.home.is_empty())
    }

    fn follow(&mut self, entry: &Entry) -> Option<()> {
        match entry.kind {
            Kind::Stream => {
                let (name, home) = identity(&entry.words, entry.detail)?;
                self.name(entry.stream, name, home, entry.first, entry.next);
            }
            Kind::Replaced => {
                let (stream, at, name, home) = replacement(entry)?;
                let base = self.streams.get(&stream).map_or(at.next, |known| known.base);
                self.name(stream, name, home, base, at);
            }
            Kind::Block | Kind::Lost | Kind::Fork => {
                self.streams.get_mut(&entry.stream)?.at = entry.next;
            }
            Kind::Begin | Kind::Plain | Kind::Moved | Kind::Synced | Kind::Sealed => {}
        }
        Some(())
    }

    fn name(&mut self, stream: StreamId, name: &str, home: &str, base: u64, at: Position) {
        self.named += 1;
        let standing = Standing { name: name.to_owned(), home: home.to_owned(), base, at, named: self.named };
        let before = self.streams.insert(stream, standing);
        // One home a stream, as the next index will have it; so an index cannot name more of them than streams.
        if let Some(Standing { home: left, .. }) = before.filter(|before| before.home != home)
            && self.homes.get(&left) == Some(&stream)
        {
            self.homes.remove(&left);
        }
        self.homes.insert(home.to_owned(), stream);
    }

    /// What is known of a stream.
    pub(crate) fn get(&self, stream: StreamId) -> Option<&Standing> {
        self.streams.get(&stream)
    }

    /// The stream that was named last for a home.
    pub(crate) fn at_home(&self, home: &str) -> Option<StreamId> {
        self.homes.get(home).copied()
    }

    /// How many streams are known.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// All streams, in the order in which they were named.
    pub(crate) fn in_order(&self) -> Vec<(StreamId, &Standing)> {
        let mut streams: Vec<_> = self.streams.iter().map(|(stream, standing)| (*stream, standing)).collect();
        streams.sort_unstable_by_key(|(_, standing)| standing.named);
        streams
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId([1; 16]);
    const B: StreamId = StreamId([2; 16]);

    fn at(next: u64) -> Position {
        Position { next, previous: next as u32 }
    }

    fn entry(kind: Kind, stream: StreamId, first: u64, next: u64) -> Entry {
        Entry { stream, first, next: at(next), ..Entry::new(kind, 0) }
    }

    fn named(stream: StreamId, base: u64, home: &str) -> Entry {
        stream_entry(stream, base, at(base), "name", home)
    }

    fn replaced(old: StreamId, first: u64, heard: u64, new: StreamId, base: Position, home: &str) -> Entry {
        replaced_entry((old, first, heard), (new, base), "name", home)
    }

    #[test]
    fn entries_move_their_stream_and_no_other() {
        let mut positions = Positions::default();
        positions.apply(&named(A, 7, "a:1")).unwrap();
        positions.apply(&named(B, 0, "b:1")).unwrap();
        positions.apply(&entry(Kind::Block, A, 7, 10)).unwrap();
        positions.apply(&entry(Kind::Lost, A, 10, 15)).unwrap();
        positions.apply(&entry(Kind::Fork, A, 15, 9)).unwrap();
        positions.apply(&entry(Kind::Plain, StreamId::default(), 0, 0)).unwrap();
        let a = positions.get(A).unwrap();
        assert_eq!((a.base, a.at, &*a.name, &*a.home), (7, at(9), "name", "a:1"));
        assert_eq!(positions.get(B).unwrap().at, at(0));
        assert_eq!(positions.in_order().iter().map(|(stream, _)| *stream).collect::<Vec<_>>(), [A, B]);
    }

    #[test]
    fn what_does_not_follow_changes_nothing() {
        let mut positions = Positions::default();
        assert_eq!(positions.apply(&entry(Kind::Block, A, 0, 1)), Err(Mismatch::Unknown(A)));
        positions.apply(&named(A, 7, "a:1")).unwrap();
        for first in [6, 8] {
            let refused = positions.apply(&entry(Kind::Block, A, first, 9));
            assert_eq!(refused, Err(Mismatch::NotNext { stream: A, expected: 7, found: first }));
        }
        let wrong = Entry { detail: 9, ..named(B, 0, "") };
        assert_eq!(positions.apply(&wrong), Err(Mismatch::Words(B)));
        assert_eq!((positions.len(), positions.get(A).unwrap().at), (1, at(7)));
        positions.apply_anyway(&entry(Kind::Block, A, 20, 30));
        positions.apply_anyway(&entry(Kind::Block, B, 20, 30));
        let b = positions.get(B).unwrap();
        assert_eq!((positions.len(), positions.get(A).unwrap().at, b.at, b.base), (2, at(30), at(30), 20));
        assert!(positions.is_home(B, "anybody") && !positions.is_home(A, "anybody"));
    }

    #[test]
    fn a_stream_has_one_home() {
        let mut positions = Positions::default();
        for number in 0..9 {
            positions.apply(&named(A, 0, &format!("a:{number}"))).unwrap();
        }
        assert_eq!((positions.homes.len(), positions.at_home("a:8"), positions.at_home("a:7")), (1, Some(A), None));
    }

    #[test]
    fn a_replaced_stream_leaves_its_home_to_the_new_one_and_may_come_back() {
        let mut positions = Positions::default();
        positions.apply(&named(A, 0, "a:1")).unwrap();
        positions.apply(&entry(Kind::Block, A, 0, 5)).unwrap();
        positions.apply(&replaced(A, 5, 8, B, at(2), "a:1")).unwrap();
        assert_eq!(positions.at_home("a:1"), Some(B));
        assert_eq!((positions.get(A).unwrap().at, positions.get(B).unwrap().at), (at(5), at(2)));
        positions.apply(&replaced(B, 2, 0, A, at(5), "a:1")).unwrap();
        assert_eq!((positions.at_home("a:1"), positions.get(A).unwrap().base), (Some(A), 0));
        assert!(positions.apply(&replaced(B, 3, 0, A, at(5), "a:1")).is_err());
    }
}
