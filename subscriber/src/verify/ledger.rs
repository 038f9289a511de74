//! What the entries of all indexes come to, in order: whether each goes on where its stream stands, and
//! what is counted if not.

use super::{Report, StreamPosition};
use crate::log::index::{Entry, Kind};
use crate::log::positions::{Mismatch, Positions, STREAMS_MAX, replacement};
use feed::{Position, StreamId};
use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;

/// Problems that are told one by one; the others are counted.
pub(super) const PROBLEMS_MAX: usize = 20;

/// Where an entry is, for who wants to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a Path,
    pub(super) offset: u64,
}

/// What became of the text of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// It is what the entry says.
    Whole,
    /// The file ends before it does.
    Gone,
    /// It is something else, for this reason.
    Damaged(String),
}

/// The counts, and where each stream stands.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) report: Report,
    positions: Positions,
    /// The number of the last file before this one.
    number: Option<u64>,
    /// Nothing is known of what came before: positions are taken as the index has them.
    adopting: bool,
}

impl Ledger {
    /// From here on the positions are those with which the next index begins.
    pub(super) fn adopt(&mut self) {
        self.adopting = true;
    }

    /// A numbered file is gone through next.
    pub(super) fn reached(&mut self, number: u64) {
        self.number = Some(number);
    }

    pub(super) fn problem(&mut self, place: Place<'_>, what: impl Display) {
        let Place { file, offset } = place;
        self.problem_at(format_args!("{} at byte {offset}", file.display()), what);
    }

