//! The daemons' own messages: to stderr, and on request also to daily files.
//!
//! They never go into the aggregated log. `RUST_LOG` chooses among them; by default they are ours
//! from `info` up, and those of the libraries from `warn` up.
//!
//! They are written by threads of their own behind bounded queues: a pipe that nobody reads, or a
//! disk that hangs, costs messages and never holds up the work.

use crate::cli::{DiagnosticsArgs, DiagnosticsFormat, UsageError};
use anyhow::{Context, ensure};
use std::env::VarError;
use std::fs;
use std::path::Path;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

const DEFAULT_FILTER: &str = "warn,downpipe=info,net=info,publisher=info,subscriber=info";
/// Messages that wait to be written, of each of the two places; further ones are dropped.
const WAITING_MAX: usize = 8192;

/// Writes what still waits when it is dropped.
#[must_use]
pub(crate) struct Diagnostics(#[expect(dead_code, reason = "held for its drop")] Vec<WorkerGuard>);

/// Starts them for the daemon called `name`. In the folder, `NAME.diagnostics` leads to the newest file.
pub(crate) fn start(args: &DiagnosticsArgs, name: &str) -> anyhow::Result<Diagnostics> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter)
            .map_err(|error| UsageError::Wrong(format!("RUST_LOG is not a filter: `{filter}`: {error}")))?,
        Err(VarError::NotPresent) => EnvFilter::new(DEFAULT_FILTER),
        Err(error) => return Err(UsageError::Wrong(format!("RUST_LOG: {error}")).into()),
    };
    let format = args.diagnostics_format;
    let (stderr, guard) = in_background(std::io::stderr());
    let mut guards = vec![guard];
    let mut file_layer = None;
    if let Some(folder) = &args.folder {
        let file = daily_file(folder, &format!("{name}.diagnostics"))
            .with_context(|| format!("cannot write diagnostics to {}", folder.display()))?;
        let (file, guard) = in_background(file);
        guards.push(guard);
        file_layer = Some(layer(format, file));
    }
    tracing_subscriber::registry().with(filter).with(layer(format, stderr)).with(file_layer).init();
    Ok(Diagnostics(guards))
}

fn in_background(writer: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_MAX).finish(writer)
}

fn layer<S>(format: DiagnosticsFormat, writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        DiagnosticsFormat::Text => layer.boxed(),
        DiagnosticsFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn daily_file(folder: &Path, link: &str) -> anyhow::Result<RollingFileAppender> {
    fs::create_dir_all(folder)?;
    // The link holds the path of the file, so it has to be one that leads there from anywhere.
    let folder = fs::canonicalize(folder)?;
    // The appender removes whatever has the link's name.
    let in_the_way = fs::symlink_metadata(folder.join(link)).is_ok_and(|found| !found.is_symlink());
    ensure!(!in_the_way, "{link} is in the way there");
    let file = RollingFileAppender::builder().rotation(Rotation::DAILY).filename_prefix(link).latest_symlink(link);
    Ok(file.build(folder)?)
}
