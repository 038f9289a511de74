//! Parts of the log for benchmarks of these parts alone: only with the feature `bench`, and no part of the interface.
//! Nothing is done here that the log does not do.

use crate::log::escape::{self, Style};
use crate::log::file::{self, Counters, LogError, Options};
use crate::log::format::{Format, Renderer, Stamp};
use crate::log::index::{Entry, Kind};
use crate::log::pair::Batch;
use crate::log::positions::stream_entry;
use chrono::DateTime;
use faults::Faults;
use feed::{Block, Position, StreamId};
use std::path::PathBuf;

const STREAM: StreamId = StreamId([b'b'; 16]);

/// Renders lines.
pub struct Lines(Renderer);

impl Lines {
    /// Of one format.
    pub fn new(format: Format) -> Self {
        Self(Renderer::new(format, Stamp::Received))
    }

    /// Appends the lines of a block to `out`.
    pub fn render(&mut self, block: &Block, received_ns: i64, out: &mut Vec<u8>) {
        self.0.block(block, "bench", DateTime::from_timestamp_nanos(received_ns), out);
    }
}

/// Appends a body, escaped for a format, to `out`.
pub fn escape(body: &[u8], format: Format, out: &mut Vec<u8>) {
    let style = match format {
        Format::Text => Style::Text,
        Format::Json => Style::Json,
        Format::Article => Style::Article,
    };
    escape::escape(body, style, out);
}

/// A log with one stream, which keeps one full file.
pub struct Log {
    log: file::Log,
    batch: Batch,
    next: u64,
}

impl Log {
    /// Begins one.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn begin(path: PathBuf, rotate_bytes: u64) -> Result<Self, LogError> {
        let (format, faults) = (Format::Text, Faults::default());
        let options = Options { path, rotate_bytes, rotate_every: None, keep: Some(1), adopt: false, format, faults };
        let mut log = Self { log: file::Log::open(options, Counters::default())?, batch: Batch::default(), next: 0 };
        log.batch.close(stream_entry(STREAM, 0, Position::default(), "bench", "bench"), 0);
        log.append_batch()?;
        Ok(log)
    }

    /// Appends the lines of one block, and rotates if they do not fit.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn append(&mut self, text: &[u8], lines: u32) -> Result<(), LogError> {
        if self.log.would_overflow(0, text.len()) {
            self.log.rotate()?;
        }
        let (first, end) = (self.next, self.next + u64::from(lines));
        let next = Position { next: end, previous: 0 };
        self.batch.text.extend_from_slice(text);
        self.batch.close(Entry { stream: STREAM, first, next, ..Entry::new(Kind::Block, 0) }, lines);
        self.next = end;
        self.append_batch()
    }

    fn append_batch(&mut self) -> Result<(), LogError> {
        self.log.append(&self.batch)?;
        self.batch.clear(usize::MAX);
        Ok(())
    }
}
