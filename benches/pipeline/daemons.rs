//! The daemons that are measured, on free ports and in folders of the benchmark's own, and what is asked of them.
//! It judges no figure.

use measure::process::{Process, eventually, get};
use measure::roles;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Bytes of bodies that one append of the appender has.
const APPEND_BYTES: usize = 100_000;
/// How often a daemon is asked how far it is: that costs it some tenths of a millisecond.
const POLL: Duration = Duration::from_millis(20);

fn downpipe(command: &str) -> Command {
    let mut downpipe = Command::new(env!("CARGO_BIN_EXE_downpipe"));
    downpipe.arg(command);
    downpipe
}

/// `downpipe publisher`.
pub(crate) fn publisher(folder: &Path) -> Process {
    let mut command = downpipe("publisher");
    command.args(["--http=127.0.0.1:0", "--plain=tcp://127.0.0.1:0"]);
    command.args(["--feed=tcp://127.0.0.1:0", "--replay=tcp://127.0.0.1:0"]);
    command.arg("--journal").arg(folder.join("journal"));
    Process::start(command, 1)
}

/// `downpipe up`.
pub(crate) fn up(folder: &Path) -> Process {
    let mut command = downpipe("up");
    command.arg("--http=127.0.0.1:0").arg("--data").arg(folder);
    for variable in ["PUBLISHER_PLAIN", "PUBLISHER_FEED", "PUBLISHER_REPLAY"] {
        command.env(variable, "tcp://127.0.0.1:0");
    }
    command.env("SUBSCRIBER_HTTP", "127.0.0.1:0");
    Process::start(command, 2)
}

/// The appender of [`measure::roles`], with a journal in `folder`, whose appends are blocks of some size.
pub(crate) fn appender(folder: &Path, size: usize, options: &[&str]) -> Process {
    let mut command = roles::role("appender");
    command.arg("--journal").arg(folder.join("journal"));
    command.args(["--size", &size.to_string(), "--together", &(APPEND_BYTES / size).max(1).to_string()]);
    command.args(options);
    Process::start(command, 1)
}

/// Has an appender append; says how many records, and in how many seconds.
pub(crate) fn append(appender: &mut Process, what: &str) -> (u64, f64) {
    let answer = appender.ask(what);
    let mut words = answer.split(' ').skip(1);
    let (count, seconds) = (words.next().expect("a count"), words.next().expect("a time"));
    (count.parse().expect("a number"), seconds.parse().expect("a number"))
}

/// Subscribers that have caught up with a publisher, each with a log in one of the folders.
pub(crate) fn subscribers(publisher: &Process, folders: &[TempDir], options: &[&str]) -> Vec<Subscriber> {
    let start = |folder: &TempDir| Subscriber::start([publisher], folder.path(), options);
    let subscribers: Vec<_> = folders.iter().map(start).collect();
    subscribers.iter().for_each(Subscriber::catch_up);
    subscribers
}

/// A `downpipe subscriber`, with its log.
pub(crate) struct Subscriber {
    pub(crate) process: Process,
    log: PathBuf,
}

impl Subscriber {
    /// Starts one that follows `publishers`.
    pub(crate) fn start<'a>(
        publishers: impl IntoIterator<Item = &'a Process>,
        folder: &Path,
        options: &[&str],
    ) -> Self {
        let log = folder.join("subscriber.log");
        let mut command = downpipe("subscriber");
        command.arg("--http=127.0.0.1:0").args(options).arg("--log").arg(&log);
        for publisher in publishers {
            command.args(["--feed", publisher.told("publisher.feed")]);
        }
        Self { process: Process::start(command, 1), log }
    }

    /// The same, once it has caught up with all of them.
    pub(crate) fn caught_up<'a>(
        publishers: impl IntoIterator<Item = &'a Process>,
        folder: &Path,
        options: &[&str],
    ) -> Self {
        let subscriber = Self::start(publishers, folder, options);
        subscriber.catch_up();
        subscriber
    }

    /// Waits until it has caught up.
    pub(crate) fn catch_up(&self) {
        let http = self.process.told("subscriber.http");
        eventually("a subscriber that has caught up", POLL, || get(http, "/readyz").starts_with("ready").then_some(()));
    }

    /// The current file of its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// One of its metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        Process::metric(self.process.told("subscriber.http"), &format!("downpipe_subscriber_{name}"))
    }

    /// Waits until its log has so many records, or says that they are lost; and until they are on the disk, as
    /// what the pipeline is compared with has them there too. Says how many are lost.
    pub(crate) fn wait_for(&self, records: u64) -> u64 {
        let lost = eventually("all records in the log", POLL, || {
            let (written, lost) = (self.metric("lines_written_total"), self.metric("feed_lost_records_total"));
            (written + lost >= records).then_some(lost)
        });
        File::open(&self.log).and_then(|log| log.sync_data()).expect("the log can be synced");
        lost
    }

    /// The same, where nothing is lost.
    pub(crate) fn wait_for_all(&self, records: u64) {
        assert_eq!(self.wait_for(records), 0, "records were lost");
    }
}

/// One of a publisher's metrics.
pub(crate) fn metric(publisher: &Process, name: &str) -> u64 {
    Process::metric(publisher.told("publisher.http"), &format!("downpipe_publisher_{name}"))
}

/// The processor time that all of them have used.
pub(crate) fn cpu_of<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Duration {
    processes.into_iter().map(Process::cpu).sum()
}
