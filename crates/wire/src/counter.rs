//! Record counters, and the few octets of them that travel.

use crate::{DecodeError, Reader, Reason, Writer, error::EncodeError};

/// The number of a record on one lane and direction of a session: upward from 0, never repeated under one chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter(u64);

impl Counter {
    /// The first counter of every chain.
    pub const ZERO: Self = Self(0);

    /// The largest counter: 2^62 - 1. No chain lives so long.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// `counter`, unless it is larger than [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(counter: u64) -> Option<Self> {
        if counter <= Self::MAX.0 { Some(Self(counter)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next counter, unless the last has been reached.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

/// How many octets of a counter travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CounterWidth {
    /// The low 8 bits: in the constrained profile alone.
    One,
    /// The low 16 bits.
    Two,
    /// The low 32 bits.
    Four,
}

impl CounterWidth {
    /// The narrowest width of two octets and more whose half range covers the distance from `acknowledged`, the first
    /// counter that the peer is not known to have passed (0 if none is). `None` if no width does: the lane has to stop.
    ///
    /// RFC 9000 section 17.1 and appendix A.2, with counters that the sender skipped included in the distance.
    #[must_use]
    pub const fn covering(counter: Counter, acknowledged: u64) -> Option<Self> {
        let distance = counter.0.saturating_sub(acknowledged);
        match distance {
            0..0x8000 => Some(Self::Two),
            0x8000..0x8000_0000 => Some(Self::Four),
            _ => None,
        }
    }

    /// The same, and one octet where that is enough: the widths of the constrained profile.
    #[must_use]
    pub const fn covering_narrowly(counter: Counter, acknowledged: u64) -> Option<Self> {
        match counter.0.saturating_sub(acknowledged) {
            0..0x80 => Some(Self::One),
            _ => Self::covering(counter, acknowledged),
        }
    }

    /// Octets on the wire.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    const fn bits(self) -> u32 {
        match self {
            Self::One => 8,
            Self::Two => 16,
            Self::Four => 32,
        }
    }
}

/// The low bits of a counter, as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    width: CounterWidth,
    low: u32,
}

impl Truncated {
    /// The low bits of `counter`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "truncation to the low bits is the purpose")]
    #[inline]
    pub const fn new(counter: Counter, width: CounterWidth) -> Self {
        let low = match width {
            CounterWidth::One => counter.0 as u8 as u32,
            CounterWidth::Two => counter.0 as u16 as u32,
            CounterWidth::Four => counter.0 as u32,
        };
        Self { width, low }
    }

    /// Its width.
    #[must_use]
    pub const fn width(self) -> CounterWidth {
        self.width
    }

    /// The counter with these low bits that is nearest to `expected`, the counter after the largest one opened so far.
    /// RFC 9000 appendix A.3. `None` if it would be larger than [`Counter::MAX`].
    #[must_use]
    #[inline]
    pub fn expand(self, expected: Counter) -> Option<Counter> {
        let window = 1_u64 << self.width.bits();
        let half = window / 2;
        let candidate = (expected.0 & !(window - 1)) | u64::from(self.low);
        let nearest = if candidate + half <= expected.0 {
            candidate + window
        } else if candidate > expected.0 + half && candidate >= window {
            candidate - window
        } else {
            candidate
        };
        Counter::new(nearest)
    }

    #[inline]
    pub(crate) fn decode(reader: &mut Reader<'_>, width: CounterWidth) -> Result<Self, DecodeError> {
        let low = match width {
            CounterWidth::One => reader.u8("data counter")?.into(),
            CounterWidth::Two => reader.u16("data counter")?.into(),
            CounterWidth::Four => reader.u32("data counter")?,
        };
        Ok(Self { width, low })
    }

    #[inline]
    pub(crate) fn encode(self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        let [a, b, c, d] = self.low.to_be_bytes();
        match self.width {
            CounterWidth::One => writer.u8(d)?,
            CounterWidth::Two => writer.put(&[c, d])?,
            CounterWidth::Four => writer.put(&[a, b, c, d])?,
        };
        Ok(())
    }
}

/// Reads a counter that travels whole, as a number of variable length.
pub(crate) fn decode_whole(reader: &mut Reader<'_>, field: &'static str) -> Result<Counter, DecodeError> {
    let number = reader.varint(field)?.get();
    Counter::new(number).ok_or(DecodeError::new(field, Reason::TooLarge { limit: Counter::MAX.0, got: number }))
}
