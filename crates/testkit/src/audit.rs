//! A provider that looks on: no nonce may be used twice under a key, by whatever machine, copy or restart of one. Sealing
//! the very same once more, as a handshake message that was written before a restart, is no second use.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use sealway_vault::{
    AeadKey, Algorithm, CcmKey, CryptoProvider, EntropyError, KemError, Rejected, SHORT_TAG_LEN, Secret, Signature,
    TAG_LEN, VerifyingKey,
};

use crate::agreement::{self, RememberedKey};

/// Name of a key and a nonce, the shorter nonces with a zero octet at their end.
type Use = ([u8; 16], [u8; 13]);

thread_local! {
    /// With a hash of what was sealed.
    static USED: RefCell<HashMap<Use, u64>> = RefCell::default();
}

/// Forgets all nonces: a new world begins, in which the same seed may make the same keys. In a build that can do so, the
/// protection that is named in `SEALWAY_BREAK` is off in it.
///
/// # Panics
/// If there is no protection of that name.
pub fn begin() {
    #[cfg(sealway_break)]
    if let Ok(protection) = std::env::var("SEALWAY_BREAK") {
        assert!(sealway_wire::danger::turn_off_named(&protection), "no protection is called {protection}");
    }
    USED.with_borrow_mut(HashMap::clear);
    agreement::begin();
}

/// How many different pairs of key and nonce have sealed something in this thread.
#[must_use]
pub fn sealed() -> usize {
    USED.with_borrow(HashMap::len)
}

/// The provider `P`, watched.
#[derive(Clone, Debug)]
pub struct Audited<P>(pub P);

/// An AEAD key that notes under which nonces it seals.
pub struct AuditedKey<K> {
    key: K,
    name: [u8; 16],
}

/// Keys are as good as drawn: half of one names it.
fn name_of(key: &Secret<32>) -> [u8; 16] {
    let mut name = [0; 16];
    name.copy_from_slice(&key.expose()[..16]);
    name
}

fn note(name: [u8; 16], nonce: &[u8], associated: &[u8], data: &[u8]) {
    let mut padded = [0; 13];
    padded[..nonce.len()].copy_from_slice(nonce);
    let mut hasher = DefaultHasher::new();
    (associated, data).hash(&mut hasher);
    let content = hasher.finish();
    USED.with_borrow_mut(|used| match used.entry((name, padded)) {
        Entry::Vacant(entry) => drop(entry.insert(content)),
        Entry::Occupied(entry) => {
            assert_eq!(*entry.get(), content, "the nonce {nonce:02x?} is used twice under one key");
        }
    });
}

impl<K: AeadKey> AeadKey for AuditedKey<K> {
    fn new(key: &Secret<32>) -> Self {
        Self { key: K::new(key), name: name_of(key) }
    }

    /// # Panics
    /// If the nonce was used under this key before.
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        note(self.name, nonce, associated, data);
        self.key.seal(nonce, associated, data)
    }

    fn open(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Rejected> {
        self.key.open(nonce, associated, data, tag)
    }
}

/// A CCM key that notes under which nonces it seals.
pub struct AuditedCcmKey<K> {
    key: K,
    name: [u8; 16],
}

impl<K: CcmKey> CcmKey for AuditedCcmKey<K> {
    fn new(key: &Secret<32>) -> Self {
        Self { key: K::new(key), name: name_of(key) }
    }

    /// # Panics
    /// If the nonce was used under this key before.
    fn seal(&self, nonce: &[u8; 13], associated: &[u8], data: &mut [u8]) -> [u8; SHORT_TAG_LEN] {
        note(self.name, nonce, associated, data);
        self.key.seal(nonce, associated, data)
    }

    fn open(
        &self,
        nonce: &[u8; 13],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; SHORT_TAG_LEN],
    ) -> Result<(), Rejected> {
        self.key.open(nonce, associated, data, tag)
    }
}

impl<P: CryptoProvider> CryptoProvider for Audited<P> {
    type DhKey = RememberedKey<P>;
    type KemKey = P::KemKey;
    type AeadKey = AuditedKey<P::AeadKey>;
    type CcmKey = AuditedCcmKey<P::CcmKey>;
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
        RememberedKey::new(&self.0, seed)
    }

    fn load_signing(&self, algorithm: Algorithm, seed: &Secret<32>) -> Result<Self::SigningKey, Rejected> {
        self.0.load_signing(algorithm, seed)
    }

    fn generate_kem(&self) -> Result<Self::KemKey, EntropyError> {
        self.0.generate_kem()
    }

    fn load_kem(&self, seed: &Secret<64>) -> Self::KemKey {
        self.0.load_kem(seed)
    }

    fn encapsulate(&self, key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError> {
        self.0.encapsulate(key, ciphertext)
    }

    fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected> {
        self.0.verify(key, message, signature)
    }
}
