//! `docker compose up` on a real engine, as a user runs it: a fresh folder, the log on the host.

use crate::harness::*;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// The image may be this large, in bytes.
const IMAGE_BYTES_MAX: u64 = 110_000_000;

/// The number of the publisher's next record.
const NEXT: &str = "downpipe_publisher_journal_next_sequence";

/// The project in a folder of its own, under names of its own; gone at the end of the test.
struct Project {
    folder: tempfile::TempDir,
    name: String,
}

impl Project {
    /// A copy of what a clone has.
    fn new() -> Self {
        let folder = folder();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let files = run(Command::new("git").args(list).current_dir(source));
        for file in files.lines().filter(|file| source.join(file).exists()) {
            let target = folder.path().join(file);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(source.join(file), target).unwrap();
        }
        let name = format!("downpipe-test-{}", std::process::id());
        Self { folder, name }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn compose(&self, args: &[&str]) -> String {
        run(&mut self.compose_command(args))
    }

    /// `docker compose`, or where that is not installed `docker-compose`.
    fn compose_command(&self, args: &[&str]) -> Command {
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

    fn container(&self, service: &str) -> String {
        self.compose(&["ps", "-q", service]).trim().to_owned()
    }

    fn inspect(&self, service: &str, field: &str) -> String {
        run(Command::new("docker").args(["inspect", "-f", field, &self.container(service)])).trim().to_owned()
    }

    fn until_healthy(&self) {
        for service in ["publisher", "subscriber"] {
            eventually(&format!("{service} is healthy"), || {
                (self.inspect(service, "{{.State.Health.Status}}") == "healthy").then_some(())
            });
        }
    }

    fn http(&self) -> String {
        self.compose(&["port", "publisher", "5000"]).trim().to_owned()
    }

    /// What the publisher counts under a name.
    fn metric(&self, name: &str) -> u64 {
        let page = get(&self.http(), "/metrics").body;
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }

    /// Asks until an answer is in the log: until then the subscription may not have arrived.
    fn until_logged(&self, param: &str) {
        let line = format!("lower case of {param} is {}", param.to_lowercase());
        eventually(&format!("a line of {param}"), || {
            assert_eq!(get(&self.http(), &format!("/downcase?param={param}")).body, line);
            lines(&self.data()).iter().any(|logged| body(logged) == line).then_some(())
        });
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
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "builds an image, and needs a Docker engine: cargo test --test e2e compose -- --ignored"]
fn compose_serves_logs_on_the_host_restarts_and_stops() {
    let project = Project::new();
    if is_root() {
        // As a user who is not root finds it after a clone.
        chown(project.data(), Some(1000), Some(1000)).unwrap();
    }
    project.compose(&["build"]);
    let size: u64 = run(Command::new("docker").args(["image", "inspect", "-f", "{{.Size}}", &project.name]))
        .trim()
        .parse()
        .unwrap();
    assert!(size < IMAGE_BYTES_MAX, "the image has {size} bytes");

    project.compose(&["up", "-d"]);
    project.until_healthy();
    project.until_logged("JOIN");
    two_thousand_requests_are_two_thousand_lines(&project);
    let owner = fs::metadata(project.data()).unwrap().uid();
    assert_eq!(fs::metadata(project.data().join("subscriber.log")).unwrap().uid(), owner);
    nothing_runs_as_root(&project);

    for service in ["publisher", "subscriber"] {
        let next = project.metric(NEXT);
        project.compose(&["restart", service]);
        project.until_healthy();
        assert!(project.metric(NEXT) >= next, "the journal goes on");
        project.until_logged(&format!("RESTARTED-{service}"));
    }
    let next = project.metric(NEXT);

    project.compose(&["stop"]);
    for service in ["publisher", "subscriber"] {
        let container = run(Command::new("docker").args(["ps", "-aqf", &format!("name={}.{service}", project.name)]));
        let ended = run(Command::new("docker").args(["inspect", "-f", "{{.State.ExitCode}}", container.trim()]));
        assert_eq!(ended.trim(), "0", "{service}");
    }

    if is_root() {
        // As root finds it who ran the binary here before: folder and log are root's.
        project.compose(&["down"]);
        let log = project.data().join("subscriber.log");
        for path in [project.data(), log.clone(), project.data().join("subscriber.log.lock")] {
            chown(path, Some(0), Some(0)).unwrap();
        }
        project.compose(&["up", "-d"]);
        project.until_healthy();
        assert!(project.metric(NEXT) >= next, "the journal is kept without its container");
        project.until_logged("AS-ROOT");
        nothing_runs_as_root(&project);
        let mode = fs::metadata(log).unwrap().mode();
        assert_eq!(mode & 0o444, 0o444, "everybody on the host may read the log: {mode:o}");
    }
}

fn two_thousand_requests_are_two_thousand_lines(project: &Project) {
    let http = project.http();
    let answers = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for connection in 0..50 {
            let (http, answers) = (&http, &answers);
            scope.spawn(move || {
                let mut client = Client::connect(http).unwrap();
                for request in 0..40 {
                    let answer = client.get(&format!("/downcase?param=C{connection}R{request}")).unwrap();
                    assert_eq!(answer.status, 200);
                    assert!(answers.lock().unwrap().insert(answer.body));
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    assert_eq!(answers.len(), 2000);
    let logged = eventually("2,000 lines", || {
        let lines: Vec<_> = lines(&project.data()).into_iter().filter(|line| body(line).contains(" of C")).collect();
        (lines.len() >= 2000).then_some(lines)
    });
    assert_eq!(logged.len(), 2000);
    assert_eq!(logged.iter().map(|line| body(line).to_owned()).collect::<HashSet<_>>(), answers);
}

fn nothing_runs_as_root(project: &Project) {
    for service in ["publisher", "subscriber"] {
        let pid = project.inspect(service, "{{.State.Pid}}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        for name in ["Uid:", "Gid:"] {
            assert!(field(name).split_whitespace().all(|id| id != "0"), "{service} {name} {}", field(name));
        }
        for name in ["CapEff:", "CapPrm:"] {
            assert_eq!(field(name), "0000000000000000", "{service} {name}");
        }
        assert_eq!(field("NoNewPrivs:"), "1", "{service}");
    }
}
