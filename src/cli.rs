//! The command line: its options, their environment variables, and what they say of themselves.
//!
//! An option's value comes from the flag, else the environment, else the file of `--config`, else
//! the default. The variable is the command's name and the option's: `PUBLISHER_HTTP`.

use crate::config::{ConfigError, ConfigFile};
use crate::shutdown;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use hyper::Uri;
use hyper::http::uri::Authority;
use net::{AddressError, Endpoint, HostPort};
use publisher::Name;
use publisher::journal::{QUEUE_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use subscriber::{FeedSource, FirstContact, Format, PlainSource, Stamp};

/// The command that runs if none is named.
const DEFAULT_COMMAND: &str = "up";
/// Whom a subscriber follows that was not told.
const DEFAULT_FEED: &str = "tcp://127.0.0.1:4445";
/// Options of `up` that are another command's, and have its variable.
const BORROWED: [(&str, &str); 2] = [("http", "PUBLISHER_HTTP"), ("format", "SUBSCRIBER_FORMAT")];

/// A log pipeline over ZeroMQ PUB/SUB, without a broker.
///
/// A small HTTP service answers and publishes every answer; subscribers stamp what is published
/// with the time and append it to rotating log files.
#[derive(Debug, Parser)]
#[command(name = "downpipe", version, override_usage = "downpipe [COMMAND] [OPTIONS]")]
#[command(after_help = "Without a command, `up` runs. `downpipe COMMAND --help` is the reference of its options.")]
struct Cli {
    #[command(subcommand)]
    command: Parsed,
}

#[derive(Debug, Subcommand)]
enum Parsed {
    /// Run a publisher and a subscriber in one process (the default)
    ///
    /// Data lies under ./data. Options of the two that are not listed here are taken from their
    /// variables, PUBLISHER_… and SUBSCRIBER_…, and from the tables [publisher] and [subscriber]
    /// of the configuration file.
    Up(UpArgs),
    /// Run the HTTP service that answers and publishes
    Publisher(PublisherArgs),
    /// Run the daemon that writes the log
    Subscriber(SubscriberArgs),
    /// Prove that a log is what its index says, and that no record of it is missing
    ///
    /// Reads every file of the log, beside a subscriber that writes it too, and prints on stdout, one name
    /// and value a line:
    ///
    ///   records     records whose line is in the log, and is what was written
    ///   publishers  addresses that they came from
    ///   missing     records that are not there
    ///   duplicated  records that are there twice
    ///   lost        records that the log itself says are lost
    ///   forks       times that a publisher's history went another way
    ///   damaged     entries, texts and files that are not what they were
    ///
    /// Then for each stream where the log stands in it and where it begins, and how many lines of plain
    /// sources there are, which have no numbers:
    ///
    ///   position NEXT STREAM BASE NAME
    ///   plain N
    ///
    /// What is wrong is said on stderr, with file and byte. What the end of the current file has that was
    /// not synced yet is in flight, and not missing. Exit 0 only if nothing is missing, duplicated, lost,
    /// forked or damaged; else 1.
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
    /// Ask a running daemon whether it is ready; exit 0 if it is
    Health(HealthArgs),
}

/// What to run, with every option resolved.
#[derive(Debug)]
pub(crate) enum Command {
    Up { diagnostics: DiagnosticsArgs, publisher: Box<PublisherArgs>, subscriber: Box<SubscriberArgs> },
    Publisher(Box<PublisherArgs>),
    Subscriber(Box<SubscriberArgs>),
    Verify(VerifyArgs),
    Health(HealthArgs),
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Folder of the log and of the journal
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Where HTTP listens [default: 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<HostPort>,
    /// How a line of the log looks [default: text]
    #[arg(long, value_parser = named(&Format::ALL))]
    format: Option<Format>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    diagnostics: DiagnosticsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PublisherArgs {
    /// Where HTTP listens; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    pub(crate) http: HostPort,
    /// Where the plain feed listens: PUB, one frame a message, the text itself
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:4444")]
    pub(crate) plain: Endpoint,
    /// Where the numbered feed listens: PUB, blocks of records and heads
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:4445")]
    pub(crate) feed: Endpoint,
    /// Where the replay listens: ROUTER, for what the feed did not bring
    #[arg(long, value_name = "ENDPOINT", default_value = "tcp://127.0.0.1:4446")]
    pub(crate) replay: Endpoint,
    /// Where subscribers find the replay [default: the feed's host, the replay's port]
    #[arg(long, value_name = "HOST:PORT", value_parser = advertised)]
    pub(crate) advertise_replay: Option<HostPort>,
    /// Folder of the journal: every record is on disk there before it is answered
    #[arg(long, value_name = "DIR", default_value = "data/journal")]
    pub(crate) journal: PathBuf,
    /// Name of the publisher, kept with the journal [default: the host's]
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// Begin a new stream, for a journal that was copied and is run by two publishers: give it to one of them, once
    ///
    /// The journal that is there is kept in its folder, under stream-STREAM, until you remove it. It is not
    /// served any more: what subscribers have not fetched of it they state as lost. Given again it begins
    /// yet another stream.
    #[arg(long)]
    pub(crate) new_stream: bool,
    /// How much of the journal is kept, in whole segments; beyond it the oldest is removed
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::<{ SEGMENT_BYTES_MIN }>)]
    pub(crate) retain_bytes: u64,
    /// How long records are kept, in whole segments [default: as long as there is room]
    #[arg(long, value_name = "TIME", value_parser = retain_age)]
    pub(crate) retain_age: Option<Duration>,
    /// When a segment of the journal is full
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = segment_bytes)]
    pub(crate) segment_bytes: u64,
    /// What may wait in memory for the disk; beyond it requests are answered 503
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = size::<{ QUEUE_BYTES_MIN }>)]
    pub(crate) append_queue: u64,
    /// What may wait in memory for slow subscribers, half for each feed; beyond it the plain feed drops and counts, and the numbered one leaves blocks to the replay
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = size::<{ publisher::LIVE_BUDGET_BYTES_MIN }>)]
    pub(crate) live_budget: u64,
    /// What replies of the replay may hold in memory
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = size::<{ publisher::REPLAY_BUDGET_BYTES_MIN }>)]
    pub(crate) replay_budget: u64,
    /// How long a subscriber may take nothing before it is cut off
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = peer_timeout)]
    pub(crate) peer_timeout: Duration,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) diagnostics: DiagnosticsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SubscriberArgs {
    /// The numbered feed of a publisher to follow; may be repeated or a comma list [default:
    /// tcp://127.0.0.1:4445, unless --plain is given]
    #[arg(long, value_name = "ENDPOINT", value_delimiter = ',')]
    pub(crate) feed: Vec<FeedSource>,
    /// Any PUB socket to follow, best effort; may be repeated or a comma list. Of a publisher whose --feed is
    /// followed everything would be written twice [default: none]
    #[arg(long, value_name = "[NAME=]ENDPOINT", value_delimiter = ',')]
    pub(crate) plain: Vec<PlainSource>,
    /// The current file of the log; full ones are numbered beside it
    #[arg(long, value_name = "FILE", default_value = "data/subscriber.log")]
    pub(crate) log: PathBuf,
    /// Where HTTP listens, for health and metrics; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5001")]
    pub(crate) http: HostPort,
    /// How a line of the log looks
    #[arg(long, default_value = "text", value_parser = named(&Format::ALL))]
    pub(crate) format: Format,
    /// When a file of the log is full
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size::<{ subscriber::ROTATE_BYTES_MIN }>)]
    pub(crate) rotate_size: u64,
    /// The time after which a file is full, counted from midnight UTC: 1h, 1day
    #[arg(long, value_name = "TIME", default_value = "never", value_parser = rotate_every)]
    pub(crate) rotate_every: RotateEvery,
    /// How many full files are kept; the oldest are removed [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep: Option<u64>,
    /// Where to begin with a publisher that the log does not know yet
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = named(&FROM))]
    pub(crate) from: FirstContact,
    /// Which time a line of text or article shows: that of receipt, or of publishing where it is known
    #[arg(long, value_name = "TIME", default_value = "received", value_parser = named(&Stamp::ALL))]
    pub(crate) stamp: Stamp,
    /// How often what was written is synced; a power cut costs no record in any case, if its publisher still has it
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = sync_every)]
    pub(crate) sync: Duration,
    /// Set aside a log that has no index, rather than being refused by it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub(crate) adopt: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(crate) diagnostics: DiagnosticsArgs,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// TOML file with tables [up], [publisher] and [subscriber]; keys are the long options
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DiagnosticsArgs {
    /// Write the daemon's own messages also to daily files in this folder
    #[arg(long = "diagnostics", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// How the daemon's own messages look; RUST_LOG says which
    #[arg(long = "diagnostics-format", value_name = "FORMAT", default_value = "text")]
    pub(crate) diagnostics_format: DiagnosticsFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DiagnosticsFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The current file of the log, whose index and whose full files lie beside it
    #[arg(value_name = "LOG")]
    pub(crate) log: PathBuf,
    /// Compare it with what a publisher has: the address of its replay
    #[arg(long, value_name = "ENDPOINT", value_parser = replay_endpoint)]
    pub(crate) against: Option<Endpoint>,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The daemon to ask; no path means /readyz
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:5000", value_parser = http_url)]
    pub(crate) url: Uri,
}

