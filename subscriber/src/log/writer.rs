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
use super::format::{LOST_BY_DAMAGE, LOST_BY_RETENTION, Message, Renderer, statement};
use super::index::{Entry, Kind};
use super::pair::Batch;
use super::positions::{STREAMS_MAX, replaced_entry, stream_entry};
use super::queue::{Command, Desk, SourceId, Statement};
use chrono::{DateTime, Utc};
use feed::{Block, GapReason, Position, StreamId};
use prometheus_client::metrics::counter::Counter;
use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{error, info, warn};

/// Bytes of lines after which nothing more joins an append.
const BATCH_BYTES: usize = 1024 * 1024;
/// Memory for lines that is kept between appends. The lines of the longest block take about 16 MiB at most:
/// its 1 MiB, each byte as an escape of six, and 16,384 times the longest name.
const BATCH_KEEP_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of lines of plain messages after which the next begin another entry.
const PLAIN_ENTRY_BYTES: usize = 256 * 1024;
/// Bytes of text and index after which a sync does not wait for its time.
const UNSYNCED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
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

/// Messages of plain sources that are rendered, and have no entry yet.
struct OpenPlain {
    lines: u32,
    received: DateTime<Utc>,
}

/// A block on its way, with all that came with it.
struct Arrived {
    source: SourceId,
    epoch: u64,
    block: Block,
    received: DateTime<Utc>,
    charge: OwnedSemaphorePermit,
}

pub(super) struct Work {
    pub(super) log: Log,
    pub(super) renderer: Renderer,
    settings: Settings,
    written: Written,
    desks: Vec<Desk>,
    /// The latest epoch of each source.
    epochs: Vec<u64>,
    pub(super) claims: Claims,
    pub(super) commands: mpsc::Receiver<Command>,
    /// What came while something was to be finished: it is next.
    pub(super) held: VecDeque<Command>,
    batch: Batch,
    /// Lines of the batch that is being appended.
    appending_lines: u64,
    plain: Option<OpenPlain>,
    /// Where the blocks in the batch bring the stream of each source.
    brought: Vec<Option<u64>>,
    /// Held until the batch is on file: what is rendered is still in memory.
    charges: Vec<OwnedSemaphorePermit>,
    /// When a sync is due, if anything is not synced.
    sync_at: Option<Instant>,
    failure: watch::Sender<Option<String>>,
    runtime: Handle,
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

    fn note_epoch(&mut self, source: SourceId, epoch: u64) {
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

    fn message(&mut self, message: &Message, charge: OwnedSemaphorePermit) -> Result<(), WriterError> {
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

    fn close_plain(&mut self) {
        if let Some(OpenPlain { lines, received }) = self.plain.take() {
            let time_ns = ns(received);
            self.batch.close(Entry { time_ns, ..Entry::new(Kind::Plain, 0) }, lines);
        }
    }

    fn block(&mut self, arrived: Arrived) -> Result<(), WriterError> {
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

    /// Something did not fit: its source is to begin anew.
    pub(super) fn refuse(&mut self, source: SourceId, epoch: u64) {
        self.desks[source].refused.send_if_modified(|refused| {
            let is_more = epoch > *refused;
            *refused = epoch.max(*refused);
            is_more
        });
    }

    fn state(
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

    fn rotate(&mut self) -> Result<(), WriterError> {
        if self.persist_whole(Log::rotate)?.is_some() {
            self.sync_at = None;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WriterError> {
        if self.persist_whole(Log::sync)?.is_some() {
            self.written.syncs.inc();
            self.sync_at = None;
        }
        Ok(())
    }

    fn note_unsynced(&mut self) {
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
    fn persist_whole<T>(
        &mut self,
        action: impl FnMut(&mut Log) -> Result<T, LogError>,
    ) -> Result<Option<T>, WriterError> {
        let done = self.persist(action)?;
        if done.is_none() {
            self.become_whole()?;
        }
        Ok(done)
    }

    fn become_whole(&mut self) -> Result<(), WriterError> {
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

/// The entry of a block whose lines were received at a time.
fn block_entry(block: &Block, received: DateTime<Utc>) -> Entry {
    let head = block.head();
    Entry { time_ns: ns(received), ..moved(Kind::Block, head.stream, head.first, block.end()) }
}

fn moved(kind: Kind, stream: StreamId, first: u64, next: Position) -> Entry {
    Entry { stream, first, next, ..Entry::new(kind, 0) }
}

fn ns(time: DateTime<Utc>) -> i64 {
    time.timestamp_nanos_opt().unwrap_or(i64::MAX)
}

fn now_ns() -> i64 {
    ns(Utc::now())
}
