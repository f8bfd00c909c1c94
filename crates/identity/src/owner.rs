//! The own identity: makes statements with keys that stay in the vault.

use alloc::vec::Vec;
use core::fmt;

use sealway_vault::{
    Algorithm, CryptoProvider, DhHandle, KeyStore, Secret, SigningHandle, SigningKey, Vault, VaultError,
};
use sealway_wire::{DecodeError, IdentityId, handshake::IDENTITY_PAYLOAD_MAX};

use crate::{
    Attestation, Card, CardParts, History, IdentityError, PayloadParts, PrekeyParts, UnixTime, UnverifiedAttestation,
    UnverifiedHistory, card,
    cbor::{self, Items},
    cose,
    history::{self, Establishment, MAX_ROTATIONS, ROTATION},
    payload, prekey,
};

/// An identity whose keys are in a vault of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    history: History,
    attestation: Attestation,
    attestation_encoded: Vec<u8>,
    signing: SigningHandle,
}

/// The private key that may sign the next rotation. Keep it apart from the vault: in a file elsewhere, or on paper.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    algorithm: Algorithm,
    seed: Secret<32>,
}

impl Owner {
    /// Makes a new identity: its signing key and its channel key stay in `vault`, the key after it is returned.
    ///
    /// # Errors
    /// If the vault has no randomness.
    pub fn incept(vault: &mut impl KeyStore, algorithm: Algorithm) -> Result<(Self, RecoveryKey), IdentityError> {
        let signing = vault.generate_signing(algorithm)?;
        let (recovery, next) = RecoveryKey::generate(vault, algorithm)?;
        let inception = Establishment { key: vault.verifying_key(&signing)?, next };
        let history = History::incept(vault.provider(), inception);
        let channel = vault.generate_dh()?;
        let owner = Self::attest(vault, history, signing, &channel, 0, None)?;
        Ok((owner, recovery))
    }

    /// Moves to the key that the last event announced, attests a new channel key under it, and returns the key after it.
    /// The old signing key is wiped; the old channel key stays, for those who have an older card.
    ///
    /// # Errors
    /// [`IdentityError::History`] if `recovery` is not the announced key, or the identity has rotated four times.
    pub fn rotate(
        &self,
        vault: &mut impl KeyStore,
        recovery: &RecoveryKey,
    ) -> Result<(Self, RecoveryKey), IdentityError> {
        let event = usize::try_from(self.history.event_number()).unwrap_or(usize::MAX).saturating_add(1);
        let wrong = IdentityError::History { event };
        let signing = vault.import_signing(recovery.algorithm, &recovery.seed)?;
        let key = vault.verifying_key(&signing)?;
        if event > MAX_ROTATIONS || history::next_digest(vault.provider(), &key) != self.history.next_digest() {
            vault.remove_signing(&signing);
            return Err(wrong);
        }
        let (recovery, next) = RecoveryKey::generate(vault, recovery.algorithm)?;
        let to = Establishment { key, next };
        let payload = history::rotation_payload(&self.id(), event, self.history.last_event(), &to);
        let encoded = cose::sign(ROTATION, vault, &signing, &payload)?;
        let mut history = self.history.clone();
        history.rotate(vault.provider(), encoded, to);
        let channel = vault.generate_dh()?;
        let owner = Self::attest(vault, history, signing, &channel, 0, None)?;
        vault.remove_signing(&self.signing);
        Ok((owner, recovery))
    }

    fn attest(
        vault: &impl Vault,
        history: History,
        signing: SigningHandle,
        channel: &DhHandle,
        generation: u32,
        not_after: Option<UnixTime>,
    ) -> Result<Self, IdentityError> {
        let attestation = Attestation {
            subject: history.id(),
            event: history.event_number(),
            generation,
            channel_key: vault.dh_public(channel)?,
            not_after,
        };
        let attestation_encoded = attestation.sign(vault, &signing)?;
        Ok(Self { history, attestation, attestation_encoded, signing })
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.history.id()
    }

    /// Its events.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The attestation of its channel key.
    #[must_use]
    pub const fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// The handle of its channel key.
    #[must_use]
    pub const fn channel_key(&self) -> DhHandle {
        DhHandle(self.attestation.channel_key)
    }

    /// Signs a statement about a prekey, with the history: the octets that relays serve, at most 4096.
    ///
    /// # Errors
    /// If the vault refuses.
    pub fn prekey(&self, vault: &impl Vault, parts: &PrekeyParts) -> Result<Vec<u8>, IdentityError> {
        let subject = (self.history.encode(), self.id(), self.history.event_number());
        prekey::sign(vault, &self.signing, (&subject.0, &subject.1, subject.2), parts)
    }

