//! The wait for the head of a request, at little cost for each request.
//!
//! hyper makes a timer where it begins to wait for a head, and drops it when the head is there; as a timer of the
//! runtime that is a lock twice a request. Here it is a number, and each connection has one timer of the runtime, which
//! looks at the number when it fires: at the earliest when a head could be late.

use hyper::rt::{Sleep, Timer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// No head is waited for.
const NONE: u64 = u64::MAX;

/// Until when the head of a connection's next request is waited for: what hyper takes for a timer.
#[derive(Clone)]
pub(super) struct Heads {
    begun: Instant,
    /// Nanoseconds since `begun`.
    deadline: Arc<AtomicU64>,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self { begun: now(), deadline: Arc::new(AtomicU64::new(NONE)) }
    }

    /// Waits until a head is late. No head is to be given less than `wait`.
    pub(super) async fn late(self, wait: Duration) {
        loop {
            let deadline = match self.deadline.load(Ordering::Relaxed) {
                // One that is waited for from now on is not late before.
                NONE => now() + wait,
                nanos => self.begun + Duration::from_nanos(nanos),
            };
            if deadline <= now() {
                return;
            }
            tokio::time::sleep_until(deadline.into()).await;
        }
    }

    fn set(&self, deadline: Instant) {
        let nanos = deadline.saturating_duration_since(self.begun).as_nanos();
        self.deadline.store(u64::try_from(nanos).unwrap_or(NONE), Ordering::Relaxed);
    }
}

impl Timer for Heads {
    fn now(&self) -> Instant {
        now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.set(deadline);
        Box::pin(Head(self.clone()))
    }

    fn reset(&self, _sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.set(deadline);
    }
}

/// A head that is waited for. It is not the one that ends the wait.
struct Head(Heads);

impl Future for Head {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Head {}

impl Drop for Head {
    fn drop(&mut self) {
        self.0.deadline.store(NONE, Ordering::Relaxed);
    }
}

/// By the runtime's clock.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const WAIT: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_head_is_late_when_its_time_is_over_and_not_before() {
        let heads = Heads::new();
        let mut late = tokio::spawn(heads.clone().late(WAIT));
        for quick in [WAIT / 2, MOMENT, WAIT - MOMENT, WAIT / 3] {
            let head = heads.sleep(WAIT);
            assert!(timeout(quick, &mut late).await.is_err());
            drop(head);
            // While it is answered.
            assert!(timeout(2 * WAIT, &mut late).await.is_err());
        }
        let mut head = heads.sleep(WAIT);
        sleep(WAIT / 2).await;
        heads.reset(&mut head, now() + WAIT);
        assert!(timeout(WAIT - MOMENT, &mut late).await.is_err());
        assert!(timeout(2 * MOMENT, &mut late).await.is_ok());
    }
}
