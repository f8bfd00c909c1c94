//! AES-256-GCM.

use core::fmt;

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use sealway_vault::{AeadKey, Rejected, Secret, TAG_LEN};

/// An expanded AES-256-GCM key.
pub struct Aes256GcmKey(Aes256Gcm);

impl AeadKey for Aes256GcmKey {
    fn new(key: &Secret<32>) -> Self {
        Self(Aes256Gcm::new(key.expose().into()))
    }

    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        match self.0.encrypt_inout_detached(nonce.into(), associated, data.into()) {
            Ok(tag) => tag.into(),
            // Only beyond 2^36 octets of data, which no record has. The plaintext must not leave all the same.
            Err(_) => {
                data.fill(0);
                [0; TAG_LEN]
            }
        }
    }

    fn open(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Rejected> {
        self.0.decrypt_inout_detached(nonce.into(), associated, data.into(), tag.into()).map_err(|_| Rejected)
    }
}

impl fmt::Debug for Aes256GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aes256GcmKey(..)")
    }
}
