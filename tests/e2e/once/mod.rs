//! Every record that was acknowledged is one line of every log, once: through kills, pauses, power cuts,
//! full and failing disks, rotations, and whatever a network does.
//!
//! The oracle is what the clients were answered ([`Load`]) against the lines in a log's files, which
//! [`oracle`] reads without the product; `downpipe verify` has to agree with it. Faults come from outside
//! the process (SIGKILL, the kernel, `strace`) or from the variable `DOWNPIPE_FAULTS`, whose points are
//! the subscriber's.
//!
//! Every publisher has a loopback address of its own, 127.0.3.x, at which it comes back.

mod damage;
mod disk;
mod histories;
mod kill;
mod long;
mod network;
mod oracle;
mod points;
mod power;
mod proxy;
mod tail;

use crate::durable::disk::Disk;
use crate::durable::load::Load;
use crate::durable::{Site, downpipe_in, head_of, strings};
use crate::harness::*;
use oracle::{Logged, Standing};
use std::collections::{BTreeSet, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How often a log is looked at while it is waited for. What the files of a log say takes reading them.
const LOOK: Duration = Duration::from_millis(10);

/// A publisher's journal, where its publishers listen one after the other, and who asks them.
struct Origin {
    name: String,
    site: Site,
    load: Load<'static>,
}

impl Origin {
    /// Its first publisher, at an address that no other has.
    #[track_caller]
    fn start(site: Site, name: &str, load: Load<'static>) -> (Self, Daemon) {
        let publisher = site.start();
        load.goes_to(&publisher);
        (Self { name: name.to_owned(), site: site.at_place_of(&publisher), load }, publisher)
    }

    /// One with a journal in `folder`, which is made.
    #[track_caller]
    fn new(folder: &Path, name: &str, host: &str, load: Load<'static>) -> (Self, Daemon) {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        Self::start(Site::new(&folder, host, &[&format!("--name={name}")]), name, load)
    }

    /// Its next publisher, to whom the clients go.
    #[track_caller]
    fn next(&self) -> Daemon {
        let publisher = self.site.start();
        self.load.goes_to(&publisher);
        publisher
    }
}

/// Runs something while the clients of all origins ask.
fn while_all_ask(origins: &[Origin], work: &mut dyn FnMut()) {
    match origins {
        [] => work(),
        [first, rest @ ..] => first.load.during(|| while_all_ask(rest, work)),
    }
}

/// A log, and how its subscribers are started, one after the other.
#[derive(Clone)]
struct LogSite {
    folder: PathBuf,
    /// The same, as the test sees it.
    seen: PathBuf,
    feeds: Vec<String>,
    options: Vec<String>,
    /// What their commands begin with.
    wrapper: Vec<String>,
}

impl LogSite {
    /// The log is made in `folder`.
    fn new(folder: &Path, feeds: &[&str], options: &[&str]) -> Self {
        let (feeds, options) = (strings(feeds), strings(options));
        Self { folder: folder.to_owned(), seen: folder.to_owned(), feeds, options, wrapper: Vec::new() }
    }

    /// The log is made on a disk, and its subscribers run where that is mounted.
    fn on(disk: &Disk, feeds: &[&str], options: &[&str]) -> Self {
        let (seen, wrapper) = (disk.seen(disk.path()), strings(&disk.wrapper()));
        Self { seen, wrapper, ..Self::new(disk.path(), feeds, options) }
    }

    /// The same log, with other options.
    fn with(&self, options: &[&str]) -> Self {
        Self { options: strings(options), ..self.clone() }
    }

    /// The same log, whose subscribers run under another command.
    fn under(&self, wrapper: &[&str]) -> Self {
        Self { wrapper: strings(wrapper), ..self.clone() }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("subscriber.log")
    }

    fn command(&self, faults: &str) -> Command {
        let mut command = downpipe_in(&self.wrapper);
        command.args(["subscriber", "--http=127.0.0.1:0", "--log"]).arg(self.log());
        command.args(self.feeds.iter().map(|feed| format!("--feed={feed}"))).args(&self.options);
        if !faults.is_empty() {
            command.env(::faults::VARIABLE, faults);
        }
        command
    }

    #[track_caller]
    fn start(&self) -> Daemon {
        self.start_with("")
    }

    /// Starts it with faults.
    #[track_caller]
    fn start_with(&self, faults: &str) -> Daemon {
        Daemon::start(self.command(faults), 1)
    }

    /// Where the current index stands in each stream.
    fn standing(&self) -> Standing {
        Standing::read(&self.seen)
    }

    /// How many records the log has by its index, counted from their streams' beginnings.
    fn records(&self) -> u64 {
        self.standing().positions.values().sum()
    }

    /// Waits until so many more are in the log.
    #[track_caller]
    fn until_more(&self, more: u64) {
        let enough = self.records() + more;
        self.until(&format!("{enough} records"), || self.records() >= enough);
    }

    /// Waits until the log has all that these publishers have now.
    #[track_caller]
    fn until_all_of<'p>(&self, publishers: impl IntoIterator<Item = &'p Daemon>) {
        let heads: Vec<_> = publishers.into_iter().map(head_of).collect();
        self.until("all that was published", || {
            let standing = self.standing();
            let has = |stream| standing.positions.get(stream).copied().unwrap_or(0);
            // An entry is there before its text.
            standing.is_written && heads.iter().all(|head| has(&head.stream) >= head.next.next)
        });
    }

    /// Waits for something, however long it takes: it fails if no record comes for [`PATIENCE`].
    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let (mut records, mut since) = (self.records(), Instant::now());
        while !is_so() {
            let now = self.records();
            if now != records {
                (records, since) = (now, Instant::now());
            }
            let log = self.seen.display();
            assert!(since.elapsed() < PATIENCE, "{what} in {log}: nothing came for {PATIENCE:?} at {records}");
            thread::sleep(LOOK);
        }
    }

    /// What is in its files.
    #[track_caller]
    fn read(&self) -> Logged {
        Logged::read(&self.seen)
    }

    /// What `downpipe verify` says of the log.
    #[track_caller]
    fn verify(&self) -> Verified {
        let outcome = outcome(downpipe_in(&self.wrapper).arg("verify").arg(self.log()));
        let number = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let counts = outcome.stdout.lines().filter(|line| !line.starts_with("position ")).filter_map(number).collect();
        Verified { counts, outcome }
    }

    /// That the log, which nobody writes now, has every record that was acknowledged as one line, each
    /// client's in order, beside them only what was asked for, at most once, and nothing of its own; and
    /// that `verify` finds the same.
    #[track_caller]
    fn assert_exact(&self, origins: &[Origin]) {
        let logged = self.read();
        assert_eq!(logged.own(), [""; 0]);
        let names: BTreeSet<_> = origins.iter().map(|origin| &*origin.name).collect();
        assert!(logged.sources().is_subset(&names), "{:?}, and not {names:?}", logged.sources());
        for origin in origins {
            origin.load.assert_logged(logged.bodies_of(&origin.name));
        }
        self.verify().assert_whole(logged.records(), origins.len());
    }
}

