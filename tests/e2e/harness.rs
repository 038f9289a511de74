//! The vocabulary of the tests: start, get, kill, stop, lines, eventually.
//!
//! Nothing here shares code with the product. Order comes from ready lines, answers and what peers
//! have received; [`eventually`] polls for what has no such sign, and its bound is far beyond what
//! the slowest machine takes.

#![allow(unreachable_pub, reason = "a vocabulary, used from several crates")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything may take before a test says that it never will.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What every test but those of the shutdown itself takes for a process that does not stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Polls until `probe` has something.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(3));
    }
}

/// A folder of the test's own, gone at its end.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// `downpipe` with a clean environment.
pub fn downpipe() -> Command {
    in_clean_environment(Command::new(env!("CARGO_BIN_EXE_downpipe")))
}

/// Whether the tests run as root, who may do what the product must be refused.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").expect("the process").uid() == 0
}

/// `downpipe` as the last words of another command: `unshare`, say.
pub fn downpipe_under(wrapper: &[&str]) -> Command {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_downpipe"));
    in_clean_environment(command)
}

fn in_clean_environment(mut command: Command) -> Command {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A publisher on free ports, with a journal of its own that is gone with it.
pub fn publisher(options: &[&str]) -> Daemon {
    let folder = folder();
    let mut daemon = publisher_in(folder.path(), options);
    daemon.folder = Some(folder);
    daemon
}

/// A publisher on free ports, with its journal in `folder`, where `options` say nothing else.
pub fn publisher_in(folder: &Path, options: &[&str]) -> Daemon {
    let mut command = downpipe();
    command.arg("publisher").args(options).env("PUBLISHER_JOURNAL", folder.join("journal"));
    on_free_ports(&mut command);
    Daemon::start(command, 1)
}

/// A subscriber of `sources` that writes `subscriber.log` in `folder`.
pub fn subscriber(folder: &Path, sources: &str, options: &[&str]) -> Daemon {
    let mut command = downpipe();
    command.args(subscriber_args(folder, sources)).args(options);
    Daemon::start(command, 1)
}

/// What [`subscriber`] gives to `downpipe`.
pub fn subscriber_args(folder: &Path, sources: &str) -> [String; 4] {
    let log = folder.join("subscriber.log");
    [
        "subscriber".to_owned(),
        "--http=127.0.0.1:0".to_owned(),
        format!("--plain={sources}"),
        format!("--log={}", log.display()),
    ]
}

/// Both in one process, on free ports, with the data in `folder`.
pub fn up(folder: &Path, options: &[&str]) -> Daemon {
    let mut command = downpipe();
    command.args(["up", "--http=127.0.0.1:0", "--data"]).arg(folder).args(options);
    on_free_ports(&mut command);
    Daemon::start(command, 2)
}

/// Has whatever the command starts take free ports, where its flags say nothing else.
pub fn on_free_ports(command: &mut Command) {
    for variable in ["PUBLISHER_PLAIN", "PUBLISHER_FEED", "PUBLISHER_REPLAY"] {
        command.env(variable, "tcp://127.0.0.1:0");
    }
    command.env("PUBLISHER_HTTP", "127.0.0.1:0").env("SUBSCRIBER_HTTP", "127.0.0.1:0");
}

/// A running process, killed when it is dropped.
pub struct Daemon {
    child: Child,
    /// Of each ready line, by who is ready: its `name=value` fields.
    ready: HashMap<String, HashMap<String, String>>,
    stderr: Arc<Mutex<String>>,
    /// What is to be there as long as it is.
    folder: Option<tempfile::TempDir>,
}

impl Daemon {
    /// Starts a process and waits for its ready lines.
    #[track_caller]
    pub fn start(command: Command, ready_lines: usize) -> Self {
        let mut daemon = Self::start_unread(command, ready_lines);
        let stderr = daemon.child.stderr.take().unwrap();
        let collected = daemon.stderr.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                collected.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        daemon
    }

    /// The same, but nobody reads its stderr.
    #[track_caller]
    pub fn start_unread(mut command: Command, ready_lines: usize) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout_lines = child.stdout.take().unwrap();
        let receiver = lines_of(stdout_lines);
        let mut daemon = Self { child, ready: HashMap::new(), stderr: Arc::default(), folder: None };
        while daemon.ready.len() < ready_lines {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) => daemon.note(&line),
                Err(error) => {
                    let _ = daemon.child.kill();
                    let mut stderr = String::new();
                    let _ = daemon.child.stderr.take().unwrap().read_to_string(&mut stderr);
                    panic!("{command:?}: not ready ({error}): {stderr}");
                }
            }
        }
        daemon
    }

    fn note(&mut self, line: &str) {
        if let Some(line) = line.strip_prefix("ready ") {
            let (who, fields) = line.split_once(' ').expect("a ready line has fields");
            let fields = fields.split(' ').filter_map(|field| field.split_once('='));
            let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            self.ready.insert(who.to_owned(), fields);
        }
    }

    /// A field of a ready line.
    #[track_caller]
    pub fn told(&self, who: &str, field: &str) -> &str {
        &self.ready[who][field]
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory now, in bytes, and the most that it has been.
    #[track_caller]
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of the status");
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// The text of a page of `who`.
    #[track_caller]
    pub fn page(&self, who: &str, path: &str) -> Answer {
        get(self.told(who, "http"), path)
    }

    /// The value of a metric, by its whole name with its labels.
    #[track_caller]
    pub fn metric(&self, who: &str, name: &str) -> u64 {
        let page = self.page(who, "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// Waits until `who` says that it is ready.
    #[track_caller]
    pub fn until_ready(&self, who: &str) {
        eventually("readyz is 200", || (self.page(who, "/readyz").status == 200).then_some(()));
    }

    pub fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// SIGKILL, and gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it has to end in time, with 0.
    #[track_caller]
    pub fn stop(self) {
        self.signal("TERM");
        self.until_stopped();
    }

    /// It was told to stop, and has to end in time, with 0.
    #[track_caller]
    pub fn until_stopped(mut self) {
        let status = self.ended_within(STOP_WAIT);
        assert!(status.success(), "{status}: {}", self.stderr());
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// How it ended, which must be soon.
    #[track_caller]
    pub fn ended_within(&mut self, wait: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < wait, "still running after {wait:?}: {}", self.stderr());
            thread::sleep(Duration::from_millis(3));
        }
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert!(status.is_none(), "ended with {status:?}: {}", self.stderr());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("stderr of {}:\n{}", self.pid(), self.stderr());
        }
    }
}

