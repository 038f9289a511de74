//! Runs a command: builds the daemons from their options, says when they serve, and stops them in order.

use crate::cli::{Command, PublisherArgs, SubscriberArgs, UsageError};
use crate::shutdown::Signals;
use crate::{diagnostics, health};
use anyhow::Context;
use net::Endpoint;
use publisher::Publisher;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use subscriber::{OpenError, PlainSource, Subscriber};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// At the end: the wait for threads that are in the middle of a step.
const RUNTIME_WAIT_MAX: Duration = Duration::from_millis(500);

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    raise_open_files();
    match command {
        Command::Up { diagnostics, publisher, subscriber } => {
            let _diagnostics = diagnostics::start(&diagnostics, "downpipe")?;
            serve(up(publisher, subscriber))
        }
        Command::Publisher(args) => {
            let _diagnostics = diagnostics::start(&args.diagnostics, "publisher")?;
            serve(run_publisher(args))
        }
        Command::Subscriber(args) => {
            let _diagnostics = diagnostics::start(&args.diagnostics, "subscriber")?;
            serve(run_subscriber(args))
        }
        Command::Health(args) => {
            let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
            runtime.block_on(health::check(&args.url))
        }
    }
}

fn serve(daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(daemon);
    runtime.shutdown_timeout(RUNTIME_WAIT_MAX);
    result
}

async fn run_publisher(args: PublisherArgs) -> anyhow::Result<()> {
    let signals = Signals::catch()?;
    let publisher = Publisher::bind(publisher_config(args)).await?;
    say(&ready_publisher(&publisher));
    let stop = CancellationToken::new();
    let daemon = async {
        drop(publisher.run(stop.clone()).await);
        Ok(())
    };
    signals.supervise(stop.clone(), daemon).await
}

async fn run_subscriber(args: SubscriberArgs) -> anyhow::Result<()> {
    let signals = Signals::catch()?;
    let log = args.log.clone();
    let subscriber = open_subscriber(args)?;
    say(&ready_subscriber(&subscriber, &log));
    let stop = CancellationToken::new();
    let daemon = async { Ok(subscriber.run(stop.clone()).await?) };
    signals.supervise(stop.clone(), daemon).await
}

/// Both in one process. HTTP clients wait in the listener's backlog until the subscriber is
/// connected, so that the first answer is logged; at the end the publisher stops first, so that the
/// last one is.
async fn up(publisher: PublisherArgs, mut subscriber: SubscriberArgs) -> anyhow::Result<()> {
    let signals = Signals::catch()?;
    let publisher = Publisher::bind(publisher_config(publisher)).await?;
    let own = Endpoint::local(publisher.plain_address());
    subscriber.plain.retain(|source| *source.endpoint() != own);
    subscriber.plain.insert(0, PlainSource::at(own.clone()));
    let log = subscriber.log.clone();
    let subscriber = open_subscriber(subscriber)?;

    let connected = subscriber.connected(&own);
    let ready_subscriber = ready_subscriber(&subscriber, &log);

    let stop = CancellationToken::new();
    let stop_subscriber = CancellationToken::new();
    let publishing = async {
        let both_connected = async { tokio::join!(connected, publisher.subscriber_connected()) };
        if stop.run_until_cancelled(both_connected).await.is_some() {
            let hints = hints(publisher.http_address(), &log);
            say(&format!("{}\n{ready_subscriber}\n\n{hints}", ready_publisher(&publisher)));
        }
        let stopped = publisher.run(stop.clone()).await;
        // It reads to the end of the connection that is closed now.
        stop_subscriber.cancel();
        drop(stopped);
    };
    let writing = async {
        let written = subscriber.run(stop_subscriber.clone()).await;
        stop.cancel();
        written
    };
    let daemon = async {
        let ((), written) = tokio::join!(publishing, writing);
        Ok(written?)
    };
    signals.supervise(stop.clone(), daemon).await
}

fn publisher_config(args: PublisherArgs) -> publisher::Config {
    publisher::Config {
        http: args.http,
        plain: args.plain,
        live_budget_bytes: args.live_budget,
        peer_timeout: args.peer_timeout,
    }
}

fn open_subscriber(args: SubscriberArgs) -> anyhow::Result<Subscriber> {
    let config = subscriber::Config {
        plain: args.plain,
        log: args.log,
        http: args.http,
        format: args.format,
        rotate_bytes: args.rotate_size,
    };
    Subscriber::open(config).map_err(|error| match error {
        OpenError::SourceTwice(_) | OpenError::NameTwice(_) | OpenError::TooManySources(_) => {
            UsageError::Wrong(error.to_string()).into()
        }
        error => error.into(),
    })
}

fn ready_publisher(publisher: &Publisher) -> String {
    let plain = Endpoint::from(publisher.plain_address());
    format!("ready publisher http={} plain={plain}", publisher.http_address())
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

/// A line for whoever started the process. A closed stdout is no reason to stop.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Connections are descriptors, and the usual soft limit of 1,024 is there for programs that use
/// `select`. Where it cannot be raised, fewer can be had at once.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
