//! Folders made by hand, one for each rule.

use super::*;
use crate::log::index::{ENTRY_BYTES, Entry};
use crate::log::positions::STREAMS_MAX;
use feed::{Message, Position};
use proptest::prelude::*;
use zeromq::{RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const A: StreamId = StreamId([0xa; 16]);
const B: StreamId = StreamId([0xb; 16]);
/// Missing, duplicated, lost, forks, damaged.
type Wrong = [u64; 5];
const NOTHING: Wrong = [0; 5];

fn at(next: u64) -> Position {
    Position { next, previous: next as u32 }
}

/// A pair in the making.
#[derive(Debug, Clone, Default)]
struct Pages {
    index: Vec<u8>,
    text: Vec<u8>,
}

impl Pages {
    fn begin(number: u64) -> Self {
        Self::default().entry(Entry { first: number, ..Entry::new(Kind::Begin, 0) }, "")
    }

    fn entry(mut self, entry: Entry, text: &str) -> Self {
        self.text.extend(text.bytes());
        let text_crc = if text.is_empty() { 0 } else { crc32c::crc32c(text.as_bytes()) };
        let end = self.text.len() as u64;
        Entry { end, lines: text.matches('\n').count() as u32, text_crc, ..entry }.encode(&mut self.index);
        self
    }

    fn of(self, kind: Kind, stream: StreamId, first: u64, next: u64, text: &str) -> Self {
        self.entry(Entry { stream, first, next: at(next), ..Entry::new(kind, 0) }, text)
    }

    fn stream(self, stream: StreamId, base: u64, next: u64) -> Self {
        let home = format!("publisher-{:x}.example.org:4445", stream.0[0]);
        let words = format!("name{home}").into_bytes();
        let entry = Entry { stream, first: base, next: at(next), detail: 4, words, ..Entry::new(Kind::Stream, 0) };
        self.entry(entry, "")
    }

    fn block(self, stream: StreamId, first: u64, next: u64) -> Self {
        let text: String = (first..next).map(|number| format!("record {number}\n")).collect();
        self.of(Kind::Block, stream, first, next, &text)
    }

    fn lost(self, first: u64, next: u64) -> Self {
        self.of(Kind::Lost, A, first, next, "lost\n")
    }

    fn fork(self, first: u64, next: u64) -> Self {
        self.of(Kind::Fork, A, first, next, "fork\n")
    }

    /// B takes the place of A.
    fn replaced(self, first: u64, heard: u64, base: u64) -> Self {
        let mut words = B.0.to_vec();
        words.extend(base.to_le_bytes());
        words.extend(at(base).previous.to_le_bytes());
        words.extend(b"namepublisher-a.example.org:4445");
        let entry = Entry { stream: A, first, next: at(heard), detail: 4, words, ..Entry::new(Kind::Replaced, 0) };
        self.entry(entry, "replaced\n")
    }

    fn plain(self, text: &str) -> Self {
        self.of(Kind::Plain, StreamId::default(), 0, 0, text)
    }

    fn synced(self) -> Self {
        let bytes = self.index.len() as u64;
        self.entry(Entry { first: bytes, ..Entry::new(Kind::Synced, 0) }, "")
    }

    fn sealed(self, name: &str) -> Self {
        self.entry(Entry { words: name.into(), ..Entry::new(Kind::Sealed, 0) }, "")
    }
}

/// The log of a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("subscriber.log")
    }

    fn write(&self, name: &str, pages: &Pages) {
        fs::write(self.path(name), &pages.text).unwrap();
        fs::write(self.path(&format!("{name}.idx")), &pages.index).unwrap();
    }

    fn current(&self, pages: Pages) -> &Self {
        self.write("subscriber.log", &pages);
        self
    }

    fn rotated(&self, number: u64, pages: Pages) -> &Self {
        let name = rotated_name(number);
        self.write(&name, &pages.sealed(&name));
        self
    }

    fn aside(&self, number: u64, aside: Aside, pages: &Pages) -> PathBuf {
        let name = format!("subscriber.20261121T080000Z.{number:06}.{}.log", aside.word());
        self.write(&name, pages);
        self.path(&name)
    }

    fn try_verify(&self, against: Option<&Endpoint>) -> Result<Report, VerifyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(verify(&self.log(), against, &mut |done, total| assert!(done <= total)))
    }

    fn verify(&self) -> Report {
        self.try_verify(None).unwrap()
    }

    #[track_caller]
    fn assert(&self, records: u64, wrong: Wrong) -> Report {
        let report = self.verify();
        assert_eq!((report.records, counts(&report)), (records, wrong), "{:#?}", report.problems);
        assert_eq!(report.is_clean(), wrong == NOTHING);
        assert_eq!(report.problems.is_empty(), report.is_clean(), "{:#?}", report.problems);
        report
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }
}

