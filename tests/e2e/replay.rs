//! The replay's clients that are not as they should be: they ask and do not read, send what is no
//! request, take another's name, leave in the middle. Whoever is as it should be is served beside them.

use crate::collector::*;
use crate::harness::*;
use crate::publishing::*;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;
/// Clients that never read, at once. More than the replay's budget has replies for.
const STALLERS: usize = 40;
/// What replies may hold: four of them.
const REPLAY_BUDGET: &str = "--replay-budget=9MiB";
const REPLAY_BUDGET_BYTES: u64 = 9 * MIB;
/// What the publisher is without them: the program, its threads, what it still has of what was published,
/// and the write buffers of the stallers' connections.
const BASE_BYTES: u64 = 64 * MIB;
const MEMORY_BYTES_MAX: u64 = REPLAY_BUDGET_BYTES + BASE_BYTES;
/// A client takes a publisher for gone that says nothing for so long.
const SILENCE: Duration = Duration::from_secs(5);

const CLIENTS: &str = "downpipe_publisher_replay_clients";
const REFUSED: &str = "downpipe_publisher_replay_refused_total";

/// A DEALER that reads as little as libzmq lets it.
struct Staller(zmq::Socket);

impl Staller {
    fn connect(address: &str) -> Self {
        let socket = zmq::Context::new().socket(zmq::DEALER).unwrap();
        socket.set_rcvhwm(1).unwrap();
        socket.set_rcvbuf(64 * 1024).unwrap();
        socket.set_linger(0).unwrap();
        socket.connect(address).unwrap();
        Self(socket)
    }

    fn ask(&self, request: &[u8]) {
        // Once nobody takes it any more there is nothing to ask.
        let _ = self.0.send(request, zmq::DONTWAIT);
    }
}

/// Has all ask again and again. As many as were cut off begin anew, the oldest first.
fn ask_until(is_done: &AtomicBool, mut stallers: Vec<Staller>, publisher: &Daemon, request: &[u8]) {
    const ASKED_BETWEEN: usize = 10;
    for index in (0..STALLERS).cycle() {
        for _ in 0..ASKED_BETWEEN {
            stallers.iter().for_each(|staller| staller.ask(request));
            thread::sleep(Duration::from_millis(5));
        }
        if is_done.load(Ordering::Relaxed) {
            return;
        }
        if publisher.metric("publisher", CLIENTS) <= STALLERS as u64 {
            stallers[index] = Staller::connect(publisher.told("publisher", "replay"));
        }
    }
}

/// Publishes `mib` MiB in records of 16 KiB; returns how many.
fn publish_mib(publisher: &Daemon, mib: u64) -> u64 {
    let crowd = Crowd::new(publisher, 2, 8100);
    crowd.until(mib * MIB / 16_000);
    crowd.answers()
}

/// The blocks of a reply to a fetch from `from`, and its end.
fn blocks_of(reply: &[Message], from: Position) -> (Vec<&Block>, Position) {
    let blocks: Vec<_> =
        reply.iter().filter_map(|part| if let Message::Block(block) = part { Some(block) } else { None }).collect();
    let end = blocks.iter().fold(from, |at, block| {
        assert_eq!(block.start(), at);
        block.end()
    });
    assert!(matches!(reply.last(), Some(Message::End { at, .. }) if *at == end), "not an end at {end:?}");
    (blocks, end)
}

#[test]
fn clients_that_ask_and_never_read_hold_bounded_memory_and_starve_nobody() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &["--peer-timeout=3s", REPLAY_BUDGET]);
    let address = publisher.told("publisher", "replay");
    let count = publish_mib(&publisher, 72);
    let replay = Replay::connect(address);
    let stream = who_is_there(&replay).stream;
    let request = fetch(stream, BEGINNING, 1 << 20);
    let stallers: Vec<_> = (0..STALLERS).map(|_| Staller::connect(address)).collect();
    eventually("all are connected", || (publisher.metric("publisher", CLIENTS) == 1 + STALLERS as u64).then_some(()));

    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| ask_until(&is_done, stallers, &publisher, &request));
        let _end = EndOnDrop(&is_done);
        ask_among_stallers(&replay, stream, count);
    });
    let (_, most) = publisher.memory();
    println!("{} MiB at most", most / MIB);
    assert!(most <= MEMORY_BYTES_MAX, "{} MiB", most / MIB);
    eventually("the stallers are gone", || (publisher.metric("publisher", CLIENTS) == 1).then_some(()));

    // All of the journal: what the stallers had taken is there for others.
    let mut at = BEGINNING;
    while at.next < count {
        at = blocks_of(&replay.fetch_within(SILENCE, stream, at, 1 << 20).unwrap(), at).1;
    }
    publisher.stop();
}

