//! One index and the text that it is about, from their beginnings to their ends.

use super::ledger::{Ledger, Place, Text};
use super::reader::Reader;
use super::{Progress, VerifyError};
use crate::log::index::{Aside, ENTRY_BYTES, Entry, EntryError, Kind, MORE, WORDS_BYTES_MAX};
use std::io;
use std::path::PathBuf;

/// Bytes that the longest entry has.
const ENTRIES_BYTES_MAX: usize = (1 + WORDS_BYTES_MAX.div_ceil(ENTRY_BYTES - 8)) * ENTRY_BYTES;

/// What a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Complete: all that its index says is there.
    Sealed,
    /// Was current when somebody or something came between.
    Aside(Aside),
    /// What is written now, or was when the writer ended: its end may be in flight.
    Current,
}

/// An index and its text.
pub(super) struct Pair {
    pub(super) role: Role,
    pub(super) index_path: PathBuf,
    pub(super) index: Reader,
    /// As much of it as counts.
    pub(super) index_bytes: u64,
    pub(super) text_path: PathBuf,
    /// `None`: there is no file.
    pub(super) text: Option<Reader>,
}

/// Up to where index and text must be whole.
#[derive(Debug, Clone, Copy)]
struct OnDisk {
    index: u64,
    text: u64,
}

/// Where the walk is.
struct Walk {
    /// In the index.
    offset: u64,
    /// In the text: where the last entry's ends.
    text: u64,
    /// No entry has been damaged since, whose text may lie behind it.
    is_known: bool,
    /// Nothing but synced entries came behind the sealed one.
    is_sealed: bool,
}

impl Pair {
    /// The first entry, if it is whole.
    pub(super) fn first_entry(&mut self) -> Result<Option<Entry>, VerifyError> {
        Ok(Entry::decode(self.window(0)?).ok().map(|(entry, _)| entry))
    }

    /// The last whole entry that is sealed or not synced.
    pub(super) fn last_entry(&mut self) -> Result<Option<Entry>, VerifyError> {
        let mut last = None;
        self.each_whole(|_, entry| {
            if entry.kind != Kind::Synced {
                last = Some(entry);
            }
        })?;
        Ok(last)
    }

    fn each_whole(&mut self, mut each: impl FnMut(u64, Entry)) -> Result<(), VerifyError> {
        let mut offset = 0;
        while offset < self.index_bytes {
            let window = self.window(offset)?;
            let length = match Entry::decode(window) {
                Ok((entry, length)) => {
                    each(offset, entry);
                    length
                }
                Err(_) => ENTRY_BYTES,
            };
            offset += length as u64;
        }
        Ok(())
    }

    /// The bytes of the index from `offset` on, enough for the longest entry.
    fn window(&mut self, offset: u64) -> Result<&[u8], VerifyError> {
        let left = usize::try_from(self.index_bytes - offset).unwrap_or(usize::MAX);
        match self.index.at(offset, ENTRIES_BYTES_MAX.min(left)) {
            Ok(bytes) => Ok(&bytes[..bytes.len().min(left).min(ENTRIES_BYTES_MAX)]),
            Err(source) => Err(VerifyError::Read { path: self.index_path.clone(), source }),
        }
    }

    /// What must be there: everything, but of the current pair only what was synced. (Its first entry is
    /// synced before the file gets its name.)
    fn on_disk(&mut self) -> Result<OnDisk, VerifyError> {
        if self.role != Role::Current {
            return Ok(OnDisk { index: u64::MAX, text: u64::MAX });
        }
        let mut on_disk = OnDisk { index: 1, text: 0 };
        self.each_whole(|offset, entry| match entry.kind {
            Kind::Synced => on_disk = OnDisk { index: entry.first.clamp(1, offset.max(1)), text: entry.end },
            Kind::Sealed => on_disk = OnDisk { index: offset.max(1), text: entry.end },
            _ => {}
        })?;
        Ok(on_disk)
    }

    /// Goes through all entries and their texts.
    pub(super) fn walk(&mut self, ledger: &mut Ledger, progress: &mut Progress<'_>) -> Result<(), VerifyError> {
        let damaged_before = ledger.report.damaged;
        let on_disk = self.on_disk()?;
        let mut walk = Walk { offset: 0, text: 0, is_known: true, is_sealed: false };
        while walk.offset < self.index_bytes {
            let window = self.window(walk.offset)?;
            let (bytes, text_before) = match Entry::decode(window) {
                Ok((entry, bytes)) => {
                    let text_before = walk.text;
                    if !self.entry(&mut walk, &entry, on_disk, ledger) {
                        break;
                    }
                    (bytes, text_before)
                }
                Err(_) if walk.offset >= on_disk.index => break,
                Err(error) => {
                    let bytes = damaged_bytes(window);
                    ledger.damaged(self.index_at(walk.offset), error);
                    walk.is_known = false;
                    // An index that was shorter than it was said to be ends here.
                    (if bytes == 0 { usize::MAX } else { bytes }, walk.text)
                }
            };
            walk.offset = walk.offset.saturating_add(bytes as u64);
            progress.moved((bytes as u64).saturating_add(walk.text - text_before));
        }
        self.end(&walk, damaged_before, ledger);
        Ok(())
    }

