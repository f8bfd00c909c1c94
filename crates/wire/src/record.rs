//! The header of a data frame: `octet 0 | CID | counter | incarnation`, before ciphertext and tag. Protocol section 4.

use crate::{Cid, Counter, CounterWidth, DecodeError, EncodeError, Incarnation, Reader, Reason, Truncated, Writer};

/// The tag of AES-256-GCM, at the end of each S1 record, in octets.
pub const TAG_LEN: usize = 16;

/// The longest header: octet 0, CID, a counter of 4 octets, an incarnation of 8.
pub const MAX_HEADER_LEN: usize = 1 + Cid::LEN + 4 + Incarnation::LEN;

pub(crate) const DATA: u8 = 0x80;
const STORED: u8 = 0x40;
pub(crate) const PROFILE_C1: u8 = 0x20;
const WITH_CID: u8 = 0x10;
const WIDTH: u8 = 0x0c;
const WIDTH_ONE: u8 = 0x00;
const WIDTH_TWO: u8 = 0x04;
const WIDTH_FOUR: u8 = 0x08;
const WIDTH_INCARNATION: u8 = 0x0c;
const TYPED: u8 = 0x02;
pub(crate) const RESERVED: u8 = 0x01;

/// What octet 0 says, `1LPCNNT0`, but for the profile.
#[derive(Clone, Copy)]
pub(crate) struct Octet0 {
    pub(crate) lane: Lane,
    pub(crate) typed: bool,
    pub(crate) with_cid: bool,
    pub(crate) width: CounterWidth,
    /// Behind the counter, which then has four octets.
    pub(crate) with_incarnation: bool,
}

impl Octet0 {
    #[inline]
    pub(crate) const fn bits(self) -> u8 {
        let lane = match self.lane {
            Lane::Live => 0,
            Lane::Stored => STORED,
        };
        let width = match (self.with_incarnation, self.width) {
            (true, _) => WIDTH_INCARNATION,
            (false, CounterWidth::One) => WIDTH_ONE,
            (false, CounterWidth::Two) => WIDTH_TWO,
            (false, CounterWidth::Four) => WIDTH_FOUR,
        };
        DATA | lane | width | if self.with_cid { WITH_CID } else { 0 } | if self.typed { TYPED } else { 0 }
    }

    #[inline]
    pub(crate) const fn of(octet0: u8) -> Self {
        let width = match octet0 & WIDTH {
            WIDTH_ONE => CounterWidth::One,
            WIDTH_TWO => CounterWidth::Two,
            _ => CounterWidth::Four,
        };
        Self {
            lane: if octet0 & STORED != 0 { Lane::Stored } else { Lane::Live },
            typed: octet0 & TYPED != 0,
            with_cid: octet0 & WITH_CID != 0,
            width,
            with_incarnation: octet0 & WIDTH == WIDTH_INCARNATION,
        }
    }
}

/// Which of a session's two lanes a record belongs to. Each has its own keys and counters in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// For peers that are both online; old records are refused by a window.
    Live,
    /// For records that a relay keeps; typed records only, each harmless when repeated.
    Stored,
}

/// The header of an S1 record. Octet 0 is `1LPCNNT0`.
///
/// The CID is absent where the link names the session; the header is then 4 octets shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordHeader {
    /// The lane.
    pub lane: Lane,
    /// Whether the plaintext ends with a content type and padding. Otherwise it is one datagram of the application.
    pub typed: bool,
    /// The receiver's connection id, if it travels.
    pub cid: Option<Cid>,
    /// The low bits of the counter.
    pub counter: Truncated,
    /// The sender's incarnation, on a lane that was restored after a restart.
    pub incarnation: Option<Incarnation>,
}

impl RecordHeader {
    /// The header of a record with connection id and without incarnation.
    #[must_use]
    pub const fn new(lane: Lane, typed: bool, cid: Cid, counter: Counter, width: CounterWidth) -> Self {
        Self { lane, typed, cid: Some(cid), counter: Truncated::new(counter, width), incarnation: None }
    }

    /// The header of a typed record on a lane that was restored after a restart: its counter always has 4 octets.
    #[must_use]
    pub const fn restored(lane: Lane, cid: Cid, counter: Counter, incarnation: Incarnation) -> Self {
        let counter = Truncated::new(counter, CounterWidth::Four);
        Self { lane, typed: true, cid: Some(cid), counter, incarnation: Some(incarnation) }
    }

    /// Whether a frame that begins with `octet0` is a data frame.
    #[must_use]
    pub const fn is_data(octet0: u8) -> bool {
        octet0 & DATA != 0
    }

    /// Octet 0 of this header: it is part of the associated data.
    #[must_use]
    #[inline]
    pub const fn octet0(&self) -> u8 {
        let octet0 = Octet0 {
            lane: self.lane,
            typed: self.typed,
            with_cid: self.cid.is_some(),
            width: self.counter.width(),
            with_incarnation: self.incarnation.is_some(),
        };
        octet0.bits()
    }

    /// Its length in octets: 3 to [`MAX_HEADER_LEN`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length on the wire, never zero")]
    pub const fn len(&self) -> usize {
        let cid = if self.cid.is_some() { Cid::LEN } else { 0 };
        let incarnation = if self.incarnation.is_some() { Incarnation::LEN } else { 0 };
        1 + cid + self.counter.width().octets() + incarnation
    }

    /// Splits `frame` into its header and the ciphertext with its tag.
    ///
    /// # Errors
    /// If a field is cut off, the last bit of octet 0 is set, or the frame belongs to the constrained profile.
    #[inline]
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(frame);
        let octet0 = reader.u8("octet 0")?;
        let unknown = DecodeError::new("octet 0", Reason::Unknown { value: octet0.into() });
        if octet0 & DATA == 0 || octet0 & (RESERVED | PROFILE_C1) != 0 {
            return Err(unknown);
        }
        let Octet0 { lane, typed, with_cid, width, with_incarnation } = Octet0::of(octet0);
        if width == CounterWidth::One {
            return Err(unknown);
        }
        let cid = if with_cid { Some(Cid(reader.array("data CID")?)) } else { None };
        let counter = Truncated::decode(&mut reader, width)?;
        let incarnation = if with_incarnation { Some(Incarnation(reader.array("data incarnation")?)) } else { None };
        Ok((Self { lane, typed, cid, counter, incarnation }, reader.rest()))
    }

    /// Writes the header and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is shorter than [`len`](Self::len).
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let mut writer = Writer::new(out);
        writer.u8(self.octet0())?;
        if let Some(cid) = &self.cid {
            writer.put(&cid.0)?;
        }
        self.counter.encode(&mut writer)?;
        if let Some(incarnation) = &self.incarnation {
            writer.put(&incarnation.0)?;
        }
        Ok(writer.len())
    }
}
