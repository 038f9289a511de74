//! The configuration file: TOML, a table for each command that has options, their long names as keys.
//!
//! ```toml
//! [publisher]
//! http = "0.0.0.0:5000"
//!
//! [subscriber]
//! plain = ["tcp://publisher-1:4444", "billing=tcp://publisher-2:4444"]
//! rotate-size = "256MiB"
//! ```
//!
//! What it says becomes the options' defaults, so that the command line stays the one place that
//! knows options, their types and their limits. All of its tables are checked, also those that the
//! command that reads it has no use for.

use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Options that make no sense in the file itself, or would be given again at each start.
const NOT_KEYS: [&str; 3] = ["config", "help", "new-stream"];

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file {}: {reason}", path.display())]
    Wrong { path: PathBuf, reason: String },
}

/// The tables of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConfigFile {
    up: Table,
    publisher: Table,
    subscriber: Table,
}

impl ConfigFile {
    /// Reads a file and checks every key and value of it against the options of `command`.
    pub(crate) fn read(path: &Path, command: &clap::Command) -> Result<Self, ConfigError> {
        let wrong = |reason| ConfigError::Wrong { path: path.to_owned(), reason };
        let text = read_limited(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("longer than {FILE_BYTES_MAX} bytes")));
        }
        let file: Self = toml::from_str(&text).map_err(|error| wrong(located(&error, &text)))?;
        file.check(command).map_err(wrong)?;
        Ok(file)
    }

    fn tables(&self) -> [(&'static str, &Table); 3] {
        [("up", &self.up), ("publisher", &self.publisher), ("subscriber", &self.subscriber)]
    }

    fn check(&self, command: &clap::Command) -> Result<(), String> {
        for (name, table) in self.tables() {
            for (key, value) in table {
                check_value(command, name, key, value).map_err(|reason| format!("[{name}] {key}: {reason}"))?;
            }
        }
        Ok(())
    }

    /// `command` with what the file says as its defaults.
    pub(crate) fn layer(&self, mut command: clap::Command) -> clap::Command {
        for (name, table) in self.tables() {
            for (key, value) in table {
                let values = texts(value).expect("checked when the file was read");
                let id = option(&command, name, key).expect("checked when the file was read").get_id().clone();
                command = command.mut_subcommand(name, |command| command.mut_arg(id, |arg| arg.default_values(values)));
            }
        }
        command
    }
}

fn read_limited(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// One line where the parser would show the place in many.
fn located(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', ", ");
    match error.span() {
        Some(span) => format!("line {}: {message}", text[..span.start].matches('\n').count() + 1),
        None => message,
    }
}

fn option<'a>(command: &'a clap::Command, subcommand: &str, key: &str) -> Option<&'a clap::Arg> {
    let mut options = command.find_subcommand(subcommand)?.get_arguments();
    options.find(|arg| arg.get_long() == Some(key) && !NOT_KEYS.contains(&key))
}

/// Has the command line itself judge a value, as if it were the only flag. `command` must not have
/// its environment yet, so that all that can be wrong is the value.
fn check_value(command: &clap::Command, subcommand: &str, key: &str, value: &Value) -> Result<(), String> {
    let option = option(command, subcommand, key).ok_or("there is no such option")?;
    let values = texts(value).ok_or("the value is not a text, a number, true or false, or a list of them")?;
    if values.is_empty() {
        return Err("the list is empty".to_owned());
    }
    if values.len() > 1 && !matches!(option.get_action(), clap::ArgAction::Append) {
        return Err("it takes one value, not a list".to_owned());
    }
    let flags = values.iter().map(|value| format!("--{key}={value}"));
    let line = ["downpipe".to_owned(), subcommand.to_owned()].into_iter().chain(flags);
    match command.clone().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

/// A value as one would write it behind a flag.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Boolean(value) => Some(vec![value.to_string()]),
        Value::Array(values) => {
            let values = values.iter().map(|value| if value.is_array() { None } else { texts(value) });
            Some(values.collect::<Option<Vec<_>>>()?.concat())
        }
        _ => None,
    }
}
