//! The primitives that everything above stands on. Implementations are leaf crates.

use crate::{AgreementError, Algorithm, EntropyError, KemError, PublicKey, Rejected, Secret, Signature, VerifyingKey};

/// Length of an AES-256-GCM tag in octets.
pub const TAG_LEN: usize = 16;

/// Length of a tag of AES-256-CCM as the constrained profile uses it, in octets.
pub const SHORT_TAG_LEN: usize = 8;

/// A source of randomness fit for keys.
///
/// # Security
/// Octets that repeat break everything built on this crate. Seeded sources are for tests and vectors alone.
pub trait Entropy: Clone + Send + Sync + 'static {
    /// Fills `out` with random octets.
    ///
    /// # Errors
    /// If the source fails; `out` must not be used then.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// A loaded X25519 private key. Implementations wipe it on drop.
pub trait DhKey: Send + Sync + 'static {
    /// The public key: computed each time that it is asked for, which costs as much as [`agree`](Self::agree).
    fn public(&self) -> PublicKey;

    /// Diffie-Hellman with `peer`: 32 octets.
    ///
    /// # Errors
    /// If the result is all zero (RFC 7748 section 6.1).
    fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, AgreementError>;
}

/// An ML-KEM-768 private key (FIPS 203). Implementations wipe it on drop.
pub trait KemKey: Send + Sync + 'static {
    /// Writes the encapsulation key, 1184 octets.
    fn encapsulation_key(&self, out: &mut [u8; 1184]);

    /// The shared secret in `ciphertext`, 1088 octets. A ciphertext that was tampered with gives a secret that nobody
    /// else has (implicit rejection): it cannot fail.
    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Secret<32>;
}

/// An AES-256-GCM key (SP 800-38D), expanded and ready. Implementations wipe it on drop.
pub trait AeadKey: Send + Sync + 'static {
    /// The key in these octets.
    fn new(key: &Secret<32>) -> Self;

    /// Encrypts `data` in place and returns the tag.
    ///
    /// # Security
    /// A nonce used twice under a key gives the key's authentication away. Callers count.
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN];

    /// Verifies `tag`, then decrypts `data` in place.
    ///
    /// # Errors
    /// If the tag does not verify; what `data` holds then is unspecified and tells nothing of the plaintext.
    fn open(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Rejected>;
}

/// An AES-256-CCM key with a nonce of 13 octets and a tag of 8 (RFC 3610 with M = 8, L = 2; COSE algorithm 11, RFC 9053
/// section 4.2). Implementations wipe it on drop.
pub trait CcmKey: Send + Sync + 'static {
    /// The key in these octets.
    fn new(key: &Secret<32>) -> Self;

    /// Encrypts `data`, at most 65,535 octets, in place and returns the tag.
    ///
    /// # Security
    /// A nonce used twice under a key gives away what its two messages have in common. Callers count. Each forgery succeeds
    /// with a chance of 2^-64: callers limit how many are tried.
    fn seal(&self, nonce: &[u8; 13], associated: &[u8], data: &mut [u8]) -> [u8; SHORT_TAG_LEN];

    /// Verifies `tag`, then decrypts `data` in place.
    ///
    /// # Errors
    /// If the tag does not verify; what `data` holds then is unspecified and tells nothing of the plaintext.
    fn open(
        &self,
        nonce: &[u8; 13],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; SHORT_TAG_LEN],
    ) -> Result<(), Rejected>;
}

/// A loaded signing key. Implementations wipe it on drop.
pub trait SigningKey: Send + Sync + 'static {
    /// The key that verifies.
    fn verifying_key(&self) -> VerifyingKey;

    /// Signs `message` deterministically (RFC 8032; RFC 6979).
    fn sign(&self, message: &[u8]) -> Signature;
}

/// SHA-256 (FIPS 180-4) over octets that arrive in parts.
pub trait Sha256: Default + Send + Sync + 'static {
    /// Appends `data`.
    fn update(&mut self, data: &[u8]);

    /// The hash of everything appended since the last call of `finish`.
    fn finish(&mut self) -> [u8; 32];
}

