//! An identity's word for a channel key: the X25519 key that its handshakes prove.
//!
//! CWT claims (RFC 8392): `{? 4: not after, 8: {1: {1: 1, -1: 4, -2: key}}, -65537: identity id, -65538: event number,
//! -65539: generation}`. Claim 8 is the confirmation key of RFC 8747, an OKP key on X25519 (RFC 9053 section 7.2).

use alloc::vec::Vec;

use sealway_vault::{CryptoProvider, PublicKey, SigningHandle, Vault};
use sealway_wire::{DecodeError, IdentityId};

use crate::{
    History, IdentityError, UnixTime,
    cbor::{self, Items},
    cose::{self, Kind},
};

pub(crate) const ATTESTATION: Kind = Kind { name: "attestation", limit: 256 };

const NOT_AFTER: i64 = 4;
const CONFIRMATION: i64 = 8;
const SUBJECT: i64 = -65537;
const EVENT: i64 = -65538;
const GENERATION: i64 = -65539;

/// A channel key of one identity. Later ones, by event number and then generation, replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The identity.
    pub subject: IdentityId,
    /// The event of its history whose key signed this.
    pub event: u32,
    /// Which channel key since that event, upward from 0.
    pub generation: u32,
    /// The channel key.
    pub channel_key: PublicKey,
    /// When it ends, if it does.
    pub not_after: Option<UnixTime>,
}

impl Attestation {
    pub(crate) fn encode_claims(&self) -> Vec<u8> {
        cbor::to_vec(|encoder| {
            encoder.map(4 + u64::from(self.not_after.is_some()))?;
            if let Some(UnixTime(seconds)) = self.not_after {
                encoder.i64(NOT_AFTER)?.u64(seconds)?;
            }
            encoder.i64(CONFIRMATION)?.map(1)?.u8(1)?;
            encoder.map(3)?.u8(1)?.u8(1)?.i8(-1)?.u8(4)?.i8(-2)?.bytes(&self.channel_key)?;
            encoder.i64(SUBJECT)?.bytes(&self.subject.0)?;
            encoder.i64(EVENT)?.u32(self.event)?.i64(GENERATION)?.u32(self.generation)
        })
    }

    pub(crate) fn decode_claims(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut items = Items::new(octets);
        items.map("attestation", 5)?;
        let not_after = if items.key_is(NOT_AFTER) { Some(UnixTime(items.number("attestation end")?)) } else { None };
        items.expect("attestation", CONFIRMATION)?;
        items.map("attestation confirmation", 1)?;
        items.expect("attestation confirmation", 1)?;
        items.map("attestation key", 3)?;
        for constant in [1, 1, -1, 4, -2] {
            items.expect("attestation key", constant)?;
        }
        let channel_key = items.bytes_of("attestation key")?;
        items.expect("attestation", SUBJECT)?;
        let subject = IdentityId(items.bytes_of("attestation subject")?);
        items.expect("attestation", EVENT)?;
        let event = items.number_u32("attestation event")?;
        items.expect("attestation", GENERATION)?;
        let generation = items.number_u32("attestation generation")?;
        items.finish("attestation")?;
        let attestation = Self { subject, event, generation, channel_key, not_after };
        cbor::only_form("attestation", octets, &attestation.encode_claims())?;
        Ok(attestation)
    }

    pub(crate) fn sign(&self, vault: &impl Vault, handle: &SigningHandle) -> Result<Vec<u8>, IdentityError> {
        cose::sign(ATTESTATION, vault, handle, &self.encode_claims())
    }

    /// Its place in the order of attestations of one identity.
    #[must_use]
    pub const fn rank(&self) -> (u32, u32) {
        (self.event, self.generation)
    }

    /// Whether it still holds at `now`. Without a clock it does; the context of the channel says that none was there.
    ///
    /// # Errors
    /// [`IdentityError::Expired`].
    pub fn holds_at(&self, now: Option<UnixTime>) -> Result<(), IdentityError> {
        match (self.not_after, now) {
            (Some(end), Some(now)) if now > end => Err(IdentityError::Expired),
            _ => Ok(()),
        }
    }
}

/// An attestation as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedAttestation(Vec<u8>);

impl UnverifiedAttestation {
    pub(crate) fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let signed = cose::Unverified::decode(ATTESTATION, octets)?;
        Attestation::decode_claims(signed.payload)?;
        Ok(Self(octets.to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The channel key that it speaks of, before anything is verified.
    pub(crate) fn claimed_key(&self) -> Result<PublicKey, DecodeError> {
        let signed = cose::Unverified::decode(ATTESTATION, &self.0)?;
        Ok(Attestation::decode_claims(signed.payload)?.channel_key)
    }

    /// Checks that the newest key of `history` signed it.
    ///
    /// # Errors
    /// [`IdentityError::Subject`] if it speaks of another identity or event, [`IdentityError::Signature`].
    pub fn verify(&self, history: &History, provider: &impl CryptoProvider) -> Result<Attestation, IdentityError> {
        let signed = cose::Unverified::decode(ATTESTATION, &self.0)?;
        let attestation = Attestation::decode_claims(signed.payload)?;
        if attestation.subject != history.id() || attestation.event != history.event_number() {
            return Err(IdentityError::Subject { statement: ATTESTATION.name });
        }
        signed.verify(ATTESTATION, &history.signing_key(), provider)?;
        Ok(attestation)
    }
}
