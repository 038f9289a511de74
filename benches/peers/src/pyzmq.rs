//! What the article has that this project began with: a SUB of pyzmq, and the logging of Python with a
//! RotatingFileHandler. The script is `subscriber.py`.

use crate::feeder::Feeder;
use crate::install::Lack;
use crate::round::{Contestant, Outcome, Setting, Turn};
use measure::process::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const CONTESTANT: Contestant = Contestant {
    name: "pyzmq",
    title: "pyzmq to Python logging",
    promise: "none: memory until written, no sync",
    share: 1,
    lacks,
    version: || None,
    run,
};

const SCRIPT: &str = include_str!("../subscriber.py");

fn run(turn: &Turn) -> Outcome {
    let script = turn.folder.join("subscriber.py");
    fs::write(&script, SCRIPT).expect("the script can be written");
    let (output, feeder) = (turn.output(), Feeder::bind());
    let mut subscriber = python(turn.data);
    subscriber.arg(script).arg(&feeder.endpoint).arg(output.file());
    turn.feed(&feeder, Process::start(subscriber, 0), &output)
}

fn lacks(setting: &Setting) -> Option<Lack> {
    let mut probe = python(&setting.data);
    probe.args(["-c", "import zmq"]).stdout(Stdio::null()).stderr(Stdio::null());
    let is_there = probe.status().is_ok_and(|status| status.success());
    (!is_there).then(|| Lack::Python { package: "pyzmq", folder: modules(&setting.data) })
}

/// Python, with the modules that were installed for this comparison alone.
fn python(data: &Path) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", modules(data));
    command
}

fn modules(data: &Path) -> PathBuf {
    data.join("python")
}
