//! Addresses as people write them: `HOST:PORT`, and for ZeroMQ `tcp://HOST:PORT`.
//!
//! HOST is a name, an IPv4 address, an IPv6 address in brackets, or `*` for every IPv4 interface
//! (as libzmq writes it). Names are kept as names: who connects resolves them anew each time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The longest name that DNS can carry (RFC 1035, 2.3.4), in bytes.
const HOST_BYTES_MAX: usize = 253;

/// Why a text is not an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `:PORT`, or the port is not a number from 0 to 65535.
    #[error("`{0}` does not end in a port (0 to 65535), as in 127.0.0.1:5000")]
    Port(String),
    /// The host is empty, too long, or has a character that no host name has.
    #[error("`{0}` does not name a host, as in 127.0.0.1:5000, [::1]:5000 or name:5000")]
    Host(String),
    /// A ZeroMQ endpoint of another transport, or of none.
    #[error("`{0}` is not a TCP endpoint, as in tcp://127.0.0.1:4444")]
    Transport(String),
    /// An address that can be listened on but not connected to.
    #[error("`{0}` cannot be connected to: name one host, and a port that is not 0")]
    NotConnectable(String),
}

/// A host and a port, not resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The name or address to resolve: without brackets, and `0.0.0.0` for `*`.
    pub fn host(&self) -> &str {
        if self.host == "*" { "0.0.0.0" } else { &self.host }
    }

    /// The port; 0 asks the system for a free one when listening.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host().to_owned(), port }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let no_port = || AddressError::Port(text.to_owned());
        let no_host = || AddressError::Host(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        // `u16::from_str` takes a leading `+`.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(no_port());
        }
        let port = port.parse().map_err(|_| no_port())?;

        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // In one spelling, so that the same address is equal to itself.
        let host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map_err(|_| no_host())?.to_string(),
            None if host == "*" || is_name(host) => host.to_ascii_lowercase(),
            None => return Err(no_host()),
        };
        Ok(Self { host, port })
    }
}

/// Names and IPv4 addresses. Underscores are no part of a host name by the RFCs, but of many containers' names.
fn is_name(host: &str) -> bool {
    let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(name_byte)
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A ZeroMQ endpoint over TCP: `tcp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(HostPort);

impl Endpoint {
    /// Where the endpoint is, without its transport.
    pub fn address(&self) -> &HostPort {
        &self.0
    }

    /// The endpoint itself, if one can connect to it.
    ///
    /// # Errors
    /// [`AddressError::NotConnectable`] for port 0 and for `*`.
    pub fn connectable(self) -> Result<Self, AddressError> {
        if self.0.port == 0 || self.0.host == "*" {
            return Err(AddressError::NotConnectable(self.to_string()));
        }
        Ok(self)
    }

    /// How a process on this machine reaches a socket that listens at `bound`: a socket on every
    /// interface by loopback, any other by its own address.
    pub fn local(bound: SocketAddr) -> Self {
        let ip = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, bound.port()).into()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let transport = || AddressError::Transport(text.to_owned());
        let address = text.strip_prefix("tcp://").ok_or_else(transport)?;
        Ok(Self(address.parse()?))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["127.0.0.1:5000", "[::1]:0", "publisher-1:65535", "my_service.local:80", "*:4444"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
            let endpoint = format!("tcp://{text}");
            assert_eq!(endpoint.parse::<Endpoint>().unwrap().to_string(), endpoint);
        }
    }

    #[test]
    fn an_address_has_one_spelling() {
        let read = |text: &str| text.parse::<HostPort>().unwrap();
        assert_eq!(read("[::1]:1"), read("[0:0:0:0:0:0:0:1]:1"));
        assert_eq!(read("LOCALHOST:1"), read("localhost:1"));
    }

    #[test]
    fn what_is_no_address_is_refused_by_what_is_wrong_with_it() {
        let refused = |text: &str| text.parse::<HostPort>().unwrap_err();
        for text in ["", "localhost", "localhost:", "localhost:http", "localhost:+80", "localhost:65536"] {
            assert_eq!(refused(text), AddressError::Port(text.to_owned()));
        }
        for text in [":80", "::1:80", "[::1:80", "[localhost]:80", "two words:80", "a/b:80", "$x:80"] {
            assert_eq!(refused(text), AddressError::Host(text.to_owned()));
        }
        for text in ["127.0.0.1:80", "ipc:///tmp/x", "TCP://127.0.0.1:80", "udp://127.0.0.1:80"] {
            assert_eq!(text.parse::<Endpoint>().unwrap_err(), AddressError::Transport(text.to_owned()));
        }
    }

    #[test]
    fn only_one_host_and_a_port_can_be_connected_to() {
        let connectable = |text: &str| text.parse::<Endpoint>().unwrap().connectable();
        assert!(connectable("tcp://name:1").is_ok());
        assert!(connectable("tcp://name:0").is_err());
        assert!(connectable("tcp://*:1").is_err());
    }

    #[test]
    fn every_interface_is_reached_by_loopback() {
        let local = |text: &str| Endpoint::local(text.parse().unwrap()).to_string();
        assert_eq!(local("0.0.0.0:4444"), "tcp://127.0.0.1:4444");
        assert_eq!(local("[::]:4444"), "tcp://[::1]:4444");
        assert_eq!(local("192.0.2.7:4444"), "tcp://192.0.2.7:4444");
    }
}
