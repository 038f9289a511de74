//! A PUB and a SUB of the zeromq crate in processes of their own: what the feed is compared with. It has no part of
//! the product.

use measure::process::Process;
use measure::roles;
use std::time::Duration;

/// Both, connected.
pub(crate) struct Frames {
    publisher: Process,
    subscriber: Process,
    sent: u64,
}

impl Frames {
    /// Starts them, for frames of `size` bytes.
    pub(crate) fn start(size: u64) -> Self {
        let mut publisher = roles::role("frames-out");
        publisher.args(["--size", &size.to_string()]);
        let publisher = Process::start(publisher, 1);
        let mut subscriber = roles::role("frames-in");
        subscriber.args(["--feed", publisher.told("frames.feed")]);
        Self { publisher, subscriber: Process::start(subscriber, 1), sent: 0 }
    }

    /// Sends `frames N` or for `seconds S`, and waits until all have arrived; says how many.
    pub(crate) fn send(&mut self, what: &str) -> u64 {
        let answer = self.publisher.ask(what);
        let count = answer.split(' ').nth(1).and_then(|count| count.parse().ok());
        let count: u64 = count.unwrap_or_else(|| panic!("{answer}"));
        self.sent += count;
        self.subscriber.ask(&format!("until {}", self.sent));
        count
    }

    /// The processor time that each has used.
    pub(crate) fn cpu(&self) -> (Duration, Duration) {
        (self.publisher.cpu(), self.subscriber.cpu())
    }
}
