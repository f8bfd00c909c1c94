//! Why octets were refused, or could not be written.

use core::fmt;

/// Octets that are no message of this protocol: the field, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeError {
    /// The field as `docs/protocol.md` names it, for example `S1.1 gate`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The input ends inside the field.
    Truncated {
        /// Octets that the field needs.
        needed: usize,
        /// Octets that were left.
        got: usize,
    },
    /// The field is longer than it may be.
    TooLong {
        /// The limit, in octets.
        limit: usize,
        /// The length found, in octets.
        got: usize,
    },
    /// There are more entries than there may be.
    TooMany {
        /// The limit, in entries.
        limit: usize,
        /// The number found, in entries.
        got: usize,
    },
    /// The number is larger than it may be.
    TooLarge {
        /// The limit, inclusive.
        limit: u64,
        /// The number found.
        got: u64,
    },
    /// The value has no meaning in this version of the protocol.
    Unknown {
        /// The value found.
        value: u64,
    },
    /// The number, or the list, could be written shorter or in another order; only one form is valid.
    NotCanonical,
    /// Octets follow the last field.
    Trailing {
        /// How many.
        octets: usize,
    },
    /// The text does not have the form that the field demands.
    Malformed,
}

impl DecodeError {
    /// An error of `field`.
    #[must_use]
    pub const fn new(field: &'static str, reason: Reason) -> Self {
        Self { field, reason }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field;
        match self.reason {
            Reason::Truncated { needed, got } => write!(f, "{field}: {needed} octets needed, {got} left"),
            Reason::TooLong { limit, got } => write!(f, "{field}: {got} octets, the limit is {limit}"),
            Reason::TooMany { limit, got } => write!(f, "{field}: {got} entries, the limit is {limit}"),
            Reason::TooLarge { limit, got } => write!(f, "{field}: {got}, the limit is {limit}"),
            Reason::Unknown { value } => write!(f, "{field}: {value:#x} has no meaning in this version"),
            Reason::NotCanonical => write!(f, "{field}: not in the only valid form"),
            Reason::Trailing { octets } => write!(f, "{field}: {octets} octets too many"),
            Reason::Malformed => write!(f, "{field}: malformed"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// The caller's buffer is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// Octets needed, at least.
    pub needed: usize,
    /// The buffer's length in octets.
    pub got: usize,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the buffer has {} octets, {} are needed", self.got, self.needed)
    }
}

impl core::error::Error for EncodeError {}
