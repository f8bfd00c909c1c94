//! Sealway's crypto provider in pure Rust: RustCrypto's AES-GCM, AES-CCM, SHA-2, HKDF, P-256 and ML-KEM, dalek's curve25519.
//!
//! `no_std`. On a machine with an operating system use [`RustCrypto::os`]; elsewhere hand [`RustCrypto::new`] a source of
//! randomness of your own.
//!
//! No algorithm is written here: every method calls the crate that implements it.
#![no_std]
#![forbid(unsafe_code)]

mod aead;
mod agreement;
mod ccm;
mod hash;
mod kem;
mod signature;

use hkdf::{Hkdf, HkdfExtract};
use hmac::{Hmac, KeyInit, Mac};
use sealway_vault::{
    Algorithm, CryptoProvider, Entropy, EntropyError, KemError, Rejected, Secret, Signature, VerifyingKey,
};
use sha2::Sha256;

pub use aead::Aes256GcmKey;
pub use agreement::X25519Key;
pub use ccm::Aes256CcmKey;
pub use hash::Sha256State;
pub use kem::MlKem768Key;
pub use signature::{SoftwareSigningKey, verify};

/// The provider, over a source of randomness.
#[derive(Clone, Debug)]
pub struct RustCrypto<E> {
    entropy: E,
}

impl<E: Entropy> RustCrypto<E> {
    /// The provider over `entropy`.
    #[must_use]
    pub const fn new(entropy: E) -> Self {
        Self { entropy }
    }
}

/// Randomness from the operating system.
#[cfg(feature = "os-entropy")]
#[derive(Clone, Copy, Debug)]
pub struct OsEntropy;

#[cfg(feature = "os-entropy")]
impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(out).map_err(|_| EntropyError)
    }
}

#[cfg(feature = "os-entropy")]
impl RustCrypto<OsEntropy> {
    /// The provider over the operating system's randomness.
    #[must_use]
    pub const fn os() -> Self {
        Self::new(OsEntropy)
    }
}

impl<E: Entropy> CryptoProvider for RustCrypto<E> {
    type DhKey = X25519Key;
    type KemKey = MlKem768Key;
    type AeadKey = Aes256GcmKey;
    type CcmKey = Aes256CcmKey;
    type SigningKey = SoftwareSigningKey;
    type Sha256 = Sha256State;

    fn fill_random(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.entropy.fill(out)
    }

    fn hmac(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        // A key of 32 octets is shorter than the block: it becomes the block as it is (RFC 2104 section 2).
        let mut block = zeroize::Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(key);
        let mut mac = Hmac::<Sha256>::new((&*block).into());
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn hkdf_extract(&self, salt: &[u8; 32], ikm: &[&[u8]]) -> Secret<32> {
        let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
        ikm.iter().for_each(|part| extract.input_ikm(part));
        let (prk, _) = extract.finalize();
        Secret::new(prk.into())
    }

    fn hkdf_expand(&self, prk: &Secret<32>, info: &[&[u8]], out: &mut [u8]) -> Result<(), Rejected> {
        let hkdf = Hkdf::<Sha256>::from_prk(prk.expose()).map_err(|_| Rejected)?;
        hkdf.expand_multi_info(info, out).map_err(|_| Rejected)
    }

    fn load_dh(&self, seed: &Secret<32>) -> X25519Key {
        X25519Key::new(seed)
    }

    fn load_signing(&self, algorithm: Algorithm, seed: &Secret<32>) -> Result<SoftwareSigningKey, Rejected> {
        SoftwareSigningKey::new(algorithm, seed)
    }

    fn generate_kem(&self) -> Result<MlKem768Key, EntropyError> {
        Ok(MlKem768Key::from_seed(&self.random_secret()?))
    }

    fn load_kem(&self, seed: &Secret<64>) -> MlKem768Key {
        MlKem768Key::from_seed(seed)
    }

    fn encapsulate(&self, key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError> {
        let message = self.random_secret().map_err(|_| KemError::Entropy)?;
        kem::encapsulate(key, &message, ciphertext)
    }

    fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected> {
        verify(key, message, signature)
    }
}
