//! What the transports over IP have in common: from addresses to sockets, and from the system's errors to ours.
#![forbid(unsafe_code)]

pub mod stream;

use std::{
    io::{Error, ErrorKind},
    net::{IpAddr, SocketAddr},
};

use sealway_link::{LinkError, LinkErrorKind};
use sealway_wire::{Address, Host, NetAddress, Transport};

/// The place in a network that an address names, if it is one of that medium.
#[must_use]
pub fn place<'a>(address: &'a Address<'a>, transport: Transport) -> Option<&'a NetAddress<'a>> {
    match address {
        Address::Net(address) if address.transport == transport => Some(address),
        _ => None,
    }
}

/// Every socket address behind `address`, at least one, as the system orders them.
///
/// # Errors
/// The name has none, or nobody could be asked. Cancel-safe.
pub async fn resolve(address: &NetAddress<'_>) -> Result<Vec<SocketAddr>, LinkError> {
    match address.host {
        Host::V4(host) => Ok(vec![SocketAddr::new(host.into(), address.port)]),
        Host::V6(host) => Ok(vec![SocketAddr::new(host.into(), address.port)]),
        Host::Name(host) => {
            let found = tokio::net::lookup_host((host, address.port)).await;
            let found = found.map_err(|error| LinkError::new(LinkErrorKind::Unreachable, address).caused_by(error))?;
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err(LinkError::new(LinkErrorKind::Unreachable, address)) } else { Ok(found) }
        }
    }
}

/// What an error of a socket means for its link to `place`.
#[must_use]
pub fn failure(error: Error, place: impl std::fmt::Display) -> LinkError {
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => LinkErrorKind::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            LinkErrorKind::Unreachable
        }
        ErrorKind::TimedOut => LinkErrorKind::TimedOut,
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => LinkErrorKind::AddressUnavailable,
        ErrorKind::PermissionDenied => LinkErrorKind::Denied,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => LinkErrorKind::Lost,
        _ => LinkErrorKind::Other,
    };
    LinkError::new(kind, place).caused_by(error)
}

/// The number of a source: an IPv4 address, or the first 56 bits of an IPv6 address, which one customer owns (RFC 6177).
#[must_use]
pub fn source(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, ..] = address.octets();
            u64::from_be_bytes([1, a, b, c, d, e, f, g])
        }
    }
}
