//! What the ends of a constrained pairing tell each other of its keys: ROTATE and SEED. Protocol section 11.

use core::fmt;

use crate::{DecodeError, EncodeError, Reader, Reason, Writer};

/// The octets of one part of a ROTATE, but of the last: with them a record has 50 octets at most.
pub const ROTATE_PART: usize = 28;
/// The most parts of one ROTATE.
pub const MAX_ROTATE_PARTS: u8 = 64;
/// The longest identity payload that a ROTATE takes, in octets.
pub const MAX_ROTATION: usize = ROTATE_PART * MAX_ROTATE_PARTS as usize;

/// Octets of a channel key by which it is told that it is kept.
const KEPT: usize = 8;

/// ROTATE: `index 1 | count 1 | part`. The parts of an identity payload, which attests another channel key of the sender; or,
/// with a count of 0 and the first 8 octets of that key, that the receiver has it on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate<'a> {
    /// Which part it is, from 0.
    index: u8,
    /// How many there are: 1 to [`MAX_ROTATE_PARTS`]; 0 for who has the key.
    count: u8,
    /// [`ROTATE_PART`] octets, or 1 to so many in the last part; with a count of 0, the beginning of the key.
    part: &'a [u8],
}

impl<'a> Rotate<'a> {
    /// That this key of the other's is kept.
    #[must_use]
    pub fn kept(key: &'a [u8; 32]) -> Self {
        Self { index: 0, count: 0, part: key.get(..KEPT).unwrap_or_default() }
    }

    /// How many parts `payload` has. `None`: it is empty or longer than [`MAX_ROTATION`].
    #[must_use]
    pub fn parts(payload: &[u8]) -> Option<u8> {
        u8::try_from(payload.len().div_ceil(ROTATE_PART)).ok().filter(|parts| (1..=MAX_ROTATE_PARTS).contains(parts))
    }

    /// One part of `payload`. `None`: it has no such part.
    #[must_use]
    pub fn part_of(payload: &'a [u8], index: u8) -> Option<Self> {
        let count = Self::parts(payload)?;
        let part = payload.chunks(ROTATE_PART).nth(index.into())?;
        Some(Self { index, count, part })
    }

    /// Whether it says that a key is kept, and not which part of an identity payload it is.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.count == 0
    }

    /// Whether it says that this key is kept.
    #[must_use]
    pub fn keeps(&self, key: &[u8; 32]) -> bool {
        self.is_kept() && Some(self.part) == key.get(..KEPT)
    }

    /// Which part it is, from 0.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// How many parts there are.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// The part.
    #[must_use]
    pub const fn part(&self) -> &'a [u8] {
        self.part
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (index, count) = (reader.u8("ROTATE index")?, reader.u8("ROTATE count")?);
        if count > MAX_ROTATE_PARTS {
            let (limit, got) = (MAX_ROTATE_PARTS.into(), count.into());
            return Err(DecodeError::new("ROTATE count", Reason::TooMany { limit, got }));
        }
        let last = count.saturating_sub(1);
        if index > last {
            return Err(DecodeError::new("ROTATE index", Reason::TooLarge { limit: last.into(), got: index.into() }));
        }
        let part = reader.rest();
        let is_whole = match (count, part.len()) {
            (0, len) => len == KEPT,
            (_, len) if index == last => (1..=ROTATE_PART).contains(&len),
            (_, len) => len == ROTATE_PART,
        };
        if !is_whole {
            return Err(DecodeError::new("ROTATE part", Reason::Malformed));
        }
        Ok(Self { index, count, part })
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.u8(self.index)?.u8(self.count)?.put(self.part)?;
        Ok(())
    }
}

/// SEED: 32 octets that go into the next psk. They are secret: what prints them says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed<'a>(pub &'a [u8; 32]);

impl<'a> Seed<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let octets = reader.take("SEED", 32)?;
        octets.try_into().map(Self).map_err(|_| DecodeError::new("SEED", Reason::Malformed))
    }
}

impl fmt::Debug for Seed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_payload_make_it_again() {
        for len in [1, 27, 28, 29, 56, 300, MAX_ROTATION] {
            let payload = [7; MAX_ROTATION + 1];
            let payload = payload.get(..len).unwrap();
            let count = Rotate::parts(payload).unwrap();
            assert_eq!(usize::from(count), len.div_ceil(ROTATE_PART));
            let parts = (0..count).map(|index| Rotate::part_of(payload, index).unwrap());
            assert_eq!(parts.map(|part| part.part().len()).sum::<usize>(), len);
            assert_eq!(Rotate::part_of(payload, count), None);
        }
        assert_eq!(Rotate::parts(&[]), None);
        assert_eq!(Rotate::parts(&[0; MAX_ROTATION + 1]), None);
    }

    #[test]
    fn what_is_no_part_is_refused() {
        let decode = |octets: &[u8]| {
            Rotate::decode(&mut Reader::new(octets)).map(|part| part.index()).map_err(|error| error.field)
        };
        assert_eq!(decode(&[]), Err("ROTATE index"));
        assert_eq!(decode(&[0]), Err("ROTATE count"));
        assert_eq!(decode(&[0, 65, 1]), Err("ROTATE count"));
        assert_eq!(decode(&[3, 3, 1]), Err("ROTATE index"));
        assert_eq!(decode(&[1, 0]), Err("ROTATE index"));
        assert_eq!(decode(&[0, 0, 1]), Err("ROTATE part"));
        assert_eq!(decode(&[0, 1]), Err("ROTATE part"));
        assert_eq!(decode(&[0, 2, 1]), Err("ROTATE part"));
        assert_eq!(decode(&[&[1, 2][..], &[0; 29]].concat()), Err("ROTATE part"));
        assert_eq!(decode(&[0, 0]), Err("ROTATE part"));
        assert_eq!(decode(&[0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), Ok(0));
        assert!(Rotate::kept(&[7; 32]).keeps(&[7; 32]) && !Rotate::kept(&[7; 32]).keeps(&[8; 32]));
        assert_eq!(decode(&[&[0, 2][..], &[0; 28]].concat()), Ok(0));
        assert_eq!(decode(&[1, 2, 9]), Ok(1));
        assert!(Seed::decode(&mut Reader::new(&[1; 31])).is_err());
    }
}
