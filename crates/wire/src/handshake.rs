//! The frames of the S1 handshake. Protocol section 3.

use crate::{Cid, DecodeError, EncodeError, Reader, Reason, RecordHeader, Writer};

/// ML-KEM-768 encapsulation key, octets (FIPS 203 table 3).
pub const ENCAPSULATION_KEY_LEN: usize = 1184;
/// ML-KEM-768 ciphertext, octets (FIPS 203 table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1088;
/// X25519 public key, octets (RFC 7748).
pub const PUBLIC_KEY_LEN: usize = 32;
/// Gate and proof: HMAC-SHA256 cut to its first octets.
pub const GATE_LEN: usize = 8;
/// A cookie.
pub const COOKIE_LEN: usize = 16;
/// Tag of a part of a Noise message.
const NOISE_TAG: usize = 16;

/// Payload of S1.1 before encryption: initiator's connection id, flags, encapsulation key.
pub const PAYLOAD_1_LEN: usize = Cid::LEN + 1 + ENCAPSULATION_KEY_LEN;
/// Payload of S1.2 before encryption: responder's connection id, ciphertext.
pub const PAYLOAD_2_LEN: usize = Cid::LEN + KEM_CIPHERTEXT_LEN;
/// The Noise message of S1.1: e, and the payload with its tag.
pub const NOISE_1_LEN: usize = PUBLIC_KEY_LEN + PAYLOAD_1_LEN + NOISE_TAG;
/// The Noise message of S1.2: e, and the payload with its tag.
pub const NOISE_2_LEN: usize = PUBLIC_KEY_LEN + PAYLOAD_2_LEN + NOISE_TAG;

/// Length of S1.1 without a cookie.
pub const MESSAGE_1_LEN: usize = 1 + GATE_LEN + NOISE_1_LEN;
/// Length of S1.1 with a cookie.
pub const MESSAGE_1_COOKIE_LEN: usize = MESSAGE_1_LEN + COOKIE_LEN;
/// Length of S1.2.
pub const MESSAGE_2_LEN: usize = 1 + Cid::LEN + NOISE_2_LEN;
/// Length of S1.3 before the identity payload, whose tag is included.
pub const MESSAGE_3_OVERHEAD: usize = 1 + Cid::LEN + GATE_LEN + (PUBLIC_KEY_LEN + NOISE_TAG) + NOISE_TAG;
/// The longest S1.3.
pub const MESSAGE_3_MAX: usize = 2048;
/// The longest identity payload of S1.3.
pub const IDENTITY_PAYLOAD_MAX: usize = MESSAGE_3_MAX - MESSAGE_3_OVERHEAD;
/// Length of S1.R.
pub const RETRY_LEN: usize = 1 + GATE_LEN + COOKIE_LEN;

/// Octet 0 of S1.1.
pub const MESSAGE_1: u8 = 0x11;
/// Octet 0 of S1.2.
pub const MESSAGE_2: u8 = 0x12;
/// Octet 0 of S1.3.
pub const MESSAGE_3: u8 = 0x13;
/// Octet 0 of S1.R.
pub const RETRY: u8 = 0x14;

const _: () = assert!(MESSAGE_1_LEN == 1246 && MESSAGE_1_COOKIE_LEN == 1262);
const _: () = assert!(MESSAGE_2_LEN == 1145 && MESSAGE_3_OVERHEAD == 77 && RETRY_LEN == 25);

/// A frame as it arrives between two ends, told apart by octet 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// S1.1: `0x11 | gate 8 | cookie 0 or 16 | e 32 | AEAD(CID_I 4 | flags 1 | ek 1184)`.
    Message1(Message1<'a>),
    /// S1.2: `0x12 | CID_I 4 | e 32 | AEAD(CID_R 4 | ct 1088)`.
    Message2(Message2<'a>),
    /// S1.3: `0x13 | CID_R 4 | proof 8 | AEAD(s) | AEAD(identity payload)`.
    Message3(Message3<'a>),
    /// S1.R: `0x14 | proof 8 | cookie 16`.
    Retry(Retry<'a>),
    /// A record: the header, then ciphertext and tag.
    Data(RecordHeader, &'a [u8]),
}

/// The first message, to the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message1<'a> {
    /// Proof that the sender has the responder's card.
    pub gate: &'a [u8; GATE_LEN],
    /// The cookie of an S1.R, if one was asked for.
    pub cookie: Option<&'a [u8; COOKIE_LEN]>,
    /// The Noise message; its first 32 octets are the ephemeral key e.
    pub noise: &'a [u8; NOISE_1_LEN],
}

/// The second message, to the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message2<'a> {
    /// The initiator's connection id.
    pub cid: Cid,
    /// The Noise message.
    pub noise: &'a [u8; NOISE_2_LEN],
}

/// The third message, to the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message3<'a> {
    /// The responder's connection id.
    pub cid: Cid,
    /// Authenticates the Noise message before Noise reads it.
    pub proof: &'a [u8; GATE_LEN],
    /// The Noise message: both encrypted parts, 64 octets and more.
    pub noise: &'a [u8],
}

/// A responder under load asks for a proof of the sender's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry<'a> {
    /// Proof that the sender knows the responder's gate key and has seen S1.1.
    pub proof: &'a [u8; GATE_LEN],
    /// To be sent back.
    pub cookie: &'a [u8; COOKIE_LEN],
}

