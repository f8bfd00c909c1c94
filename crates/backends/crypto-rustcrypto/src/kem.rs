//! ML-KEM-768.

use core::fmt;

use ml_kem::{B32, DecapsulationKey768, EncapsulationKey768, KeyExport, kem::Decapsulate};
use sealway_vault::{KemError, KemKey, Secret};

/// An ML-KEM-768 private key, expanded: about 3.2 KiB, which only the initiator of a handshake and the owner of a prekey hold.
pub struct MlKem768Key(DecapsulationKey768);

impl MlKem768Key {
    /// The key pair of a seed, `d | z` (FIPS 203 section 7.1).
    #[must_use]
    pub fn from_seed(seed: &Secret<64>) -> Self {
        Self(DecapsulationKey768::from_seed((*seed.expose()).into()))
    }
}

impl KemKey for MlKem768Key {
    fn encapsulation_key(&self, out: &mut [u8; 1184]) {
        *out = self.0.encapsulation_key().to_bytes().into();
    }

    fn decapsulate(&self, ciphertext: &[u8; 1088]) -> Secret<32> {
        Secret::new(self.0.decapsulate(ciphertext.into()).into())
    }
}

pub(crate) fn encapsulate(
    key: &[u8; 1184],
    message: &Secret<32>,
    ciphertext: &mut [u8; 1088],
) -> Result<Secret<32>, KemError> {
    let key = EncapsulationKey768::new(key.into()).map_err(|_| KemError::InvalidKey)?;
    let (sealed, shared) = key.encapsulate_deterministic(&B32::from(*message.expose()));
    *ciphertext = sealed.into();
    Ok(Secret::new(shared.into()))
}

impl fmt::Debug for MlKem768Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MlKem768Key(..)")
    }
}
