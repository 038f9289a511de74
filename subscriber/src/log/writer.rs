//! The one thread that writes the log. It owns the positions of all streams.
//!
//! What it is given it checks against the positions immediately before it is written: a block or a
//! statement is taken only from the source that serves the stream, and only if it begins where the stream
//! stands, by sequence and chain value. Whatever else comes is refused, and its source begins anew.
//!
//! Blocks and messages that wait become one append; questions and statements are answered and written
//! behind what was handed over before them. Each [`Settings::sync_every`] what was appended is synced.
//! While the disk refuses, the thread keeps what it has and tries again; the queue fills, sources stop
//! reading, and TCP holds their publishers back.

use super::claims::Claims;
use super::file::{Log, LogError};
use super::format::Renderer;
use super::gather::{Arrived, OpenPlain, ns};
use super::pair::Batch;
use super::positions::{STREAMS_MAX, stream_entry};
use super::queue::{Command, Desk, SourceId};
use chrono::Utc;
use feed::StreamId;
use prometheus_client::metrics::counter::Counter;
use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::warn;

/// Bytes of text and index after which a sync does not wait for its time.
const UNSYNCED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The longest that the thread sleeps when there is nothing to do.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) format: super::format::Format,
    pub(crate) stamp: super::format::Stamp,
    pub(crate) sync_every: Duration,
}

/// What the thread counts.
#[derive(Clone, Default)]
pub(crate) struct Written {
    pub(crate) lines: Counter,
    pub(crate) bytes: Counter,
    pub(crate) syncs: Counter,
}

/// A running writer.
pub(crate) struct Writer {
    thread: thread::JoinHandle<Result<(), WriterError>>,
    failing: watch::Receiver<Option<String>>,
}

/// Why a writer could not write all it was given.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The disk still refused at shutdown.
    #[error("{lines} lines could not be written")]
    Lost {
        /// Lines that were received and are not on file.
        lines: u64,
        /// What the disk said last.
        source: LogError,
    },
    /// The lines are in the file, but not for certain on the disk.
    #[error(transparent)]
    Sync(LogError),
    /// No thread could be had.
    #[error("cannot start the writer's thread")]
    Thread(#[source] io::Error),
    /// The disk was too slow at shutdown: what was received may be on it, or not.
    #[error("the log was not written and synced within {0:?}")]
    Slow(Duration),
    /// A defect: the writer's thread or a source's task panicked.
    #[error("the writer or a source ended by itself")]
    Ended,
}

impl Writer {
    /// Starts the thread, from within a runtime.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(
        log: Log,
        settings: Settings,
        written: Written,
        desks: Vec<Desk>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, WriterError> {
        let (failure, failing) = watch::channel(None);
        let (epochs, brought) = (vec![0; desks.len()], vec![None; desks.len()]);
        let work = Work {
            log,
            renderer: Renderer::new(settings.format, settings.stamp),
            settings,
            written,
            desks,
            epochs,
            brought,
            claims: Claims::new(),
            commands,
            held: VecDeque::new(),
            batch: Batch::default(),
            appending_lines: 0,
            plain: None,
            charges: Vec::new(),
            sync_at: None,
            failure,
            runtime: Handle::current(),
        };
        let spawned = thread::Builder::new().name("log-writer".to_owned()).spawn(move || work.run());
        Ok(Self { thread: spawned.map_err(WriterError::Thread)?, failing })
    }

    /// Why the disk refuses at the moment, if it does.
    pub(crate) fn failing(&self) -> watch::Receiver<Option<String>> {
        self.failing.clone()
    }

    /// Waits until all is written and synced, for at most `wait`. Every queue must be dropped by then.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub(crate) async fn finish(self, wait: Duration) -> Result<(), WriterError> {
        let joining = tokio::task::spawn_blocking(move || self.thread.join());
        match tokio::time::timeout(wait, joining).await {
            Ok(joined) => joined.ok().and_then(Result::ok).unwrap_or(Err(WriterError::Ended)),
            Err(_) => Err(WriterError::Slow(wait)),
        }
    }
}

pub(super) struct Work {
    pub(super) log: Log,
    pub(super) renderer: Renderer,
    pub(super) settings: Settings,
    pub(super) written: Written,
    pub(super) desks: Vec<Desk>,
    /// The latest epoch of each source.
    pub(super) epochs: Vec<u64>,
    pub(super) claims: Claims,
    pub(super) commands: mpsc::Receiver<Command>,
    /// What came while something was to be finished: it is next.
    pub(super) held: VecDeque<Command>,
    pub(super) batch: Batch,
    /// Lines of the batch that is being appended.
    pub(super) appending_lines: u64,
    pub(super) plain: Option<OpenPlain>,
    /// Where the blocks in the batch bring the stream of each source.
    pub(super) brought: Vec<Option<u64>>,
    /// Held until the batch is on file: what is rendered is still in memory.
    pub(super) charges: Vec<OwnedSemaphorePermit>,
    /// When a sync is due, if anything is not synced.
    pub(super) sync_at: Option<Instant>,
    pub(super) failure: watch::Sender<Option<String>>,
    pub(super) runtime: Handle,
}

/// What comes next.
pub(super) enum Next {
    Command(Command),
    /// Nothing, until the time was over.
    Nothing,
    /// All queues are gone.
    Closed,
}