fn rotated_name(number: u64) -> String {
    format!("subscriber.20261121T0800{:02}Z.{number:06}.log", 60 - number % 60)
}

fn counts(report: &Report) -> Wrong {
    [report.missing, report.duplicated, report.lost, report.forks, report.damaged]
}

fn change(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// One pair, of a log that is all in it.
fn first() -> Pages {
    Pages::begin(1).stream(A, 0, 0).block(A, 0, 3).plain("a\nb\n").block(A, 3, 10)
}

fn second() -> Pages {
    Pages::begin(2).stream(A, 0, 10).block(A, 10, 12).synced()
}

#[test]
fn a_whole_log_is_clean_and_its_positions_are_told() {
    let folder = Folder::new();
    let third = Pages::begin(3).stream(A, 0, 12).stream(B, 7, 9).block(B, 9, 11).block(A, 12, 13).synced();
    folder.rotated(1, first()).rotated(2, Pages::begin(2).stream(A, 0, 10).block(A, 10, 12).stream(B, 7, 7));
    // A number that is older in its name, and sorts behind.
    assert!(rotated_name(1) > rotated_name(2));
    folder.rotated(3, third);
    folder.rotated(4, Pages::begin(4).stream(A, 0, 13).stream(B, 7, 11));
    folder.current(Pages::begin(5).stream(A, 0, 13).stream(B, 7, 11).plain("c\n").synced());
    let report = folder.verify();
    // B went from 7 to 9 in no file.
    assert_eq!((report.records, counts(&report)), (15, [2, 0, 0, 0, 0]), "{:#?}", report.problems);
    assert_eq!((report.publishers, report.plain), (2, 3));
    let told = |stream, base, next| StreamPosition { stream, base, next, name: "name".to_owned() };
    assert_eq!(report.positions, [told(A, 0, 13), told(B, 7, 11)]);
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].contains(&format!("{}.idx at byte 256: records 7 to 8 of stream {B}", rotated_name(3))));
}

#[test]
fn the_oldest_files_may_be_gone_and_no_others() {
    let folder = Folder::new();
    folder.rotated(1, first()).rotated(2, Pages::begin(2).stream(A, 0, 10).block(A, 10, 15));
    folder.rotated(3, Pages::begin(3).stream(A, 0, 15).block(A, 15, 16));
    folder.current(Pages::begin(4).stream(A, 0, 16).synced());
    folder.assert(16, NOTHING);
    let remove = |number| {
        folder.remove(&rotated_name(number));
        folder.remove(&format!("{}.idx", rotated_name(number)));
    };
    remove(2);
    folder.assert(11, [5, 0, 0, 0, 0]);
    remove(1);
    let report = folder.assert(1, NOTHING);
    assert_eq!((report.positions[0].base, report.positions[0].next), (15, 16));
}

#[test]
fn a_first_file_that_was_set_aside_and_is_not_there_is_told() {
    let folder = Folder::new();
    let moved = Pages::begin(2).stream(A, 0, 10).of(Kind::Moved, StreamId::default(), 1, 0, "moved\n");
    folder.current(moved.block(A, 10, 12).synced());
    folder.assert(2, [0, 0, 0, 0, 1]);
}

#[test]
fn carried_positions_that_are_ahead_or_behind_are_counted() {
    for (next, wrong) in [(10, NOTHING), (14, [4, 0, 0, 0, 0]), (7, [0, 3, 0, 0, 0])] {
        let folder = Folder::new();
        folder.rotated(1, first()).current(Pages::begin(2).stream(A, 0, next).block(A, next, 20).synced());
        let report = folder.assert(10 + 20 - next, wrong);
        assert_eq!((report.positions[0].base, report.positions[0].next), (0, 20));
    }
    // The same number, in another history.
    let folder = Folder::new();
    let mut other = Entry { stream: A, detail: 0, ..Entry::new(Kind::Stream, 0) };
    other.next = Position { next: 10, previous: 99 };
    folder.rotated(1, first()).current(Pages::begin(2).entry(other, "").synced());
    folder.assert(10, [0, 0, 0, 1, 0]);
}

