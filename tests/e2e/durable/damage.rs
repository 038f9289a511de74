//! Sealed segments that were damaged on the disk: what is whole is had, and the rest is stated.

use super::load::Load;
use super::*;
use std::fs;
use std::ops::Range;

/// The longest run of bytes that is damaged.
const RUN_BYTES_MAX: u64 = 16;

/// A journal's block, and where it is.
struct Kept {
    block: Block,
    segment: PathBuf,
    bytes: Range<usize>,
}

/// All blocks of a journal, in order.
fn kept(journal: &Path) -> Vec<Kept> {
    let mut kept = Vec::new();
    for (header, file) in segments(journal) {
        let segment = journal.join(format!("{:020}.segment", header.start.next));
        let mut at = SegmentHeader::BYTES;
        for block in blocks(&file, at).blocks {
            let bytes = at..at + block.bytes.len();
            at = bytes.end;
            kept.push(Kept { block, segment: segment.clone(), bytes });
        }
    }
    kept
}

/// A journal of many sealed segments, whose publisher has gone.
fn written(site: &Site) -> Vec<Kept> {
    let publisher = site.start();
    let load = Load::new(3, 1500);
    load.goes_to(&publisher);
    eventually("there are many segments", || {
        load.during(|| load.until_acknowledged(50));
        (segments(&site.journal).len() > 12).then_some(())
    });
    publisher.kill();
    kept(&site.journal)
}

/// Damages about half of the sealed segments, each in one place or in several. Returns which blocks
/// are not whole any more.
fn damage(journal: &Path, random: &mut Random) -> Vec<bool> {
    let kept = kept(journal);
    let mut hit = vec![false; kept.len()];
    let segments: Vec<&[Kept]> = kept.chunk_by(|a, b| a.segment == b.segment).collect();
    let mut first = 0;
    for blocks in &segments[..segments.len() - 1] {
        let mut file = fs::read(&blocks[0].segment).unwrap();
        for range in places(file.len(), random) {
            for at in range {
                file[at] ^= 1 + random.below(255) as u8;
                let block = blocks.iter().position(|kept| kept.bytes.contains(&at));
                // The header of a segment is no block, and says nothing that is not known.
                if let Some(block) = block {
                    hit[first + block] = true;
                }
            }
        }
        fs::write(&blocks[0].segment, file).unwrap();
        first += blocks.len();
    }
    hit
}

/// Where to damage a file: nowhere, in its header, in one run, or in single bytes.
fn places(length: usize, random: &mut Random) -> Vec<Range<usize>> {
    let body = (length - SegmentHeader::BYTES) as u64;
    let place = |at: u64, bytes: u64| at as usize..(at + bytes).min(length as u64) as usize;
    let header = SegmentHeader::BYTES as u64;
    match random.below(6) {
        0 => vec![place(random.below(header), 1)],
        1 => vec![place(header + random.below(body), 1 + random.below(RUN_BYTES_MAX))],
        2 => (0..1 + random.below(4)).map(|_| place(header + random.below(body), 1)).collect(),
        _ => Vec::new(),
    }
}

/// The runs of damaged blocks, as ranges of sequences.
fn lost_ranges(all: &[Kept], hit: &[bool]) -> Vec<(u64, u64)> {
    let lost = all.iter().zip(hit).filter(|(_, hit)| **hit).map(|(kept, _)| &kept.block);
    merged(lost.map(|block| (block.first, block.end().next)))
}

