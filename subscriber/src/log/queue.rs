//! The way to the writer: one bounded queue, with a budget of bytes for each source.
//!
//! What a source has handed over counts against its budget until it is written. A source whose budget
//! is used up waits, reads nothing meanwhile, and TCP holds its publisher back; the others go on.

use super::format::Message;
use chrono::{DateTime, Utc};
use feed::cursor::Claim;
use feed::{Block, Gap, Position, StreamId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Commands that wait for the writer.
pub(crate) const QUEUE_COMMANDS_MAX: usize = 16_384;
/// Bytes that may wait for the writer, of all sources together.
pub(crate) const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The least of it that a source has for itself: the longest block, and the next one.
const SOURCE_BYTES_MIN: usize = 2 * 1024 * 1024;
/// What a message takes beside its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The number of a source: its place among those that are followed.
pub(crate) type SourceId = usize;

/// Why nothing can be handed over: the writer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// What the writer is to do.
pub(crate) enum Command {
    /// Write a message of a plain source.
    Plain { message: Message, charge: OwnedSemaphorePermit },
    /// Write a block, if it is the next one, and its source serves its stream.
    Block { source: SourceId, epoch: u64, block: Block, received: DateTime<Utc>, charge: OwnedSemaphorePermit },
    /// State something, under the same conditions.
    State { source: SourceId, epoch: u64, statement: Statement, received: DateTime<Utc> },
    /// Who serves the stream?
    Claim { source: SourceId, epoch: u64, stream: StreamId, answer: oneshot::Sender<Option<Claim>> },
    /// Where did something end, last at or below `at_most`?
    Boundary { stream: StreamId, at_most: u64, answer: oneshot::Sender<Option<Position>> },
    /// The source serves nothing any more.
    Release { source: SourceId },
}

/// What a source has to say of a stream, beside its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// The log has nothing of the stream, and begins here. The source is its home.
    Base { stream: StreamId, at: Position, name: String },
    /// Records are no more.
    Lost(Gap),
    /// The stream's history has gone back, and another way.
    Forked { stream: StreamId, from: Position, at: Position },
    /// The source's stream is another now, in which the log stands at `base`.
    Replaced { old: StreamId, heard: u64, stream: StreamId, base: Position, name: String },
}

impl Statement {
    /// The stream that the source has to serve.
    pub(crate) fn stream(&self) -> StreamId {
        match self {
            Self::Lost(gap) => gap.stream,
            Self::Base { stream, .. } | Self::Forked { stream, .. } | Self::Replaced { stream, .. } => *stream,
        }
    }
}

/// When something was heard last, to be asked by who does not hear it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    begun: Instant,
    millis: Arc<AtomicU64>,
}

