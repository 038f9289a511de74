//! A writer of the tests' own: positions and claims in memory, and the rules of who may write.

use crate::log::queue::{Command, Desk, Queue, Queues, SourceId, Statement, queues};
use feed::cursor::Claim;
use feed::{Block, Position, StreamId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the log has of a stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub(super) home: SourceId,
    pub(super) at: Position,
    /// The ends of all that was written.
    boundaries: Vec<Position>,
    owner: Option<SourceId>,
}

/// What the log has.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    pub(super) streams: HashMap<StreamId, Standing>,
    had: HashMap<SourceId, StreamId>,
    pub(super) blocks: Vec<Block>,
    pub(super) statements: Vec<Statement>,
    refused: usize,
}

/// What it does goes on until the last queue is dropped.
pub(super) struct Writer {
    pub(super) written: watch::Receiver<Written>,
    shared: Arc<Shared>,
}

struct Shared {
    written: watch::Sender<Written>,
    takes: watch::Sender<bool>,
    refuses_next: Mutex<bool>,
    end: CancellationToken,
}

impl Writer {
    /// A writer who knows these streams already.
    pub(super) fn start(sources: usize, known: &[(StreamId, SourceId, Position)]) -> (Self, Vec<Queue>) {
        let Queues { queues, desks, commands, .. } =
            queues((0..sources).map(|source| format!("home-{source}")).collect());
        let mut begin = Written::default();
        for (stream, home, at) in known {
            begin.had.insert(*home, *stream);
            begin.streams.insert(*stream, Standing { home: *home, at: *at, boundaries: vec![*at], owner: None });
        }
        let written = watch::Sender::new(begin);
        let subscribed = written.subscribe();
        let end = CancellationToken::new();
        let (takes, refuses_next) = (watch::Sender::new(true), Mutex::new(false));
        let shared = Arc::new(Shared { written, takes, refuses_next, end: end.clone() });
        tokio::spawn(end.run_until_cancelled_owned(write(commands, desks, shared.clone())));
        (Self { written: subscribed, shared }, queues)
    }

    /// Whether it takes anything.
    pub(super) fn takes(&self, takes: bool) {
        self.shared.takes.send_replace(takes);
    }

    /// It is gone.
    pub(super) fn end(&self) {
        self.shared.end.cancel();
    }

    /// The next block is refused.
    pub(super) fn refuse_next(&self) {
        *self.shared.refuses_next.lock().unwrap() = true;
    }

    /// Waits until the log has as many blocks, and tells all that it has.
    pub(super) async fn has(&mut self, blocks: usize) -> Written {
        self.written.wait_for(|written| written.blocks.len() >= blocks).await.unwrap().clone()
    }

    pub(super) async fn has_refused(&mut self, refused: usize) {
        self.written.wait_for(|written| written.refused >= refused).await.unwrap();
    }
}

async fn write(mut commands: mpsc::Receiver<Command>, desks: Vec<Desk>, shared: Arc<Shared>) {
    let mut takes = shared.takes.subscribe();
    loop {
        takes.wait_for(|takes| *takes).await.unwrap();
        let Some(command) = commands.recv().await else { return };
        takes.wait_for(|takes| *takes).await.unwrap();
        let is_refused = |source: SourceId, epoch: u64| desks[source].refused.send_replace(epoch);
        shared.written.send_modify(|written| match command {
            Command::Block { source, epoch, block, .. } => {
                let refuses = std::mem::take(&mut *shared.refuses_next.lock().unwrap());
                if refuses || !written.append(source, block) {
                    written.refused += 1;
                    is_refused(source, epoch);
                }
            }
            Command::State { source, epoch, statement, .. } => {
                if !written.state(source, statement) {
                    is_refused(source, epoch);
                }
            }
            Command::Claim { source, stream, answer, .. } => drop(answer.send(Some(written.claim(source, stream)))),
            Command::Boundary { stream, at_most, answer } => {
                let boundaries = written.streams[&stream].boundaries.iter().rev();
                let _ = answer.send(boundaries.copied().find(|boundary| boundary.next <= at_most));
            }
            Command::Release { source } => written.release(source),
            Command::Plain { .. } => panic!("nothing is plain here"),
        });
    }
}

impl Written {
    fn claim(&mut self, source: SourceId, stream: StreamId) -> Claim {
        let had = self.had.get(&source).copied();
        let Some(standing) = self.streams.get_mut(&stream) else {
            return Claim { granted: true, home: false, at: None, had };
        };
        let home = standing.home == source;
        let granted = home || standing.owner == Some(source);
        if granted {
            standing.owner = Some(source);
        }
        Claim { granted, home, at: Some(standing.at), had }
    }

    fn release(&mut self, source: SourceId) {
        self.streams.values_mut().filter(|standing| standing.owner == Some(source)).for_each(|one| one.owner = None);
    }

    fn owned(&mut self, source: SourceId, stream: StreamId) -> Option<&mut Standing> {
        self.streams.get_mut(&stream).filter(|standing| standing.owner == Some(source))
    }

    fn append(&mut self, source: SourceId, block: Block) -> bool {
        let standing = self.owned(source, block.head().stream).filter(|standing| standing.at == block.start());
        let Some(standing) = standing else { return false };
        standing.at = block.end();
        standing.boundaries.push(block.end());
        self.blocks.push(block);
        true
    }

    fn state(&mut self, source: SourceId, statement: Statement) -> bool {
        let stream = statement.stream();
        match &statement {
            Statement::Base { at, .. } | Statement::Replaced { base: at, .. } => {
                self.had.insert(source, stream);
                let new = Standing { home: source, at: *at, boundaries: vec![*at], owner: Some(source) };
                self.streams.entry(stream).or_insert(new);
            }
            Statement::Lost(gap) => match self.owned(source, stream) {
                Some(standing) => standing.at = gap.to,
                None => return false,
            },
            Statement::Forked { at, .. } => match self.owned(source, stream) {
                Some(standing) => standing.at = *at,
                None => return false,
            },
        }
        self.statements.push(statement);
        true
    }
}
