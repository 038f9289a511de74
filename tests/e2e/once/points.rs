//! A subscriber killed at every named point of its work, or failing there, and started again.

use super::*;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Mutex;
use subscriber::FAULT_POINTS;

/// How many subscribers are killed at the same time: most of it is waiting for heads.
const AT_ONCE: usize = 6;
/// Some dozens of records make a file.
const OPTIONS: [&str; 2] = ["--rotate-size=8KiB", "--sync=50ms"];

/// When a point is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At the first contact with a publisher.
    First,
    /// When a log is opened whose last text is torn.
    Opening,
    /// Under load.
    Running,
    /// Under load, once a file.
    Rotating,
}

#[derive(Debug, Clone, Copy)]
struct Crash {
    point: &'static str,
    pass: u64,
    when: When,
}

impl Crash {
    fn fault(&self) -> String {
        format!("{}=kill@{}", self.point, self.pass)
    }
}

/// For each point when it is passed, and how often at least in a test's time.
fn crashes(random: &mut Random) -> Vec<Crash> {
    let mut crashes = Vec::new();
    for point in FAULT_POINTS {
        let (when, passes) = match point.split('.').collect::<Vec<_>>()[..] {
            ["log", "base", _] => (When::First, vec![1]),
            // What the first start leaves is there for the second: see `survives`.
            ["log", "finish" | "open", _] => (When::Opening, vec![1, 1]),
            ["log", "rotate", _] => (When::Rotating, vec![1, 2 + random.below(6)]),
            ["log", "sync"] | ["log", "sync", _] => (When::Running, vec![1, 2 + random.below(8)]),
            ["log", "write"] | ["log", "entry" | "text", _] => (When::Running, vec![1, 2 + random.below(80)]),
            _ => panic!("when is {point} passed?"),
        };
        crashes.extend(passes.into_iter().map(|pass| Crash { point, pass, when }));
    }
    crashes
}

#[test]
fn every_record_is_one_line_after_a_kill_at_every_point() {
    let mut random = Random::new();
    let crashes = crashes(&mut random).into_iter().zip(20..);
    let crashes: VecDeque<_> = crashes.map(|(crash, number)| (crash, number, random.below(1 << 32))).collect();
    let crashes = Mutex::new(crashes);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = crashes.lock().unwrap().pop_front();
                    let Some((crash, number, choice)) = next else { return };
                    println!("{crash:?} {choice}");
                    survives(crash, &format!("127.0.3.{number}"), choice);
                }
            });
        }
    });
}

/// A life that ends at its own fault, or after so long.
const LIFE_MAX: Duration = Duration::from_secs(4);

#[test]
fn every_record_is_one_line_after_lives_with_faults_at_random_points() {
    const LIVES: u64 = 30;
    let (folder, mut random) = (folder(), Random::new());
    let (origin, publisher) = Origin::new(folder.path(), "publisher", "127.0.3.19", Load::new(4, 100));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &OPTIONS);
    let (mut ended, mut killed) = (0, 0);
    origin.load.during(|| {
        for _ in 0..LIVES {
            let plan: Vec<_> = (0..1 + random.below(3)).map(|_| any_fault(&mut random)).collect();
            let plan = plan.join(",");
            let (mut subscriber, begun) = (Daemon::start(log.command(&plan), 0), Instant::now());
            let enough = log.records() + 1 + random.below(1000);
            let status = loop {
                let status = subscriber.ended();
                if status.is_some() || log.records() >= enough || begun.elapsed() > LIFE_MAX {
                    break status;
                }
                thread::sleep(LOOK);
            };
            println!("{plan}: {status:?}, {} records", log.records());
            ended += u64::from(status.is_some());
            killed += u64::from(status.is_some_and(|status| status.signal() == Some(SIGKILL)));
            subscriber.kill();
        }
    });
    println!("{ended} of {LIVES} lives ended by themselves, {killed} of them by SIGKILL");
    assert!(killed > 0);
    live(&log, &origin, &publisher, 100);
}

fn any_fault(random: &mut Random) -> String {
    let point = FAULT_POINTS[random.below(FAULT_POINTS.len() as u64) as usize];
    let action = ["kill", "kill", "error:5", "error:28", "delay:100"][random.below(5) as usize];
    let passes_max = 1 << random.below(7);
    format!("{point}={action}@{}", 1 + random.below(passes_max))
}

