//! A file that is read once from its start to its end, through a buffer of a fixed size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What is read at once.
const READ_BYTES: usize = 1024 * 1024;

/// A file and what was read of it last.
pub(super) struct Reader {
    file: File,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
}

/// What a text comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) crc: u32,
    /// Newlines in it.
    pub(super) lines: u64,
}

impl Reader {
    pub(super) fn new(file: File) -> Self {
        Self { file, buffer: Vec::new(), start: 0 }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// How long the file is now.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// What follows `offset`: at least `least` bytes (not more than 1 MiB) unless the file ends before.
    pub(super) fn at(&mut self, offset: u64, least: usize) -> io::Result<&[u8]> {
        let skip = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let held = skip.filter(|&skip| self.buffer.len().checked_sub(skip).is_some_and(|held| held >= least));
        let skip = match held {
            Some(skip) => skip,
            None => {
                self.fill(offset, least)?;
                0
            }
        };
        Ok(&self.buffer[skip..])
    }

    fn fill(&mut self, offset: u64, least: usize) -> io::Result<()> {
        self.start = offset;
        self.buffer.resize(READ_BYTES, 0);
        let mut filled = 0;
        while filled < least {
            match self.file.read_at(&mut self.buffer[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }

    /// Sums up the bytes between two offsets. `None` if the file ends before.
    pub(super) fn sum(&mut self, from: u64, to: u64) -> io::Result<Option<Sum>> {
        let mut sum = Sum { crc: 0, lines: 0 };
        let whole = self.pieces(from, to, |_, piece| {
            sum.crc = crc32c::crc32c_append(sum.crc, piece);
            sum.lines += newlines(piece);
            true
        })?;
        Ok(whole.then_some(sum))
    }

    /// Where the line number `count` after `from` begins, or `to` if there are not as many before it.
    pub(super) fn skip_lines(&mut self, from: u64, to: u64, count: u64) -> io::Result<u64> {
        let (mut left, mut found) = (count, if count == 0 { from } else { to });
        self.pieces(from, to, |offset, piece| {
            let here = newlines(piece);
            if left > 0 && left <= here {
                let mut ends = piece.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
                found = ends.nth(left as usize - 1).map_or(to, |at| offset + at as u64 + 1);
            }
            left = left.saturating_sub(here);
            left > 0
        })?;
        Ok(found)
    }

    /// Gives the bytes between two offsets to `each`, until it has enough. Whether the file has them all.
    fn pieces(&mut self, from: u64, to: u64, mut each: impl FnMut(u64, &[u8]) -> bool) -> io::Result<bool> {
        let mut offset = from;
        while offset < to {
            let piece = self.at(offset, 1)?;
            let length = piece.len().min(usize::try_from(to - offset).unwrap_or(usize::MAX));
            if length == 0 {
                return Ok(false);
            }
            if !each(offset, &piece[..length]) {
                return Ok(true);
            }
            offset += length as u64;
        }
        Ok(true)
    }
}

/// As many at a time as a byte can count: so it is done by vector instructions, at the speed of the checksum.
fn newlines(bytes: &[u8]) -> u64 {
    let count = |part: &[u8]| part.iter().fold(0_u8, |count, &byte| count.wrapping_add(u8::from(byte == b'\n')));
    bytes.chunks(u8::MAX.into()).map(|part| u64::from(count(part))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn reader(text: &[u8]) -> Reader {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Reader::new(file)
    }

    #[test]
    fn a_sum_goes_over_more_than_one_read_and_ends_with_the_file() {
        let text = b"a line\n".repeat(READ_BYTES / 3);
        let mut reader = reader(&text);
        for (from, to) in [(0, text.len()), (5, text.len()), (READ_BYTES - 3, READ_BYTES + 90), (7, 7), (0, 14)] {
            let part = &text[from..to];
            let sum = Sum { crc: crc32c::crc32c(part), lines: newlines(part) };
            assert_eq!(reader.sum(from as u64, to as u64).unwrap(), Some(sum));
        }
        assert_eq!(reader.sum(3, text.len() as u64 + 1).unwrap(), None);
        assert_eq!(reader.sum(text.len() as u64 + 9, u64::MAX >> 1).unwrap(), None);
    }

    #[test]
    fn lines_are_skipped_over_more_than_one_read() {
        let text = b"a line\n".repeat(READ_BYTES / 3);
        let (mut reader, length) = (reader(&text), text.len() as u64);
        for count in [0, 1, 2, READ_BYTES as u64 / 5, READ_BYTES as u64 / 3] {
            assert_eq!(reader.skip_lines(0, length, count).unwrap(), 7 * count);
        }
        assert_eq!(reader.skip_lines(0, length, length).unwrap(), length);
        assert_eq!(reader.skip_lines(7, 20, 1).unwrap(), 14);
    }
}
