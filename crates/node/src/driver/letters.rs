//! Letters: what is sealed to a prekey of a peer with whom there is no session, and left in its box. The own prekeys, which the
//! relays serve to those who may send to us.

use std::time::Duration;

use sealway_channel::{
    ChannelId, Deposit, FrameError, HandshakeError, OpenedLetter, PREKEY_TIME, PrekeyKind, SavedPrekey, SendError,
    Source, StateError,
};
use sealway_identity::{IdentityError, Mailbox, PayloadParts, Prekey, UnverifiedPrekey};
use sealway_routing::{Batch, Table};
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, IdentityId, Timestamp, VarInt,
    hop::{DiscardReason, HopFrame, Verdict},
};

use super::{
    Driver,
    custody::{Pushed, REFUSED},
    peers::Stored,
};

/// A prekey is asked for again after so long: its owner may have replaced it.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// So long a handshake is waited for before letters are written to a peer that can be called: what comes under a session is
/// worth more, and two that start at once meet within a second.
const PATIENCE: Duration = Duration::from_secs(1);
/// A question that the relay has not answered by then is asked again.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Questions that a relay is asked at a time: it works on no more. The others come in turn.
const QUESTIONS: usize = 32;
const IN_TURN: Duration = Duration::from_millis(200);

/// To what letters to a peer are sealed.
#[derive(Default)]
pub(super) struct Letters {
    /// The newest prekey of the peer that we have seen, and when its relay named it last.
    prekey: Option<(Prekey, Timestamp)>,
    /// Since when the relay has been asked.
    asked: Option<Timestamp>,
    /// How often in succession it had none.
    refusals: u32,
}

impl Letters {
    /// The hop session has ended in which it was asked.
    pub(super) const fn unanswered(&mut self) {
        self.asked = None;
    }

    /// The peer is there: what its relay had none of before it may have by now.
    pub(super) const fn met(&mut self) {
        self.refusals = 0;
    }

    pub(super) const fn can_be_written(&self) -> bool {
        self.prekey.is_some()
    }

    pub(super) fn fresh(&self, now: Timestamp) -> Option<&Prekey> {
        self.prekey.as_ref().filter(|(_, named)| now.since(*named) < FRESH).map(|(prekey, _)| prekey)
    }
}