/// A helper process that talks in lines, killed when it is dropped.
pub struct Helper {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Helper {
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub fn signal(&self, signal: &str) {
        signal_process(self.child.id(), signal);
    }

    /// Its next line.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line of the helper")
    }

    /// A line that it has already written.
    pub fn line_so_far(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    pub fn write_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// SIGKILL, and gone. Returns the lines that it had written and nobody had taken.
    pub fn kill(&mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().collect()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

pub fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

pub const SIGKILL: i32 = 9;

/// Starts a process, and kills it at some moment of its start.
pub fn kill_in_haste(mut command: Command, random: &mut Random) {
    /// The longest that it goes on.
    const HASTY_MAX: Duration = Duration::from_millis(60);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Nothing waits for this: any moment is as good as another.
    thread::sleep(Duration::from_micros(random.below(HASTY_MAX.as_micros() as u64)));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What a process that ended by itself left.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("ended by signal {:?}", output.status.signal()));
    Outcome { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// One GET on a connection of its own.
#[track_caller]
pub fn get(address: &str, path: &str) -> Answer {
    request(address, "GET", path)
}

#[track_caller]
pub fn request(address: &str, method: &str, path: &str) -> Answer {
    Client::connect(address).and_then(|mut client| client.request(method, path)).expect("an answer")
}

/// A connection that is kept.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.request("GET", path)
    }

    fn request(&mut self, method: &str, path: &str) -> std::io::Result<Answer> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.0.get_mut().write_all(head.as_bytes())?;
        self.answer(method == "HEAD")
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn answer(&mut self, head_only: bool) -> std::io::Result<Answer> {
        let status = self.line()?.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let mut headers = HashMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header");
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; if head_only { 0 } else { length }];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, headers, body: String::from_utf8(body).expect("answers are UTF-8") })
    }
}

/// Every line of the log in `folder`, in order: rotated files by their number, then the current one.
#[track_caller]
pub fn lines(folder: &Path) -> Vec<String> {
    log_files(folder).iter().flat_map(|path| read_lines(path)).collect()
}

