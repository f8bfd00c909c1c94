//! The keys and the name of a machine, in one file.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sealway_identity::{Card, CardParts, IdentityError, Owner, RecoveryKey, RelayEntry, UnverifiedCard};
use sealway_node::Keys;
use sealway_vault::{Algorithm, CryptoProvider, DhHandle, KeyStore, Vault, VaultError};
use sealway_vault_file::{FileVault, FileVaultError, Unlock};
use sealway_wire::{BoxName, DecodeError, IdentityId, Timestamp};

use crate::{Crypto, crypto};

const OWNER: &str = "identity";
const CONTACT_BOX: &str = "contact box";
const CARD: &str = "card";
const RELAYS: &str = "relays";
/// The channel key before the present one, and until when it answers: `key 32 | seconds since 1970, 8`.
const EARLIER: &str = "earlier channel key";
/// How long it answers.
const EARLIER_ANSWERS: Duration = Duration::from_secs(14 * 24 * 60 * 60);

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
        let card = owner.card(&vault, &card_parts(0, addresses, &relays, contact_box))?;
        vault.set_document(OWNER, owner.save())?;
        vault.set_document(CONTACT_BOX, contact_box.0.to_vec())?;
        set_card(&mut vault, &card, &relays)?;
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

    /// Moves the identity to the key that was announced, with a new channel key and a new card. The old channel key answers
    /// those who hold the old card for 14 days more.
    ///
    /// `keep` is handed the next recovery key before anything is written: if it cannot keep it, nothing changes.
    ///
    /// # Errors
    /// [`IdentityFileError::Identity`] if `recovery` is not the announced key, or the identity has rotated four times;
    /// [`IdentityFileError::InUse`] if a node runs under the identity; if the vault cannot be written.
    pub fn rotate<E>(
        self,
        recovery: &RecoveryKey,
        keep: impl FnOnce(&RecoveryKey) -> Result<(), E>,
    ) -> Result<Result<Self, E>, IdentityFileError> {
        let Self { vault, owner, contact_box, card, relays } = self;
        let mut vault = Arc::try_unwrap(vault).map_err(|_| IdentityFileError::InUse)?;
        let before = owner.channel_key();
        let (owner, next) = owner.rotate(&mut vault, recovery)?;
        let parts = card_parts(0, card.addresses().to_vec(), &relays, contact_box);
        let card = owner.card(&vault, &parts)?;
        let until = since_1970().saturating_add(EARLIER_ANSWERS.as_secs());
        // One at a time: the key before that one is gone.
        if let Some((earlier, _)) = vault.document(EARLIER).and_then(|document| document.split_first_chunk()) {
            vault.remove_dh(&DhHandle(*earlier));
        }
        vault.set_document(EARLIER, [before.0.as_slice(), &until.to_be_bytes()].concat())?;
        vault.set_document(OWNER, owner.save())?;
        set_card(&mut vault, &card, &relays)?;
        if let Err(error) = keep(&next) {
            return Ok(Err(error));
        }
        vault.save()?;
        Ok(Ok(Self { vault: Arc::new(vault), owner, contact_box, card, relays }))
    }

    /// Makes a new card with other addresses, or other relays, or a newer card of one of them; what is None stays. Whoever has
    /// the old card keeps reaching the machine where that says, as long as it is there.
    ///
    /// # Errors
    /// [`IdentityFileError::OlderCard`] if a relay's card is older than the one that is known;
    /// [`IdentityFileError::InUse`] if a node runs under the identity; if an address is malformed, or the vault cannot be
    /// written.
    pub fn renew_card(
        self,
        addresses: Option<Vec<String>>,
        relays: Option<Vec<Card>>,
    ) -> Result<Self, IdentityFileError> {
        let Self { vault, owner, contact_box, card, relays: known } = self;
        let mut vault = Arc::try_unwrap(vault).map_err(|_| IdentityFileError::InUse)?;
        let relays = relays.unwrap_or_else(|| known.clone());
        let is_older = |new: &&Card| known.iter().any(|old| old.id() == new.id() && old.rank() > new.rank());
        if let Some(older) = relays.iter().find(is_older) {
            return Err(IdentityFileError::OlderCard { relay: older.id() });
        }
        let addresses = addresses.unwrap_or_else(|| card.addresses().to_vec());
        let sequence = card.rank().1.checked_add(1).ok_or(IdentityFileError::Exhausted)?;
        let card = owner.card(&vault, &card_parts(sequence, addresses, &relays, contact_box))?;
        set_card(&mut vault, &card, &relays)?;
        vault.save()?;
        Ok(Self { vault: Arc::new(vault), owner, contact_box, card, relays })
    }

    /// How often it has rotated, and how often it still can: at most four times in all.
    #[must_use]
    pub fn rotations(&self) -> u32 {
        self.owner.history().event_number()
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

    fn earlier_key(&self) -> Option<(DhHandle, Timestamp)> {
        let (key, until) = self.vault.document(EARLIER)?.split_first_chunk::<32>()?;
        let until = u64::from_be_bytes(until.try_into().ok()?);
        let key = DhHandle(*key);
        let ends = Timestamp::from_micros(until.saturating_mul(1_000_000));
        (since_1970() < until && self.vault.dh_public(&key).is_ok()).then_some((key, ends))
    }
}

fn set_card(vault: &mut FileVault<Crypto>, card: &Card, relays: &[Card]) -> Result<(), IdentityFileError> {
    vault.set_document(CARD, card.as_bytes().to_vec())?;
    let lines: Vec<String> = relays.iter().map(Card::to_uri).collect();
    Ok(vault.set_document(RELAYS, lines.join("\n").into_bytes())?)
}

fn card_parts(sequence: u32, addresses: Vec<String>, relays: &[Card], contact_box: BoxName) -> CardParts {
    let entry = |relay: &Card| RelayEntry {
        id: relay.id(),
        channel_key: relay.attestation().channel_key,
        contact_box,
        addresses: relay.addresses().to_vec(),
    };
    CardParts { sequence, addresses, relays: relays.iter().map(entry).collect() }
}

/// Seconds. A clock before 1970 is none: what depends on it ends.
fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
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
    /// A node runs under the identity: shut it down first.
    InUse,
    /// A newer card of this relay is known.
    OlderCard {
        /// The relay.
        relay: IdentityId,
    },
    /// The identity has made 2^32 cards since it has rotated last.
    Exhausted,
}

impl fmt::Display for IdentityFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault(error) => error.fmt(f),
            Self::Identity(error) => error.fmt(f),
            Self::InUse => f.write_str("a node runs under the identity; shut it down first"),
            Self::OlderCard { relay } => write!(f, "a newer card of the relay {relay} is known"),
            Self::Exhausted => f.write_str("the identity has numbered all its cards; rotate it"),
            Self::Missing { what } => write!(f, "the vault holds no {what}: it was not made by `identity new`"),
        }
    }
}

impl std::error::Error for IdentityFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Vault(error) => Some(error),
            Self::Identity(error) => Some(error),
            Self::Missing { .. } | Self::InUse | Self::OlderCard { .. } | Self::Exhausted => None,
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
