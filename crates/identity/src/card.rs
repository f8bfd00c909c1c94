//! Contact cards: what somebody needs to open a channel to an identity. One signed statement over all its parts.
//!
//! Payload: `{1: history, 2: attestation, 3: profiles, 4: sequence number, 5: [address*], 6: [relay*]}`, a relay being
//! `[relay id, relay channel key, contact box, [address*]]`. As text `sealway:` and the statement in base64url without
//! padding (RFC 4648 section 5).

use alloc::{string::String, string::ToString, vec::Vec};
use core::fmt;

use data_encoding::BASE64URL_NOPAD;
use sealway_vault::{Algorithm, CryptoProvider, PublicKey};
use sealway_wire::{Address, BoxName, DecodeError, IdentityId, Reason};

use crate::{
    Attestation, History, IdentityError, UnverifiedAttestation, UnverifiedHistory,
    cbor::{self, Items},
    cose::{self, Kind},
};

/// The most addresses of one identity or relay in a card.
pub const MAX_ADDRESSES: usize = 4;
/// The most relays in a card.
pub const MAX_RELAYS: usize = 4;

pub(crate) const CARD: Kind = Kind { name: "card", limit: 4096 };
const SCHEME: &str = "sealway:";
/// The profiles of this version: S1.
const S1: u8 = 1;

/// A relay at which the owner of a card can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayEntry {
    /// The relay's identity.
    pub id: IdentityId,
    /// The relay's channel key.
    pub channel_key: PublicKey,
    /// The box for those who hold this card.
    pub contact_box: BoxName,
    /// Where the relay listens: `tcp://host:port`, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
}

/// What the owner puts on a card, beside what follows from the identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardParts {
    /// Cards of one identity replace each other by event number and then by this.
    pub sequence: u32,
    /// Where the owner itself listens, if it does.
    pub addresses: Vec<String>,
    /// Where the owner is attached, best first.
    pub relays: Vec<RelayEntry>,
}

impl CardParts {
    fn check(&self) -> Result<(), DecodeError> {
        if self.relays.len() > MAX_RELAYS {
            let reason = Reason::TooMany { limit: MAX_RELAYS, got: self.relays.len() };
            return Err(DecodeError::new("card relays", reason));
        }
        check_addresses(&self.addresses)?;
        self.relays.iter().try_for_each(|relay| check_addresses(&relay.addresses))
    }
}

fn check_addresses(addresses: &[String]) -> Result<(), DecodeError> {
    if addresses.len() > MAX_ADDRESSES {
        let reason = Reason::TooMany { limit: MAX_ADDRESSES, got: addresses.len() };
        return Err(DecodeError::new("card addresses", reason));
    }
    // A serial line of the one machine is none of the other.
    let is_public = |address: Address<'_>| address.is_public().then_some(());
    let is_wrong = DecodeError::new("address scheme", Reason::Malformed);
    addresses.iter().try_for_each(|address| is_public(Address::parse(address)?).ok_or(is_wrong))
}

/// A card whose signatures nobody has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedCard {
    history: UnverifiedHistory,
    attestation: UnverifiedAttestation,
    parts: CardParts,
    /// The statement, as received.
    encoded: Vec<u8>,
}

impl UnverifiedCard {
    /// Decodes a card.
    ///
    /// # Errors
    /// Names the field that is not as it must be.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let signed = cose::Unverified::decode(CARD, octets)?;
        let mut items = Items::new(signed.payload);
        items.map("card", 6)?;
        items.expect("card", 1)?;
        let history = UnverifiedHistory::decode(&mut items)?;
        items.expect("card", 2)?;
        let attestation = UnverifiedAttestation::decode(items.bytes("card attestation")?)?;
        items.expect("card", 3)?;
        items.array("card profiles", 1)?;
        items.expect("card profiles", S1.into())?;
        items.expect("card", 4)?;
        let sequence = items.number_u32("card sequence number")?;
        items.expect("card", 5)?;
        let addresses = decode_addresses(&mut items)?;
        items.expect("card", 6)?;
        let count = items.array("card relays", MAX_RELAYS)?;
        let relays = (0..count).map(|_| decode_relay(&mut items)).collect::<Result<_, _>>()?;
        items.finish("card")?;
        let parts = CardParts { sequence, addresses, relays };
        parts.check()?;
        cbor::only_form("card", signed.payload, &encode_payload(&history.encode(), attestation.as_bytes(), &parts))?;
        Ok(Self { history, attestation, parts, encoded: octets.to_vec() })
    }

    /// Decodes the text form; white space around it is ignored.
    ///
    /// # Errors
    /// `card URI` if it is not `sealway:` and base64url, else as [`decode`](Self::decode).
    pub fn from_uri(text: &str) -> Result<Self, DecodeError> {
        const FIELD: &str = "card URI";
        let body = text.trim().strip_prefix(SCHEME).ok_or(cbor::malformed(FIELD))?;
        let limit = CARD.limit * 4 / 3 + 4;
        if body.len() > limit {
            return Err(DecodeError::new(FIELD, Reason::TooLong { limit, got: body.len() }));
        }
        let octets = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| cbor::malformed(FIELD))?;
        Self::decode(&octets)
    }

    /// The octets that were decoded.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// Verifies history, attestation and card.
    ///
    /// # Errors
    /// The first that does not verify.
    pub fn verify(&self, provider: &impl CryptoProvider) -> Result<Card, IdentityError> {
        let history = self.history.verify(provider)?;
        let attestation = self.attestation.verify(&history, provider)?;
        cose::Unverified::decode(CARD, &self.encoded)?.verify(CARD, &history.signing_key(), provider)?;
        Ok(Card { history, attestation, parts: self.parts.clone(), encoded: self.encoded.clone() })
    }
}

