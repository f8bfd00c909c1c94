//! X25519.

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use sealway_vault::{AgreementError, DhKey, PublicKey, Secret};

/// An X25519 private key. None only if there was no memory for it.
pub struct X25519Key(Option<PrivateKey>);

impl X25519Key {
    pub(crate) fn new(seed: &Secret<32>) -> Self {
        Self(PrivateKey::from_private_key(&X25519, seed.expose()).ok())
    }
}

impl DhKey for X25519Key {
    fn public(&self) -> PublicKey {
        let public = self.0.as_ref().and_then(|secret| secret.compute_public_key().ok());
        let public = public.and_then(|public| public.as_ref().try_into().ok());
        // The all-zero public key agrees with nobody.
        public.unwrap_or_default()
    }

    fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, AgreementError> {
        let secret = self.0.as_ref().ok_or(AgreementError)?;
        // AWS-LC refuses an all-zero result.
        agreement::agree(secret, UnparsedPublicKey::new(&X25519, peer), AgreementError, |shared| {
            shared.try_into().map(Secret::new).map_err(|_| AgreementError)
        })
    }
}

impl fmt::Debug for X25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X25519Key(..)")
    }
}
