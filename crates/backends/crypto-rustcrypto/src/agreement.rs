//! X25519.

use core::fmt;

use sealway_vault::{AgreementError, DhKey, PublicKey, Secret};
use x25519_dalek::StaticSecret;

/// An X25519 private key and its public key.
pub struct X25519Key {
    secret: StaticSecret,
    public: PublicKey,
}

impl X25519Key {
    pub(crate) fn new(seed: &Secret<32>) -> Self {
        let secret = StaticSecret::from(*seed.expose());
        let public = x25519_dalek::PublicKey::from(&secret).to_bytes();
        Self { secret, public }
    }
}

impl DhKey for X25519Key {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, AgreementError> {
        let shared = self.secret.diffie_hellman(&(*peer).into());
        if shared.was_contributory() { Ok(Secret::new(shared.to_bytes())) } else { Err(AgreementError) }
    }
}

impl fmt::Debug for X25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X25519Key(..)")
    }
}
