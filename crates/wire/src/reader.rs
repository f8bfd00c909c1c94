//! A cursor over octets of unknown origin.

use crate::{DecodeError, Reason, VarInt};

/// Reads fields from the front of a slice; every error names the field.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `octets`.
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    /// Octets not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` octets.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if fewer are left; nothing is consumed then.
    pub const fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::new(field, Reason::Truncated { needed: len, got: self.rest.len() }));
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` octets, by value.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if fewer are left.
    pub const fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::new(field, Reason::Truncated { needed: N, got: self.rest.len() }));
        };
        self.rest = rest;
        Ok(*head)
    }

    /// The next octet.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if none is left.
    pub const fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        match self.array::<1>(field) {
            Ok([octet]) => Ok(octet),
            Err(error) => Err(error),
        }
    }

    /// The next two octets as a big-endian number.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if fewer are left.
    pub const fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        match self.array(field) {
            Ok(octets) => Ok(u16::from_be_bytes(octets)),
            Err(error) => Err(error),
        }
    }

    /// The next four octets as a big-endian number.
    ///
    /// # Errors
    /// [`Reason::Truncated`] if fewer are left.
    pub const fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match self.array(field) {
            Ok(octets) => Ok(u32::from_be_bytes(octets)),
            Err(error) => Err(error),
        }
    }

    /// The next number in the variable-length form of [`VarInt`].
    ///
    /// # Errors
    /// [`Reason::Truncated`], or [`Reason::NotCanonical`] if it could be written shorter.
    pub fn varint(&mut self, field: &'static str) -> Result<VarInt, DecodeError> {
        VarInt::decode(self, field)
    }

    /// Everything that is left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`Reason::Trailing`] if octets are left.
    pub const fn finish(self, message: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::new(message, Reason::Trailing { octets: self.rest.len() }))
        }
    }
}
