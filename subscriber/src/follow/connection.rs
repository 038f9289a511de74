//! From one start of a cursor to the next: a SUB, a DEALER, and what the verdicts say to do with them.

use super::FeedFollower;
use crate::link::Link;
use crate::log::positions::STREAMS_MAX;
use crate::log::queue::{Gone, Queue, Statement};
use crate::sockets::{ConnectionError, Dealer, Subscription};
use bytes::Bytes;
use feed::block::BLOCK_BYTES_MAX;
use feed::cursor::{Answer, FeedSocket, Question, Refusal};
use feed::{Cursor, DecodeError, Fetch, Head, Message, StreamId, Verdict, pool};
use net::HostPort;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::info;
use zeromq::ZmqMessage;

/// How a connection ended.
pub(super) enum End {
    /// Nobody writes any more.
    Gone,
    /// It is no good, or lost.
    Lost(String),
    /// The writer has refused what came from here.
    Displaced,
    /// The publisher must not be followed.
    Refused(String),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// What the last verdict said to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Feed,
    Replies,
    /// Nothing, until then.
    Parked(Instant),
}

/// Both sockets, and what is known of who is behind them.
pub(super) struct Connection<'a> {
    follower: &'a FeedFollower,
    cursor: &'a mut Cursor,
    feed: Option<Subscription>,
    replay: Option<Dealer>,
    reading: Reading,
    /// When silence has lasted too long.
    silent_at: Instant,
    /// The address at which the feed was reached last.
    feed_address: Option<SocketAddr>,
    /// The last head.
    head: Option<Head>,
    /// The stream for which the writer was asked.
    stream: StreamId,
    has_come_on: bool,
    is_followed: bool,
}

impl<'a> Connection<'a> {
    /// Without any sockets yet.
    pub(super) fn new(follower: &'a FeedFollower, cursor: &'a mut Cursor) -> Self {
        Self {
            follower,
            cursor,
            feed: None,
            replay: None,
            reading: Reading::Feed,
            silent_at: Instant::now(),
            feed_address: None,
            head: None,
            stream: StreamId::default(),
            has_come_on: false,
            is_followed: false,
        }
    }

    /// A reply has reached its end, and was good for something.
    pub(super) fn has_come_on(&self) -> bool {
        self.has_come_on
    }

    /// The stream was caught up with, or is served through another address.
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Follows the publisher for as long as the connection is good.
    pub(super) async fn run(&mut self) -> End {
        let Err(end) = self.follow().await;
        end
    }

    async fn follow(&mut self) -> Result<Infallible, End> {
        let mut verdict = self.cursor.start();
        let mut message = None;
        loop {
            self.obey(verdict, message.as_ref()).await?;
            (verdict, message) = if self.reading == Reading::Feed && self.feed.is_none() {
                (self.cursor.fell_behind(), None)
            } else {
                match self.next().await? {
                    Some(frames) => self.judge(frames),
                    None => (self.cursor.again(), None),
                }
            };
        }
    }

    /// What comes next where the last verdict said to read; nothing, if it said only to wait.
    async fn next(&mut self) -> Result<Option<ZmqMessage>, End> {
        let received = async {
            match (self.reading, &mut self.feed, &mut self.replay) {
                (Reading::Feed, Some(feed), _) => feed.receive().await.map(Some),
                (Reading::Replies, _, Some(replay)) => replay.receive().await.map(Some),
                (Reading::Parked(until), ..) => {
                    sleep_until(until).await;
                    Ok(None)
                }
                (Reading::Feed | Reading::Replies, ..) => Err(ConnectionError::Closed),
            }
        };
        let silence = self.follower.waits.silence;
        tokio::select! {
            // In this order: after a pause of this process, what has come meanwhile ends the silence.
            biased;
            () = self.follower.queue.refused() => Err(End::Displaced),
            received = received => Ok(received?),
            () = sleep_until(self.silent_at), if !matches!(self.reading, Reading::Parked(_)) => {
                Err(End::Lost(format!("nothing was heard for {silence:?}")))
            }
        }
    }

    /// Has the cursor judge what has come.
    fn judge(&mut self, frames: ZmqMessage) -> (Verdict, Option<Message>) {
        self.listen();
        let message = match decode(frames) {
            Ok(message) => message,
            Err(error) => return (self.cursor.undecodable(error), None),
        };
        if message.stream() == self.stream {
            self.follower.queue.heard();
        }
        let verdict = match self.reading {
            Reading::Replies => self.cursor.reply(&message),
            Reading::Feed | Reading::Parked(_) => self.cursor.feed(&message),
        };
        match &message {
            Message::Head(head) => self.head = Some(head.clone()),
            Message::End(_) => self.has_come_on |= !matches!(verdict, Verdict::Reconnect(_) | Verdict::Refuse(_)),
            _ => {}
        }
        (verdict, Some(message))
    }

