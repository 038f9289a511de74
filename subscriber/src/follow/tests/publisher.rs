//! A publisher of the tests' own: a PUB and a ROUTER, and a journal in memory.

use feed::{Block, BlockBuilder, Busy, End, Fetch, Fork, Gap, GapReason, Head, Message, Position, StreamId};
use net::Endpoint;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// How often a head is sent; a real publisher sends one each second.
const HEAD_EVERY: Duration = Duration::from_millis(20);
/// What a reply has at most, so that a few blocks take several.
const REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;

type Order = Box<dyn FnOnce(&mut Journal) -> Vec<Vec<u8>> + Send>;

/// What is done goes on until this is dropped.
pub(super) struct Publisher {
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
    pub(super) feed: Endpoint,
    pub(super) replay: Endpoint,
}

/// What the publisher has, and how it behaves.
pub(super) struct Journal {
    pub(super) stream: StreamId,
    blocks: Vec<Block>,
    /// Those before this index are no more.
    kept: usize,
    /// What heads name.
    pub(super) replay: String,
    pub(super) sends_heads: bool,
    /// Requests are told to wait, and no more.
    pub(super) is_busy: bool,
}

impl Publisher {
    pub(super) async fn start(stream: StreamId) -> Self {
        let (mut feed, mut replay) = (PubSocket::new(), RouterSocket::new());
        let at = |bound: zeromq::Endpoint| bound.to_string().parse::<Endpoint>().unwrap();
        let feed_at = at(feed.bind("tcp://127.0.0.1:0").await.unwrap());
        let replay_at = at(replay.bind("tcp://127.0.0.1:0").await.unwrap());
        let journal = Journal {
            stream,
            blocks: Vec::new(),
            kept: 0,
            replay: format!("*:{}", replay_at.address().port()),
            sends_heads: true,
            is_busy: false,
        };
        let (orders, ordered) = mpsc::unbounded_channel();
        tokio::spawn(serve(journal, feed, replay, ordered));
        Self { orders, feed: feed_at, replay: replay_at }
    }

    /// Changes something, and sends what comes of it on the feed.
    pub(super) async fn order(&self, order: impl FnOnce(&mut Journal) -> Vec<Vec<u8>> + Send + 'static) {
        let (done, is_done) = oneshot::channel();
        assert!(self.orders.send((Box::new(order), done)).is_ok());
        is_done.await.unwrap();
    }

    /// Changes something.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Journal) + Send + 'static) {
        self.order(|journal| {
            change(journal);
            Vec::new()
        })
        .await;
    }

    /// Appends blocks of a few records, and sends them on the feed.
    pub(super) async fn publish(&self, blocks: usize) {
        self.order(move |journal| (0..blocks).map(|_| journal.append(5).bytes().to_vec()).collect()).await;
    }

    /// Appends blocks that the feed does not bring.
    pub(super) async fn withhold(&self, blocks: usize, body_bytes: usize) {
        self.change(move |journal| (0..blocks).for_each(|_| drop(journal.append(body_bytes)))).await;
    }

    /// All that it ever had.
    pub(super) async fn blocks(&self) -> Vec<Block> {
        let (sender, blocks) = oneshot::channel();
        self.change(|journal| drop(sender.send(journal.blocks.clone()))).await;
        blocks.await.unwrap()
    }
}

async fn serve(
    mut journal: Journal,
    mut feed: PubSocket,
    mut replay: RouterSocket,
    mut ordered: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>,
) {
    let mut tick = interval(HEAD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = ordered.recv() => {
                let Some((order, done)) = order else { return };
                for frame in order(&mut journal) {
                    feed.send(frame.into()).await.unwrap();
                }
                let _ = done.send(());
            }
            _ = tick.tick(), if journal.sends_heads => {
                feed.send(journal.head().into()).await.unwrap();
            }
            request = replay.recv() => {
                let Ok(request) = request else { continue };
                let [peer, frame]: [_; 2] = request.into_vec().try_into().unwrap();
                let Ok(Message::Fetch(fetch)) = Message::decode(frame) else { panic!("not a fetch") };
                for frame in journal.reply(fetch) {
                    let mut message = ZmqMessage::from(peer.clone());
                    message.push_back(frame.into());
                    // Its peer may be gone.
                    let _ = replay.send(message).await;
                }
            }
        }
    }
}

impl Journal {
    /// A block of two records, of which nobody else has the like.
    pub(super) fn append(&mut self, body_bytes: usize) -> Block {
        let at = self.position(self.blocks.len());
        let mut builder = BlockBuilder::new();
        for number in 0..2 {
            builder.push(number, "test", &vec![b'x'; body_bytes]).unwrap();
        }
        let block = builder.finish(self.stream, at).unwrap();
        self.blocks.push(block.clone());
        block
    }

    /// Retention takes all but the last blocks.
    pub(super) fn keep(&mut self, blocks: usize) {
        self.kept = self.blocks.len() - blocks;
    }

    /// The last blocks never were.
    pub(super) fn go_back(&mut self, blocks: usize) {
        self.blocks.truncate(self.blocks.len() - blocks);
    }

    /// Another stream begins, and nothing is left of this one.
    pub(super) fn wipe(&mut self, stream: StreamId) {
        (self.stream, self.kept) = (stream, 0);
        self.blocks.clear();
    }

    fn position(&self, index: usize) -> Position {
        index.checked_sub(1).map_or(Position::default(), |before| self.blocks[before].end())
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let head = Head {
            stream: self.stream,
            oldest: self.position(self.kept),
            next: self.position(self.blocks.len()),
            name: "test".to_owned(),
            replay: self.replay.clone(),
        };
        head.encode().unwrap()
    }

    fn reply(&self, fetch: Fetch) -> Vec<Vec<u8>> {
        let stream = self.stream;
        if self.is_busy {
            return vec![Busy { stream }.encode()];
        }
        let mut frames = vec![self.head()];
        if fetch.stream != stream {
            return frames;
        }
        let (mut at, oldest) = (fetch.from, self.position(self.kept));
        let credit_bytes = REPLY_BYTES_MAX.min(fetch.credit_bytes as usize);
        if at.next < oldest.next && credit_bytes > 0 {
            frames.push(Gap { stream, from: at.next, to: oldest, reason: GapReason::Retention }.encode());
            at = oldest;
        }
        let index = (self.kept..=self.blocks.len()).find(|index| self.position(*index) == at);
        if index.is_none() && at.next >= oldest.next {
            frames.push(Fork { stream, from: at }.encode());
        }
        let (mut bytes, blocks) = (0, &self.blocks[index.unwrap_or(self.blocks.len())..]);
        for block in blocks.iter().take_while(|block| {
            let fits = bytes < credit_bytes;
            bytes += block.bytes().len();
            fits
        }) {
            frames.push(block.bytes().to_vec());
            at = block.end();
        }
        frames.push(End { stream, at }.encode());
        frames
    }
}
