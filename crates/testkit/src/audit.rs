//! A provider that looks on: no nonce may be used twice under a key, by whatever machine, copy or restart of one.

use std::{cell::RefCell, collections::HashSet};

use sealway_vault::{
    AeadKey, Algorithm, CryptoProvider, EntropyError, KemError, Rejected, Secret, Sha256 as _, Signature, TAG_LEN,
    VerifyingKey,
};

thread_local! {
    static USED: RefCell<HashSet<([u8; 16], [u8; 12])>> = RefCell::default();
}

/// Forgets all nonces: a new world begins, in which the same seed may make the same keys.
pub fn begin() {
    USED.with_borrow_mut(HashSet::clear);
}

/// How many different pairs of key and nonce have sealed something in this thread.
#[must_use]
pub fn sealed() -> usize {
    USED.with_borrow(HashSet::len)
}

/// The provider `P`, watched.
#[derive(Clone, Debug)]
pub struct Audited<P>(pub P);

/// An AEAD key that notes under which nonces it seals.
pub struct AuditedKey<K> {
    key: K,
    name: [u8; 16],
}

impl<K: AeadKey> AeadKey for AuditedKey<K> {
    fn new(key: &Secret<32>) -> Self {
        let mut hash = sealway_crypto_rustcrypto::Sha256State::default();
        hash.update(key.expose());
        let mut name = [0; 16];
        name.copy_from_slice(&hash.finish()[..16]);
        Self { key: K::new(key), name }
    }

    /// # Panics
    /// If the nonce was used under this key before.
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        let is_new = USED.with_borrow_mut(|used| used.insert((self.name, *nonce)));
        assert!(is_new, "the nonce {nonce:02x?} is used twice under one key");
        self.key.seal(nonce, associated, data)
    }

    fn open(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Rejected> {
        self.key.open(nonce, associated, data, tag)
    }
}

impl<P: CryptoProvider> CryptoProvider for Audited<P> {
    type DhKey = P::DhKey;
    type KemKey = P::KemKey;
    type AeadKey = AuditedKey<P::AeadKey>;
    type SigningKey = P::SigningKey;
    type Sha256 = P::Sha256;

    fn fill_random(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.0.fill_random(out)
    }

    fn hmac(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        self.0.hmac(key, parts)
    }

    fn hkdf_extract(&self, salt: &[u8; 32], ikm: &[&[u8]]) -> Secret<32> {
        self.0.hkdf_extract(salt, ikm)
    }

    fn hkdf_expand(&self, prk: &Secret<32>, info: &[&[u8]], out: &mut [u8]) -> Result<(), Rejected> {
        self.0.hkdf_expand(prk, info, out)
    }

    fn load_dh(&self, seed: &Secret<32>) -> Self::DhKey {
        self.0.load_dh(seed)
    }

    fn load_signing(&self, algorithm: Algorithm, seed: &Secret<32>) -> Result<Self::SigningKey, Rejected> {
        self.0.load_signing(algorithm, seed)
    }

    fn generate_kem(&self) -> Result<Self::KemKey, EntropyError> {
        self.0.generate_kem()
    }

    fn encapsulate(&self, key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError> {
        self.0.encapsulate(key, ciphertext)
    }

    fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected> {
        self.0.verify(key, message, signature)
    }
}
