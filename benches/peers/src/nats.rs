//! NATS JetStream, the broker with a log on disk: a stream in files, a publisher that waits for the acknowledgement of
//! each record, many under way at once, and an ordered consumer that writes a file. Publisher, server and consumer are
//! a process each.

use crate::install::{Lack, find};
use crate::round::{Contestant, Outcome, Setting, Turn, UNDER_WAY_MAX};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::{self, Context, consumer, stream};
use chrono::{SecondsFormat, Utc};
use futures_util::{FutureExt, StreamExt};
use measure::process::{Process, eventually};
use measure::records::Records;
use measure::roles::role;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub(crate) const BY_DEFAULT: Contestant = Contestant {
    name: "nats",
    title: "JetStream to a file",
    promise: "acknowledged, then synced within 2 min; log not synced",
    share: 1,
    lacks: |setting| lacks(setting, ""),
    version,
    run: |turn| run(turn, ""),
};

pub(crate) const SYNCED: Contestant = Contestant {
    name: "nats-sync",
    title: "JetStream, sync always",
    promise: "synced before it is acknowledged; log not synced",
    share: 100,
    lacks: |setting| lacks(setting, SYNC_ALWAYS),
    version: || None,
    run: |turn| run(turn, SYNC_ALWAYS),
};

const PROGRAM: &str = "nats-server";
/// Without it the file store syncs every 2 minutes (`sync_interval`), whatever was acknowledged.
const SYNC_ALWAYS: &str = "sync_interval: always";
/// The first arguments of the processes that publish and consume.
const PUBLISHER: &str = "nats-publisher";
const CONSUMER: &str = "nats-consumer";
const SUBJECT: &str = "bench";

fn run(turn: &Turn, sync: &str) -> Outcome {
    let output = turn.output();
    let (server, url) = server(turn.folder, sync);
    let mut command = role(CONSUMER);
    command.arg(&url).arg(output.file());
    let consumer = Process::start(command, 1);
    let mut command = role(PUBLISHER);
    command.args([&url, &turn.records.to_string(), &turn.size.to_string()]);
    let mut publisher = Process::start(command, 1);
    let begun = Instant::now();
    publisher.tell("publish");
    let took = output.complete(turn.records) - begun;
    drop((publisher, consumer, server));
    turn.outcome(took, &output)
}

/// A server of our own on a free port of loopback, which it tells in a file.
fn server(folder: &Path, sync: &str) -> (Process, String) {
    let ports = folder.join("ports");
    fs::create_dir(&ports).expect("a folder can be made");
    let mut command = Command::new(find(PROGRAM).expect("it is installed"));
    command.arg("-c").arg(configure(folder, sync)).arg("--ports_file_dir").arg(&ports);
    let server = Process::start(command, 0);
    let path = ports.join(format!("{PROGRAM}_{}.ports", server.pid()));
    let url = eventually("the server tells its port", Duration::from_millis(5), || {
        let told: serde_json::Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some(told["nats"][0].as_str()?.to_owned())
    });
    (server, url)
}

fn configure(folder: &Path, sync: &str) -> PathBuf {
    let store = folder.join("store");
    let text = format!("listen: \"127.0.0.1:-1\"\njetstream {{\n  store_dir: {store:?}\n  {sync}\n}}\n");
    let path = folder.join("nats.conf");
    fs::write(&path, text).expect("the configuration can be written");
    path
}

/// Asks the server whether it takes the configuration, since old ones do not know all of it.
fn lacks(setting: &Setting, sync: &str) -> Option<Lack> {
    let Some(program) = find(PROGRAM) else { return Some(Lack::Debian { package: "nats-server" }) };
    let folder = tempfile::tempdir_in(&setting.data).expect("a folder can be made");
    let mut check = Command::new(program);
    check.arg("-t").arg("-c").arg(configure(folder.path(), sync)).stdout(Stdio::null()).stderr(Stdio::null());
    let takes_it = check.status().is_ok_and(|status| status.success());
    let what = || format!("{} does not know `{sync}`; from 2.10 on it does", version().unwrap_or_default());
    (!takes_it).then(|| Lack::Other { what: what() })
}

/// `nats-server: v2.9.10`
fn version() -> Option<String> {
    let output = Command::new(find(PROGRAM)?).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().replace(": v", " "))
}

/// Becomes the process that publishes, or the one that consumes, if the command line says so.
pub(crate) fn play() -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let runtime = || Runtime::new().expect("a runtime");
    match args[..] {
        [PUBLISHER, url, records, size] => {
            let (records, size) = (records.parse().expect("a number"), size.parse().expect("a number"));
            runtime().block_on(publish(url, records, size));
        }
        [CONSUMER, url, file] => runtime().block_on(consume(url, Path::new(file))),
        _ => return false,
    }
    true
}

async fn connect(url: &str) -> Context {
    jetstream::new(async_nats::connect(url).await.expect("the server is there"))
}

async fn publish(url: &str, records: u64, size: usize) {
    let context = connect(url).await;
    println!("ready publisher of={url}");
    std::io::stdin().read_line(&mut String::new()).expect("a command");
    let mut under_way: VecDeque<PublishAckFuture> = VecDeque::with_capacity(UNDER_WAY_MAX);
    let pattern = Records::new(size).body();
    for number in 0..records {
        if under_way.len() == UNDER_WAY_MAX {
            under_way.pop_front().expect("it is full").await.expect("it is acknowledged");
        }
        let mut body = pattern.clone();
        Records::number(&mut body, number);
        under_way.push_back(context.publish(SUBJECT, body.into()).await.expect("it is sent"));
    }
    for acknowledged in under_way {
        acknowledged.await.expect("it is acknowledged");
    }
}

/// Writes what comes, with its time, and empties the buffer whenever nothing has come.
async fn consume(url: &str, file: &Path) {
    let context = connect(url).await;
    let subjects = vec![SUBJECT.to_owned()];
    let config = stream::Config { name: SUBJECT.to_owned(), subjects, ..Default::default() };
    let stream = context.create_stream(config).await.expect("a stream");
    let consumer = stream.create_consumer(consumer::pull::OrderedConfig::default()).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("its messages");
    let mut file = BufWriter::new(File::create(file).expect("the file can be made"));
    println!("ready consumer of={url}");
    loop {
        let next = match messages.next().now_or_never() {
            Some(next) => next,
            None => {
                file.flush().expect("it can be written");
                messages.next().await
            }
        };
        let message = next.expect("the stream goes on").expect("a message");
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        write!(file, "{time} ").and_then(|()| file.write_all(&message.payload)).expect("it can be written");
        file.write_all(b"\n").expect("it can be written");
    }
}
