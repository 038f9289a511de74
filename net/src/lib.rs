//! What both daemons need of the network: addresses, listeners, and an HTTP server with limits.
//!
//! It knows nothing of records, journals or logs, and owns no policy: callers say where to listen,
//! what to serve and when to stop.

pub mod address;
pub mod http;
pub mod listener;
pub mod operations;

pub use address::{AddressError, Endpoint, HostPort};
pub use listener::{ListenError, listen, listen_http};
