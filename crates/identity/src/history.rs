//! The events of an identity: one inception, then at most four rotations.
//!
//! Each event names the digest of the key that may sign the next one (pre-rotation, as in KERI, draft-ssmith-keri-00
//! section 9). That next private key lives apart: whoever steals the vault cannot rotate.

use alloc::vec::Vec;

use sealway_vault::{Algorithm, CryptoProvider, VerifyingKey};
use sealway_wire::{DecodeError, IdentityId};

use crate::{
    IdentityError,
    cbor::{self, Items},
    cose::{self, Kind},
    label::{DOMAIN, label},
};

/// The most rotations of one identity.
pub const MAX_ROTATIONS: usize = 4;

pub(crate) const ROTATION: Kind = Kind { name: "rotation", limit: 256 };
const MAX_INCEPTION: usize = 96;

/// A key and the digest of the one after it: the inception event is exactly this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Establishment {
    pub(crate) key: VerifyingKey,
    pub(crate) next: [u8; 32],
}

impl Establishment {
    /// `[algorithm, key, next digest]`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        cbor::to_vec(|encoder| {
            encoder.array(3)?.u8(algorithm_code(self.key.algorithm()))?.bytes(self.key.as_bytes())?.bytes(&self.next)
        })
    }

    fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        if octets.len() > MAX_INCEPTION {
            let reason = sealway_wire::Reason::TooLong { limit: MAX_INCEPTION, got: octets.len() };
            return Err(DecodeError::new("inception", reason));
        }
        let mut items = Items::new(octets);
        if items.array("inception", 3)? != 3 {
            return Err(cbor::malformed("inception"));
        }
        let establishment = Self::decode_fields(&mut items)?;
        items.finish("inception")?;
        cbor::only_form("inception", octets, &establishment.encode())?;
        Ok(establishment)
    }

    fn decode_fields(items: &mut Items<'_>) -> Result<Self, DecodeError> {
        let algorithm = match items.number("identity algorithm")? {
            1 => Algorithm::Ed25519,
            2 => Algorithm::P256,
            value => return Err(DecodeError::new("identity algorithm", sealway_wire::Reason::Unknown { value })),
        };
        let key = items.bytes("identity key")?;
        let key = VerifyingKey::from_bytes(algorithm, key).ok_or(cbor::malformed("identity key"))?;
        Ok(Self { key, next: items.bytes_of("next key digest")? })
    }

    pub(crate) fn id(&self, provider: &impl CryptoProvider) -> IdentityId {
        IdentityId(provider.sha256(&[&label(DOMAIN, "inception"), &self.encode()]))
    }
}

const fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Ed25519 => 1,
        Algorithm::P256 => 2,
    }
}

/// What an event says of the key that may sign the next one.
pub(crate) fn next_digest(provider: &impl CryptoProvider, key: &VerifyingKey) -> [u8; 32] {
    provider.sha256(&[&label(DOMAIN, "next"), &[algorithm_code(key.algorithm())], key.as_bytes()])
}

/// The payload of a rotation: `[identity id, event number, hash of the previous event, algorithm, key, next digest]`.
pub(crate) fn rotation_payload(id: &IdentityId, number: usize, previous: &[u8; 32], to: &Establishment) -> Vec<u8> {
    cbor::to_vec(|encoder| {
        encoder
            .array(6)?
            .bytes(&id.0)?
            .u64(number as u64)?
            .bytes(previous)?
            .u8(algorithm_code(to.key.algorithm()))?
            .bytes(to.key.as_bytes())?
            .bytes(&to.next)
    })
}

/// The hash by which the next event names this one.
pub(crate) fn event_hash(provider: &impl CryptoProvider, event: &[u8]) -> [u8; 32] {
    provider.sha256(&[&label(DOMAIN, "event"), event])
}

/// Events as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedHistory {
    inception: Establishment,
    rotations: Vec<Vec<u8>>,
}

