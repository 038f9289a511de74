//! Runs a command: builds the daemons from their options, says when they serve, and stops them in order.

use crate::cli::{Command, PublisherArgs, SubscriberArgs, UsageError};
use crate::{diagnostics, health, shutdown, verify};
use anyhow::{Context, ensure};
use faults::Faults;
use net::Endpoint;
use publisher::journal::SEGMENTS_MAX;
use publisher::{BindError, JournalError, Publisher};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::thread;
use std::time::Duration;
use subscriber::{FeedSource, OpenError, Subscriber};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// At the end: the wait for threads that are in the middle of a step.
const RUNTIME_WAIT_MAX: Duration = Duration::from_millis(500);

/// In `up`, at the end: the wait for the log to have what was published last.
const LOG_WAIT_MAX: Duration = subscriber::READ_WAIT_MAX;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    raise_open_files();
    match command {
        Command::Up { diagnostics, publisher, subscriber } => {
            let _diagnostics = diagnostics::start(&diagnostics, "downpipe")?;
            serve(up(*publisher, *subscriber))
        }
        Command::Publisher(args) => {
            let _diagnostics = diagnostics::start(&args.diagnostics, "publisher")?;
            serve(run_publisher(*args))
        }
        Command::Subscriber(args) => {
            let _diagnostics = diagnostics::start(&args.diagnostics, "subscriber")?;
            serve(run_subscriber(*args))
        }
        Command::Verify(args) => ask(verify::run(&args)),
        Command::Health(args) => ask(health::check(&args.url)),
    }
}

/// Runs what ends by itself.
fn ask(question: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(question);
    runtime.shutdown_timeout(RUNTIME_WAIT_MAX);
    result
}

fn serve(daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(daemon);
    runtime.shutdown_timeout(RUNTIME_WAIT_MAX);
    result
}

async fn run_publisher(args: PublisherArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    shutdown::on_signal(stop.clone())?;
    let publisher = bind_publisher(args).await?;
    say(&ready_publisher(&publisher));
    publisher.run(stop).await;
    Ok(())
}

async fn run_subscriber(args: SubscriberArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    shutdown::on_signal(stop.clone())?;
    let log = args.log.clone();
    let subscriber = open_subscriber(args)?;
    say(&ready_subscriber(&subscriber, &log));
    Ok(subscriber.run(stop).await?)
}

/// Both in one process. HTTP clients wait in the listener's backlog until the subscriber has caught up with
/// the journal; at the end the publisher stops first, so that what was answered last is in the log.
async fn up(publisher: PublisherArgs, mut subscriber: SubscriberArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    shutdown::on_signal(stop.clone())?;
    let publisher = bind_publisher(publisher).await?;
    let own = follow_own(&mut subscriber, &publisher);
    let log = subscriber.log.clone();
    let subscriber = open_subscriber(subscriber)?;
    let (caught_up, mut written) =
        (subscriber.caught_up(&own), subscriber.written(&own).context("the own feed is followed")?);
    let ready_subscriber = ready_subscriber(&subscriber, &log);

    let stop_subscriber = CancellationToken::new();
    let publishing = async {
        if stop.run_until_cancelled(caught_up).await.is_some() {
            let hints = hints(publisher.http_address(), &log);
            say(&format!("{}\n{ready_subscriber}\n\n{hints}", ready_publisher(&publisher)));
        }
        let next = publisher.run(stop.clone()).await;
        let all_written = written.wait_for(|written| *written >= next);
        let _ = tokio::time::timeout(LOG_WAIT_MAX, all_written).await;
        stop_subscriber.cancel();
        next.saturating_sub(*written.borrow())
    };
    let writing = async {
        let written = subscriber.run(stop_subscriber.clone()).await;
        stop.cancel();
        written
    };
    let (left, written) = tokio::join!(publishing, writing);
    written?;
    if left > 0 {
        warn!(records = left, "the journal has records that are not in the log yet: the next start writes them");
    }
    Ok(())
}

/// Has the subscriber follow the publisher of this process first, and once, by whatever address it was given.
fn follow_own(subscriber: &mut SubscriberArgs, publisher: &Publisher) -> FeedSource {
    let (feed, plain) = (publisher.feed_address(), publisher.plain_address());
    let own = FeedSource::own(Endpoint::local(feed));
    subscriber.feed.retain(|source| !is_own(source.endpoint(), feed));
    subscriber.feed.insert(0, own.clone());
    subscriber.plain.retain(|source| {
        let is_own = is_own(source.endpoint(), plain);
        if is_own {
            warn!(%source, "is the plain feed of this process, whose numbered feed is followed already: left out");
        }
        !is_own
    });
    own
}

