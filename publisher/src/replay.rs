//! Replay: a ROUTER socket that answers who asks for what the feed did not bring.
//!
//! A request is one frame, a fetch; its replies are messages of one frame each: a head, then blocks,
//! gaps or a fork, then an end. One request of a peer is served at a time, and one may wait, the newest.
//! No reply is begun while the peer's last still sits in the socket's queue, and all replies together
//! stay under a budget; who waits for that hears so each second.

use crate::journal::{Journal, MESSAGE_OVERHEAD_BYTES, Part, ReadError, Reply};
use crate::live::Identity;
use crate::peers::{Change, Connections, Peers};
use crate::pub_server::{FLUSH_WAIT_MAX, ServeError};
use crate::socket_thread::SocketThread;
use bytes::Bytes;
use feed::{Busy, End, Fetch, Fork, Message, Position};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use zeromq::{RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage, ZmqResult};

/// The least that all replies together may hold, in bytes: a few replies.
pub const REPLAY_BUDGET_BYTES_MIN: u64 = 4 * 1024 * REPLY_KIB_MAX as u64;

/// The most that a reply may hold in memory, in KiB: what the journal gives at once, and a block more.
const REPLY_KIB_MAX: u32 = 2 * 1024 + 64;
/// What a message that is no block holds.
const MESSAGE_KIB_MAX: u32 = 1;
/// The most credit that counts, in bytes.
const CREDIT_BYTES_MAX: u32 = 1024 * 1024;
/// The version of the blocks in the journal.
const VERSION: u32 = 1;
/// Replies that are read from the disk at once.
const READERS_MAX: usize = 2;
/// Peers that are served at once; those beyond ask again.
const PEERS_MAX: usize = 1024;
/// How often who waits is told so.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How often a request that the journal cannot answer yet is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// At the end: as long without a request, nobody is expected to ask any more.
const QUIET_WAIT: Duration = Duration::from_secs(1);

/// The replay.
pub(crate) struct ReplayServer {
    thread: SocketThread,
    closing: CancellationToken,
    connections: watch::Receiver<Connections>,
    shared: Arc<Shared>,
}

/// What the tasks share.
struct Shared {
    journal: Arc<Journal>,
    identity: Identity,
    budget: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// Who is being served, and what each has asked for meanwhile.
    peers: Mutex<HashMap<Bytes, Option<Fetch>>>,
    /// Where the last reply to each peer ended; when the last request came or ended.
    progress: watch::Sender<Progress>,
    requests: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct Progress {
    /// Of each peer that is connected, and of no other.
    ends: HashMap<Bytes, Option<Position>>,
    at: Option<Instant>,
}

impl Progress {
    fn note_change(&mut self, change: &Change<'_>) {
        match change {
            Change::Came(peer) => drop(self.ends.insert(Bytes::copy_from_slice(peer), None)),
            Change::Left(peer) => drop(self.ends.remove(&peer[..])),
        }
    }

    /// A reply that was dropped with its connection ends, too, and nobody would forget it any more.
    fn note_end(&mut self, peer: &Bytes, at: Position) {
        if let Some(end) = self.ends.get_mut(peer) {
            *end = Some(at);
        }
    }
}

/// Held by every message of a reply, until the last has left the socket's queue.
struct InQueue {
    _permit: OwnedSemaphorePermit,
    _left: oneshot::Sender<()>,
}

/// A frame that holds its reply's share of the budget.
struct Frame {
    bytes: Bytes,
    _in_queue: Arc<InQueue>,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ReplayServer {
    /// Serves requests on a bound listener, holding at most `budget_bytes` of replies.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub(crate) async fn serve(
        listener: TcpListener,
        budget_bytes: u64,
        identity: Identity,
        journal: Arc<Journal>,
    ) -> Result<Self, ServeError> {
        let thread = SocketThread::start("replay", FLUSH_WAIT_MAX).map_err(ServeError::Thread)?;
        let bind = async move {
            let mut socket = RouterSocket::new();
            let events = socket.monitor();
            socket.bind_listener(listener).await?;
            ZmqResult::Ok((socket.split(), events))
        };
        let ((sender, receiver), events) = thread.run(bind).await??;
        let budget_kib = usize::try_from(budget_bytes / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            journal,
            identity,
            budget: Arc::new(Semaphore::new(budget_kib)),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            peers: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let closing = CancellationToken::new();
        let serving = closing.clone().run_until_cancelled_owned(receive(receiver, sender, shared.clone()));
        thread.spawn(async move {
            serving.await;
        });
        let told = {
            let shared = shared.clone();
            move |change: Change<'_>| shared.progress.send_modify(|progress| progress.note_change(&change))
        };
        Ok(Self { thread, closing, connections: Peers::watch(events, "replay client", told), shared })
    }

    pub(crate) fn connections(&self) -> Connections {
        *self.connections.borrow()
    }

    /// Requests so far, and how many of them were not understood or not served.
    pub(crate) fn requests(&self) -> (u64, u64) {
        (self.shared.requests.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed))
    }