#[test]
fn entries_that_do_not_follow_are_counted() {
    for (from, to, records, wrong) in [
        (3, 10, 10, NOTHING),
        (5, 10, 8, [2, 0, 0, 0, 0]),
        (1, 10, 10, [0, 2, 0, 0, 0]),
        // All of it was there; the stream stands where it stood.
        (1, 2, 3, [0, 1, 0, 0, 0]),
    ] {
        let folder = Folder::new();
        folder.current(Pages::begin(1).stream(A, 0, 0).block(A, 0, 3).block(A, from, to).synced());
        let report = folder.assert(records, wrong);
        assert_eq!(report.positions[0].next, to.max(3));
    }
    // A stream that nothing was said of.
    let folder = Folder::new();
    folder.current(Pages::begin(1).block(A, 4, 6).block(A, 6, 7).synced());
    let report = folder.assert(3, [0, 0, 0, 0, 1]);
    assert_eq!((report.positions[0].base, report.positions[0].next), (4, 7));
}

#[test]
fn what_the_log_says_is_lost_forked_and_replaced_is_counted() {
    let folder = Folder::new();
    folder.current(first().lost(10, 14).block(A, 14, 15).synced());
    folder.assert(11, [0, 0, 4, 0, 0]);
    folder.current(first().fork(10, 4).block(A, 4, 11).synced());
    folder.assert(17, [0, 0, 0, 1, 0]);
    folder.current(first().replaced(10, 13, 2).block(B, 2, 4).synced());
    let report = folder.assert(12, [0, 0, 3, 0, 0]);
    assert_eq!((report.publishers, report.positions.len(), report.positions[1].base), (1, 2, 2));
    // Nothing was heard that the log has not.
    folder.current(first().replaced(10, 0, 2).block(B, 2, 4).synced());
    folder.assert(12, NOTHING);
    // The new stream had been here, and is taken up behind where it stood.
    folder.current(first().stream(B, 0, 0).block(B, 0, 2).replaced(10, 10, 3).block(B, 3, 4).synced());
    folder.assert(13, [1, 0, 0, 0, 0]);
}

#[test]
fn a_damaged_text_is_counted_and_its_records_are_not() {
    for (offset, records) in [(0, 7), (30, 10), (32, 3)] {
        let folder = Folder::new();
        folder.rotated(1, first()).current(second());
        assert_eq!(&first().text[27..31], b"a\nb\n");
        change(&folder.path(&rotated_name(1)), offset);
        let report = folder.assert(records + 2, [0, 0, 0, 0, 1]);
        assert!(report.problems[0].contains(&rotated_name(1)), "{}", report.problems[0]);
    }
    // Another number of lines.
    let folder = Folder::new();
    folder.current(Pages::begin(1).stream(A, 0, 0).of(Kind::Block, A, 0, 3, "one\ntwo\n").synced());
    folder.assert(0, [0, 0, 0, 0, 1]);
}

#[test]
fn behind_a_damaged_entry_the_others_count() {
    // Begin, stream, block, plain, block, sealed.
    for (entry, records, wrong) in [
        (0, 12, [0, 0, 0, 0, 1]),
        // Nobody says who it is: once for the entry, once for the first block of it.
        (1, 12, [0, 0, 0, 0, 2]),
        (2, 9, [3, 0, 0, 0, 1]),
        (3, 12, [0, 0, 0, 0, 1]),
        (4, 5, [7, 0, 0, 0, 1]),
        (5, 12, [0, 0, 0, 0, 1]),
    ] {
        for byte in [0, 4, 7, 45, 70] {
            let folder = Folder::new();
            folder.rotated(1, first()).current(second());
            change(&folder.path(&format!("{}.idx", rotated_name(1))), entry * ENTRY_BYTES + byte);
            folder.assert(records, wrong);
        }
    }
}

