//! The account of what sits in the queues of a PUB socket.
//!
//! The zeromq crate bounds neither the bytes in those queues nor, for each subscriber, their
//! length, and drops without a word where it does bound. So a message is charged here before it is
//! sent, travels as [`Bytes::from_owner`] of a guard, and gives back what it was charged when the
//! last subscriber's writer has copied or dropped it.
//!
//! An account knows nothing of sockets: it charges, gives back, and counts what it refused.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// What a queued message costs beside its bytes: measured about 420 in the crate's queues.
const MESSAGE_OVERHEAD_BYTES: u64 = 512;
/// What it costs more for each connection that it is queued for: measured about 230.
const CONNECTION_OVERHEAD_BYTES: u64 = 256;
/// Messages under way at once. Below the 100,000 at which the crate's front queue drops in silence.
const MESSAGES_MAX: u64 = 65_536;

/// An account with a budget of bytes.
pub(crate) struct Account {
    budget_bytes: u64,
    held: watch::Sender<Held>,
    refused: AtomicU64,
}

/// What is charged now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// A message that the budget does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// How many there have been, with this one.
    pub(crate) count: u64,
}

impl Account {
    pub(crate) fn new(budget_bytes: u64) -> Arc<Self> {
        Arc::new(Self { budget_bytes, held: watch::Sender::new(Held::default()), refused: AtomicU64::new(0) })
    }

    /// Charges a message that is to be queued for `connections`, and wraps it so that its last
    /// drop gives the charge back. What is less important than others leaves them a `reserve`, in bytes.
    ///
    /// # Errors
    /// That would pass the budget. The refusal is counted.
    pub(crate) fn charge(
        self: &Arc<Self>,
        payload: impl Into<Bytes>,
        connections: usize,
        reserve: u64,
    ) -> Result<Bytes, Refused> {
        let payload = payload.into();
        let bytes = payload.len() as u64 + MESSAGE_OVERHEAD_BYTES + CONNECTION_OVERHEAD_BYTES * connections as u64;
        let charged = self.held.send_if_modified(|held| {
            let fits = held.messages < MESSAGES_MAX && held.bytes + bytes + reserve <= self.budget_bytes;
            if fits {
                held.messages += 1;
                held.bytes += bytes;
            }
            fits
        });
        if !charged {
            return Err(Refused { count: self.refused.fetch_add(1, Ordering::Relaxed) + 1 });
        }
        Ok(Bytes::from_owner(Charged { payload, bytes, account: self.clone() }))
    }

    pub(crate) fn held(&self) -> Held {
        *self.held.borrow()
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Waits until nothing is charged.
    pub(crate) async fn settled(&self) {
        let mut held = self.held.subscribe();
        // The sender is `self`, so it cannot be gone.
        let _ = held.wait_for(|held| held.messages == 0).await;
    }
}

/// A message and its charge.
struct Charged {
    payload: Bytes,
    bytes: u64,
    account: Arc<Account>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.account.held.send_modify(|held| {
            held.messages -= 1;
            held.bytes -= self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_copy_of_a_message_gives_its_charge_back() {
        let account = Account::new(10_000);
        let message = account.charge(vec![7; 100], 2, 0).unwrap();
        assert_eq!(message, vec![7; 100]);
        assert_eq!(account.held(), Held { messages: 1, bytes: 100 + 512 + 2 * 256 });
        let copy = message.clone();
        drop(message);
        assert_eq!(account.held().messages, 1);
        drop(copy.slice(10..20));
        assert_eq!(account.held().messages, 1);
        drop(copy);
        assert_eq!(account.held(), Held::default());
    }

    #[test]
    fn a_message_beyond_the_budget_is_refused_and_counted() {
        let account = Account::new(2 * (100 + 512));
        let first = account.charge(vec![0; 100], 0, 0).unwrap();
        let second = account.charge(vec![0; 100], 0, 0).unwrap();
        assert_eq!(account.charge(Vec::new(), 0, 0), Err(Refused { count: 1 }));
        drop(first);
        assert_eq!(account.charge(vec![0; 101], 0, 0), Err(Refused { count: 2 }));
        assert!(account.charge(vec![0; 100], 0, 0).is_ok());
        drop(second);
    }

    #[test]
    fn a_reserve_is_left_to_what_is_more_important() {
        let account = Account::new(2000);
        assert!(account.charge(vec![0; 100], 0, 1500).is_err());
        assert!(account.charge(vec![0; 100], 0, 0).is_ok());
    }

    #[test]
    fn small_messages_are_bounded_by_number() {
        let account = Account::new(u64::MAX / 2);
        let held: Vec<_> = (0..MESSAGES_MAX).map(|_| account.charge(Vec::new(), 0, 0).unwrap()).collect();
        assert!(account.charge(Vec::new(), 0, 0).is_err());
        drop(held);
        assert_eq!(account.held(), Held::default());
    }

    #[tokio::test]
    async fn an_account_settles_when_the_last_message_is_dropped() {
        let account = Account::new(10_000);
        account.settled().await;
        let message = account.charge(Vec::new(), 0, 0).unwrap();
        let settled = tokio::spawn({
            let account = account.clone();
            async move { account.settled().await }
        });
        tokio::task::yield_now().await;
        assert!(!settled.is_finished());
        drop(message);
        settled.await.unwrap();
    }
}
