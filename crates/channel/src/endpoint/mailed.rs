//! Handshakes whose flights are letters: between two that are never there at once.
//!
//! The session that comes of one has a stored lane and no live one. That the peer has it is told by START, a record of that
//! lane.

use alloc::{boxed::Box, vec::Vec};

use sealway_identity::{Card, IdentityError, PayloadParts, Peer, Prekey};
use sealway_vault::{AeadKey, CryptoProvider, Vault, VaultError};
use sealway_wire::{
    Cid, DecodeError, Frame, IdentityId, Reason, Timestamp,
    content::Content,
    handshake::{Message1, Message2, Message3},
};

use super::{ChannelId, Endpoint, handshake::gate_of};
use crate::{
    FrameError, HandshakeError, Role, SendError, StateError,
    initiator::AwaitingMessage2,
    letter,
    mailed::{Mailed, Seen, Stage, half},
    responder::{Admission, Encapsulated, HalfOpen, OpenedMessage1, Refused},
    schedule,
    session::Session,
};

/// What is kept of handshakes by letter with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedHandshake {
    /// The peer: the name under which it is kept.
    pub peer: IdentityId,
    /// Which version of it this is, for [`handshake_written`](Endpoint::handshake_written).
    pub number: u64,
    /// The state, sealed under a key of the vault; none: what was kept is to be deleted.
    pub state: Option<Vec<u8>>,
}

