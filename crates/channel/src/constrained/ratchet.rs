//! One step of the psk ratchet: a handshake of two messages under one psk, which makes a session and the next psk.
//!
//! For one psk there is at most one first message and at most one second, ever. Both are written before they leave, and
//! repeated in the same octets.

use alloc::{boxed::Box, vec, vec::Vec};

use sealway_identity::label;
use sealway_vault::{CryptoProvider, DhKey, PublicKey, Secret, Vault};
use sealway_wire::{
    Hint, IdentityId, Reader, Timestamp,
    constrained::{self, Frame},
    danger::{self, Protection},
};
use zeroize::Zeroizing;

use super::{
    keys::{Keys, Which},
    session::{Counters, DOMAIN, Session},
};
use crate::{FrameError, HandshakeError, Role, StateError, noise, schedule::SessionKey};

/// Octets of a Noise message beside its payload: e, and the tag.
const NOISE_OVERHEAD: usize = 32 + 16;

/// The two ends of a pairing.
pub(super) struct Parties {
    pub(super) role: Role,
    pub(super) own: IdentityId,
    pub(super) peer: IdentityId,
    pub(super) keys: Keys,
    /// The store of this side cannot go back.
    pub(super) reserves_counters: bool,
}

impl Parties {
    pub(super) const fn new(role: Role, own: IdentityId, peer: IdentityId, keys: Keys) -> Self {
        Self { role, own, peer, keys, reserves_counters: false }
    }

    /// label(C1, prologue) || initiator's id || responder's id.
    fn prologue(&self) -> Vec<u8> {
        let in_role_order = match self.role {
            Role::Initiator => [&self.own, &self.peer],
            Role::Responder => [&self.peer, &self.own],
        };
        let mut prologue = label(DOMAIN, "prologue");
        in_role_order.iter().for_each(|id| prologue.extend_from_slice(&id.0));
        prologue
    }

    fn handshake<V: Vault + Clone + 'static>(
        &self,
        vault: &V,
        keys: Which,
        psk: &Psk,
        ephemeral: Secret<32>,
        known: Option<(PublicKey, &Secret<32>)>,
    ) -> Result<noise::Handshake<V>, HandshakeError> {
        let statics = self.keys.get(keys).ok_or(HandshakeError::Noise)?;
        let setup = noise::Setup {
            pattern: noise::C1,
            role: self.role,
            prologue: &self.prologue(),
            local: noise::Local::Vault(&statics.own),
            remote: Some(&statics.peer),
            psk: Some((0, &psk.secret)),
            ephemeral,
            known: Some(noise::Known {
                ephemeral: known.map(|(public, _)| public),
                statics: Some(statics.shared.clone()),
                ephemeral_static: known.map(|(_, shared)| shared.clone()),
            }),
        };
        noise::build(vault, setup)
    }
}

/// Which chain of psks one belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// It ratchets with each handshake.
    Ordinary,
    /// Its secret never ratchets, and serves, with a psk for each attempt, when the ordinary one is lost.
    Recovery,
}

/// A psk, and the hints of what is made with it.
pub(super) struct Psk {
    pub(super) secret: Secret<32>,
    pub(super) chain: Chain,
    /// Of our own messages.
    pub(super) own_hint: Hint,
    /// Of the peer's.
    pub(super) hint: Hint,
}

impl Psk {
    pub(super) fn new<P: CryptoProvider>(provider: &P, parties: &Parties, chain: Chain, secret: Secret<32>) -> Self {
        let name = match chain {
            Chain::Ordinary => "hint",
            Chain::Recovery => "recovery",
        };
        let hint = |sender: &IdentityId| {
            let mut hint = Hint([0; 2]);
            let fixed = Secret::zero();
            let rotated = if danger::is_off(Protection::Hint) { &fixed } else { &secret };
            // Expand of two octets cannot fail (RFC 5869 section 2.3: the limit is 8160).
            let _ = provider.hkdf_expand(rotated, &[&label(DOMAIN, name), &sender.0], &mut hint.0);
            hint
        };
        let (own_hint, hint) = (hint(&parties.own), hint(&parties.peer));
        Self { secret, chain, own_hint, hint }
    }
}

impl Psk {
    /// The psk of a call for recovery: each attempt has one of its own, so that its number needs no room on the air.
    pub(super) fn of_attempt<P: CryptoProvider>(
        provider: &P,
        parties: &Parties,
        recovery: &Secret<32>,
        attempt: u32,
    ) -> Self {
        let mut secret = Secret::zero();
        // Expand of 32 octets cannot fail.
        let _ =
            provider.hkdf_expand(recovery, &[&label(DOMAIN, "attempt"), &attempt.to_be_bytes()], secret.expose_mut());
        Self::new(provider, parties, Chain::Recovery, secret)
    }

