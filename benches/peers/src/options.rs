//! The command line.

use anyhow::{Result, bail};
use clap::Parser;
use measure::records::Records;

/// Downpipe beside what users would pick instead
#[derive(Parser)]
#[command(name = "peers")]
pub(crate) struct Options {
    /// How many records each contestant gets in a round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub(crate) records: u64,
    /// How long the body of a record is, in bytes
    #[arg(long, default_value_t = 100, value_parser = size)]
    pub(crate) size: usize,
    /// How often each is measured; the medians are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: u64,
    /// Only these contestants
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Install what is missing, with apt-get (as root or through sudo) and pip
    #[arg(long)]
    pub(crate) install: bool,
}

impl Options {
    /// Whether this contestant is to be measured.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// A name that is misspelt must not make a table that lacks it in silence.
    pub(crate) fn check_names(&self, names: &[&str]) -> Result<()> {
        match self.only.iter().find(|only| !names.contains(&only.as_str())) {
            Some(unknown) => bail!("no contestant is called {unknown:?}; there are {}", names.join(", ")),
            None => Ok(()),
        }
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let range = Records::SIZE_MIN..=64 * 1024;
    if range.contains(&size) { Ok(size) } else { Err(format!("not within {range:?}")) }
}
