//! Where a relay can be reached: `tcp://192.0.2.1:7001`, `tcp://[2001:db8::1]:7001`, `tcp://relay.example:7001`.

use core::{fmt, net::Ipv4Addr, net::Ipv6Addr};

use crate::{DecodeError, Reason};

/// The longest host name: RFC 1035 section 2.3.4, in its textual form.
pub const MAX_HOST_LEN: usize = 253;

/// A medium that has an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Length-prefixed frames over TCP.
    Tcp,
}

/// The host part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, in brackets as text.
    V6(Ipv6Addr),
    /// A host name: letters, digits, hyphens and dots, at most [`MAX_HOST_LEN`] octets.
    Name(&'a str),
}

/// A transport, a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address<'a> {
    /// The medium.
    pub transport: Transport,
    /// The host.
    pub host: Host<'a>,
    /// The port. 0 has the system choose one, where the address is to be listened on.
    pub port: u16,
}

impl<'a> Address<'a> {
    /// Parses the only textual form, which [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// Names the part that is wrong: `address scheme`, `address host` or `address port`.
    pub fn parse(text: &'a str) -> Result<Self, DecodeError> {
        let malformed = |field| DecodeError::new(field, Reason::Malformed);
        let rest = text.strip_prefix("tcp://").ok_or(malformed("address scheme"))?;
        let (host, port) = rest.rsplit_once(':').ok_or(malformed("address port"))?;
        let port = parse_port(port).ok_or(malformed("address port"))?;
        let host = parse_host(host)?;
        Ok(Self { transport: Transport::Tcp, host, port })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|octet| octet.is_ascii_digit());
    let shortest = text == "0" || !text.starts_with('0');
    if digits && shortest { text.parse().ok() } else { None }
}

fn parse_host(text: &str) -> Result<Host<'_>, DecodeError> {
    const FIELD: &str = "address host";
    let malformed = DecodeError::new(FIELD, Reason::Malformed);
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']').ok_or(malformed)?.parse().map_err(|_| malformed)?;
        return if is_written_as(address, inner.get(..inner.len() - 1).unwrap_or_default()) {
            Ok(Host::V6(address))
        } else {
            Err(DecodeError::new(FIELD, Reason::NotCanonical))
        };
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::V4(address));
    }
    if text.len() > MAX_HOST_LEN {
        return Err(DecodeError::new(FIELD, Reason::TooLong { limit: MAX_HOST_LEN, got: text.len() }));
    }
    // A last label of digits would be an IPv4 address to some resolvers and a name to others (WHATWG URL section 3.5).
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
    let label = |label: &str| {
        let edges = [label.bytes().next(), label.bytes().next_back()];
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
            && !edges.contains(&Some(b'-'))
    };
    if !numeric && text.split('.').all(label) { Ok(Host::Name(text)) } else { Err(malformed) }
}

/// Whether `text` is the canonical form of `address` (RFC 5952), compared without allocation.
fn is_written_as(address: Ipv6Addr, text: &str) -> bool {
    struct Rest<'a>(&'a str);
    impl fmt::Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(text);
    fmt::Write::write_fmt(&mut rest, format_args!("{address}")).is_ok() && rest.0.is_empty()
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transport::Tcp = self.transport;
        match self.host {
            Host::V4(host) => write!(f, "tcp://{host}:{}", self.port),
            Host::V6(host) => write!(f, "tcp://[{host}]:{}", self.port),
            Host::Name(host) => write!(f, "tcp://{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for (text, field) in [
            ("udp://192.0.2.1:1", "address scheme"),
            ("tcp://192.0.2.1", "address port"),
            ("tcp://192.0.2.1:", "address port"),
            ("tcp://192.0.2.1:070", "address port"),
            ("tcp://192.0.2.1:65536", "address port"),
            ("tcp://:70", "address host"),
            ("tcp://[2001:DB8::1]:70", "address host"),
            ("tcp://[::1:70", "address host"),
            ("tcp://1.2.3.256:70", "address host"),
            ("tcp://relay..example:70", "address host"),
            ("tcp://-relay.example:70", "address host"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err().field, field, "{text}");
        }
    }
}
