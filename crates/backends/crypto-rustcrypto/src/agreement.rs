//! X25519.

use core::fmt;

use sealway_vault::{AgreementError, DhKey, PublicKey, Secret};
use x25519_dalek::StaticSecret;

/// An X25519 private key.
pub struct X25519Key(StaticSecret);

impl X25519Key {
    pub(crate) fn new(seed: &Secret<32>) -> Self {
        Self(StaticSecret::from(*seed.expose()))
    }
}

impl DhKey for X25519Key {
    fn public(&self) -> PublicKey {
        x25519_dalek::PublicKey::from(&self.0).to_bytes()
    }

    fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, AgreementError> {
        let shared = self.0.diffie_hellman(&(*peer).into());
        if shared.was_contributory() { Ok(Secret::new(shared.to_bytes())) } else { Err(AgreementError) }
    }
}

impl fmt::Debug for X25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X25519Key(..)")
    }
}