/// How many seconds a relay is asked to keep a letter: no longer than its prekey is certain to be there.
pub(super) fn letter_seconds(wanted: u64) -> u64 {
    let longest = PREKEY_TIME.as_secs();
    if wanted == 0 { longest } else { wanted.min(longest) }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    // ---- as a sender ----

    /// Whether letters can be sealed to a peer now. If not, its relay is asked for a prekey; the answer wakes the peer.
    pub(super) fn may_write_letters(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        way: (usize, ChannelId, BoxName),
    ) -> bool {
        let has_flight = self.due_flight(now, id).is_some();
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let patient_until = peer.away.since.map(|since| since.after(PATIENCE)).filter(|until| *until > now);
        let patient_until = patient_until.filter(|_| !self.is_leaving);
        let is_fresh = peer.away.letters.fresh(now).is_some();
        if is_fresh && patient_until.is_none() {
            return true;
        }
        if !self.endpoint.admitted().any(|admitted| *admitted == id) {
            // What waits to be told waits no longer.
            self.reports_failed(now, id);
            self.block(id);
            return false;
        }
        if peer.shared.outgoing().outbox.is_empty() && !peer.away.has_unreported() && !has_flight {
            (peer.awake, peer.blocked, peer.away.report_at) = (false, false, None);
            // Nothing is to be done when that time comes.
            peer.away.paused = peer.away.paused.filter(|until| *until > now);
            return false;
        }
        if !is_fresh
            && peer.away.paused.is_none_or(|until| until <= now)
            && !self.ask_for_prekey(now, id, way)
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.away.paused = Some(now.after(IN_TURN));
            peer.away.report_at = peer.away.report_at.map(|at| at.max(now.after(IN_TURN)));
            (peer.awake, peer.blocked) = (false, false);
            return false;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            let again = peer.away.letters.asked.map(|asked| asked.after(UNANSWERED));
            let until = peer.away.paused.filter(|until| *until > now).or(again);
            let until = until.or(patient_until).unwrap_or_else(|| now.after(UNANSWERED));
            peer.away.paused = Some(until);
            // What is to be told waits as long.
            peer.away.report_at = peer.away.report_at.map(|at| at.max(until));
            (peer.awake, peer.blocked) = (false, false);
        }
        false
    }

    /// Asks the relay for the prekey of a peer, unless it is asked already. `false`: it is asked for too many just now.
    pub(super) fn ask_for_prekey(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        (index, hop, name): (usize, ChannelId, BoxName),
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return true };
        let is_asked = peer.away.letters.asked.is_some_and(|asked| now.since(asked) < UNANSWERED);
        let Some(attachment) = self.dials[index].attachment().filter(|_| !is_asked) else { return true };
        attachment.questions.retain(|_, (asked, since)| *asked != id && now.since(*since) < UNANSWERED);
        if attachment.questions.len() >= QUESTIONS {
            return false;
        }
        let number = attachment.next_question;
        attachment.next_question += 1;
        attachment.questions.insert(number, (id, now));
        peer.away.letters.asked = Some(now);
        let number = VarInt::new(number).unwrap_or(VarInt::MAX);
        self.send_hop_frame(now, hop, &HopFrame::Fetch { number, name });
        true
    }

    /// Whether a relay is asked for a prekey to which something is to be told that it is not told otherwise.
    pub(super) fn asks_for_prekeys(&mut self, now: Timestamp) -> bool {
        let Self { peers, endpoint, .. } = self;
        peers.iter().any(|(id, peer)| {
            let mut says_more = || peer.away.has_unreported() || endpoint.flight_due(now, id).is_some();
            peer.away.letters.asked.is_some() && says_more()
        })
    }

    /// A relay has answered with the prekey of a peer, or with nothing.
    pub(super) fn fetched_prekey(&mut self, now: Timestamp, index: usize, number: VarInt, statement: &[u8]) {
        let attachment = self.dials[index].attachment();
        let question = attachment.and_then(|attachment| attachment.questions.remove(&number.get()));
        let Some((id, _)) = question else { return };
        let prekey = self.verified_prekey(id, statement);
        let is_away = self.is_away(id);
        let channel = self.peers.get(&id).and_then(|peer| peer.channel);
        let has_session = channel.is_some_and(|channel| self.endpoint.may_deposit(now, channel));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.away.letters.asked = None;
        match prekey {
            Ok(prekey) => {
                let is_lower = |(known, _): &(Prekey, Timestamp)| prekey.rank() < known.rank();
                if peer.away.letters.prekey.as_ref().is_some_and(is_lower) {
                    tracing::warn!(peer = %id.short(), "the relay names a prekey that was replaced");
                } else {
                    peer.away.letters.prekey = Some((prekey, now));
                    peer.away.letters.refusals = 0;
                    peer.away.paused = None;
                    peer.away.mail.look_anew();
                    peer.shared.outgoing().met();
                    peer.wake();
                    // What could not be told is told now.
                    self.may_deposit_again(now, id);
                    return;
                }
            }
            Err(Some(error)) => tracing::warn!(peer = %id.short(), %error, "a prekey is refused"),
            Err(None) => tracing::debug!(peer = %id.short(), "the relay has no prekey of this peer for us"),
        }
        let refusals = peer.away.letters.refusals;
        peer.away.letters.refusals += 1;
        if has_session {
            // It was asked for a handshake alone.
            return self.retry_flight(now, id, (REFUSED * (1 << refusals.min(8))).min(FRESH));
        }
        peer.away.paused = is_away.then(|| now.after((REFUSED * (1 << refusals.min(8))).min(FRESH)));
        peer.blocked = false;
        // Nothing can be told either: what waits for that waits no longer.
        self.reports_failed(now, id);
    }

    /// `Err(None)`: there is none.
    fn verified_prekey(&self, id: IdentityId, statement: &[u8]) -> Result<Prekey, Option<IdentityError>> {
        if statement.is_empty() {
            return Err(None);
        }
        let prekey = UnverifiedPrekey::decode(statement).map_err(IdentityError::from);
        let prekey = prekey.and_then(|prekey| prekey.verify(self.endpoint.provider(), &id)).map_err(Some)?;
        // An identity that has rotated has taken its earlier prekeys back.
        if self.endpoint.is_current(&prekey) { Ok(prekey) } else { Err(Some(IdentityError::Superseded)) }
    }

    /// What a letter to a peer says of us: we have a box where the peer has one.
    pub(super) fn payload_for(&self, peer: &super::Peer) -> PayloadParts {
        let mailbox = peer.away.mailbox.map(|mailbox| Mailbox { name: self.contact_box, ..mailbox });
        mailbox.map_or_else(PayloadParts::default, PayloadParts::with_mailbox)
    }

    /// Seals for a peer's box: under the session, or as a letter where there is none.
    pub(super) fn seal_for_box(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        session: Option<ChannelId>,
        deposit: Deposit<'_>,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if let Some(channel) = session {
            return self.endpoint.seal_deposit(now, channel, deposit, out);
        }
        let peer = self.peers.get(&id).ok_or(SendError::UnknownChannel)?;
        let prekey = peer.away.letters.fresh(now).ok_or(SendError::NotOpen)?;
        let payload = self.payload_for(peer);
        let sealed = self.endpoint.seal_letter(prekey, &payload, deposit, out);
        self.statistics.letters_sent += u64::from(sealed.is_ok());
        sealed
    }

    // ---- as a recipient ----

    /// The relay hands over a letter that it has kept.
    pub(super) fn pushed_letter(&mut self, now: Timestamp, index: usize, pushed: Pushed, frame: &[u8]) {
        let mut frame = frame.to_vec();
        // What a relay brings is on its account.
        let source = Source::proven(u64::MAX - index as u64);
        match self.endpoint.open_letter(now, source, &mut frame) {
            Ok(letter) => self.take_letter(now, index, pushed, letter),
            // The application may name the sender yet.
            Err(
                FrameError::Throttled | FrameError::Handshake(HandshakeError::Identity(IdentityError::NotAdmitted)),
            ) => {
                self.give_verdict(now, pushed, Verdict::Later);
            }
            Err(error @ FrameError::Decode(_)) => {
                self.statistics.refused(&error);
                self.give_verdict(now, pushed, Verdict::Discard(DiscardReason::Protocol));
            }
            Err(error) => {
                self.statistics.refused(&error);
                tracing::debug!(%error, "a letter that the relay has kept does not open");
                self.give_verdict(now, pushed, Verdict::Unopened);
            }
        }
    }

    fn take_letter(&mut self, now: Timestamp, index: usize, pushed: Pushed, letter: OpenedLetter<'_>) {
        let OpenedLetter { sender, prekey, record } = letter;
        let id = sender.id();
        if self.is_relay_of_ours(id) {
            return self.give_verdict(now, pushed, Verdict::Discard(DiscardReason::Protocol));
        }
        self.statistics.letters_received += u64::from(record.is_some());
        let relay = self.dials[index].card.id();
        let peer = self.peers.entry(id).or_insert_with(|| super::Peer::new(id, &self.common));
        // Where it can be answered, unless its card has said so, or there is a session. Also by a later run.
        let is_known_otherwise = peer.card.is_some() || peer.channel.is_some();
        let mailbox = sender.mailbox().filter(|mailbox| mailbox.relay == relay);
        if let Some(mailbox) = mailbox.filter(|mailbox| !is_known_otherwise && peer.away.mailbox != Some(*mailbox)) {
            peer.away.mailbox = Some(mailbox);
            let mut batch = Batch::default();
            batch.put(Table::Peers, id.0.to_vec(), [mailbox.relay.0.as_slice(), &mailbox.name.0].concat());
            self.write(batch, Stored::Removed);
        }
        match record {
            Some(record) => self.take_pushed(now, id, pushed, record, Some(prekey)),
            None => self.flight_came(now, id, pushed),
        }
    }

    /// Takes back where a peer can be answered that was known by letters alone.
    pub(super) fn restore_mailbox(&mut self, key: &[u8], value: &[u8]) -> bool {
        let (Ok(id), Some((relay, name))) = (key.try_into(), value.split_first_chunk::<32>()) else { return false };
        let Ok(name) = name.try_into().map(BoxName) else { return false };
        let id = IdentityId(id);
        let peer = self.peers.entry(id).or_insert_with(|| super::Peer::new(id, &self.common));
        peer.away.mailbox.get_or_insert(Mailbox { relay: IdentityId(*relay), name });
        true
    }

    // ---- the own prekeys ----

    /// Tells inboxes which prekeys there are: as long as one is, letters that were sealed to it can come again.
    pub(super) fn tell_prekeys(&mut self) {
        let prekeys = self.endpoint.prekeys();
        self.peers.values_mut().for_each(|peer| peer.tell_prekeys(prekeys));
    }

    /// From now on there are prekeys. They outlive no run without a store: then nobody could open what a relay keeps.
    pub(super) const fn make_prekeys(&mut self) {
        if self.writer.is_some() {
            self.endpoint.make_prekeys(PrekeyKind::Hybrid);
        }
    }

    pub(super) fn restore_prekey(&mut self, now: Timestamp, state: &[u8]) -> bool {
        let restored = self.endpoint.restore_prekey(now, state);
        if let Err(error) = &restored {
            tracing::warn!(%error, "a prekey of an earlier run cannot be taken back");
        }
        // What the vault does not open now it may open at another start.
        !matches!(restored, Err(error) if !matches!(error, StateError::Vault(_)))
    }

    /// Has prekeys written that have changed.
    pub(super) fn write_prekeys(&mut self) {
        let mut are_others = false;
        while let Some(SavedPrekey { id, state }) = self.endpoint.poll_prekey() {
            are_others = true;
            let mut batch = Batch::default();
            match state {
                Some(state) => {
                    batch.put(Table::Prekeys, id.0.to_vec(), state);
                    self.write(batch, Stored::Prekey(id));
                }
                None => {
                    batch.delete(Table::Prekeys, id.0.to_vec());
                    self.write(batch, Stored::Removed);
                }
            }
        }
        if are_others {
            self.tell_prekeys();
        }
    }

    /// Has all relays serve the newest prekey, if it is another one than before.
    pub(super) fn publish_prekey(&mut self, now: Timestamp) {
        let newest = self.endpoint.prekey_id();
        if std::mem::replace(&mut self.published, newest) == newest {
            return;
        }
        let attached = |dial: &mut super::Dial| {
            let is_attached = dial.attachment().is_some_and(|attachment| attachment.attached);
            dial.channel.filter(|_| is_attached)
        };
        let hops: Vec<ChannelId> = self.dials.iter_mut().filter_map(attached).collect();
        hops.into_iter().for_each(|hop| self.publish_prekey_at(now, hop));
    }

    pub(super) fn publish_prekey_at(&mut self, now: Timestamp, hop: ChannelId) {
        match self.endpoint.published_prekey() {
            Ok(Some((_, statement))) => {
                let name = self.contact_box;
                self.send_hop_frame(now, hop, &HopFrame::Publish { name, statement: &statement });
            }
            // It follows when it is on disk.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "the vault does not sign our prekey: nobody can write to us while we are away")
            }
        }
    }
}
