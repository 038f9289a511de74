//! Every record once in the log on the host, whatever happens to the containers and to the network between
//! them: they are killed, paused, and cut off, while clients ask.

use super::project::*;
use crate::durable::load::Load;
use crate::harness::*;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
/// How much a text is prolonged at most.
const PADDING_BYTES_MAX: u64 = 200;
/// Small, so that there are many files.
const OVERRIDES: &str = "services: {subscriber: {environment: {SUBSCRIBER_ROTATE_SIZE: 256KiB}}}\n";

/// Answers between two faults.
const BETWEEN: u64 = 50;
/// How long the subscriber is paused: the publisher has cut it off by then (`--peer-timeout`, 10 s).
const SUBSCRIBER_PAUSED: Duration = Duration::from_secs(20);
/// How long nothing comes through at least, when nobody says so: the subscriber gives up after 5 s of silence.
const SILENT: Duration = Duration::from_secs(8);

/// What was done to the containers and is to be undone, also if the test ends before.
struct Undo(Option<Command>);

impl Undo {
    fn by(command: Command) -> Self {
        Self(Some(command))
    }

    #[track_caller]
    fn now(mut self) {
        self.0.take().iter_mut().for_each(|command| drop(run(command)));
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(command) = &mut self.0 {
            let _ = command.output();
        }
    }
}

/// A project, and who asks it.
struct Trial {
    project: Project,
    load: Load<'static>,
}

impl Trial {
    /// SIGKILL for the process of a container, which the engine starts again.
    #[track_caller]
    fn kill(&self, service: &str) {
        let before = self.project.pid(service);
        run(&mut as_root(&["kill", "-9", &before]));
        eventually(&format!("{service} is started again"), || {
            let now = self.project.pid(service);
            (now != before && now != "0").then_some(())
        });
    }

    #[track_caller]
    fn pause(&self, service: &str) -> Undo {
        let container = self.project.container(service);
        docker(&["pause", &container]);
        let mut unpause = Command::new("docker");
        unpause.args(["unpause", &container]);
        Undo::by(unpause)
    }

    /// Takes a container from the network, with its connections and its name.
    #[track_caller]
    fn disconnect(&self, service: &str) -> Undo {
        let (network, container) = (self.network(), self.project.container(service));
        docker(&["network", "disconnect", &network, &container]);
        let mut connect = Command::new("docker");
        connect.args(["network", "connect", "--alias", service, &network, &container]);
        Undo::by(connect)
    }

    fn network(&self) -> String {
        format!("{}_default", self.project.name)
    }

    /// Has what the two containers send each other vanish.
    #[track_caller]
    fn cut(&self) -> [Undo; 2] {
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let [publisher, subscriber] = SERVICES.map(|service| self.project.inspect(service, address));
        [(&publisher, &subscriber), (&subscriber, &publisher)].map(|(from, to)| {
            let rule = |action| ["iptables", "-w", action, "DOCKER-USER", "-s", from, "-d", to, "-j", "DROP"];
            run(&mut as_root(&rule("-I")));
            Undo::by(as_root(&rule("-D")))
        })
    }

    /// Waits until the subscriber has noticed that it hears nothing, and at least for `time`.
    #[track_caller]
    fn until_silence_is_noticed(&self, time: Duration) {
        let begun = Instant::now();
        eventually("the subscriber notices", || (!self.project.is_connected()).then_some(()));
        thread::sleep(time.saturating_sub(begun.elapsed()));
    }

    /// All is well again: clients are answered, and the log has what the publisher has now.
    #[track_caller]
    fn until_recovered(&self, what: &str) {
        self.project.until_healthy();
        self.load.goes_to_address(&self.project.http());
        self.load.until_acknowledged(BETWEEN);
        let (begun, records) = (Instant::now(), self.project.metric(NEXT));
        self.until_logged(records);
        println!("{what}: {records} records, {:?} until they were logged", begun.elapsed());
    }

    /// Waits for so many lines. They are counted only: there are many, and they are read often.
    #[track_caller]
    fn until_logged(&self, records: u64) {
        let data = self.project.data();
        // Files that are renamed meanwhile are there the next time.
        let count = |path: PathBuf| fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        eventually(&format!("{records} lines"), || {
            (log_files(&data).into_iter().map(count).sum::<usize>() as u64 >= records).then_some(())
        });
    }

    #[track_caller]
    fn suffer(&self) {
        self.until_recovered("nothing");
        for service in SERVICES {
            self.kill(service);
            self.until_recovered(&format!("{service} killed"));
        }
        let paused = self.pause("subscriber");
        thread::sleep(SUBSCRIBER_PAUSED);
        paused.now();
        self.until_recovered("subscriber paused");

        let paused = self.pause("publisher");
        self.until_silence_is_noticed(SILENT);
        paused.now();
        self.until_recovered("publisher paused");

        for service in ["subscriber", "publisher"] {
            let away = self.disconnect(service);
            self.until_silence_is_noticed(Duration::ZERO);
            away.now();
            self.until_recovered(&format!("{service} disconnected"));
        }
        let cut = self.cut();
        self.until_silence_is_noticed(SILENT);
        cut.into_iter().for_each(Undo::now);
        self.until_recovered("cut in silence");
    }

    /// Every answered record is a line, once and in its client's order, and no line is anything else.
    #[track_caller]
    fn assert_exact(&self) {
        let lines = lines(&self.project.data());
        assert_eq!(lines.len() as u64, self.project.metric(NEXT));
        self.load.assert_logged(lines.iter().map(|line| {
            assert_eq!(line.split(' ').nth(1), Some("publisher/downcase"), "{line}");
            body(line)
        }));
        self.project.verify(lines.len());
        let files = log_files(&self.project.data()).len();
        println!("{} of {} lines acknowledged, in {files} files", self.load.acknowledged(), lines.len());
        assert!(files > 2, "{files} files");
    }
}

#[test]
#[ignore = "builds an image, and needs a Docker engine: cargo test --test e2e compose -- --ignored"]
fn every_record_is_logged_once_whatever_happens_to_the_containers() {
    let project = Project::new();
    project.overrides(OVERRIDES);
    project.compose(&["build"]);
    project.compose(&["up", "-d"]);
    project.until_healthy();
    let trial = Trial { project, load: Load::new(CLIENTS, PADDING_BYTES_MAX) };
    trial.load.goes_to_address(&trial.project.http());
    trial.load.during(|| trial.suffer());
    trial.until_logged(trial.project.metric(NEXT));
    trial.assert_exact();
}
