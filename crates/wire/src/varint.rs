//! Numbers of variable length.

use crate::{DecodeError, Reader, Reason};

/// A number below 2^62 in 1, 2, 4 or 8 octets, its two top bits telling which: RFC 9000 section 16. Unlike there, only
/// the shortest form is valid, so that every number has one encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarInt(u64);

impl VarInt {
    /// The largest number: 2^62 - 1.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// `number`, unless it is larger than [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// `number`.
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        Self(number as u64)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number, if it is at most `limit`.
    ///
    /// # Errors
    /// [`Reason::TooLarge`], naming `field`.
    pub const fn at_most(self, field: &'static str, limit: u64) -> Result<u64, DecodeError> {
        if self.0 <= limit { Ok(self.0) } else { Err(DecodeError::new(field, Reason::TooLarge { limit, got: self.0 })) }
    }

    /// The number as 32 bits.
    ///
    /// # Errors
    /// [`Reason::TooLarge`], naming `field`.
    pub fn to_u32(self, field: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.0)
            .map_err(|_| DecodeError::new(field, Reason::TooLarge { limit: u32::MAX.into(), got: self.0 }))
    }

    /// Its length on the wire in octets: 1, 2, 4 or 8.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length on the wire, never zero")]
    pub const fn len(self) -> usize {
        match self.0 {
            0..=0x3f => 1,
            0x40..=0x3fff => 2,
            0x4000..=0x3fff_ffff => 4,
            _ => 8,
        }
    }

    /// The encoding: the first [`len`](Self::len) octets of the array, and that length.
    #[must_use]
    pub const fn encode(self) -> ([u8; 8], usize) {
        let len = self.len();
        let log = len.trailing_zeros(); // 1, 2, 4, 8 octets are 0, 1, 2, 3
        let aligned = (self.0 << (64 - (8_u32 << log))) | ((log as u64) << 62);
        (aligned.to_be_bytes(), len)
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let first = reader.u8(field)?;
        let len = 1_usize << (first >> 6);
        let mut number = u64::from(first & 0x3f);
        for octet in reader.take(field, len - 1)? {
            number = (number << 8) | u64::from(*octet);
        }
        let number = Self(number);
        if number.len() == len { Ok(number) } else { Err(DecodeError::new(field, Reason::NotCanonical)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples of RFC 9000 appendix A.1.
    #[test]
    fn published_samples() {
        let samples: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (octets, number) in samples {
            let decoded = Reader::new(octets).varint("sample").unwrap();
            assert_eq!(decoded.get(), number);
            let (encoded, len) = decoded.encode();
            assert_eq!(encoded.get(..len), Some(octets));
        }
    }

    #[test]
    fn a_longer_form_is_refused() {
        let error = Reader::new(&[0x40, 0x25]).varint("sample").unwrap_err();
        assert_eq!(error, DecodeError::new("sample", Reason::NotCanonical));
    }
}
