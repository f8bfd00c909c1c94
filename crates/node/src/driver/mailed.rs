//! Handshakes by letter: with a peer that is never there when we are. Their flights are left in its box, as messages are; what
//! follows goes under the session that comes of one.

use std::time::Duration;

use sealway_channel::{ChannelId, Flight, Saved, SavedHandshake, StateError};
use sealway_routing::{Batch, Table};
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, IdentityId, Timestamp,
    hop::{Custody, Verdict},
};

use super::{
    Driver,
    custody::{Outstanding, Pushed, REFUSED},
    letters::letter_seconds,
    peers::Stored,
};

/// What of a handshake by letter is on its way to the relay, and when there may be more to leave.
#[derive(Default)]
pub(super) struct Mail {
    /// The number of the deposit that the relay has not answered, and since when.
    leaving: Option<(u64, Timestamp)>,
    pub(super) next: Option<Timestamp>,
}

impl Mail {
    /// The hop session has ended in which a flight was left.
    pub(super) const fn unanswered(&mut self) {
        (self.leaving, self.next) = (None, None);
    }

    /// There is another reason to look: the peer is there, or what was missing has come.
    pub(super) const fn look_anew(&mut self) {
        self.next = None;
    }

    const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    /// The flight that is to be left now in the box of a peer.
    pub(super) fn due_flight(&mut self, now: Timestamp, id: IdentityId) -> Option<Flight> {
        let mail = &mut self.peers.get_mut(&id)?.away.mail;
        // A relay that has not answered by now has lost the question, or the answer.
        mail.leaving.take_if(|(_, since)| now.since(*since) >= REFUSED);
        mail.next.take_if(|at| *at <= now);
        if mail.is_leaving() || mail.next.is_some() {
            return None;
        }
        self.endpoint.flight_due(now, &id)
    }

    /// There is something to say to a peer that is away, and no session to say it under: one is begun.
    pub(super) fn begin_by_letter(&mut self, now: Timestamp, id: IdentityId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let card = peer.card.as_ref().filter(|_| !peer.shared.outgoing().outbox.is_empty());
        if let Some(card) = card
            && let Err(error) = self.endpoint.begin_by_letter(now, card)
        {
            tracing::debug!(peer = %id.short(), %error, "no handshake by letter is begun");
        }
    }

