//! The records that wait for their commit.
//!
//! They are encoded where they are appended, into the block that will be written, so that nothing is
//! allocated or copied for a record again. Times are taken here too, and do not go back.

use crate::journal::AppendError;
use feed::BlockBuilder;
use feed::block::PushError;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// What an append costs beside its records: who waits for it.
const APPEND_OVERHEAD_BYTES: u64 = 128;
/// What a record costs beside its bytes: lengths and time.
const RECORD_OVERHEAD_BYTES: u64 = 8;

/// Tells who appended: the sequence number of what was, or why there is none.
type Answer = oneshot::Sender<Result<u64, AppendError>>;
/// The other end.
pub(crate) type Answered = oneshot::Receiver<Result<u64, AppendError>>;

/// A block's records and who waits for them.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) builder: BlockBuilder,
    /// In order; each with the place of its first record in the block.
    waiting: Vec<(u32, Answer)>,
    bytes: u64,
}

/// What the writer finds.
pub(crate) enum Taken {
    Batch(Batch),
    /// Nothing came in the time.
    Idle,
    /// Nothing will come any more.
    Closed,
}

/// A bounded queue of batches.
pub(crate) struct Queue {
    bytes_max: u64,
    inner: Mutex<Inner>,
    came: Condvar,
}

struct Inner {
    batches: VecDeque<Batch>,
    /// Charged, from the append to the answer.
    bytes: u64,
    refused: u64,
    last_time_ns: i64,
    /// Why nothing is taken now.
    refusal: Option<Arc<str>>,
    closed: bool,
    /// The writer waits for anything at all.
    writer_waits: bool,
    /// The writer waits for so many appends.
    gathers: Option<usize>,
}

impl Queue {
    /// A queue of at most `bytes_max`, behind a record of `last_time_ns`.
    pub(crate) fn new(bytes_max: u64, last_time_ns: i64) -> Self {
        let inner = Inner {
            batches: VecDeque::new(),
            bytes: 0,
            refused: 0,
            last_time_ns,
            refusal: None,
            closed: false,
            writer_waits: false,
            gathers: None,
        };
        Self { bytes_max, inner: Mutex::new(inner), came: Condvar::new() }
    }

    /// Queues records that go into one block. The receiver is told the number of the first once they are durable,
    /// or that they are not to be.
    ///
    /// # Errors
    /// None is queued, and none will be in the journal.
    pub(crate) fn append<B: AsRef<[u8]>>(&self, topic: &str, bodies: &[B]) -> Result<Answered, AppendError> {
        if bodies.is_empty() {
            return Err(AppendError::Nothing);
        }
        let mut inner = self.lock();
        if inner.closed {
            return Err(AppendError::Closed);
        }
        if let Some(reason) = &inner.refusal {
            return Err(AppendError::Unavailable(reason.clone()));
        }
        let bytes: usize = bodies.iter().map(|body| topic.len() + body.as_ref().len()).sum();
        let bytes = bytes as u64 + bodies.len() as u64 * RECORD_OVERHEAD_BYTES + APPEND_OVERHEAD_BYTES;
        if inner.bytes + bytes > self.bytes_max {
            inner.refused += bodies.len() as u64;
            return Err(AppendError::QueueFull(self.bytes_max));
        }
        let time_ns = now_ns().max(inner.last_time_ns);
        let (answer, answered) = oneshot::channel();
        inner.push(time_ns, topic, bodies, answer, bytes)?;
        inner.last_time_ns = time_ns;
        inner.bytes += bytes;
        if inner.writer_waits || inner.gathers.is_some_and(|appends| self.has_gathered(&inner, appends)) {
            self.came.notify_one();
        }
        Ok(answered)
    }

    /// The oldest batch, as soon as there is one, within `wait`.
    pub(crate) fn take(&self, wait: Duration) -> Taken {
        let mut inner = self.lock();
        inner.writer_waits = true;
        let waited = self.came.wait_timeout_while(inner, wait, |inner| inner.batches.is_empty() && !inner.closed);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.writer_waits = false;
        match inner.batches.pop_front() {
            Some(batch) => Taken::Batch(batch),
            None if inner.closed => Taken::Closed,
            None => Taken::Idle,
        }
    }

    /// Lets appends gather until a time; or until there are so many, or more than go into one block, or the queue is
    /// half full.
    pub(crate) fn gather(&self, until: Instant, appends: usize) {
        let mut inner = self.lock();
        inner.gathers = Some(appends);
        while !self.has_gathered(&inner, appends) && !inner.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.came.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.gathers = None;
    }