/// The files of the log in `folder`, oldest first.
pub fn log_files(folder: &Path) -> Vec<PathBuf> {
    let mut numbered: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.split('.').collect::<Vec<_>>()[..] {
            ["subscriber", "log"] => numbered.push((u64::MAX, path)),
            ["subscriber", _, number, "log"] => numbered.push((number.parse().unwrap(), path)),
            _ => {}
        }
    }
    numbered.sort();
    numbered.into_iter().map(|(_, path)| path).collect()
}

/// The whole lines of a file; a last one that is not ended yet does not count.
fn read_lines(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8(text).unwrap_or_else(|error| panic!("{} is not UTF-8: {error}", path.display()));
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

/// Waits until the log has `count` lines, and has them all.
#[track_caller]
pub fn lines_once_there_are(folder: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {}", folder.display()), || {
        let lines = lines(folder);
        (lines.len() >= count).then_some(lines)
    })
}

/// The body of a line of the text format: what follows the time and the source.
#[track_caller]
pub fn body(line: &str) -> &str {
    line.splitn(3, ' ').nth(2).unwrap_or_else(|| panic!("no text line: {line:?}"))
}

/// A libzmq XPUB, which is a PUB that hears of subscriptions: what it sends once
/// [`Feeder::until_subscribed`] has returned reaches the subscriber.
pub struct Feeder {
    socket: zmq::Socket,
    pub endpoint: String,
}

impl Feeder {
    /// On a free port.
    pub fn new() -> Self {
        Self::at("tcp://127.0.0.1:*")
    }

    /// An endpoint at which nobody listens until the test does. `host` is a loopback address that
    /// no other test uses, so that none of them is given the port meanwhile.
    pub fn endpoint_to_be(host: &str) -> String {
        Self::at(&format!("tcp://{host}:*")).endpoint
    }

    #[track_caller]
    pub fn at(endpoint: &str) -> Self {
        let socket = zmq::Context::new().socket(zmq::XPUB).unwrap();
        socket.set_sndhwm(0).unwrap();
        socket.set_xpub_verbose(true).unwrap();
        socket.set_linger(-1).unwrap();
        // A port that was just given up by a test's other peer may take a moment.
        eventually(&format!("bind {endpoint}"), || socket.bind(endpoint).ok());
        let endpoint = socket.get_last_endpoint().unwrap().unwrap();
        Self { socket, endpoint }
    }

    /// Waits for a subscription to everything.
    #[track_caller]
    pub fn until_subscribed(&self) {
        self.socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
        loop {
            if self.socket.recv_bytes(0).expect("a subscription") == [1] {
                return;
            }
        }
    }

    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) {
        self.socket.send_multipart(frames.iter().map(AsRef::as_ref), 0).unwrap();
    }
}

/// A libzmq SUB to everything.
pub struct Listener(pub zmq::Socket);

impl Listener {
    pub fn new() -> Self {
        let socket = zmq::Context::new().socket(zmq::SUB).unwrap();
        socket.set_subscribe(b"").unwrap();
        socket.set_rcvtimeo(PATIENCE.as_millis() as i32).unwrap();
        socket.set_rcvhwm(0).unwrap();
        Self(socket)
    }

    /// Connects, and returns once messages arrive; those that told are taken.
    #[track_caller]
    pub fn join(&self, publisher: &Daemon) {
        self.0.connect(publisher.told("publisher", "plain")).unwrap();
        let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
        let mut asked = 0;
        eventually("the subscription arrives", || {
            asked += 1;
            client.get(&format!("/downcase?param=JOIN{asked}")).unwrap();
            (self.0.poll(zmq::POLLIN, 10).unwrap() > 0).then_some(())
        });
        // Messages arrive in order: the last one asked for ends the prelude.
        while self.next() != [format!("lower case of JOIN{asked} is join{asked}")] {}
    }

    /// The frames of the next message, as text.
    #[track_caller]
    pub fn next(&self) -> Vec<String> {
        let frames = self.0.recv_multipart(0).expect("a message");
        frames.into_iter().map(|frame| String::from_utf8(frame).unwrap()).collect()
    }
}

/// A generator that is seeded, so that a failure can be had again: xorshift64* (Vigna, 2016).
pub struct Random(u64);

impl Random {
    /// Seeded by the variable SEED, else by the clock; the seed is printed.
    pub fn new() -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("SEED={seed}");
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