/// Where to begin, by name.
const FROM: [(&str, FirstContact); 2] = [("earliest", FirstContact::Earliest), ("latest", FirstContact::Latest)];

/// A period, or never: `Option` itself would be taken for an option that may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RotateEvery(pub(crate) Option<Duration>);

/// One of the values that have names.
fn named<T: Copy + Send + Sync + 'static>(values: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).map(move |chosen| {
        let value = values.iter().find(|(name, _)| *name == chosen);
        value.expect("only these names are possible").1
    })
}

impl SubscriberArgs {
    /// Who says nothing of sources follows the publisher of this machine.
    fn with_default_feed(mut self) -> Self {
        if self.feed.is_empty() && self.plain.is_empty() {
            self.feed = vec![DEFAULT_FEED.parse().expect("the default is an endpoint")];
        }
        self
    }
}

fn size<const MIN: u64>(text: &str) -> Result<u64, String> {
    let bytes = text.parse::<bytesize::ByteSize>()?.as_u64();
    if bytes < MIN {
        return Err(format!("less than the {MIN} bytes it takes at least"));
    }
    Ok(bytes)
}

fn advertised(text: &str) -> Result<HostPort, String> {
    let address: HostPort = text.parse().map_err(|error: AddressError| error.to_string())?;
    if address.port() == 0 { Err("port 0 is nobody's".to_owned()) } else { Ok(address) }
}

