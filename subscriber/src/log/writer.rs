//! The one thread that writes the log, and the bounded queue in front of it.
//!
//! Whatever waits in the queue becomes one write. While the disk refuses, the thread keeps what it
//! has and tries again; the queue fills, sources stop reading, and TCP holds their publishers back.

use super::file::{Batch, LogError, LogFile};
use super::format::{Message, Renderer};
use prometheus_client::metrics::counter::Counter;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tracing::{error, info};

/// Messages that wait to be written.
const QUEUE_MESSAGES_MAX: usize = 16_384;
/// Bytes of messages that wait to be written.
const QUEUE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Bytes of lines after which no further message joins a write.
const BATCH_BYTES: usize = 256 * 1024;
/// The pause before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The writing end of the queue; the thread ends when the last of them is dropped.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
}

struct Queued {
    message: Message,
    charge: OwnedSemaphorePermit,
}

impl Queue {
    /// Queues a message, once there is room for it. `false` if the writer is gone.
    pub(crate) async fn put(&self, message: Message) -> bool {
        // One that alone is more than the queue may hold waits until the queue is empty.
        let bytes = message.body.len() + message.topic.as_ref().map_or(0, |topic| topic.len());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES_MAX);
        let Ok(charge) = self.bytes.clone().acquire_many_owned(bytes).await else { return false };
        self.sender.send(Queued { message, charge }).await.is_ok()
    }

    /// Waits until the writer is gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// What the thread counts.
#[derive(Clone, Default)]
pub(crate) struct Written {
    pub(crate) lines: Counter,
    pub(crate) bytes: Counter,
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
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(log: LogFile, renderer: Renderer, written: Written) -> Result<(Queue, Self), WriterError> {
        let (sender, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (failure, failing) = watch::channel(None);
        let work = Work { log, renderer, written, queue, failure };
        let spawned = thread::Builder::new().name("log-writer".to_owned()).spawn(move || work.run());
        let thread = spawned.map_err(WriterError::Thread)?;
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize));
        Ok((Queue { sender, bytes }, Self { thread, failing }))
    }

    /// Why the disk refuses at the moment, if it does.
    pub(crate) fn failing(&self) -> watch::Receiver<Option<String>> {
        self.failing.clone()
    }

    /// Waits until all is written and synced, for at most `wait`. Every [`Queue`] must be dropped by then.
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

struct Work {
    log: LogFile,
    renderer: Renderer,
    written: Written,
    queue: mpsc::Receiver<Queued>,
    failure: watch::Sender<Option<String>>,
}

impl Work {
    fn run(mut self) -> Result<(), WriterError> {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        while let Some(first) = self.queue.blocking_recv() {
            self.renderer.render(&first.message, &mut batch);
            // The charges are held until the batch is on file: what is rendered is still in memory.
            let mut charges = vec![first.charge];
            while batch.len() < BATCH_BYTES {
                let Ok(next) = self.queue.try_recv() else { break };
                self.renderer.render(&next.message, &mut batch);
                charges.push(next.charge);
            }
            self.write(&batch)?;
            batch.clear();
            // A long message does not hold on to its memory.
            batch.shrink_to(2 * BATCH_BYTES);
        }
        self.log.sync().map_err(WriterError::Sync)
    }

    /// Writes `lines` however long the disk takes to accept them, but at shutdown gives up.
    fn write(&mut self, lines: &[u8]) -> Result<(), WriterError> {
        let mut batch = Batch::new(lines);
        loop {
            let before = batch.done().len();
            let result = self.log.append(&mut batch);
            let done = &batch.done()[before..];
            self.written.bytes.inc_by(done.len() as u64);
            self.written.lines.inc_by(count_lines(done));
            let Err(error) = result else { break };
            if self.queue.is_closed() {
                let lines = count_lines(batch.left()) + self.queue.len() as u64;
                return Err(WriterError::Lost { lines, source: error });
            }
            self.failed(&error);
            thread::sleep(RETRY_PAUSE);
        }
        if self.failure.send_replace(None).is_some() {
            info!("the log can be written again");
        }
        Ok(())
    }

    fn failed(&self, failure: &LogError) {
        let causes = std::iter::successors(failure.source(), |&cause| cause.source());
        let reason = causes.fold(failure.to_string(), |reason, cause| format!("{reason}: {cause}"));
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

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}
