//! A cursor over the caller's buffer.

use crate::{EncodeError, VarInt};

/// Writes fields to the front of a slice.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// A writer into `buffer`.
    #[must_use]
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, written: 0 }
    }

    /// Octets written so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.written
    }

    /// Whether nothing has been written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// Appends `octets`.
    ///
    /// # Errors
    /// If they do not fit; the buffer then keeps what was written before.
    #[inline]
    pub fn put(&mut self, octets: &[u8]) -> Result<&mut Self, EncodeError> {
        let end = self.written.saturating_add(octets.len());
        let got = self.buffer.len();
        let Some(space) = self.buffer.get_mut(self.written..end) else {
            return Err(EncodeError { needed: end, got });
        };
        space.copy_from_slice(octets);
        self.written = end;
        Ok(self)
    }

    /// Appends one octet.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    #[inline]
    pub fn u8(&mut self, octet: u8) -> Result<&mut Self, EncodeError> {
        self.put(&[octet])
    }

    /// Appends a number in the variable-length form of [`VarInt`].
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn varint(&mut self, number: VarInt) -> Result<&mut Self, EncodeError> {
        let (octets, len) = number.encode();
        self.put(octets.get(..len).unwrap_or_default())
    }
}