fn replay_endpoint(text: &str) -> Result<Endpoint, AddressError> {
    text.parse::<Endpoint>()?.connectable()
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    let bytes = size::<SEGMENT_BYTES_MIN>(text)?;
    if bytes > SEGMENT_BYTES_MAX {
        return Err(format!("more than the {SEGMENT_BYTES_MAX} bytes it takes at most"));
    }
    Ok(bytes)
}

fn peer_timeout(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_secs(1)..=Duration::from_secs(3600), "not between 1s and 1h")
}

fn retain_age(text: &str) -> Result<Duration, String> {
    let year = Duration::from_secs(366 * 24 * 3600);
    time(text, Duration::from_secs(1)..=100 * year, "not between 1s and 100years")
}

fn sync_every(text: &str) -> Result<Duration, String> {
    time(text, Duration::from_millis(10)..=Duration::from_secs(60), "not between 10ms and 1m")
}

fn rotate_every(text: &str) -> Result<RotateEvery, String> {
    if text == "never" {
        return Ok(RotateEvery(None));
    }
    let year = Duration::from_secs(366 * 24 * 3600);
    time(text, Duration::from_secs(1)..=year, "neither `never` nor between 1s and 1year")
        .map(|time| RotateEvery(Some(time)))
}

fn time(text: &str, bounds: RangeInclusive<Duration>, wrong: &str) -> Result<Duration, String> {
    let time = *text.parse::<humantime::Duration>().map_err(|error| error.to_string())?;
    if bounds.contains(&time) { Ok(time) } else { Err(wrong.to_owned()) }
}

fn http_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let names_port = |authority: &Authority| authority.as_str().len() > authority.host().len();
    let port_is_wrong =
        url.authority().is_some_and(|authority| names_port(authority) && authority.port_u16().is_none());
    if url.scheme_str() != Some("http") || url.host().is_none() || port_is_wrong {
        return Err("not a URL like http://127.0.0.1:5000".to_owned());
    }
    Ok(url)
}

/// Why the process cannot know what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Each option is right, but not all of them together, or a variable that is no option is wrong.
    #[error("{0}")]
    Wrong(String),
}

impl UsageError {
    /// Says what is wrong and exits with 2; help and version, which come this way too, with 0.
    pub(crate) fn exit(self) -> ! {
        match self {
            Self::CommandLine(error) => error.exit(),
            error => {
                shutdown::last_words(&format!("{:#}", anyhow::Error::from(error)));
                std::process::exit(2)
            }
        }
    }
}

/// Reads the command line, with the environment and the configuration file behind it.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let args = with_default_command(args.into_iter().collect());
    let bare = Cli::command();
    let matches = with_environment(bare.clone()).try_get_matches_from(&args)?;
    let path = matches.subcommand().and_then(|(_, options)| options.try_get_one::<PathBuf>("config").ok().flatten());
    let file = path.map(|path| ConfigFile::read(path, &bare)).transpose()?.unwrap_or_default();

    Ok(match resolve(&file, bare.clone(), &args)? {
        Parsed::Up(args) => {
            let options = matches.subcommand_matches(DEFAULT_COMMAND);
            let data_is_flag =
                options.is_some_and(|options| options.value_source("data") == Some(ValueSource::CommandLine));
            up(args, data_is_flag, &file, bare)?
        }
        Parsed::Publisher(args) => Command::Publisher(Box::new(args)),
        Parsed::Subscriber(args) => Command::Subscriber(Box::new(args.with_default_feed())),
        Parsed::Verify(args) => Command::Verify(args),
        Parsed::Health(args) => Command::Health(args),
    })
}

