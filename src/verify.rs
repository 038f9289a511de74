//! `downpipe verify`: what is printed of a log that was verified, and meanwhile.

use crate::cli::VerifyArgs;
use anyhow::{Context, ensure};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};
use subscriber::verify::{Report, verify};

/// How often a terminal is told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Verifies a log, and prints what was found.
///
/// # Errors
/// It cannot be verified, or it is not whole.
pub(crate) async fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    let verified = verify(&args.log, args.against.as_ref(), &mut |done, total| progress.show(done, total)).await;
    progress.clear();
    let report = verified?;
    let mut problems = report.problems.join("\n");
    if report.problems_more > 0 {
        let _ = write!(problems, "\nand {} more", report.problems_more);
    }
    if !problems.is_empty() {
        // A stderr that nobody has is no reason to say less on stdout.
        let _ = writeln!(stderr(), "{problems}");
    }
    let mut out = stdout().lock();
    out.write_all(table(&report).as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")?;
    ensure!(report.is_clean(), "the log {} is not whole", args.log.display());
    Ok(())
}

fn table(report: &Report) -> String {
    let Report { records, publishers, missing, duplicated, lost, forks, damaged, plain, .. } = report;
    let mut table = format!(
        "records {records}\npublishers {publishers}\nmissing {missing}\nduplicated {duplicated}\nlost {lost}\n\
         forks {forks}\ndamaged {damaged}\n"
    );
    for stream in &report.positions {
        let _ = writeln!(table, "position {} {} {} {}", stream.next, stream.stream, stream.base, stream.shown_name());
    }
    let _ = writeln!(table, "plain {plain}");
    table
}

/// A percentage, for who watches.
struct Progress {
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: None, is_terminal: stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, total: u64) {
        if !self.is_terminal || self.shown.is_some_and(|shown| shown.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        let _ = write!(stderr(), "\r{percent} %");
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use subscriber::verify::StreamPosition;

    #[test]
    fn the_table_has_the_seven_counts_first() {
        let stream = |next| StreamPosition { stream: Default::default(), base: 1, next, name: "web 1".to_owned() };
        let report = Report {
            records: 1,
            publishers: 2,
            missing: 3,
            duplicated: 4,
            lost: 5,
            forks: 6,
            damaged: 7,
            plain: 8,
            positions: vec![stream(9), stream(10)],
            ..Report::default()
        };
        assert_eq!(
            table(&report),
            "records 1\npublishers 2\nmissing 3\nduplicated 4\nlost 5\nforks 6\ndamaged 7\n\
             position 9 00000000-0000-0000-0000-000000000000 1 web 1\n\
             position 10 00000000-0000-0000-0000-000000000000 1 web 1\nplain 8\n"
        );
    }
}
