//! Listening sockets, bound by whoever owns the address and handed on from there.

use crate::HostPort;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG_MAX: i32 = 1024;

/// Keepalive probes that go unanswered before a peer counts as dead.
const KEEPALIVE_PROBES: u32 = 3;

/// Why nothing listens at an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: HostPort,
    source: io::Error,
}

/// Binds and listens at the first address that the host resolves to. Port 0 takes a free one.
///
/// # Errors
/// The host has no address, or none of them can be bound; the last reason is given.
pub fn listen(at: &HostPort) -> Result<TcpListener, ListenError> {
    let fail = |source| ListenError { address: at.clone(), source };
    let addresses = (at.host(), at.port()).to_socket_addrs().map_err(fail)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(fail(last))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart may bind while connections of the process before it are still in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    // Both runtimes that take it over want it so; on a blocking socket tokio panics.
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Has the kernel end accepted connections whose peer does not answer for `timeout`: an idle one by
/// SO_KEEPALIVE, one that takes no data by TCP_USER_TIMEOUT (RFC 5482; a closed window counts).
/// Accepted sockets inherit both from the listener.
///
/// # Errors
/// The kernel refuses the option.
pub fn notice_dead_peers(listener: &TcpListener, timeout: Duration) -> io::Result<()> {
    let probe = (timeout / (KEEPALIVE_PROBES + 1)).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(listener);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_in_the_error() {
        let first = listen(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = HostPort::from(first.local_addr().unwrap());
        let error = listen(&address).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn accepted_connections_inherit_the_watch_on_their_peer() {
        let listener = listen(&"127.0.0.1:0".parse().unwrap()).unwrap();
        notice_dead_peers(&listener, Duration::from_secs(10)).unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(10)));
    }
}
