//! The log: what a line looks like, the file that holds the lines, and the one thread that writes them.
//!
//! It knows nothing of ZeroMQ or HTTP. Layers, each on the one before: [`escape`] (bytes that cannot
//! forge a line), [`format`] (a message as a line), [`file`] (lines in files that rotate), [`index`]
//! (what is in the log, and where), [`positions`] (what an index says together), [`queue`] (the way to
//! the writer), [`writer`] (the one thread, and its patience with a disk that fails).

pub(crate) mod escape;
pub(crate) mod file;
pub(crate) mod format;
pub mod index;
pub(crate) mod positions;
pub(crate) mod queue;
pub(crate) mod writer;