fn resolve(file: &ConfigFile, bare: clap::Command, args: &[OsString]) -> Result<Parsed, clap::Error> {
    let matches = with_environment(file.layer(bare)).try_get_matches_from(args)?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// `up` is the two other commands, as their variables and tables have them, under what it was given
/// itself. A folder given as a flag goes over SUBSCRIBER_LOG and PUBLISHER_JOURNAL, any other is the
/// default behind them.
fn up(args: UpArgs, data_is_flag: bool, file: &ConfigFile, bare: clap::Command) -> Result<Command, clap::Error> {
    let (log, journal) = (args.data.join("subscriber.log"), args.data.join("journal"));
    let (default_log, default_journal) = (log.clone().into_os_string(), journal.clone().into_os_string());
    let bare = bare.mut_subcommand("publisher", |publisher| {
        publisher.mut_arg("journal", |arg| arg.default_value(default_journal))
    });
    let bare =
        bare.mut_subcommand("subscriber", |subscriber| subscriber.mut_arg("log", |arg| arg.default_value(default_log)));
    let parse = |name: &str| resolve(file, bare.clone(), &["downpipe".into(), name.into()]);
    let (Parsed::Publisher(mut publisher), Parsed::Subscriber(mut subscriber)) =
        (parse("publisher")?, parse("subscriber")?)
    else {
        unreachable!("a command line that names a command parses as that command")
    };
    publisher.http = args.http.unwrap_or(publisher.http);
    subscriber.format = args.format.unwrap_or(subscriber.format);
    if data_is_flag {
        subscriber.log = log;
        publisher.journal = journal;
    }
    Ok(Command::Up { diagnostics: args.diagnostics, publisher: Box::new(publisher), subscriber: Box::new(subscriber) })
}

/// Puts [`DEFAULT_COMMAND`] in front of the options if no command stands there.
fn with_default_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_help = |arg: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|help| arg == help);
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-") && !is_help(arg);
    if args.get(1).is_none_or(is_option) {
        args.insert(1.min(args.len()), DEFAULT_COMMAND.into());
    }
    args
}

/// Gives every option its variable.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|subcommand| {
        let prefix = subcommand.get_name().to_uppercase();
        subcommand.mut_args(|arg| {
            let Some(option) = arg.get_long().filter(|&option| option != "help") else { return arg };
            let borrowed = BORROWED.iter().find(|(name, _)| prefix == "UP" && *name == option);
            let variable = match borrowed {
                Some((_, variable)) => (*variable).to_owned(),
                None => format!("{prefix}_{}", option.to_uppercase().replace('-', "_")),
            };
            arg.env(variable).hide_env_values(true)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        with_environment(Cli::command()).debug_assert();
    }

    #[test]
    fn without_a_command_options_are_those_of_up() {
        let completed = |line: &str| {
            let args = with_default_command(line.split(' ').map(OsString::from).collect());
            args.join(&OsString::from(" ")).into_string().unwrap()
        };
        assert_eq!(completed("downpipe"), "downpipe up");
        assert_eq!(completed("downpipe --data x"), "downpipe up --data x");
        for complete in ["downpipe publisher --http :0", "downpipe --help", "downpipe -V", "downpipe nonsense"] {
            assert_eq!(completed(complete), complete);
        }
    }

    #[test]
    fn a_url_has_a_host_and_a_port_that_there_can_be() {
        for url in ["http://127.0.0.1:5000", "http://name/livez", "http://[::1]:80/"] {
            assert!(http_url(url).is_ok(), "{url}");
        }
        for url in ["https://name", "name:80", "/readyz", "http://127.0.0.1:99999", "http://name:http", "http://"] {
            assert!(http_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_size_and_a_time_have_limits() {
        assert_eq!(size::<1024>("1KiB"), Ok(1024));
        assert!(size::<1024>("1023").unwrap_err().contains("1024"));
        assert!(size::<1024>("many").is_err());
        assert_eq!(peer_timeout("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(retain_age("7days"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert!(retain_age("1ms").is_err() && retain_age("101years").is_err());
        assert!(segment_bytes("63KiB").is_err() && segment_bytes("257MiB").is_err());
        assert_eq!(segment_bytes("64KiB"), Ok(65_536));
        assert_eq!(rotate_every("never"), Ok(RotateEvery(None)));
        assert_eq!(rotate_every("1h"), Ok(RotateEvery(Some(Duration::from_secs(3600)))));
        assert!(rotate_every("500ms").is_err() && rotate_every("often").is_err());
        assert!(sync_every("1ms").is_err() && sync_every("2m").is_err());
        assert!(peer_timeout("999ms").is_err() && peer_timeout("3600.5s").is_err() && peer_timeout("soon").is_err());
    }
}
