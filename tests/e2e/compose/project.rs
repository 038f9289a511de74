//! The project as `docker compose` runs it: its containers, its log on the host, and its clean-up.

use crate::harness::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

pub(super) const SERVICES: [&str; 2] = ["publisher", "subscriber"];

/// The number of the publisher's next record.
pub(super) const NEXT: &str = "downpipe_publisher_journal_next_sequence";

/// One project at a time: to build it takes the whole machine, and the next finds its layers.
static ONE: Mutex<()> = Mutex::new(());
static PROJECTS: AtomicU32 = AtomicU32::new(0);

/// The project in a folder of its own, under names of its own; gone at the end of the test.
pub(super) struct Project {
    folder: tempfile::TempDir,
    pub(super) name: String,
    _one: MutexGuard<'static, ()>,
}

impl Project {
    /// A copy of what a clone has.
    pub(super) fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = folder();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let files = run(Command::new("git").args(list).current_dir(source));
        for file in files.lines().filter(|file| source.join(file).exists()) {
            let target = folder.path().join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(source.join(file), target).unwrap();
        }
        let name = format!("downpipe-test-{}-{}", std::process::id(), PROJECTS.fetch_add(1, Ordering::Relaxed));
        Self { folder, name, _one: one }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Has compose find more to set, as a user's own file would.
    pub(super) fn overrides(&self, yaml: &str) {
        fs::write(self.folder.path().join("docker-compose.override.yml"), yaml).unwrap();
    }

    #[track_caller]
    pub(super) fn compose(&self, args: &[&str]) -> String {
        run(&mut self.compose_command(args))
    }

    /// `docker compose`, or where that is not installed `docker-compose`.
    pub(super) fn compose_command(&self, args: &[&str]) -> Command {
        let is_plugin =
            Command::new("docker").args(["compose", "version"]).output().is_ok_and(|out| out.status.success());
        let mut command = Command::new(if is_plugin { "docker" } else { "docker-compose" });
        command.args(is_plugin.then_some("compose")).args(args).current_dir(self.folder.path());
        command.env("COMPOSE_PROJECT_NAME", &self.name).env("DOWNPIPE_IMAGE", &self.name);
        for port in ["HTTP", "PLAIN", "FEED", "REPLAY"] {
            command.env(format!("DOWNPIPE_{port}_PORT"), "0");
        }
        command
    }

    #[track_caller]
    pub(super) fn container(&self, service: &str) -> String {
        self.compose(&["ps", "-q", service]).trim().to_owned()
    }

    #[track_caller]
    pub(super) fn inspect(&self, service: &str, field: &str) -> String {
        docker(&["inspect", "-f", field, &self.container(service)])
    }

    /// The host's name for the process of a container.
    #[track_caller]
    pub(super) fn pid(&self, service: &str) -> String {
        self.inspect(service, "{{.State.Pid}}")
    }

    #[track_caller]
    pub(super) fn until_healthy(&self) {
        for service in SERVICES {
            eventually(&format!("{service} is healthy"), || {
                (self.inspect(service, "{{.State.Health.Status}}") == "healthy").then_some(())
            });
        }
    }

    /// Whether the subscriber says at this moment that it is connected.
    pub(super) fn is_connected(&self) -> bool {
        let ask = ["exec", "-T", "subscriber", "downpipe", "health", "http://127.0.0.1:5001"];
        self.compose_command(&ask).output().unwrap().status.success()
    }

    /// Where HTTP is on this machine: elsewhere after every start.
    #[track_caller]
    pub(super) fn http(&self) -> String {
        self.compose(&["port", "publisher", "5000"]).trim().to_owned()
    }

    /// What the publisher counts under a name.
    #[track_caller]
    pub(super) fn metric(&self, name: &str) -> u64 {
        let page = get(&self.http(), "/metrics").body;
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }

    /// Asks, and waits for the line.
    #[track_caller]
    pub(super) fn until_logged(&self, param: &str) {
        let record = format!("publisher/downcase lower case of {param} is {}", param.to_lowercase());
        let answer = get(&self.http(), &format!("/downcase?param={param}"));
        assert!(answer.status == 200 && record.ends_with(&answer.body), "{answer:?}");
        let is_it = |line: &String| line.split_once(' ').is_some_and(|(_, rest)| rest == record);
        eventually(&format!("a line of {param}"), || lines(&self.data()).iter().any(is_it).then_some(()));
    }

    /// `downpipe verify` beside the subscriber, as its user: all is well, with so many records.
    #[track_caller]
    pub(super) fn verify(&self, records: usize) {
        let entry = ["exec", "-T", "subscriber", "docker-entrypoint.sh"];
        let verified = outcome(self.compose_command(&entry).args(["verify", "/data/subscriber.log"]));
        assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
        for line in [&format!("records {records}"), "publishers 1", "missing 0", "duplicated 0", "lost 0", "damaged 0"]
        {
            assert!(verified.stdout.lines().any(|said| said == line), "not {line}: {}", verified.stdout);
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // A second panic would hide the first.
        if thread::panicking() {
            let logs = self.compose_command(&["logs", "--no-color"]).output();
            eprintln!(
                "{}",
                logs.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into())
            );
        }
        let _ = self.compose_command(&["down", "--volumes", "--remove-orphans"]).output();
        let _ = Command::new("docker").args(["rmi", "--force", &self.name]).output();
    }
}

#[track_caller]
pub(super) fn docker(args: &[&str]) -> String {
    run(Command::new("docker").args(args)).trim().to_owned()
}

/// A command that needs root, through sudo where the tests have another user.
pub(super) fn as_root(words: &[&str]) -> Command {
    let mut command = Command::new(if is_root() { words[0] } else { "sudo" });
    command.args(if is_root() { &words[1..] } else { words });
    command
}

#[track_caller]
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