impl Heard {
    /// Counts as heard now.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), millis: Arc::default() }
    }

    pub(crate) fn now(&self) {
        self.millis.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// What the writer knows of a source.
pub(crate) struct Desk {
    /// What it is called: the home of the streams that it names.
    pub(crate) home: String,
    /// When it heard from its publisher.
    pub(crate) heard: Heard,
    /// The highest epoch of which something was refused.
    pub(crate) refused: watch::Sender<u64>,
    /// Where the log stands in the stream that the source serves.
    pub(crate) written: watch::Sender<u64>,
}

/// A source's end of the queue; the writer ends when the last of them is dropped.
pub(crate) struct Queue {
    sender: mpsc::Sender<Command>,
    source: SourceId,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    heard: Heard,
    refused: watch::Receiver<u64>,
    written: watch::Receiver<u64>,
    epoch: u64,
}

/// Tells whether the writer is there, and holds it until it is dropped.
pub(crate) struct Hold(mpsc::Sender<Command>);

impl Hold {
    /// Waits until the writer is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Both ends of the way to the writer.
pub(crate) struct Queues {
    /// One for each source, in order.
    pub(crate) queues: Vec<Queue>,
    pub(crate) hold: Hold,
    /// The writer's side.
    pub(crate) desks: Vec<Desk>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// The queues of sources that are called so.
pub(crate) fn queues(homes: Vec<String>) -> Queues {
    let (sender, receiver) = mpsc::channel(QUEUE_COMMANDS_MAX);
    let budget_bytes = (QUEUE_BYTES_MAX / homes.len().max(1)).max(SOURCE_BYTES_MIN);
    let (mut queues, mut desks) = (Vec::new(), Vec::new());
    for (source, home) in homes.into_iter().enumerate() {
        let (heard, (refused, refusals), (wrote, written)) = (Heard::new(), watch::channel(0), watch::channel(0));
        let budget = Arc::new(Semaphore::new(budget_bytes));
        desks.push(Desk { home, heard: heard.clone(), refused, written: wrote });
        queues.push(Queue {
            sender: sender.clone(),
            source,
            budget,
            budget_bytes,
            heard,
            refused: refusals,
            written,
            epoch: 1,
        });
    }
    Queues { queues, hold: Hold(sender), desks, commands: receiver }
}

impl Queue {
    /// Hands over a message of a plain source, once there is room for it.
    pub(crate) async fn message(&self, message: Message) -> Result<(), Gone> {
        let bytes = message.body.len() + message.topic.as_ref().map_or(0, |topic| topic.len());
        let charge = self.charge(bytes).await?;
        self.send(Command::Plain { message, charge }).await
    }

    /// Hands over a block that was received now, once there is room for it.
    pub(crate) async fn block(&self, block: Block) -> Result<(), Gone> {
        let received = Utc::now();
        let charge = self.charge(block.bytes().len()).await?;
        self.send(Command::Block { source: self.source, epoch: self.epoch, block, received, charge }).await
    }

    /// Hands over a statement.
    pub(crate) async fn state(&self, statement: Statement) -> Result<(), Gone> {
        let (source, epoch, received) = (self.source, self.epoch, Utc::now());
        self.send(Command::State { source, epoch, statement, received }).await
    }

    /// Asks who serves a stream; answered behind all that was handed over. `None`: the log knows as many
    /// streams as it can, and this is one more.
    pub(crate) async fn claim(&self, stream: StreamId) -> Result<Option<Claim>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Claim { source: self.source, epoch: self.epoch, stream, answer }).await?;
        answered.await.map_err(|_| Gone)
    }

    /// Asks for a boundary of a stream; see [`feed::cursor::Question::Boundary`].
    pub(crate) async fn boundary(&self, stream: StreamId, at_most: u64) -> Result<Option<Position>, Gone> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Boundary { stream, at_most, answer }).await?;
        answered.await.map_err(|_| Gone)
    }

    /// Gives up whatever stream it serves.
    pub(crate) async fn release(&self) -> Result<(), Gone> {
        self.send(Command::Release { source: self.source }).await
    }

    /// The sequence at which the log stands in the stream that the source serves.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Something came from the publisher now.
    pub(crate) fn heard(&self) {
        self.heard.now();
    }

    /// Begins anew: what was handed over before, and is refused from now on, does not count.
    pub(crate) fn renew(&mut self) {
        self.epoch += 1;
    }

    /// Waits until something that was handed over since [`Self::renew`] is refused, or the writer is gone.
    pub(crate) async fn refused(&self) {
        let mut refused = self.refused.clone();
        let _ = refused.wait_for(|refused| *refused >= self.epoch).await;
    }

    /// Waits until the writer is gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    async fn charge(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Gone> {
        // One that alone is more than the budget waits until nothing else is charged.
        let bytes = (bytes + MESSAGE_OVERHEAD_BYTES).min(self.budget_bytes) as u32;
        self.budget.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)
    }

    async fn send(&self, command: Command) -> Result<(), Gone> {
        self.sender.send(command).await.map_err(|_| Gone)
    }
}