    pub(super) fn problem_at(&mut self, place: impl Display, what: impl Display) {
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push(format!("{place}: {what}"));
        } else {
            self.report.problems_more += 1;
        }
    }

    pub(super) fn damaged(&mut self, place: Place<'_>, what: impl Display) {
        self.report.damaged += 1;
        self.problem(place, what);
    }

    pub(super) fn missing(&mut self, place: impl Display, stream: StreamId, from: u64, to: u64) {
        add(&mut self.report.missing, to - from);
        self.problem_at(place, format_args!("records {from} to {} of stream {stream} are missing", to - 1));
    }

    /// Where a stream stands.
    pub(super) fn position(&self, stream: StreamId) -> Option<Position> {
        self.positions.get(stream).map(|known| known.at)
    }

    /// Follows an entry whose text was looked at. `index` is where the entry is, `log` where its text.
    pub(super) fn follow(&mut self, index: Place<'_>, log: Place<'_>, entry: &Entry, text: &Text) {
        self.adopting &= matches!(entry.kind, Kind::Begin | Kind::Stream);
        let (first, next) = (entry.first, entry.next.next);
        match entry.kind {
            Kind::Begin | Kind::Synced | Kind::Sealed => {}
            // Files that are set aside are never removed by the log itself.
            Kind::Moved if self.number.is_some_and(|number| number >= first) => {}
            Kind::Moved => self.damaged(index, format_args!("file {first} was set aside, and is not there")),
            Kind::Plain if *text == Text::Whole => add(&mut self.report.plain, entry.lines.into()),
            Kind::Plain => {}
            Kind::Stream => self.named(index, entry),
            Kind::Block | Kind::Lost if next <= first => {
                self.damaged(index, format_args!("an entry of records {first} up to {next}"));
            }
            Kind::Block => {
                let again = self.judge(index, entry);
                match text {
                    Text::Whole => add(&mut self.report.records, next - first - again),
                    Text::Gone => self.missing(path_and_offset(log), entry.stream, first, next),
                    Text::Damaged(_) => {}
                }
            }
            Kind::Lost => {
                self.judge(index, entry);
                add(&mut self.report.lost, next - first);
                let lost = format_args!("records {first} to {} of stream {} were lost", next - 1, entry.stream);
                self.problem(index, lost);
            }
            Kind::Fork => {
                self.judge(index, entry);
                self.report.forks += 1;
                self.problem(index, format_args!("stream {} went another way from {next} on", entry.stream));
            }
            Kind::Replaced => self.replaced(index, entry),
        }
    }

    /// Says how much of what the entry covers was covered before.
    fn judge(&mut self, index: Place<'_>, entry: &Entry) -> u64 {
        match self.positions.apply(entry) {
            Ok(()) => 0,
            Err(Mismatch::NotNext { stream, expected, found }) if found > expected => {
                self.missing(path_and_offset(index), stream, expected, found);
                self.positions.apply_anyway(entry);
                0
            }
            Err(Mismatch::NotNext { stream, expected, found }) => {
                let (next, behind) = (entry.next.next, expected - found);
                let covers_records = matches!(entry.kind, Kind::Block | Kind::Lost);
                let again = if covers_records { behind.min(next - found) } else { behind };
                if !covers_records || next > expected {
                    self.positions.apply_anyway(entry);
                }
                self.duplicated(index, stream, found, found + again);
                again
            }
            Err(error @ Mismatch::Unknown(stream)) => {
                self.damaged(index, error);
                if self.positions.len() < STREAMS_MAX {
                    let at = Position { next: entry.first, previous: 0 };
                    let named = Entry { stream, first: entry.first, next: at, ..Entry::new(Kind::Stream, 0) };
                    self.positions.apply_anyway(&named);
                    self.positions.apply_anyway(entry);
                }
                0
            }
            Err(error @ Mismatch::Words(_)) => {
                self.damaged(index, error);
                0
            }
        }
    }

    fn duplicated(&mut self, place: Place<'_>, stream: StreamId, from: u64, to: u64) {
        add(&mut self.report.duplicated, to - from);
        self.problem(place, format_args!("records {from} to {} of stream {stream} are there twice", to - 1));
    }

    /// A stream entry: carried over from the file before, or the first contact.
    fn named(&mut self, index: Place<'_>, entry: &Entry) {
        let Entry { stream, next: at, .. } = *entry;
        let known = self.positions.get(stream).map(|known| (known.base, known.at));
        let base = match known {
            _ if self.adopting => at.next,
            Some((base, stood)) => {
                self.compare(index, stream, stood, at);
                base
            }
            None => {
                if at.next > entry.first {
                    self.missing(path_and_offset(index), stream, entry.first, at.next);
                }
                entry.first
            }
        };
        if known.is_none() && !self.has_room(index, stream) {
            return;
        }
        if let Err(error) = self.positions.apply(&Entry { first: base, ..entry.clone() }) {
            self.damaged(index, error);
        }
    }

    fn replaced(&mut self, index: Place<'_>, entry: &Entry) {
        if let Some((stream, at, ..)) = replacement(entry) {
            match self.position(stream) {
                Some(stood) => self.compare(index, stream, stood, at),
                None if !self.has_room(index, stream) => return,
                None => {}
            }
        }
        self.judge(index, entry);
        let lost = entry.next.next.saturating_sub(entry.first);
        add(&mut self.report.lost, lost);
        let what = format_args!("stream {} was replaced by another, {lost} of its records were lost", entry.stream);
        if lost > 0 {
            self.problem(index, what);
        }
    }

    fn compare(&mut self, index: Place<'_>, stream: StreamId, stood: Position, at: Position) {
        if at.next > stood.next {
            self.missing(path_and_offset(index), stream, stood.next, at.next);
        } else if at.next < stood.next {
            self.duplicated(index, stream, at.next, stood.next);
        } else if at.previous != stood.previous {
            self.report.forks += 1;
            let what = format_args!("stream {stream} goes on at {} in another history than it stood in", at.next);
            self.problem(index, what);
        }
    }

    fn has_room(&mut self, index: Place<'_>, stream: StreamId) -> bool {
        let has_room = self.positions.len() < STREAMS_MAX;
        if !has_room {
            self.damaged(index, format_args!("stream {stream} is one more than the {STREAMS_MAX} that a log may have"));
        }
        has_room
    }

    /// All that was found.
    pub(super) fn finish(mut self) -> Report {
        let streams = self.positions.in_order();
        let homes: HashSet<&str> = streams.iter().map(|(_, known)| &*known.home).collect();
        self.report.publishers = homes.len() as u64;
        self.report.positions = streams
            .into_iter()
            .map(|(stream, known)| StreamPosition {
                stream,
                base: known.base,
                next: known.at.next,
                name: known.name.clone(),
            })
            .collect();
        self.report
    }
}

pub(super) fn path_and_offset(place: Place<'_>) -> impl Display {
    format!("{} at byte {}", place.file.display(), place.offset)
}

/// Numbers of a damaged or hostile index may be any.
fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}
