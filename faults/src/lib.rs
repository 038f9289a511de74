//! Faults on purpose, at named points of what the daemons do to their disks: only with the feature `planned`.
//!
//! Tests of the real binary set the variable [`VARIABLE`] to what is to happen where, as
//! `POINT=ACTION@N`, several with commas: at the Nth pass of the point (the first if not given)
//! `kill` the process with SIGKILL, fail with an `error:ERRNO`, or wait for `delay:MILLISECONDS`; with
//! `@N+` at that pass and each later one. Without the feature a point is nothing at all.
//!
//! Each crate has a list of its own points, and takes no notice of those of others: `up` has both.

use std::io;

/// The environment variable that is read.
pub const VARIABLE: &str = "DOWNPIPE_FAULTS";

/// What is to happen, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "planned")]
    points: &'static [&'static str],
    #[cfg(feature = "planned")]
    planned: std::sync::Arc<Vec<planned::Fault>>,
}

impl Faults {
    /// Passes a point.
    ///
    /// # Errors
    /// The one that was planned.
    #[cfg(not(feature = "planned"))]
    #[inline(always)]
    pub fn at(&self, _point: &str) -> io::Result<()> {
        Ok(())
    }

    /// What [`VARIABLE`] says of `points`. Nothing without the feature.
    #[cfg(not(feature = "planned"))]
    pub fn from_environment(_points: &'static [&'static str]) -> Self {
        Self::default()
    }
}

#[cfg(feature = "planned")]
mod planned {
    use super::{Faults, VARIABLE, io};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// One planned fault.
    #[derive(Debug)]
    pub(super) struct Fault {
        point: String,
        action: Action,
        pass: u64,
        goes_on: bool,
        passed: AtomicU64,
    }

    #[derive(Debug, Clone, Copy)]
    enum Action {
        Kill,
        Error(i32),
        Delay(Duration),
    }

    impl Faults {
        /// What [`VARIABLE`] says of `points`.
        ///
        /// # Panics
        /// It says something else than points and actions.
        pub fn from_environment(points: &'static [&'static str]) -> Self {
            Self::planned(points, std::env::var(VARIABLE).as_deref().unwrap_or_default())
        }

        /// The faults of a plan as [`VARIABLE`] has it.
        ///
        /// # Panics
        /// It is no plan.
        pub fn planned(points: &'static [&'static str], plan: &str) -> Self {
            let parse = |fault: &str| parse(fault).unwrap_or_else(|| panic!("{fault:?} is no fault"));
            let planned = plan.split(',').filter(|fault| !fault.is_empty()).map(parse);
            Self { points, planned: Arc::new(planned.filter(|fault| points.contains(&&*fault.point)).collect()) }
        }

        /// Passes a point.
        ///
        /// # Errors
        /// The one that was planned.
        ///
        /// # Panics
        /// The point is in nobody's list.
        pub fn at(&self, point: &str) -> io::Result<()> {
            assert!(self.points.is_empty() || self.points.contains(&point), "{point} is not in the list");
            for fault in self.planned.iter().filter(|fault| fault.point == point) {
                let pass = fault.passed.fetch_add(1, Ordering::Relaxed) + 1;
                if pass < fault.pass || (pass > fault.pass && !fault.goes_on) {
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
        let (pass, goes_on) = pass.strip_suffix('+').map_or((pass, false), |pass| (pass, true));
        Some(Fault { point: point.to_owned(), action, pass: pass.parse().ok()?, goes_on, passed: AtomicU64::new(0) })
    }

    fn kill_self() -> ! {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
