//! `tail -F` is the user interface: it shows every line once, whatever happens to the subscriber and the files.

use super::*;
use crate::publishing::publish;

#[test]
fn tail_shows_every_line_once_over_kills_and_rotations() {
    const KILLS: usize = 20;
    const ROTATIONS: usize = 100;
    const RECORDS: usize = 2 * ROTATIONS + 30;
    let (folder, mut random) = (folder(), Random::new());
    let (_, publisher) = Origin::new(folder.path(), "one", "127.0.4.30", Load::new(0, 0));
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    let log =
        LogSite::new(folder.path(), &[publisher.told("publisher", "feed")], &["--rotate-size=1KiB", "--sync=50ms"]);
    std::fs::write(log.log(), "").unwrap();
    let tail = tail(&log.log());
    let mut subscriber = Some(log.start());
    let mut kills = 0;
    for number in 0..RECORDS {
        // Two of them fill a file. The next comes when `tail` has shown this one, so that it never has two
        // files to catch up with, which it cannot: but what it shows in the middle of is anybody's guess.
        let record = publish(&mut client, &format!("{number}{}", "y".repeat(200))).unwrap();
        if number % (RECORDS / KILLS) == RECORDS / KILLS - 1 && kills < KILLS {
            // Nothing waits for this: any moment around that of the writing is as good as another.
            thread::sleep(Duration::from_micros(random.below(5000)));
            subscriber.take().unwrap().kill();
            kills += 1;
            subscriber = Some(log.start());
        }
        let line = tail.line();
        assert_eq!(body(&line), record);
        assert!(line.contains(" one/downcase "), "{line}");
    }
    subscriber.unwrap().stop();
    assert_eq!(tail.line_so_far(), None);
    assert_eq!(kills, KILLS);
    let files = oracle::files(folder.path()).len();
    assert!(files > ROTATIONS, "{files} files");
    log.verify().assert_whole(RECORDS, 1);
    publisher.stop();
}

/// From the first line on. It polls, as it must on a mounted folder where inotify does not reach.
fn tail(log: &Path) -> Helper {
    let mut command = Command::new("tail");
    command.args(["-F", "-n", "+1", "-s", "0.01", "---disable-inotify"]).arg(log);
    Helper::start(command)
}
