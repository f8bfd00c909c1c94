//! The initiator's half of S1. Each step consumes the one before it: wrong order does not compile.
//!
//! ```text
//! AwaitingMessage2::begin ──S1.1──►
//!         │ handle_message2 ◄──S1.2──
//!         ▼
//!     Session, S1.3 ──────S1.3──►   (repeated by the endpoint until START opens)
//! ```

use alloc::{boxed::Box, vec, vec::Vec};

use sealway_identity::{Card, Owner, Peer, label};
use sealway_vault::{CryptoProvider, KemKey, Secret, Vault};
use sealway_wire::{
    Cid, Frame, Reader,
    handshake::{
        ENCAPSULATION_KEY_LEN, MESSAGE_1_COOKIE_LEN, MESSAGE_1_LEN, MESSAGE_3_OVERHEAD, Message1, Message2, Message3,
        NOISE_1_LEN, PAYLOAD_1_LEN, PAYLOAD_2_LEN, Retry,
    },
};
use snow::HandshakeState;
use subtle::ConstantTimeEq;

use crate::{
    FrameError, HandshakeError, Role,
    gate::{GateKey, KemSecrets},
    noise,
    schedule::{DOMAIN, SessionKey},
    session::Session,
};

/// Cookies for which one handshake sends S1.1 at once.
const MAX_COOKIES: u8 = 3;

/// What became of a cookie.
pub(crate) enum Taken {
    /// S1.1 is to be sent with it at once.
    AtOnce,
    /// S1.1 is sent with it when it is repeated anyway.
    WithTheNext,
    /// It is for another handshake, or known.
    Not,
}

/// S1.1 was sent.
pub(crate) struct AwaitingMessage2<V: Vault + Clone + 'static> {
    noise: noise::Handshake<V>,
    kem: <V::Provider as CryptoProvider>::KemKey,
    /// Our connection id.
    pub(crate) cid: Cid,
    peer: Peer,
    identity_payload: Vec<u8>,
    gate_key: GateKey,
    /// S1.1: a repetition is the same octets, but for gate and cookie if one was asked for.
    pub(crate) frame: Vec<u8>,
    cookies_taken: u8,
}

/// S1.3 was written.
pub(crate) struct Finished<V: Vault> {
    pub(crate) session: Session<V::Provider>,
    pub(crate) frame: Vec<u8>,
}

