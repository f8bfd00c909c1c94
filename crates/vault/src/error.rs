//! What can go wrong with keys. None of these carries key material.

use core::fmt;

macro_rules! unit_error {
    ($(#[$meta:meta])* $name:ident, $text:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($text)
            }
        }

        impl core::error::Error for $name {}
    };
}

unit_error!(
    /// A tag or a signature does not verify. Why is not said: it would help a forger. Nothing has changed.
    Rejected, "not authentic"
);
unit_error!(
    /// The source of randomness has failed. Retry when it works again; nothing has been generated.
    EntropyError, "the source of randomness failed"
);
unit_error!(
    /// X25519 gave the all-zero result: the peer's public key is of small order (RFC 7748 section 6.1). Peer's fault.
    AgreementError, "the peer's X25519 key is of small order"
);

/// ML-KEM failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KemError {
    /// The peer's encapsulation key is not one (FIPS 203 section 7.2). Peer's fault.
    InvalidKey,
    /// The source of randomness failed.
    Entropy,
}

impl fmt::Display for KemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey => f.write_str("the peer's ML-KEM-768 key fails the check of FIPS 203 section 7.2"),
            Self::Entropy => EntropyError.fmt(f),
        }
    }
}

impl core::error::Error for KemError {}

/// A vault cannot do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VaultError {
    /// No key of that handle is here. Caller's fault.
    UnknownKey,
    /// The peer's public key cannot be agreed with. Peer's fault.
    Agreement,
    /// The source of randomness failed. Retry later.
    Entropy,
    /// The octets are no saved vault of this version, or were cut off.
    Malformed,
    /// The device behind the vault failed. Retry later.
    Device,
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKey => "the vault has no such key",
            Self::Agreement => "the peer's X25519 key is of small order",
            Self::Entropy => "the source of randomness failed",
            Self::Malformed => "the saved keys are malformed",
            Self::Device => "the device that holds the keys failed",
        })
    }
}

impl core::error::Error for VaultError {}

impl From<EntropyError> for VaultError {
    fn from(_: EntropyError) -> Self {
        Self::Entropy
    }
}

impl From<AgreementError> for VaultError {
    fn from(_: AgreementError) -> Self {
        Self::Agreement
    }
}
