//! Public keys, signatures, and the handles of private keys.

use core::fmt;

/// An X25519 public key (RFC 7748), 32 octets.
pub type PublicKey = [u8; 32];

/// A signature, 64 octets: Ed25519 as in RFC 8032; ECDSA as r || s, s in the lower half of the group order.
pub type Signature = [u8; 64];

/// How an identity signs: a property of the identity, fixed at its inception, never negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032), verified strictly: canonical encodings, no small-order keys.
    Ed25519,
    /// ECDSA over P-256 with SHA-256 (FIPS 186-5), for secure elements that have nothing else.
    P256,
}

/// A key that verifies signatures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerifyingKey {
    /// An Ed25519 public key, 32 octets.
    Ed25519([u8; 32]),
    /// A P-256 point in compressed form (SEC 1 section 2.3.3), 33 octets.
    P256([u8; 33]),
}

impl VerifyingKey {
    /// How it verifies.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::P256(_) => Algorithm::P256,
        }
    }

    /// The encoded key, 32 or 33 octets.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(octets) => octets,
            Self::P256(octets) => octets,
        }
    }

    /// The key of `algorithm` with this encoding; `None` if its length is not the algorithm's. Whether it is a key at
    /// all shows when a signature is verified.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, octets: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Ed25519 => octets.try_into().ok().map(Self::Ed25519),
            Algorithm::P256 => octets.try_into().ok().map(Self::P256),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(", self.algorithm())?;
        self.as_bytes().iter().take(4).try_for_each(|octet| write!(f, "{octet:02x}"))?;
        f.write_str("..)")
    }
}

/// Names an X25519 private key in a vault: its public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhHandle(pub [u8; 32]);

/// Names a signing key in a vault: SHA-256 of its public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SigningHandle(pub [u8; 32]);
