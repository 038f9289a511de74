//! What becomes of messages, blocks and statements: entries with their texts, gathered for one append.
//!
//! Here is where each is checked against the position of its stream, and where a file is found to be full.

use super::file::Log;
use super::format::{LOST_BY_DAMAGE, LOST_BY_RETENTION, Message, statement};
use super::index::{Entry, Kind};
use super::positions::{replaced_entry, stream_entry};
use super::queue::{SourceId, Statement};
use super::writer::{Work, WriterError};
use chrono::{DateTime, Utc};
use feed::{Block, GapReason, Position, StreamId};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of lines after which nothing more joins an append.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of lines of plain messages after which the next begin another entry.
const PLAIN_ENTRY_BYTES: usize = 256 * 1024;

/// Messages of plain sources that are rendered, and have no entry yet.
pub(super) struct OpenPlain {
    pub(super) lines: u32,
    pub(super) received: DateTime<Utc>,
}

/// A block on its way, with all that came with it.
pub(super) struct Arrived {
    pub(super) source: SourceId,
    pub(super) epoch: u64,
    pub(super) block: Block,
    pub(super) received: DateTime<Utc>,
    pub(super) charge: OwnedSemaphorePermit,
}

impl Work {
    pub(super) fn message(&mut self, message: &Message, charge: OwnedSemaphorePermit) -> Result<(), WriterError> {
        let before = self.batch.text.len();
        self.renderer.message(message, &mut self.batch.text);
        if self.log.would_overflow(before, self.batch.text.len()) {
            let line = self.batch.text.split_off(before);
            self.flush()?;
            self.rotate()?;
            self.batch.text.extend_from_slice(&line);
        }
        self.charges.push(charge);
        self.plain.get_or_insert(OpenPlain { lines: 0, received: message.received }).lines += 1;
        if self.batch.text.len() - self.batch.open_from() >= PLAIN_ENTRY_BYTES {
            self.close_plain();
        }
        if self.batch.text.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn close_plain(&mut self) {
        if let Some(OpenPlain { lines, received }) = self.plain.take() {
            let time_ns = ns(received);
            self.batch.close(Entry { time_ns, ..Entry::new(Kind::Plain, 0) }, lines);
        }
    }

    pub(super) fn block(&mut self, arrived: Arrived) -> Result<(), WriterError> {
        let Arrived { source, epoch, ref block, received, .. } = arrived;
        self.note_epoch(source, epoch);
        self.close_plain();
        let stream = block.head().stream;
        let standing = self.log.positions().get(stream).filter(|_| self.claims.owns(source, stream));
        let at = self.batch.position(stream).or(standing.map(|standing| standing.at));
        let Some(standing) = standing.filter(|_| at == Some(block.start())) else {
            self.refuse(source, epoch);
            return Ok(());
        };
        let before = self.batch.text.len();
        self.renderer.block(block, &standing.name, received, &mut self.batch.text);
        if self.log.would_overflow(before, self.batch.text.len()) {
            self.batch.text.truncate(before);
            self.flush()?;
            self.rotate()?;
            // The log may have been opened anew meanwhile, and stand elsewhere.
            return self.block(arrived);
        }
        self.batch.close(block_entry(block, received), block.head().count);
        self.brought[source] = Some(block.end().next);
        self.charges.push(arrived.charge);
        if self.batch.text.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn state(
        &mut self,
        source: SourceId,
        epoch: u64,
        what: &Statement,
        received: DateTime<Utc>,
    ) -> Result<(), WriterError> {
        self.flush()?;
        self.note_epoch(source, epoch);
        let fits = self.claims.owns(source, what.stream());
        let Some(mut entry) = self.entry_of(source, what).filter(|_| fits) else {
            self.refuse(source, epoch);
            return Ok(());
        };
        entry.time_ns = ns(received);
        statement(self.settings.format, &entry, self.log.positions(), &mut self.batch.text);
        let lines = u32::from(!self.batch.text.is_empty());
        if self.log.would_overflow(0, self.batch.text.len()) {
            self.batch.text.clear();
            self.rotate()?;
            return self.state(source, epoch, what, received);
        }
        let is_contact = matches!(entry.kind, Kind::Stream | Kind::Replaced);
        self.batch.close(entry, lines);
        self.flush()?;
        if is_contact {
            self.sync()?;
            self.persist_whole(Log::pass_base)?;
        }
        Ok(())
    }

    /// The entry of a statement, if it fits where the stream stands.
    fn entry_of(&self, source: SourceId, what: &Statement) -> Option<Entry> {
        let (positions, home) = (self.log.positions(), &self.desks[source].home);
        let at = |stream| positions.get(stream).map(|standing| standing.at);
        match what {
            Statement::Base { stream, at: base, name } => {
                at(*stream).is_none().then(|| stream_entry(*stream, base.next, *base, name, home))
            }
            Statement::Lost(gap) => {
                let detail = if gap.reason == GapReason::Damage { LOST_BY_DAMAGE } else { LOST_BY_RETENTION };
                let entry = moved(Kind::Lost, gap.stream, gap.from, gap.to);
                (at(gap.stream)?.next == gap.from).then_some(Entry { detail, ..entry })
            }
            Statement::Forked { stream, from, at: to } => {
                (at(*stream)? == *from).then(|| moved(Kind::Fork, *stream, from.next, *to))
            }
            Statement::Replaced { old, heard, stream, base, name } => {
                // Where it had been here before, it goes on where it stands.
                let base = at(*stream).unwrap_or(*base);
                let from = at(*old)?.next;
                Some(replaced_entry((*old, from, *heard), (*stream, base), name, home))
            }
        }
    }
}

/// The entry of a block whose lines were received at a time.
fn block_entry(block: &Block, received: DateTime<Utc>) -> Entry {
    let head = block.head();
    Entry { time_ns: ns(received), ..moved(Kind::Block, head.stream, head.first, block.end()) }
}

fn moved(kind: Kind, stream: StreamId, first: u64, next: Position) -> Entry {
    Entry { stream, first, next, ..Entry::new(kind, 0) }
}

pub(super) fn ns(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(i64::MAX)
}
