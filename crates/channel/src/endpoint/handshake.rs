//! The three flights, on either side.

use alloc::{boxed::Box, vec::Vec};

use sealway_identity::IdentityError;
use sealway_vault::{CryptoProvider, Vault, VaultError};
use sealway_wire::{
    Cid, Frame, IdentityId, RecordHeader, Timestamp,
    danger::{self, Protection},
    handshake::{MESSAGE_3_MAX, Message1, Message2, Message3, RETRY_LEN, Retry},
};

use super::{ChannelId, Endpoint, Event, Gate, PathId, Source, record::Acknowledge};
use crate::{
    FrameError, HandshakeError, MAX_RECORD,
    channel::{Attempt, HANDSHAKE_TIME},
    established::{Established, Repeat},
    expense::{COOKIES_FROM, COOKIES_FROM_OF_SOURCE},
    half_open::State,
    initiator::{AwaitingMessage2, Taken, encode},
    responder::{Admission, HalfOpen, Refused},
};

const MAX_ANSWERS: usize = 256;
/// Handshakes of one path that an S1.R is held against.
const MAX_TRIED: usize = 8;

/// The gate that S1.1 fits, of the channel keys that answer.
pub(super) fn gate_of<'g, P: CryptoProvider>(
    gates: &'g [Gate],
    provider: &P,
    now: Timestamp,
    message: &Message1<'_>,
) -> Option<&'g Gate> {
    let mut answering = gates.iter().filter(|gate| gate.until.is_none_or(|until| now < until));
    answering.find(|gate| gate.gate.fits(provider, message))
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    /// Whether a frame that nobody has vouched for, of `total` octets, is worth waiting for until all of it has come: it begins
    /// with `head`. So it is with a first message of somebody who has our card, with the other messages of a handshake that runs,
    /// and with a record of a session.
    #[must_use]
    pub fn is_worth_waiting_for(&self, now: Timestamp, head: &[u8], total: usize) -> bool {
        if head.first().is_some_and(|kind| RecordHeader::is_data(*kind)) {
            let header = RecordHeader::decode(head).ok().filter(|_| total <= MAX_RECORD);
            return header.and_then(|(header, _)| header.cid).is_some_and(|cid| self.by_cid.contains_key(&cid));
        }
        // What is checked lies in the beginning: the rest may be anything.
        let mut whole = [0; MESSAGE_3_MAX];
        let Some(frame) = whole.get_mut(..total) else { return false };
        let Some(beginning) = frame.get_mut(..head.len()) else { return false };
        beginning.copy_from_slice(head);
        match Frame::decode(frame) {
            Ok(Frame::Message1(message)) => gate_of(&self.gates, self.vault.provider(), now, &message).is_some(),
            Ok(Frame::Message2(message)) => self.by_cid.contains_key(&message.cid),
            Ok(Frame::Message3(message)) => self.half_open.contains(message.cid),
            _ => false,
        }
    }

    pub(super) fn handle_message1(
        &mut self,
        now: Timestamp,
        path: PathId,
        source: Source,
        message: &Message1<'_>,
    ) -> Result<(), FrameError> {
        let provider = self.vault.provider();
        let Gate { key: channel_key, gate, .. } =
            gate_of(&self.gates, provider, now, message).ok_or(FrameError::Gate)?;
        let key = provider.sha256(&[message.noise]);
        if let Some(answer) = self.half_open.repeated(&key) {
            let answer = answer.map(<[u8]>::to_vec);
            answer.into_iter().for_each(|frame| self.answer(path, frame));
            return Ok(());
        }
        // From here on the frame costs something: an address that exists, once for each e, so often for each source.
        let shown = |cookie| self.expense.cookies.is_ours(provider, now, cookie, source, message);
        let is_there = source.is_proven || message.cookie.is_some_and(shown);
        if !is_there {
            let is_pressed = self.half_open.len() >= COOKIES_FROM
                || self.half_open.of(source) >= COOKIES_FROM_OF_SOURCE
                || !self.expense.budget.takes_unproven(now);
            if is_pressed && !danger::is_off(Protection::Cookie) {
                let cookie = self.expense.cookies.of(provider, now, source, message.ephemeral())?;
                let proof = gate.retry_proof(provider, message.ephemeral(), &cookie);
                let mut frame = alloc::vec![0; RETRY_LEN];
                encode(&Frame::Retry(Retry { proof: &proof, cookie: &cookie }), &mut frame)?;
                self.answer(path, frame);
                return Err(FrameError::CookieWanted);
            }
        }
        if self.expense.recent.contains(message.ephemeral()) {
            return Err(FrameError::Replayed);
        }
        // What anybody may have sent is not charged to the one whose address it bears.
        if is_there && !self.expense.budget.takes(now, source) {
            return Err(FrameError::Throttled);
        }
        let cid = self.draw_cid()?;
        let random = u64::from_be_bytes(self.vault.provider().random()?);
        let half_open = HalfOpen::accept(&self.vault, &self.owner.id(), channel_key, cid, message)?;
        // Only now: who copies an e into a message of his own does not get the genuine one refused.
        self.expense.recent.insert(*message.ephemeral());
        let frame = half_open.frame.clone();
        let evicted = self.half_open.insert(now, cid, (key, *message.ephemeral()), source, half_open, random);
        evicted.iter().for_each(|evicted| self.expense.recent.forget(&evicted.ephemeral));
        self.answer(path, frame);
        Ok(())
    }

    /// A responder under load wants S1.1 once more, with a cookie.
    pub(super) fn handle_retry(&mut self, now: Timestamp, path: PathId, message: &Retry<'_>) -> Result<(), FrameError> {
        let waiting = self.first_flights.range((path, ChannelId(0))..=(path, ChannelId(u64::MAX)));
        let waiting: Vec<ChannelId> = waiting.take(MAX_TRIED).map(|(_, id)| *id).collect();
        for id in waiting {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let Attempt::Message1 { handshake, repeat, .. } = &mut channel.attempt else { continue };
            match handshake.take_cookie(self.vault.provider(), message)? {
                Taken::AtOnce => repeat.at_once(now),
                Taken::WithTheNext => {}
                Taken::Not => continue,
            }
            self.reschedule(id);
            return Ok(());
        }
        Err(FrameError::UnknownConnection)
    }

    pub(super) fn handle_message2(&mut self, now: Timestamp, message: &Message2<'_>) -> Result<(), FrameError> {
        let id = *self.by_cid.get(&message.cid).ok_or(FrameError::UnknownConnection)?;
        let channel = self.channels.get_mut(&id).ok_or(FrameError::UnknownConnection)?;
        match core::mem::replace(&mut channel.attempt, Attempt::Idle) {
            Attempt::Message1 { handshake, path, give_up, repeat } if handshake.cid == message.cid => {
                match handshake.handle_message2(&self.vault, message) {
                    Ok(finished) => {
                        let finished = Box::new(finished);
                        let (give_up, repeat) = (now.after(HANDSHAKE_TIME), Repeat::now(now));
                        channel.attempt = Attempt::Message3 { finished, path, give_up, repeat };
                    }
                    Err((handshake, error)) => {
                        channel.attempt = Attempt::Message1 { handshake, path, give_up, repeat };
                        return Err(error.into());
                    }
                }
            }
            other => {
                channel.attempt = other;
                // S1.2 once more: S1.3 is repeated by its own timer. Of a finished handshake it means nothing.
                if channel.attempt.cid() != Some(message.cid) && channel.by_cid(message.cid).is_none() {
                    return Err(FrameError::UnknownConnection);
                }
            }
        }
        self.reschedule(id);
        Ok(())
    }

    pub(super) fn handle_message3(
        &mut self,
        now: Timestamp,
        path: PathId,
        message: &Message3<'_>,
    ) -> Result<(), FrameError> {
        let hash = self.vault.provider().sha256(&[&message.cid.0, message.proof, message.noise]);
        if let Some(id) = self.by_cid.get(&message.cid).copied() {
            return self.handle_repeated_message3(now, path, id, message.cid, &hash);
        }
        let entry = self.half_open.get_mut(message.cid).ok_or(FrameError::UnknownConnection)?;
        if let State::AwaitingMessage3(half_open) = &mut entry.state {
            let known = |id: &IdentityId| self.known.get(id).copied();
            let admission = Admission { own: self.owner.id(), policy: &self.config.accept, known: &known };
            match half_open.handle_message3(&self.vault, message, admission) {
                Ok(accepted) => entry.state = State::Withheld(accepted),
                Err(Refused::Keep(error)) => return Err(error.into()),
                Err(Refused::Drop(error)) => {
                    self.half_open.remove(message.cid);
                    return Err(error.into());
                }
            }
        }
        let entry = self.half_open.get_mut(message.cid).ok_or(FrameError::UnknownConnection)?;
        let State::Withheld(accepted) = &entry.state else { return Err(FrameError::UnknownConnection) };
        if accepted.message3 != hash {
            return Err(FrameError::Rejected);
        }
        // Simultaneous handshakes: the one that the lower id has begun survives.
        let peer = accepted.session.peer().id();
        let own = self.by_peer.get(&peer).and_then(|id| self.channels.get(id));
        let own_runs = own.is_some_and(|channel| channel.attempt.is_running());
        if own_runs && self.owner.id() < peer && !danger::is_off(Protection::Yield) {
            return Err(FrameError::Yielding);
        }
        let removed = self.half_open.remove(message.cid).map(|entry| entry.state);
        let Some(State::Withheld(accepted)) = removed else { return Err(FrameError::UnknownConnection) };
        // It may have waited: a newer channel key can have become known since.
        let rank = accepted.session.peer().attestation().rank();
        if self.known.get(&peer).is_some_and(|known| rank < *known) {
            return Err(HandshakeError::Identity(IdentityError::Superseded).into());
        }
        self.known.insert(peer, rank);
        let id = self.channel_of(peer);
        let keeps = self.keeps(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            if let Some(cid) = channel.attempt.cid() {
                self.by_cid.remove(&cid);
            }
            // A path that was chosen for an earlier session may be of no use to this one.
            channel.is_pinned = false;
            // The peer's handshake takes the place of ours, unless it leads to nothing.
            channel.attempt = match channel.wanted {
                true => Attempt::Waiting { until: now.after(HANDSHAKE_TIME) },
                false => Attempt::Idle,
            };
            let established = Established::new(now, accepted.session, path, Some(accepted.message3));
            let gone = channel.establish(now, established, keeps);
            self.gone(peer, keeps, gone);
        }
        self.by_cid.insert(message.cid, id);
        if danger::is_off(Protection::Confirm) {
            self.heard(now, id, message.cid, false, Acknowledge::Never);
        }
        self.save(id, message.cid);
        self.reschedule(id);
        Ok(())
    }

    /// A repeated S1.3 gets START anew: ours may have been lost.
    fn handle_repeated_message3(
        &mut self,
        now: Timestamp,
        path: PathId,
        id: ChannelId,
        cid: Cid,
        hash: &[u8; 32],
    ) -> Result<(), FrameError> {
        let channel = self.channels.get_mut(&id).ok_or(FrameError::UnknownConnection)?;
        let established = channel.by_cid(cid).ok_or(FrameError::UnknownConnection)?;
        if established.message3.as_ref() != Some(hash) {
            return Err(FrameError::Rejected);
        }
        established.repeat_start(now, path);
        self.reschedule(id);
        Ok(())
    }

    pub(super) fn begin(&mut self, now: Timestamp, id: ChannelId, jitter: u64) {
        let cid = self.draw_cid();
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (Some(card), Some(path)) = (&channel.card, channel.path) else { return };
        if self.known.get(&channel.peer).is_some_and(|known| card.attestation().rank() < *known) {
            // The peer has replaced the channel key on the card: whoever answers to it now is not the peer.
            channel.card = None;
            self.events.push_back(Event::CardSuperseded { channel: id });
            return;
        }
        let payload = self.owner.payload(&channel.payload).map_err(|_| FrameError::Vault(VaultError::Malformed));
        let begun = cid.and_then(|cid| {
            AwaitingMessage2::begin(&self.vault, &self.owner, card, cid, payload?).map(|handshake| (cid, handshake))
        });
        match begun {
            Ok((cid, handshake)) => {
                let (give_up, repeat) = (now.after(HANDSHAKE_TIME), Repeat::now(now));
                channel.attempt = Attempt::Message1 { handshake: Box::new(handshake), path, give_up, repeat };
                self.by_cid.insert(cid, id);
            }
            Err(_) => {
                // The vault or its randomness failed; it may work again later.
                channel.fail(now, jitter);
                self.events.push_back(Event::AttemptFailed { channel: id });
            }
        }
    }

    /// A connection id that no session or handshake of ours has.
    pub(super) fn draw_cid(&self) -> Result<Cid, FrameError> {
        loop {
            let cid = Cid(self.vault.provider().random()?);
            if !self.by_cid.contains_key(&cid) && !self.half_open.contains(cid) && !self.is_mailed(cid) {
                return Ok(cid);
            }
        }
    }

    fn answer(&mut self, path: PathId, frame: Vec<u8>) {
        if self.answers.len() < MAX_ANSWERS {
            self.answers.push_back((path, frame));
        }
    }
}