    /// Looks at an entry and its text. `false` if from here on everything is in flight.
    fn entry(&mut self, walk: &mut Walk, entry: &Entry, on_disk: OnDisk, ledger: &mut Ledger) -> bool {
        if (entry.kind == Kind::Begin) != (walk.offset == 0) {
            ledger.damaged(self.index_at(walk.offset), "an index has one begin entry, its first");
        }
        if entry.kind == Kind::Synced {
            return true;
        }
        let begin = walk.text;
        let text = self.text_of(walk, entry);
        let must_be_whole = walk.offset < on_disk.index && entry.end <= on_disk.text;
        if text != Text::Whole && self.role == Role::Current && !must_be_whole {
            return false;
        }
        let log = Place { file: &self.text_path, offset: begin };
        if let Text::Damaged(reason) = &text {
            ledger.damaged(log, reason);
        }
        ledger.follow(self.index_at(walk.offset), log, entry, &text);
        walk.text = begin.max(entry.end);
        walk.is_known = true;
        walk.is_sealed = entry.kind == Kind::Sealed;
        true
    }

    fn index_at(&self, offset: u64) -> Place<'_> {
        Place { file: &self.index_path, offset }
    }

    fn text_of(&mut self, walk: &Walk, entry: &Entry) -> Text {
        if entry.kind == Kind::Block && entry.next.next.checked_sub(entry.first) != Some(entry.lines.into()) {
            return Text::Damaged("a block of records that has not a line for each".to_owned());
        }
        if entry.end < walk.text {
            return Text::Damaged(format!("a text that ends at {}, before it begins", entry.end));
        }
        match self.compare_text(walk, entry) {
            Ok(text) => text,
            Err(error) => Text::Damaged(format!("a text that cannot be read: {error}")),
        }
    }

    fn compare_text(&mut self, walk: &Walk, entry: &Entry) -> io::Result<Text> {
        let is_empty = entry.lines == 0 && (entry.end == walk.text || !walk.is_known);
        if is_empty && entry.text_crc == 0 {
            return Ok(Text::Whole);
        }
        let Some(file) = &mut self.text else { return Ok(Text::Gone) };
        let Some(mut sum) = file.sum(walk.text, entry.end)? else { return Ok(Text::Gone) };
        let lines = u64::from(entry.lines);
        let is = |crc, found| (crc, found) == (entry.text_crc, lines);
        if !walk.is_known && !is(sum.crc, sum.lines) && sum.lines > lines {
            // What is before its lines is the text of what was damaged.
            let begin = file.skip_lines(walk.text, entry.end, sum.lines - lines)?;
            sum = file.sum(begin, entry.end)?.unwrap_or(sum);
        }
        Ok(match sum.lines {
            _ if is(sum.crc, sum.lines) => Text::Whole,
            found if found == lines => Text::Damaged("a text with another checksum".to_owned()),
            found => Text::Damaged(format!("a text of {found} lines where the index has {lines}")),
        })
    }

    /// Looks at what the end of a pair that is not current says.
    fn end(&self, walk: &Walk, damaged_before: u64, ledger: &mut Ledger) {
        let is_damaged = |ledger: &Ledger| ledger.report.damaged > damaged_before;
        let log = Place { file: &self.text_path, offset: walk.text };
        let index = self.index_at(walk.offset);
        if self.index_bytes == 0 {
            ledger.damaged(index, "an index that is empty");
        }
        let length = self.text.as_ref().map(|text| text.length().unwrap_or(0));
        match length {
            None if self.role == Role::Aside(Aside::Moved) || walk.text == 0 => {}
            None => ledger.damaged(log, "there is no such file, and the index has text of it"),
            Some(length) if length < walk.text => {
                ledger.damaged(log, format_args!("the text ends at byte {length}, before the index does"));
            }
            Some(length) if length > walk.text && walk.is_known && self.role != Role::Current => {
                ledger.damaged(log, format_args!("the text goes on to byte {length}, where the index has ended"));
            }
            Some(_) => {}
        }
        if self.role == Role::Sealed && !walk.is_sealed && !is_damaged(ledger) {
            ledger.damaged(index, "an index that does not end with a sealed entry");
        }
        if self.role == Role::Aside(Aside::Damaged) && !is_damaged(ledger) {
            ledger.damaged(index, "a pair that was set aside as damaged");
        }
    }
}

/// How long the entry with words is that `window` begins with, and is not whole.
fn damaged_bytes(window: &[u8]) -> usize {
    let slots: Vec<&[u8]> = window.chunks(ENTRY_BYTES).collect();
    let alone = |slot: &[u8]| Entry::decode(slot).map(drop);
    let is_head = |slot: &&[u8]| slot.len() == ENTRY_BYTES && matches!(alone(slot), Ok(()) | Err(EntryError::Short));
    let is_more = |slot: &&[u8]| alone(slot) == Err(EntryError::Field { field: "kind", value: MORE.into() });
    let Some((head, behind)) = slots.split_first() else { return 0 };
    // A head that is whole says how many belong to it.
    let claimed = if is_head(head) {
        let words = usize::from(u16::from_le_bytes([head[6], head[7]]));
        words.saturating_sub(ENTRY_BYTES - 72).div_ceil(ENTRY_BYTES - 8)
    } else {
        0
    };
    let own = behind.iter().enumerate().take_while(|(at, slot)| is_more(slot) || (*at < claimed && !is_head(slot)));
    head.len() + own.map(|(_, slot)| slot.len()).sum::<usize>()
}
