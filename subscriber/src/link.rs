//! Whether a source is followed, and if not, why: what its task tells those who are asked.

use feed::StreamId;

/// How it is with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// It is followed. One of the numbered feed has been caught up with.
    Connected,
    /// Nothing is missing: its stream is served through another address.
    Parked { stream: StreamId },
    /// It is not followed, and tried again.
    Waiting(String),
    /// It must not be followed until somebody has done something about it.
    Refused(String),
}

impl Link {
    /// Nothing is to be done for the source.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Connected | Self::Parked { .. })
    }
}
