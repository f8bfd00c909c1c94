//! A prekey: a key of short life to which letters for its owner are sealed while the owner is away (as in X3DH, section 2.4).
//!
//! What a relay serves is `[history, statement]`; the statement's claims are `{-65537: identity id, -65538: event number,
//! -65540: sequence number, -65541: prekey id, -65542: X25519 key, ? -65543: ML-KEM-768 key}`. The history comes along, so
//! that whoever knows the identity needs nothing else to verify it.

use alloc::{boxed::Box, vec::Vec};

use sealway_vault::{CryptoProvider, PublicKey, SigningHandle, Vault};
use sealway_wire::{DecodeError, IdentityId, PrekeyId, Reason, hop::MAX_PUBLISHED};

use crate::{
    IdentityError, UnverifiedHistory,
    cbor::{self, Items},
    cose::{self, Kind},
};

const PREKEY: Kind = Kind { name: "prekey", limit: 2048 };
const SUBJECT: i64 = -65537;
const EVENT: i64 = -65538;
const SEQUENCE: i64 = -65540;
const ID: i64 = -65541;
const KEY: i64 = -65542;
const KEM: i64 = -65543;

/// What an owner says in a statement about a prekey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrekeyParts {
    /// Its place among the owner's prekeys: later ones have higher numbers.
    pub sequence: u64,
    /// By what letters name it.
    pub id: PrekeyId,
    /// The X25519 key.
    pub key: PublicKey,
    /// The ML-KEM-768 key, if it has one: without, what is recorded today is open to a quantum computer.
    pub kem: Option<Box<[u8; 1184]>>,
}

/// A prekey whose owner's signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prekey {
    owner: IdentityId,
    event: u32,
    parts: PrekeyParts,
}

impl Prekey {
    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> IdentityId {
        self.owner
    }

    /// Its place in the order of an identity's prekeys: event number, then sequence number. A lower one was replaced.
    #[must_use]
    pub const fn rank(&self) -> (u32, u64) {
        (self.event, self.parts.sequence)
    }

    /// What the statement says.
    #[must_use]
    pub const fn parts(&self) -> &PrekeyParts {
        &self.parts
    }
}

/// A prekey as a relay serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedPrekey {
    history: UnverifiedHistory,
    statement: Vec<u8>,
}

impl UnverifiedPrekey {
    /// Decodes what a relay serves, at most 4096 octets.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        const FIELD: &str = "published prekey";
        if octets.len() > MAX_PUBLISHED {
            let reason = Reason::TooLong { limit: MAX_PUBLISHED, got: octets.len() };
            return Err(DecodeError::new(FIELD, reason));
        }
        let mut items = Items::new(octets);
        if items.array(FIELD, 2)? != 2 {
            return Err(cbor::malformed(FIELD));
        }
        let history = UnverifiedHistory::decode(&mut items)?;
        let statement = items.bytes("prekey statement")?.to_vec();
        items.finish(FIELD)?;
        decode_claims(cose::Unverified::decode(PREKEY, &statement)?.payload)?;
        let prekey = Self { history, statement };
        cbor::only_form(FIELD, octets, &prekey.encode())?;
        Ok(prekey)
    }

    /// The octets that decode to it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.history.encode(), &self.statement)
    }

    /// Checks that `owner` signed it with the newest key of the history.
    ///
    /// # Errors
    /// [`IdentityError::Subject`] if it is another identity's, then whatever does not verify.
    pub fn verify(&self, provider: &impl CryptoProvider, owner: &IdentityId) -> Result<Prekey, IdentityError> {
        let foreign = IdentityError::Subject { statement: PREKEY.name };
        if self.history.id(provider) != *owner {
            return Err(foreign);
        }
        let history = self.history.verify(provider)?;
        let signed = cose::Unverified::decode(PREKEY, &self.statement)?;
        let (subject, event, parts) = decode_claims(signed.payload)?;
        if subject != *owner || event != history.event_number() {
            return Err(foreign);
        }
        signed.verify(PREKEY, &history.signing_key(), provider)?;
        Ok(Prekey { owner: *owner, event, parts })
    }
}

fn encode(history: &[u8], statement: &[u8]) -> Vec<u8> {
    cbor::to_vec(|encoder| cbor::raw(encoder.array(2)?, history).bytes(statement))
}

fn encode_claims(subject: &IdentityId, event: u32, parts: &PrekeyParts) -> Vec<u8> {
    cbor::to_vec(|encoder| {
        encoder.map(5 + u64::from(parts.kem.is_some()))?;
        encoder.i64(SUBJECT)?.bytes(&subject.0)?.i64(EVENT)?.u32(event)?;
        encoder.i64(SEQUENCE)?.u64(parts.sequence)?.i64(ID)?.bytes(&parts.id.0)?.i64(KEY)?.bytes(&parts.key)?;
        if let Some(kem) = &parts.kem {
            encoder.i64(KEM)?.bytes(kem.as_slice())?;
        }
        Ok(encoder)
    })
}

fn decode_claims(octets: &[u8]) -> Result<(IdentityId, u32, PrekeyParts), DecodeError> {
    const FIELD: &str = "prekey";
    let mut items = Items::new(octets);
    items.map(FIELD, 6)?;
    items.expect(FIELD, SUBJECT)?;
    let subject = IdentityId(items.bytes_of("prekey subject")?);
    items.expect(FIELD, EVENT)?;
    let event = items.number_u32("prekey event")?;
    items.expect(FIELD, SEQUENCE)?;
    let sequence = items.number("prekey sequence")?;
    items.expect(FIELD, ID)?;
    let id = PrekeyId(items.bytes_of("prekey id")?);
    items.expect(FIELD, KEY)?;
    let key = items.bytes_of("prekey X25519 key")?;
    let kem = if items.key_is(KEM) { Some(Box::new(items.bytes_of("prekey ML-KEM key")?)) } else { None };
    items.finish(FIELD)?;
    let parts = PrekeyParts { sequence, id, key, kem };
    cbor::only_form(FIELD, octets, &encode_claims(&subject, event, &parts))?;
    Ok((subject, event, parts))
}

/// Signs a statement about a prekey: the octets that a relay serves.
pub(crate) fn sign(
    vault: &impl Vault,
    signing: &SigningHandle,
    (history, subject, event): (&[u8], &IdentityId, u32),
    parts: &PrekeyParts,
) -> Result<Vec<u8>, IdentityError> {
    let statement = cose::sign(PREKEY, vault, signing, &encode_claims(subject, event, parts))?;
    Ok(encode(history, &statement))
}