    /// The psk that takes this one's place when the responder has sent a seed. Whoever knows only one of the two knows nothing.
    pub(super) fn seeded<P: CryptoProvider>(&self, provider: &P, parties: &Parties, seed: &[u8; 32]) -> Self {
        let prk = provider.hkdf_extract(self.secret.expose(), &[seed]);
        let mut secret = Secret::zero();
        // Expand of 32 octets cannot fail.
        let _ = provider.hkdf_expand(&prk, &[&label(DOMAIN, "seed")], secret.expose_mut());
        Self::new(provider, parties, Chain::Ordinary, secret)
    }
}

/// What a handshake has made.
pub(super) struct Made<P: CryptoProvider> {
    pub(super) session: Box<Session<P>>,
    pub(super) next: Psk,
    /// What came in the peer's message.
    pub(super) payload: Vec<u8>,
}

/// A first message of ours that waits for its answer. What the handshake needs is kept, not the handshake: it may wait for
/// hours, and is some kilobytes. Nor is C1.1, which comes of the same without another operation with a public key.
pub(super) struct Call {
    /// Of e, its public key, and Diffie-Hellman with the peer's static key.
    seed: Secret<32>,
    public: PublicKey,
    ephemeral_static: Secret<32>,
    payload: Zeroizing<Box<[u8]>>,
    /// SHA-256 of C1.1, cut.
    check: [u8; 4],
    /// With which keys of the two ends it is made.
    pub(super) keys: Which,
    /// It was written before the last start.
    restored: bool,
}

impl Call {
    /// The only first message under `psk`.
    pub(super) fn new<V: Vault + Clone + 'static>(
        vault: &V,
        parties: &Parties,
        psk: &Psk,
        payload: Vec<u8>,
    ) -> Result<Self, FrameError> {
        let seed = vault.provider().random_secret()?;
        Ok(Self::write(vault, parties, parties.keys.for_calls(), psk, seed, payload, false)?)
    }

    fn write<V: Vault + Clone + 'static>(
        vault: &V,
        parties: &Parties,
        keys: Which,
        psk: &Psk,
        seed: Secret<32>,
        payload: Vec<u8>,
        restored: bool,
    ) -> Result<Self, HandshakeError> {
        let ephemeral = vault.provider().load_dh(&seed);
        let peer = parties.keys.get(keys).ok_or(HandshakeError::Noise)?.peer;
        let ephemeral_static = ephemeral.agree(&peer).map_err(|_| HandshakeError::Noise)?;
        let (public, payload) = (ephemeral.public(), payload.into_boxed_slice().into());
        let mut call = Self { seed, public, ephemeral_static, payload, check: [0; 4], keys, restored };
        call.check = check(vault.provider(), &[&call.frame(vault, parties, psk)?]);
        Ok(call)
    }

    /// C1.1: the same octets each time.
    pub(super) fn frame<V: Vault + Clone + 'static>(
        &self,
        vault: &V,
        parties: &Parties,
        psk: &Psk,
    ) -> Result<Vec<u8>, HandshakeError> {
        let (_, message) = self.begin(vault, parties, psk)?;
        encode(&Frame::Message1(constrained::Handshake { hint: psk.own_hint, noise: &message }))
    }

    /// How long that is.
    pub(super) fn frame_len(&self) -> usize {
        constrained::HANDSHAKE_OVERHEAD + self.payload.len()
    }

    /// The handshake after its first message, and that message: the same each time.
    fn begin<V: Vault + Clone + 'static>(
        &self,
        vault: &V,
        parties: &Parties,
        psk: &Psk,
    ) -> Result<(noise::Handshake<V>, Vec<u8>), HandshakeError> {
        let known = Some((self.public, &self.ephemeral_static));
        let mut noise = parties.handshake(vault, self.keys, psk, self.seed.clone(), known)?;
        let mut message = vec![0; NOISE_OVERHEAD + self.payload.len()];
        noise.write_message(&self.payload, &mut message)?;
        Ok((noise, message))
    }

    /// Reads the answer. On an error the handshake goes on: the frame may have been forged.
    pub(super) fn finish<V: Vault + Clone + 'static>(
        &self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        psk: &Psk,
        message: &[u8],
    ) -> Result<Made<V::Provider>, HandshakeError> {
        let (mut noise, _) = self.begin(vault, parties, psk)?;
        let mut payload = vec![0; message.len()];
        let len = noise.read_message(message, &mut payload)?;
        payload.truncate(len);
        make(vault.provider(), parties, &mut noise, psk.chain, self.restored, now, payload)
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        32 + 1 + self.payload.len() + 4
    }

    /// `seed 32 | length 1 | payload | check 4`.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.seed.expose());
        put_short(out, &self.payload);
        out.extend_from_slice(&self.check);
    }

    /// Takes back what [`save`](Self::save) wrote: the very same message, for another under this psk must never be.
    pub(super) fn restore<V: Vault + Clone + 'static>(
        vault: &V,
        parties: &Parties,
        psk: &Psk,
        reader: &mut Reader<'_>,
    ) -> Result<Self, StateError> {
        let seed = Secret::new(reader.array("call seed")?);
        let payload = take_short(reader, "call payload")?;
        let expected: [u8; 4] = reader.array("call check")?;
        for (keys, _) in parties.keys.all() {
            let call = Self::write(vault, parties, keys, psk, seed.clone(), payload.to_vec(), true);
            let call = call.map_err(|_| StateError::Rejected)?;
            if call.check == expected {
                return Ok(call);
            }
        }
        Err(StateError::Rejected)
    }
}

