//! AES-256-GCM.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sealway_vault::{AeadKey, Rejected, Secret, TAG_LEN};

/// An expanded AES-256-GCM key.
pub struct Aes256GcmKey(Option<LessSafeKey>);

impl AeadKey for Aes256GcmKey {
    fn new(key: &Secret<32>) -> Self {
        // A key of 32 octets is always one; only memory can fail.
        Self(UnboundKey::new(&AES_256_GCM, key.expose()).ok().map(LessSafeKey::new))
    }

    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self.0.as_ref().and_then(|key| {
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from(associated), data).ok()?;
            tag.as_ref().try_into().ok()
        });
        // The plaintext must not leave: nobody opens zeros under a tag of zeros.
        sealed.unwrap_or_else(|| {
            data.fill(0);
            [0; TAG_LEN]
        })
    }

    fn open(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Rejected> {
        let key = self.0.as_ref().ok_or(Rejected)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.open_in_place_separate_tag(nonce, Aad::from(associated), tag, data);
        opened.map(drop).map_err(|_| Rejected)
    }
}

impl fmt::Debug for Aes256GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aes256GcmKey(..)")
    }
}
