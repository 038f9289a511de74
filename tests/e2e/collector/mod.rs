//! The tests' own subscriber: follows a numbered feed as docs/PROTOCOL.md has it, on libzmq, and is
//! strict where the product is forgiving.
//!
//! It shares no code with the product. A thread of its own follows (`follow`); what it has collected
//! can be looked at meanwhile. Any breach of the protocol fails the test: a checksum, a chain, a
//! duplicate, a hole without a gap, a time or a head that goes back.
//!
//! A publisher under test that is restarted should listen on a loopback address that no other test
//! uses (`tcp://127.0.1.30:0`): on a shared one, the port of a killed publisher may be given to that
//! of another test, which would be found there.

#![allow(unreachable_pub, reason = "a vocabulary, as the harness is")]

mod codec;
mod crc32c;
mod follow;
mod golden;
mod peer;
mod segment;

pub use codec::{Block, Gap, Head, Message, Position, Reason, Record, Stream, fetch, seal};
pub use crc32c::crc32c;
pub use peer::Replay;
pub use segment::{SegmentHeader, blocks, segments};

use crate::harness::PATIENCE;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a publisher said about records that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// Records `from` to `to` - 1 are no more.
    Lost { stream: Stream, from: u64, to: u64, reason: Reason },
    /// The position is not one of the publisher's history. Nothing more is collected until
    /// [`Collector::moved_to`].
    Fork { stream: Stream, at: Position },
    /// The journal was wiped. `heard` is the highest `next` that was heard of the old stream.
    Replaced { stream: Stream, at: Position, heard: u64, by: Stream, from: Position },
}

/// What was collected so far.
#[derive(Debug, Default)]
pub struct Collected {
    /// In the order in which they were appended.
    pub blocks: Vec<Block>,
    pub statements: Vec<Statement>,
    /// Records that came on the feed.
    pub live: u64,
    /// Records that came by replay.
    pub replayed: u64,
    /// The stream that is followed, once one is known, where its collection began, and where it stands.
    pub stream: Option<Stream>,
    pub base: Position,
    pub position: Position,
    /// How often sockets were made anew, and why the last time.
    pub connections: u64,
    pub trouble: String,
    heard: u64,
    stream_begins_at: usize,
    last_time_ns: Option<i64>,
    breach: Option<String>,
}

impl Collected {
    /// All records, in the order in which they were appended.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.blocks.iter().flat_map(Block::records)
    }
}

/// What the thread is to do.
#[derive(Default)]
struct Orders {
    endpoint: String,
    /// Counts the calls of [`Collector::moved_to`].
    generation: u64,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    collected: Mutex<Collected>,
    changed: Condvar,
    orders: Mutex<Orders>,
}

/// Follows a feed until it is dropped.
pub struct Collector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Follows the feed at an endpoint, from its oldest record. Nobody need listen there yet.
    pub fn follow(endpoint: &str) -> Self {
        let shared = Arc::new(Shared::default());
        shared.orders.lock().unwrap().endpoint = endpoint.to_owned();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || follow::run(&shared)
        });
        Self { shared, thread: Some(thread) }
    }

    /// Goes on elsewhere, or at once with new sockets at the same endpoint, from the position reached.
    pub fn moved_to(&self, endpoint: &str) {
        let mut orders = self.shared.orders.lock().unwrap();
        orders.endpoint = endpoint.to_owned();
        orders.generation += 1;
    }

    /// Waits until records up to `next` - 1 are here or lost. However long that takes: it fails if
    /// nothing is appended for [`PATIENCE`].
    #[track_caller]
    pub fn until_next(&self, next: u64) {
        self.until(&format!("position {next}"), |collected| collected.position.next >= next);
    }

    /// Waits until there are `count` statements.
    #[track_caller]
    pub fn until_statements(&self, count: usize) {
        self.until(&format!("{count} statements"), |collected| collected.statements.len() >= count);
    }

    /// Waits for something, and fails if nothing is appended or stated for [`PATIENCE`].
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&Collected) -> bool) {
        let progress = |collected: &Collected| (collected.blocks.len(), collected.statements.len());
        let mut collected = self.collected();
        while !is_so(&collected) {
            let before = progress(&collected);
            let waited = self.shared.changed.wait_timeout_while(collected, PATIENCE, |collected| {
                progress(collected) == before && collected.breach.is_none() && !is_so(collected)
            });
            let (guard, timeout) = waited.unwrap();
            collected = guard;
            if timeout.timed_out() || collected.breach.is_some() {
                let breach = collected.breach.take();
                let said = breach.unwrap_or_else(|| format!("nothing came for {PATIENCE:?}: {}", collected.trouble));
                panic!("waiting for {what} at {:?} with {:?}: {said}", collected.position, collected.statements);
            }
        }
    }

    /// Looks at what there is. The thread waits meanwhile.
    pub fn look<T>(&self, at: impl FnOnce(&Collected) -> T) -> T {
        at(&self.collected())
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.shared.collected.lock().unwrap()
    }

    /// Ends it, and fails if the protocol was breached after the last wait.
    #[track_caller]
    pub fn stop(mut self) -> Collected {
        self.end();
        let collected = mem::take(&mut *self.collected());
        assert_eq!(collected.breach, None);
        collected
    }

    fn end(&mut self) {
        self.shared.orders.lock().unwrap().stop = true;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the collector does not panic");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if self.thread.is_none() || thread::panicking() {
            self.shared.orders.lock().unwrap().stop = true;
            return;
        }
        self.end();
        let breach = self.collected().breach.take();
        assert_eq!(breach, None);
    }
}

/// After the first sockets failed, others are made after so long.
const PAUSE: Duration = Duration::from_millis(20);
/// A publisher says something each second; one that says nothing for so long gets new sockets. A slow
/// machine's publisher may be taken for silent, which costs a fetch.
const SILENCE: Duration = Duration::from_secs(3);
/// More replies than this behind the feed, and its socket is closed until they are here.
const REPLIES_BEHIND_MAX: u32 = 4;
/// What is asked for at a time, in bytes.
const CREDIT_BYTES: u32 = 1 << 20;
