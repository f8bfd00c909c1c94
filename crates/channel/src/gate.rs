//! What is checked before Noise is: the gate of message 1 and the proof of message 3. Protocol section 3.

use sealway_identity::label;
use sealway_vault::{CryptoProvider, PublicKey, Secret};
use sealway_wire::{
    danger,
    handshake::{COOKIE_LEN, GATE_LEN, MESSAGE_1, MESSAGE_3, Message1, Message3},
};
use subtle::ConstantTimeEq;

use crate::{HandshakeError, schedule::DOMAIN};

/// What everybody with the responder's card can compute, and nobody else: SHA-256(label(gate) || responder static).
pub(crate) struct GateKey([u8; 32]);

impl GateKey {
    pub(crate) fn new<P: CryptoProvider>(provider: &P, responder: &PublicKey) -> Self {
        Self(provider.sha256(&[&label(DOMAIN, "gate"), responder]))
    }

    /// HMAC(gate key, octet 0 || cookie || e || total length 2), cut to 8 octets.
    pub(crate) fn gate<P: CryptoProvider>(&self, provider: &P, message: &Message1<'_>) -> [u8; GATE_LEN] {
        let cookie: &[u8] = message.cookie.map_or(&[], |cookie| cookie);
        let length = u16::try_from(message.frame_len()).unwrap_or(u16::MAX).to_be_bytes();
        cut(provider.hmac(&self.0, &[&[MESSAGE_1], cookie, message.ephemeral(), &length]))
    }

    pub(crate) fn fits<P: CryptoProvider>(&self, provider: &P, message: &Message1<'_>) -> bool {
        danger::is_off(danger::Protection::Gate) || self.gate(provider, message).ct_eq(message.gate).into()
    }

    /// What S1.R proves: HMAC(gate key, "retry" || e || cookie), cut to 8 octets. Its sender has the card, and has seen
    /// S1.1.
    pub(crate) fn retry_proof<P: CryptoProvider>(
        &self,
        provider: &P,
        ephemeral: &[u8; 32],
        cookie: &[u8; COOKIE_LEN],
    ) -> [u8; GATE_LEN] {
        cut(provider.hmac(&self.0, &[b"retry", ephemeral, cookie]))
    }
}

/// The two secrets that come from the KEM: the PSK of message 3, and the key of its proof.
pub(crate) struct KemSecrets {
    pub(crate) psk: Secret<32>,
    proof: Secret<32>,
}

impl KemSecrets {
    /// prk_kem = Extract(0^32, ss); psk3 and the proof key are expanded from it with h2, the hash after message 2.
    pub(crate) fn derive<P: CryptoProvider>(
        provider: &P,
        shared: &Secret<32>,
        h2: &[u8; 32],
    ) -> Result<Self, HandshakeError> {
        let prk = provider.hkdf_extract(&[0; 32], &[shared.expose()]);
        let (mut psk, mut proof) = (Secret::zero(), Secret::zero());
        for (name, secret) in [("psk3", &mut psk), ("proof", &mut proof)] {
            let info: [&[u8]; 2] = [&label(DOMAIN, name), h2];
            provider.hkdf_expand(&prk, &info, secret.expose_mut()).map_err(|_| HandshakeError::Noise)?;
        }
        Ok(Self { psk, proof })
    }

    /// HMAC(proof key, octet 0 || CID_R || both AEADs), cut to 8 octets.
    pub(crate) fn proof<P: CryptoProvider>(&self, provider: &P, cid: &[u8; 4], noise: &[u8]) -> [u8; GATE_LEN] {
        cut(provider.hmac(self.proof.expose(), &[&[MESSAGE_3], cid, noise]))
    }

    pub(crate) fn proves<P: CryptoProvider>(&self, provider: &P, message: &Message3<'_>) -> bool {
        danger::is_off(danger::Protection::Proof)
            || self.proof(provider, &message.cid.0, message.noise).ct_eq(message.proof).into()
    }
}

fn cut(mac: [u8; 32]) -> [u8; GATE_LEN] {
    let mut short = [0; GATE_LEN];
    short.copy_from_slice(&mac[..GATE_LEN]);
    short
}
