//! The daemons' own messages: to stderr, and on request also to daily files.
//!
//! They never go into the aggregated log. `RUST_LOG` chooses among them; by default they are ours
//! from `info` up, and those of the libraries from `warn` up.

use crate::cli::{DiagnosticsArgs, DiagnosticsFormat, UsageError};
use anyhow::Context;
use std::path::Path;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

const DEFAULT_FILTER: &str = "warn,downpipe=info,net=info,publisher=info,subscriber=info";

/// Starts them for the daemon called `name`. In the folder, `NAME.log` is always the newest file.
pub(crate) fn start(args: &DiagnosticsArgs, name: &str) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter)
            .map_err(|error| UsageError::Wrong(format!("RUST_LOG is not a filter: `{filter}`: {error}")))?,
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
    };
    let format = args.diagnostics_format;
    let file = args.folder.as_deref().map(|folder| daily_file(folder, name)).transpose()?;
    let file = file.map(|file| layer(format, file));
    tracing_subscriber::registry().with(filter).with(layer(format, std::io::stderr)).with(file).init();
    Ok(())
}

fn layer<S, W>(format: DiagnosticsFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        DiagnosticsFormat::Text => layer.boxed(),
        DiagnosticsFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn daily_file(folder: &Path, name: &str) -> anyhow::Result<RollingFileAppender> {
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(name)
        .filename_suffix("log")
        .latest_symlink(format!("{name}.log"))
        .build(folder)
        .with_context(|| format!("cannot write diagnostics to {}", folder.display()))
}