/// A set of primitives with a source of randomness: cheap to clone, without global state.
pub trait CryptoProvider: Clone + Send + Sync + 'static {
    /// A loaded X25519 private key.
    type DhKey: DhKey;
    /// An ML-KEM-768 private key.
    type KemKey: KemKey;
    /// An AES-256-GCM key.
    type AeadKey: AeadKey;
    /// An AES-256-CCM key.
    type CcmKey: CcmKey;
    /// An Ed25519 or P-256 private key.
    type SigningKey: SigningKey;
    /// A running hash.
    type Sha256: Sha256;

    /// Fills `out` with random octets fit for keys.
    ///
    /// # Errors
    /// If the source fails.
    fn fill_random(&self, out: &mut [u8]) -> Result<(), EntropyError>;

    /// HMAC-SHA256 (RFC 2104) over the concatenation of `parts`.
    fn hmac(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32];

    /// HKDF-SHA256-Extract (RFC 5869 section 2.2) of the concatenation of `ikm`.
    fn hkdf_extract(&self, salt: &[u8; 32], ikm: &[&[u8]]) -> Secret<32>;

    /// HKDF-SHA256-Expand (RFC 5869 section 2.3) with the concatenation of `info`, into `out`: at most 8160 octets.
    ///
    /// # Errors
    /// If `out` is longer.
    fn hkdf_expand(&self, prk: &Secret<32>, info: &[&[u8]], out: &mut [u8]) -> Result<(), Rejected>;

    /// Loads an X25519 private key from its 32 octets.
    fn load_dh(&self, seed: &Secret<32>) -> Self::DhKey;

    /// Loads a signing key from its 32 octets.
    ///
    /// # Errors
    /// If they are no key of that algorithm (P-256: zero, or not below the group order).
    fn load_signing(&self, algorithm: Algorithm, seed: &Secret<32>) -> Result<Self::SigningKey, Rejected>;

    /// Generates an ML-KEM-768 key pair.
    ///
    /// # Errors
    /// If the source of randomness fails.
    fn generate_kem(&self) -> Result<Self::KemKey, EntropyError>;

    /// The ML-KEM-768 key pair of a seed, `d | z` (FIPS 203 section 7.1): for keys that outlive a restart.
    fn load_kem(&self, seed: &Secret<64>) -> Self::KemKey;

    /// Encapsulates to `key`: writes the ciphertext and returns the shared secret.
    ///
    /// # Errors
    /// [`KemError::InvalidKey`] if the key fails the check of FIPS 203 section 7.2.
    fn encapsulate(&self, key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError>;

    /// Verifies a signature: Ed25519 strictly, ECDSA with the low s alone.
    ///
    /// # Errors
    /// If it does not verify, or `key` is none.
    fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), Rejected>;

    /// SHA-256 of the concatenation of `parts`.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Self::Sha256::default();
        parts.iter().for_each(|part| hash.update(part));
        hash.finish()
    }

    /// `N` random octets, secret.
    ///
    /// # Errors
    /// If the source fails.
    fn random_secret<const N: usize>(&self) -> Result<Secret<N>, EntropyError> {
        let mut secret = Secret::zero();
        self.fill_random(secret.expose_mut())?;
        Ok(secret)
    }

    /// `N` random octets that are not secret: identifiers, cookies, jitter.
    ///
    /// # Errors
    /// If the source fails.
    fn random<const N: usize>(&self) -> Result<[u8; N], EntropyError> {
        let mut octets = [0; N];
        self.fill_random(&mut octets)?;
        Ok(octets)
    }

    /// Generates an X25519 private key for one handshake.
    ///
    /// # Errors
    /// If the source of randomness fails.
    fn generate_dh(&self) -> Result<Self::DhKey, EntropyError> {
        Ok(self.load_dh(&self.random_secret()?))
    }
}