impl UnverifiedHistory {
    /// The id that these events claim: it costs one hash to check it against a policy, before any signature.
    #[must_use]
    pub fn id(&self, provider: &impl CryptoProvider) -> IdentityId {
        self.inception.id(provider)
    }

    pub(crate) fn decode(items: &mut Items<'_>) -> Result<Self, DecodeError> {
        let events = items.array("identity history", 1 + MAX_ROTATIONS)?;
        if events == 0 {
            return Err(cbor::malformed("identity history"));
        }
        let inception = Establishment::decode(items.bytes("inception")?)?;
        let rotations = (1..events).map(|_| items.bytes("rotation").map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        Ok(Self { inception, rotations })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.inception, &self.rotations)
    }

    /// Checks that each event follows from the one before it.
    ///
    /// # Errors
    /// [`IdentityError::History`] with the number of the first event that does not follow, or
    /// [`IdentityError::Signature`].
    pub fn verify(&self, provider: &impl CryptoProvider) -> Result<History, IdentityError> {
        let id = self.inception.id(provider);
        let mut current = self.inception;
        let mut previous = event_hash(provider, &self.inception.encode());
        for (index, rotation) in self.rotations.iter().enumerate() {
            let event = index + 1;
            let wrong = IdentityError::History { event };
            let signed = cose::Unverified::decode(ROTATION, rotation)?;
            let mut items = Items::new(signed.payload);
            if items.array("rotation", 6)? != 6 {
                return Err(cbor::malformed("rotation").into());
            }
            if items.bytes_of("rotation identity id")? != id.0
                || items.number("rotation event number")? != event as u64
                || items.bytes_of("rotation previous event")? != previous
            {
                return Err(wrong);
            }
            let to = Establishment::decode_fields(&mut items)?;
            items.finish("rotation")?;
            cbor::only_form("rotation", signed.payload, &rotation_payload(&id, event, &previous, &to))?;
            if next_digest(provider, &to.key) != current.next {
                return Err(wrong);
            }
            signed.verify(ROTATION, &to.key, provider)?;
            previous = event_hash(provider, rotation);
            current = to;
        }
        Ok(History { id, inception: self.inception, rotations: self.rotations.clone(), current, last: previous })
    }
}

fn encode(inception: &Establishment, rotations: &[Vec<u8>]) -> Vec<u8> {
    cbor::to_vec(|encoder| {
        encoder.array(1 + rotations.len() as u64)?.bytes(&inception.encode())?;
        rotations.iter().try_fold(encoder, |encoder, rotation| encoder.bytes(rotation))
    })
}

/// Events of which each follows from the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    id: IdentityId,
    inception: Establishment,
    rotations: Vec<Vec<u8>>,
    current: Establishment,
    /// Hash of the last event.
    last: [u8; 32],
}

impl History {
    pub(crate) fn incept(provider: &impl CryptoProvider, inception: Establishment) -> Self {
        let id = inception.id(provider);
        let last = event_hash(provider, &inception.encode());
        Self { id, inception, rotations: Vec::new(), current: inception, last }
    }

    pub(crate) fn rotate(&mut self, provider: &impl CryptoProvider, event: Vec<u8>, to: Establishment) {
        self.last = event_hash(provider, &event);
        self.rotations.push(event);
        self.current = to;
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.id
    }

    /// The key that signs its statements now.
    #[must_use]
    pub const fn signing_key(&self) -> VerifyingKey {
        self.current.key
    }

    /// The number of the last event: 0 after inception, one more for each rotation.
    #[must_use]
    pub fn event_number(&self) -> u32 {
        u32::try_from(self.rotations.len()).unwrap_or(u32::MAX)
    }

    pub(crate) const fn next_digest(&self) -> [u8; 32] {
        self.current.next
    }

    pub(crate) const fn last_event(&self) -> &[u8; 32] {
        &self.last
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.inception, &self.rotations)
    }
}