    /// Waits until every peer that is connected has been served up to the end, or nobody asks any
    /// more; for at most `wait`.
    pub(crate) async fn drain(&self, wait: Duration) {
        let end = self.shared.journal.standing().next;
        let begun = Instant::now();
        let mut progress = self.shared.progress.subscribe();
        let drained = async {
            loop {
                let quiet_at = {
                    let progress = progress.borrow_and_update();
                    let served = progress.ends.values().filter(|at| **at == Some(end)).count();
                    let is_idle = self.shared.peers().is_empty();
                    if is_idle && served >= self.connections().open {
                        return;
                    }
                    is_idle.then(|| progress.at.unwrap_or(begun).max(begun) + QUIET_WAIT)
                };
                // The sender is `self`, so it cannot be gone.
                match quiet_at {
                    None => drop(progress.changed().await),
                    Some(at) if timeout_at(at, progress.changed()).await.is_err() => return,
                    Some(_) => {}
                }
            }
        };
        let _ = timeout(wait, drained).await;
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.thread.close().await;
    }
}

/// Takes requests, and has each peer's served by a task of its own: a peer that does not read holds
/// up nobody else.
async fn receive(mut receiver: RouterRecvHalf, sender: RouterSendHalf, shared: Arc<Shared>) {
    let closing = CancellationToken::new();
    let _end_all = closing.clone().drop_guard();
    loop {
        let message = match receiver.recv().await {
            Ok(message) => message,
            Err(error) => {
                warn!(%error, "the replay's socket does not receive");
                return;
            }
        };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let Some((peer, fetch)) = request(message) else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        shared.note(None);
        let mut peers = shared.peers();
        let is_full = peers.len() >= PEERS_MAX;
        match peers.entry(peer.clone()) {
            // Its task takes it up when it has done with the one before.
            Entry::Occupied(mut entry) => drop(entry.insert(Some(fetch))),
            Entry::Vacant(_) if is_full => {
                if shared.refused.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
                    warn!(peers = PEERS_MAX, "too many replay clients at once, some are not served");
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(None);
                let serve = serve_peer(peer, fetch, sender.clone(), shared.clone());
                tokio::spawn(closing.clone().run_until_cancelled_owned(serve));
            }
        }
    }
}

/// A peer and its fetch, if the message is one.
fn request(message: ZmqMessage) -> Option<(Bytes, Fetch)> {
    let frames: [Bytes; 2] = message.into_vec().try_into().ok()?;
    let [peer, frame] = frames;
    match Message::decode(frame) {
        Ok(Message::Fetch(fetch)) => Some((Bytes::copy_from_slice(&peer), fetch)),
        Ok(other) => {
            debug!(?other, "not a fetch");
            None
        }
        Err(error) => {
            debug!(%error, "not a fetch");
            None
        }
    }
}

/// Serves a peer's request, and those that came meanwhile.
async fn serve_peer(peer: Bytes, fetch: Fetch, sender: RouterSendHalf, shared: Arc<Shared>) {
    let mut gone = Gone { peer: peer.clone(), shared: shared.clone(), is_told: false };
    let mut client = Client { peer: peer.clone(), sender, shared: shared.clone() };
    let mut fetch = Some(fetch);
    while let Some(this) = fetch {
        if let Err(error) = client.serve(this).await {
            debug!(%error, "a replay client is gone");
            return;
        }
        let mut peers = shared.peers();
        fetch = peers.get_mut(&peer).and_then(Option::take);
        if fetch.is_none() {
            peers.remove(&peer);
            gone.is_told = true;
        }
    }
}

/// Forgets a peer whose task has ended, however it has.
struct Gone {
    peer: Bytes,
    shared: Arc<Shared>,
    /// By the task itself; the peer may have asked again since.
    is_told: bool,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if !self.is_told {
            self.shared.peers().remove(&self.peer);
        }
        self.shared.note(None);
    }
}

/// A peer that is being served.
struct Client {
    peer: Bytes,
    sender: RouterSendHalf,
    shared: Arc<Shared>,
}

impl Client {
    /// Answers a fetch, and waits until the answer has left the socket's queue: whoever asks and does
    /// not read fills it with one answer, and no more.
    async fn serve(&mut self, fetch: Fetch) -> ZmqResult<()> {
        let answer = answer(self.shared.clone(), fetch);
        let Some(Answer { frames, end, permit }) = self.while_busy(answer).await? else { return Ok(()) };
        let (left, has_left) = oneshot::channel();
        let in_queue = Arc::new(InQueue { _permit: permit, _left: left });
        for bytes in frames {
            let frame = Frame { bytes, _in_queue: in_queue.clone() };
            self.send(Bytes::from_owner(frame)).await?;
        }
        drop(in_queue);
        // Told by being dropped with the last message.
        let _ = has_left.await;
        if let Some(end) = end {
            self.shared.note(Some((&self.peer, end)));
        }
        Ok(())
    }

