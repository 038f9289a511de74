//! What a contestant is, and one turn of it.

use crate::feeder::Feeder;
use crate::install::Lack;
use crate::options::Options;
use crate::output::Output;
use anyhow::{Context, Result, ensure};
use measure::process::Process;
use measure::records::{Records, Tally};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Records that wait for their acknowledgement at once, where each has one.
pub(crate) const UNDER_WAY_MAX: usize = 4096;

/// What is compared.
pub(crate) struct Contestant {
    /// For `--only`.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// What is on the disk, and when.
    pub(crate) promise: &'static str,
    /// It gets one of so many records, if all of them would take minutes.
    pub(crate) share: u64,
    /// What is not installed.
    pub(crate) lacks: fn(&Setting) -> Option<Lack>,
    /// The version of what it runs, if that is not ours.
    pub(crate) version: fn() -> Option<String>,
    /// One turn.
    pub(crate) run: fn(&Turn) -> Outcome,
}

/// What is the same for all.
pub(crate) struct Setting {
    records: u64,
    size: usize,
    /// Where everything is written.
    pub(crate) data: PathBuf,
    /// The product.
    downpipe: PathBuf,
}

impl Setting {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let this = std::env::current_exe().context("where this program is")?;
        let downpipe = this.with_file_name("downpipe");
        ensure!(downpipe.is_file(), "{} is not there: `cargo build --release` makes it", downpipe.display());
        // Beside the folder of the profile: on the disk that the project is on, and ignored by Git.
        let target = this.parent().and_then(Path::parent).context("this program is in no target folder")?;
        let data = target.join("bench-data");
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        Ok(Self { records: options.records, size: options.size, data, downpipe })
    }
}

/// What one turn has: an empty folder, and which records.
pub(crate) struct Turn<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) records: u64,
    pub(crate) size: usize,
    pub(crate) downpipe: &'a Path,
    pub(crate) data: &'a Path,
}

impl Turn<'_> {
    /// Where the lines go.
    pub(crate) fn output(&self) -> Output {
        Output::new(self.folder.join("log"))
    }

    /// Feeds a process that subscribes, until what it writes is complete.
    pub(crate) fn feed(&self, feeder: &Feeder, subscriber: Process, output: &Output) -> Outcome {
        feeder.wait_for_subscriber();
        let begun = Instant::now();
        feeder.feed(self.records, self.size);
        let took = output.complete(self.records) - begun;
        drop(subscriber);
        self.outcome(took, output)
    }

    /// What came of it, by what is in the files now.
    pub(crate) fn outcome(&self, took: Duration, output: &Output) -> Outcome {
        let mut tally = Tally::new(Records::new(self.size), self.records);
        output.lines(|line| tally.count(line));
        Outcome { took, records: tally.distinct(), lost: tally.lost(), repeated: tally.repeated() }
    }
}

/// What came of a turn.
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    pub(crate) records: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
}

impl Outcome {
    /// Records per second that arrived; what was lost does not count.
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }
}

/// Has a contestant take its turn, on a disk that owes nothing to the one before.
pub(crate) fn play(contestant: &Contestant, setting: &Setting) -> Result<Outcome> {
    let folder: TempDir = tempfile::Builder::new().prefix("peers-").tempdir_in(&setting.data)?;
    // Else who syncs would also wait for what the one before has left unwritten.
    rustix::fs::sync();
    let turn = Turn {
        folder: folder.path(),
        records: (setting.records / contestant.share).max(1),
        size: setting.size,
        downpipe: &setting.downpipe,
        data: &setting.data,
    };
    Ok((contestant.run)(&turn))
}