    /// Leaves the flight that is due in the box of a peer, if one is.
    pub(super) fn deposit_flight(&mut self, now: Timestamp, id: IdentityId, way: (usize, ChannelId, BoxName)) {
        let due = self.due_flight(now, id);
        let Some(peer) = self.peers.get(&id) else { return };
        let prekey = peer.away.letters.fresh(now);
        match due {
            None => {
                let later = self.endpoint.flight_due_at(&id).map(|at| at.max(now.after(REFUSED)));
                let mail = self.peers.get_mut(&id).map(|peer| &mut peer.away.mail);
                mail.into_iter().for_each(|mail| mail.next = mail.next.or(later));
            }
            // A session is there, and the peer begins anew all the same: it has lost it.
            Some(Flight { is_letter: true, .. }) if prekey.is_none() => {
                self.ask_for_prekey(now, id, way);
                self.retry_flight(now, id, REFUSED);
            }
            Some(flight) => {
                let payload = self.payload_for(peer);
                let mut frame = std::mem::take(&mut self.scratch.inner);
                match self.endpoint.seal_flight(now, &id, prekey, &payload, &mut frame) {
                    Ok(len) => {
                        let outstanding = Outstanding::Flight { peer: id, number: flight.number };
                        let seconds = if flight.is_letter { letter_seconds(0) } else { 0 };
                        let number = self.deposit(now, way, seconds, &frame[..len], outstanding);
                        if let Some(peer) = self.peers.get_mut(&id) {
                            peer.away.mail.leaving = number.map(|number| (number, now));
                            peer.away.mail.next = Some(now.after(REFUSED));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(peer = %id.short(), %error, "a part of a handshake was not sealed; it waits");
                        self.retry_flight(now, id, REFUSED);
                    }
                }
                self.scratch.inner = frame;
            }
        }
    }

    pub(super) fn retry_flight(&mut self, now: Timestamp, id: IdentityId, after: Duration) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| !self.paired.contains_key(&id)) {
            peer.away.mail.next = Some(now.after(after));
        }
    }

    /// The relay has answered the deposit `deposit`, of the flight `number`.
    pub(super) fn flight_answered(
        &mut self,
        now: Timestamp,
        id: IdentityId,
        (deposit, number): (u64, u64),
        outcome: Custody,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.away.mail.leaving.take_if(|(leaving, _)| *leaving == deposit).is_none() {
            return;
        }
        if matches!(outcome, Custody::Kept { .. }) {
            self.endpoint.flight_left(now, &id, number);
            peer.away.mail.next = None;
            // There may be more, and there will be if it is not answered.
            peer.awake = true;
        } else {
            self.retry_flight(now, id, REFUSED);
        }
    }

    /// A flight has come out of our box, or START, from `id`. The relay may forget it when what it has changed is on disk.
    pub(super) fn flight_came(&mut self, now: Timestamp, id: IdentityId, pushed: Pushed) {
        // There may be a session now.
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.channel.is_none()
            && let Some(channel) = self.endpoint.channel_with(&id)
        {
            peer.channel = Some(channel);
            self.by_channel.insert(channel, id);
        }
        if !self.write_states(Some(pushed)) {
            // What it has changed may be on its way to the disk.
            let is_on_disk = self.endpoint.handshake_is_on_disk(&id);
            self.give_verdict(now, pushed, if is_on_disk { Verdict::Done } else { Verdict::Later });
        }
        self.look_for_flights(now, id);
    }

    /// What has come may have changed what is to be left.
    fn look_for_flights(&mut self, now: Timestamp, id: IdentityId) {
        self.peers.get_mut(&id).into_iter().for_each(|peer| peer.away.mail.look_anew());
        self.may_deposit_again(now, id);
    }

    /// Has sessions and handshakes by letter written that have changed: in one step, for each is of no use without the other.
    /// Returns whether there were any; then the verdict about `pushed` waits for them.
    pub(super) fn write_states(&mut self, pushed: Option<Pushed>) -> bool {
        let (mut batch, mut what) = (Batch::default(), Vec::new());
        while let Some(Saved { peer, session, state }) = self.endpoint.poll_saved() {
            let key = [peer.0.as_slice(), &session.0].concat();
            match state {
                Some(state) => {
                    batch.put(Table::Sessions, key, state);
                    what.push(Stored::Session { peer, session });
                }
                None => batch.delete(Table::Sessions, key),
            }
        }
        while let Some(SavedHandshake { peer, number, state }) = self.endpoint.poll_handshake() {
            let key = peer.0.to_vec();
            match state {
                Some(state) => batch.put(Table::Handshakes, key, state),
                None => batch.delete(Table::Handshakes, key),
            }
            what.push(Stored::Handshake { peer, number });
        }
        let Some(writer) = self.writer.as_ref().filter(|_| !batch.is_empty()) else { return false };
        what.extend(pushed.map(Stored::Taken));
        writer.write(batch, Stored::Several(what));
        true
    }

    pub(super) fn handshake_written(&mut self, now: Timestamp, id: IdentityId, number: u64) {
        self.endpoint.handshake_written(&id, number);
        self.look_for_flights(now, id);
    }

    pub(super) fn handshake_not_written(&mut self, now: Timestamp, id: IdentityId, number: u64) {
        self.endpoint.handshake_not_written(&id, number);
        self.retry_flight(now, id, REFUSED);
    }

    pub(super) fn restore_handshake(&mut self, now: Timestamp, key: &[u8], state: &[u8]) -> bool {
        let Ok(id) = key.try_into().map(IdentityId) else { return false };
        let restored = self.endpoint.restore_handshake(now, id, state);
        if let Err(error) = &restored {
            tracing::warn!(%error, "a handshake by letter of an earlier run cannot be taken back");
        }
        // What the vault does not open now it may open at another start.
        !matches!(restored, Err(error) if !matches!(error, StateError::Vault(_)))
    }

    /// Whether a flight of a handshake by letter is about to leave: on its way to the disk, or to the relay.
    pub(super) fn leaves_flights(&self) -> bool {
        let is_leaving = |(id, peer): (&IdentityId, &super::Peer)| {
            peer.away.mail.is_leaving() || self.endpoint.flight_is_being_written(id)
        };
        self.writer.is_some() && self.peers.iter().any(is_leaving)
    }
}
