//! The frames of the constrained profile, C1: for links that carry some dozens of octets. Protocol section 11.

use crate::{
    Counter, CounterWidth, DecodeError, EncodeError, Hint, Lane, Reader, Reason, ShortCid, ShortIncarnation, Truncated,
    Writer,
    handshake::PUBLIC_KEY_LEN,
    record::{DATA, Octet0, PROFILE_C1, RESERVED},
};

/// The tag of AES-256-CCM at the end of each record, in octets.
pub const TAG_LEN: usize = 8;
/// The longest header of a record: octet 0, CID, a counter of 4 octets, an incarnation of 4.
pub const MAX_HEADER_LEN: usize = 1 + ShortCid::LEN + 4 + ShortIncarnation::LEN;
/// The longest plaintext of a record, with its type and padding, in octets.
pub const MAX_PLAINTEXT: usize = 2048;
/// The longest record, in octets.
pub const MAX_RECORD: usize = MAX_HEADER_LEN + MAX_PLAINTEXT + TAG_LEN;
/// The longest payload of a handshake message, in octets: early data, or a reply.
pub const MAX_PAYLOAD: usize = 192;
/// Tag of the payload of a handshake message.
const NOISE_TAG: usize = 16;
/// What a handshake message has beside its payload, in octets.
pub const HANDSHAKE_OVERHEAD: usize = 1 + Hint::LEN + PUBLIC_KEY_LEN + NOISE_TAG;
/// The longest handshake message, in octets.
pub const MAX_HANDSHAKE: usize = HANDSHAKE_OVERHEAD + MAX_PAYLOAD;

/// Octet 0 of C1.1.
pub const MESSAGE_1: u8 = 0x21;
/// Octet 0 of C1.2.
pub const MESSAGE_2: u8 = 0x22;

const _: () = assert!(HANDSHAKE_OVERHEAD == 51);

/// A frame of the constrained profile, told apart by octet 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// C1.1: `0x21 | hint 2 | e 32 | AEAD(early data)`.
    Message1(Handshake<'a>),
    /// C1.2: `0x22 | hint 2 | e 32 | AEAD(reply)`.
    Message2(Handshake<'a>),
    /// A record: the header, then ciphertext and tag.
    Data(RecordHeader, &'a [u8]),
}

/// One of the two handshake messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// Names the psk.
    pub hint: Hint,
    /// The Noise message: e, and the payload with its tag. 48 octets to 48 + [`MAX_PAYLOAD`].
    pub noise: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Decodes one frame.
    ///
    /// # Errors
    /// On an octet 0 that the profile does not have, or a length that the kind of frame cannot have.
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        match reader.u8("octet 0")? {
            MESSAGE_1 => Handshake::decode(reader, "C1.1 hint", "C1.1 Noise message").map(Self::Message1),
            MESSAGE_2 => Handshake::decode(reader, "C1.2 hint", "C1.2 Noise message").map(Self::Message2),
            _ => RecordHeader::decode(octets).map(|(header, sealed)| Self::Data(header, sealed)),
        }
    }

    /// Writes the frame and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let (octet0, message) = match self {
            Self::Message1(message) => (MESSAGE_1, message),
            Self::Message2(message) => (MESSAGE_2, message),
            Self::Data(header, sealed) => {
                let mut writer = Writer::new(out);
                header.write(&mut writer)?;
                return Ok(writer.put(sealed)?.len());
            }
        };
        Ok(Writer::new(out).u8(octet0)?.put(&message.hint.0)?.put(message.noise)?.len())
    }
}

/// What is left of a handshake message where the link names peer and kind of the frame: the Noise message. `None`: `frame` is
/// no handshake message.
#[must_use]
pub fn bare(frame: &[u8]) -> Option<&[u8]> {
    let (octet0, rest) = frame.split_first()?;
    rest.get(Hint::LEN..).filter(|_| matches!(*octet0, MESSAGE_1 | MESSAGE_2))
}

impl<'a> Handshake<'a> {
    /// A handshake message that came without octet 0 and hint.
    ///
    /// # Errors
    /// If it has a length that none has.
    pub fn of_bare(hint: Hint, noise: &'a [u8]) -> Result<Self, DecodeError> {
        Self::checked(hint, noise, "C1 Noise message")
    }