impl<'a> Message1<'a> {
    /// The ephemeral public key.
    #[must_use]
    pub fn ephemeral(&self) -> &'a [u8; PUBLIC_KEY_LEN] {
        self.noise.first_chunk().unwrap_or(&[0; PUBLIC_KEY_LEN])
    }

    /// The length of the frame in octets, which the gate covers.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        if self.cookie.is_some() { MESSAGE_1_COOKIE_LEN } else { MESSAGE_1_LEN }
    }
}

impl<'a> Frame<'a> {
    /// Decodes one frame.
    ///
    /// # Errors
    /// On an unknown octet 0, or a length that the kind of frame cannot have.
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        let octet0 = reader.u8("octet 0")?;
        if RecordHeader::is_data(octet0) {
            let (header, sealed) = RecordHeader::decode(octets)?;
            return Ok(Self::Data(header, sealed));
        }
        match octet0 {
            MESSAGE_1 => {
                let gate = chunk(&mut reader, "S1.1 gate")?;
                let cookie = match octets.len() {
                    MESSAGE_1_COOKIE_LEN => Some(chunk(&mut reader, "S1.1 cookie")?),
                    _ => None,
                };
                let noise = chunk(&mut reader, "S1.1 Noise message")?;
                reader.finish("S1.1")?;
                Ok(Self::Message1(Message1 { gate, cookie, noise }))
            }
            MESSAGE_2 => {
                let cid = Cid(reader.array("S1.2 CID")?);
                let noise = chunk(&mut reader, "S1.2 Noise message")?;
                reader.finish("S1.2")?;
                Ok(Self::Message2(Message2 { cid, noise }))
            }
            MESSAGE_3 => {
                let cid = Cid(reader.array("S1.3 CID")?);
                let proof = chunk(&mut reader, "S1.3 proof")?;
                let limit = MESSAGE_3_MAX - MESSAGE_3_OVERHEAD + PUBLIC_KEY_LEN + 2 * NOISE_TAG;
                let needed = PUBLIC_KEY_LEN + 2 * NOISE_TAG;
                let got = reader.remaining();
                if got < needed {
                    return Err(DecodeError::new("S1.3 Noise message", Reason::Truncated { needed, got }));
                }
                if got > limit {
                    return Err(DecodeError::new("S1.3 Noise message", Reason::TooLong { limit, got }));
                }
                Ok(Self::Message3(Message3 { cid, proof, noise: reader.rest() }))
            }
            RETRY => {
                let proof = chunk(&mut reader, "S1.R proof")?;
                let cookie = chunk(&mut reader, "S1.R cookie")?;
                reader.finish("S1.R")?;
                Ok(Self::Retry(Retry { proof, cookie }))
            }
            other => Err(DecodeError::new("octet 0", Reason::Unknown { value: other.into() })),
        }
    }

    /// Writes the frame and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        match self {
            Self::Message1(message) => {
                let mut writer = Writer::new(out);
                writer.u8(MESSAGE_1)?.put(message.gate)?;
                if let Some(cookie) = message.cookie {
                    writer.put(cookie)?;
                }
                Ok(writer.put(message.noise)?.len())
            }
            Self::Message2(message) => {
                Ok(Writer::new(out).u8(MESSAGE_2)?.put(&message.cid.0)?.put(message.noise)?.len())
            }
            Self::Message3(message) => {
                Ok(Writer::new(out).u8(MESSAGE_3)?.put(&message.cid.0)?.put(message.proof)?.put(message.noise)?.len())
            }
            Self::Retry(message) => Ok(Writer::new(out).u8(RETRY)?.put(message.proof)?.put(message.cookie)?.len()),
            Self::Data(header, sealed) => {
                let len = header.encode(out)?;
                let got = out.len();
                let needed = len + sealed.len();
                let space = out.get_mut(len..needed).ok_or(EncodeError { needed, got })?;
                space.copy_from_slice(sealed);
                Ok(needed)
            }
        }
    }
}

fn chunk<'a, const N: usize>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8; N], DecodeError> {
    let got = reader.remaining();
    let octets = reader.take(field, N)?;
    octets.first_chunk().ok_or(DecodeError::new(field, Reason::Truncated { needed: N, got }))
}
