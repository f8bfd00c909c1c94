//! Sealing, opening, and what typed records mean.

use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{
    Cid, DecodeError, Instance, Lane, Reason, RecordHeader, TAG_LEN, Timestamp,
    content::{Ack, CloseReason, Content, Reliable},
    danger::{self, Protection},
};

use super::{ChannelId, Endpoint, Event, Outgoing, PathId, Received, Record};
use crate::{
    Context, FrameError, PostQuantum, Profile, SendError, channel::Attempt, established::Established, lane::Plaintext,
};

/// When a record is to be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledge {
    /// An ACK is not acknowledged.
    Never,
    /// Within a second or 64 records.
    Soon,
    /// The sender waits for it.
    AtOnce,
}

pub(super) const fn message_of<'f>(instance: Instance, message: &Reliable<'f>) -> Record<'f> {
    let Reliable { number, lowest, unwanted, part, body, .. } = *message;
    Record::Message { instance, number, lowest, unwanted, part, body }
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    pub(super) fn handle_record<'f>(
        &mut self,
        now: Timestamp,
        path: PathId,
        header: RecordHeader,
        frame: &'f mut [u8],
    ) -> Result<Received<'f>, FrameError> {
        let cid = header.cid.ok_or(FrameError::UnknownConnection)?;
        let id = *self.by_cid.get(&cid).ok_or(FrameError::UnknownConnection)?;
        let keeps = self.keeps(id);
        let channel = self.channels.get_mut(&id).ok_or(FrameError::UnknownConnection)?;
        let provider = self.vault.provider();
        let content = frame.len().saturating_sub(header.len() + TAG_LEN);
        let (limit, is_pinned) = (channel.shape.limit, channel.is_pinned);
        if content > limit {
            let reason = Reason::TooLong { limit, got: content };
            return Err(DecodeError::new("data content", reason).into());
        }
        let opened = if header.lane == Lane::Stored {
            return self.handle_stored(now, id, cid, &header, frame);
        } else if let Some(established) = channel.by_cid(cid) {
            let opened = established.session.open(provider, now, &header, frame)?;
            if opened.is_newest && !is_pinned {
                established.heard_on(now, path, || provider.random().ok());
                if danger::is_off(Protection::Path) {
                    established.path = path;
                }
            }
            if !header.typed && channel.heard_again(now, cid) {
                let record = Record::Datagram(&frame[opened.plaintext]);
                return Ok(Received::Record { channel: id, lane: header.lane, record });
            }
            opened
        } else if let Attempt::Message3 { finished, path, .. } = &mut channel.attempt {
            // The responder's first record: now the session is one, and the handshake is over.
            if finished.session.local() != cid {
                return Err(FrameError::UnknownConnection);
            }
            let opened = finished.session.open(provider, now, &header, frame)?;
            let path = *path;
            let peer = channel.peer;
            if let Attempt::Message3 { finished, .. } = core::mem::replace(&mut channel.attempt, Attempt::Idle) {
                let gone = channel.establish(now, Established::new(now, finished.session, path, None), keeps);
                self.gone(peer, keeps, gone);
            }
            for withheld in self.half_open.withheld(|accepted| accepted.session.peer().id() == peer) {
                self.half_open.remove(withheld);
            }
            opened
        } else {
            return Err(FrameError::UnknownConnection);
        };
        let before = self.state_of(id, cid);
        let plaintext = &frame[opened.plaintext];
        if !header.typed {
            self.heard(now, id, cid, false, Acknowledge::Soon);
            self.save_if_changed(id, cid, before);
            return Ok(Received::Record { channel: id, lane: header.lane, record: Record::Datagram(plaintext) });
        }
        let received = self.handle_content(now, path, (id, cid), plaintext);
        self.save_if_changed(id, cid, before);
        received
    }

    /// A record that a relay has kept. It is no sign of life, and may be opened more than once.
    fn handle_stored<'f>(
        &mut self,
        now: Timestamp,
        id: ChannelId,
        cid: Cid,
        header: &RecordHeader,
        frame: &'f mut [u8],
    ) -> Result<Received<'f>, FrameError> {
        let channel = self.channels.get_mut(&id).ok_or(FrameError::UnknownConnection)?;
        // A session of an earlier run was admitted by that run's policy.
        if !self.config.accept.decide(&channel.peer).is_allow() {
            return Err(FrameError::NotAdmitted);
        }
        let stored = channel.stored_by_cid(cid).ok_or(FrameError::UnknownConnection)?;
        let opened = stored.open(self.vault.provider(), now, header, frame)?;
        if stored.is_crowded() {
            // More of the peer's restarts in one session than are followed: time for another session.
            channel.wanted |= channel.can_initiate();
        }
        let before = self.state_of(id, cid);
        let Some(channel) = self.channels.get_mut(&id) else { return Err(FrameError::UnknownConnection) };
        channel.stored_heard(now, cid);
        let Some(stored) = channel.stored_by_cid(cid) else { return Err(FrameError::UnknownConnection) };
        stored.confirmed = true;
        let (peer_instance, role) = (stored.peer_instance, stored.role);
        let peer = channel.peer;
        self.save_if_changed(id, cid, before);
        let content = Content::decode(&frame[opened.plaintext]);
        self.mailed_heard(now, peer, (cid, role), matches!(content, Ok(Content::Start(_))));
        self.reschedule(id);
        let record = |record| Ok(Received::Record { channel: id, lane: Lane::Stored, record });
        match content {
            // What it says of instances is said by each message, too.
            Ok(Content::Start(_)) => Ok(Received::Nothing),
            Ok(Content::Reliable(message)) => match message.instance.or(peer_instance) {
                Some(instance) => record(message_of(instance, &message)),
                None => Err(FrameError::UnknownConnection),
            },
            Ok(Content::Ack(Ack { committed: Some(committed), .. })) => record(Record::Committed(committed)),
            // It was sealed by the peer; what is not harmless when repeated has no place here.
            Ok(_) => Err(DecodeError::new("stored content", Reason::Unknown { value: 0 }).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What of the state at rest can change while a session lives.
    fn state_of(&mut self, id: ChannelId, cid: Cid) -> Option<(bool, Option<Instance>)> {
        let stored = self.channels.get_mut(&id).and_then(|channel| channel.stored_by_cid(cid))?;
        Some((stored.confirmed, stored.peer_instance))
    }

    fn save_if_changed(&mut self, id: ChannelId, cid: Cid, before: Option<(bool, Option<Instance>)>) {
        let now = self.state_of(id, cid);
        if now.is_some() && now != before {
            self.save(id, cid);
        }
    }

    fn handle_content<'f>(
        &mut self,
        now: Timestamp,
        path: PathId,
        (id, cid): (ChannelId, Cid),
        plaintext: &'f [u8],
    ) -> Result<Received<'f>, FrameError> {
        let content = match Content::decode(plaintext).and_then(of_this_profile) {
            Ok(content) => content,
            // Without tags anybody could end the channel: the test wants to see worse.
            #[cfg(sealway_break)]
            Err(error) if danger::is_off(Protection::Tag) => {
                return Err(error.into());
            }
            Err(error) => {
                // It was sealed by the peer: it is the peer that does not speak this protocol.
                self.close(id, CloseReason::Protocol);
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.tells_closed = true;
                }
                return Err(error.into());
            }
        };
        let is_start = matches!(content, Content::Start(_));
        let ack = match content {
            Content::Ack(_) | Content::Path(_) | Content::PathReply(_) => Acknowledge::Never,
            Content::Start(_) | Content::Ping => Acknowledge::AtOnce,
            _ => Acknowledge::Soon,
        };
        self.heard(now, id, cid, is_start, ack);
        let record = |record| Received::Record { channel: id, lane: Lane::Live, record };
        if let (Content::Start(start), Some(channel)) = (&content, self.channels.get_mut(&id)) {
            channel.peer_sealed_before(cid, start.stored_before);
        }
        let Some(channel) = self.channels.get_mut(&id) else { return Err(FrameError::UnknownConnection) };
        let (is_pinned, is_current) = (channel.is_pinned, channel.sending == Some(cid));
        let Some(established) = channel.by_cid(cid) else { return Err(FrameError::UnknownConnection) };
        Ok(match content {
            Content::Start(start) => {
                established.session.stored.peer_instance = Some(start.instance);
                Received::Nothing
            }
            Content::Data(body) => record(Record::Datagram(body)),
            Content::Reliable(message) => match message.instance.or(established.session.stored.peer_instance) {
                Some(instance) => record(message_of(instance, &message)),
                // Its START is still on the way; the message is repeated until it is committed.
                None => Received::Nothing,
            },
            Content::Ack(ack) => {
                if let Some((Lane::Live, opened)) = &ack.opened {
                    established.acknowledged(opened);
                    self.ping_answered(now, id, cid, opened);
                }
                ack.committed.map_or(Received::Nothing, |committed| record(Record::Committed(committed)))
            }
            Content::Ping => Received::Nothing,
            Content::Path(challenge) => {
                let is_elsewhere = established.path != path;
                established.challenged(path, challenge);
                self.reschedule(id);
                if is_pinned && is_current && is_elsewhere {
                    self.tell_once(Event::Challenged { channel: id, path });
                }
                Received::Nothing
            }
            Content::PathReply(challenge) => {
                let moves = established.path_answered(path, &challenge);
                let is_tried = established.trial_answered(path, &challenge);
                // Where our handshakes go is for the shell to say.
                if moves && is_current {
                    self.events.retain(|event| !matches!(event, Event::Moved { channel, .. } if *channel == id));
                    self.events.push_back(Event::Moved { channel: id, path });
                }
                if is_tried && is_current {
                    self.tell_once(Event::PathAnswered { channel: id, path });
                }
                Received::Nothing
            }
            Content::Candidates(candidates) => {
                let (addresses, answer_wanted) = (candidates.addresses().collect(), candidates.answer_wanted);
                self.events.retain(|event| !matches!(event, Event::Candidates { channel, .. } if *channel == id));
                self.events.push_back(Event::Candidates { channel: id, addresses, answer_wanted });
                Received::Nothing
            }
            // Refused above.
            Content::Rotate(_) | Content::Seed(_) | Content::Flight(_) => Received::Nothing,
            Content::Close(reason) => {
                // One that was held back until a later session was there ends only what came before that.
                let keeps = self.keeps(id);
                let Some(channel) = self.channels.get_mut(&id) else { return Ok(Received::Nothing) };
                let (peer, (gone, is_left)) = (channel.peer, channel.end_up_to(now, cid, keeps));
                self.gone(peer, keeps, gone);
                self.reschedule(id);
                if is_left {
                    return Ok(Received::Nothing);
                }
                self.live_lanes_ended(id);
                self.events.push_back(Event::Closed { channel: id, reason });
                Received::Nothing
            }
        })
    }

    /// Tells the shell, unless it is about to be told the same.
    fn tell_once(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }

    /// CLOSE ends the live lanes only: what was left at a relay may still come.
    pub(super) fn live_lanes_ended(&mut self, id: ChannelId) {
        match self.channels.get_mut(&id) {
            Some(channel) if !channel.kept.is_empty() => {
                let stale = channel.stop();
                stale.map(|cid| self.by_cid.remove(&cid));
                self.reschedule(id);
            }
            _ => self.forget(id),
        }
    }

    /// Takes note of an authentic record.
    pub(super) fn heard(&mut self, now: Timestamp, id: ChannelId, cid: Cid, is_start: bool, ack: Acknowledge) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let was_open = channel.sending.is_some();
        let moved = channel.heard(now, cid, is_start);
        if let Some(established) = channel.by_cid(cid)
            && ack != Acknowledge::Never
        {
            established.wants_ack(now, ack == Acknowledge::AtOnce);
        }
        if moved {
            channel.succeeded();
            let id_of_peer = channel.peer;
            let peer = channel.by_cid(cid).map(|established| established.session.peer().clone());
            // One is enough until the shell has heard of it: a peer that makes session after session fills nothing.
            let is_told = |event: &Event| matches!(event, Event::Opened { channel, .. } | Event::Renewed { channel, .. } if *channel == id);
            let peer = peer.filter(|_| !self.events.iter().any(is_told));
            self.events.extend(peer.map(|peer| match was_open {
                true => Event::Renewed { channel: id, peer },
                false => {
                    let context = Context {
                        profile: Profile::S1,
                        post_quantum: PostQuantum::Recorded,
                        unclocked: peer.is_unclocked(),
                        recovered: false,
                    };
                    Event::Opened { channel: id, peer, context }
                }
            }));
            // A session with a live lane is worth more.
            self.end_mailed(id_of_peer);
        }
        self.reschedule(id);
    }

    pub(super) fn seal(
        &mut self,
        now: Timestamp,
        id: ChannelId,
        plaintext: Plaintext<'_>,
        expects_answer: bool,
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        let channel = self.channels.get_mut(&id).ok_or(SendError::UnknownChannel)?;
        let shape = channel.shape;
        let current = channel.current().ok_or(SendError::NotOpen)?;
        // START is each side's first record, and waits until the session's state is written.
        if current.unsaved > 0 && !current.start_was_sent() {
            return Err(SendError::NotOpen);
        }
        let path = current.path;
        let sealed = current.session.seal(self.vault.provider(), plaintext, shape, out);
        if sealed == Err(SendError::LaneStopped) {
            channel.wanted |= channel.can_initiate();
            self.reschedule(id);
        }
        let outgoing = Outgoing { path, len: sealed?.len };
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(outgoing) };
        if expects_answer && channel.spoke(now) {
            self.reschedule(id);
        }
        Ok(outgoing)
    }
}

/// What a pairing is told of its keys belongs to the other profile.
fn of_this_profile(content: Content<'_>) -> Result<Content<'_>, DecodeError> {
    match content {
        Content::Rotate(_) => Err(DecodeError::new("content type", Reason::Unknown { value: 13 })),
        Content::Seed(_) => Err(DecodeError::new("content type", Reason::Unknown { value: 14 })),
        // Of letters.
        Content::Flight(_) => Err(DecodeError::new("content type", Reason::Unknown { value: 16 })),
        content => Ok(content),
    }
}
