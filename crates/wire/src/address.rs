//! Where a machine can be reached.
//!
//! Over networks: `tcp://192.0.2.1:7001`, `udp://[2001:db8::1]:7001`, `ws://relay.example:80/sealway`,
//! `wss://relay.example:443/sealway`. Over a serial line, which is an address on this machine alone and stands on no card:
//! `serial:/dev/ttyUSB0?baud=115200`, `serial:COM3?baud=9600&flow=hardware&mtu=250`.

use core::{
    fmt,
    net::Ipv4Addr,
    net::Ipv6Addr,
    num::{NonZeroU16, NonZeroU32},
};

use crate::{DecodeError, Reason};

/// The longest host name: RFC 1035 section 2.3.4, in its textual form.
pub const MAX_HOST_LEN: usize = 253;
/// The longest path of a WebSocket address, or of a serial device, in octets.
pub const MAX_PATH_LEN: usize = 128;

/// A medium of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Length-prefixed frames over TCP.
    Tcp,
    /// Datagrams.
    Udp,
    /// Binary messages of a WebSocket (RFC 6455) over TCP.
    Ws,
    /// The same over TLS.
    Wss,
}

impl Transport {
    /// The scheme of its addresses.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    const fn has_path(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
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

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(host) => write!(f, "{host}"),
            Self::V6(host) => write!(f, "[{host}]"),
            Self::Name(host) => f.write_str(host),
        }
    }
}

/// A place in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetAddress<'a> {
    /// The medium.
    pub transport: Transport,
    /// The host.
    pub host: Host<'a>,
    /// The port. 0 has the system choose one, where the address is to be listened on.
    pub port: u16,
    /// What follows the port, of a WebSocket: empty, or `/` and octets of RFC 3986's `unreserved` and `/`, at most
    /// [`MAX_PATH_LEN`].
    pub path: &'a str,
}

/// How a serial line says that its receiver is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flow {
    /// It does not.
    #[default]
    None,
    /// By its lines RTS and CTS.
    Hardware,
}

/// A serial line of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SerialAddress<'a> {
    /// The device, as the system names it: printable ASCII without `?`, at most [`MAX_PATH_LEN`] octets.
    pub device: &'a str,
    /// Bits a second: of a frame of 10 bits, 8 are an octet.
    pub baud: NonZeroU32,
    /// Flow control.
    pub flow: Flow,
    /// The longest frame in octets that goes over the line in one piece; none: as the rate suggests.
    pub mtu: Option<NonZeroU16>,
    /// What the line loses is sent again: both ends have to be told so.
    pub repeats: bool,
}

/// Where a machine can be reached, in the only textual form that there is for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address<'a> {
    /// A place in a network.
    Net(NetAddress<'a>),
    /// A serial line of this machine.
    Serial(SerialAddress<'a>),
}

impl<'a> Address<'a> {
    /// Parses the only textual form, which [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// Names the part that is wrong: `address scheme`, `address host`, `address port`, `address path`; of a serial line
    /// `address device`, `address option`, `address baud`, `address flow`, `address mtu` or `address repeat`.
    pub fn parse(text: &'a str) -> Result<Self, DecodeError> {
        match text.strip_prefix("serial:") {
            Some(rest) => SerialAddress::parse(rest).map(Self::Serial),
            None => NetAddress::parse(text).map(Self::Net),
        }
    }

    /// Whether it means something on other machines too, and may stand on a card.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        matches!(self, Self::Net(_))
    }
}

impl<'a> NetAddress<'a> {
    fn parse(text: &'a str) -> Result<Self, DecodeError> {
        let malformed = |field| DecodeError::new(field, Reason::Malformed);
        let (scheme, rest) = text.split_once("://").ok_or(malformed("address scheme"))?;
        let all = [Transport::Tcp, Transport::Udp, Transport::Ws, Transport::Wss];
        let transport = all.into_iter().find(|known| known.scheme() == scheme).ok_or(malformed("address scheme"))?;
        let (authority, path) = match rest.find('/').filter(|_| transport.has_path()) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = authority.rsplit_once(':').ok_or(malformed("address port"))?;
        let port = parse_number(port).ok_or(malformed("address port"))?;
        let host = parse_host(host)?;
        Ok(Self { transport, host, port, path: parse_path(path)? })
    }
}