#[test]
fn an_entry_with_words_is_damaged_once_wherever_it_is() {
    let long = |pages: Pages| {
        let words = format!("name{}", "h".repeat(400)).into_bytes();
        let entry = Entry { stream: B, detail: 4, words, ..Entry::new(Kind::Stream, 0) };
        pages.entry(entry, "")
    };
    let pages = long(first().stream(A, 0, 10)).block(A, 10, 11).synced();
    let entries = pages.index.len() / ENTRY_BYTES - 2;
    for slot in 6..entries {
        let folder = Folder::new();
        folder.current(pages.clone());
        change(&folder.path("subscriber.log.idx"), slot * ENTRY_BYTES + 9);
        folder.assert(11, [0, 0, 0, 0, 1]);
    }
}

#[test]
fn a_rotated_pair_is_complete() {
    let whole = || {
        let folder = Folder::new();
        folder.rotated(1, first()).current(second());
        folder
    };
    let (log, index) = (rotated_name(1), format!("{}.idx", rotated_name(1)));
    let cut = |folder: &Folder, name: &str, bytes: usize| {
        let mut kept = fs::read(folder.path(name)).unwrap();
        kept.truncate(kept.len() - bytes);
        fs::write(folder.path(name), kept).unwrap();
    };

    let folder = whole();
    cut(&folder, &log, 1);
    folder.assert(5, [7, 0, 0, 0, 1]);
    let folder = whole();
    fs::write(folder.path(&log), [&first().text[..], b"more\n"].concat()).unwrap();
    folder.assert(12, [0, 0, 0, 0, 1]);
    let folder = whole();
    folder.remove(&log);
    folder.assert(2, [10, 0, 0, 0, 1]);

    // Of the index: the sealed entry, half of it, and the last block as well.
    for (bytes, records, wrong) in [
        (128, 12, [0, 0, 0, 0, 1]),
        (64, 12, [0, 0, 0, 0, 1]),
        (256, 5, [7, 0, 0, 0, 1]),
        (first().index.len() + 128, 2, [0, 0, 0, 0, 2]),
    ] {
        let folder = whole();
        cut(&folder, &index, bytes);
        let report = folder.verify();
        assert_eq!((report.records, counts(&report)), (records, wrong), "{bytes}: {:#?}", report.problems);
    }
    // Without an index it is nothing, unless it was there before there were any.
    let folder = whole();
    folder.rotated(2, Pages::begin(2).stream(A, 0, 10).block(A, 10, 11));
    folder.current(Pages::begin(3).stream(A, 0, 11).synced());
    folder.remove(&format!("{}.idx", rotated_name(2)));
    folder.assert(10, [1, 0, 0, 0, 1]);
    folder.remove(&index);
    folder.assert(0, NOTHING);
}

#[test]
fn the_end_of_the_current_pair_is_in_flight_if_it_was_not_synced() {
    let pages = first().synced().block(A, 10, 12).block(A, 12, 13);
    let (index, text) = (first().synced().index.len(), first().text.len());
    let verify = |change: &dyn Fn(&mut Pages)| {
        let folder = Folder::new();
        let mut pages = pages.clone();
        change(&mut pages);
        folder.current(pages);
        let report = folder.verify();
        assert!(report.is_clean(), "{:#?}", report.problems);
        report.positions[0].next
    };
    assert_eq!(verify(&|_| {}), 13);
    // The text is behind, is not whole, has zeros; or goes on.
    for length in text..pages.text.len() {
        let next = verify(&|pages| pages.text.truncate(length));
        assert_eq!(next, if length < text + "record 10\nrecord 11\n".len() { 10 } else { 12 });
    }
    assert_eq!(verify(&|pages| pages.text[text + 3..].fill(0)), 10);
    assert_eq!(verify(&|pages| pages.text.extend(b"more\nand mo")), 13);
    // The index ends within an entry, or has zeros.
    assert_eq!(verify(&|pages| pages.index.truncate(index + ENTRY_BYTES + 5)), 12);
    assert_eq!(verify(&|pages| pages.index.truncate(index + 5)), 10);
    assert_eq!(verify(&|pages| pages.index[index..].fill(0)), 10);
    assert_eq!(verify(&|pages| pages.index.extend([0; 4096])), 13);
    assert_eq!(verify(&|pages| pages.index[index] ^= 1), 10);
}

