//! One socket with one connection, which libzmq does not renew; and a DEALER to ask a replay by hand.

use super::codec::{Message, Position, Stream, fetch};
use crate::harness::PATIENCE;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a wait goes on before it looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(20);
/// The longest message that there is: a full block.
const FRAME_BYTES_MAX: i64 = 56 + (1 << 20);
/// Messages that libzmq may hold for us. The others wait in TCP.
const FRAMES_QUEUED_MAX: i32 = 16;

/// Never ended: its end would wait for every socket of every test.
fn context() -> &'static zmq::Context {
    static CONTEXT: OnceLock<zmq::Context> = OnceLock::new();
    CONTEXT.get_or_init(zmq::Context::new)
}

/// Why nothing was received.
#[derive(Debug)]
pub(super) enum Nothing {
    /// The connection is gone, or came to nothing.
    Disconnected,
    /// It is silent.
    Silent,
    /// Nobody wants it any more.
    Unwanted,
}

/// A socket, and its monitor.
pub(super) struct Peer {
    /// Only `None` while this is dropped.
    socket: Option<zmq::Socket>,
    monitor: zmq::Socket,
}

impl Peer {
    /// SUB subscribes to everything.
    pub(super) fn connect(kind: zmq::SocketType, endpoint: &str) -> zmq::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (socket, monitor) = (context().socket(kind)?, context().socket(zmq::PAIR)?);
        socket.set_linger(0)?;
        socket.set_reconnect_ivl(-1)?;
        socket.set_maxmsgsize(FRAME_BYTES_MAX)?;
        socket.set_rcvhwm(FRAMES_QUEUED_MAX)?;
        socket.set_sndtimeo(PATIENCE.as_millis() as i32)?;
        let address = format!("inproc://peer-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let ends = zmq::SocketEvent::DISCONNECTED as i32
            | zmq::SocketEvent::CLOSED as i32
            | zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL as i32
            | zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL as i32;
        socket.monitor(&address, ends | zmq::SocketEvent::MONITOR_STOPPED as i32)?;
        monitor.connect(&address)?;
        if kind == zmq::SUB {
            socket.set_subscribe(b"")?;
        }
        socket.connect(endpoint)?;
        Ok(Self { socket: Some(socket), monitor })
    }

    fn socket(&self) -> &zmq::Socket {
        self.socket.as_ref().expect("it is not being dropped")
    }

    pub(super) fn send(&self, frame: &[u8]) -> zmq::Result<()> {
        self.socket().send(frame, 0)
    }

    /// The frames of the next message. What came before a disconnect is received before it is told.
    pub(super) fn receive(&self, silence: Duration, wanted: impl Fn() -> bool) -> Result<Vec<Vec<u8>>, Nothing> {
        let start = Instant::now();
        while wanted() {
            let mut items = [self.socket().as_poll_item(zmq::POLLIN), self.monitor.as_poll_item(zmq::POLLIN)];
            zmq::poll(&mut items, SLICE.as_millis() as i64).expect("sockets can be polled");
            if items[0].is_readable() {
                return Ok(self.socket().recv_multipart(0).expect("a message is there"));
            }
            if items[1].is_readable() {
                return Err(Nothing::Disconnected);
            }
            if start.elapsed() >= silence {
                return Err(Nothing::Silent);
            }
        }
        Err(Nothing::Unwanted)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // libzmq's I/O thread would wait for ever to tell an event to a monitor that is gone.
        self.socket = None;
        let _ = self.monitor.set_rcvtimeo(1000);
        while let Ok(event) = self.monitor.recv_multipart(0) {
            let event = event[0].first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
            if event == Some(zmq::SocketEvent::MONITOR_STOPPED.to_raw()) {
                return;
            }
        }
    }
}

/// Reads the one frame that a message has.
pub(super) fn decode(frames: &[Vec<u8>]) -> Result<Message, String> {
    match frames {
        [frame] => Message::decode(frame),
        _ => Err(format!("a message of {} frames", frames.len())),
    }
}

/// The endpoint of a head's replay address. A host that names no interface is the one at which the feed
/// was reached.
pub(super) fn reached_at(replay: &str, feed: &str) -> String {
    let (host, port) = replay.rsplit_once(':').expect("an address has a port");
    let (feed_host, _) = feed.rsplit_once(':').expect("an endpoint has a port");
    match host {
        "0.0.0.0" | "[::]" | "*" => format!("{feed_host}:{port}"),
        _ => format!("tcp://{host}:{port}"),
    }
}

/// A DEALER at a replay address, for tests of the replay itself. Whatever is not as it must be panics.
pub struct Replay(Peer);

impl Replay {
    /// `HOST:PORT` as a head has it, or an endpoint.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let address = address.trim_start_matches("tcp://");
        Self(Peer::connect(zmq::DEALER, &format!("tcp://{address}")).unwrap())
    }

    /// Sends a frame, whatever it is.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.0.send(frame).unwrap();
    }

    /// Fetches, and returns the whole reply: up to its end, or the head of another stream alone.
    #[track_caller]
    pub fn fetch(&self, stream: Stream, from: Position, credit_bytes: u32) -> Vec<Message> {
        self.send(&fetch(stream, from, credit_bytes));
        self.reply(stream)
    }

    /// The next reply to a fetch for `stream` that was sent.
    #[track_caller]
    fn reply(&self, stream: Stream) -> Vec<Message> {
        self.reply_within(stream, PATIENCE).expect("a reply")
    }

    /// As [`Replay::fetch`], or `None` if the connection is gone. Fails if nothing at all comes for `silence`.
    #[track_caller]
    pub fn fetch_within(
        &self,
        silence: Duration,
        stream: Stream,
        from: Position,
        credit_bytes: u32,
    ) -> Option<Vec<Message>> {
        match self.0.socket().send(fetch(stream, from, credit_bytes), zmq::DONTWAIT) {
            Err(zmq::Error::EAGAIN) => None,
            sent => {
                sent.unwrap();
                self.reply_within(stream, silence)
            }
        }
    }

    #[track_caller]
    fn reply_within(&self, stream: Stream, silence: Duration) -> Option<Vec<Message>> {
        let mut reply = Vec::new();
        loop {
            let frames = match self.0.receive(silence, || true) {
                Ok(frames) => frames,
                Err(Nothing::Disconnected) => return None,
                Err(why) => panic!("{why:?} for {silence:?} after {reply:?}"),
            };
            let message = decode(&frames).unwrap();
            let is_last = match &message {
                Message::Head(head) => head.stream != stream,
                Message::End { .. } => true,
                _ => false,
            };
            reply.push(message);
            if is_last {
                return Some(reply);
            }
        }
    }

    /// The next message, whatever it belongs to.
    #[track_caller]
    pub fn message(&self) -> Message {
        let frames = self.0.receive(PATIENCE, || true).unwrap_or_else(|why| panic!("{why:?}"));
        decode(&frames).unwrap()
    }
}