#[test]
fn who_asks_only_who_is_there_and_never_reads_holds_up_nobody() {
    const REQUESTS: usize = 300_000;
    let publisher = publisher(&["--peer-timeout=20s"]);
    let address = publisher.told("publisher", "replay");
    publish_many(&publisher, 20);
    let replay = Replay::connect(address);
    who_is_there(&replay);
    let (before, _) = publisher.memory();
    let requests = "downpipe_publisher_replay_requests_total";
    let asked = publisher.metric("publisher", requests);
    let stallers: Vec<_> = (0..4).map(|_| Staller::connect(address)).collect();
    for staller in &stallers {
        staller.0.set_sndhwm(0).unwrap();
    }
    let request = fetch(Stream::default(), BEGINNING, 0);
    for _ in 0..REQUESTS {
        stallers.iter().for_each(|staller| staller.ask(&request));
    }
    eventually("all have asked", || {
        (publisher.metric("publisher", requests) >= asked + (4 * REQUESTS) as u64).then_some(())
    });
    let (_, most) = publisher.memory();
    assert!(most < before + 32 * MIB, "{} MiB, {} before", most / MIB, before / MIB);
    who_is_there(&replay);
    // They leave with their answers unread, and more to come.
    drop(stallers);
    eventually("they are gone", || (publisher.metric("publisher", CLIENTS) == 1).then_some(()));
    who_is_there(&replay);
    publisher.stop();
}

#[test]
fn who_asks_and_leaves_leaves_no_reads_behind() {
    const LEAVERS: u64 = 100;
    // Those that read the journal for others, and whatever else starts by itself.
    const MORE_THREADS: usize = 10;
    let folder = folder();
    let first = publisher_in(folder.path(), &[]);
    publish_many(&first, 20);
    first.stop();
    // Every read of the disk takes long.
    let inject = "inject=pread64:delay_enter=300000";
    let mut command =
        downpipe_under(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-e", inject]);
    command.arg("publisher").env("PUBLISHER_JOURNAL", folder.path().join("journal"));
    on_free_ports(&mut command);
    let publisher = Daemon::start(command, 1);
    let address = publisher.told("publisher", "replay");
    let replay = Replay::connect(address);
    let stream = who_is_there(&replay).stream;
    let (before, mut most) = (publisher.threads(), 0);
    for asked in 2..2 + LEAVERS {
        let leaver = Replay::connect(address);
        leaver.send(&fetch(stream, BEGINNING, 1 << 20));
        eventually("it has asked", || {
            (publisher.metric("publisher", "downpipe_publisher_replay_requests_total") >= asked).then_some(())
        });
        most = most.max(publisher.threads());
    }
    eventually("they are gone", || (publisher.metric("publisher", CLIENTS) == 1).then_some(()));
    let is_served = AtomicBool::new(false);
    let most_later = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = 0;
            eventually("the one who stays is served", || {
                most = most.max(publisher.threads());
                is_served.load(Ordering::Relaxed).then_some(())
            });
            most
        });
        let _end = EndOnDrop(&is_served);
        assert_eq!(blocks_of(&replay.fetch(stream, BEGINNING, 1 << 20), BEGINNING).1.next, 20);
        is_served.store(true, Ordering::Relaxed);
        looking.join().unwrap()
    });
    most = most.max(most_later);
    assert!(most <= before + MORE_THREADS, "{most} threads, {before} before");
    publisher.stop();
}

/// Fetches until it was told often enough to wait, and had its blocks all the same.
fn ask_among_stallers(replay: &Replay, stream: Stream, count: u64) {
    const BUSY_MIN: usize = 5;
    const REPLIES_MIN: usize = 3;
    let (begun, mut at, mut busy, mut replies) = (Instant::now(), BEGINNING, 0, 0);
    while busy < BUSY_MIN || replies < REPLIES_MIN {
        let reply = replay.fetch_within(SILENCE, stream, at, 1 << 20).expect("the publisher does not hang up");
        busy += reply.iter().filter(|part| matches!(part, Message::Busy { .. })).count();
        // From the first wait on, the others have what there is to have.
        replies += usize::from(busy > 0);
        let (blocks, end) = blocks_of(&reply, at);
        assert!(!blocks.is_empty());
        at = if end.next == count { BEGINNING } else { end };
        assert!(begun.elapsed() < 2 * PATIENCE, "{busy} busy, {replies} replies");
    }
    println!("{STALLERS} stallers: {busy} busy, {replies} replies in {:?}", begun.elapsed());
}