#[test]
fn what_was_synced_is_never_in_flight() {
    let folder = Folder::new();
    let pages = first().synced().block(A, 10, 12);
    let mut cut = pages.clone();
    cut.text.truncate(first().text.len() - 1);
    folder.current(cut);
    folder.assert(3, [7, 0, 0, 0, 1]);
    folder.current(pages.clone());
    folder.remove("subscriber.log");
    folder.assert(0, [10, 0, 0, 0, 1]);
    // The beginning of an index is synced before it has its name.
    folder.current(Pages::begin(1));
    folder.assert(0, NOTHING);
    folder.current(Pages::default());
    folder.assert(0, [0, 0, 0, 0, 1]);
    folder.current(Pages::begin(1));
    change(&folder.path("subscriber.log.idx"), 100);
    folder.assert(0, [0, 0, 0, 0, 1]);
}

#[test]
fn every_step_of_a_rotation_is_a_whole_log() {
    let (name, index) = (rotated_name(2), format!("{}.idx", rotated_name(2)));
    let folder = Folder::new();
    folder.rotated(1, first());
    // Everything is synced before the sealed entry, which says so itself.
    folder.current(Pages::begin(2).stream(A, 0, 10).block(A, 10, 12).sealed(&name));
    folder.assert(12, NOTHING);
    fs::rename(folder.log(), folder.path(&name)).unwrap();
    folder.assert(12, NOTHING);
    change(&folder.path(&name), 0);
    folder.assert(10, [0, 0, 0, 0, 1]);
    change(&folder.path(&name), 0);
    fs::rename(folder.path("subscriber.log.idx"), folder.path(&index)).unwrap();
    folder.assert(12, NOTHING);
    fs::write(folder.path("subscriber.log.idx"), Pages::begin(3).stream(A, 0, 12).synced().index).unwrap();
    folder.assert(12, NOTHING);
    fs::write(folder.log(), "").unwrap();
    folder.assert(12, NOTHING);
}

#[test]
fn pairs_that_were_set_aside_count_in_their_place() {
    let next =
        |number, position| Pages::begin(number).stream(A, 0, position).of(Kind::Moved, A, 1, 0, "moved\n").synced();
    // Damaged: at least once, whatever is found.
    let folder = Folder::new();
    folder.aside(1, Aside::Damaged, &first());
    folder.current(next(2, 10));
    folder.assert(10, [0, 0, 0, 0, 1]);
    change(&folder.path("subscriber.20261121T080000Z.000001.damaged.log"), 0);
    folder.assert(7, [0, 0, 0, 0, 1]);
    folder.remove("subscriber.20261121T080000Z.000001.damaged.log.idx");
    folder.assert(0, [0, 0, 0, 0, 1]);

    // Moved: its text is where nobody knows.
    let folder = Folder::new();
    let log = folder.aside(1, Aside::Moved, &first());
    folder.current(next(2, 10));
    folder.assert(10, NOTHING);
    fs::remove_file(log).unwrap();
    folder.assert(0, [10, 0, 0, 0, 0]);

    // Shorter: what was cut off is missing.
    let folder = Folder::new();
    let mut pages = first();
    pages.text.truncate(31);
    folder.aside(1, Aside::Shorter, &pages);
    folder.current(next(2, 10));
    folder.assert(3, [7, 0, 0, 0, 1]);

    // Adopted: it has no index.
    let folder = Folder::new();
    folder.rotated(1, first());
    fs::remove_file(index_of(&folder.aside(2, Aside::Adopted, &Pages::default()))).unwrap();
    folder.current(next(3, 10));
    folder.assert(10, NOTHING);
}

#[test]
fn what_is_no_log_is_refused_by_name() {
    let folder = Folder::new();
    let refused = |folder: &Folder| folder.try_verify(None).unwrap_err().to_string();
    let log = folder.log();
    assert_eq!(refused(&folder), format!("there is no log {}", log.display()));
    fs::write(&log, "a line\n").unwrap();
    assert_eq!(refused(&folder), format!("the log {} has no index", log.display()));
    folder.rotated(1, first());
    assert_eq!(refused(&folder), format!("the log {} has no index", log.display()));
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert_eq!(refused(&folder), format!("{} is not a regular file", log.display()));
}

#[test]
fn a_link_leads_to_the_log() {
    let (folder, other) = (Folder::new(), Folder::new());
    folder.rotated(1, first()).current(second());
    std::os::unix::fs::symlink(folder.log(), other.log()).unwrap();
    other.assert(12, NOTHING);
}

