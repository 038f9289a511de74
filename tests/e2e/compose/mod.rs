//! `docker compose up` on a real engine, as a user runs it: a fresh folder, the log on the host.

mod once;
mod project;

use crate::harness::*;
use project::*;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::sync::Mutex;
use std::thread;

/// The image may be this large, in bytes.
const IMAGE_BYTES_MAX: u64 = 110_000_000;

#[test]
#[ignore = "builds an image, and needs a Docker engine: cargo test --test e2e compose -- --ignored"]
fn compose_serves_logs_on_the_host_restarts_and_stops() {
    let project = Project::new();
    if is_root() {
        // As a user who is not root finds it after a clone.
        chown(project.data(), Some(1000), Some(1000)).unwrap();
    }
    project.compose(&["build"]);
    let size: u64 = docker(&["image", "inspect", "-f", "{{.Size}}", &project.name]).parse().unwrap();
    assert!(size < IMAGE_BYTES_MAX, "the image has {size} bytes");

    project.compose(&["up", "-d"]);
    project.until_healthy();
    project.until_logged("JOIN");
    two_thousand_requests_are_two_thousand_lines(&project);
    let owner = fs::metadata(project.data()).unwrap().uid();
    assert_eq!(fs::metadata(project.data().join("subscriber.log")).unwrap().uid(), owner);
    nothing_runs_as_root(&project);

    for service in SERVICES {
        let next = project.metric(NEXT);
        project.compose(&["restart", service]);
        project.until_healthy();
        assert!(project.metric(NEXT) >= next, "the journal goes on");
        project.until_logged(&format!("RESTARTED-{service}"));
    }
    let next = project.metric(NEXT);
    project.verify(next as usize);

    project.compose(&["stop"]);
    for service in SERVICES {
        let container = docker(&["ps", "-aqf", &format!("name={}.{service}", project.name)]);
        assert_eq!(docker(&["inspect", "-f", "{{.State.ExitCode}}", &container]), "0", "{service}");
    }
    project.compose(&["down"]);
    if is_root() {
        what_root_left_is_taken_over(&project, next);
    }
    a_log_without_an_index_is_set_aside_on_demand(&project);
}

/// As root finds it who ran the binary here before: the log is root's, in a folder of anybody's.
fn what_root_left_is_taken_over(project: &Project, next: u64) {
    for (owner, param) in [(1000, "AS-USER"), (0, "AS-ROOT")] {
        chown(project.data(), Some(owner), Some(owner)).unwrap();
        for file in fs::read_dir(project.data()).unwrap() {
            chown(file.unwrap().path(), Some(0), Some(0)).unwrap();
        }
        project.compose(&["up", "-d"]);
        project.until_healthy();
        assert!(project.metric(NEXT) >= next, "the journal is kept without its container");
        project.until_logged(param);
        nothing_runs_as_root(project);
        project.verify(project.metric(NEXT) as usize);
        let mode = fs::metadata(project.data().join("subscriber.log")).unwrap().mode();
        assert_eq!(mode & 0o444, 0o444, "everybody on the host may read the log: {mode:o}");
        project.compose(&["down"]);
    }
}

/// As an earlier version left it, which had no index.
fn a_log_without_an_index_is_set_aside_on_demand(project: &Project) {
    const BEFORE: &str = "2026-11-21T08:03:53.861943Z publisher/- lower case of OLD is old\n";
    for file in fs::read_dir(project.data()).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"subscriber.")) {
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(project.data().join("subscriber.log"), BEFORE).unwrap();
    project.compose(&["up", "-d"]);
    eventually("the log is refused", || {
        let said = project.compose(&["logs", "--no-color", "subscriber"]);
        said.contains("/data/subscriber.log has text but no index").then(|| assert!(said.contains("SUBSCRIBER_ADOPT")))
    });
    assert_eq!(fs::read_to_string(project.data().join("subscriber.log")).unwrap(), BEFORE);

    run(project.compose_command(&["up", "-d"]).env("SUBSCRIBER_ADOPT", "true"));
    project.until_healthy();
    project.until_logged("ADOPTED");
    let names = fs::read_dir(project.data()).unwrap().map(|file| file.unwrap().path());
    let adopted: Vec<_> = names.filter(|path| path.to_string_lossy().ends_with(".adopted.log")).collect();
    assert_eq!(adopted.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), [BEFORE]);
    project.verify(project.metric(NEXT) as usize);
    // Begun without it again it goes on.
    project.compose(&["up", "-d"]);
    project.until_healthy();
    project.until_logged("ADOPTED-BEFORE");
    project.verify(project.metric(NEXT) as usize);
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
    for service in SERVICES {
        let pid = project.pid(service);
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