    fn decode(mut reader: Reader<'a>, hint: &'static str, noise: &'static str) -> Result<Self, DecodeError> {
        let hint = Hint(reader.array(hint)?);
        Self::checked(hint, reader.rest(), noise)
    }

    fn checked(hint: Hint, noise: &'a [u8], field: &'static str) -> Result<Self, DecodeError> {
        let (needed, got) = (PUBLIC_KEY_LEN + NOISE_TAG, noise.len());
        if got < needed {
            return Err(DecodeError::new(field, Reason::Truncated { needed, got }));
        }
        let limit = needed + MAX_PAYLOAD;
        if got > limit {
            return Err(DecodeError::new(field, Reason::TooLong { limit, got }));
        }
        Ok(Self { hint, noise })
    }
}

/// The header of a C1 record: `octet 0 | CID 0 or 2 | counter 1, 2 or 4 | incarnation 0 or 4`. Octet 0 is `1L1CNNT0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordHeader {
    /// The lane.
    pub lane: Lane,
    /// Whether the plaintext ends with a content type and padding. Otherwise it is one datagram of the application.
    pub typed: bool,
    /// The receiver's connection id, where the link does not name the session.
    pub cid: Option<ShortCid>,
    /// The low bits of the counter.
    pub counter: Truncated,
    /// The sender's incarnation, after a restart.
    pub incarnation: Option<ShortIncarnation>,
}

impl RecordHeader {
    /// The header of a record. With an incarnation the counter has four octets.
    #[must_use]
    pub const fn new(
        lane: Lane,
        typed: bool,
        cid: Option<ShortCid>,
        counter: Counter,
        width: CounterWidth,
        incarnation: Option<ShortIncarnation>,
    ) -> Self {
        let width = if incarnation.is_some() { CounterWidth::Four } else { width };
        Self { lane, typed, cid, counter: Truncated::new(counter, width), incarnation }
    }

    /// Octet 0 of this header: it is part of the associated data.
    #[must_use]
    pub const fn octet0(&self) -> u8 {
        let octet0 = Octet0 {
            lane: self.lane,
            typed: self.typed,
            with_cid: self.cid.is_some(),
            width: self.counter.width(),
            with_incarnation: self.incarnation.is_some(),
        };
        octet0.bits() | PROFILE_C1
    }

    /// Its length in octets: 2 to [`MAX_HEADER_LEN`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length on the wire, never zero")]
    pub const fn len(&self) -> usize {
        let cid = if self.cid.is_some() { ShortCid::LEN } else { 0 };
        let incarnation = if self.incarnation.is_some() { ShortIncarnation::LEN } else { 0 };
        1 + cid + self.counter.width().octets() + incarnation
    }

    /// Splits `frame` into its header and the ciphertext with its tag.
    ///
    /// # Errors
    /// If a field is cut off, the last bit of octet 0 is set, or the frame is no record of this profile.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(frame);
        let octet0 = reader.u8("octet 0")?;
        if octet0 & (DATA | PROFILE_C1 | RESERVED) != DATA | PROFILE_C1 {
            return Err(DecodeError::new("octet 0", Reason::Unknown { value: octet0.into() }));
        }
        let Octet0 { lane, typed, with_cid, width, with_incarnation } = Octet0::of(octet0);
        let cid = if with_cid { Some(ShortCid(reader.array("data CID")?)) } else { None };
        let counter = Truncated::decode(&mut reader, width)?;
        let incarnation =
            if with_incarnation { Some(ShortIncarnation(reader.array("data incarnation")?)) } else { None };
        Ok((Self { lane, typed, cid, counter, incarnation }, reader.rest()))
    }

    /// Writes the header and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is shorter than [`len`](Self::len).
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let mut writer = Writer::new(out);
        self.write(&mut writer)?;
        Ok(writer.len())
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.u8(self.octet0())?;
        if let Some(cid) = &self.cid {
            writer.put(&cid.0)?;
        }
        self.counter.encode(writer)?;
        if let Some(incarnation) = &self.incarnation {
            writer.put(&incarnation.0)?;
        }
        Ok(())
    }
}
