//! What a comparison needs beside Rust: found, installed on demand, or said to be missing.

use crate::round::{Contestant, Setting};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a daemon may be that is not in everybody's `PATH`.
const SYSTEM_FOLDERS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// What a contestant lacks on this machine.
pub(crate) enum Lack {
    /// A package of Debian.
    Debian { package: &'static str },
    /// A package of Python, which goes into a folder of ours: the system's Python may be none of pip's business.
    Python { package: &'static str, folder: PathBuf },
    /// What this program cannot install.
    Other { what: String },
}

/// Those of the contestants that can take part. The others are named on stderr, each with what it lacks.
pub(crate) fn present<'a>(
    contestants: Vec<&'a Contestant>,
    setting: &Setting,
    may_install: bool,
) -> Vec<&'a Contestant> {
    let can_play = |contestant: &&Contestant| {
        let mut lack = (contestant.lacks)(setting);
        if let (Some(missing), true) = (&lack, may_install) {
            install(missing);
            lack = (contestant.lacks)(setting);
        }
        let Some(lack) = lack else { return true };
        let advice = match lack {
            Lack::Debian { package } => format!("the Debian package {package} is not installed (see --install)"),
            Lack::Python { package, .. } => format!("the Python package {package} is not installed (see --install)"),
            Lack::Other { what } => what,
        };
        eprintln!("{} is skipped: {advice}", contestant.name);
        false
    };
    contestants.into_iter().filter(can_play).collect()
}

/// What fails says so itself, and is found to be missing still.
fn install(lack: &Lack) {
    match lack {
        Lack::Debian { package } => {
            run(apt_get().args(["update", "-qq"]));
            run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends", package]));
        }
        Lack::Python { package, folder } => {
            if !run(Command::new("python3").args(["-m", "pip", "--version"])) {
                install(&Lack::Debian { package: "python3-pip" });
            }
            let pip = ["-m", "pip", "install", "--quiet", "--upgrade", "--target"];
            run(Command::new("python3").args(pip).arg(folder).arg(package));
        }
        Lack::Other { .. } => {}
    }
}

/// Which root is to run, and which asks nothing.
fn apt_get() -> Command {
    let mut command = Command::new(if rustix::process::geteuid().is_root() { "env" } else { "sudo" });
    if command.get_program() == "sudo" {
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}

/// Its output goes to stderr: stdout is the table's.
fn run(command: &mut Command) -> bool {
    eprintln!("{command:?}");
    let status = command.stdout(std::io::stderr()).status();
    status.is_ok_and(|status| status.success())
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(env::split_paths(SYSTEM_FOLDERS));
    folders.map(|folder| folder.join(program)).find(|file| Path::is_file(file))
}
