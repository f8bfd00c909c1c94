//! What the floors of handshakes are made of.

use sealway_vault::{DhKey, PublicKey};

/// A key whose public one is computed once, as in a handshake, where it is sent.
pub struct Known<K> {
    /// The key.
    pub key: K,
    /// Its public one.
    pub public: PublicKey,
}

impl<K: DhKey> Known<K> {
    /// Computes the public key.
    #[must_use]
    pub fn new(key: K) -> Self {
        Self { public: key.public(), key }
    }
}
