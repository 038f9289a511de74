//! A process that is measured: the real binary, or one of the [`roles`](crate::roles).

pub use rustix::process::Signal;

use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, kill_process};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything may take before the benchmark gives up.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running process, killed when it is dropped.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    ready: HashMap<String, String>,
    /// From the start of the process to its last ready line.
    pub ready_after: Duration,
}

impl Process {
    /// Starts `command` with nothing of this environment but `PATH`, and what the command itself sets, and waits
    /// for its ready lines. Its stderr goes nowhere.
    pub fn start(mut command: Command, ready_lines: usize) -> Self {
        clean_environment(&mut command);
        let begun = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdin, stdout) = (child.stdin.take().expect("is piped"), child.stdout.take().expect("is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        let mut ready = HashMap::new();
        let mut ready_after = Duration::ZERO;
        for _ in 0..ready_lines {
            let fields = loop {
                let (at, line) = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{command:?} is not ready"));
                ready_after = at - begun;
                if let Some(fields) = line.strip_prefix("ready ") {
                    break fields.to_owned();
                }
            };
            let (who, fields) = fields.split_once(' ').expect("a ready line has fields");
            for (name, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
                ready.insert(format!("{who}.{name}"), value.to_owned());
            }
        }
        let (texts, lines) = (lines, mpsc::channel());
        let (sender, receiver) = lines;
        thread::spawn(move || texts.into_iter().for_each(|(_, line)| drop(sender.send(line))));
        Self { child, stdin, lines: receiver, ready, ready_after }
    }

    /// A field of its ready lines: `publisher.http`, say.
    pub fn told(&self, field: &str) -> &str {
        self.ready.get(field).unwrap_or_else(|| panic!("no {field} among {:?}", self.ready))
    }

    /// Has it do something, and waits for the line that it says then.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer to {line:?}"))
    }

    /// Writes a line to its stdin.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }

    /// The next line that it says.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Its resident memory now, and the most that it has been, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process is there");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of the status");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// The processor time that it has used. The threads that it has are counted exactly, by the nanosecond; the
    /// clock of the process, which goes by hundredths of a second, knows also those that have ended.
    pub fn cpu(&self) -> Duration {
        self.cpu_of_threads().max(self.cpu_of_process())
    }

    fn cpu_of_process(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process is there");
        // The name is in parentheses, and may have spaces: utime and stime are the 12th and 13th behind it.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
        Duration::from_secs_f64(ticks.sum::<u64>() as f64 / clock_ticks_per_second() as f64)
    }

    fn cpu_of_threads(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the process is there");
        let of_thread = |task: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.filter_map(of_thread).sum())
    }

    /// The value of a metric that the daemon at `http` shows: the sum, if it has labels, and 0 before it has any.
    pub fn metric(http: &str, name: &str) -> u64 {
        let page = get(http, "/metrics");
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let labels_or_none = rest.starts_with([' ', '{']);
            labels_or_none.then(|| rest.rsplit_once(' '))?.map(|(_, value)| value)
        });
        values.map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is {value}"))).sum()
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Leaves nothing of this environment but `PATH`: what configures the daemons must not come from whoever measures.
fn clean_environment(command: &mut Command) {
    let own = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let own: Vec<(OsString, OsString)> = own.collect();
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(own);
}

/// The body of one GET on a connection of its own.
pub fn get(address: &str, path: &str) -> String {
    let get = || {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = get().unwrap_or_else(|error: std::io::Error| panic!("http://{address}{path}: {error}"));
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Polls until `probe` has something.
pub fn eventually<T>(what: &str, pause: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(pause);
    }
}
