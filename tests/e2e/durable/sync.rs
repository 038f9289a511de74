//! An `fdatasync` that fails, or takes its time.

use super::load::Load;
use super::*;

const EIO: i32 = 5;

#[test]
fn after_a_sync_that_failed_nothing_is_acknowledged_until_a_restart() {
    let mut random = Random::new();
    for pass in [1, 2 + random.below(60)] {
        let folder = folder();
        let site = Site::new(folder.path(), "127.0.2.9", &[]);
        let publisher = site.start_with(&format!("sync=error:{EIO}@{pass}"));
        assert_takes_nothing_until_a_restart(&site, publisher, "cannot sync");
    }
}

#[test]
fn after_a_system_call_that_failed_nothing_is_acknowledged_until_a_restart() {
    let (folder, mut random) = (folder(), Random::new());
    let site = Site::new(folder.path(), "127.0.2.10", &[]);
    // It counts each thread's calls. That of the opening makes at most two, for the name and a segment.
    let inject = format!("inject=fdatasync:error=EIO:when={}", 3 + random.below(60));
    let strace = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject];
    let publisher = Site::new(folder.path(), "127.0.2.10", &[]).under(&strace).start();
    assert_takes_nothing_until_a_restart(&site, publisher, "cannot sync");
}

#[test]
fn after_a_folder_that_could_not_be_synced_nothing_is_acknowledged_until_a_restart() {
    const ENOSPC: i32 = 28;
    let mut random = Random::new();
    // Also for want of room: the next segment is there by then, and nothing may be added to the last.
    for errno in [EIO, ENOSPC] {
        let folder = folder();
        let site = Site::new(folder.path(), "127.0.2.11", &["--segment-bytes=64KiB"]);
        let publisher = site.start_with(&format!("seal.renamed=error:{errno}@{}", 1 + random.below(4)));
        assert_takes_nothing_until_a_restart(&site, publisher, "seal.renamed");
    }
}

/// A publisher whose disk is about to fail takes nothing any more then, and goes on serving what it
/// has; the next one has it too, and takes more.
fn assert_takes_nothing_until_a_restart(site: &Site, publisher: Daemon, reason: &str) {
    let collector = Collector::follow(feed_of(&publisher));
    let load = Load::new(4, 500);
    load.goes_to(&publisher);
    load.during(|| load.until_refused(50));
    let acknowledged = load.acknowledged();
    let readyz = unready(&publisher);
    assert!(readyz.contains("until a restart") && readyz.contains(reason), "{readyz}");
    load.during(|| load.until_refused(50));
    assert_eq!(load.acknowledged(), acknowledged);
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    assert_eq!(unready(&publisher), readyz);
    publisher.kill();

    assert_next_goes_on(site, &load, collector, 100);
}

#[test]
fn while_a_sync_takes_its_time_heads_go_on_and_everybody_is_answered_in_the_end() {
    let folder = folder();
    let site = Site::new(folder.path(), "127.0.2.12", &[]);
    let publisher = site.start_with("sync=delay:6000@40");
    let collector = Collector::follow(feed_of(&publisher));
    // The collector has begun by the 40th commit.
    let load = Load::new(4, 100).held_back_by(&collector, 10);
    load.goes_to(&publisher);
    load.during(|| {
        let reason = unready(&publisher);
        assert!(reason.contains("the disk has been at work on a commit for "), "{reason}");
        let connections = collector.look(|collected| collected.connections);
        collector.until_next(head_of(&publisher).next.next);
        publisher.until_ready("publisher");
        load.until_acknowledged(100);
        collector.look(|collected| assert_eq!(collected.connections, connections, "{}", collected.trouble));
    });
    assert_eq!(load.refused(), 0);
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    collector.stop();
    publisher.stop();
}
