//! Sealway's crypto provider over [AWS-LC](https://github.com/aws/aws-lc): X25519, ML-KEM-768, AES-256-GCM, SHA-256, HMAC
//! and HKDF in its assembly. It builds with a C compiler alone.
//!
//! Signatures are those of `sealway-crypto-rustcrypto`: AWS-LC accepts Ed25519 keys of small order, under which one signature
//! fits every message, and signs ECDSA with fresh randomness. They are made and checked once a handshake at most.
//!
//! ML-KEM keys that come from a seed are those of `sealway-crypto-rustcrypto` too: AWS-LC's Rust interface takes none.
//!
//! AES-256-CCM is that of `sealway-crypto-rustcrypto` too: AWS-LC's Rust interface does not have it.
//!
//! Keys lie on AWS-LC's own heap, and are wiped when they are dropped.
#![forbid(unsafe_code)]

mod aead;
mod agreement;
mod hash;
mod kem;

use aws_lc_rs::{hkdf, hmac, rand};
use sealway_crypto_rustcrypto::{Aes256CcmKey, SoftwareSigningKey};
use sealway_vault::{Algorithm, CryptoProvider, EntropyError, KemError, Rejected, Secret, Signature, VerifyingKey};

pub use aead::Aes256GcmKey;
pub use agreement::X25519Key;
pub use hash::Sha256State;
pub use kem::MlKem768Key;

/// The provider. Its randomness is AWS-LC's, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl AwsLc {
    /// The provider.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// How many octets HKDF is to expand.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl CryptoProvider for AwsLc {
    type DhKey = X25519Key;
    type KemKey = MlKem768Key;
    type AeadKey = Aes256GcmKey;
    type CcmKey = Aes256CcmKey;
    type SigningKey = SoftwareSigningKey;
    type Sha256 = Sha256State;

    fn fill_random(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        rand::fill(out).map_err(|_| EntropyError)
    }

    fn hmac(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        parts.iter().for_each(|part| mac.update(part));
        let tag = mac.sign();
        let mut octets = [0; 32];
        // The tag of HMAC-SHA256 has 32 octets.
        octets.iter_mut().zip(tag.as_ref()).for_each(|(octet, tag)| *octet = *tag);
        octets
    }

    fn hkdf_extract(&self, salt: &[u8; 32], ikm: &[&[u8]]) -> Secret<32> {
        // RFC 5869 section 2.2: Extract is HMAC with the salt as its key.
        Secret::new(self.hmac(salt, ikm))
    }

    fn hkdf_expand(&self, prk: &Secret<32>, info: &[&[u8]], out: &mut [u8]) -> Result<(), Rejected> {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, prk.expose());
        let okm = prk.expand(info, Length(out.len())).map_err(|_| Rejected)?;
        okm.fill(out).map_err(|_| Rejected)
    }

    fn load_dh(&self, seed: &Secret<32>) -> X25519Key {
        X25519Key::new(seed)
    }

    fn load_signing(&self, algorithm: Algorithm, seed: &Secret<32>) -> Result<SoftwareSigningKey, Rejected> {
        SoftwareSigningKey::new(algorithm, seed)
    }

    fn generate_kem(&self) -> Result<MlKem768Key, EntropyError> {
        MlKem768Key::generate()
    }

    fn load_kem(&self, seed: &Secret<64>) -> MlKem768Key {
        MlKem768Key::load(seed)
    }

    fn encapsulate(&self, key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError> {
        kem::encapsulate(key, ciphertext)
    }

    fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected> {
        sealway_crypto_rustcrypto::verify(key, message, signature)
    }
}
