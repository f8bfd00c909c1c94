//! What the floors of handshakes are made of.

use std::hint::black_box;

use sealway_vault::{CryptoProvider, DhKey, PublicKey};

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

/// What both sides of a handshake compute with their ephemeral keys, which are generated, and the static ones: three agreements
/// each (es, ee, se). `None`: there is no randomness, or a key is not one.
pub fn agreements<P: CryptoProvider>(provider: &P, statics: [&Known<P::DhKey>; 2]) -> Option<()> {
    let [left, right] = [Known::new(provider.generate_dh().ok()?), Known::new(provider.generate_dh().ok()?)];
    let [static_left, static_right] = statics;
    for (own, peer) in [(&left, static_right), (&left, &right), (static_left, &right)] {
        black_box(own.key.agree(&peer.public).ok()?);
        black_box(peer.key.agree(&own.public).ok()?);
    }
    Some(())
}