    fn has_gathered(&self, inner: &Inner, appends: usize) -> bool {
        let first = inner.batches.front().map_or(0, |batch| batch.waiting.len());
        first >= appends || inner.batches.len() > 1 || inner.bytes > self.bytes_max / 2
    }

    /// Gives back what a batch was charged: it has been answered.
    pub(crate) fn done(&self, bytes: u64) {
        self.lock().bytes -= bytes;
    }

    /// Takes nothing from now on, for this reason, and gives up what waits.
    pub(crate) fn refuse(&self, reason: &Arc<str>) {
        let mut inner = self.lock();
        inner.refusal = Some(reason.clone());
        let given_up = std::mem::take(&mut inner.batches);
        drop(inner);
        for batch in given_up {
            self.give_up(batch, &AppendError::Unavailable(reason.clone()));
        }
    }

    /// Answers a batch that is not durable, for this reason.
    pub(crate) fn give_up(&self, batch: Batch, reason: &AppendError) {
        self.done(batch.bytes);
        for (_, waiting) in batch.waiting {
            let _ = waiting.send(Err(reason.clone()));
        }
    }

    /// Takes no time before this one.
    pub(crate) fn not_before(&self, time_ns: i64) {
        let mut inner = self.lock();
        inner.last_time_ns = inner.last_time_ns.max(time_ns);
    }

    /// Takes records again, and says whether it had refused them.
    pub(crate) fn accept(&self) -> bool {
        self.lock().refusal.take().is_some()
    }

    /// Takes nothing any more; what waits is still taken from it.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
    }

    /// Bytes charged now.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Records that found the queue full, so far.
    pub(crate) fn refused(&self) -> u64 {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// What it was charged.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many wait for it.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers who waits: its records are durable, and the first of all has this number.
    pub(crate) fn answer(self, first: u64) {
        for (place, waiting) in self.waiting {
            // Nobody has to wait.
            let _ = waiting.send(Ok(first + u64::from(place)));
        }
    }
}

impl Inner {
    fn push<B: AsRef<[u8]>>(
        &mut self,
        time_ns: i64,
        topic: &str,
        bodies: &[B],
        answer: Answer,
        bytes: u64,
    ) -> Result<(), AppendError> {
        let records = || bodies.iter().map(|body| (topic, body.as_ref()));
        let place = self.batches.back().map_or(0, |batch| batch.builder.count());
        let pushed = self.batches.back_mut().map(|batch| batch.builder.push_all(time_ns, records()));
        let place = match pushed {
            Some(Ok(())) => place,
            None | Some(Err(PushError::Full)) => {
                let mut batch = Batch::default();
                batch.builder.push_all(time_ns, records()).map_err(|error| match error {
                    PushError::Full => AppendError::TooMuch,
                    error => error.into(),
                })?;
                self.batches.push_back(batch);
                0
            }
            Some(Err(error)) => return Err(error.into()),
        };
        let batch = self.batches.back_mut().expect("records have just been pushed into the last batch");
        batch.waiting.push((place, answer));
        batch.bytes += bytes;
        Ok(())
    }
}

