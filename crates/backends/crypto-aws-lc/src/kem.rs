//! ML-KEM-768.

use std::fmt;

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use sealway_crypto_rustcrypto as rustcrypto;
use sealway_vault::{EntropyError, KemError, KemKey, Secret};

/// An ML-KEM-768 private key.
pub struct MlKem768Key(Key);

enum Key {
    /// With its public key, which AWS-LC cannot compute from it later.
    Generated { secret: DecapsulationKey, public: Box<[u8; 1184]> },
    /// Of a seed: AWS-LC's Rust interface takes none.
    Loaded(Box<rustcrypto::MlKem768Key>),
}

impl MlKem768Key {
    pub(crate) fn generate() -> Result<Self, EntropyError> {
        let secret = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| EntropyError)?;
        let public = secret.encapsulation_key().and_then(|key| key.key_bytes()).map_err(|_| EntropyError)?;
        let public = Box::<[u8; 1184]>::try_from(public.as_ref().to_vec()).map_err(|_| EntropyError)?;
        Ok(Self(Key::Generated { secret, public }))
    }

    pub(crate) fn load(seed: &Secret<64>) -> Self {
        Self(Key::Loaded(Box::new(rustcrypto::MlKem768Key::from_seed(seed))))
    }
}

impl KemKey for MlKem768Key {
    fn encapsulation_key(&self, out: &mut [u8; 1184]) {
        match &self.0 {
            Key::Generated { public, .. } => *out = **public,
            Key::Loaded(key) => key.encapsulation_key(out),
        }
    }

    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Secret<32> {
        let secret = match &self.0 {
            Key::Generated { secret, .. } => secret,
            Key::Loaded(key) => return key.decapsulate(ciphertext),
        };
        let shared = secret.decapsulate(Ciphertext::from(ciphertext.as_slice()));
        // A ciphertext of the right length cannot fail (implicit rejection); without memory the handshake fails on zeros.
        shared.ok().and_then(|shared| shared.as_ref().try_into().ok()).map_or_else(Secret::zero, Secret::new)
    }
}

pub(crate) fn encapsulate(key: &[u8; 1184], ciphertext: &mut [u8; 1088]) -> Result<Secret<32>, KemError> {
    let key = EncapsulationKey::new(&ML_KEM_768, key).map_err(|_| KemError::InvalidKey)?;
    // The check of FIPS 203 section 7.2 is made here: a key that is not reduced is refused.
    let (sealed, shared) = key.encapsulate().map_err(|_| KemError::InvalidKey)?;
    *ciphertext = sealed.as_ref().try_into().map_err(|_| KemError::InvalidKey)?;
    shared.as_ref().try_into().map(Secret::new).map_err(|_| KemError::InvalidKey)
}

impl fmt::Debug for MlKem768Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlKem768Key(..)")
    }
}
