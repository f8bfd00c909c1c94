//! Who a machine is, and what proves it.
//!
//! ```text
//! Owner (keys in a vault)                    anyone else
//! ------------------------                   -----------------------------------------
//! inception ─ rotation ─ ...   History  ───► UnverifiedHistory ──verify──► History
//! channel key, generation      Attestation                                 Attestation
//! all of it, with addresses    Card     ───► UnverifiedCard ─────verify──► Card
//! for one peer, in message 3   payload  ───► UnverifiedPayload ──verify──► Peer
//! a key to seal letters to     prekey   ───► UnverifiedPrekey ───verify──► Prekey
//! ```
//!
//! Only the unverified types decode, and only `verify` makes the verified ones: code that takes a [`Card`] or a [`Peer`]
//! cannot be handed anything else. Whether a verified peer may do something is another question, which [`Policy`] answers:
//! nobody may, unless it is named. There is no type, and no default, that means "trusted".
//!
//! Statements are deterministic CBOR (RFC 8949 section 4.2.1) in COSE_Sign1 (RFC 9052) with CWT claims (RFC 8392), each
//! kind under its own label. Protocol section 2.
//!
//! `no_std`, with `alloc`. No I/O and no clock: times are arguments.
//!
//! ```
//! use sealway_crypto_rustcrypto::RustCrypto;
//! use sealway_identity::{CardParts, Owner, UnverifiedCard};
//! use sealway_vault::{Algorithm, SoftwareVault, Vault};
//!
//! let mut vault = SoftwareVault::new(RustCrypto::os());
//! let (owner, _recovery) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
//! let card = owner.card(&vault, &CardParts::default())?;
//!
//! let received = UnverifiedCard::from_uri(&card.to_uri())?;
//! let verified = received.verify(vault.provider())?;
//! assert_eq!(verified.id(), owner.id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attestation;
mod card;
mod cbor;
mod cose;
mod error;
mod history;
mod label;
mod owner;
mod payload;
mod policy;
mod prekey;

pub use attestation::{Attestation, UnverifiedAttestation};
pub use card::{Card, CardParts, MAX_ADDRESSES, MAX_RELAYS, RelayEntry, UnverifiedCard};
pub use error::IdentityError;
pub use history::{History, MAX_ROTATIONS, UnverifiedHistory};
pub use label::label;
pub use owner::{Owner, RecoveryKey};
pub use payload::{Mailbox, PayloadParts, Peer, UnverifiedPayload};
pub use policy::{Decision, Policy};
pub use prekey::{Prekey, PrekeyParts, UnverifiedPrekey};
pub use sealway_wire::IdentityId;

/// Seconds since 1970-01-01T00:00:00Z, as its holder declares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);