fn is_own(endpoint: &Endpoint, bound: SocketAddr) -> bool {
    let address = endpoint.address();
    let is_here = |ip: IpAddr| ip == bound.ip() || (bound.ip().is_unspecified() && ip.is_loopback());
    let resolve = || (address.host(), address.port()).to_socket_addrs();
    address.port() == bound.port() && resolve().is_ok_and(|mut found| found.any(|found| is_here(found.ip())))
}

async fn bind_publisher(args: PublisherArgs) -> anyhow::Result<Publisher> {
    let wrong = |text: String| UsageError::Wrong(text);
    let (retain, segment) = (args.retain_bytes, args.segment_bytes);
    ensure!(retain >= segment, wrong(format!("--retain-bytes is less than --segment-bytes: {retain} and {segment}")));
    let segments = retain / segment;
    ensure!(
        segments <= SEGMENTS_MAX,
        wrong(format!("--retain-bytes is {segments} times --segment-bytes, more than {SEGMENTS_MAX}"))
    );
    let config = publisher::Config {
        http: args.http,
        plain: args.plain,
        feed: args.feed,
        replay: args.replay,
        advertise_replay: args.advertise_replay,
        journal: args.journal,
        name: args.name,
        retain_bytes: retain,
        retain_age: args.retain_age,
        segment_bytes: segment,
        append_queue_bytes: args.append_queue,
        new_stream: args.new_stream,
        live_budget_bytes: args.live_budget,
        replay_budget_bytes: args.replay_budget,
        peer_timeout: args.peer_timeout,
        faults: Faults::from_environment(&publisher::FAULT_POINTS),
    };
    Publisher::bind(config).await.map_err(|error| match error {
        BindError::Journal(error @ JournalError::Name { .. }) => wrong(error.to_string()).into(),
        error => error.into(),
    })
}

fn open_subscriber(args: SubscriberArgs) -> anyhow::Result<Subscriber> {
    let config = subscriber::Config {
        feed: args.feed,
        from: args.from,
        plain: args.plain,
        log: args.log,
        http: args.http,
        format: args.format,
        stamp: args.stamp,
        rotate_bytes: args.rotate_size,
        rotate_every: args.rotate_every.0,
        keep: args.keep,
        sync_every: args.sync,
        adopt: args.adopt,
        faults: Faults::from_environment(&subscriber::FAULT_POINTS),
    };
    Subscriber::open(config).map_err(|error| match error {
        OpenError::FeedTwice(_)
        | OpenError::SourceTwice(_)
        | OpenError::NameTwice(_)
        | OpenError::TooManySources(_) => UsageError::Wrong(error.to_string()).into(),
        error => error.into(),
    })
}

fn ready_publisher(publisher: &Publisher) -> String {
    let [plain, feed, replay] =
        [publisher.plain_address(), publisher.feed_address(), publisher.replay_address()].map(Endpoint::from);
    format!("ready publisher http={} plain={plain} feed={feed} replay={replay}", publisher.http_address())
}

fn ready_subscriber(subscriber: &Subscriber, log: &Path) -> String {
    format!("ready subscriber http={} log={}", subscriber.http_address(), log.display())
}

/// What to try next, for whoever started `up` by hand.
fn hints(http: SocketAddr, log: &Path) -> String {
    let reachable = Endpoint::local(http);
    let http = reachable.address();
    format!("try:     curl 'http://{http}/downcase?param=HELLO'\nfollow:  tail -F {}", log.display())
}

/// A line for whoever started the process. A stdout that is closed, or that nobody reads, is no
/// reason to stop or to wait.
fn say(text: &str) {
    let line = format!("{text}\n");
    let write = move || std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush());
    if let Err(error) = thread::Builder::new().spawn(write) {
        warn!(%error, text, "cannot say on stdout");
    }
}

/// Connections are descriptors, and the usual soft limit of 1,024 is there for programs that use
/// `select`. Where it cannot be raised, fewer can be had at once.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_publisher_is_known_by_any_of_its_addresses() {
        let is = |bound: &str, given: &str| is_own(&given.parse().unwrap(), bound.parse().unwrap());
        assert!(is("127.0.0.1:4445", "tcp://127.0.0.1:4445") && is("0.0.0.0:4445", "tcp://localhost:4445"));
        assert!(!is("127.0.0.1:4445", "tcp://127.0.0.1:4446") && !is("127.0.0.1:4445", "tcp://192.0.2.7:4445"));
    }
}
