//! A libzmq PUB that sends the numbered records to whoever takes part without a publisher of its own.

use measure::records::Records;
use zmq::{Context, Socket, SocketType};

/// The longest that a subscriber may take to start and connect.
const CONNECT_MS: i64 = 30_000;

/// The publishing socket, on a free port of loopback.
pub(crate) struct Feeder {
    socket: Socket,
    /// Where it listens.
    pub(crate) endpoint: String,
}

impl Feeder {
    /// No high-water mark: what the subscriber has not taken waits in memory, so PUB itself drops nothing. XPUB is the
    /// PUB of libzmq that also shows subscriptions, without which nobody knows when the first record may be sent.
    pub(crate) fn bind() -> Self {
        let socket = Context::new().socket(SocketType::XPUB).expect("a socket");
        socket.set_sndhwm(0).expect("an option of the socket");
        socket.set_linger(0).expect("an option of the socket");
        socket.bind("tcp://127.0.0.1:*").expect("a free port");
        let endpoint = socket.get_last_endpoint().expect("it is bound").expect("it is text");
        Self { socket, endpoint }
    }

    /// Waits for the subscription of one subscriber to everything.
    pub(crate) fn wait_for_subscriber(&self) {
        let came = self.socket.poll(zmq::POLLIN, CONNECT_MS).expect("the socket can be polled");
        assert!(came > 0, "nobody has subscribed within {CONNECT_MS} ms");
        assert_eq!(self.socket.recv_bytes(0).expect("a message is there"), [1], "a subscription to everything");
    }

    /// Sends so many records of a size, as fast as libzmq takes them.
    pub(crate) fn feed(&self, records: u64, size: usize) {
        let mut body = Records::new(size).body();
        for number in 0..records {
            Records::number(&mut body, number);
            self.socket.send(&body[..], 0).expect("it is sent");
        }
    }
}

/// Of libzmq.
pub(crate) fn version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("libzmq {major}.{minor}.{patch}")
}
