//! Disks without room: nothing new is acknowledged, nothing old is lost, and room is enough to go on.

use super::load::Load;
use super::*;

const NO_ROOM: &str = "No space left on device";

#[test]
fn a_disk_that_fills_refuses_until_there_is_room() {
    fill_and_empty("127.0.2.5", &["--segment-bytes=32MiB"]);
}

#[test]
fn a_disk_that_fills_while_segments_are_sealed_refuses_until_there_is_room() {
    fill_and_empty("127.0.2.6", &["--segment-bytes=64KiB"]);
}

fn fill_and_empty(host: &str, options: &[&str]) {
    let (folder, mut random) = (folder(), Random::new());
    let disk = Disk::memory(folder.path(), "64m");
    let site = Site::on(&disk, host, options);
    let publisher = site.start();
    let collector = Collector::follow(feed_of(&publisher));
    let load = Load::new(4, 200);
    load.goes_to(&publisher);
    load.during(|| {
        for _ in 0..5 {
            load.until_acknowledged(1 + random.below(500));
            let filler = disk.fill();
            let reason = unready(&publisher);
            assert!(reason.contains("the journal waits") && reason.contains(NO_ROOM), "{reason}");
            load.until_refused(20);
            drop(filler);
            publisher.until_ready("publisher");
            load.until_acknowledged(1);
        }
    });
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    // What was cut back stays so.
    publisher.kill();
    assert_next_goes_on(&site, &load, collector, 20);
}

#[test]
fn a_journal_without_room_to_open_serves_what_is_sealed_and_opens_when_there_is() {
    const LEFT_BYTES: usize = 16 * 1024;
    let folder = folder();
    let disk = Disk::memory(folder.path(), "64m");
    let site = Site::on(&disk, "127.0.2.7", &["--segment-bytes=64KiB"]);
    let publisher = site.start();
    let collector = Collector::follow(feed_of(&publisher));
    let load = Load::new(3, 1000);
    load.goes_to(&publisher);
    let last = eventually("there is enough in the last of some segments", || {
        load.during(|| load.until_acknowledged(10));
        let (last, file) = segments(&disk.seen(&site.journal)).pop()?;
        let bytes = blocks(&file, SegmentHeader::BYTES).end;
        (last.start.next > 100 && bytes > LEFT_BYTES).then_some(last)
    });
    assert_all_is_there(&publisher, &load, &collector);
    publisher.kill();

    let filler = disk.fill();
    let publisher = site.start();
    all_go_to(&publisher, &load, &collector);
    let reason = unready(&publisher);
    assert!(reason.contains("the journal waits") && reason.contains(NO_ROOM), "{reason}");
    assert_eq!(status_of_a_request(&publisher), 503);
    let late = Collector::follow(feed_of(&publisher));
    late.until_next(last.start.next);
    assert_eq!(head_of(&publisher).next, last.start);
    collector.look(|all| late.look(|late| assert!(late.statements.is_empty() && all.blocks.starts_with(&late.blocks))));

    drop(filler);
    publisher.until_ready("publisher");
    load.during(|| load.until_acknowledged(100));
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    late.until_next(collector.look(|collected| collected.position.next));
    load.assert_kept(&late.stop());
    collector.stop();
    publisher.stop();
}

#[test]
fn a_new_journal_without_room_begins_when_there_is() {
    let folder = folder();
    let disk = Disk::memory(folder.path(), "1m");
    let site = Site::on(&disk, "127.0.2.8", &[]);
    let filler = disk.fill();
    let publisher = site.start();
    let reason = unready(&publisher);
    assert!(reason.contains("the journal waits") && reason.contains(NO_ROOM), "{reason}");
    assert_eq!(status_of_a_request(&publisher), 503);
    let collector = Collector::follow(feed_of(&publisher));
    eventually("the collector knows the stream", || collector.look(|collected| collected.stream));
    drop(filler);
    publisher.until_ready("publisher");
    let load = Load::new(3, 100);
    load.goes_to(&publisher);
    load.during(|| load.until_acknowledged(50));
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    assert_eq!(collector.stop().connections, 1);
    publisher.stop();
}