/// Ranges in order, those that touch as one.
fn merged(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// The records that were stated to be damaged. Nothing else may have been stated.
fn stated(collected: &Collected) -> Vec<(u64, u64)> {
    let ranges = collected.statements.iter().map(|statement| match *statement {
        Statement::Lost { stream, from, to, reason: Reason::Damage } if Some(stream) == collected.stream => (from, to),
        other => panic!("{other:?}"),
    });
    ranges.collect()
}

#[test]
fn damage_in_sealed_segments_is_stated_exactly_and_the_rest_is_had() {
    let (pristine, mut random) = (folder(), Random::new());
    let all = written(&Site::new(pristine.path(), "127.0.2.13", &["--segment-bytes=64KiB"]));
    let mut damaged = 0;
    for _ in 0..8 {
        let folder = folder();
        let site = Site::new(folder.path(), "127.0.2.13", &["--segment-bytes=64KiB"]);
        copy(&pristine.path().join("journal"), &site.journal);
        let hit = damage(&site.journal, &mut random);
        damaged += hit.iter().filter(|hit| **hit).count();
        assert_states(&site, &all, &hit);
    }
    assert!(damaged > 0, "nothing was damaged");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// That a publisher of this journal, where these blocks were hit, has the others and states those.
fn assert_states(site: &Site, all: &[Kept], hit: &[bool]) {
    let publisher = site.start();
    let next = all.last().unwrap().block.end();
    assert_eq!(head_of(&publisher).next, next);
    let collector = Collector::follow(feed_of(&publisher));
    collector.until_next(next.next);
    let collected = collector.stop();
    let whole = all.iter().zip(hit).filter(|(_, hit)| !**hit).map(|(kept, _)| &kept.block);
    assert!(collected.blocks.iter().eq(whole), "not all that is whole, or more");
    let stated = stated(&collected);
    assert_eq!(merged(stated.iter().copied()), lost_ranges(all, hit));

    let readyz = publisher.page("publisher", "/readyz");
    assert_eq!(readyz.status, 200);
    for (from, to) in stated {
        let note = format!("records {from} to {} are damaged\n", to - 1);
        assert!(readyz.body.contains(&note), "{note:?} is not in {:?}", readyz.body);
    }
    assert_gaps_from_inside(&publisher, all, hit);
    assert_eq!(status_of_a_request(&publisher), 200);
    publisher.stop();
}

/// Who stands in front of a damaged block, having what was before it, gets a gap from there.
fn assert_gaps_from_inside(publisher: &Daemon, all: &[Kept], hit: &[bool]) {
    let replay = replay_of(publisher);
    let ranges = lost_ranges(all, hit);
    for (kept, _) in all.iter().zip(hit).filter(|(_, hit)| **hit) {
        let (stream, start) = (kept.block.stream, kept.block.start());
        let reply = replay.fetch(stream, start, 1);
        let Some(Message::Gap(gap)) = reply.get(1) else { panic!("no gap at {start:?}: {reply:?}") };
        assert_eq!((gap.from, gap.reason), (start.next, Reason::Damage));
        let (_, to) = ranges.iter().find(|(from, to)| (*from..*to).contains(&start.next)).unwrap();
        assert!(gap.to.next > start.next && gap.to.next <= *to, "{gap:?} in {ranges:?}");
    }
}

#[test]
fn who_stands_inside_the_damage_gets_the_gap_from_there() {
    let (folder, mut random) = (folder(), Random::new());
    let site = Site::new(folder.path(), "127.0.2.14", &["--segment-bytes=64KiB"]);
    // The collector gets the beginning of a segment, and is not told where it goes on.
    let publisher = site.start();
    let collector = Collector::follow(feed_of(&publisher));
    let load = Load::new(1, 500);
    load.goes_to(&publisher);
    load.during(|| load.until_acknowledged(10));
    collector.until_next(head_of(&publisher).next.next);
    publisher.kill();
    let position = collector.look(|collected| collected.position);
    let all = written(&site);

    let inside = all.iter().position(|kept| kept.block.start() == position).unwrap();
    assert_eq!(all[inside - 1].segment, all[inside].segment);
    let mut file = fs::read(&all[inside].segment).unwrap();
    for kept in &all[inside - 1..=inside] {
        file[kept.bytes.start + random.below(kept.bytes.len() as u64) as usize] ^= 1 + random.below(255) as u8;
    }
    fs::write(&all[inside].segment, file).unwrap();

    let publisher = site.start();
    collector.moved_to(feed_of(&publisher));
    collector.until_next(head_of(&publisher).next.next);
    let collected = collector.stop();
    assert_eq!(stated(&collected), [(position.next, all[inside].block.end().next)]);
    let had = all.iter().enumerate().filter(|(index, _)| *index != inside).map(|(_, kept)| &kept.block);
    assert!(collected.blocks.iter().eq(had));
    publisher.stop();
}
