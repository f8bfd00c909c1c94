//! The responder's half of S1. Nothing is kept before message 1 has opened.
//!
//! ```text
//!   ──S1.1──► HalfOpen::accept      gate, then Noise, then encapsulation; S1.2 is kept for repetitions
//!   ◄──S1.2──
//!   ──S1.3──► HalfOpen::handle_message3 ─► Accepted: a session, and a peer that policy admits
//! ```

use alloc::{vec, vec::Vec};

use crate::{
    FrameError, HandshakeError, Role,
    gate::KemSecrets,
    initiator::{encode, prologue},
    noise,
    schedule::{DOMAIN, SessionKey},
    session::Session,
};
use sealway_identity::{IdentityError, Policy, UnverifiedPayload};
use sealway_vault::{CryptoProvider, DhHandle, KemError, Secret, Vault};
use sealway_wire::{
    Cid, DecodeError, Frame, IdentityId, Reader, Reason,
    handshake::{MESSAGE_2_LEN, Message1, Message2, Message3, NOISE_2_LEN, PAYLOAD_1_LEN, PAYLOAD_2_LEN},
};

/// S1.1 has opened and S1.2 is written.
pub(crate) struct HalfOpen<V: Vault + Clone + 'static> {
    noise: noise::Handshake<V>,
    secrets: KemSecrets,
    local: Cid,
    remote: Cid,
    /// S1.2: a repeated S1.1 gets the same octets.
    pub(crate) frame: Vec<u8>,
}

/// S1.3 has been verified.
pub(crate) struct Accepted<P: CryptoProvider> {
    pub(crate) session: Session<P>,
    /// SHA-256 of S1.3: a repetition is recognised by it.
    pub(crate) message3: [u8; 32],
}

/// Why message 3 was refused, and whether the half-open handshake can go on.
pub(crate) enum Refused {
    /// The frame may have been forged: the genuine one is still to come.
    Keep(HandshakeError),
    /// The proof was right and the rest was not: the initiator itself is at fault, or snow's state is spent.
    Drop(HandshakeError),
}

impl<V: Vault + Clone + 'static> HalfOpen<V> {
    /// Reads S1.1, whose gate was found right, and writes S1.2.
    pub(crate) fn accept(
        vault: &V,
        own: &IdentityId,
        channel_key: &DhHandle,
        local: Cid,
        message: &Message1<'_>,
    ) -> Result<Self, FrameError> {
        let provider = vault.provider();
        let ephemeral = provider.random_secret()?;
        let opened = OpenedMessage1::of(vault, own, channel_key, ephemeral, message)?;
        let encapsulated = Encapsulated::to(provider, &opened.encapsulation_key)?;
        opened.answer(provider, local, &encapsulated)
    }

    /// Reads S1.3: proof, Noise, identity, in this order.
    pub(crate) fn handle_message3(
        &mut self,
        vault: &V,
        message: &Message3<'_>,
        admit: Admission<'_>,
    ) -> Result<Accepted<V::Provider>, Refused> {
        let provider = vault.provider();
        if !self.secrets.proves(provider, message) {
            return Err(Refused::Keep(HandshakeError::Proof));
        }
        let message3 = provider.sha256(&[&message.cid.0, message.proof, message.noise]);
        let session = self.finish(vault, message, admit).map_err(Refused::Drop)?;
        Ok(Accepted { session, message3 })
    }

    fn finish(
        &mut self,
        vault: &V,
        message: &Message3<'_>,
        admit: Admission<'_>,
    ) -> Result<Session<V::Provider>, HandshakeError> {
        let provider = vault.provider();
        let mut payload = vec![0; message.noise.len()];
        let len = self.noise.read_message(message.noise, &mut payload)?;
        let channel_key = self.noise.get_remote_static().and_then(|key| key.try_into().ok());
        let channel_key = channel_key.ok_or(HandshakeError::Noise)?;
        let payload = UnverifiedPayload::decode(&payload[..len]).map_err(HandshakeError::Payload)?;
        let peer = payload
            .verify(provider, &channel_key, admit.policy, admit.known, None)
            .map_err(HandshakeError::Identity)?;
        if peer.id() == admit.own {
            return Err(HandshakeError::Reflected);
        }
        let transcript = noise::transcript_hash(&self.noise)?;
        let keys = noise::raw_split(&mut self.noise)?;
        let session_key = SessionKey::extract(provider, DOMAIN, &transcript, &keys);
        Ok(Session::new(&session_key, Role::Responder, self.local, self.remote, peer))
    }
}

/// S1.1 that has opened.
pub(crate) struct OpenedMessage1<V: Vault + Clone + 'static> {
    noise: noise::Handshake<V>,
    remote: Cid,
    pub(crate) encapsulation_key: [u8; 1184],
}

/// What was encapsulated for S1.2.
pub(crate) struct Encapsulated {
    pub(crate) ciphertext: [u8; 1088],
    pub(crate) shared: Secret<32>,
}

impl Encapsulated {
    pub(crate) fn to<P: CryptoProvider>(provider: &P, key: &[u8; 1184]) -> Result<Self, FrameError> {
        let mut ciphertext = [0; 1088];
        let shared = provider.encapsulate(key, &mut ciphertext).map_err(|error| match error {
            KemError::Entropy => FrameError::Vault(sealway_vault::VaultError::Entropy),
            _ => FrameError::Handshake(HandshakeError::Kem),
        })?;
        Ok(Self { ciphertext, shared })
    }
}