/// What of a handshake by letter is to be left in a peer's box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// It is a letter, for which a prekey of the peer is needed; otherwise a record of the stored lane.
    pub is_letter: bool,
    /// Its number, for [`flight_left`](Endpoint::flight_left).
    pub number: u64,
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    // ---- what the shell asks for ----

    /// Begins a handshake by letters with the identity on `card`, unless one is under way or there is a session to seal under:
    /// [`flight_due`](Self::flight_due) says what of it is to be left in the peer's box. Nothing happens where no
    /// [state is kept](super::Config::keeps_state), without prekeys of our own, to which the answer is sealed, or if
    /// policy does not admit the peer.
    ///
    /// # Errors
    /// If the vault or its randomness fails, or [`IdentityError::Superseded`] if the card is older than what is known of the
    /// identity.
    pub fn begin_by_letter(&mut self, now: Timestamp, card: &Card) -> Result<(), FrameError> {
        let peer = Peer::of_card(card, true);
        let id = peer.id();
        let rank = peer.attestation().rank();
        let has_session = self.by_peer.get(&id).copied().is_some_and(|channel| self.may_deposit(now, channel));
        let runs = self.mailed.get(&id).is_some_and(|mailed| !mailed.gives_way_to_ours(now, rank));
        let is_able = self.config.keeps_state && self.prekeys.published().is_some() && self.admits(&id);
        if has_session || runs || !is_able || id == self.owner.id() {
            return Ok(());
        }
        if self.known.get(&id).is_some_and(|known| rank < *known) {
            return Err(HandshakeError::Identity(IdentityError::Superseded).into());
        }
        let cid = self.draw_cid()?;
        let provider = self.vault.provider();
        let (ephemeral, kem) = (provider.random_secret()?, provider.random_secret()?);
        self.enter_mailed(now, id, Stage::AwaitingMessage2 { cid, ephemeral, kem, peer });
        Ok(())
    }

    /// What is to be left in the box of a peer now, for a handshake by letter.
    pub fn flight_due(&mut self, now: Timestamp, peer: &IdentityId) -> Option<Flight> {
        let mailed = self.mailed.get(peer)?;
        if mailed.has_failed() {
            self.save_mailed(*peer);
            return None;
        }
        if let Some((cid, number)) = mailed.start_again {
            match self.lane(now, peer, cid) {
                Some(0) => return Some(Flight { is_letter: false, number }),
                Some(_) => return None,
                None => self.said_start(peer),
            }
            return None;
        }
        let stage = mailed.stage(now).filter(|_| mailed.is_due(now))?;
        let (is_letter, number) = (!matches!(stage, Stage::Starting { .. }), mailed.number);
        let flight = Some(Flight { is_letter, number });
        if !stage.has_session() {
            return flight;
        }
        let cid = stage.cid();
        match self.lane(now, peer, cid) {
            Some(0) => flight,
            // Neither leaves before the lane is on disk.
            Some(_) => None,
            None => {
                // It had to make room for others, or is too old: all begins anew.
                self.end_mailed(*peer);
                None
            }
        }
    }

    /// Whether a flight waits for [`handshake_written`](Self::handshake_written).
    #[must_use]
    pub fn flight_is_being_written(&self, peer: &IdentityId) -> bool {
        self.mailed.get(peer).is_some_and(Mailed::is_waiting)
    }

    /// Whether all that handshakes by letter with a peer have changed is on disk.
    #[must_use]
    pub fn handshake_is_on_disk(&self, peer: &IdentityId) -> bool {
        self.mailed.get(peer).is_none_or(Mailed::is_on_disk)
    }

    /// When [`flight_due`](Self::flight_due) is to be asked again at the latest.
    #[must_use]
    pub fn flight_due_at(&self, peer: &IdentityId) -> Option<Timestamp> {
        self.mailed.get(peer).and_then(Mailed::repeats_at)
    }

    /// Seals the [flight that is due](Self::flight_due) into `out`, which has to hold
    /// [`MAX_LETTER`](sealway_wire::letter::MAX_LETTER), and returns its length. `payload` is what the peer shall know of us.
    ///
    /// # Errors
    /// [`SendError::NotOpen`] if none is due, `prekey` is needed and none of the peer, or policy does not admit the peer;
    /// [`SendError::Letter`].
    pub fn seal_flight(
        &mut self,
        now: Timestamp,
        peer: &IdentityId,
        prekey: Option<&Prekey>,
        payload: &PayloadParts,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if !self.admits(peer) {
            return Err(SendError::NotOpen);
        }
        let mailed = self.mailed.get(peer).ok_or(SendError::NotOpen)?;
        if let Some((cid, _)) = mailed.start_again {
            return self.seal_start(now, peer, cid, out);
        }
        let stage = mailed.stage(now).filter(|_| mailed.is_due(now)).ok_or(SendError::NotOpen)?;
        let frame = match stage {
            Stage::AwaitingMessage2 { .. } => self.first_flight(stage).map(|begun| begun.frame),
            Stage::AwaitingMessage3 { .. } => self.second_flight(now, stage).map(|half_open| half_open.frame),
            Stage::AwaitingStart { message3, .. } => Ok(message3.clone()),
            Stage::Starting { cid, .. } => {
                let cid = *cid;
                return self.seal_start(now, peer, cid, out);
            }
        };
        if frame.as_ref().is_err_and(|error| *error == FrameError::Gate) {
            // The channel key that was called answers no more: the peer begins anew with a newer card.
            self.end_mailed(*peer);
            return Err(SendError::NotOpen);
        }
        let frame = frame.map_err(|error| match error {
            FrameError::Handshake(error) => SendError::Letter(error),
            FrameError::Vault(VaultError::Entropy) => SendError::Entropy,
            _ => SendError::Letter(HandshakeError::Noise),
        })?;
        let prekey = prekey.filter(|prekey| prekey.owner() == *peer).ok_or(SendError::NotOpen)?;
        letter::seal(&self.vault, &self.owner, payload, prekey, &Content::Flight(&frame), out)
    }

    /// A relay has taken the flight of that number. It is due again after a day, in another run, or if the peer asks for it.
    pub fn flight_left(&mut self, now: Timestamp, peer: &IdentityId, number: u64) {
        let Some(mailed) = self.mailed.get_mut(peer) else { return };
        if mailed.start_again.is_some_and(|(_, again)| again == number) {
            return self.said_start(peer);
        }
        mailed.left(now, number);
        // Nothing is to come back for ours: if it is lost, the peer says START once more.
        let is_over =
            mailed.number == number && matches!(mailed.stage(now), Some(Stage::Starting { message3: None, .. }));
        if is_over {
            self.end_mailed(*peer);
        }
    }

    /// The channel to a peer, if there is one.
    #[must_use]
    pub fn channel_with(&self, peer: &IdentityId) -> Option<ChannelId> {
        self.by_peer.get(peer).copied()
    }

    // ---- what is kept ----

    /// What is to be written of handshakes by letter: after what [`poll_saved`](Self::poll_saved) gives, or with it. After each was written, call
    /// [`handshake_written`](Self::handshake_written); if it could not be, [`handshake_not_written`](Self::handshake_not_written).
    pub fn poll_handshake(&mut self) -> Option<SavedHandshake> {
        self.saved_handshakes.pop_front()
    }

    /// A state is on disk: its flight may leave.
    pub fn handshake_written(&mut self, peer: &IdentityId, number: u64) {
        self.mailed.get_mut(peer).into_iter().for_each(|mailed| mailed.written(number));
    }

    /// A state could not be written: it is tried again when [`flight_due`](Self::flight_due) is asked.
    pub fn handshake_not_written(&mut self, peer: &IdentityId, number: u64) {
        self.mailed.get_mut(peer).into_iter().for_each(|mailed| mailed.not_written(number));
    }

    /// Takes back what an earlier run has kept of handshakes by letter with `peer`: after all
    /// [sessions](Self::restore). Times have to go on from that run's.
    ///
    /// # Errors
    /// [`StateError`]: delete it.
    pub fn restore_handshake(&mut self, now: Timestamp, peer: IdentityId, state: &[u8]) -> Result<(), StateError> {
        let own = self.owner.id();
        let ids = [own.as_bytes(), peer.as_bytes()];
        self.prekey_key()?;
        let key = self.prekey_key.as_ref().ok_or(StateError::Rejected)?;
        let (mailed, is_earlier) = match (Mailed::open::<V::Provider>(now, key, ids, state), self.config.earlier_key) {
            // What was written before the last rotation opens as long as the key before it answers.
            (Err(StateError::Rejected), Some((earlier, _))) => {
                let key = AeadKey::new(&schedule::state_key(&self.vault, letter::DOMAIN, &earlier)?);
                (Mailed::open::<V::Provider>(now, &key, ids, state)?, true)
            }
            (opened, _) => (opened?, false),
        };
        // S1.3 attests the key before: nobody who has heard of the newer one takes it.
        let is_over = is_earlier && matches!(mailed.stage(now), Some(Stage::AwaitingStart { .. }));
        self.mailed.insert(peer, mailed);
        if is_over {
            self.end_mailed(peer);
        } else if is_earlier {
            self.save_mailed(peer);
        }
        Ok(())
    }

    /// What can be repeated no more need not be remembered.
    pub(super) fn prune_mailed(&mut self, now: Timestamp) {
        let oldest = self.prekeys().map_or(0, |(oldest, _)| oldest);
        let changed = self.mailed.iter_mut().filter_map(|(peer, mailed)| mailed.prune(now, oldest).then_some(*peer));
        let changed: Vec<IdentityId> = changed.collect();
        changed.into_iter().for_each(|peer| self.save_mailed(peer));
    }

    fn save_mailed(&mut self, peer: IdentityId) {
        let own = self.owner.id();
        let ready = self.prekey_key();
        let number = self.next_handshake;
        self.next_handshake += 1;
        let Some(mailed) = self.mailed.get_mut(&peer) else { return };
        if mailed.is_empty() {
            self.mailed.remove(&peer);
            self.saved_handshakes.push_back(SavedHandshake { peer, number, state: None });
            return;
        }
        let ids = [own.as_bytes(), peer.as_bytes()];
        let key = self.prekey_key.as_ref().filter(|_| ready.is_ok());
        match key.and_then(|key| mailed.seal(self.vault.provider(), key, ids).ok()) {
            Some(state) => {
                mailed.is_being_written(number);
                self.saved_handshakes.push_back(SavedHandshake { peer, number, state: Some(state) });
            }
            None => mailed.not_sealed(),
        }
    }

    // ---- the flights ----

    /// The letter `seen` of `sender` has brought a frame of S1. What is of no handshake that runs
    /// changes nothing, and is no error: letters come late, and more than once.
    pub(super) fn handle_flight(
        &mut self,
        now: Timestamp,
        sender: &Peer,
        seen: Seen,
        frame: &[u8],
    ) -> Result<(), FrameError> {
        if !self.config.keeps_state {
            return Err(FrameError::UnknownConnection);
        }
        let misplaced = |value: u8| DecodeError::new("letter flight", Reason::Unknown { value: value.into() });
        match Frame::decode(frame)? {
            // There is nobody who could forge its source.
            Frame::Message1(message) if message.cookie.is_none() => {
                self.mailed_message1(now, sender.id(), seen, &message, frame)
            }
            Frame::Message2(message) => self.mailed_message2(now, sender.id(), &message),
            Frame::Message3(message) => self.mailed_message3(now, sender.id(), &message),
            _ => Err(misplaced(frame.first().copied().unwrap_or(0)).into()),
        }
    }

    fn mailed_message1(
        &mut self,
        now: Timestamp,
        peer: IdentityId,
        seen: Seen,
        message: &Message1<'_>,
        frame: &[u8],
    ) -> Result<(), FrameError> {
        let provider = self.vault.provider();
        let channel_key = gate_of(&self.gates, provider, now, message).ok_or(FrameError::Gate)?.key;
        let hash = half(&provider.sha256(&[message.noise]));
        let goes_before = self.owner.id() < peer;
        if let Some(mailed) = self.mailed.get_mut(&peer) {
            if mailed.has_seen(&seen) {
                return Ok(());
            }
            // Ours goes on, or is about to be over.
            let is_over_soon = matches!(mailed.stage(now), Some(Stage::Starting { message3: None, .. }));
            if is_over_soon || goes_before && mailed.goes_first(now) {
                mailed.sees(seen);
                self.save_mailed(peer);
                return Ok(());
            }
            match mailed.stage(now) {
                // The same once more, in another letter: it gets the same answer, or what has come of it goes on.
                Some(stage @ (Stage::AwaitingMessage3 { .. } | Stage::Starting { .. }))
                    if mailed.has_answered(hash) =>
                {
                    if matches!(stage, Stage::AwaitingMessage3 { .. }) {
                        mailed.again();
                    }
                    mailed.sees(seen);
                    self.save_mailed(peer);
                    return Ok(());
                }
                _ => {}
            }
        }
        let cid = self.draw_cid()?;
        let provider = self.vault.provider();
        let ephemeral = provider.random_secret()?;
        let own = self.owner.id();
        let opened = OpenedMessage1::of(&self.vault, &own, &channel_key, ephemeral.clone(), message)?;
        let encapsulated = Encapsulated::to(provider, &opened.encapsulation_key)?;
        let mailed = self.mailed.entry(peer).or_default();
        mailed.answers(hash);
        mailed.sees(seen);
        let message1 = frame.to_vec();
        self.enter_mailed(now, peer, Stage::AwaitingMessage3 { cid, ephemeral, encapsulated, message1 });
        Ok(())
    }

    fn mailed_message2(&mut self, now: Timestamp, peer: IdentityId, message: &Message2<'_>) -> Result<(), FrameError> {
        let stage = self.mailed.get(&peer).and_then(|mailed| mailed.stage(now));
        let is_awaited = |stage: &&Stage| matches!(stage, Stage::AwaitingMessage2 { cid, .. } if *cid == message.cid);
        let Some(stage) = stage.filter(is_awaited) else { return Ok(()) };
        let begun = Box::new(self.first_flight(stage)?);
        let finished = begun.handle_message2(&self.vault, message).map_err(|(_, error)| error)?;
        let rank = finished.session.peer().attestation().rank();
        if self.known.get(&peer).is_some_and(|known| rank < *known) {
            // Whoever answers to that key now is not the peer: without a newer card nothing can be begun.
            self.end_mailed(peer);
            return Err(HandshakeError::Identity(IdentityError::Superseded).into());
        }
        let cid = finished.session.local();
        self.keep_mailed(now, now, finished.session);
        self.enter_mailed(now, peer, Stage::AwaitingStart { cid, message3: finished.frame });
        Ok(())
    }

    fn mailed_message3(&mut self, now: Timestamp, peer: IdentityId, message: &Message3<'_>) -> Result<(), FrameError> {
        let hash = self.vault.provider().sha256(&[&message.cid.0, message.proof, message.noise]);
        if let Some(mailed) = self.mailed.get_mut(&peer)
            && matches!(mailed.stage(now), Some(Stage::Starting { message3: Some(known), .. }) if *known == hash)
        {
            // START may have been lost.
            mailed.again();
            return Ok(());
        }
        let stage = self.mailed.get(&peer).and_then(|mailed| mailed.stage(now));
        if self.lane(now, &peer, message.cid).is_some() {
            // Or the peer has lost it after we had heard of the peer.
            self.say_start_again(now, peer, message.cid, Role::Responder);
            return Ok(());
        }
        let is_awaited = |stage: &&Stage| matches!(stage, Stage::AwaitingMessage3 { cid, .. } if *cid == message.cid);
        let Some(stage) = stage.filter(is_awaited) else { return Ok(()) };
        let mut half_open = self.second_flight(now, stage)?;
        let known = |id: &IdentityId| self.known.get(id).copied();
        let admission = Admission { own: self.owner.id(), policy: &self.config.accept, known: &known };
        // It is made anew for each letter: nothing is spent by one that is not genuine.
        let accepted = half_open.handle_message3(&self.vault, message, admission).map_err(|refused| match refused {
            Refused::Keep(error) | Refused::Drop(error) => error,
        })?;
        // Who has written the letter is who makes the session.
        if accepted.session.peer().id() != peer {
            return Err(FrameError::Rejected);
        }
        self.known.insert(peer, accepted.session.peer().attestation().rank());
        // The initiator has the session since it has answered S1.2: nothing is sealed that it may have no keys for any more.
        let since = self.mailed.get(&peer).map_or(now, Mailed::since);
        let cid = accepted.session.local();
        self.keep_mailed(now, since, accepted.session);
        self.enter_mailed(now, peer, Stage::Starting { cid, message3: Some(hash) });
        Ok(())
    }

    /// What S1.1 was made by, and S1.1 itself.
    fn first_flight(&self, stage: &Stage) -> Result<AwaitingMessage2<V>, FrameError> {
        let Stage::AwaitingMessage2 { cid, ephemeral, kem, peer } = stage else { return Err(FrameError::Rejected) };
        // What is said of us goes into S1.3, which is written down before it leaves: until then it may be another.
        let channel = self.by_peer.get(&peer.id()).and_then(|channel| self.channels.get(channel));
        let payload = channel.map(|channel| self.owner.payload(&channel.payload));
        let payload = payload.unwrap_or_else(|| self.owner.payload(&PayloadParts::default()));
        let payload = payload.map_err(|_| FrameError::Vault(VaultError::Malformed))?;
        let secrets = (ephemeral.clone(), self.vault.provider().load_kem(kem));
        AwaitingMessage2::begin_with(&self.vault, &self.owner, peer.clone(), *cid, payload, secrets)
    }

    /// What has answered S1.1, and S1.2.
    fn second_flight(&self, now: Timestamp, stage: &Stage) -> Result<HalfOpen<V>, FrameError> {
        let Stage::AwaitingMessage3 { cid, ephemeral, encapsulated, message1 } = stage else {
            return Err(FrameError::Rejected);
        };
        let Frame::Message1(message) = Frame::decode(message1)? else { return Err(FrameError::Rejected) };
        let provider = self.vault.provider();
        let channel_key = gate_of(&self.gates, provider, now, &message).ok_or(FrameError::Gate)?.key;
        let own = self.owner.id();
        let opened = OpenedMessage1::of(&self.vault, &own, &channel_key, ephemeral.clone(), &message)?;
        opened.answer(provider, *cid, encapsulated)
    }

    // ---- the session ----

    /// Keeps the stored lane of a session. No live one begins: the peer is not there.
    fn keep_mailed(&mut self, now: Timestamp, since: Timestamp, session: Session<V::Provider>) {
        let mut stored = session.stored;
        stored.since = since;
        let (peer, cid) = (stored.peer.id(), stored.local);
        let id = self.channel_of(peer);
        let gone = self.channels.get_mut(&id).and_then(|channel| channel.keep_mailed(now, stored));
        self.by_cid.insert(cid, id);
        self.gone(peer, true, gone.into_iter().collect());
        self.save(id, cid);
        self.reschedule(id);
    }

    fn enter_mailed(&mut self, now: Timestamp, peer: IdentityId, stage: Stage) {
        let number = self.next_handshake;
        self.next_handshake += 1;
        self.mailed.entry(peer).or_default().enter(now, number, stage);
        self.save_mailed(peer);
    }

    /// Whether a handshake by letter has this connection id. There are few, and as a rule none.
    pub(super) fn is_mailed(&self, cid: Cid) -> bool {
        self.mailed.values().any(|mailed| mailed.has_cid(cid))
    }

    /// Of the stored lane `cid` of a session without a live one, on which START may be sealed, how many writes of its state have not
    /// completed.
    fn lane(&self, now: Timestamp, peer: &IdentityId, cid: Cid) -> Option<u32> {
        let channel = self.by_peer.get(peer).and_then(|channel| self.channels.get(channel))?;
        let kept = channel.kept.iter().find(|kept| kept.stored.local == cid)?;
        (kept.stored.may_start(now) && !kept.stored.is_full()).then_some(kept.unsaved + u32::from(kept.failed))
    }

    fn seal_start(&mut self, now: Timestamp, peer: &IdentityId, cid: Cid, out: &mut [u8]) -> Result<usize, SendError> {
        let id = self.by_peer.get(peer).copied().ok_or(SendError::UnknownChannel)?;
        let instance = self.config.instance;
        let found = self.channels.get_mut(&id).ok_or(SendError::UnknownChannel)?;
        let shape = found.shape;
        let stored = found.stored_by_cid(cid).ok_or(SendError::NotOpen)?;
        let sealed = stored.seal_start(self.vault.provider(), now, instance, shape, out);
        if stored.wants_saving() {
            self.reserve(id, cid);
        }
        sealed
    }

    /// A record of the peer has opened on the stored lane `cid`: it has the session.
    pub(super) fn mailed_heard(&mut self, now: Timestamp, peer: IdentityId, (cid, role): (Cid, Role), is_start: bool) {
        let stage = self.mailed.get(&peer).and_then(|mailed| mailed.stage(now)).filter(|stage| stage.cid() == cid);
        match stage {
            Some(Stage::AwaitingStart { .. }) => self.enter_mailed(now, peer, Stage::Starting { cid, message3: None }),
            Some(Stage::Starting { message3: Some(_), .. }) => self.end_mailed(peer),
            Some(_) => {}
            // The peer has not heard of us under this session: it says so as long as that is so, once a day.
            None if is_start && role == Role::Initiator => self.say_start_again(now, peer, cid, role),
            None => {}
        }
    }

    /// Has START left once more on a lane of which we are `role`, whatever else is under way: at most once in half a day, for a relay
    /// can repeat what asks for it.
    fn say_start_again(&mut self, now: Timestamp, peer: IdentityId, cid: Cid, role: Role) {
        let lane = self.by_cid.get(&cid).and_then(|channel| self.channels.get_mut(channel));
        let lane = lane.and_then(|channel| channel.stored_by_cid(cid)).filter(|lane| lane.role == role);
        if lane.is_some_and(|lane| lane.answers_start(now)) {
            let number = self.next_handshake;
            self.next_handshake += 1;
            self.mailed.entry(peer).or_default().start_again = Some((cid, number));
        }
    }

    fn said_start(&mut self, peer: &IdentityId) {
        self.mailed.get_mut(peer).into_iter().for_each(|mailed| mailed.start_again = None);
        // Nothing of it was written.
        if self.mailed.get(peer).is_some_and(Mailed::is_empty) {
            self.mailed.remove(peer);
        }
    }

    /// Ends the handshake by letters with a peer: there is another session, or it leads to nothing.
    pub(super) fn end_mailed(&mut self, peer: IdentityId) {
        if self.mailed.get_mut(&peer).is_some_and(Mailed::end) {
            self.save_mailed(peer);
        }
    }
}