#[test]
fn memory_and_messages_are_bounded_whatever_an_index_says() {
    let folder = Folder::new();
    let mut pages = Pages::begin(1);
    for number in 0..STREAMS_MAX as u128 + 30 {
        pages = pages.stream(StreamId(number.to_be_bytes()), 0, 0);
    }
    folder.current(pages.synced());
    let report = folder.verify();
    assert_eq!((report.damaged, report.positions.len()), (30, STREAMS_MAX));
    assert_eq!((report.problems.len(), report.problems_more), (20, 10));
}

#[test]
fn a_name_cannot_break_a_line() {
    let position = StreamPosition { stream: A, base: 0, next: 0, name: "a b\n\u{1b}[2J".to_owned() };
    assert_eq!(position.shown_name(), "a b\\n\\u{1b}[2J");
}

/// A replay that answers each request with `answer`. Ends when nobody asks any more.
async fn replay(answer: fn(&feed::Fetch) -> Vec<Message>) -> Endpoint {
    let mut router = RouterSocket::new();
    let endpoint = router.bind("tcp://127.0.0.1:0").await.unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok(request) = router.recv().await {
            let [peer, fetch] = &request.into_vec()[..] else { panic!("not a request") };
            let Ok(Message::Fetch(fetch)) = Message::decode(fetch.clone()) else { panic!("not a fetch") };
            for message in answer(&fetch) {
                let bytes = match message {
                    Message::Head(head) => head.encode().unwrap(),
                    Message::Fork(fork) => fork.encode(),
                    Message::End(end) => end.encode(),
                    _ => panic!("not an answer"),
                };
                let reply = ZmqMessage::try_from(vec![peer.clone(), bytes.into()]).unwrap();
                router.send(reply).await.unwrap();
            }
        }
    });
    endpoint
}

fn head(stream: StreamId) -> Message {
    let (name, replay) = ("name".to_owned(), "127.0.0.1:1".to_owned());
    Message::Head(Head { stream, oldest: at(4), next: at(12), name, replay })
}

async fn against(folder: &Folder, answer: fn(&feed::Fetch) -> Vec<Message>) -> Wrong {
    let endpoint = replay(answer).await;
    counts(&verify(&folder.log(), Some(&endpoint), &mut |_, _| {}).await.unwrap())
}

#[tokio::test]
async fn what_a_publisher_has_and_the_log_has_not_is_missing() {
    let folder = Folder::new();
    folder.current(first().synced());
    fn answer(stream: StreamId, fetch: &feed::Fetch) -> Vec<Message> {
        assert_eq!(fetch.credit_bytes, 0);
        vec![head(stream), Message::End(feed::End { stream: fetch.stream, at: fetch.from })]
    }
    assert_eq!(against(&folder, |fetch| answer(A, fetch)).await, [2, 0, 0, 0, 0]);
    assert_eq!(against(&folder, |fetch| answer(B, fetch)).await, [8, 0, 0, 0, 0]);
    let forked = |fetch: &feed::Fetch| {
        let mut messages = answer(A, fetch);
        if fetch.stream == A {
            assert_eq!(fetch.from, at(10));
            messages.insert(1, Message::Fork(feed::Fork { stream: A, from: fetch.from }));
        }
        messages
    };
    assert_eq!(against(&folder, forked).await, [2, 0, 0, 1, 0]);
    folder.current(first().block(A, 10, 12).synced());
    assert_eq!(against(&folder, |fetch| answer(A, fetch)).await, NOTHING);
}

#[tokio::test]
async fn a_publisher_that_is_not_there_is_named() {
    let folder = Folder::new();
    folder.current(first().synced());
    let endpoint: Endpoint = "tcp://127.0.0.1:9".parse().unwrap();
    let error = verify(&folder.log(), Some(&endpoint), &mut |_, _| {}).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot compare with {endpoint}"));
    let endpoint = replay(|_| vec![head(A), head(A)]).await;
    let error = verify(&folder.log(), Some(&endpoint), &mut |_, _| {}).await.unwrap_err();
    let VerifyError::Against { source: AgainstError::Silent, .. } = error else { panic!("{error:?}") };
}

/// A log of four pairs, of which the last is current, with all kinds of entries.
fn any_log(folder: &Folder) {
    folder.rotated(1, first());
    folder.rotated(2, Pages::begin(2).stream(A, 0, 10).block(A, 10, 12).stream(B, 5, 5).synced().block(B, 5, 9));
    folder.rotated(3, Pages::begin(3).stream(A, 0, 12).stream(B, 5, 9).plain("c\n").block(A, 12, 13));
    folder.current(Pages::begin(4).stream(A, 0, 13).stream(B, 5, 9).block(B, 9, 11).plain("d\n").synced());
}

