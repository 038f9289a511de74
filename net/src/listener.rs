//! Listening sockets, bound by whoever owns the address and handed on from there.

use crate::HostPort;
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG_MAX: i32 = 1024;

/// Keepalive probes that go unanswered before a peer counts as dead.
const KEEPALIVE_PROBES: u32 = 3;

/// How long an HTTP client may take nothing before the kernel ends its connection.
const HTTP_PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why nothing listens at an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: HostPort,
    source: io::Error,
}

/// Binds and listens at the first address that the host resolves to, and tells it, port 0 resolved.
///
/// The kernel ends accepted connections whose peer does not answer for `peer_timeout`: an idle one
/// by SO_KEEPALIVE, one that takes no data by TCP_USER_TIMEOUT (RFC 5482; a closed window counts).
/// Accepted sockets inherit both from the listener. It is non-blocking, as the runtimes want it.
///
/// # Errors
/// The host has no address, or none of them can be bound; the last reason is given.
pub fn listen(at: &HostPort, peer_timeout: Duration) -> Result<(TcpListener, SocketAddr), ListenError> {
    let fail = |source| ListenError { address: at.clone(), source };
    let addresses = (at.host(), at.port()).to_socket_addrs().map_err(fail)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match listen_on(address, peer_timeout) {
            Ok(listening) => return Ok(listening),
            Err(error) => last = error,
        }
    }
    Err(fail(last))
}

/// The same, for [`crate::http::serve`].
///
/// # Errors
/// As [`listen`].
pub fn listen_http(at: &HostPort) -> Result<(tokio::net::TcpListener, SocketAddr), ListenError> {
    let (listener, address) = listen(at, HTTP_PEER_TIMEOUT)?;
    let listener = tokio::net::TcpListener::from_std(listener);
    Ok((listener.map_err(|source| ListenError { address: at.clone(), source })?, address))
}

fn listen_on(address: SocketAddr, peer_timeout: Duration) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart may bind while connections of the process before it are still in TIME_WAIT.
    socket.set_reuse_address(true)?;
    let probe = (peer_timeout / (KEEPALIVE_PROBES + 1)).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(peer_timeout))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_in_the_error() {
        let wait = Duration::from_secs(10);
        let (_first, address) = listen(&"127.0.0.1:0".parse().unwrap(), wait).unwrap();
        let error = listen(&address.into(), wait).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn accepted_connections_inherit_the_watch_on_their_peer() {
        let wait = Duration::from_secs(10);
        let (listener, address) = listen(&"127.0.0.1:0".parse().unwrap(), wait).unwrap();
        let _peer = std::net::TcpStream::connect(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(wait));
    }
}
