//! What the ends of a pairing renew between two handshakes: a channel key, of which its owner tells with ROTATE, and the psk,
//! into which the responder sends a SEED.

use alloc::{collections::VecDeque, vec::Vec};

use sealway_identity::Attestation;
use sealway_vault::{DhHandle, PublicKey, Secret, Vault};
use sealway_wire::{
    Lane,
    content::{Content, Ranges},
    pairing::{ROTATE_PART, Rotate, Seed},
};

use super::{Pairing, PairingEvent, Side, keys::Which};
use crate::{RenewalError, SendError, lane::Plaintext};

/// Parts of a ROTATE that are sent at once: for each sign of life of the peer, and each time that what is unanswered is sent again.
const PARTS_AT_ONCE: u8 = 4;
/// After so many times that all of it was told for nothing it is not told more seldom any more: each 2^7 times that something
/// would be repeated.
const MAX_PATIENCE: u8 = 7;

/// Of so many records it is remembered what went in them.
const MAX_IN_RECORDS: usize = 128;

/// What is told until the peer is known to have it.
#[derive(Default)]
pub(super) struct Telling {
    rotation: Option<Rotation>,
    /// The seed goes out now; in which records of the present session it went.
    seed_due: bool,
    seed_sent: Option<InRecords>,
    seed_is_known: bool,
    /// What the peer tells of its key.
    heard: Option<Heard>,
    /// The version of the state that has this key of the peer's: it is told so.
    kept: Option<(u64, PublicKey)>,
    /// The own key that has served, and the version of the state that knows it.
    released: Option<(u64, DhHandle)>,
}

/// Counters of records, and what went in them: the latest so many.
#[derive(Default)]
struct InRecords(VecDeque<(u64, u8)>);

impl InRecords {
    fn went(&mut self, what: u8, counter: u64) {
        if self.0.len() >= MAX_IN_RECORDS {
            self.0.pop_front();
        }
        self.0.push_back((counter, what));
    }

    /// What of it the peer has opened.
    fn opened(&mut self, opened: &Ranges) -> impl Iterator<Item = u8> {
        let has = |counter: u64| opened.as_slice().iter().any(|(low, high)| (*low..=*high).contains(&counter));
        self.0.iter().filter(move |(counter, _)| has(*counter)).map(|(_, what)| *what)
    }
}

/// The identity payload that attests our newest channel key.
struct Rotation {
    payload: Vec<u8>,
    /// How many parts it has, and which of them the peer has opened: bit i is part i.
    count: u8,
    known: u64,
    sent: InRecords,
    /// With which part it goes on.
    next: u8,
    /// How many parts may go now.
    allowed: u8,
    /// How often all was told for nothing, and how many occasions to tell it again are left out.
    rounds: u8,
    pause: u8,
}

/// Parts of the peer's identity payload.
struct Heard {
    count: u8,
    /// Bit i: part i is there.
    there: u64,
    octets: Vec<u8>,
}

impl Heard {
    const fn new(count: u8) -> Self {
        Self { count, there: 0, octets: Vec::new() }
    }

    /// Takes a part, and gives the whole when all are there.
    fn take(&mut self, rotate: &Rotate<'_>) -> Option<Vec<u8>> {
        let at = usize::from(rotate.index()) * ROTATE_PART;
        let end = at + rotate.part().len();
        if self.octets.len() < end {
            self.octets.resize(end, 0);
        }
        self.octets.get_mut(at..end)?.copy_from_slice(rotate.part());
        self.there |= 1 << rotate.index();
        let is_whole = self.there.count_ones() == u32::from(self.count);
        is_whole.then(|| core::mem::take(&mut self.octets))
    }
}

impl Rotation {
    /// Which parts the peer is not known to have.
    fn unknown(&self) -> impl Iterator<Item = u8> + use<> {
        let known = self.known;
        (0..self.count).filter(move |index| known >> index & 1 == 0)
    }

    fn allow(&mut self) {
        if self.unknown().next().is_none() {
            // Nobody has said that he has the key: he may have forgotten the parts, or not believe them.
            match self.pause.checked_sub(1) {
                Some(less) => self.pause = less,
                None => {
                    self.rounds = self.rounds.saturating_add(1).min(MAX_PATIENCE);
                    self.pause = (1 << self.rounds) - 1;
                    self.begin_anew();
                }
            }
        }
        self.allowed = PARTS_AT_ONCE;
    }