    /// Does what a verdict says, and what follows from that before anything else may come.
    async fn obey(&mut self, verdict: Verdict, message: Option<&Message>) -> Result<(), End> {
        let mut next = Some(verdict);
        while let Some(verdict) = next {
            next = None;
            match verdict {
                Verdict::Ignore => {}
                Verdict::Append => self.append(message).await?,
                Verdict::Ask(question) => next = Some(self.ask(question).await?),
                Verdict::Fetch { fetch, feed } => {
                    if feed == FeedSocket::Close {
                        self.feed = None;
                    }
                    self.send(fetch).await?;
                }
                Verdict::Read => self.read_feed().await?,
                Verdict::Park => self.park(),
                Verdict::Base { stream, at } => {
                    let name = self.name();
                    self.state(Statement::Base { stream, at, name }).await?;
                }
                Verdict::Lost(gap) => {
                    self.state(Statement::Lost(gap)).await?;
                    self.follower.metrics.lost.inc_by(gap.to.next - gap.from);
                }
                Verdict::Forked { stream, from, at, fetch } => {
                    self.state(Statement::Forked { stream, from, at }).await?;
                    self.send(fetch).await?;
                }
                Verdict::Replaced { old, heard, stream, base } => {
                    let name = self.name();
                    self.state(Statement::Replaced { old, heard, stream, base, name }).await?;
                }
                Verdict::Refuse(refusal) => return Err(End::Refused(self.reason(refusal))),
                Verdict::Reconnect(fault) => return Err(End::Lost(fault.to_string())),
            }
        }
        Ok(())
    }

    async fn append(&mut self, message: Option<&Message>) -> Result<(), End> {
        let Some(Message::Block(block)) = message else { return Ok(()) };
        let FeedFollower { queue, metrics, waits, .. } = self.follower;
        hand_over(queue, &mut self.feed, waits.writer, queue.block(block.clone())).await?;
        metrics.blocks.inc();
        metrics.records.inc_by(block.head().count.into());
        self.listen();
        Ok(())
    }

    async fn state(&mut self, statement: Statement) -> Result<(), End> {
        let FeedFollower { queue, waits, .. } = self.follower;
        hand_over(queue, &mut self.feed, waits.writer, queue.state(statement)).await?;
        self.listen();
        Ok(())
    }

    async fn ask(&mut self, question: Question) -> Result<Verdict, End> {
        let FeedFollower { queue, waits, .. } = self.follower;
        let answer = async {
            Ok(match question {
                Question::Claim(stream) => queue.claim(stream).await?.map(Answer::Claim),
                Question::Boundary { stream, at_most } => {
                    Some(Answer::Boundary(queue.boundary(stream, at_most).await?))
                }
            })
        };
        if let Question::Claim(stream) = question {
            self.stream = stream;
        }
        let answer = hand_over(queue, &mut self.feed, waits.writer, answer).await?;
        let answer = answer.ok_or_else(|| End::Refused(self.one_too_many()))?;
        Ok(self.cursor.answer(answer))
    }

    /// Sends a fetch, on a new DEALER if there is none, and reads what is answered.
    async fn send(&mut self, fetch: Fetch) -> Result<(), End> {
        self.follower.metrics.fetches.inc();
        let replay = match &mut self.replay {
            Some(replay) => replay,
            None => {
                let at = self.replay_address().map_err(End::Lost)?;
                let opened = Dealer::open(&at).await;
                self.replay.insert(opened.map_err(|error| End::Lost(format!("no replay at {at}: {error}")))?)
            }
        };
        replay.send(fetch.encode()).await?;
        self.reading = Reading::Replies;
        self.listen();
        Ok(())
    }

    /// Reads the feed, on a new SUB if it is closed.
    async fn read_feed(&mut self) -> Result<(), End> {
        if self.feed.is_none() {
            let feed = Subscription::open(self.follower.source.endpoint().address()).await?;
            self.feed_address = Some(feed.address());
            self.feed = Some(feed);
        }
        if self.reading == Reading::Replies {
            self.followed(Link::Connected);
        }
        self.reading = Reading::Feed;
        self.listen();
        Ok(())
    }

    fn park(&mut self) {
        self.feed = None;
        self.reading = Reading::Parked(Instant::now() + self.follower.waits.again);
        self.followed(Link::Parked { stream: self.stream });
    }

