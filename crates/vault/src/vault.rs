//! Where long-lived private keys are.

#[cfg(target_has_atomic = "ptr")]
use alloc::sync::Arc;

use crate::{
    Algorithm, CryptoProvider, DhHandle, PublicKey, Secret, Signature, SigningHandle, VaultError, VerifyingKey,
};

/// Uses private keys that it never gives away.
///
/// Calls are synchronous. A vault that has to ask a slow device answers from what it has asked for beforehand.
pub trait Vault: Send + Sync {
    /// The primitives and the randomness.
    type Provider: CryptoProvider;

    /// The primitives and the randomness.
    fn provider(&self) -> &Self::Provider;

    /// The public key of `handle`.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`].
    fn dh_public(&self, handle: &DhHandle) -> Result<PublicKey, VaultError>;

    /// X25519 of the private key `handle` with `peer`.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`]; [`VaultError::Agreement`] if the result is all zero.
    fn dh(&self, handle: &DhHandle, peer: &PublicKey) -> Result<Secret<32>, VaultError>;

    /// The public half of the signing key `handle`.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`].
    fn verifying_key(&self, handle: &SigningHandle) -> Result<VerifyingKey, VaultError>;

    /// Signs `message` with `handle`. Callers put their own label before everything that they have signed.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`].
    fn sign(&self, handle: &SigningHandle, message: &[u8]) -> Result<Signature, VaultError>;
}

/// A vault that makes and forgets keys.
pub trait KeyStore: Vault {
    /// Generates an X25519 key.
    ///
    /// # Errors
    /// If the source of randomness fails.
    fn generate_dh(&mut self) -> Result<DhHandle, VaultError>;

    /// Generates a signing key.
    ///
    /// # Errors
    /// If the source of randomness fails.
    fn generate_signing(&mut self, algorithm: Algorithm) -> Result<SigningHandle, VaultError>;

    /// Takes a signing key in, from a recovery file or paper.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] if the octets are no key of that algorithm.
    fn import_signing(&mut self, algorithm: Algorithm, seed: &Secret<32>) -> Result<SigningHandle, VaultError>;

    /// Wipes an X25519 key. Returns whether it was there.
    fn remove_dh(&mut self, handle: &DhHandle) -> bool;

    /// Wipes a signing key. Returns whether it was there.
    fn remove_signing(&mut self, handle: &SigningHandle) -> bool;
}

macro_rules! forward {
    ($pointer:ty) => {
        impl<V: Vault> Vault for $pointer {
            type Provider = V::Provider;

            fn provider(&self) -> &Self::Provider {
                (**self).provider()
            }

            fn dh_public(&self, handle: &DhHandle) -> Result<PublicKey, VaultError> {
                (**self).dh_public(handle)
            }

            fn dh(&self, handle: &DhHandle, peer: &PublicKey) -> Result<Secret<32>, VaultError> {
                (**self).dh(handle, peer)
            }

            fn verifying_key(&self, handle: &SigningHandle) -> Result<VerifyingKey, VaultError> {
                (**self).verifying_key(handle)
            }

            fn sign(&self, handle: &SigningHandle, message: &[u8]) -> Result<Signature, VaultError> {
                (**self).sign(handle, message)
            }
        }
    };
}

// Targets without atomics have no Arc: they hand a `&'static` vault to the handshake.
#[cfg(target_has_atomic = "ptr")]
forward!(Arc<V>);
forward!(&V);
