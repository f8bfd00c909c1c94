//! Sealing, opening, and what typed records mean.

use sealway_vault::Vault;
use sealway_wire::{
    Cid, DecodeError, Lane, Reason, RecordHeader, TAG_LEN, Timestamp,
    content::{CloseReason, Content, Reliable},
};

use super::{ChannelId, Endpoint, Event, Outgoing, Received, Record};
use crate::{
    Context, FrameError, PostQuantum, Profile, SendError,
    channel::{Attempt, Established},
    lane::Plaintext,
};

/// When a record is to be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acknowledge {
    /// An ACK is not acknowledged.
    Never,
    /// Within a second or 64 records.
    Soon,
    /// The sender waits for it.
    AtOnce,
}

impl<V: Vault + Clone + 'static> Endpoint<V> {
    pub(super) fn handle_record<'f>(
        &mut self,
        now: Timestamp,
        header: RecordHeader,
        frame: &'f mut [u8],
    ) -> Result<Received<'f>, FrameError> {
        let cid = header.cid.ok_or(FrameError::UnknownConnection)?;
        let id = *self.by_cid.get(&cid).ok_or(FrameError::UnknownConnection)?;
        let channel = self.channels.get_mut(&id).ok_or(FrameError::UnknownConnection)?;
        let provider = self.vault.provider();
        let content = frame.len().saturating_sub(header.len() + TAG_LEN);
        if content > channel.limit {
            let reason = Reason::TooLong { limit: channel.limit, got: content };
            return Err(DecodeError::new("data content", reason).into());
        }
        let opened = if let Some(established) = channel.by_cid(cid) {
            established.session.open(provider, now, &header, frame)?
        } else if let Attempt::Message3 { finished, path, .. } = &mut channel.attempt {
            // The responder's first record: now the session is one, and the handshake is over.
            if finished.session.local != cid {
                return Err(FrameError::UnknownConnection);
            }
            let opened = finished.session.open(provider, now, &header, frame)?;
            let path = *path;
            if let Attempt::Message3 { finished, .. } = core::mem::replace(&mut channel.attempt, Attempt::Idle) {
                let gone = channel.establish(Established::new(now, finished.session, path, None));
                gone.map(|cid| self.by_cid.remove(&cid));
            }
            let peer = channel.peer;
            for withheld in self.half_open.withheld(|accepted| accepted.session.peer.id() == peer) {
                self.half_open.remove(withheld);
            }
            opened
        } else {
            return Err(FrameError::UnknownConnection);
        };
        let plaintext = &frame[opened.plaintext];
        if !header.typed {
            self.heard(now, id, cid, header.lane, false, Acknowledge::Soon);
            return Ok(Received::Record { channel: id, lane: header.lane, record: Record::Datagram(plaintext) });
        }
        self.handle_content(now, id, cid, header.lane, plaintext, opened.is_news)
    }

    fn handle_content<'f>(
        &mut self,
        now: Timestamp,
        id: ChannelId,
        cid: Cid,
        lane: Lane,
        plaintext: &'f [u8],
        is_news: bool,
    ) -> Result<Received<'f>, FrameError> {
        let content = match Content::decode(plaintext) {
            // What the stored lane carries may be repeated by anybody: it has to be harmless then.
            Ok(content) if lane == Lane::Live || matches!(content, Content::Reliable(_)) => content,
            refused => {
                let unknown = DecodeError::new("stored content", Reason::Unknown { value: 0 });
                let error = refused.err().unwrap_or(unknown);
                // It was sealed by the peer: it is the peer that does not speak this protocol.
                self.close(id, CloseReason::Protocol);
                self.events.push_back(Event::Closed { channel: id, reason: CloseReason::Protocol });
                return Err(error.into());
            }
        };
        let is_start = matches!(content, Content::Start(_));
        let ack = match content {
            Content::Ack(_) => Acknowledge::Never,
            Content::Start(_) | Content::Ping => Acknowledge::AtOnce,
            _ => Acknowledge::Soon,
        };
        if is_news {
            self.heard(now, id, cid, lane, is_start, ack);
        }
        let record = |record| Received::Record { channel: id, lane, record };
        let Some(established) = self.channels.get_mut(&id).and_then(|channel| channel.by_cid(cid)) else {
            return Err(FrameError::UnknownConnection);
        };
        Ok(match content {
            Content::Start(start) => {
                established.session.peer_instance = Some(start.instance);
                Received::Nothing
            }
            Content::Data(body) => record(Record::Datagram(body)),
            Content::Reliable(message) => match message.instance.or(established.session.peer_instance) {
                Some(instance) => {
                    let Reliable { number, lowest, body, .. } = message;
                    record(Record::Message { instance, number, lowest, body })
                }
                // Its START is still on the way; the message is repeated until it is committed.
                None => Received::Nothing,
            },
            Content::Ack(ack) => {
                established.acknowledged(ack.lane, &ack.opened);
                ack.committed.map_or(Received::Nothing, |committed| record(Record::Committed(committed)))
            }
            Content::Ping => Received::Nothing,
            Content::Close(reason) => {
                // One that was held back until a later session was there ends only what came before that.
                let ended = self.channels.get_mut(&id).and_then(|channel| channel.end_up_to(cid));
                if let Some(ended) = ended {
                    self.by_cid.retain(|cid, _| !ended.contains(cid));
                    self.reschedule(id);
                    return Ok(Received::Nothing);
                }
                self.forget(id);
                self.events.push_back(Event::Closed { channel: id, reason });
                Received::Nothing
            }
        })
    }

    /// Takes note of an authentic record.
    fn heard(&mut self, now: Timestamp, id: ChannelId, cid: Cid, lane: Lane, is_start: bool, ack: Acknowledge) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let was_open = channel.sending.is_some();
        let moved = channel.heard(now, cid, is_start);
        if let Some(established) = channel.by_cid(cid)
            && ack != Acknowledge::Never
        {
            established.wants_ack(now, lane, ack == Acknowledge::AtOnce);
        }
        if moved {
            channel.succeeded();
            let peer = channel.by_cid(cid).map(|established| established.session.peer.clone());
            self.events.extend(peer.map(|peer| match was_open {
                true => Event::Renewed { channel: id, peer },
                false => {
                    let context = Context {
                        profile: Profile::S1,
                        post_quantum: PostQuantum::Recorded,
                        unclocked: peer.is_unclocked(),
                    };
                    Event::Opened { channel: id, peer, context }
                }
            }));
        }
        self.reschedule(id);
    }

    pub(super) fn seal(
        &mut self,
        now: Timestamp,
        id: ChannelId,
        lane: Lane,
        plaintext: Plaintext<'_>,
        expects_answer: bool,
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        let channel = self.channels.get_mut(&id).ok_or(SendError::UnknownChannel)?;
        let limit = channel.limit;
        let current = channel.current().ok_or(SendError::NotOpen)?;
        let path = current.path;
        let sealed = current.session.seal(self.vault.provider(), lane, plaintext, limit, out);
        if sealed == Err(SendError::LaneStopped) {
            channel.wanted |= channel.can_initiate();
            self.reschedule(id);
        }
        let outgoing = Outgoing { path, len: sealed?.len };
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(outgoing) };
        if expects_answer {
            channel.spoke(now);
            self.reschedule(id);
        }
        Ok(outgoing)
    }
}
