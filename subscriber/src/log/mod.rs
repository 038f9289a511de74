//! The log: what a line looks like, the files that hold the lines, and the one thread that writes them.
//!
//! It knows nothing of ZeroMQ or HTTP. Layers, each on the ones before:
//!
//! - [`escape`]: bytes that cannot forge a line; [`format`]: records, messages and statements as lines.
//! - [`index`]: the entries of an index; [`positions`]: what they say together; [`names`]: how files are called.
//! - [`pair`]: text and index, appended to together; [`scan`]: reading an index, whatever became of it.
//! - [`file`]: a log as one thing, with [`open`] (what was left of it), [`rotate`] and [`boundary`].
//! - [`queue`]: the way to the writer; [`claims`]: who may write what; [`writer`]: the one thread, with
//!   [`gather`] (what it writes), [`patience`] (with a disk that fails) and [`finish`] (what it does first).

mod boundary;
mod claims;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod file;
mod finish;
pub(crate) mod format;
mod gather;
pub mod index;
pub(crate) mod names;
mod open;
pub(crate) mod pair;
mod patience;
pub(crate) mod positions;
pub(crate) mod queue;
mod rotate;
pub(crate) mod scan;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use error::LogError;
