//! Where in a network somebody may be reached: one address, as a relay sees it, and those that peers tell each other.
//! Protocol sections 5 and 6.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{DecodeError, EncodeError, Reader, Reason, Writer};

/// The most addresses in one CANDIDATES.
pub const MAX_CANDIDATES: usize = 8;
const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;
const ANSWER_WANTED: u8 = 1;

/// CANDIDATES: `flags 1 | address*`, at most [`MAX_CANDIDATES`]. Bit 0 of the flags asks for those of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// The sender wants to be told of ours in return.
    pub answer_wanted: bool,
    /// The addresses, as they are on the wire.
    octets: &'a [u8],
}

impl<'a> Candidates<'a> {
    /// Writes `addresses` into `out`, and gives what tells of them: as many as there are places for.
    #[must_use]
    pub fn write(addresses: &[SocketAddr], answer_wanted: bool, out: &'a mut [u8; 19 * MAX_CANDIDATES]) -> Self {
        let mut writer = Writer::new(out);
        for address in addresses.iter().take(MAX_CANDIDATES).filter(|address| address.port() > 0) {
            // There is room: 19 octets are the longest.
            let _ = encode_address(*address, &mut writer);
        }
        let len = writer.len();
        Self { answer_wanted, octets: out.get(..len).unwrap_or_default() }
    }

    /// The addresses, one by one.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let mut reader = Reader::new(self.octets);
        core::iter::from_fn(move || decode_address(&mut reader, "CANDIDATES address").ok())
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8("CANDIDATES flags")?;
        if flags & !ANSWER_WANTED != 0 {
            return Err(DecodeError::new("CANDIDATES flags", Reason::Unknown { value: flags.into() }));
        }
        let octets = reader.rest();
        let mut list = Reader::new(octets);
        let mut count = 0;
        while list.remaining() > 0 {
            decode_address(&mut list, "CANDIDATES address")?;
            count += 1;
            if count > MAX_CANDIDATES {
                let reason = Reason::TooMany { limit: MAX_CANDIDATES, got: count };
                return Err(DecodeError::new("CANDIDATES", reason));
            }
        }
        Ok(Self { answer_wanted: flags != 0, octets })
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.u8(u8::from(self.answer_wanted))?.put(self.octets)?;
        Ok(())
    }
}

/// `family 1 | address | port 2`: the family is 4 or 6, its address 4 or 16 octets. An IPv4 address is written as such, never
/// mapped into IPv6, and the port is not 0.
pub(crate) fn decode_address(reader: &mut Reader<'_>, field: &'static str) -> Result<SocketAddr, DecodeError> {
    let ip: IpAddr = match reader.u8(field)? {
        FAMILY_4 => Ipv4Addr::from(reader.array::<4>(field)?).into(),
        FAMILY_6 => Ipv6Addr::from(reader.array::<16>(field)?).into(),
        value => return Err(DecodeError::new(field, Reason::Unknown { value: value.into() })),
    };
    let address = SocketAddr::new(ip, reader.u16(field)?);
    if address.port() == 0 || ip.to_canonical() != ip {
        return Err(DecodeError::new(field, Reason::NotCanonical));
    }
    Ok(address)
}

pub(crate) fn encode_address(address: SocketAddr, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => writer.u8(FAMILY_4)?.put(&ip.octets())?,
        IpAddr::V6(ip) => writer.u8(FAMILY_6)?.put(&ip.octets())?,
    };
    writer.put(&address.port().to_be_bytes())?;
    Ok(())
}