impl<'a> SerialAddress<'a> {
    fn parse(text: &'a str) -> Result<Self, DecodeError> {
        let malformed = |field| DecodeError::new(field, Reason::Malformed);
        let (device, options) = text.split_once('?').unwrap_or((text, ""));
        if device.len() > MAX_PATH_LEN {
            let reason = Reason::TooLong { limit: MAX_PATH_LEN, got: device.len() };
            return Err(DecodeError::new("address device", reason));
        }
        if device.is_empty() || !device.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(malformed("address device"));
        }
        // Each at most once, in this order: there is one way to write an address.
        let mut rest = options.split('&').peekable();
        let mut option = |name| rest.next_if(|option| option.starts_with(name))?.strip_prefix(name);
        let baud = option("baud=").and_then(parse_number).ok_or(malformed("address baud"))?;
        let flow = match option("flow=") {
            None => Flow::None,
            Some("hardware") => Flow::Hardware,
            Some(_) => return Err(malformed("address flow")),
        };
        let mtu = match option("mtu=").map(parse_number::<NonZeroU16>) {
            Some(None) => return Err(malformed("address mtu")),
            mtu => mtu.flatten(),
        };
        let repeats = match option("repeat=") {
            None => false,
            Some("on") => true,
            Some(_) => return Err(malformed("address repeat")),
        };
        if rest.next().is_some() {
            return Err(malformed("address option"));
        }
        Ok(Self { device, baud, flow, mtu, repeats })
    }
}

impl fmt::Display for NetAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.transport.scheme(), self.host, self.port, self.path)
    }
}

impl fmt::Display for SerialAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serial:{}?baud={}", self.device, self.baud)?;
        if self.flow == Flow::Hardware {
            f.write_str("&flow=hardware")?;
        }
        self.mtu.map_or(Ok(()), |mtu| write!(f, "&mtu={mtu}"))?;
        if self.repeats { f.write_str("&repeat=on") } else { Ok(()) }
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Serial(address) => address.fmt(f),
        }
    }
}

/// A number in its only form: digits, without a sign or leading zeros.
fn parse_number<T: core::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|octet| octet.is_ascii_digit());
    let shortest = text == "0" || !text.starts_with('0');
    if digits && shortest { text.parse().ok() } else { None }
}

fn parse_path(text: &str) -> Result<&str, DecodeError> {
    const FIELD: &str = "address path";
    if text.len() > MAX_PATH_LEN {
        return Err(DecodeError::new(FIELD, Reason::TooLong { limit: MAX_PATH_LEN, got: text.len() }));
    }
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"/-._~".contains(&octet);
    // `/` alone means what an empty path does.
    if text == "/" {
        Err(DecodeError::new(FIELD, Reason::NotCanonical))
    } else if text.bytes().all(allowed) {
        Ok(text)
    } else {
        Err(DecodeError::new(FIELD, Reason::Malformed))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for (text, field) in [
            ("http://192.0.2.1:1", "address scheme"),
            ("TCP://192.0.2.1:1", "address scheme"),
            ("relay.example:1", "address scheme"),
            ("tcp://192.0.2.1", "address port"),
            ("tcp://192.0.2.1:", "address port"),
            ("tcp://192.0.2.1:070", "address port"),
            ("tcp://192.0.2.1:65536", "address port"),
            ("tcp://192.0.2.1:70/path", "address port"),
            ("udp://192.0.2.1:+7", "address port"),
            ("wss://relay.example/path", "address port"),
            ("tcp://:70", "address host"),
            ("tcp://[2001:DB8::1]:70", "address host"),
            ("tcp://[::1:70", "address host"),
            ("tcp://1.2.3.256:70", "address host"),
            ("tcp://relay..example:70", "address host"),
            ("tcp://-relay.example:70", "address host"),
            ("ws://user@relay.example:80", "address host"),
            ("ws://relay.example:80/", "address path"),
            ("ws://relay.example:80/a?b", "address path"),
            ("wss://relay.example:443/\r\nHost:", "address path"),
            ("serial:", "address device"),
            ("serial:?baud=9600", "address device"),
            ("serial:/dev/tty USB0", "address device"),
            ("serial:/dev/ttyUSB0", "address baud"),
            ("serial:/dev/ttyUSB0?", "address baud"),
            ("serial:/dev/ttyUSB0?baud=0", "address baud"),
            ("serial:/dev/ttyUSB0?baud=4294967296", "address baud"),
            ("serial:/dev/ttyUSB0?flow=hardware&baud=9600", "address baud"),
            ("serial:/dev/ttyUSB0?baud=9600&parity=even", "address option"),
            ("serial:/dev/ttyUSB0?baud=9600&baud=9600", "address option"),
            ("serial:/dev/ttyUSB0?baud=9600&flow=software", "address flow"),
            ("serial:/dev/ttyUSB0?baud=9600&mtu=0", "address mtu"),
            ("serial:/dev/ttyUSB0?baud=9600&mtu=65536", "address mtu"),
            ("serial:/dev/ttyUSB0?baud=9600&repeat=off", "address repeat"),
            ("serial:/dev/ttyUSB0?baud=9600&repeat=on&mtu=64", "address option"),
        ] {
            assert_eq!(Address::parse(text).map_err(|error| error.field), Err(field), "{text}");
        }
    }
}