fn decode_addresses(items: &mut Items<'_>) -> Result<Vec<String>, DecodeError> {
    let count = items.array("card addresses", MAX_ADDRESSES)?;
    (0..count).map(|_| items.text("card address").map(ToString::to_string)).collect()
}

fn decode_relay(items: &mut Items<'_>) -> Result<RelayEntry, DecodeError> {
    if items.array("card relay", 4)? != 4 {
        return Err(cbor::malformed("card relay"));
    }
    Ok(RelayEntry {
        id: IdentityId(items.bytes_of("card relay id")?),
        channel_key: items.bytes_of("card relay key")?,
        contact_box: BoxName(items.bytes_of("card contact box")?),
        addresses: decode_addresses(items)?,
    })
}

pub(crate) fn encode_payload(history: &[u8], attestation: &[u8], parts: &CardParts) -> Vec<u8> {
    cbor::to_vec(|encoder| {
        encoder.map(6)?.u8(1)?;
        cbor::raw(encoder, history).u8(2)?.bytes(attestation)?;
        encoder.u8(3)?.array(1)?.u8(S1)?.u8(4)?.u32(parts.sequence)?.u8(5)?.array(parts.addresses.len() as u64)?;
        parts.addresses.iter().try_for_each(|address| encoder.str(address).map(drop))?;
        encoder.u8(6)?.array(parts.relays.len() as u64)?;
        for relay in &parts.relays {
            encoder.array(4)?.bytes(&relay.id.0)?.bytes(&relay.channel_key)?.bytes(&relay.contact_box.0)?;
            encoder.array(relay.addresses.len() as u64)?;
            relay.addresses.iter().try_for_each(|address| encoder.str(address).map(drop))?;
        }
        Ok(encoder)
    })
}

/// A card whose signatures hold: an identity, its channel key, and where to find it.
///
/// That it verifies says who it speaks of; whether to talk to them is for [`Policy`](crate::Policy).
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    history: History,
    attestation: Attestation,
    parts: CardParts,
    encoded: Vec<u8>,
}

impl Card {
    pub(crate) fn signed(
        history: History,
        attestation: Attestation,
        parts: &CardParts,
        encoded: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        parts.check()?;
        Ok(Self { history, attestation, parts: parts.clone(), encoded })
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.history.id()
    }

    /// Its attested channel key.
    #[must_use]
    pub const fn attestation(&self) -> &Attestation {
        &self.attestation
    }

    /// Its place in the order of cards of one identity.
    #[must_use]
    pub fn rank(&self) -> (u32, u32) {
        (self.history.event_number(), self.parts.sequence)
    }

    /// The algorithm with which the identity signs: a property of it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.history.signing_key().algorithm()
    }

    /// Where the identity itself listens.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.parts.addresses
    }

    /// Where it is attached, best first.
    #[must_use]
    pub fn relays(&self) -> &[RelayEntry] {
        &self.parts.relays
    }

    /// The signed statement.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// The card as text: `sealway:` and base64url.
    #[must_use]
    pub fn to_uri(&self) -> String {
        let mut text = String::from(SCHEME);
        text.push_str(&BASE64URL_NOPAD.encode(&self.encoded));
        text
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Card").field("id", &self.id()).field("rank", &self.rank()).finish_non_exhaustive()
    }
}
