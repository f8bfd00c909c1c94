//! What an initiator says of itself inside message 3: `{1: history, 2: attestation, 3: [credential*], ? 4: mailbox}`, a
//! mailbox being `[relay id, box]`.

use alloc::{vec, vec::Vec};

use sealway_vault::{CryptoProvider, PublicKey};
use sealway_wire::{BoxName, DecodeError, IdentityId, Reason, handshake::IDENTITY_PAYLOAD_MAX};

use crate::{
    Attestation, IdentityError, Policy, UnixTime, UnverifiedAttestation, UnverifiedHistory,
    cbor::{self, Items},
};

/// The most credentials in one identity payload.
const MAX_CREDENTIALS: usize = 4;

/// Where frames for the sender of a payload can be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The relay.
    pub relay: IdentityId,
    /// The box for this peer.
    pub name: BoxName,
}

/// What an owner tells one peer, beside what follows from the identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayloadParts {
    /// Credentials, encoded. None are issued in this version.
    pub credentials: Vec<Vec<u8>>,
    /// The mailbox for this peer.
    pub mailbox: Option<Mailbox>,
}

/// An identity payload that nobody has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedPayload {
    history: UnverifiedHistory,
    attestation: UnverifiedAttestation,
    parts: PayloadParts,
}

impl UnverifiedPayload {
    /// Decodes a payload, at most 1971 octets.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        const FIELD: &str = "identity payload";
        if octets.len() > IDENTITY_PAYLOAD_MAX {
            let reason = Reason::TooLong { limit: IDENTITY_PAYLOAD_MAX, got: octets.len() };
            return Err(DecodeError::new(FIELD, reason));
        }
        let mut items = Items::new(octets);
        items.map(FIELD, 4)?;
        items.expect(FIELD, 1)?;
        let history = UnverifiedHistory::decode(&mut items)?;
        items.expect(FIELD, 2)?;
        let attestation = UnverifiedAttestation::decode(items.bytes("payload attestation")?)?;
        items.expect(FIELD, 3)?;
        let count = items.array("payload credentials", MAX_CREDENTIALS)?;
        let credentials =
            (0..count).map(|_| items.bytes("payload credential").map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        let mailbox = if items.key_is(4) { Some(decode_mailbox(&mut items)?) } else { None };
        items.finish(FIELD)?;
        let parts = PayloadParts { credentials, mailbox };
        let payload = Self { history, attestation, parts };
        cbor::only_form(FIELD, octets, &payload.encode())?;
        Ok(payload)
    }

    /// The octets that decode to this payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.history.encode(), self.attestation.as_bytes(), &self.parts)
    }

    /// Decides whether `channel_key`, which the handshake has proved, belongs to an identity that `policy` admits.
    ///
    /// The id is checked against the policy first: a stranger costs one hash. `known` is the highest rank of an
    /// attestation of this identity seen so far, from a card or an earlier channel. `now` is a clock that its owner
    /// declares good, if there is one.
    ///
    /// # Errors
    /// [`IdentityError::NotAdmitted`], then whatever does not verify.
    pub fn verify(
        &self,
        provider: &impl CryptoProvider,
        channel_key: &PublicKey,
        policy: &Policy,
        known: impl FnOnce(&IdentityId) -> Option<(u32, u32)>,
        now: Option<UnixTime>,
    ) -> Result<Peer, IdentityError> {
        let id = self.history.id(provider);
        if !policy.decide(&id).is_allow() {
            return Err(IdentityError::NotAdmitted);
        }
        // Before any signature: whoever repeats somebody else's statements under a key of his own buys nothing.
        if self.attestation.claimed_key()? != *channel_key {
            return Err(IdentityError::ChannelKey);
        }
        let history = self.history.verify(provider)?;
        let attestation = self.attestation.verify(&history, provider)?;
        if known(&id).is_some_and(|known| attestation.rank() < known) {
            return Err(IdentityError::Superseded);
        }
        attestation.holds_at(now)?;
        Ok(Peer { attestation, mailbox: self.parts.mailbox, unclocked: now.is_none() })
    }

    /// Decides whether the channel key that the payload names is one of `id`: for who has it before any handshake has proved it.
    /// `known` and `now` are as for [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`IdentityError::Subject`] if it is another identity's payload, then whatever does not verify.
    pub fn verify_key(
        &self,
        provider: &impl CryptoProvider,
        id: &IdentityId,
        known: Option<(u32, u32)>,
        now: Option<UnixTime>,
    ) -> Result<Attestation, IdentityError> {
        if self.history.id(provider) != *id {
            return Err(IdentityError::Subject { statement: "identity payload" });
        }
        let history = self.history.verify(provider)?;
        let attestation = self.attestation.verify(&history, provider)?;
        if known.is_some_and(|known| attestation.rank() < known) {
            return Err(IdentityError::Superseded);
        }
        attestation.holds_at(now)?;
        Ok(attestation)
    }
}

