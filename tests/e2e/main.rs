//! End to end, on the real binary and with real peers: libzmq, pyzmq, `tail`. One harness, files by concern.

mod cli;
mod harness;
mod http;
mod log;
mod plain_feed;
mod plain_source;
mod pyzmq;
mod up;
