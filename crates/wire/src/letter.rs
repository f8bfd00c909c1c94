//! The sealed message, M1: one frame for a peer that is away, which a relay keeps. Protocol section 12.

use crate::{
    DecodeError, EncodeError, PrekeyId, Reader, Reason, Writer,
    handshake::{IDENTITY_PAYLOAD_MAX, KEM_CIPHERTEXT_LEN, PUBLIC_KEY_LEN},
};

/// Octet 0 of a letter to a prekey without an ML-KEM part.
pub const LETTER: u8 = 0x31;
/// Octet 0 of a letter to a prekey with one.
pub const HYBRID_LETTER: u8 = 0x32;
/// Tag of a part of the Noise message.
const NOISE_TAG: usize = 16;
/// What a Noise message has beside its payload: e, the sender's channel key, two tags.
pub const NOISE_OVERHEAD: usize = 2 * PUBLIC_KEY_LEN + 2 * NOISE_TAG;
/// The longest content, with its type, in octets: as much as a record takes.
pub const MAX_CONTENT: usize = 16 * 1024;
/// The longest plaintext: the length of the identity payload, the payload, and the content.
pub const MAX_PLAINTEXT: usize = 2 + IDENTITY_PAYLOAD_MAX + MAX_CONTENT;
/// The longest letter, in octets.
pub const MAX_LETTER: usize = 1 + PrekeyId::LEN + KEM_CIPHERTEXT_LEN + NOISE_OVERHEAD + MAX_PLAINTEXT;

/// `0x31 | prekey id 4 | e 32 | AEAD(s) | AEAD(plaintext)`, or `0x32 | prekey id 4 | ct 1088 |` the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    /// The prekey of the recipient that it was sealed to.
    pub prekey: PrekeyId,
    /// The ciphertext to the ML-KEM part of the prekey, if that has one.
    pub ciphertext: Option<&'a [u8; KEM_CIPHERTEXT_LEN]>,
    /// The Noise message: e, the sender's channel key, and the plaintext.
    pub noise: &'a [u8],
}

impl<'a> Letter<'a> {
    /// Whether a frame says that it is a letter.
    #[must_use]
    pub fn is_letter(frame: &[u8]) -> bool {
        matches!(frame.first(), Some(&(LETTER | HYBRID_LETTER)))
    }

    /// Decodes a letter.
    ///
    /// # Errors
    /// On another octet 0, or a length that no letter has.
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        let octet0 = reader.u8("octet 0")?;
        let prekey = PrekeyId(reader.array("letter prekey")?);
        let ciphertext = match octet0 {
            LETTER => None,
            HYBRID_LETTER => reader.take("letter ML-KEM ciphertext", KEM_CIPHERTEXT_LEN)?.first_chunk(),
            other => return Err(DecodeError::new("octet 0", Reason::Unknown { value: other.into() })),
        };
        const FIELD: &str = "letter Noise message";
        let (needed, limit, got) = (NOISE_OVERHEAD, NOISE_OVERHEAD + MAX_PLAINTEXT, reader.remaining());
        if got < needed {
            return Err(DecodeError::new(FIELD, Reason::Truncated { needed, got }));
        }
        if got > limit {
            return Err(DecodeError::new(FIELD, Reason::TooLong { limit, got }));
        }
        Ok(Self { prekey, ciphertext, noise: reader.rest() })
    }

    /// Writes the letter and returns its length in octets.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let mut writer = Writer::new(out);
        writer.u8(if self.ciphertext.is_some() { HYBRID_LETTER } else { LETTER })?.put(&self.prekey.0)?;
        if let Some(ciphertext) = self.ciphertext {
            writer.put(ciphertext)?;
        }
        Ok(writer.put(self.noise)?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_letter_can_be_is_refused_by_field() {
        let mut octets = [0; MAX_LETTER + 1];
        octets[0] = HYBRID_LETTER;
        let refused = |octets: &[u8]| Letter::decode(octets).unwrap_err();
        assert_eq!(refused(&octets).field, "letter Noise message");
        assert_eq!(refused(&octets[..1 + 4 + 1088 + NOISE_OVERHEAD - 1]).field, "letter Noise message");
        assert_eq!(refused(&octets[..1 + 4 + 1087]).field, "letter ML-KEM ciphertext");
        assert_eq!(refused(&octets[..4]).field, "letter prekey");
        assert!(Letter::decode(&octets[..MAX_LETTER]).is_ok());
        octets[0] = 0x33;
        assert_eq!(refused(&octets).field, "octet 0");
    }
}
