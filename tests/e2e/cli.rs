//! The command line: help, configuration, and what is said when something is wrong.

use crate::harness::*;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

fn run(args: &[&str]) -> Outcome {
    outcome(downpipe().args(args))
}

/// Exit code, and one sentence that names the thing.
#[track_caller]
fn assert_refused(outcome: &Outcome, code: i32, named: &str) {
    assert_eq!((outcome.code, &*outcome.stdout), (code, ""), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(named), "{named:?} is not in {:?}", outcome.stderr);
    assert!(!outcome.stderr.contains("backtrace") && !outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn help_names_every_option_its_variable_and_its_default() {
    let help = |command: &str| {
        let help = run(&[command, "--help"]);
        assert_eq!((help.code, &*help.stderr), (0, ""));
        help.stdout
    };
    for (command, said) in [
        ("up", vec!["--data <DIR>", "[env: UP_DATA]", "[default: data]", "[env: PUBLISHER_HTTP]", "127.0.0.1:5000"]),
        ("publisher", vec!["--plain <ENDPOINT>", "[env: PUBLISHER_PLAIN]", "[default: tcp://127.0.0.1:4444]", "32MiB"]),
        ("subscriber", vec!["--rotate-size <SIZE>", "[env: SUBSCRIBER_ROTATE_SIZE]", "[default: 64MiB]", "article"]),
        ("verify", vec!["--against <ENDPOINT>", "[env: VERIFY_AGAINST]", "position NEXT STREAM BASE NAME"]),
        ("health", vec!["http://127.0.0.1:5000"]),
    ] {
        let help = help(command);
        for said in said {
            assert!(help.contains(said), "{said} is not in {help}");
        }
    }
    let help = run(&["--help"]).stdout;
    assert!(
        ["up", "publisher", "subscriber", "verify", "health"]
            .iter()
            .all(|command| help.contains(&format!("\n  {command} ")))
    );
    assert_eq!(run(&["--version"]).stdout, format!("downpipe {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_refused_with_2() {
    for (args, named) in [
        (&["publish"][..], "'publish'"),
        (&["--nonsense"], "'--nonsense'"),
        (&["publisher", "--http=localhost"], "`localhost` does not end in a port"),
        (&["publisher", "--plain=127.0.0.1:4444"], "`127.0.0.1:4444` is not a TCP endpoint"),
        (&["publisher", "--live-budget=1KiB"], "4194304 bytes"),
        (&["publisher", "--name=$mine"], "it begins with $"),
        (&["publisher", "--name= "], "white space"),
        (&["publisher", "--advertise-replay=host:0"], "port 0 is nobody's"),
        (&["publisher", "--segment-bytes=1GiB"], "268435456 bytes"),
        (&["publisher", "--append-queue=1KiB"], "1048576 bytes"),
        (&["publisher", "--replay-budget=1KiB"], "bytes it takes at least"),
        (&["publisher", "--retain-bytes=1MiB"], "--retain-bytes is less than --segment-bytes: 1048576 and 33554432"),
        (&["publisher", "--retain-bytes=1TiB", "--segment-bytes=64KiB"], "more than 65536"),
        (&["publisher", "--retain-age=1ms"], "not between 1s and 100years"),
        (&["publisher", "--peer-timeout=soon"], "--peer-timeout"),
        (&["subscriber", "--plain=tcp://127.0.0.1:0"], "cannot be connected to"),
        (&["subscriber", "--plain=$x=tcp://127.0.0.1:1"], "\"$x\" cannot be the name of a source"),
        (&["subscriber", "--format=xml"], "'xml'"),
        (&["subscriber", "--rotate-size=10"], "1024 bytes"),
        (&["health", "ftp://x"], "http://127.0.0.1:5000"),
        (&["verify"], "<LOG>"),
        (&["verify", "x", "y"], "'y'"),
        (&["verify", "x", "--against=127.0.0.1:4446"], "`127.0.0.1:4446` is not a TCP endpoint"),
        (&["verify", "x", "--against=tcp://*:4446"], "cannot be connected to"),
    ] {
        assert_refused(&run(args), 2, named);
    }
    assert_refused(&outcome(downpipe().arg("publisher").env("PUBLISHER_HTTP", "x:y")), 2, "`x:y`");
}

#[test]
fn what_cannot_be_had_is_refused_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let in_use = format!("downpipe: cannot listen on {address}: Address already in use (os error 98)\n");
    let folder = folder();
    for option in ["--http={}", "--plain=tcp://{}", "--feed=tcp://{}", "--replay=tcp://{}"] {
        let mut command = downpipe();
        command.args(["publisher", &option.replace("{}", &address.to_string())]).current_dir(folder.path());
        on_free_ports(&mut command);
        assert_refused(&outcome(&mut command), 1, &in_use);
    }

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let unwritable = file.join("data");
    let named = format!("downpipe: cannot create {}/journal: Not a directory (os error 20)\n", unwritable.display());
    let mut command = downpipe();
    command.arg("--data").arg(&unwritable);
    on_free_ports(&mut command);
    assert_refused(&outcome(&mut command), 1, &named);
    let named = format!("downpipe: cannot create the folder {}: Not a directory (os error 20)\n", unwritable.display());
    let mut command = downpipe();
    command.args(["subscriber", "--http=127.0.0.1:0", "--log"]).arg(unwritable.join("subscriber.log"));
    assert_refused(&outcome(&mut command), 1, &named);

    let twice = "tcp://127.0.0.1:9,name=tcp://127.0.0.1:9";
    let subscriber = outcome(downpipe().args(subscriber_args(folder.path(), twice)));
    assert_refused(&subscriber, 2, "tcp://127.0.0.1:9 is given twice");
    let twice = "web=tcp://127.0.0.1:9,web=tcp://127.0.0.1:10";
    let subscriber = outcome(downpipe().args(subscriber_args(folder.path(), twice)));
    assert_refused(&subscriber, 2, "two plain sources are called web");
    let mut command = downpipe();
    command.args(subscriber_args(folder.path(), "tcp://127.0.0.1:9")).arg("--diagnostics=/proc/nowhere");
    assert_refused(&outcome(&mut command), 1, "/proc/nowhere");
}

#[test]
fn a_journal_has_one_name_and_one_publisher() {
    let folder = folder();
    let publisher = publisher_in(folder.path(), &["--name=web-1"]);
    let journal = folder.path().join("journal");
    let start = |name: &str| {
        let mut command = downpipe();
        command.args(["publisher", name]).env("PUBLISHER_JOURNAL", &journal);
        on_free_ports(&mut command);
        outcome(&mut command)
    };
    let locked = format!("downpipe: cannot lock {}: another process has it\n", journal.display());
    assert_refused(&start("--name=web-1"), 1, &locked);
    publisher.stop();
    let named = format!("downpipe: the journal {} is that of `web-1`, not of `web-2`\n", journal.display());
    assert_refused(&start("--name=web-2"), 2, &named);
    publisher_in(folder.path(), &["--name=web-1"]).stop();
    publisher_in(folder.path(), &[]).stop();
}

#[test]
fn a_folder_without_permission_is_named() {
    let folder = folder();
    let mut command = if is_root() {
        // As nobody: root may write anywhere.
        downpipe_under(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    } else {
        downpipe()
    };
    command.args(subscriber_args(Path::new("/etc/downpipe"), "tcp://127.0.0.1:9")).current_dir(folder.path());
    let refused = outcome(&mut command);
    assert_refused(&refused, 1, "downpipe: cannot create the folder /etc/downpipe: Permission denied (os error 13)\n");
}

fn write_config(folder: &Path, text: &str) -> String {
    let path = folder.join("downpipe.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_flag_is_over_the_environment_over_the_file_over_the_default() {
    let folder = folder();
    let config = write_config(
        folder.path(),
        "[publisher]\nhttp = '127.0.0.2:0'\nplain = 'tcp://127.0.0.2:0'\nfeed = 'tcp://127.0.0.2:0'\nreplay = 'tcp://127.0.0.2:0'\n\
         live-budget = 20000000\n[subscriber]\nformat = 'json'\n",
    );
    let start = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = downpipe();
        command.arg("publisher").args(args).args(["--config", &config]).envs(env.iter().copied());
        command.current_dir(folder.path());
        let daemon = Daemon::start(command, 1);
        let ip = |address: &str| address.trim_start_matches("tcp://").split(':').next().unwrap().to_owned();
        (ip(daemon.told("publisher", "http")), ip(daemon.told("publisher", "plain")))
    };
    let both = |http: &str, plain: &str| (format!("127.0.0.{http}"), format!("127.0.0.{plain}"));
    assert_eq!(start(&[], &[]), both("2", "2"));
    assert_eq!(start(&[], &[("PUBLISHER_HTTP", "127.0.0.3:0")]), both("3", "2"));
    assert_eq!(start(&["--http=127.0.0.4:0"], &[("PUBLISHER_HTTP", "127.0.0.3:0")]), both("4", "2"));

    let mut command = downpipe();
    command.args(["--config", &config, "--data"]).arg(folder.path()).env("SUBSCRIBER_HTTP", "127.0.0.1:0");
    let up = Daemon::start(command, 2);
    assert!(up.told("publisher", "http").starts_with("127.0.0.2:"));
    assert!(up.told("publisher", "plain").starts_with("tcp://127.0.0.2:"));
    up.page("publisher", "/downcase?param=X");
    assert!(lines_once_there_are(folder.path(), 1)[0].starts_with("{\"timestamp\""));
}

#[test]
fn a_configuration_file_that_is_wrong_is_refused_by_file_and_key() {
    let folder = folder();
    for (text, named) in [
        ("[publisher]\nhtpp = 'x'", "[publisher] htpp: there is no such option"),
        ("[publisher]\nhttp = 'x'", "[publisher] http: invalid value 'x'"),
        ("[subscriber]\nrotate-size = '10'", "[subscriber] rotate-size: invalid value '10'"),
        ("[subscriber]\nformat = ['text', 'json']", "[subscriber] format: it takes one value"),
        ("[subscriber]\nplain = []", "[subscriber] plain: the list is empty"),
        ("[subscriber]\nplain = 1.5", "[subscriber] plain: the value is not a text"),
        ("[publisher]\nnew-stream = 'true'", "[publisher] new-stream: there is no such option"),
        ("[up]\nconfig = 'other'", "[up] config: there is no such option"),
        ("[publishr]\n", "line 1: unknown field `publishr`"),
        ("[publisher]\nhttp = \n", "line 2: "),
    ] {
        let config = write_config(folder.path(), text);
        for command in ["up", "publisher", "subscriber"] {
            let refused = run(&[command, "--config", &config]);
            assert_refused(&refused, 2, &format!("downpipe: configuration file {config}: {named}"));
            assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        }
    }
    assert_refused(
        &run(&["--config", "/nowhere.toml"]),
        2,
        "cannot read the configuration file /nowhere.toml: No such file",
    );
}

#[test]
fn health_asks_the_daemon_and_tells_its_reasons() {
    let publisher = publisher(&[]);
    let http = publisher.told("publisher", "http").to_owned();
    for path in ["", "/", "/readyz", "/livez"] {
        let healthy = run(&["health", &format!("http://{http}{path}")]);
        assert_eq!((healthy.code, &*healthy.stderr), (0, ""), "{path}");
    }
    assert_refused(&run(&["health", &format!("http://{http}/nothing")]), 1, "/nothing is not ready (404)");
    publisher.kill();
    let gone = format!("downpipe: http://{http}/readyz does not answer: Connection refused (os error 111)\n");
    assert_refused(&run(&["health", &format!("http://{http}")]), 1, &gone);

    let folder = folder();
    let subscriber = subscriber(folder.path(), "tcp://127.0.0.1:9", &[]);
    let url = format!("http://{}", subscriber.told("subscriber", "http"));
    assert_refused(&run(&["health", &url]), 1, "is not ready (503): tcp://127.0.0.1:9 is not connected: ");
}

#[test]
fn what_is_no_log_is_not_verified_and_a_publisher_that_is_not_there_is_named() {
    let folder = folder();
    let log = folder.path().join("subscriber.log");
    let log = log.to_str().unwrap();
    assert_refused(&run(&["verify", log]), 1, &format!("downpipe: there is no log {log}\n"));
    fs::write(log, "a line\n").unwrap();
    assert_refused(&run(&["verify", log]), 1, &format!("downpipe: the log {log} has no index\n"));
    let against = "downpipe: cannot compare with tcp://127.0.0.1:9: ";
    assert_refused(&run(&["verify", log, "--against=tcp://127.0.0.1:9"]), 1, against);
}

#[test]
fn diagnostics_go_to_stderr_and_a_file_and_never_into_the_log() {
    // The folder is the log's own, and relative: neither may harm the other.
    let folder = folder();
    let mut command = downpipe();
    command.args(["subscriber", "--http=127.0.0.1:0", "--plain=tcp://127.0.0.1:9", "--log=subscriber.log"]);
    command.args(["--diagnostics=.", "--diagnostics-format=json"]).current_dir(folder.path());
    let subscriber = Daemon::start(command, 1);
    let is_json = |text: &str| text.lines().all(|line| line.starts_with("{\"timestamp\":"));
    let stderr = eventually("a message on stderr", || Some(subscriber.stderr()).filter(|text| text.contains('\n')));
    assert!(is_json(&stderr), "{stderr}");
    let file = eventually("a message in the file", || {
        let file = fs::read_to_string(folder.path().join("subscriber.diagnostics")).unwrap();
        file.contains("not connected").then_some(file)
    });
    assert!(is_json(&file), "{file}");
    subscriber.stop();
    assert_eq!(lines(folder.path()), [""; 0]);

    // What is not the newest file's link is nobody's to remove.
    fs::remove_file(folder.path().join("subscriber.diagnostics")).unwrap();
    fs::write(folder.path().join("subscriber.diagnostics"), "mine").unwrap();
    let mut command = downpipe();
    command.args(["subscriber", "--http=127.0.0.1:0", "--diagnostics=."]).current_dir(folder.path());
    assert_refused(
        &outcome(&mut command),
        1,
        "cannot write diagnostics to .: subscriber.diagnostics is in the way there",
    );
    assert_eq!(fs::read_to_string(folder.path().join("subscriber.diagnostics")).unwrap(), "mine");
}

#[test]
fn rust_log_chooses_the_diagnostics() {
    let folder = folder();
    let mut command = downpipe();
    command.args(subscriber_args(folder.path(), "tcp://127.0.0.1:9")).env("RUST_LOG", "no=such=filter");
    assert_refused(&outcome(&mut command), 2, "RUST_LOG is not a filter: `no=such=filter`");
    let mut command = downpipe();
    command.args(subscriber_args(folder.path(), "tcp://127.0.0.1:9")).env("RUST_LOG", "off");
    let subscriber = Daemon::start(command, 1);
    eventually("it has tried", || (subscriber.page("subscriber", "/readyz").body.contains("timed out")).then_some(()));
    assert_eq!(subscriber.stderr(), "");
}
