//! Who may write what: each stream is served by one source at a time.
//!
//! A stream's home, the source at which it was met first, may always serve it; another source if nobody
//! does, or who does was not heard of for a while. So two addresses of one publisher are one source, and a
//! clone of a publisher does not get its records mixed in.

use super::positions::{Positions, Standing};
use super::queue::{Desk, SourceId};
use feed::StreamId;
use feed::cursor::Claim;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The silence after which another source may serve a stream.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Which source serves which stream.
pub(crate) struct Claims {
    owners: HashMap<StreamId, SourceId>,
    /// When everybody's home counts as heard of.
    began: Instant,
}

impl Claims {
    pub(crate) fn new() -> Self {
        Self { owners: HashMap::new(), began: Instant::now() }
    }

    /// Answers a source that wants to serve a stream; it serves no other from now on.
    pub(crate) fn claim(&mut self, source: SourceId, stream: StreamId, desks: &[Desk], positions: &Positions) -> Claim {
        self.owners.retain(|claimed, owner| *owner != source || *claimed == stream);
        let known = positions.get(stream);
        let desk = &desks[source];
        let home = positions.is_home(stream, &desk.home);
        let granted = match self.owners.get(&stream) {
            _ if home => true,
            Some(owner) => *owner == source || desks[*owner].heard.silence() > SILENCE_MAX,
            // Its home may be about to come, if it is followed at all.
            None => {
                let is_awaited = |known: &Standing| desks.iter().any(|desk| desk.home == known.home);
                !known.is_some_and(is_awaited) || self.began.elapsed() > SILENCE_MAX
            }
        };
        if granted {
            self.owners.insert(stream, source);
        }
        let had = positions.at_home(&desk.home);
        Claim { granted, home, at: known.map(|known| known.at), had }
    }

    /// The source serves nothing any more.
    pub(crate) fn release(&mut self, source: SourceId) {
        self.owners.retain(|_, owner| *owner != source);
    }

    /// Whether a source serves a stream.
    pub(crate) fn owns(&self, source: SourceId, stream: StreamId) -> bool {
        self.owners.get(&stream) == Some(&source)
    }
}
