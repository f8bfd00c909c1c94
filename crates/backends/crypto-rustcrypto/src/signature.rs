//! Ed25519 and ECDSA over P-256.

use core::fmt;

use p256::ecdsa::signature::{Signer, Verifier};
use sealway_vault::{Algorithm, Rejected, Secret, Signature, SigningKey, VerifyingKey};

/// A signing key of either algorithm.
pub enum SoftwareSigningKey {
    /// Ed25519.
    Ed25519(ed25519_dalek::SigningKey),
    /// ECDSA over P-256.
    P256(p256::ecdsa::SigningKey),
}

impl SoftwareSigningKey {
    /// Loads a key from its 32 octets.
    ///
    /// # Errors
    /// If they are no key of that algorithm (P-256: zero, or not below the group order).
    pub fn new(algorithm: Algorithm, seed: &Secret<32>) -> Result<Self, Rejected> {
        match algorithm {
            Algorithm::Ed25519 => Ok(Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(seed.expose()))),
            Algorithm::P256 => p256::ecdsa::SigningKey::from_slice(seed.expose()).map(Self::P256).map_err(|_| Rejected),
        }
    }
}

impl SigningKey for SoftwareSigningKey {
    fn verifying_key(&self) -> VerifyingKey {
        match self {
            Self::Ed25519(key) => VerifyingKey::Ed25519(key.verifying_key().to_bytes()),
            Self::P256(key) => {
                let point = key.verifying_key().to_sec1_point(true);
                let mut octets = [0; 33];
                octets.copy_from_slice(point.as_bytes());
                VerifyingKey::P256(octets)
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Signature {
        match self {
            Self::Ed25519(key) => key.sign(message).to_bytes(),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.normalize_s().to_bytes().into()
            }
        }
    }
}

/// Verifies a signature: Ed25519 strictly, ECDSA with the low s alone.
///
/// # Errors
/// If it does not verify, or `key` is none.
pub fn verify(key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected> {
    match key {
        // Strictly: plain verification accepts small-order keys, under which one signature fits every message.
        VerifyingKey::Ed25519(octets) => ed25519_dalek::VerifyingKey::from_bytes(octets)
            .and_then(|key| key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)))
            .map_err(|_| Rejected),
        VerifyingKey::P256(octets) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(octets).map_err(|_| Rejected)?;
            let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| Rejected)?;
            // (r, s) and (r, -s) both verify: only one of the twins is valid here.
            if signature.normalize_s() != signature {
                return Err(Rejected);
            }
            key.verify(message, &signature).map_err(|_| Rejected)
        }
    }
}

impl fmt::Debug for SoftwareSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoftwareSigningKey(..)")
    }
}