    /// Signs a contact card.
    ///
    /// # Errors
    /// If an address is malformed, or the card would be longer than 4096 octets.
    pub fn card(&self, vault: &impl Vault, parts: &CardParts) -> Result<Card, IdentityError> {
        let payload = card::encode_payload(&self.history.encode(), &self.attestation_encoded, parts);
        let encoded = cose::sign(card::CARD, vault, &self.signing, &payload)?;
        Card::signed(self.history.clone(), self.attestation, parts, encoded)
    }

    /// The identity payload for one peer.
    ///
    /// # Errors
    /// [`IdentityError::TooLong`] above 1971 octets.
    pub fn payload(&self, parts: &PayloadParts) -> Result<Vec<u8>, IdentityError> {
        let payload = payload::encode(&self.history.encode(), &self.attestation_encoded, parts);
        let (limit, got) = (IDENTITY_PAYLOAD_MAX, payload.len());
        if got > limit {
            return Err(IdentityError::TooLong { statement: "identity payload", limit, got });
        }
        Ok(payload)
    }

    /// The public half, to be stored beside the vault's keys: `[history, attestation]`. Nothing in it is secret.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let history = self.history.encode();
        cbor::to_vec(|encoder| cbor::raw(encoder.array(2)?, &history).bytes(&self.attestation_encoded))
    }

    /// The identity that [`save`](Self::save) wrote, if its keys are in `vault`.
    ///
    /// # Errors
    /// If the octets are malformed, do not verify, or their keys are not there.
    pub fn load(vault: &impl Vault, octets: &[u8]) -> Result<Self, IdentityError> {
        let (history, attestation) = decode_saved(octets)?;
        let provider = vault.provider();
        let history = history.verify(provider)?;
        let attestation_encoded = attestation.as_bytes().to_vec();
        let attestation = attestation.verify(&history, provider)?;
        let signing = SigningHandle(provider.sha256(&[history.signing_key().as_bytes()]));
        vault.verifying_key(&signing)?;
        vault.dh_public(&DhHandle(attestation.channel_key))?;
        Ok(Self { history, attestation, attestation_encoded, signing })
    }
}

fn decode_saved(octets: &[u8]) -> Result<(UnverifiedHistory, UnverifiedAttestation), DecodeError> {
    let mut items = Items::new(octets);
    if items.array("saved identity", 2)? != 2 {
        return Err(cbor::malformed("saved identity"));
    }
    let history = UnverifiedHistory::decode(&mut items)?;
    let attestation = UnverifiedAttestation::decode(items.bytes("saved attestation")?)?;
    items.finish("saved identity")?;
    Ok((history, attestation))
}

impl RecoveryKey {
    fn generate(vault: &impl Vault, algorithm: Algorithm) -> Result<(Self, [u8; 32]), IdentityError> {
        let provider = vault.provider();
        loop {
            let seed = provider.random_secret().map_err(VaultError::from)?;
            // One P-256 seed in 2^32 is no key; the next one is.
            if let Ok(key) = provider.load_signing(algorithm, &seed) {
                let digest = history::next_digest(provider, &key.verifying_key());
                return Ok((Self { algorithm, seed }, digest));
            }
        }
    }

    /// `algorithm 1 | private key 32`, for the recovery file.
    ///
    /// # Security
    /// Whoever has these octets can take the identity over.
    #[must_use]
    pub fn expose(&self) -> Secret<33> {
        let mut octets = Secret::<33>::zero();
        let [algorithm, seed @ ..] = octets.expose_mut();
        *algorithm = match self.algorithm {
            Algorithm::Ed25519 => 1,
            Algorithm::P256 => 2,
        };
        seed.copy_from_slice(self.seed.expose());
        octets
    }

    /// The key that [`expose`](Self::expose) wrote.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] if the algorithm is none.
    pub fn from_secret(octets: &Secret<33>) -> Result<Self, VaultError> {
        let [algorithm, seed @ ..] = octets.expose();
        let algorithm = match algorithm {
            1 => Algorithm::Ed25519,
            2 => Algorithm::P256,
            _ => return Err(VaultError::Malformed),
        };
        Ok(Self { algorithm, seed: Secret::new(*seed) })
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryKey({:?}, ..)", self.algorithm)
    }
}