impl Work {
    fn run(mut self) -> Result<(), WriterError> {
        // What opening has left may be unsynced.
        self.note_unsynced();
        loop {
            if self.log.unfinished().is_some() && !self.finish_all()? {
                // The next start will finish it; but messages of plain sources are nowhere else.
                if !self.held.iter().any(|held| matches!(held, Command::Plain { .. })) {
                    return Ok(());
                }
                self.cut()?;
            }
            match self.next()? {
                Next::Command(command) => self.take(command)?,
                Next::Nothing => {}
                Next::Closed => break,
            }
            self.do_what_is_due()?;
        }
        self.flush()?;
        match self.log.sync() {
            Err(error @ LogError::Sync { .. }) => Err(WriterError::Sync(error)),
            // What there is is on the disk; only the word for it has no room.
            Err(error) => {
                warn!(reason = error.chain(), "the log's last entry cannot be written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The next command. Before it waits for one, it writes what there is.
    fn next(&mut self) -> Result<Next, WriterError> {
        if let Some(command) = self.held.pop_front() {
            return Ok(Next::Command(command));
        }
        match self.commands.try_recv() {
            Ok(command) => return Ok(Next::Command(command)),
            Err(TryRecvError::Disconnected) => return Ok(Next::Closed),
            Err(TryRecvError::Empty) => {}
        }
        if !self.batch.is_empty() {
            self.flush()?;
            return Ok(Next::Nothing);
        }
        Ok(self.wait(self.due_in().unwrap_or(IDLE_MAX)))
    }

    /// Waits for a command.
    pub(super) fn wait(&mut self, wait: Duration) -> Next {
        let (runtime, commands) = (self.runtime.clone(), &mut self.commands);
        match runtime.block_on(async { tokio::time::timeout(wait, commands.recv()).await }) {
            Ok(Some(command)) => Next::Command(command),
            Ok(None) => Next::Closed,
            Err(_) => Next::Nothing,
        }
    }

    fn due_in(&self) -> Option<Duration> {
        let sync = self.sync_at.map(|at| at.saturating_duration_since(Instant::now()));
        let full = self.log.full_in_ns(now_ns()).map(Duration::from_nanos);
        [sync, full].into_iter().flatten().min()
    }

    fn do_what_is_due(&mut self) -> Result<(), WriterError> {
        if self.log.full_in_ns(now_ns()) == Some(0) {
            self.flush()?;
            self.rotate()?;
        }
        let is_much = self.log.unsynced_bytes().is_some_and(|bytes| bytes > UNSYNCED_BYTES_MAX);
        if is_much || self.sync_at.is_some_and(|at| Instant::now() >= at) {
            self.flush()?;
            self.sync()?;
        }
        Ok(())
    }

    /// Does what a command says.
    fn take(&mut self, command: Command) -> Result<(), WriterError> {
        match command {
            Command::Plain { message, charge } => self.message(&message, charge),
            Command::Block { source, epoch, block, received, charge } => {
                self.block(Arrived { source, epoch, block, received, charge })
            }
            Command::State { source, epoch, statement, received } => self.state(source, epoch, &statement, received),
            Command::Claim { source, epoch, stream, answer } => {
                self.flush()?;
                let claim = self.claim(source, epoch, stream);
                if claim.is_some_and(|claim| claim.granted) {
                    self.give_home(source, stream)?;
                }
                // Who asks may be gone.
                let _ = answer.send(claim);
                Ok(())
            }
            Command::Boundary { stream, at_most, answer } => {
                self.flush()?;
                let boundary = loop {
                    if let Some(boundary) = self.persist_whole(|log| log.boundary(stream, at_most))? {
                        break boundary;
                    }
                };
                let _ = answer.send(boundary);
                Ok(())
            }
            Command::Release { source } => {
                self.claims.release(source);
                Ok(())
            }
        }
    }

    /// Answers a claim. `None`: there is no room for another stream.
    pub(super) fn claim(&mut self, source: SourceId, epoch: u64, stream: StreamId) -> Option<feed::cursor::Claim> {
        self.note_epoch(source, epoch);
        let positions = self.log.positions();
        if positions.get(stream).is_none() && positions.len() >= STREAMS_MAX {
            return None;
        }
        let claim = self.claims.claim(source, stream, &self.desks, positions);
        self.desks[source].written.send_replace(claim.at.map_or(0, |at| at.next));
        Some(claim)
    }

    pub(super) fn note_epoch(&mut self, source: SourceId, epoch: u64) {
        self.epochs[source] = self.epochs[source].max(epoch);
    }

    /// Enters the source as the home of a stream that has none: damage has taken it.
    fn give_home(&mut self, source: SourceId, stream: StreamId) -> Result<(), WriterError> {
        let Some(known) = self.log.positions().get(stream).filter(|known| known.home.is_empty()) else {
            return Ok(());
        };
        let entry = stream_entry(stream, known.base, known.at, &known.name, &self.desks[source].home);
        self.batch.close(entry, 0);
        self.flush()?;
        self.sync()
    }

    /// Something did not fit: its source is to begin anew.
    pub(super) fn refuse(&mut self, source: SourceId, epoch: u64) {
        self.desks[source].refused.send_if_modified(|refused| {
            let is_more = epoch > *refused;
            *refused = epoch.max(*refused);
            is_more
        });
    }
}

fn now_ns() -> i64 {
    ns(Utc::now())
}
