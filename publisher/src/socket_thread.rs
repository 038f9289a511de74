//! A thread with a runtime of its own, for one socket of the zeromq crate.
//!
//! The crate's PUB keeps its subscribers in a map that its tasks lock in two ways, waiting and
//! blocking. On a runtime of several workers these lock each other out for good once subscribers
//! come and go: a worker blocks on a lock that has been promised to a task that no worker is left to
//! run (tried: 20 subscribers that connect and leave stop the whole process within seconds). On a
//! single thread a task is interrupted while it holds that lock only where it waits for room in a full
//! queue, which a PUB never does, and a ROUTER only for a peer to whom much more is sent than it takes
//! (so nobody is sent an answer whose last one still waits). So all of the socket's tasks live on one,
//! and whatever became of them, the rest of the process goes on.

use std::io;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often a closing thread looks whether its connections are gone.
const CLOSING_POLL: Duration = Duration::from_millis(2);

/// How much longer than its tasks' linger a thread is waited for.
pub(crate) const CLOSE_SLACK: Duration = Duration::from_millis(100);

/// A running thread. It ends when this is dropped, or in good order by [`SocketThread::close`].
pub(crate) struct SocketThread {
    runtime: Handle,
    closing: CancellationToken,
    ended: CancellationToken,
    linger: Duration,
    name: &'static str,
}

impl SocketThread {
    /// Starts a thread called `name`. When it closes, its tasks have `linger` to end.
    pub(crate) fn start(name: &'static str, linger: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let closing = CancellationToken::new();
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let until_closed = {
            let (closing, handle) = (closing.clone(), handle.clone());
            async move {
                closing.cancelled().await;
                let deadline = Instant::now() + linger;
                while handle.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
                    sleep(CLOSING_POLL).await;
                }
            }
        };
        let run = move || {
            runtime.block_on(until_closed);
            // Whatever still reads a file is not waited for.
            runtime.shutdown_background();
            drop(end);
        };
        thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, closing, ended, linger, name })
    }

    /// Leaves a task to the thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Runs a task on the thread, and waits for its result.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        self.runtime.spawn(task).await
    }

    /// Waits until every task on the thread has ended, or the time for it is over.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        // A defect of the crate could stop the thread; it does not stop the process.
        if timeout(self.linger + CLOSE_SLACK, self.ended.cancelled()).await.is_err() {
            warn!(thread = self.name, "a socket's thread does not end, and is left behind");
        }
    }
}

impl Drop for SocketThread {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