/// A first message of the peer that has opened.
pub(super) struct Heard<V: Vault + Clone + 'static> {
    noise: noise::Handshake<V>,
    pub(super) payload: Vec<u8>,
    /// With which keys of the two ends it was made.
    pub(super) keys: Which,
}

impl<V: Vault + Clone + 'static> Heard<V> {
    pub(super) fn read(
        vault: &V,
        parties: &Parties,
        keys: Which,
        psk: &Psk,
        message: &[u8],
    ) -> Result<Self, FrameError> {
        let ephemeral = vault.provider().random_secret()?;
        let mut noise = parties.handshake(vault, keys, psk, ephemeral, None)?;
        let mut payload = vec![0; message.len()];
        let len = noise.read_message(message, &mut payload).map_err(HandshakeError::from)?;
        payload.truncate(len);
        Ok(Self { noise, payload, keys })
    }

    /// The only second message under `psk`, and what the handshake has made.
    pub(super) fn answer(
        mut self,
        vault: &V,
        parties: &Parties,
        now: Timestamp,
        psk: &Psk,
        reply: &[u8],
    ) -> Result<(Vec<u8>, Made<V::Provider>), HandshakeError> {
        let mut message = vec![0; NOISE_OVERHEAD + reply.len()];
        self.noise.write_message(reply, &mut message)?;
        let frame = encode(&Frame::Message2(constrained::Handshake { hint: psk.own_hint, noise: &message }))?;
        let made = make(vault.provider(), parties, &mut self.noise, psk.chain, false, now, self.payload)?;
        Ok((frame, made))
    }
}

fn make<P: CryptoProvider>(
    provider: &P,
    parties: &Parties,
    noise: &mut snow::HandshakeState,
    chain: Chain,
    is_restored: bool,
    now: Timestamp,
    payload: Vec<u8>,
) -> Result<Made<P>, HandshakeError> {
    let transcript = noise::transcript_hash(noise)?;
    let keys = noise::raw_split(noise)?;
    let key = SessionKey::extract(provider, DOMAIN, &transcript, &keys);
    let counters = match (parties.reserves_counters, is_restored) {
        (true, _) => Counters::Reserved,
        (false, true) => Counters::OfIncarnation,
        (false, false) => Counters::OfSession,
    };
    let session = Box::new(Session::new(&key, parties.role, chain == Chain::Recovery, counters, now));
    // Whatever chain it comes from, what follows is an ordinary one.
    let next = Psk::new(provider, parties, Chain::Ordinary, key.next_psk());
    Ok(Made { session, next, payload })
}

/// By what a first message is recognised when it comes again.
pub(super) fn check<P: CryptoProvider, const N: usize>(provider: &P, parts: &[&[u8]]) -> [u8; N] {
    let mut check = [0; N];
    check.copy_from_slice(&provider.sha256(parts)[..N]);
    check
}

fn encode(frame: &Frame<'_>) -> Result<Vec<u8>, HandshakeError> {
    let mut octets = vec![0; constrained::MAX_HANDSHAKE];
    // No payload is longer than a handshake message takes: that is checked where it comes in.
    let len = frame.encode(&mut octets).map_err(|_| HandshakeError::Noise)?;
    octets.truncate(len);
    // It may be kept for hours.
    octets.shrink_to_fit();
    Ok(octets)
}

/// `length 1 | octets`: a handshake message is at most 243 octets long.
pub(super) fn put_short(out: &mut Vec<u8>, octets: &[u8]) {
    out.push(u8::try_from(octets.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(octets);
}

pub(super) fn take_short<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
) -> Result<&'a [u8], sealway_wire::DecodeError> {
    let len = reader.u8(field)?.into();
    reader.take(field, len)
}
