//! End to end, on the real binary and with real peers: libzmq, pyzmq, `tail`. One harness, files by concern.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod burst;
mod cli;
mod collector;
mod compose;
mod durable;
mod harness;
mod histories;
mod http;
mod log;
mod once;
mod plain_feed;
mod plain_source;
mod protocol;
mod publishing;
mod pyzmq;
mod replay;
mod shutdown;
mod stopped;
mod up;
