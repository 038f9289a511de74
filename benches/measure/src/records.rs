//! Records that have numbers, so that what is lost and what is repeated can be counted in whatever comes out.

/// Digits of a number, and the mark on either side.
const NUMBER: usize = 12;
const MARK: u8 = b'#';

/// Bodies of a length: each begins with its number, `#0000000041#`; what follows is the same in all.
pub struct Records {
    pattern: Vec<u8>,
}

impl Records {
    /// The shortest body that has a number.
    pub const SIZE_MIN: usize = NUMBER;

    /// The same bodies each time, of so many bytes.
    pub fn new(size: usize) -> Self {
        assert!(size >= NUMBER, "a body of {size} bytes has no room for its number");
        let mut random = fastrand::Rng::with_seed(7);
        Self { pattern: (0..size).map(|_| random.alphanumeric() as u8).collect() }
    }

    /// A body whose number is set by [`Self::number`].
    pub fn body(&self) -> Vec<u8> {
        self.pattern.clone()
    }

    /// Makes the body of [`Self::body`] that of this number. Senders do it for each record: it costs next to nothing.
    pub fn number(body: &mut [u8], number: u64) {
        let mut left = number;
        for digit in body[1..NUMBER - 1].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        (body[0], body[NUMBER - 1]) = (MARK, MARK);
    }

    /// The number of the body that this line has, wherever in it; none if it has no whole one.
    fn number_in(&self, line: &[u8]) -> Option<u64> {
        let body = &line[line.iter().position(|byte| *byte == MARK)?..];
        let body = body.get(..self.pattern.len())?;
        let (head, rest) = body.split_at(NUMBER);
        let is_whole = head[NUMBER - 1] == MARK && rest == &self.pattern[NUMBER..];
        if is_whole { std::str::from_utf8(&head[1..NUMBER - 1]).ok()?.parse().ok() } else { None }
    }
}

/// Which of the records 0 to N have been found, and how often.
pub struct Tally {
    records: Records,
    seen: Vec<bool>,
    found: u64,
    distinct: u64,
}

impl Tally {
    /// Nothing has been found of so many records.
    pub fn new(records: Records, count: u64) -> Self {
        Self { records, seen: vec![false; count as usize], found: 0, distinct: 0 }
    }

    /// Counts the record that a line has. One with half a record, or with none that was sent, is none.
    pub fn count(&mut self, line: &[u8]) {
        let Some(number) = self.records.number_in(line) else { return };
        let Some(seen) = self.seen.get_mut(number as usize) else { return };
        self.found += 1;
        self.distinct += u64::from(!std::mem::replace(seen, true));
    }

    /// How many different records were found.
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How many were not.
    pub fn lost(&self) -> u64 {
        self.seen.len() as u64 - self.distinct
    }

    /// How many were found that had been found before.
    pub fn repeated(&self) -> u64 {
        self.found - self.distinct
    }
}