impl<V: Vault + Clone + 'static> OpenedMessage1<V> {
    /// Reads S1.1, whose gate was found right. `ephemeral` is the seed of our e.
    pub(crate) fn of(
        vault: &V,
        own: &IdentityId,
        channel_key: &DhHandle,
        ephemeral: Secret<32>,
        message: &Message1<'_>,
    ) -> Result<Self, FrameError> {
        let prologue = prologue(own.as_bytes());
        let setup = noise::Setup {
            pattern: noise::S1,
            role: Role::Responder,
            prologue: &prologue,
            local: noise::Local::Vault(channel_key),
            remote: None,
            psk: None,
            ephemeral,
            known: None,
        };
        let mut noise = noise::build(vault, setup)?;
        let mut payload = [0; PAYLOAD_1_LEN];
        noise.read_message(message.noise, &mut payload).map_err(HandshakeError::from)?;
        let mut reader = Reader::new(&payload);
        let remote = Cid(reader.array("S1.1 CID")?);
        let flags = reader.u8("S1.1 flags")?;
        if flags != 0 {
            return Err(DecodeError::new("S1.1 flags", Reason::Unknown { value: flags.into() }).into());
        }
        let encapsulation_key = reader.array("S1.1 encapsulation key")?;
        Ok(Self { noise, remote, encapsulation_key })
    }

    /// Writes S1.2. What is written has to be the same whenever it is written for this S1.1 and this seed of e.
    pub(crate) fn answer(
        self,
        provider: &V::Provider,
        local: Cid,
        encapsulated: &Encapsulated,
    ) -> Result<HalfOpen<V>, FrameError> {
        let Self { mut noise, remote, .. } = self;
        let mut payload = [0; PAYLOAD_2_LEN];
        payload[..4].copy_from_slice(&local.0);
        payload[4..].copy_from_slice(&encapsulated.ciphertext);
        let mut written = [0; NOISE_2_LEN];
        noise.write_message(&payload, &mut written).map_err(HandshakeError::from)?;
        let mut frame = vec![0; MESSAGE_2_LEN];
        encode(&Frame::Message2(Message2 { cid: remote, noise: &written }), &mut frame)?;
        let h2 = noise::transcript_hash(&noise)?;
        let secrets = KemSecrets::derive(provider, &encapsulated.shared, &h2)?;
        noise.set_psk(3, secrets.psk.expose()).map_err(HandshakeError::from)?;
        Ok(HalfOpen { noise, secrets, local, remote, frame })
    }
}

/// By what the identity in message 3 is judged.
pub(crate) struct Admission<'a> {
    pub(crate) own: IdentityId,
    pub(crate) policy: &'a Policy,
    /// The highest rank of an attestation known of an identity.
    pub(crate) known: &'a dyn Fn(&IdentityId) -> Option<(u32, u32)>,
}

impl From<IdentityError> for HandshakeError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

/// What only who builds a message by hand can send.
#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use sealway_crypto_rustcrypto::RustCrypto;
    use sealway_identity::{CardParts, Owner, PayloadParts};
    use sealway_testkit::entropy::{Seeded, seeded_provider};
    use sealway_vault::{Algorithm, SoftwareVault};

    use super::*;
    use crate::initiator::AwaitingMessage2;

    type TestVault = Arc<SoftwareVault<RustCrypto<Seeded>>>;

    fn machine(seed: u64) -> (TestVault, Owner) {
        let mut vault = SoftwareVault::new(seeded_provider(seed));
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        (Arc::new(vault), owner)
    }

    #[test]
    fn a_copy_of_ones_own_identity_is_refused() {
        // Specification: [M12].
        let (vault, owner) = machine(1);
        let card = owner.card(&vault, &CardParts::default()).unwrap();
        let payload = owner.payload(&PayloadParts::default()).unwrap();
        let begun = AwaitingMessage2::begin(&vault, &owner, &card, Cid([1; 4]), payload).unwrap();
        let Ok(Frame::Message1(message)) = Frame::decode(&begun.frame) else { panic!("S1.1") };
        let mut half_open = HalfOpen::accept(&vault, &owner.id(), &owner.channel_key(), Cid([2; 4]), &message).unwrap();
        let frame = half_open.frame.clone();
        let Ok(Frame::Message2(message)) = Frame::decode(&frame) else { panic!("S1.2") };
        let Ok(finished) = alloc::boxed::Box::new(begun).handle_message2(&vault, &message) else { panic!("genuine") };
        let Ok(Frame::Message3(message)) = Frame::decode(&finished.frame) else { panic!("S1.3") };
        let admission = Admission { own: owner.id(), policy: &Policy::only(&card), known: &|_| None };
        let refused = half_open.handle_message3(&vault, &message, admission);
        assert!(matches!(refused, Err(Refused::Drop(HandshakeError::Reflected))));
    }

    #[test]
    fn flags_that_are_not_zero_are_refused() {
        // Specification: [M10].
        let ((vault, owner), (other, initiator)) = (machine(2), machine(3));
        let key = owner.channel_key();
        let prologue = prologue(owner.id().as_bytes());
        let ephemeral = other.provider().random_secret().unwrap();
        let setup = noise::Setup {
            pattern: noise::S1,
            role: Role::Initiator,
            prologue: &prologue,
            local: noise::Local::Vault(&initiator.channel_key()),
            remote: Some(&key.0),
            psk: None,
            ephemeral,
            known: None,
        };
        let mut noise = noise::build(&other, setup).unwrap();
        let mut payload = [0; PAYLOAD_1_LEN];
        payload[4] = 1;
        let mut message = [0; sealway_wire::handshake::NOISE_1_LEN];
        noise.write_message(&payload, &mut message).unwrap();
        let message = Message1 { gate: &[0; 8], cookie: None, noise: &message };
        let refused = HalfOpen::accept(&vault, &owner.id(), &key, Cid([2; 4]), &message).map(drop).unwrap_err();
        assert_eq!(refused, DecodeError::new("S1.1 flags", Reason::Unknown { value: 1 }).into());
    }
}