impl<V: Vault + Clone + 'static> AwaitingMessage2<V> {
    /// Begins a handshake with the identity on `card`.
    pub(crate) fn begin(
        vault: &V,
        owner: &Owner,
        card: &Card,
        cid: Cid,
        identity_payload: Vec<u8>,
    ) -> Result<Self, FrameError> {
        let provider = vault.provider();
        let (ephemeral, kem) = (provider.random_secret()?, provider.generate_kem()?);
        Self::begin_with(vault, owner, Peer::of_card(card, true), cid, identity_payload, (ephemeral, kem))
    }

    /// The same with the secrets given, which make S1.1 what it is: the seed of e, and the ML-KEM key.
    pub(crate) fn begin_with(
        vault: &V,
        owner: &Owner,
        peer: Peer,
        cid: Cid,
        identity_payload: Vec<u8>,
        (ephemeral, kem): (Secret<32>, <V::Provider as CryptoProvider>::KemKey),
    ) -> Result<Self, FrameError> {
        let provider = vault.provider();
        let remote = peer.attestation().channel_key;
        let prologue = prologue(peer.id().as_bytes());
        let setup = noise::Setup {
            pattern: noise::S1,
            role: Role::Initiator,
            prologue: &prologue,
            local: noise::Local::Vault(&owner.channel_key()),
            remote: Some(&remote),
            psk: None,
            ephemeral,
            known: None,
        };
        let mut noise = noise::build(vault, setup)?;
        let mut payload = [0; PAYLOAD_1_LEN];
        payload[..4].copy_from_slice(&cid.0); // then flags: 0
        if let Some(key) = payload.last_chunk_mut::<ENCAPSULATION_KEY_LEN>() {
            kem.encapsulation_key(key);
        }
        let mut message = [0; NOISE_1_LEN];
        noise.write_message(&payload, &mut message).map_err(HandshakeError::from)?;
        let gate_key = GateKey::new(provider, &remote);
        let unproved = Message1 { gate: &[0; 8], cookie: None, noise: &message };
        let gate = gate_key.gate(provider, &unproved);
        let mut frame = vec![0; MESSAGE_1_LEN];
        encode(&Frame::Message1(Message1 { gate: &gate, ..unproved }), &mut frame)?;
        Ok(Self { noise, kem, cid, peer, identity_payload, gate_key, frame, cookies_taken: 0 })
    }

    /// Puts the cookie of an S1.R into S1.1, if it is for this handshake.
    pub(crate) fn take_cookie(&mut self, provider: &V::Provider, retry: &Retry<'_>) -> Result<Taken, HandshakeError> {
        let Ok(Frame::Message1(sent)) = Frame::decode(&self.frame) else { return Ok(Taken::Not) };
        let proof = self.gate_key.retry_proof(provider, sent.ephemeral(), retry.cookie);
        if !bool::from(proof.ct_eq(retry.proof)) || sent.cookie == Some(retry.cookie) {
            return Ok(Taken::Not);
        }
        let unproved = Message1 { gate: &[0; 8], cookie: Some(retry.cookie), noise: sent.noise };
        let gate = self.gate_key.gate(provider, &unproved);
        let mut frame = vec![0; MESSAGE_1_COOKIE_LEN];
        encode(&Frame::Message1(Message1 { gate: &gate, ..unproved }), &mut frame)?;
        self.frame = frame;
        self.cookies_taken = self.cookies_taken.saturating_add(1);
        // Whoever holds the card and sees S1.1 must not make us send without end, nor have the genuine cookie refused.
        Ok(if self.cookies_taken <= MAX_COOKIES { Taken::AtOnce } else { Taken::WithTheNext })
    }

    /// Reads S1.2 and writes S1.3. On an error the handshake goes on: the frame may have been forged.
    pub(crate) fn handle_message2(
        mut self: Box<Self>,
        vault: &V,
        message: &Message2<'_>,
    ) -> Result<Finished<V>, (Box<Self>, HandshakeError)> {
        match self.read(vault, message) {
            Ok((secrets, remote)) => {
                let provider = vault.provider();
                let finished = finish(
                    provider,
                    &mut self.noise,
                    &secrets,
                    remote,
                    self.cid,
                    self.peer.clone(),
                    &self.identity_payload,
                );
                finished.map_err(|error| (self, error))
            }
            Err(error) => Err((self, error)),
        }
    }

    fn read(&mut self, vault: &V, message: &Message2<'_>) -> Result<(KemSecrets, Cid), HandshakeError> {
        let mut payload = [0; PAYLOAD_2_LEN];
        self.noise.read_message(message.noise, &mut payload)?;
        let mut reader = Reader::new(&payload);
        let remote = Cid(reader.array("S1.2 CID").map_err(HandshakeError::Payload)?);
        let ciphertext = reader.array("S1.2 ciphertext").map_err(HandshakeError::Payload)?;
        let shared = self.kem.decapsulate(&ciphertext);
        let h2 = noise::transcript_hash(&self.noise)?;
        let secrets = KemSecrets::derive(vault.provider(), &shared, &h2)?;
        self.noise.set_psk(3, secrets.psk.expose())?;
        Ok((secrets, remote))
    }
}

fn finish<P: CryptoProvider, V: Vault<Provider = P>>(
    provider: &P,
    noise: &mut HandshakeState,
    secrets: &KemSecrets,
    remote: Cid,
    local: Cid,
    peer: Peer,
    identity_payload: &[u8],
) -> Result<Finished<V>, HandshakeError> {
    let mut message = vec![0; 64 + identity_payload.len()];
    noise.write_message(identity_payload, &mut message)?;
    let proof = secrets.proof(provider, &remote.0, &message);
    let mut frame = vec![0; MESSAGE_3_OVERHEAD + identity_payload.len()];
    encode(&Frame::Message3(Message3 { cid: remote, proof: &proof, noise: &message }), &mut frame)?;
    let transcript = noise::transcript_hash(noise)?;
    let keys = noise::raw_split(noise)?;
    let session_key = SessionKey::extract(provider, DOMAIN, &transcript, &keys);
    let session = Session::new(&session_key, Role::Initiator, local, remote, peer);
    Ok(Finished { session, frame })
}

/// label(S1, prologue) || responder id.
pub(crate) fn prologue(responder: &[u8; 32]) -> Vec<u8> {
    let mut prologue = label(DOMAIN, "prologue");
    prologue.extend_from_slice(responder);
    prologue
}

pub(crate) fn encode(frame: &Frame<'_>, out: &mut [u8]) -> Result<(), HandshakeError> {
    // Buffers here have the exact lengths of their frames.
    frame.encode(out).map(drop).map_err(|_| HandshakeError::Noise)
}