    /// Waits for something, and tells the peer so each second.
    async fn while_busy<T>(&mut self, work: impl Future<Output = T>) -> ZmqResult<T> {
        let busy = Bytes::from(Busy { stream: self.shared.identity.stream }.encode());
        let mut tick = interval_at(Instant::now() + BUSY_PAUSE, BUSY_PAUSE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                _ = tick.tick() => self.send(busy.clone()).await?,
            }
        }
    }

    async fn send(&mut self, frame: Bytes) -> ZmqResult<()> {
        let mut message = ZmqMessage::from(self.peer.clone());
        message.push_back(frame);
        self.sender.send(message).await
    }
}

/// What is to be sent for a fetch.
struct Answer {
    frames: Vec<Bytes>,
    /// The place behind it, if it is about our stream.
    end: Option<Position>,
    /// Its share of the budget.
    permit: OwnedSemaphorePermit,
}

/// Makes the answer to a fetch, once there is room for it. `None` if the disk does not give it: the
/// asker tries again.
async fn answer(shared: Arc<Shared>, fetch: Fetch) -> Option<Answer> {
    if fetch.stream != shared.identity.stream || fetch.version < VERSION {
        let permit = shared.reserve(MESSAGE_KIB_MAX).await;
        let standing = shared.journal.standing();
        let head = shared.identity.head(standing.oldest, standing.next);
        let head = head.expect("the texts were tried when the replay began");
        return Some(Answer { frames: vec![head.into()], end: None, permit });
    }
    loop {
        let permit = shared.reserve(REPLY_KIB_MAX).await;
        let (read, mut permit) = read(&shared, fetch, permit).await?;
        match read {
            Ok(reply) => {
                let end = Some(reply.end);
                let frames: Vec<Bytes> = messages(&shared.identity, fetch, reply).collect();
                let cost: usize = frames.iter().map(|frame| frame.len() + MESSAGE_OVERHEAD_BYTES).sum();
                let unused = (REPLY_KIB_MAX as usize).saturating_sub(cost.div_ceil(1024));
                drop(permit.split(unused));
                return Some(Answer { frames, end, permit });
            }
            // It waits without a share of the budget, which others can use meanwhile.
            Err(ReadError::NotOpen) => drop(permit),
            Err(ReadError::Folder(cause)) => {
                error!(error = &cause as &dyn Error, sequence = fetch.from.next, "cannot replay");
                return None;
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Reads what a fetch asks for, off the socket's thread. The read cannot be ended, so what it may hold and
/// that it is one of few goes with it, also when nobody waits for it any more. `None` is a panic, which
/// has been told of.
async fn read(
    shared: &Shared,
    fetch: Fetch,
    permit: OwnedSemaphorePermit,
) -> Option<(Result<Reply, ReadError>, OwnedSemaphorePermit)> {
    let reader = shared.readers.clone().acquire_owned().await.expect("the readers are never closed");
    let journal = shared.journal.clone();
    let credit_bytes = fetch.credit_bytes.min(CREDIT_BYTES_MAX) as usize;
    let read = tokio::task::spawn_blocking(move || {
        let _reader = reader;
        (journal.read(fetch.from, credit_bytes), permit)
    });
    read.await.ok()
}

/// The frames of an answer.
fn messages(identity: &Identity, fetch: Fetch, reply: Reply) -> impl Iterator<Item = Bytes> {
    let stream = identity.stream;
    let head = identity.head(reply.oldest, reply.next).expect("the texts were tried when the replay began");
    let parts = reply.parts.into_iter().map(move |part| match part {
        Part::Block(block) => block.bytes().clone(),
        Part::Gap(gap) => gap.encode().into(),
        Part::Fork => Fork { stream, from: fetch.from }.encode().into(),
    });
    let end = End { stream, at: reply.end }.encode();
    std::iter::once(head.into()).chain(parts).chain([end.into()])
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, HashMap<Bytes, Option<Fetch>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of the budget.
    async fn reserve(&self, kib: u32) -> OwnedSemaphorePermit {
        self.budget.clone().acquire_many_owned(kib).await.expect("the budget is never closed")
    }

    /// Notes that a request came, or where the reply to a peer ended.
    fn note(&self, end: Option<(&Bytes, Position)>) {
        self.progress.send_modify(|progress| {
            progress.at = Some(Instant::now());
            if let Some((peer, at)) = end {
                progress.note_end(peer, at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeromq::util::PeerIdentity;

    #[test]
    fn of_who_has_left_nothing_is_kept() {
        let (peer, at) = (PeerIdentity::new(), Position { next: 1, previous: 2 });
        let key = Bytes::copy_from_slice(&peer);
        let mut progress = Progress::default();
        progress.note_end(&key, at);
        progress.note_change(&Change::Came(&peer));
        assert_eq!(progress.ends[&key], None);
        progress.note_end(&key, at);
        assert_eq!(progress.ends[&key], Some(at));
        progress.note_change(&Change::Left(&peer));
        // Its reply is dropped with its connection, and that is the end of the reply, too.
        progress.note_end(&key, at);
        assert_eq!(progress.ends.len(), 0);
    }
}