/// What only who writes letters by hand can send.
#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use sealway_crypto_rustcrypto::RustCrypto;
    use sealway_identity::{CardParts, Owner, Policy};
    use sealway_testkit::entropy::{Seeded, seeded_provider};
    use sealway_vault::{Algorithm, SoftwareVault};
    use sealway_wire::Instance;

    use super::*;
    use crate::{Config, PrekeyKind};

    type TestVault = Arc<SoftwareVault<RustCrypto<Seeded>>>;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    struct Machine {
        endpoint: Endpoint<TestVault>,
        card: Card,
        letters: u128,
    }

    impl Machine {
        fn new(seed: u64) -> Self {
            let mut vault = SoftwareVault::new(seeded_provider(seed));
            let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
            let vault = Arc::new(vault);
            let card = owner.card(&vault, &CardParts::default()).unwrap();
            let mut config = Config::new(Instance([1; 4]));
            config.keeps_state = true;
            let mut endpoint = Endpoint::new(vault, owner, config);
            endpoint.make_prekeys(PrekeyKind::Classical);
            endpoint.handle_timeout(NOW);
            let id = endpoint.poll_prekey().unwrap().id;
            endpoint.prekey_written(NOW, id);
            Self { endpoint, card, letters: 0 }
        }

        fn id(&self) -> IdentityId {
            self.card.id()
        }

        fn write(&mut self) {
            while let Some(saved) = self.endpoint.poll_saved() {
                self.endpoint.written(&saved.peer, saved.session);
            }
            while let Some(saved) = self.endpoint.poll_handshake() {
                self.endpoint.handshake_written(&saved.peer, saved.number);
            }
        }

        /// The frame in the letter that is due for `peer`.
        fn flight(&mut self, peer: &IdentityId) -> Option<Vec<u8>> {
            self.write();
            let due = self.endpoint.flight_due(NOW, peer)?;
            let stage = self.endpoint.mailed.get(peer).unwrap().stage(NOW).unwrap();
            let frame = match stage {
                Stage::AwaitingMessage2 { .. } => self.endpoint.first_flight(stage).unwrap().frame,
                Stage::AwaitingMessage3 { .. } => self.endpoint.second_flight(NOW, stage).unwrap().frame,
                Stage::AwaitingStart { message3, .. } => message3.clone(),
                Stage::Starting { .. } => Vec::new(),
            };
            assert_eq!(due.is_letter, !frame.is_empty());
            self.endpoint.flight_left(NOW, peer, due.number);
            Some(frame)
        }

        fn take(&mut self, sender: &Card, frame: &[u8]) -> Result<(), FrameError> {
            self.letters += 1;
            let seen = Seen { prekey: 0, letter: self.letters.to_be_bytes() };
            self.endpoint.handle_flight(NOW, &Peer::of_card(sender, true), seen, frame)
        }
    }

    fn three() -> [Machine; 3] {
        let mut machines = [1, 2, 3].map(Machine::new);
        let all = Policy::ids(machines.iter().map(Machine::id));
        machines.iter_mut().for_each(|machine| machine.endpoint.admit(&all));
        machines
    }

    #[test]
    fn a_flight_counts_for_the_handshake_of_its_sender_alone() {
        // Specification: [M63].
        let [mut initiator, mut responder, mut thief] = three();
        initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
        let first = initiator.flight(&responder.id()).unwrap();
        responder.take(&initiator.card, &first).unwrap();
        let second = responder.flight(&initiator.id()).unwrap();
        // Who has seen them, and is admitted itself, puts the same frames into letters of its own.
        initiator.take(&thief.card, &second).unwrap();
        assert_eq!(initiator.flight(&responder.id()), None, "S1.2 of another");
        initiator.take(&responder.card, &second).unwrap();
        let third = initiator.flight(&responder.id()).unwrap();
        responder.take(&thief.card, &third).unwrap();
        assert_eq!(responder.endpoint.channel_with(&initiator.id()), None, "S1.3 of another");
        // The thief's own handshake with the responder does not become one of the initiator.
        thief.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
        let first = thief.flight(&responder.id()).unwrap();
        let mut other = Machine::new(4);
        other.endpoint.admit(&Policy::ids([initiator.id(), thief.id()]));
        thief.endpoint.admit(&Policy::ids([other.id()]));
        // In the initiator's letter, as who has stolen the responder's prekey could write it.
        responder.take(&initiator.card, &first).unwrap();
        let second = responder.flight(&initiator.id()).unwrap();
        thief.take(&responder.card, &second).unwrap();
        let forged = thief.flight(&responder.id()).unwrap();
        assert_eq!(responder.take(&initiator.card, &forged), Err(FrameError::Rejected));
        assert_eq!(responder.endpoint.channel_with(&initiator.id()), None);
        assert_eq!(responder.endpoint.channel_with(&thief.id()), None);
    }

    #[test]
    fn what_is_no_flight_is_refused_by_name() {
        let [mut initiator, mut responder, _] = three();
        initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
        let first = initiator.flight(&responder.id()).unwrap();
        let (card, own) = (initiator.card.clone(), initiator.id());
        let mut take = |frame: &[u8]| responder.take(&card, frame).unwrap_err();
        assert!(matches!(take(&[]), FrameError::Decode(_)));
        assert!(matches!(take(&first[..1245]), FrameError::Decode(_)));
        // A cookie has no place in it, nor has S1.R, nor a record, nor a letter.
        let with_cookie = [&first[..9], &[7; 16], &first[9..]].concat();
        let retry = [&[0x14], [1; 24].as_slice()].concat();
        let record = [&[0xb8], [1; 40].as_slice()].concat();
        let letter = [&[0x31], [1; 200].as_slice()].concat();
        for frame in [with_cookie, retry, record, letter] {
            assert!(matches!(take(&frame), FrameError::Decode(_)), "{:02x}", frame[0]);
        }
        // Damage anywhere: S1.1 does not open, and nothing begins.
        for at in 1..first.len() {
            let mut damaged = first.clone();
            damaged[at] ^= 1;
            take(&damaged);
        }
        assert!(responder.flight(&own).is_none());
    }
}
