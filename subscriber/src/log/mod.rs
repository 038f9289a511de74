//! The log: what a line looks like, the file that holds the lines, and the one thread that writes them.
//!
//! It knows nothing of ZeroMQ or HTTP. Layers, each on the one before: [`escape`] (bytes that cannot
//! forge a line), [`format`] (a message as a line), [`file`] (lines in files that rotate), [`writer`]
//! (a bounded queue in front of the file, and patience with a disk that fails). [`index`], what is in the
//! log and where, is a format that nothing writes yet.

pub(crate) mod escape;
pub(crate) mod file;
pub(crate) mod format;
pub mod index;
pub(crate) mod writer;