#[test]
fn every_record_is_one_line_after_an_error_at_every_point() {
    let mut random = Random::new();
    let errors: VecDeque<_> = FAULT_POINTS.into_iter().zip(80..).map(|error| (error, random.below(1 << 32))).collect();
    let errors = Mutex::new(errors);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = errors.lock().unwrap().pop_front();
                    let Some(((point, number), choice)) = next else { return };
                    goes_on_after(point, &format!("127.0.3.{number}"), choice);
                }
            });
        }
    });
}

/// A subscriber that meets an error at the point once goes on by itself, or did not begin and says why.
fn goes_on_after(point: &str, host: &str, choice: u64) {
    const ENOSPC: i32 = 28;
    let folder = folder();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", host, Load::new(4, 100));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &OPTIONS);
    live(&log, &origin, &publisher, 60);
    let without_rotation = log.with(&["--rotate-size=64MiB"]);
    origin.load.during(|| {
        tear(&without_rotation, choice.is_multiple_of(2), choice / 2);
        let pass = if point.starts_with("log.open.") { 1 } else { 1 + choice % 3 };
        let fault = format!("{point}=error:{ENOSPC}@{pass}");
        println!("{fault}");
        let mut subscriber = Daemon::start(log.command(&fault), 0);
        let enough = log.records() + 500;
        let goes_on = eventually(&format!("{fault}: it goes on, or could not begin"), || match subscriber.ended() {
            Some(status) => Some(Err(status)),
            None => (log.records() >= enough).then_some(Ok(())),
        });
        if let Err(status) = goes_on {
            assert_eq!(status.code(), Some(1), "{fault}: {}", subscriber.stderr());
            eventually("it says why", || subscriber.stderr().contains("No space left on device").then_some(()));
        }
    });
    live(&log, &origin, &publisher, 100);
}

/// Kills a subscriber at the point, and looks whether the next has everything and goes on.
fn survives(crash: Crash, host: &str, choice: u64) {
    let folder = folder();
    let (origin, publisher) = Origin::new(folder.path(), "publisher", host, Load::new(4, 100));
    let log = LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &OPTIONS);
    let dies = |faults: &str| origin.load.during(|| until_it_kills_itself(&log, faults));
    match crash.when {
        When::First => dies(&crash.fault()),
        When::Opening => {
            live(&log, &origin, &publisher, 60);
            let first = choice.is_multiple_of(2);
            for without_text in [first, !first] {
                // Without rotation, so that it is in the current file that an entry is left behind its text.
                let log = log.with(&["--rotate-size=64MiB"]);
                origin.load.during(|| tear(&log, without_text, choice / 2));
                until_it_kills_itself(&log, &crash.fault());
            }
        }
        When::Running => dies(&crash.fault()),
        When::Rotating => {
            dies(&crash.fault());
            // While that rotation is finished, or in the next.
            let others: Vec<_> = FAULT_POINTS.into_iter().filter(|point| point.starts_with("log.rotate.")).collect();
            let other = others[choice as usize % others.len()];
            println!("{crash:?}, then {other}");
            dies(&format!("{other}=kill"));
        }
    }
    live(&log, &origin, &publisher, 100);
}

/// Leaves a log that ends with an entry whose text is not there, or only its beginning.
fn tear(log: &LogSite, without_text: bool, choice: u64) {
    let pass = 2 + choice % 20;
    if without_text {
        until_it_kills_itself(log, &format!("log.entry.after=kill@{pass}"));
    } else {
        until_it_kills_itself(log, &format!("log.text.after=kill@{pass}"));
        let standing = Standing::examine(&log.seen);
        // A line is longer than that.
        let file = File::options().write(true).open(log.log()).unwrap();
        file.set_len(standing.log_bytes - 1 - choice % 50).unwrap();
    }
    let standing = Standing::examine(&log.seen);
    assert!(standing.text_end < standing.entered_end, "{standing:?}");
}

/// Has some more records acknowledged, all of which come to the log, and kills the subscriber.
fn live(log: &LogSite, origin: &Origin, publisher: &Daemon, records: u64) {
    let subscriber = log.start();
    origin.load.during(|| origin.load.until_acknowledged(records));
    log.until_all_of([publisher]);
    subscriber.kill();
    log.assert_exact(std::slice::from_ref(origin));
}
