//! What was answered 200 is there: through kills, power cuts, full and failing disks, and damage.
//!
//! The oracle is what the test itself was answered ([`load`]), compared with what the collector gets by
//! feed and replay. Faults come from outside the process (SIGKILL, the kernel, `strace`) or from the
//! variable `DOWNPIPE_FAULTS`, whose points are the publisher's.
//!
//! Every test has a loopback address of its own for whatever it restarts, so that neither its clients
//! nor its collector ever meet the publisher of another test at a port that was given up.

mod damage;
pub(crate) mod disk;
mod full;
mod kill;
pub(crate) mod load;
mod points;
mod power;
mod sync;

use crate::collector::*;
use crate::harness::*;
use disk::Disk;
use load::Load;
use std::path::{Path, PathBuf};
use std::process::Command;

const BEGINNING: Position = Position { next: 0, previous: 0 };

/// A journal, and how its publishers are started, one after the other.
pub(crate) struct Site {
    journal: PathBuf,
    host: String,
    /// The endpoints of the numbered feed and its replay.
    feed: String,
    replay: String,
    options: Vec<String>,
    /// What their commands begin with.
    wrapper: Vec<String>,
}

impl Site {
    /// The journal is made in `folder`; `host` is a loopback address that no other test uses.
    pub(crate) fn new(folder: &Path, host: &str, options: &[&str]) -> Self {
        let (journal, options) = (folder.join("journal"), strings(options));
        let free = format!("tcp://{host}:0");
        Self { journal, host: host.to_owned(), feed: free.clone(), replay: free, options, wrapper: Vec::new() }
    }

    /// The journal is made on a disk, and its publishers run where that is mounted.
    pub(crate) fn on(disk: &Disk, host: &str, options: &[&str]) -> Self {
        Self { wrapper: strings(&disk.wrapper()), ..Self::new(disk.path(), host, options) }
    }

    /// The same, where this publisher of it listens: who follows that one need not be told of the next.
    pub(crate) fn at_place_of(self, publisher: &Daemon) -> Self {
        let told = |field| publisher.told("publisher", field).to_owned();
        Self { feed: told("feed"), replay: told("replay"), ..self }
    }

    /// The same, under another command.
    fn under(self, wrapper: &[&str]) -> Self {
        Self { wrapper: strings(wrapper), ..self }
    }

    pub(crate) fn command(&self, faults: &str) -> Command {
        let mut command = downpipe_in(&self.wrapper);
        command.arg("publisher").args([format!("--http={}:0", self.host), format!("--plain=tcp://{}:0", self.host)]);
        command.args([format!("--feed={}", self.feed), format!("--replay={}", self.replay)]);
        command.arg("--journal").arg(&self.journal).args(&self.options);
        if !faults.is_empty() {
            command.env(::faults::VARIABLE, faults);
        }
        command
    }

    #[track_caller]
    pub(crate) fn start(&self) -> Daemon {
        self.start_with("")
    }

    /// Starts it with faults.
    #[track_caller]
    fn start_with(&self, faults: &str) -> Daemon {
        Daemon::start(self.command(faults), 1)
    }
}

/// `downpipe` as the last words of another command, if there is one.
pub(crate) fn downpipe_in(wrapper: &[String]) -> Command {
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    if wrapper.is_empty() { downpipe() } else { downpipe_under(&wrapper) }
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn feed_of(publisher: &Daemon) -> &str {
    publisher.told("publisher", "feed")
}

fn replay_of(publisher: &Daemon) -> Replay {
    Replay::connect(publisher.told("publisher", "replay"))
}

/// What the replay says of the stream now.
#[track_caller]
pub(crate) fn head_of(publisher: &Daemon) -> Head {
    let reply = replay_of(publisher).fetch(Stream::default(), BEGINNING, 0);
    let [Message::Head(head)] = &reply[..] else { panic!("not a head alone: {reply:?}") };
    head.clone()
}

/// Has the clients and the collector go on with this publisher.
fn all_go_to(publisher: &Daemon, load: &Load<'_>, collector: &Collector) {
    collector.moved_to(feed_of(publisher));
    load.goes_to(publisher);
}

/// That the collector gets what was acknowledged, and that who comes now gets the same by replay, as
/// far as it is kept. Returns where that begins.
#[track_caller]
fn assert_all_is_there(publisher: &Daemon, load: &Load<'_>, collector: &Collector) -> Position {
    let late = Collector::follow(feed_of(publisher));
    let next = head_of(publisher).next.next;
    collector.until_next(next);
    late.until_next(next);
    let late = late.stop();
    assert_eq!(late.statements, []);
    collector.look(|collected| {
        load.assert_kept(collected);
        assert!(collected.blocks.ends_with(&late.blocks), "replay and feed differ");
    });
    late.base
}

/// The text of `/readyz` once it is 503.
#[track_caller]
fn unready(publisher: &Daemon) -> String {
    eventually("readyz is 503", || {
        let readyz = publisher.page("publisher", "/readyz");
        (readyz.status == 503).then_some(readyz.body)
    })
}

/// The next publisher at a site has all that was acknowledged from the beginning, and acknowledges more.
fn assert_next_goes_on(site: &Site, load: &Load<'_>, collector: Collector, records: u64) {
    let publisher = site.start();
    all_go_to(&publisher, load, &collector);
    load.during(|| load.until_acknowledged(records));
    assert_eq!(assert_all_is_there(&publisher, load, &collector), BEGINNING);
    collector.stop();
    publisher.stop();
}

/// Whether a new record is acknowledged. Its text is not one of a load's.
fn status_of_a_request(publisher: &Daemon) -> u16 {
    publisher.page("publisher", "/downcase?param=X").status
}