#[test]
fn what_is_no_request_is_counted_and_hurts_nobody() {
    let mut random = Random::new();
    let publisher = publisher(&[]);
    publish_many(&publisher, 20);
    let replay = Replay::connect(publisher.told("publisher", "replay"));
    let head = who_is_there(&replay);
    let mut requests: Vec<Vec<Vec<u8>>> =
        vec![vec![vec![]; 3], vec![b"x".to_vec(); 1000], vec![vec![0; 1 << 20]], vec![vec![7; 1 << 20]; 4]];
    let good = fetch(head.stream, BEGINNING, 1 << 20);
    requests.push(vec![vec![], good.clone()]);
    requests.push(vec![good.clone(), good.clone()]);
    for magic in [b"DPB1", b"DPH1", b"DPE1", b"DPF2", b"DPF0", b"XXXX"] {
        let mut other = good.clone();
        other[..4].copy_from_slice(magic);
        seal(&mut other);
        requests.push(vec![other]);
    }
    for _ in 0..300 {
        let mut bytes = |count| (0..count).map(|_| random.below(256) as u8).collect::<Vec<u8>>();
        let (short, mut long) = (bytes(44), bytes(1000));
        long.truncate(1 + random.below(1000) as usize);
        let mut flipped = good.clone();
        flipped[random.below(44) as usize] ^= 1 << random.below(8);
        requests.extend([vec![short], vec![long], vec![flipped]]);
    }
    let nonsense = Staller::connect(publisher.told("publisher", "replay"));
    nonsense.0.set_sndhwm(0).unwrap();
    for request in &requests {
        nonsense.0.send_multipart(request, 0).unwrap();
    }
    eventually("all are counted", || (publisher.metric("publisher", REFUSED) == requests.len() as u64).then_some(()));
    // None was answered; the connection is as good as before.
    nonsense.0.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
    let mut whose_stream = fetch(Stream::default(), BEGINNING, 0);
    nonsense.0.send(&whose_stream, 0).unwrap();
    assert_eq!(&nonsense.0.recv_bytes(0).unwrap()[..4], b"DPH1");

    // Who reads no version that there is gets the head alone, as does who asks for another stream.
    whose_stream = good;
    whose_stream[40..44].fill(0);
    seal(&mut whose_stream);
    replay.send(&whose_stream);
    assert!(matches!(replay.message(), Message::Head(again) if again == head));
    assert!(matches!(&replay.fetch([9; 16], BEGINNING, 1 << 20)[..], [Message::Head(again)] if *again == head));
    assert_eq!(blocks_of(&replay.fetch(head.stream, BEGINNING, 1 << 20), BEGINNING).1, head.next);
    publisher.stop();
}

#[test]
fn who_takes_the_name_of_another_client_is_served_in_its_place() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &["--peer-timeout=3s"]);
    let address = publisher.told("publisher", "replay");
    publish_mib(&publisher, 32);
    let bystander = Replay::connect(address);
    let head = who_is_there(&bystander);
    let request = fetch(head.stream, BEGINNING, 1 << 20);
    let named = |name: &[u8]| {
        let socket = zmq::Context::new().socket(zmq::DEALER).unwrap();
        socket.set_identity(name).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
        socket.set_reconnect_ivl(-1).unwrap();
        socket.connect(address).unwrap();
        socket
    };
    let until_end = |socket: &zmq::Socket| while &socket.recv_bytes(0).expect("a reply")[..4] != b"DPE1" {};
    for name in [&b"same"[..], b"\xff\0\x01", &[b'n'; 255]] {
        let first = named(name);
        first.send(&request, 0).unwrap();
        until_end(&first);
        let second = named(name);
        second.send(&request, 0).unwrap();
        until_end(&second);
        assert_eq!(blocks_of(&bystander.fetch(head.stream, BEGINNING, 1), BEGINNING).0.len(), 1);
    }
    eventually("those named are gone", || (publisher.metric("publisher", CLIENTS) == 1).then_some(()));
    publisher.stop();
}

#[test]
fn clients_that_leave_in_the_middle_of_a_reply_or_at_once_leave_nothing_behind() {
    let mut random = Random::new();
    let folder = folder();
    let publisher = publisher_in(folder.path(), &[]);
    let address = publisher.told("publisher", "replay");
    let count = publish_mib(&publisher, 16);
    let steady = Replay::connect(address);
    let stream = who_is_there(&steady).stream;
    let open_files = || fs::read_dir(format!("/proc/{}/fd", publisher.pid())).unwrap().count();
    let begun_with = open_files();
    let mut at = BEGINNING;
    for number in 0..200 {
        let passer = Replay::connect(address);
        if random.below(4) > 0 {
            passer.send(&fetch(stream, BEGINNING, 1 << 20));
            // How many blocks a reply has depends on how many records each commit took.
            for _ in 0..random.below(40) {
                if let Message::End { .. } = passer.message() {
                    break;
                }
            }
        }
        drop(passer);
        if number % 10 == 0 {
            let reply = steady.fetch(stream, at, 1 << 20);
            at = blocks_of(&reply, at).1;
            assert!(at.next <= count);
        }
    }
    eventually("all are gone", || (publisher.metric("publisher", CLIENTS) == 1).then_some(()));
    eventually("no descriptor is left", || (open_files() <= begun_with + 2).then_some(()));
    // Had a leaver kept its part of the budget, there would be none left for the next.
    let mut at = BEGINNING;
    while at.next < count {
        at = blocks_of(&steady.fetch(stream, at, 1 << 20), at).1;
    }
    publisher.stop();
}
