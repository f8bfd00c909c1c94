//! The keys and the name of a machine, in one file.

use std::{fmt, path::Path, sync::Arc};

use sealway_identity::{Card, CardParts, IdentityError, Owner, RecoveryKey, RelayEntry, UnverifiedCard};
use sealway_node::Keys;
use sealway_vault::{Algorithm, CryptoProvider, Vault, VaultError};
use sealway_vault_file::{FileVault, FileVaultError, Unlock};
use sealway_wire::{BoxName, DecodeError, IdentityId};

use crate::{Crypto, crypto};

const OWNER: &str = "identity";
const CONTACT_BOX: &str = "contact box";
const CARD: &str = "card";
const RELAYS: &str = "relays";

/// An identity, its keys in a file vault, its card, and the relays at which it is to be found.
pub struct Identity {
    vault: Arc<FileVault<Crypto>>,
    owner: Owner,
    contact_box: BoxName,
    card: Card,
    relays: Vec<Card>,
}

impl Identity {
    /// Makes a new identity and writes it to a new vault. `addresses` are where the machine itself listens, `relays` where
    /// it is attached: both go on its card.
    ///
    /// The recovery key is the only one that can rotate the identity: keep it elsewhere.
    ///
    /// # Errors
    /// If there is a file already, an address is malformed, or the vault cannot be written.
    pub fn create(
        path: &Path,
        unlock: Unlock,
        addresses: Vec<String>,
        relays: Vec<Card>,
    ) -> Result<(Self, RecoveryKey), IdentityFileError> {
        let mut vault = FileVault::create(path, unlock, crypto())?;
        let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
        let contact_box = BoxName(vault.provider().random().map_err(VaultError::from)?);
        let entry = |relay: &Card| RelayEntry {
            id: relay.id(),
            channel_key: relay.attestation().channel_key,
            contact_box,
            addresses: relay.addresses().to_vec(),
        };
        let parts = CardParts { sequence: 0, addresses, relays: relays.iter().map(entry).collect() };
        let card = owner.card(&vault, &parts)?;
        vault.set_document(OWNER, owner.save())?;
        vault.set_document(CONTACT_BOX, contact_box.0.to_vec())?;
        vault.set_document(CARD, card.as_bytes().to_vec())?;
        let lines: Vec<String> = relays.iter().map(Card::to_uri).collect();
        vault.set_document(RELAYS, lines.join("\n").into_bytes())?;
        vault.save()?;
        Ok((Self { vault: Arc::new(vault), owner, contact_box, card, relays }, recovery))
    }

    /// Opens the identity in a vault, which stays locked for this process as long as the identity, or a node of it, lives.
    ///
    /// # Errors
    /// If the vault does not open, or holds no identity.
    pub fn open(path: &Path, unlock: Unlock) -> Result<Self, IdentityFileError> {
        let vault = FileVault::open(path, unlock, crypto())?;
        let missing = |what| IdentityFileError::Missing { what };
        let owner = Owner::load(&vault, vault.document(OWNER).ok_or(missing(OWNER))?)?;
        let contact_box = vault.document(CONTACT_BOX).and_then(|name| name.try_into().ok());
        let contact_box = BoxName(contact_box.ok_or(missing(CONTACT_BOX))?);
        let card = UnverifiedCard::decode(vault.document(CARD).ok_or(missing(CARD))?)?.verify(vault.provider())?;
        let lines = vault.document(RELAYS).unwrap_or_default();
        let lines = std::str::from_utf8(lines).map_err(|_| missing(RELAYS))?;
        let relay = |line| Ok::<_, IdentityFileError>(UnverifiedCard::from_uri(line)?.verify(vault.provider())?);
        let relays = lines.lines().map(relay).collect::<Result<_, _>>()?;
        Ok(Self { vault: Arc::new(vault), owner, contact_box, card, relays })
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.owner.id()
    }

    /// Its card, for those who are to open a channel to it.
    #[must_use]
    pub const fn card(&self) -> &Card {
        &self.card
    }

    /// The relays at which it is to be found.
    #[must_use]
    pub fn relays(&self) -> &[Card] {
        &self.relays
    }

    /// Verifies a card of somebody.
    ///
    /// # Errors
    /// If a signature does not verify.
    pub fn verify(&self, card: &UnverifiedCard) -> Result<Card, IdentityError> {
        card.verify(self.vault.provider())
    }
}

impl Keys for Identity {
    type Vault = Arc<FileVault<Crypto>>;

    fn into_parts(self) -> (Self::Vault, Owner, Option<BoxName>) {
        (self.vault, self.owner, Some(self.contact_box))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Why an identity cannot be made or opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum IdentityFileError {
    /// The vault is at fault.
    Vault(FileVaultError),
    /// What is in it is at fault.
    Identity(IdentityError),
    /// The vault has no such document: it holds no identity.
    Missing {
        /// The document.
        what: &'static str,
    },
}

impl fmt::Display for IdentityFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault(error) => error.fmt(f),
            Self::Identity(error) => error.fmt(f),
            Self::Missing { what } => write!(f, "the vault holds no {what}: it was not made by `identity new`"),
        }
    }
}

impl std::error::Error for IdentityFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Vault(error) => Some(error),
            Self::Identity(error) => Some(error),
            Self::Missing { .. } => None,
        }
    }
}

impl From<FileVaultError> for IdentityFileError {
    fn from(error: FileVaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<IdentityError> for IdentityFileError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<DecodeError> for IdentityFileError {
    fn from(error: DecodeError) -> Self {
        Self::Identity(error.into())
    }
}

impl From<VaultError> for IdentityFileError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error.into())
    }
}
