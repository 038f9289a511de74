//! rsyslog with its input module for ZeroMQ, imczmq, as a SUB that connects; each message becomes a line of a file.
//! All else is as rsyslog has it by default: no queue on the disk, no sync.

use crate::feeder::Feeder;
use crate::install::{Lack, find};
use crate::output::Output;
use crate::round::{Contestant, Outcome, Setting, Turn};
use measure::process::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const CONTESTANT: Contestant = Contestant {
    name: "rsyslog",
    title: "imczmq to omfile",
    promise: "none: memory until written, no sync",
    share: 1,
    lacks,
    version,
    run,
};

/// Where Debian has it, whether or not that is in the `PATH`.
const PROGRAM: &str = "rsyslogd";

fn run(turn: &Turn) -> Outcome {
    let (output, feeder) = (turn.output(), Feeder::bind());
    let configuration = configure(turn.folder, &feeder.endpoint, &output);
    let mut daemon = Command::new(find(PROGRAM).expect("it is installed"));
    daemon.arg("-n").arg("-f").arg(configuration).arg("-i").arg(turn.folder.join("rsyslogd.pid"));
    turn.feed(&feeder, Process::start(daemon, 0), &output)
}

/// A configuration of our own. `>` has imczmq connect, and the one empty topic is everything. The template takes the
/// message as it came: it is no syslog message, of which `msg` would be a part.
fn configure(folder: &Path, endpoint: &str, output: &Output) -> PathBuf {
    let (folder_name, file) = (folder.display(), output.file());
    let text = format!(
        r#"
global(workDirectory="{folder_name}")
module(load="imczmq")
template(name="line" type="string" string="%timegenerated:::date-rfc3339% %rawmsg%\n")
ruleset(name="write") {{ action(type="omfile" file="{}" template="line") }}
input(type="imczmq" socktype="SUB" endpoints=">{endpoint}" topics="" ruleset="write")
"#,
        file.display()
    );
    let path = folder.join("rsyslog.conf");
    fs::write(&path, text).expect("the configuration can be written");
    path
}

/// Asks the daemon itself, since the module is a package of its own.
fn lacks(setting: &Setting) -> Option<Lack> {
    let lack = Lack::Debian { package: "rsyslog-czmq" };
    let Some(program) = find(PROGRAM) else { return Some(lack) };
    let folder = tempfile::tempdir_in(&setting.data).expect("a folder can be made");
    let output = Output::new(folder.path().join("log"));
    let configuration = configure(folder.path(), "tcp://127.0.0.1:1", &output);
    let mut check = Command::new(program);
    check.arg("-N1").arg("-f").arg(configuration).stdout(Stdio::null()).stderr(Stdio::null());
    (!check.status().is_ok_and(|status| status.success())).then_some(lack)
}

/// `rsyslogd  8.2302.0 (aka 2023.02) compiled with:` and so on.
fn version() -> Option<String> {
    let output = Command::new(find(PROGRAM)?).arg("-v").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(format!("rsyslog {}", text.split_whitespace().nth(1)?))
}
