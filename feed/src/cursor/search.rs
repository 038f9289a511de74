//! The search for the last position that two histories have in common.
//!
//! Ours is a list of boundaries that only the writer can look up; the other is judged one position
//! at a time by the publisher. Both begin alike, so what is common is all on one side, and halving
//! the range of sequences finds where it ends, in at most 64 steps.
//!
//! Positions before the publisher's oldest cannot be judged; they are never candidates, even if the
//! oldest moves during the search.

use crate::Position;

/// Sequences in `floor..ceiling` are undecided: no boundary below that is later than `common` is
/// common, none from `ceiling` on is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    floor: u64,
    ceiling: u64,
    common: Option<Position>,
}

impl Search {
    /// Below `refused`, a position of ours that the publisher does not have.
    pub(super) fn new(refused: Position, oldest: Position) -> Self {
        Self { floor: oldest.next, ceiling: refused.next, common: None }
    }

    /// The sequence at or below which to look for the next candidate; `None` when all is decided.
    pub(super) fn middle(&self) -> Option<u64> {
        (self.floor < self.ceiling).then(|| self.floor + (self.ceiling - self.floor) / 2)
    }

    /// What was found at or below `middle`: the candidate if it is one, or that range is decided.
    pub(super) fn found(&mut self, middle: u64, boundary: Option<Position>) -> Option<Position> {
        let candidate = boundary.filter(|boundary| (self.floor..=middle).contains(&boundary.next));
        if candidate.is_none() {
            self.floor = middle + 1;
        }
        candidate
    }

    /// The publisher has judged the candidate, and keeps what begins at `oldest`.
    pub(super) fn judged(&mut self, middle: u64, candidate: Position, refused: bool, oldest: Position) {
        if refused {
            self.ceiling = candidate.next;
        } else if candidate.next >= oldest.next {
            self.common = Some(candidate);
            // The candidate was the last one up to the middle.
            self.floor = middle + 1;
        }
        self.floor = self.floor.max(oldest.next);
    }

    /// What was found, when all is decided.
    pub(super) fn common(&self) -> Option<Position> {
        self.common
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search over our boundaries, of which those below `split` are the publisher's too.
    fn run(ours: &[u64], split: u64, mut oldest: u64, moves: u64) -> (Option<u64>, usize) {
        let at = |next| Position { next, previous: 7 };
        let mut search = Search::new(at(*ours.last().unwrap()), at(oldest));
        let mut probes = 0;
        while let Some(middle) = search.middle() {
            let boundary = ours.iter().rev().find(|next| **next <= middle).map(|next| at(*next));
            if let Some(candidate) = search.found(middle, boundary) {
                probes += 1;
                oldest += moves;
                let refused = candidate.next >= oldest && candidate.next > split;
                search.judged(middle, candidate, refused, at(oldest));
            }
        }
        (search.common().map(|at| at.next), probes)
    }

    #[test]
    fn the_last_common_boundary_is_found() {
        let ours = [0, 3, 4, 9, 10, 17, 30, 31];
        for split in 0..31 {
            let last = ours.iter().rev().find(|next| **next <= split).copied();
            assert_eq!(run(&ours, split, 0, 0).0, last, "split at {split}");
            assert_eq!(run(&ours, split, 4, 0).0, last.filter(|next| *next >= 4), "split at {split}, oldest 4");
        }
        assert_eq!(run(&[5, 6], 0, 0, 0).0, None);
    }

    #[test]
    fn a_long_index_takes_few_probes() {
        let ours: Vec<u64> = (0..100_000).map(|block| block * 7).collect();
        let (common, probes) = run(&ours, 123_456, 0, 0);
        assert_eq!(common, Some(123_452));
        assert!(probes <= 20, "{probes} probes");
    }

    #[test]
    fn what_retention_takes_during_the_search_is_no_candidate() {
        let ours: Vec<u64> = (0..1000).collect();
        for moves in 1..300 {
            let (common, _) = run(&ours, 400, 0, moves);
            assert!(common.is_none_or(|common| common <= 400));
        }
        assert_eq!(run(&ours, 400, 0, 1000).0, None);
    }
}