    fn begin_anew(&mut self) {
        (self.known, self.sent) = (0, InRecords::default());
    }

    /// The next part to be sent.
    fn next(&self) -> Option<u8> {
        let later = self.unknown().find(|index| *index >= self.next);
        later.or_else(|| self.unknown().next()).filter(|_| self.allowed > 0)
    }
}

impl Telling {
    /// Whether nothing is told, or heard: it needs not be there.
    const fn is_idle(&self) -> bool {
        let Self { rotation, seed_due, seed_sent, seed_is_known, heard, kept, released } = self;
        let of_seed = *seed_due || *seed_is_known || seed_sent.is_some();
        !of_seed && rotation.is_none() && heard.is_none() && kept.is_none() && released.is_none()
    }

    /// Records of another session, or of other chains, are no longer acknowledged.
    pub(super) fn begins_anew(&mut self) {
        (self.seed_sent, self.seed_is_known, self.heard, self.kept) = (None, false, None, None);
        self.rotation.iter_mut().for_each(|rotation| rotation.begin_anew());
    }

    /// The peer has opened these. After a restart of ours it may still tell of records before: then a part is told once more when
    /// all seem to be known, and a seed under the next session.
    pub(super) fn acknowledged(&mut self, opened: &Ranges) {
        self.seed_is_known |= self.seed_sent.as_mut().is_some_and(|sent| sent.opened(opened).next().is_some());
        if let Some(rotation) = &mut self.rotation {
            rotation.known |= rotation.sent.opened(opened).fold(0, |known, index| known | 1 << index);
        }
    }
}

