//! HTTP clients that ask for as much as they are told to, and cost little: they share the processors with what they
//! measure. One thread has all connections; an answer is looked at only as far as its status and its length.
//!
//! What is asked for must have an answer of the same length each time. Any status but 200 ends the benchmark.

use crate::process::PATIENCE;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 4096;
/// Connections of an open loop that are there before its first request.
const OPEN_CONNECTIONS: usize = 16;

/// How many requests a second are answered on so many connections, of which each has always one under way.
pub fn closed_loop(http: &str, path: &str, connections: usize, time: Duration) -> f64 {
    on_one_thread(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Client::connect(http).await);
        }
        let (request, stop) = (request(path), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for mut client in clients {
            let (request, stop) = (request.clone(), stop.clone());
            tasks.spawn(async move {
                let mut answered = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    client.get(&request).await;
                    answered += 1;
                }
                answered
            });
        }
        sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        let answered: u64 = in_time(tasks.join_all()).await.iter().sum();
        answered as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Sends `count` requests, so many a second, whenever the answers come: one that is late holds up no other, which
/// gets a connection of its own. Tells when each was sent: just before it was written.
pub fn open_loop(http: &str, per_second: u32, count: usize, path: impl Fn(usize) -> String) -> Vec<Instant> {
    on_one_thread(async {
        let idle = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..OPEN_CONNECTIONS {
            give_back(&idle, Client::connect(http).await);
        }
        let mut tasks = JoinSet::new();
        let begun = tokio::time::Instant::now();
        for number in 0..count {
            sleep_until(begun + Duration::from_secs(1) * number as u32 / per_second).await;
            let (request, idle, http) = (request(&path(number)), idle.clone(), http.to_owned());
            tasks.spawn(async move {
                let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut client = match free {
                    Some(client) => client,
                    None => Client::connect(&http).await,
                };
                let sent = Instant::now();
                client.get(&request).await;
                give_back(&idle, client);
                (number, sent)
            });
        }
        let mut sent = in_time(tasks.join_all()).await;
        sent.sort_unstable();
        sent.into_iter().map(|(_, sent)| sent).collect()
    })
}

async fn in_time<T>(answers: impl Future<Output = T>) -> T {
    timeout(PATIENCE, answers).await.expect("answers in time")
}

fn give_back(idle: &Mutex<Vec<Client>>, client: Client) {
    idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
}

fn on_one_thread<T>(load: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(load)
}

fn request(path: &str) -> Arc<[u8]> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes().into()
}

/// One connection.
struct Client {
    stream: TcpStream,
    answer: Box<[u8; ANSWER_BYTES_MAX]>,
    /// How long an answer is, once there was one.
    length: Option<usize>,
}

impl Client {
    async fn connect(http: &str) -> Self {
        let stream = TcpStream::connect(http).await.unwrap_or_else(|error| panic!("http://{http}: {error}"));
        stream.set_nodelay(true).expect("it is a TCP connection");
        Self { stream, answer: Box::new([0; ANSWER_BYTES_MAX]), length: None }
    }

    async fn get(&mut self, request: &[u8]) {
        let received = self.exchange(request).await.expect("an answer");
        let answer = &self.answer[..received];
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(answer));
        assert_eq!(Some(received), self.length, "an answer of another length");
    }

    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<usize> {
        self.stream.write_all(request).await?;
        let mut received = 0;
        while self.length.is_none_or(|length| received < length) {
            match self.stream.read(&mut self.answer[received..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                bytes => received += bytes,
            }
            self.length = self.length.or_else(|| answer_length(&self.answer[..received]));
        }
        Ok(received)
    }
}

/// How long an answer is whose head is there.
fn answer_length(answer: &[u8]) -> Option<usize> {
    let text = str::from_utf8(answer).expect("an answer is text");
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, bytes) = length.next().expect("an answer tells its length");
    Some(head.len() + 4 + bytes.trim().parse::<usize>().expect("a number"))
}
