//! A PUB and a SUB of the zeromq crate with nothing behind either: what the pipeline's transport does by itself.
//! They never touch a disk, and never look into a frame.
//!
//! `frames-out --size BYTES` says where it listens, and sends empty frames until its first command: a subscription
//! comes behind the handshake, and nothing tells of it. Then `seconds S`: send for so long, or `frames N`: send so
//! many; `sent N` says when the crate has passed all of them to the kernel.
//!
//! `frames-in --feed ENDPOINT` is ready once it has received something. Then `until N`: wait for so many frames in
//! all, the empty ones not counted; `received N`.

use super::commands;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use zeromq::{PubSocket, Socket, SocketRecv, SocketSend, SubSocket};

/// Bytes that may be under way, as many as the product's feed may hold: the crate's own queues have no bound.
const UNDER_WAY_BYTES: usize = 16 * 1024 * 1024;
/// Different frames, together more than a cache holds.
const FRAMES_BYTES: usize = 64 * 1024 * 1024;
const GREETING_PAUSE: Duration = Duration::from_millis(5);

/// A frame that holds its share of what may be under way until the connection's writer has copied it.
struct Lent {
    frame: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

/// The role `frames-out`.
pub(super) async fn send(args: &[String]) {
    let size: usize = option(args, "--size").parse().expect("bytes");
    let mut random = fastrand::Rng::with_seed(7);
    let frame = |_| Bytes::from_iter((0..size).map(|_| random.u8(..)));
    let frames: Vec<_> = (0..(FRAMES_BYTES / size).max(2)).map(frame).collect();
    let mut socket = PubSocket::new();
    let feed = socket.bind("tcp://127.0.0.1:0").await.expect("a port");
    println!("ready frames feed={feed}");
    let mut commands = commands();
    let mut command = greet(&mut socket, &mut commands).await;
    while let Some(line) = command {
        let (what, number) = line.split_once(' ').expect("a command and a number");
        let number: f64 = number.parse().expect("a number");
        let (time, count) = match what {
            "seconds" => (Duration::from_secs_f64(number), usize::MAX),
            "frames" => (Duration::MAX, number as usize),
            other => panic!("no command {other}"),
        };
        println!("sent {}", send_all(&mut socket, &frames, time, count).await);
        command = commands.recv().await;
    }
}

async fn greet(socket: &mut PubSocket, commands: &mut mpsc::Receiver<String>) -> Option<String> {
    loop {
        tokio::select! {
            command = commands.recv() => return command,
            () = tokio::time::sleep(GREETING_PAUSE) => socket.send(Bytes::new().into()).await.expect("it sends"),
        }
    }
}

async fn send_all(socket: &mut PubSocket, frames: &[Bytes], time: Duration, count: usize) -> u64 {
    let shares = (UNDER_WAY_BYTES / frames[0].len()).max(2);
    let room = Arc::new(Semaphore::new(shares));
    let (begun, mut sent) = (Instant::now(), 0);
    for frame in frames.iter().cycle().take(count).take_while(|_| begun.elapsed() < time) {
        let share = room.clone().acquire_owned().await.expect("it is not closed");
        let lent = Lent { frame: frame.clone(), _share: share };
        socket.send(Bytes::from_owner(lent).into()).await.expect("it sends");
        sent += 1;
    }
    // What is said to be sent is on its way.
    let _all = room.acquire_many(shares as u32).await.expect("it is not closed");
    sent
}

/// The role `frames-in`.
pub(super) async fn receive(args: &[String]) {
    let mut socket = SubSocket::new();
    socket.connect(option(args, "--feed")).await.expect("a connection");
    socket.subscribe("").await.expect("a subscription");
    socket.recv().await.expect("a greeting");
    println!("ready frames greeted=yes");
    let (count, mut counted) = watch::channel(0_u64);
    tokio::spawn(async move {
        loop {
            let message = socket.recv().await.expect("a message");
            let is_greeting = message.get(0).is_none_or(|frame| frame.is_empty());
            count.send_modify(|count| *count += u64::from(!is_greeting));
        }
    });
    let mut commands = commands();
    while let Some(line) = commands.recv().await {
        let wanted: u64 = line.strip_prefix("until ").and_then(|count| count.parse().ok()).expect("a number");
        let received = *counted.wait_for(|count| *count >= wanted).await.expect("it receives");
        println!("received {received}");
    }
}

fn option<'a>(args: &'a [String], name: &str) -> &'a str {
    match args {
        [given, value] if given == name => value,
        _ => panic!("it wants {name}"),
    }
}
