//! Power cuts: an ext4 that is shut down without flushing, at random moments, under load.

use super::load::Load;
use super::*;

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    const CUTS: u64 = 30;
    const DISK_BYTES: u64 = 96 << 20;
    let (folder, mut random) = (folder(), Random::new());
    let disk = Disk::ext4(folder.path(), DISK_BYTES);
    let mut switch = disk.switch();
    let site = Site::on(&disk, "127.0.2.4", &["--segment-bytes=64KiB"]);
    let publisher = site.start();
    let collector = Collector::follow(feed_of(&publisher));
    let load = Load::new(6, 300);
    load.goes_to(&publisher);
    let publisher = load.during(|| {
        let mut publisher = publisher;
        for _ in 0..CUTS {
            load.until_acknowledged(1 + random.below(300));
            // Nobody outlives a power cut. Who did would be told by the kernel that a flush was done which
            // the cut had interrupted (jbd2 takes a transaction that was aborted and is gone for committed).
            publisher.signal("KILL");
            switch.cut();
            publisher.kill();
            disk.remount();
            publisher = site.start();
            all_go_to(&publisher, &load, &collector);
        }
        load.until_acknowledged(100);
        publisher
    });
    assert_eq!(assert_all_is_there(&publisher, &load, &collector), BEGINNING);
    collector.stop();

    // But a disk may be lost to a process that goes on.
    switch.cut();
    assert_eq!(status_of_a_request(&publisher), 503);
    let reason = unready(&publisher);
    assert!(reason.contains("until a restart"), "{reason}");
    publisher.kill();
}