impl<V: Vault + Clone + 'static> Pairing<V> {
    /// Has octets that nobody knows go into the psk, with the next handshake: what was stolen of a pairing before is then of no
    /// use to who has not heard it come. Only the responder does, which has it on its disk before it tells the caller; both psks serve until a call comes
    /// under the new one, which is told as [`PairingEvent::Reseeded`]. One seed at a time: while another is under way, this one is
    /// not used, and the answer is `false`.
    ///
    /// # Errors
    /// [`RenewalError::NotResponder`].
    pub fn reseed(&mut self, seed: Secret<32>) -> Result<bool, RenewalError> {
        let Side::Responder(answerer) = &mut self.side else { return Err(RenewalError::NotResponder) };
        let is_new = answerer.reseed(self.vault.provider(), &self.parties, seed);
        if is_new {
            self.changed();
            self.tell_seed();
        }
        Ok(is_new)
    }

    /// Tells the peer of our channel key, where it knows the one before: `payload` is the identity payload that attests it, as
    /// [`Owner::payload`](sealway_identity::Owner::payload) gives it. To be called after each start with an
    /// [`earlier_key`](super::PairingKeys::earlier_key); where there is nothing to tell it does nothing.
    ///
    /// # Errors
    /// [`RenewalError::TooLong`] above [`MAX_ROTATION`](sealway_wire::pairing::MAX_ROTATION) octets; [`RenewalError::Empty`].
    pub fn announce_key(&mut self, payload: &[u8]) -> Result<(), RenewalError> {
        let limit = sealway_wire::pairing::MAX_ROTATION;
        let count = match Rotate::parts(payload) {
            Some(count) => count,
            None if payload.is_empty() => return Err(RenewalError::Empty),
            None => return Err(RenewalError::TooLong { limit, got: payload.len() }),
        };
        if self.parties.keys.is_to_be_told() {
            self.telling_mut().rotation = Some(Rotation {
                payload: payload.to_vec(),
                count,
                known: 0,
                sent: InRecords::default(),
                next: 0,
                allowed: PARTS_AT_ONCE,
                rounds: 0,
                pause: 0,
            });
        }
        Ok(())
    }

    /// The channel key before the newest, as long as it serves this pairing: its private part has to stay in the vault until the
    /// peer has made a handshake with the newest.
    #[must_use]
    pub fn earlier_key(&self) -> Option<DhHandle> {
        // After a power cut before that is written the state would want it.
        let released = self.telling.as_ref().and_then(|telling| telling.released);
        let released = released.filter(|(version, _)| !self.is_on_disk(*version));
        self.parties.keys.earlier().or(released.map(|(_, key)| key))
    }

    /// A handshake was made with these keys.
    pub(super) fn served(&mut self, keys: Which) {
        let before = self.parties.keys.earlier();
        if self.parties.keys.served(keys) {
            self.keys_changed();
            let released = before.filter(|_| self.parties.keys.earlier().is_none());
            if let Some(released) = released {
                let version = self.version;
                self.telling_mut().released = Some((version, released));
            }
        }
    }

    /// The place, by event number and generation, of the attestation that was accepted last: an earlier one is to be refused.
    #[must_use]
    pub const fn peer_rank(&self) -> Option<(u32, u32)> {
        self.parties.keys.rank()
    }

    /// Takes a channel key of the peer's: what [`PairingEvent::Rotation`] brought, once it was verified
    /// ([`UnverifiedPayload::verify_key`](sealway_identity::UnverifiedPayload::verify_key)). The key before serves until a
    /// handshake was made with this one. The peer is told when it has been written.
    ///
    /// # Errors
    /// [`RenewalError::OtherPeer`], [`RenewalError::Superseded`], [`RenewalError::UnderWay`], or the vault does not agree with the key.
    pub fn accept_key(&mut self, attestation: &Attestation) -> Result<(), RenewalError> {
        if attestation.subject != self.parties.peer {
            return Err(RenewalError::OtherPeer);
        }
        if self.peer_rank().is_some_and(|known| attestation.rank() < known) {
            return Err(RenewalError::Superseded);
        }
        // The call that is on the disk could not be made again, nor its answer read.
        if let Side::Initiator(caller) = &self.side
            && let Some(with) = caller.calls_with(&self.parties.keys)
            && ![self.parties.keys.peer(), attestation.channel_key].contains(&with)
        {
            return Err(RenewalError::UnderWay);
        }
        let before = self.parties.keys.next();
        let expected = self.parties.keys.expect(&self.vault, attestation.channel_key, attestation.rank());
        expected.map_err(RenewalError::Vault)?;
        // A call for recovery may have been made with what served before.
        if before.is_some()
            && before != self.parties.keys.next()
            && let Side::Initiator(caller) = &mut self.side
        {
            caller.renew_recovery();
        }
        let version = self.changed();
        self.telling_mut().kept = Some((version, attestation.channel_key));
        Ok(())
    }

    /// Takes a seed, under the present session. `true`: that is to be acknowledged.
    pub(super) fn seed_came(&mut self, seed: &Seed<'_>) -> bool {
        let Side::Initiator(caller) = &mut self.side else { return false };
        // The state that has it is the one that has the record's place in the window.
        caller.seed(self.vault.provider(), &self.parties, seed.0);
        true
    }

    /// Takes what the peer tells of its key, or of ours, under the present session. `true`: that is to be acknowledged.
    pub(super) fn rotate_came(&mut self, rotate: &Rotate<'_>) -> bool {
        if rotate.is_kept() {
            // It may speak of the one before: it was on the way while we have rotated once more.
            if rotate.keeps(&self.parties.keys.newest().0) && self.parties.keys.told() {
                self.keys_changed();
            }
            return false;
        }
        let telling = self.telling_mut();
        let heard = telling.heard.get_or_insert_with(|| Heard::new(rotate.count()));
        if heard.count != rotate.count() {
            *heard = Heard::new(rotate.count());
        }
        if let Some(payload) = heard.take(rotate) {
            telling.heard = None;
            // Until it was looked at it is told again.
            if !self.events.iter().any(|(_, event)| matches!(event, PairingEvent::Rotation(_))) {
                self.events.push((0, PairingEvent::Rotation(payload)));
            }
        }
        true
    }

    /// Other keys serve from now on.
    pub(super) fn keys_changed(&mut self) {
        if let Side::Initiator(caller) = &mut self.side {
            caller.renew_recovery();
        }
        if let Some(telling) = &mut self.telling
            && !self.parties.keys.is_to_be_told()
        {
            telling.rotation = None;
        }
        self.changed();
    }

    /// Whether there is something that the peer is not known to have.
    pub(super) fn has_to_tell(&self) -> bool {
        let telling = self.telling.as_deref();
        let seed = self.seed().is_some() && !telling.is_some_and(|telling| telling.seed_is_known);
        self.current.is_some() && (seed || telling.is_some_and(|telling| telling.rotation.is_some()))
    }

    fn telling_mut(&mut self) -> &mut Telling {
        self.telling.get_or_insert_default()
    }

    fn seed(&self) -> Option<&Secret<32>> {
        match &self.side {
            Side::Initiator(_) => None,
            Side::Responder(answerer) => answerer.seed(),
        }
    }

    /// It is told once more.
    pub(super) fn tell_again(&mut self) {
        self.tell_seed();
        self.peer_hears();
    }

    pub(super) fn tell_seed(&mut self) {
        if self.seed().is_some() {
            let telling = self.telling_mut();
            telling.seed_due = !telling.seed_is_known;
        }
    }

    /// The peer has sent something: it hears us now, if it does at all.
    pub(super) fn peer_hears(&mut self) {
        let rotation = self.telling.as_mut().and_then(|telling| telling.rotation.as_mut());
        rotation.into_iter().for_each(Rotation::allow);
    }

    /// The next record of what is told.
    pub(super) fn poll_telling(&mut self, out: &mut [u8]) -> Result<Option<usize>, SendError> {
        // The caller's session may not be the responder's yet, and what is told belongs to it.
        if !self.may_seal() || !self.current.as_ref().is_some_and(|current| current.session.confirmed) {
            return Ok(None);
        }
        let Some(mut telling) = self.telling.take() else { return Ok(None) };
        let sent = self.tell(&mut telling, out);
        telling.released.take_if(|(version, _)| self.is_on_disk(*version));
        self.telling = Some(telling).filter(|telling| !telling.is_idle());
        sent
    }

    fn tell(&mut self, telling: &mut Telling, out: &mut [u8]) -> Result<Option<usize>, SendError> {
        if let Some((version, key)) = telling.kept
            && self.is_on_disk(version)
        {
            let content = Content::Rotate(Rotate::kept(&key));
            let sealed = self.seal_plaintext(Lane::Live, Plaintext::Typed(&content), out);
            let sent = or_later(sealed.map(|sealed| sealed.len))?;
            telling.kept.take_if(|_| sent.is_some());
            return Ok(sent);
        }
        // A seed is on the disk before anybody knows it.
        if telling.seed_due
            && self.is_on_disk(self.version)
            && let Some(seed) = self.seed().cloned()
        {
            let content = Content::Seed(Seed(seed.expose()));
            let sealed = self.seal_plaintext(Lane::Live, Plaintext::Typed(&content), out);
            telling.seed_due = false;
            let sent = telling.seed_sent.get_or_insert_default();
            sealed.iter().for_each(|sealed| sent.went(0, sealed.counter));
            return or_later(sealed.map(|sealed| sealed.len));
        }
        match &mut telling.rotation {
            Some(rotation) => self.tell_part(rotation, out),
            None => Ok(None),
        }
    }

    fn tell_part(&mut self, rotation: &mut Rotation, out: &mut [u8]) -> Result<Option<usize>, SendError> {
        let Some(index) = rotation.next() else { return Ok(None) };
        let Some(part) = Rotate::part_of(&rotation.payload, index) else { return Ok(None) };
        let sealed = self.seal_plaintext(Lane::Live, Plaintext::Typed(&Content::Rotate(part)), out);
        if let Ok(sealed) = &sealed {
            rotation.sent.went(index, sealed.counter);
            (rotation.next, rotation.allowed) = (index + 1, rotation.allowed - 1);
        }
        or_later(sealed.map(|sealed| sealed.len))
    }
}

/// Where a lane is full, or waits for counters to be reserved, something else is wanted first.
fn or_later(sealed: Result<usize, SendError>) -> Result<Option<usize>, SendError> {
    match sealed {
        Ok(len) => Ok(Some(len)),
        Err(SendError::LaneStopped | SendError::NotOpen) => Ok(None),
        Err(error) => Err(error),
    }
}
