//! Signals: the first SIGINT or SIGTERM asks for an orderly end, the second does not wait for it.

use anyhow::{Context, bail};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The longest an orderly end may take; Docker gives ten seconds.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(9);
// In `up` one stops after the other, and each says what it could not do before the time is up.
const _: () = assert!(
    publisher::STOP_WAIT_MAX.saturating_add(subscriber::STOP_WAIT_MAX).as_millis() < SHUTDOWN_WAIT_MAX.as_millis()
);

/// SIGINT and SIGTERM, caught from the moment this is made, for a PID 1 as well.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Runs `daemon` until it ends by itself, or a signal came and it ended within the time it has.
    ///
    /// # Errors
    /// The daemon's own, or that it did not end in time.
    pub(crate) async fn supervise(
        mut self,
        stop: CancellationToken,
        daemon: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        tokio::pin!(daemon);
        tokio::select! {
            result = &mut daemon => return result,
            signal = self.next() => info!(signal, "stopping"),
        }
        stop.cancel();
        tokio::select! {
            result = &mut daemon => result,
            signal = self.next() => bail!("a second signal came ({signal}), not waiting for an orderly end"),
            () = tokio::time::sleep(SHUTDOWN_WAIT_MAX) => bail!("did not stop within {SHUTDOWN_WAIT_MAX:?}"),
        }
    }
}