/// Every file of a log, and how much of it was synced.
fn files(folder: &Folder) -> Vec<(PathBuf, usize)> {
    let mut files: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let length = |path: &Path| fs::metadata(path).unwrap().len() as usize;
    let in_flight = |path: &Path| if path.ends_with("subscriber.log.idx") { ENTRY_BYTES } else { 0 };
    files.into_iter().map(|path| (path.clone(), length(&path) - in_flight(&path))).collect()
}

#[test]
fn every_bit_of_a_log_counts() {
    let folder = Folder::new();
    any_log(&folder);
    folder.assert(19, NOTHING);
    for (path, length) in files(&folder) {
        let whole = fs::read(&path).unwrap();
        for offset in 0..length {
            let mut damaged = whole.clone();
            damaged[offset] ^= 1 << (offset % 8);
            fs::write(&path, damaged).unwrap();
            let report = folder.verify();
            assert!(!report.is_clean(), "byte {offset} of {}", path.display());
            assert!(!report.problems.is_empty());
        }
        fs::write(&path, whole).unwrap();
    }
    folder.assert(19, NOTHING);
}

#[derive(Debug, Clone)]
enum Change {
    Flip,
    Cut,
    Zeros,
    Twice,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_damage_goes_unseen(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bits in 1_u8..,
        change in prop::sample::select(vec![Change::Flip, Change::Cut, Change::Zeros, Change::Twice]),
    ) {
        let folder = Folder::new();
        any_log(&folder);
        let files = files(&folder);
        let (path, length) = &files[file.index(files.len())];
        let at = at.index(*length);
        let mut bytes = fs::read(path).unwrap();
        let before = bytes.clone();
        match change {
            Change::Flip => bytes[at] ^= bits,
            Change::Cut => bytes.truncate(at),
            Change::Zeros => bytes[at..*length].fill(0),
            Change::Twice => bytes.extend_from_within(at..),
        }
        fs::write(path, &bytes).unwrap();
        let report = folder.verify();
        // Behind what was synced all is in flight, and an index that ends earlier was synced earlier.
        let may_be_whole = match change {
            Change::Cut => path.ends_with("subscriber.log.idx"),
            Change::Twice => path.starts_with(folder.log()) || path.ends_with("subscriber.log.idx"),
            Change::Flip | Change::Zeros => bytes == before,
        };
        prop_assert!(may_be_whole || !report.is_clean());
    }

    /// Entries with checksums that are right, and texts, in any order.
    #[test]
    fn no_index_panics(
        files in prop::collection::vec(prop::collection::vec(
            (1_u8..12, prop::sample::select(vec![A, B, StreamId::default()]), any::<[prop::sample::Index; 3]>(), 0_usize..700, 0_u8..4),
            0..20,
        ), 1..4),
        garbage in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let folder = Folder::new();
        let numbers = [0, 1, 2, 3, 7, u64::MAX - 1, u64::MAX, 1 << 63];
        let last = files.len() - 1;
        for (number, entries) in files.into_iter().enumerate() {
            let mut pages = if number % 2 == 0 { Pages::begin(number as u64) } else { Pages::default() };
            for (kind, stream, chosen, words, text) in entries {
                let [first, next, end] = chosen.map(|index| numbers[index.index(numbers.len())]);
                let mut words = vec![b'w'; words.min(640)];
                if words.len() > 100 {
                    words[..16].copy_from_slice(&B.0);
                }
                let entry = Entry { stream, first, next: at(next), detail: 4, words, ..Entry::new(Kind::Plain, end) };
                let begin = pages.index.len();
                if text == 3 {
                    entry.encode(&mut pages.index);
                } else {
                    pages = pages.entry(entry, &"t\n".repeat(text.into()));
                }
                pages.index[begin + 4] = kind;
                let checksum = crc32c::crc32c(&pages.index[begin + 4..begin + ENTRY_BYTES]);
                pages.index[begin..begin + 4].copy_from_slice(&checksum.to_le_bytes());
            }
            pages.index.extend(&garbage);
            let name = if number == last { "subscriber.log".to_owned() } else { rotated_name(number as u64) };
            folder.write(&name, &pages);
        }
        folder.verify();
    }
}