    fn followed(&mut self, link: Link) {
        if !self.is_followed {
            self.is_followed = true;
            self.follower.metrics.connects.inc();
        }
        let is_parked = link != Link::Connected;
        if self.follower.link_is(link) {
            info!(source = %self.follower.source, stream = %self.stream, is_parked, "the feed is followed");
        }
    }

    /// Silence begins now.
    fn listen(&mut self) {
        self.silent_at = Instant::now() + self.follower.waits.silence;
    }

    fn name(&self) -> String {
        self.head.as_ref().map(|head| head.name.clone()).unwrap_or_default()
    }

    /// Where the replay is, by the last head.
    fn replay_address(&self) -> Result<HostPort, String> {
        let named = self.head.as_ref().map_or("", |head| &head.replay);
        let feed = self.feed_address.map(|address| address.ip());
        replay_address(named, feed).ok_or_else(|| format!("no replay can be at {named:?}, which the publisher names"))
    }

    fn one_too_many(&self) -> String {
        format!(
            "the log knows {STREAMS_MAX} streams, and {} of publisher {:?} would be one more: begin another log",
            self.stream,
            self.name()
        )
    }

    fn reason(&self, refusal: Refusal) -> String {
        let name = self.name();
        match refusal {
            Refusal::Fork { stream, at: _ } => format!(
                "publisher {name:?} has another history of stream {stream} than the log, which is served through \
                 another address: start that publisher with --new-stream"
            ),
            Refusal::Version(DecodeError::Version { kind, version }) => {
                format!("upgrade the subscriber: the publisher sends a {kind} of version {:?}", char::from(version))
            }
            Refusal::Version(error) => format!("upgrade the subscriber: {error}"),
        }
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Waits until the writer has taken something, however long he takes. No socket is read meanwhile;
/// if it lasts, the feed is closed.
async fn hand_over<T>(
    queue: &Queue,
    feed: &mut Option<Subscription>,
    patience: Duration,
    work: impl Future<Output = Result<T, Gone>>,
) -> Result<T, End> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done?),
            () = queue.refused() => return Err(End::Displaced),
            () = sleep(patience) => {
                *feed = None;
                // It is the writer who keeps the publisher from being heard.
                queue.heard();
            }
        }
    }
}

/// Reads a message of one frame.
///
/// The frame is copied: it is a slice of the socket's read buffer, and a block that waits would hold on
/// to all of it. One that is too long to be anything is not.
fn decode(frames: ZmqMessage) -> Result<Message, DecodeError> {
    let frames = frames.into_vec();
    let Some((first, others)) = frames.split_first() else { return Err(DecodeError::Short(0)) };
    if !others.is_empty() {
        return Err(DecodeError::Long(others.iter().map(Bytes::len).sum()));
    }
    Message::decode(if first.len() <= BLOCK_BYTES_MAX { pool::copy(first) } else { first.clone() })
}

/// The replay address that a head names. A host that names no interface stands for the one at which
/// the feed was reached.
fn replay_address(named: &str, feed: Option<IpAddr>) -> Option<HostPort> {
    let named: HostPort = named.parse().ok()?;
    let is_unspecified = named.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    let at = if is_unspecified { SocketAddr::new(feed?, named.port()).into() } else { named };
    (at.port() != 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use feed::Busy;

    #[test]
    fn a_replay_on_every_interface_is_where_the_feed_was_reached() {
        let at = |named: &str, feed: &str| replay_address(named, feed.parse().ok()).map(|at| at.to_string());
        for named in ["0.0.0.0:4446", "[::]:4446", "*:4446"] {
            assert_eq!(at(named, "192.0.2.7"), Some("192.0.2.7:4446".to_owned()));
            assert_eq!(at(named, "2001:db8::7"), Some("[2001:db8::7]:4446".to_owned()));
        }
        assert_eq!(at("web-1:4446", "192.0.2.7"), Some("web-1:4446".to_owned()));
        for named in ["", "web-1", "web-1:0", "tcp://web-1:4446", "*:0"] {
            assert_eq!(at(named, "192.0.2.7"), None);
        }
    }

    #[test]
    fn a_message_is_one_frame() {
        let frame = Bytes::from(Busy { stream: StreamId([7; 16]) }.encode());
        let mut message = ZmqMessage::from(frame.clone());
        assert!(decode(message.clone()).is_ok());
        message.push_back(frame.clone());
        assert_eq!(decode(message), Err(DecodeError::Long(frame.len())));
        assert!(decode(vec![0; BLOCK_BYTES_MAX + 1].into()).is_err());
    }
}
