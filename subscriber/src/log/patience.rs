//! Doing something to the log until it succeeds.
//!
//! A disk that refuses is tried again, at shutdown once more. After a sync that failed the log is opened
//! anew; it may then stand elsewhere than was told, so every source begins anew as well.

use super::file::{Log, LogError};
use super::queue::Command;
use super::writer::{Work, WriterError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{error, info};

/// Memory for lines that is kept between appends. The lines of the longest block take about 16 MiB at most:
/// its 1 MiB, each byte as an escape of six, and 16,384 times the longest name.
const BATCH_KEEP_BYTES: usize = 4 * 1024 * 1024;
/// The pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

impl Work {
    /// Appends what has gathered, however long the disk takes to accept it, but at shutdown gives up.
    pub(super) fn flush(&mut self) -> Result<(), WriterError> {
        self.close_plain();
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let (lines, bytes) = (batch.lines(), batch.text.len() as u64);
        self.appending_lines = lines;
        let appended = self.persist(|log| log.append(&batch));
        self.appending_lines = 0;
        self.batch = batch;
        match appended? {
            Some(()) => {
                self.written.lines.inc_by(lines);
                self.written.bytes.inc_by(bytes);
                self.batch.clear(BATCH_KEEP_BYTES);
                self.charges.clear();
                self.tell_written();
                self.note_unsynced();
                Ok(())
            }
            // The log was opened anew, and stands elsewhere: records come again, messages would not.
            None => {
                self.brought.fill(None);
                self.charges.clear();
                self.batch.keep_plain();
                self.become_whole()?;
                self.flush()
            }
        }
    }

    /// Tells the sources whose blocks are on file how far.
    fn tell_written(&mut self) {
        for (desk, brought) in self.desks.iter().zip(&mut self.brought) {
            if let Some(next) = brought.take() {
                desk.written.send_replace(next);
            }
        }
    }

    pub(super) fn rotate(&mut self) -> Result<(), WriterError> {
        if self.persist_whole(Log::rotate)?.is_some() {
            self.sync_at = None;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), WriterError> {
        if self.persist_whole(Log::sync)?.is_some() {
            self.written.syncs.inc();
            self.sync_at = None;
        }
        Ok(())
    }

    pub(super) fn note_unsynced(&mut self) {
        if self.sync_at.is_none() && self.log.unsynced_bytes().is_some() {
            self.sync_at = Some(Instant::now() + self.settings.sync_every);
        }
    }

    /// Does something to the log until it succeeds. `None`: a sync had failed, the log was opened anew, and
    /// what was to be done may not be what is to be done now.
    pub(super) fn persist<T>(
        &mut self,
        mut action: impl FnMut(&mut Log) -> Result<T, LogError>,
    ) -> Result<Option<T>, WriterError> {
        let mut is_lost = false;
        loop {
            let done = if is_lost { self.log.reopen().map(|()| None) } else { action(&mut self.log).map(Some) };
            let error = match done {
                Ok(done) => {
                    if self.failure.send_replace(None).is_some() {
                        info!("the log can be written again");
                    }
                    if is_lost {
                        self.refuse_all();
                        self.note_unsynced();
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if self.commands.is_closed() {
                return Err(WriterError::Lost { lines: self.unwritten(), source: error });
            }
            is_lost |= matches!(error, LogError::Sync { .. });
            self.failed(&error);
            thread::sleep(RETRY_PAUSE);
        }
    }

    /// The same; and if the log was opened anew, what that has left unfinished is finished or cut.
    pub(super) fn persist_whole<T>(
        &mut self,
        action: impl FnMut(&mut Log) -> Result<T, LogError>,
    ) -> Result<Option<T>, WriterError> {
        let done = self.persist(action)?;
        if done.is_none() {
            self.become_whole()?;
        }
        Ok(done)
    }

    pub(super) fn become_whole(&mut self) -> Result<(), WriterError> {
        if !self.finish_all()? {
            self.cut()?;
        }
        Ok(())
    }

    /// Has every source begin anew: the log may not stand any more where it has told them.
    pub(super) fn refuse_all(&mut self) {
        for source in 0..self.desks.len() {
            self.refuse(source, self.epochs[source]);
        }
    }

    /// How many lines were received and are not on file.
    fn unwritten(&mut self) -> u64 {
        let lines = |command: &Command| match command {
            Command::Plain { .. } => 1,
            Command::Block { block, .. } => u64::from(block.head().count),
            _ => 0,
        };
        let mut unwritten = self.appending_lines + self.batch.lines() + self.held.iter().map(lines).sum::<u64>();
        while let Ok(command) = self.commands.try_recv() {
            unwritten += lines(&command);
        }
        unwritten
    }

    /// Ends index and log before what is unfinished.
    pub(super) fn cut(&mut self) -> Result<(), WriterError> {
        self.persist(Log::cut)?;
        Ok(())
    }

    fn failed(&self, failure: &LogError) {
        let reason = failure.chain();
        self.failure.send_if_modified(|known| {
            let new = known.as_deref() != Some(&reason);
            if new {
                error!(%reason, "the log cannot be written, nothing more is read until it can");
                *known = Some(reason);
            }
            new
        });
    }
}