fn decode_mailbox(items: &mut Items<'_>) -> Result<Mailbox, DecodeError> {
    if items.array("payload mailbox", 2)? != 2 {
        return Err(cbor::malformed("payload mailbox"));
    }
    let relay = IdentityId(items.bytes_of("payload relay id")?);
    Ok(Mailbox { relay, name: BoxName(items.bytes_of("payload box")?) })
}

pub(crate) fn encode(history: &[u8], attestation: &[u8], parts: &PayloadParts) -> Vec<u8> {
    cbor::to_vec(|encoder| {
        encoder.map(3 + u64::from(parts.mailbox.is_some()))?.u8(1)?;
        cbor::raw(encoder, history).u8(2)?.bytes(attestation)?;
        encoder.u8(3)?.array(parts.credentials.len() as u64)?;
        parts.credentials.iter().try_for_each(|credential| encoder.bytes(credential).map(drop))?;
        if let Some(mailbox) = &parts.mailbox {
            encoder.u8(4)?.array(2)?.bytes(&mailbox.relay.0)?.bytes(&mailbox.name.0)?;
        }
        Ok(encoder)
    })
}

/// An identity whose hold of its channel key a handshake and its own signatures have proved, and that policy admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    attestation: Attestation,
    mailbox: Option<Mailbox>,
    unclocked: bool,
}

impl Peer {
    /// The peer of an initiator: the card's identity, whose channel key the handshake has proved.
    #[must_use]
    pub fn of_card(card: &crate::Card, unclocked: bool) -> Self {
        Self { attestation: *card.attestation(), mailbox: None, unclocked }
    }

    /// The octets that [`from_saved`](Self::from_saved) takes: for state that its owner seals and keeps.
    #[must_use]
    pub fn to_saved(&self) -> Vec<u8> {
        cbor::to_vec(|encoder| {
            let mailbox = self.mailbox.as_ref();
            encoder.array(if mailbox.is_some() { 4 } else { 2 })?;
            encoder.bytes(&self.attestation.encode_claims())?.u8(u8::from(self.unclocked))?;
            if let Some(mailbox) = mailbox {
                encoder.bytes(&mailbox.relay.0)?.bytes(&mailbox.name.0)?;
            }
            Ok(encoder)
        })
    }

    /// A peer that was verified before. `octets` have to be authentic: nothing here is signed.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn from_saved(octets: &[u8]) -> Result<Self, DecodeError> {
        const FIELD: &str = "saved peer";
        let mut items = Items::new(octets);
        let count = items.array(FIELD, 4)?;
        let attestation = Attestation::decode_claims(items.bytes("saved attestation")?)?;
        let unclocked = items.number("saved clock")? != 0;
        let mailbox = match count {
            2 => None,
            4 => {
                let relay = IdentityId(items.bytes_of("saved relay id")?);
                Some(Mailbox { relay, name: BoxName(items.bytes_of("saved box")?) })
            }
            _ => return Err(cbor::malformed(FIELD)),
        };
        items.finish(FIELD)?;
        Ok(Self { attestation, mailbox, unclocked })
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.attestation.subject
    }

    /// The attestation of its channel key.
    #[must_use]
    pub const fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// Where frames for it can be left.
    #[must_use]
    pub const fn mailbox(&self) -> Option<Mailbox> {
        self.mailbox
    }

    /// Whether the end of the attestation was judged without a clock.
    #[must_use]
    pub const fn is_unclocked(&self) -> bool {
        self.unclocked
    }
}

impl PayloadParts {
    /// A payload that names a mailbox and has no credentials.
    #[must_use]
    pub const fn with_mailbox(mailbox: Mailbox) -> Self {
        Self { credentials: vec![], mailbox: Some(mailbox) }
    }
}
