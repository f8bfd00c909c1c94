//! Deterministic CBOR: a reader that names fields and limits, a writer that cannot fail.
//!
//! Whether the input was deterministic is checked in one place: what was decoded is encoded again and compared
//! ([`only_form`]). No other order, width or indefinite length can then be accepted.

use alloc::vec::Vec;

use minicbor::{Decoder, Encoder, encode};
use sealway_wire::{DecodeError, Reason};

/// The longest octet string or text in any statement.
pub(crate) const MAX_ITEM: usize = 2048;

type Built<'e> = Result<&'e mut Encoder<Vec<u8>>, encode::Error<core::convert::Infallible>>;

/// The octets that `build` writes.
#[expect(clippy::expect_used, reason = "a Vec takes all that is written to it")]
pub(crate) fn to_vec(build: impl for<'e> FnOnce(&'e mut Encoder<Vec<u8>>) -> Built<'e>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    build(&mut encoder).expect("a Vec takes all that is written to it");
    encoder.into_writer()
}

/// Appends octets that are encoded already.
pub(crate) fn raw<'e>(encoder: &'e mut Encoder<Vec<u8>>, encoded: &[u8]) -> &'e mut Encoder<Vec<u8>> {
    encoder.writer_mut().extend_from_slice(encoded);
    encoder
}

/// Refuses `input` unless it is what encoding its meaning gives.
pub(crate) fn only_form(field: &'static str, input: &[u8], encoded: &[u8]) -> Result<(), DecodeError> {
    if input == encoded { Ok(()) } else { Err(DecodeError::new(field, Reason::NotCanonical)) }
}

/// Reads CBOR items; every error names the field.
pub(crate) struct Items<'a> {
    decoder: Decoder<'a>,
}

impl<'a> Items<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self { decoder: Decoder::new(octets) }
    }

    /// The number of items of the array that comes next, at most `limit`.
    pub(crate) fn array(&mut self, field: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let len = self.decoder.array().map_err(|_| malformed(field))?;
        bounded(field, len, limit)
    }

    /// The number of entries of the map that comes next, at most `limit`.
    pub(crate) fn map(&mut self, field: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let len = self.decoder.map().map_err(|_| malformed(field))?;
        bounded(field, len, limit)
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let octets = self.decoder.bytes().map_err(|_| malformed(field))?;
        limited(field, octets.len())?;
        Ok(octets)
    }

    pub(crate) fn bytes_of<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let octets = self.bytes(field)?;
        let wrong = if octets.len() > N {
            Reason::TooLong { limit: N, got: octets.len() }
        } else {
            Reason::Truncated { needed: N, got: octets.len() }
        };
        octets.try_into().map_err(|_| DecodeError::new(field, wrong))
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let text = self.decoder.str().map_err(|_| malformed(field))?;
        limited(field, text.len())?;
        Ok(text)
    }

    pub(crate) fn number(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.decoder.u64().map_err(|_| malformed(field))
    }

    pub(crate) fn number_u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let got = self.number(field)?;
        u32::try_from(got).map_err(|_| DecodeError::new(field, Reason::TooLarge { limit: u32::MAX.into(), got }))
    }

    /// Reads `expected`, a key or a constant.
    pub(crate) fn expect(&mut self, field: &'static str, expected: i64) -> Result<(), DecodeError> {
        let got = self.decoder.i64().map_err(|_| malformed(field))?;
        if got == expected { Ok(()) } else { Err(malformed(field)) }
    }

    /// Whether the key `expected` comes next; it is read then.
    pub(crate) fn key_is(&mut self, expected: i64) -> bool {
        let mut ahead = self.decoder.clone();
        let found = ahead.i64().is_ok_and(|key| key == expected);
        if found {
            self.decoder = ahead;
        }
        found
    }

    pub(crate) fn finish(self, field: &'static str) -> Result<(), DecodeError> {
        let octets = self.decoder.input().len() - self.decoder.position();
        if octets == 0 { Ok(()) } else { Err(DecodeError::new(field, Reason::Trailing { octets })) }
    }
}

pub(crate) const fn malformed(field: &'static str) -> DecodeError {
    DecodeError::new(field, Reason::Malformed)
}

fn bounded(field: &'static str, len: Option<u64>, limit: usize) -> Result<usize, DecodeError> {
    let got = len.ok_or(DecodeError::new(field, Reason::NotCanonical))?; // indefinite length
    let got = usize::try_from(got).unwrap_or(usize::MAX);
    if got <= limit { Ok(got) } else { Err(DecodeError::new(field, Reason::TooMany { limit, got })) }
}

fn limited(field: &'static str, got: usize) -> Result<(), DecodeError> {
    if got <= MAX_ITEM { Ok(()) } else { Err(DecodeError::new(field, Reason::TooLong { limit: MAX_ITEM, got })) }
}
