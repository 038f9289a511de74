//! Signals: the first SIGINT or SIGTERM asks for an orderly end, a later one does not wait for it.
//!
//! They are waited for by a thread outside the runtime, which also sees to it that the end comes:
//! whatever hangs, even the runtime itself, the process is gone when the time is up.

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The longest an orderly end may take; Docker gives ten seconds.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(9);
// In `up` one stops after the other, and the log has to be begun to be finished before the time is up.
const _: () = assert!(
    publisher::STOP_WAIT_MAX.saturating_add(subscriber::READ_WAIT_MAX.saturating_mul(2)).as_millis()
        < SHUTDOWN_WAIT_MAX.as_millis()
);
/// A signal within this time of the first is the same one, sent to the process and to its group.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);
/// The wait for stderr to take the last words.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Catches the signals from now on, for a PID 1 as well. The first one cancels `stop`.
pub(crate) fn on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    // A write beyond the limit on a file's size is an error like that of a full disk, not the end.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).context("cannot catch SIGXFSZ")?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    let (sender, caught) = mpsc::channel();
    let catch = move || signals.forever().take_while(|signal| sender.send(*signal).is_ok()).for_each(drop);
    let start = |name: &str| thread::Builder::new().name(name.to_owned());
    start("signals").spawn(catch).context("cannot start a thread")?;
    start("shutdown").spawn(move || supervise(&caught, &stop)).context("cannot start a thread")?;
    Ok(())
}

fn supervise(caught: &mpsc::Receiver<i32>, stop: &CancellationToken) {
    let Ok(signal) = caught.recv() else { return };
    info!(signal = name(signal), "stopping");
    stop.cancel();
    let start = Instant::now();
    while let Ok(signal) = caught.recv_timeout(SHUTDOWN_WAIT_MAX.saturating_sub(start.elapsed())) {
        if start.elapsed() >= SECOND_SIGNAL_AFTER {
            give_up(&format!("a second signal came ({}), not waiting for an orderly end", name(signal)));
        }
    }
    give_up(&format!("did not stop within {SHUTDOWN_WAIT_MAX:?}"));
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

fn give_up(reason: &str) -> ! {
    last_words(reason);
    std::process::exit(1)
}

/// Says on stderr why the process ends, whether or not anybody reads it.
pub(crate) fn last_words(reason: &str) {
    let line = format!("downpipe: {reason}\n");
    let (said, wait) = mpsc::channel();
    let say = move || said.send(std::io::stderr().write_all(line.as_bytes()));
    // Without a thread there are no last words, but still an end.
    if thread::Builder::new().spawn(say).is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS_WAIT_MAX);
    }
}
