//! Faults on purpose, at the named points of the journal's work: only with the feature `faults`.
//!
//! Tests of the real binary set the variable [`VARIABLE`] to what is to happen where, as
//! `POINT=ACTION@N`, several with commas: at the Nth pass of the point (the first if not given)
//! `kill` the process with SIGKILL, fail with an `error:ERRNO`, or wait for `delay:MILLISECONDS`.
//! Without the feature a point is nothing at all.

use std::io;

/// The environment variable that is read.
pub const VARIABLE: &str = "DOWNPIPE_FAULTS";

/// Every point, in the order in which a journal that is opened, written, sealed and retired passes them.
pub const POINTS: [&str; 24] = [
    "open.locked",
    "open.named",
    "open.copied",
    "open.synced",
    "open.renamed",
    "open.done",
    "commit.encoded",
    "commit.written",
    "commit.synced",
    "answer.before",
    "answer.after",
    "feed.after",
    "seal.before",
    "seal.created",
    "seal.synced",
    "seal.renamed",
    "seal.done",
    "index.written",
    "index.renamed",
    "retire.before",
    "retire.unlinked",
    "retire.done",
    "sync",
    "write",
];

/// What is to happen, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(any(test, feature = "faults"))]
    planned: std::sync::Arc<Vec<planned::Fault>>,
}

impl Faults {
    /// Passes a point.
    ///
    /// # Errors
    /// The one that was planned.
    #[cfg(not(any(test, feature = "faults")))]
    #[inline(always)]
    pub(crate) fn at(&self, _point: &str) -> io::Result<()> {
        Ok(())
    }

    /// What [`VARIABLE`] says. Nothing without the feature.
    #[cfg(not(any(test, feature = "faults")))]
    pub fn from_environment() -> Self {
        Self::default()
    }
}

#[cfg(any(test, feature = "faults"))]
mod planned {
    use super::{Faults, POINTS, VARIABLE, io};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// One planned fault.
    #[derive(Debug)]
    pub(super) struct Fault {
        point: String,
        action: Action,
        pass: u64,
        passed: AtomicU64,
    }

    #[derive(Debug, Clone, Copy)]
    enum Action {
        Kill,
        Error(i32),
        Delay(Duration),
    }

    impl Faults {
        /// What [`VARIABLE`] says.
        ///
        /// # Panics
        /// It says something else than points and actions.
        pub fn from_environment() -> Self {
            std::env::var(VARIABLE).map(|text| Self::planned(&text)).unwrap_or_default()
        }

        /// The faults of a plan as [`VARIABLE`] has it.
        ///
        /// # Panics
        /// It is no plan.
        pub fn planned(plan: &str) -> Self {
            let parse = |fault: &str| parse(fault).unwrap_or_else(|| panic!("{fault:?} is no fault"));
            Self { planned: Arc::new(plan.split(',').map(parse).collect()) }
        }

        pub(crate) fn at(&self, point: &str) -> io::Result<()> {
            assert!(POINTS.contains(&point), "{point} is not in the list");
            for fault in self.planned.iter().filter(|fault| fault.point == point) {
                if fault.passed.fetch_add(1, Ordering::Relaxed) + 1 != fault.pass {
                    continue;
                }
                match fault.action {
                    Action::Kill => kill_self(),
                    Action::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Action::Delay(time) => std::thread::sleep(time),
                }
            }
            Ok(())
        }
    }

    fn parse(fault: &str) -> Option<Fault> {
        let (point, rest) = fault.split_once('=')?;
        let (action, pass) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            Some(("error", errno)) => Action::Error(errno.parse().ok()?),
            Some(("delay", time)) => Action::Delay(Duration::from_millis(time.parse().ok()?)),
            _ => return None,
        };
        POINTS.contains(&point).then_some(())?;
        Some(Fault { point: point.to_owned(), action, pass: pass.parse().ok()?, passed: AtomicU64::new(0) })
    }

    fn kill_self() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