/// What `downpipe verify` said.
struct Verified {
    counts: HashMap<String, u64>,
    outcome: Outcome,
}

impl Verified {
    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        let Outcome { stdout, stderr, .. } = &self.outcome;
        *self.counts.get(name).unwrap_or_else(|| panic!("no {name} in {stdout:?}: {stderr}"))
    }

    /// That all is well, as far as the log is written.
    #[track_caller]
    fn assert_well(&self) {
        let Outcome { code, stdout, stderr } = &self.outcome;
        assert_eq!(*code, 0, "{stdout}{stderr}");
        for name in ["missing", "duplicated", "lost", "forks", "damaged"] {
            assert_eq!(self.count(name), 0, "{name}: {stdout}");
        }
    }

    /// That all is well, with so many records of so many publishers.
    #[track_caller]
    fn assert_whole(&self, records: usize, publishers: usize) {
        self.assert_well();
        assert_eq!((self.count("records"), self.count("publishers")), (records as u64, publishers as u64));
    }
}

/// Runs a subscriber until it is killed from inside by the fault that it is started with.
#[track_caller]
fn until_it_kills_itself(log: &LogSite, faults: &str) {
    // Whether it is ready before does not matter.
    let mut subscriber = Daemon::start(log.command(faults), 0);
    let status = subscriber.ended_within(PATIENCE);
    assert_eq!(status.signal(), Some(SIGKILL), "{faults}: {status}: {}", subscriber.stderr());
}
