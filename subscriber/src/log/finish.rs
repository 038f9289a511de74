//! Finishing what the last process, or a sync that failed, has left unfinished at the end of the log.
//!
//! Entries whose texts are not there name blocks of records. Their sources are told that the log stands
//! before them, so they fetch them again; each is rendered with the time of receipt that its entry has, and
//! if the text is the one that the entry says, it is written where it belongs. The first that does not come
//! in time, or comes otherwise (the format was changed meanwhile, the publisher has another history), ends
//! index and log; `tail -F` may then print the file once more.
//!
//! Whatever else comes meanwhile is held in the order in which it came. It counts against the budgets of its
//! sources as long as it is.

use super::file::Log;
use super::index::Entry;
use super::queue::Command;
use super::writer::{Next, Work, WriterError};
use chrono::DateTime;
use feed::{Block, Position, StreamId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// The wait for the blocks that are to be finished.
const FINISH_WAIT_MAX: Duration = Duration::from_secs(5);

/// A block by its stream and first sequence.
type Key = (StreamId, u64);

/// What is to be finished.
struct Wanted {
    torn: HashSet<Key>,
    /// Entries among them whose texts are there, and where each brings its stream.
    whole: HashMap<Key, Position>,
}

impl Wanted {
    fn of(log: &Log) -> Self {
        let (mut torn, mut whole) = (HashSet::new(), HashMap::new());
        for (entry, is_whole) in log.all_unfinished() {
            let key = (entry.stream, entry.first);
            if is_whole {
                whole.insert(key, entry.next);
            } else {
                torn.insert(key);
            }
        }
        Self { torn, whole }
    }

    fn has(&self, stream: StreamId) -> bool {
        self.torn.iter().any(|(torn, _)| *torn == stream)
    }
}

/// What came while something is to be finished.
#[derive(Default)]
struct Held {
    count: u64,
    /// In the order in which it came.
    commands: BTreeMap<u64, Command>,
    /// Those of them that are blocks to be finished.
    blocks: HashMap<Key, u64>,
}

impl Held {
    fn push(&mut self, command: Command) -> u64 {
        self.count += 1;
        self.commands.insert(self.count, command);
        self.count
    }

    /// A block that has come, and its number.
    fn block(&self, key: Key) -> Option<(u64, &Block)> {
        let number = *self.blocks.get(&key)?;
        match self.commands.get(&number)? {
            Command::Block { block, .. } => Some((number, block)),
            _ => None,
        }
    }
}

impl Work {
    /// Finishes what is unfinished, or cuts it off. `false`: all queues are gone before that was decided; the
    /// next start will finish it.
    pub(super) fn finish_all(&mut self) -> Result<bool, WriterError> {
        let cuts = self.log.cuts();
        let mut held = Held::default();
        let finished = self.finish_each(&mut held);
        // What came is older than what was held before, if that was not looked at.
        let rest = std::mem::take(&mut self.held);
        self.held.extend(held.commands.into_values().chain(rest));
        if self.log.cuts() > cuts {
            // Also what was there and follows is gone, and who had been told that it is there does not know.
            self.refuse_all();
        }
        finished
    }

    fn finish_each(&mut self, held: &mut Held) -> Result<bool, WriterError> {
        let wanted = Wanted::of(&self.log);
        let until = Instant::now() + FINISH_WAIT_MAX;
        while let Some(front) = self.log.unfinished().cloned() {
            if let Some((number, block)) = held.block((front.stream, front.first)) {
                let text = self.text_of(&front, block);
                match self.persist(|log| log.finish(&text))? {
                    Some(true) => drop(held.commands.remove(&number)),
                    Some(false) => self.cut()?,
                    // The log was opened anew: something else may be unfinished now.
                    None => return self.finish_each(held),
                }
                self.persist(Log::settle)?;
                continue;
            }
            let next = match self.held.pop_front() {
                Some(command) => Next::Command(command),
                None => self.wait(until.saturating_duration_since(Instant::now())),
            };
            match next {
                Next::Closed => return Ok(false),
                Next::Nothing => self.cut()?,
                Next::Command(command) => {
                    if !self.hold(command, held, &wanted, front.stream) {
                        self.cut()?;
                    }
                }
            }
        }
        Ok(true)
    }

    /// The text of an entry, if this is its block.
    fn text_of(&mut self, entry: &Entry, block: &Block) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(standing) = self.log.positions().get(entry.stream).filter(|_| block.end() == entry.next) {
            let received = DateTime::from_timestamp_nanos(entry.time_ns);
            self.renderer.block(block, &standing.name, received, &mut text);
        }
        text
    }

    /// Answers what can be answered, and holds what has to wait. `false`: it says that the block which is
    /// waited for will not come.
    fn hold(&mut self, command: Command, held: &mut Held, wanted: &Wanted, awaited: StreamId) -> bool {
        match command {
            Command::Claim { source, epoch, stream, answer } if wanted.has(stream) => {
                let _ = answer.send(self.claim(source, epoch, stream));
            }
            Command::Release { source } => self.claims.release(source),
            Command::Block { source, epoch, block, received, charge } => {
                let stream = block.head().stream;
                if !self.claims.owns(source, stream) {
                    self.refuse(source, epoch);
                    return true;
                }
                let key = (stream, block.head().first);
                if wanted.whole.get(&key) == Some(&block.end()) {
                    return true;
                }
                let number = held.push(Command::Block { source, epoch, block, received, charge });
                if wanted.torn.contains(&key) {
                    held.blocks.insert(key, number);
                }
            }
            Command::State { source, epoch, statement, received } => {
                let is_other = statement.stream() == awaited && self.claims.owns(source, awaited);
                held.push(Command::State { source, epoch, statement, received });
                return !is_other;
            }
            other => {
                held.push(other);
            }
        }
        true
    }
}
