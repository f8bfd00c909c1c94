//! Letters: sealing to a peer that is away and with whom there may be no session, and opening what was sealed to us.

use alloc::vec::Vec;

use sealway_identity::{IdentityError, PayloadParts, Peer, Prekey};
use sealway_vault::{AeadKey, CryptoProvider, Vault, VaultError};
use sealway_wire::{
    DecodeError, IdentityId, PrekeyId, Reason, Timestamp,
    content::{Ack, Content},
    letter::Letter,
};

use super::{Deposit, Endpoint, Record, Source, record::message_of};
use crate::{
    FrameError, SendError, StateError,
    letter::{self, PrekeySecrets},
    mailed::{Seen, half},
    prekeys::{PrekeyKind, SavedPrekey},
    responder::Admission,
    schedule,
};

/// What a letter has brought.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedLetter<'f> {
    /// Who sealed it, as it introduced itself: whoever steals our prekey could have done so too, until that ends.
    pub sender: Peer,
    /// The place of our prekey among our [`prekeys`](Endpoint::prekeys).
    pub prekey: u64,
    /// The content. It may have come before: a letter can be repeated as long as its prekey is there. None: it was a flight
    /// of a [handshake by letter](Endpoint::begin_by_letter), and something may be [due](Endpoint::flight_due) now.
    pub record: Option<Record<'f>>,
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    // ---- as a sender ----

    /// Seals `deposit` as a letter to a prekey of a peer, whom policy has to admit, into `out`, and returns its length: at most
    /// [`MAX_LETTER`](sealway_wire::letter::MAX_LETTER). `payload` is what the peer shall know of us.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] if policy does not admit the peer; [`SendError::TooLong`], [`SendError::Letter`].
    pub fn seal_letter(
        &mut self,
        prekey: &Prekey,
        payload: &PayloadParts,
        deposit: Deposit<'_>,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if !self.config.accept.decide(&prekey.owner()).is_allow() {
            return Err(SendError::NotOpen);
        }
        let content = match deposit {
            // The instance always travels: a letter belongs to no START.
            Deposit::Message(message) => Content::Reliable(self.with_instance(message, false)),
            Deposit::Committed(committed) => Content::Ack(Ack { opened: None, committed: Some(committed) }),
        };
        letter::seal(&self.vault, &self.owner, payload, prekey, &content, out)
    }

    /// Whether a prekey is one that its owner may still use: of the history that is known of it.
    #[must_use]
    pub fn is_current(&self, prekey: &Prekey) -> bool {
        let event = prekey.rank().0;
        self.known.get(&prekey.owner()).is_none_or(|(known, _)| event >= *known)
    }

    // ---- as a recipient ----

    /// Opens a letter that a relay has kept, in the caller's buffer. `source` is the relay.
    ///
    /// Nothing changes before it has opened and policy has admitted its sender. It is no sign of life.
    ///
    /// # Errors
    /// [`FrameError`]; [`FrameError::UnknownPrekey`] before anything is computed.
    pub fn open_letter<'f>(
        &mut self,
        now: Timestamp,
        source: Source,
        frame: &'f mut [u8],
    ) -> Result<OpenedLetter<'f>, FrameError> {
        let letter = Letter::decode(frame)?;
        let held = self.prekeys.find(letter.prekey).ok_or(FrameError::UnknownPrekey)?;
        if !self.expense.budget.takes_letter(now, source) {
            return Err(FrameError::Throttled);
        }
        let secrets = PrekeySecrets { dh: &held.dh, kem: held.kem.as_ref() };
        let known = |id: &IdentityId| self.known.get(id).copied();
        let admit = Admission { own: self.owner.id(), policy: &self.config.accept, known: &known };
        let (sender, content) = letter::open(&self.vault, &secrets, &letter, admit)?;
        let prekey = held.sequence;
        let seen = Seen { prekey, letter: half(&self.vault.provider().sha256(&[letter.noise])) };
        let rank = sender.attestation().rank();
        let known = self.known.entry(sender.id()).or_insert(rank);
        *known = rank.max(*known);
        let opened = frame.get_mut(..content.len()).ok_or(FrameError::Rejected)?;
        opened.copy_from_slice(&content);
        let misplaced = |value| FrameError::from(DecodeError::new("letter content", Reason::Unknown { value }));
        let record = match Content::decode(opened)? {
            Content::Reliable(message) => match message.instance {
                Some(instance) => Some(message_of(instance, &message)),
                None => return Err(misplaced(0)),
            },
            Content::Ack(Ack { opened: None, committed: Some(committed) }) => Some(Record::Committed(committed)),
            Content::Flight(flight) => {
                self.handle_flight(now, &sender, seen, flight)?;
                None
            }
            _ => return Err(misplaced(1)),
        };
        Ok(OpenedLetter { sender, prekey, record })
    }

    // ---- the own prekeys ----

    /// Has prekeys made from now on, for letters to us. They are of use if the shell writes what
    /// [`poll_prekey`](Self::poll_prekey) gives, and publishes [`published_prekey`](Self::published_prekey).
    pub const fn make_prekeys(&mut self, kind: PrekeyKind) {
        self.prekeys.make_always(kind);
    }

    /// The statement about the prekey that letters to us are to be sealed to, for relays; it is on disk. `None`: there is none
    /// (yet).
    ///
    /// # Errors
    /// If the vault refuses to sign.
    pub fn published_prekey(&self) -> Result<Option<(PrekeyId, Vec<u8>)>, VaultError> {
        let Some(held) = self.prekeys.published() else { return Ok(None) };
        let parts = held.parts(self.vault.provider());
        let signed = self.owner.prekey(&self.vault, &parts);
        signed.map(|statement| Some((held.id, statement))).map_err(|error| match error {
            IdentityError::Vault(error) => error,
            _ => VaultError::Malformed,
        })
    }

    /// The id of the prekey that [`published_prekey`](Self::published_prekey) speaks of.
    #[must_use]
    pub fn prekey_id(&self) -> Option<PrekeyId> {
        self.prekeys.published().map(|held| held.id)
    }

    /// The places of the oldest prekey that is still there, before which no letter opens any more, and of the newest.
    #[must_use]
    pub fn prekeys(&self) -> Option<(u64, u64)> {
        self.prekeys.span()
    }

    /// Has the ages of prekeys written, for this run is about to end.
    pub fn note_prekeys(&mut self, now: Timestamp) {
        let all = self.prekeys.count(now);
        self.save_prekeys(now, all);
    }

    /// What is to be written of prekeys. After each was written, call [`prekey_written`](Self::prekey_written); if it could
    /// not be, [`prekey_not_written`](Self::prekey_not_written).
    pub fn poll_prekey(&mut self) -> Option<SavedPrekey> {
        self.saved_prekeys.pop_front()
    }

    /// A prekey is on disk: it may be published.
    pub fn prekey_written(&mut self, now: Timestamp, id: PrekeyId) {
        let replaced = self.prekeys.written(now, id);
        self.save_prekeys(now, replaced);
    }

    /// A prekey could not be written: another one is made after a minute.
    pub fn prekey_not_written(&mut self, now: Timestamp, id: PrekeyId) {
        self.prekeys.not_written(now, id);
    }

    /// Takes a prekey back that an earlier run has written.
    ///
    /// # Errors
    /// [`StateError`]: delete it.
    pub fn restore_prekey(&mut self, now: Timestamp, state: &[u8]) -> Result<(), StateError> {
        let own = *self.owner.id().as_bytes();
        self.prekey_key()?;
        let Self { prekeys, prekey_key: Some(key), .. } = self else { return Err(StateError::Rejected) };
        match (prekeys.restore::<V::Provider>(now, key, &own, state), self.config.earlier_key) {
            // What was written before the last rotation opens as long as the key before it answers.
            (Err(StateError::Rejected), Some((earlier, _))) => {
                let key = AeadKey::new(&schedule::state_key(&self.vault, letter::DOMAIN, &earlier)?);
                let id = self.prekeys.restore::<V::Provider>(now, &key, &own, state)?;
                // It is to open when that key is gone, too.
                self.save_prekeys(now, alloc::vec![id]);
                Ok(())
            }
            (restored, _) => restored.map(drop),
        }
    }

    pub(super) fn prekey_key(&mut self) -> Result<(), VaultError> {
        if self.prekey_key.is_none() {
            let key = schedule::state_key(&self.vault, letter::DOMAIN, &self.owner.channel_key())?;
            self.prekey_key = Some(AeadKey::new(&key));
        }
        Ok(())
    }

    pub(super) fn handle_prekeys(&mut self, now: Timestamp) {
        let changed = self.prekeys.handle_timeout(now, self.vault.provider());
        if !changed.is_empty() {
            self.prune_mailed(now);
        }
        self.save_prekeys(now, changed);
    }

    fn save_prekeys(&mut self, now: Timestamp, changed: Vec<PrekeyId>) {
        for id in changed {
            let own = *self.owner.id().as_bytes();
            let ready = self.prekey_key();
            let Some(held) = self.prekeys.find(id) else {
                self.saved_prekeys.push_back(SavedPrekey { id, state: None });
                continue;
            };
            if let (Ok(()), Some(key)) = (ready, &self.prekey_key)
                && let Ok(state) = held.seal(self.vault.provider(), key, &own)
            {
                self.saved_prekeys.push_back(SavedPrekey { id, state: Some(state) });
            } else {
                // What cannot be sealed is not published.
                self.prekeys.not_written(now, id);
            }
        }
    }
}