/// Nanoseconds since the Unix epoch, until 2262.
fn now_ns() -> i64 {
    let now = SystemTime::now();
    let since = |later: SystemTime, earlier| later.duration_since(earlier).map(|time| time.as_nanos());
    match since(now, UNIX_EPOCH) {
        Ok(after) => i64::try_from(after).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |before| -before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn take(queue: &Queue) -> Option<Batch> {
        match queue.take(Duration::ZERO) {
            Taken::Batch(batch) => Some(batch),
            Taken::Idle | Taken::Closed => None,
        }
    }

    #[test]
    fn what_is_appended_while_nobody_takes_is_one_batch() {
        let queue = Queue::new(10_000, 0);
        let _answers: Vec<_> = (0..10).map(|_| queue.append("t", &[b"body"]).unwrap()).collect();
        let batch = take(&queue).unwrap();
        assert_eq!((batch.builder.count(), batch.waiting.len()), (10, 10));
        assert!(take(&queue).is_none());
    }

    #[test]
    fn the_bound_holds_until_the_answer() {
        let queue = Queue::new(2 * (APPEND_OVERHEAD_BYTES + RECORD_OVERHEAD_BYTES + 5), 0);
        let _answers = [queue.append("t", &[b"body"]).unwrap(), queue.append("t", &[b"body"]).unwrap()];
        assert_eq!(queue.append("t", &[b""]).unwrap_err(), AppendError::QueueFull(282));
        let batch = take(&queue).unwrap();
        assert!(queue.append("t", &[b""]).is_err(), "it is not durable yet");
        queue.done(batch.bytes());
        assert!(queue.append("t", &[b""]).is_ok());
        assert_eq!(queue.refused(), 2);
    }

    #[test]
    fn a_queue_that_refuses_gives_up_what_waits_and_accepts_again() {
        let queue = Queue::new(10_000, 0);
        let mut answer = queue.append("t", &[b"body"]).unwrap();
        let reason: Arc<str> = "the disk is full".into();
        queue.refuse(&reason);
        assert_eq!(answer.try_recv().unwrap(), Err(AppendError::Unavailable(reason.clone())));
        assert_eq!(queue.append("t", &[b"body"]).unwrap_err(), AppendError::Unavailable(reason));
        assert_eq!(queue.bytes(), 0);
        assert!(queue.accept());
        assert!(queue.append("t", &[b"body"]).is_ok());
    }

    #[test]
    fn a_closed_queue_gives_what_it_has() {
        let queue = Queue::new(10_000, 0);
        let _answer = queue.append("t", &[b"body"]).unwrap();
        queue.close();
        assert_eq!(queue.append("t", &[b""]).unwrap_err(), AppendError::Closed);
        assert!(take(&queue).is_some());
        assert!(matches!(queue.take(Duration::MAX), Taken::Closed));
    }

    #[test]
    fn what_no_block_takes_is_refused_and_leaves_no_trace() {
        let queue = Queue::new(u64::MAX, 0);
        assert_eq!(queue.append("", &[b""]).unwrap_err(), AppendError::Record(PushError::Topic(0)));
        assert_eq!(queue.append::<&[u8]>("t", &[]).unwrap_err(), AppendError::Nothing);
        let body = vec![0; feed::block::BODY_BYTES_MAX + 1];
        assert_eq!(queue.append("t", &[&body]).unwrap_err(), AppendError::Record(PushError::Body(body.len())));
        assert!(take(&queue).is_none());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_writer_that_gathers_goes_on_with_as_many_as_it_wants_or_more_than_a_block_or_none_to_come() {
        let queue = Queue::new(u64::MAX, 0);
        let never = || Instant::now() + Duration::from_secs(600);
        let append = |bytes| queue.append("t", &[vec![0; bytes]]).unwrap();
        thread::scope(|scope| {
            let gathers = scope.spawn(|| queue.gather(never(), 3));
            let _answers = [append(1), append(1), append(1)];
            gathers.join().unwrap();
            queue.gather(Instant::now(), 4);
            let gathers = scope.spawn(|| queue.gather(never(), 100));
            let _answers: Vec<_> = (0..5).map(|_| append(250_000)).collect();
            gathers.join().unwrap();
            assert_eq!([take(&queue), take(&queue)].map(|batch| batch.unwrap().waiting()), [7, 1]);
            let gathers = scope.spawn(|| queue.gather(never(), 1));
            queue.close();
            gathers.join().unwrap();
        });
    }

    #[test]
    fn what_is_appended_together_is_in_one_block() {
        let queue = Queue::new(u64::MAX, 0);
        let mut one = queue.append("t", &[b"x"]).unwrap();
        let mut many = queue.append("t", &vec![[0; 100_000]; 5]).unwrap();
        let mut others = queue.append("t", &vec![[0; 100_000]; 10]).unwrap();
        assert_eq!(queue.append("t", &vec![[0; 100_000]; 11]).unwrap_err(), AppendError::TooMuch);
        let (first, second) = (take(&queue).unwrap(), take(&queue).unwrap());
        assert_eq!((first.builder.count(), second.builder.count()), (6, 10));
        first.answer(40);
        second.answer(46);
        let numbers = [&mut one, &mut many, &mut others].map(|answer| answer.try_recv().unwrap().unwrap());
        assert_eq!(numbers, [40, 41, 46]);
        assert!(take(&queue).is_none());
    }

    #[test]
    fn times_do_not_go_back() {
        let queue = Queue::new(10_000, i64::MAX);
        let _answer = queue.append("t", &[b"body"]).unwrap();
        let mut batch = take(&queue).unwrap();
        let block = batch.builder.finish(feed::StreamId::default(), feed::Position::default()).unwrap();
        assert_eq!(block.head().base_time_ns, i64::MAX);
    }
}
