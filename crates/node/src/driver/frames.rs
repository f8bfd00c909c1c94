//! Frames in and out, through the layers: link, hop channel, hop protocol, end-to-end channel.

use std::collections::HashMap;

use sealway_channel::{ChannelId, Endpoint, FrameError, HandshakeError, PathId, Received, Record, Source};
use sealway_link::{Frames, fragment::Fragment};
use sealway_routing::{Batch, ClientEvent, FlowId, Question, RelayEvent, SessionId, Table};
use sealway_vault::Vault;
use sealway_wire::{
    BoxName, IdentityId, RecordHeader, Timestamp,
    handshake::MESSAGE_1,
    hop::{HopFrame, Registration, Verdict},
};

use super::{Driver, Scratch, custody::Pushed, link::Link, peers::Stored};
use crate::links::LinkId;

/// A path is a link, by its number, or a flow: this bit, the number of the dial, and the number of the flow.
const FLOW: u64 = 1 << 63;
const DIAL_SHIFT: u32 = 48;
const FLOW_MASK: u64 = (1 << DIAL_SHIFT) - 1;

/// The path of a flow over the relay of the dial `index`.
pub(super) fn flow_path(index: usize, flow: FlowId) -> PathId {
    PathId(FLOW | (index as u64) << DIAL_SHIFT | (flow.0 & FLOW_MASK))
}

/// Whether a path is a flow over the relay of the dial `index`.
pub(super) fn is_flow_over(path: PathId, index: usize) -> bool {
    as_flow(path).is_some_and(|(dial, _)| dial == index)
}

/// The dial and the flow of a path over a relay.
pub(super) fn as_flow(path: PathId) -> Option<(usize, FlowId)> {
    let is_flow = path.0 & FLOW != 0;
    let index = usize::try_from((path.0 & !FLOW) >> DIAL_SHIFT).ok()?;
    is_flow.then_some((index, FlowId(path.0 & FLOW_MASK)))
}

/// Seals a hop frame and queues it on the link of its channel. Returns whether there was room.
pub(super) fn seal_hop_frame<V: Vault + Clone + 'static>(
    now: Timestamp,
    endpoint: &mut Endpoint<V>,
    links: &HashMap<LinkId, Link>,
    scratch: &mut Scratch,
    channel: ChannelId,
    frame: &HopFrame<'_>,
) -> bool {
    let Ok(len) = frame.encode(&mut scratch.hop) else { return false };
    let sealed = endpoint.seal_datagram(now, channel, &scratch.hop[..len], &mut scratch.outer);
    sealed.is_ok_and(|outgoing| {
        let link = links.get(&LinkId(outgoing.path.0));
        link.is_some_and(|link| link.queue.push(&scratch.outer[..outgoing.len]))
    })
}

fn is_record(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| RecordHeader::is_data(*first))
}

impl<V: Vault + Clone + 'static> Driver<V> {
    pub(super) fn handle_frames(&mut self, now: Timestamp, link: LinkId, mut frames: Frames) {
        // Who has authenticated on a link is not made to share what others at its address may spend.
        let source = |found: &Link| match found.unproved {
            Some(_) => found.source,
            None if found.paired.is_some() => found.source,
            None => Source::proven(!link.0),
        };
        let Some(found) = self.links.get(&link) else { return };
        let (source, paired, is_beside, leads_to) =
            (source(found), found.paired, found.beside.is_some(), found.leads_to);
        let mut is_heard = false;
        for index in 0..frames.len() {
            let Some(frame) = frames.get_mut(index) else { break };
            match paired {
                Some(peer) => self.handle_paired_frame(now, peer, source, frame),
                None if Fragment::is_one(frame) => match self.reassemble(now, link, frame) {
                    // Handshakes go where peers can be called.
                    Some(whole) if is_beside && !is_record(&whole) => self.statistics.refused_frames += 1,
                    Some(mut whole) => {
                        let is_theirs = self.is_of(leads_to, &whole);
                        is_heard |= self.handle_frame(now, PathId(link.0), source, &mut whole) && is_theirs;
                    }
                    None => {}
                },
                None if is_beside && !is_record(frame) => self.statistics.refused_frames += 1,
                None => {
                    let is_theirs = !is_heard && self.is_of(leads_to, frame);
                    is_heard |= self.handle_frame(now, PathId(link.0), source, frame) && is_theirs;
                }
            }
        }
        self.senders.events.buffers.put(frames);
        if let Some(peer) = leads_to.filter(|_| is_heard).and_then(|peer| self.peers.get_mut(&peer)) {
            peer.direct.heard(now, link);
        }
    }

    /// Whether a record says to be of a peer: others may send from the same place, or seem to.
    fn is_of(&self, peer: Option<IdentityId>, frame: &[u8]) -> bool {
        let channel = peer.and_then(|peer| self.peers.get(&peer)?.channel);
        channel.is_some() && self.endpoint.claimed_channel(frame) == channel
    }

    /// Returns whether the frame is one of those that it says it is.
    fn handle_frame(&mut self, now: Timestamp, path: PathId, source: Source, frame: &mut [u8]) -> bool {
        let kind = frame.first().copied().unwrap_or(0);
        let received = self.endpoint.handle_frame(now, path, source, frame);
        let is_genuine = received.is_ok();
        // Nobody else has anything to prove: the links of others are not looked up for each frame.
        if !self.unproved.is_empty()
            && received.is_ok()
            && let Some(link) = self.links.get_mut(&LinkId(path.0))
            && link.unproved.is_some()
        {
            link.has_greeted |= kind == MESSAGE_1;
            if RecordHeader::is_data(kind) {
                link.queue.set_heard();
            }
        }
        self.handle_events(now);
        // What comes too often, or twice, is no damage.
        let is_harmless = |error: &FrameError| {
            matches!(
                error,
                FrameError::Throttled | FrameError::CookieWanted | FrameError::Yielding | FrameError::Replayed
            )
        };
        if received.as_ref().is_err_and(|error| !is_harmless(error)) && as_flow(path).is_none() {
            self.link_is_damaged(now, LinkId(path.0));
        }
        match received {
            Ok(Received::Nothing) => {}
            Ok(Received::Record { channel, record, .. }) => {
                let is_hop = self.by_hop.contains_key(&channel);
                let is_served = self.relay.is_some();
                // A hop channel has a link of its own: one inside another would nest without end.
                let on_link = as_flow(path).is_none();
                match record {
                    Record::Datagram(octets) if is_hop && on_link => self.handle_hop_frame(now, channel, octets),
                    Record::Datagram(octets) if is_served && on_link => self.relay_frame(now, channel, octets),
                    Record::Datagram(octets) if !is_hop && !is_served => self.datagram_came(now, channel, octets),
                    Record::Message { .. } | Record::Committed(_) if !is_hop && !is_served => {
                        self.handle_record(now, channel, record);
                    }
                    _ => self.statistics.refused_frames += 1,
                }
            }
            Err(error @ FrameError::Handshake(HandshakeError::Identity(_))) => {
                self.statistics.refused(&error);
                tracing::warn!(%error, "somebody who has our card was refused");
            }
            Err(error) => {
                self.statistics.refused(&error);
                tracing::debug!(%error, "a frame was refused");
            }
        }
        is_genuine
    }

    // ---- as a client of a relay ----

    fn handle_hop_frame(&mut self, now: Timestamp, channel: ChannelId, octets: &[u8]) {
        let Some(index) = self.by_hop.get(&channel).copied() else { return };
        let frame = match HopFrame::decode(octets) {
            Ok(frame) => frame,
            Err(error) => {
                self.statistics.refused_frames += 1;
                tracing::warn!(%error, "the relay does not speak the hop protocol");
                return;
            }
        };
        let Some(attachment) = self.dials[index].attachment() else { return };
        match attachment.client.handle(frame) {
            ClientEvent::Frame { flow, frame, answer } => {
                if let Some(answer) = answer {
                    self.send_hop_frame(now, channel, &answer);
                }
                // Decrypted in place once more, in a buffer of its own: the outer record's belongs to its caller.
                let mut inner = frame.to_vec();
                let path = flow_path(index, flow);
                let is_genuine = self.handle_frame(now, path, Source::proven(path.0).within(index as u64), &mut inner);
                // Who sends nothing but datagrams, or ACKs of records, is back too.
                if is_genuine
                    && let Some(peer) = self.by_flow.get(&path).copied()
                    && self.peers.get(&peer).is_some_and(|peer| peer.away.since.is_some())
                {
                    self.notice_return(now, peer);
                }
            }
            ClientEvent::Absent { flow } => {
                self.statistics.absent_frames += 1;
                if let Some(peer) = self.by_flow.get(&flow_path(index, flow)).copied() {
                    self.peers.get_mut(&peer).into_iter().for_each(|peer| peer.is_absent = true);
                    self.mark_away(now, peer);
                }
            }
            ClientEvent::Custody { number, outcome } => self.deposit_answered(now, index, number, outcome),
            ClientEvent::Push { number, frame } => self.pushed(now, index, Pushed { hop: channel, number }, frame),
            ClientEvent::Fetched { number, statement } => self.fetched_prekey(now, index, number, statement),
            ClientEvent::Registered { name, outcome } => self.registered(now, channel, name, outcome),
            ClientEvent::Seen { address } => self.seen_at(now, index, address),
            ClientEvent::Answer(answer) => self.send_hop_frame(now, channel, &answer),
            ClientEvent::Nothing => {}
        }
    }

    pub(super) fn send_hop_frame(&mut self, now: Timestamp, channel: ChannelId, frame: &HopFrame<'_>) {
        let mut hop = std::mem::take(&mut self.scratch.hop);
        if let Ok(len) = frame.encode(&mut hop) {
            self.send_datagram(now, channel, &hop[..len]);
        }
        self.scratch.hop = hop;
    }

    fn send_datagram(&mut self, now: Timestamp, channel: ChannelId, body: &[u8]) {
        let mut outer = std::mem::take(&mut self.scratch.outer);
        match self.endpoint.seal_datagram(now, channel, body, &mut outer) {
            Ok(outgoing) => self.push_to_link(outgoing.path, &outer[..outgoing.len]),
            Err(error) => {
                self.statistics.dropped_frames += 1;
                tracing::debug!(%error, "a hop frame was not sent");
            }
        }
        self.scratch.outer = outer;
    }

    // ---- as a relay ----

    fn relay_frame(&mut self, now: Timestamp, channel: ChannelId, octets: &[u8]) {
        let Self { relay, tap, endpoint, links, scratch, statistics, .. } = self;
        let Some(relay) = relay else { return };
        if let Some(tap) = tap {
            tap.saw(octets);
        }
        let handled = relay.handle(now, Self::session_of(channel), octets, |session, frame| {
            let mut pass_on = |frame: &HopFrame<'_>| {
                let pushed = seal_hop_frame(now, endpoint, links, scratch, ChannelId(session.0), frame);
                statistics.dropped_frames += u64::from(!pushed);
            };
            match (tap.as_ref(), *frame) {
                (Some(tap), HopFrame::Forward { label, frame }) => {
                    let instead = tap.passes_on(session.0, frame);
                    instead.iter().for_each(|frame| pass_on(&HopFrame::Forward { label, frame }));
                }
                (Some(tap), HopFrame::Routed { back, route, frame }) => {
                    let instead = tap.passes_on(session.0, frame);
                    instead.iter().for_each(|frame| pass_on(&HopFrame::Routed { back, route, frame }));
                }
                _ => pass_on(frame),
            }
        });
        match handled {
            Ok(RelayEvent::Forwarded) => statistics.forwarded_frames += 1,
            Ok(RelayEvent::Absent) => statistics.absent_frames += 1,
            Ok(RelayEvent::NoSuchHop) => statistics.refused_routes += 1,
            Ok(RelayEvent::UnknownLabel) => statistics.unknown_labels += 1,
            Ok(RelayEvent::Refused(outcome)) => {
                statistics.refused_boxes += 1;
                tracing::info!(?channel, ?outcome, "a box was refused");
            }
            Ok(RelayEvent::Registered { name, batch }) => self.box_registered(now, channel, name, batch),
            Ok(RelayEvent::Deposited { deposit, batch }) => match &self.writer {
                Some(writer) => writer.write(batch, Stored::Deposited(deposit)),
                // A relay without a store keeps nothing.
                None => self.deposit_written(now, deposit, false),
            },
            Ok(RelayEvent::NotKept(_)) => statistics.refused_deposits += 1,
            Ok(RelayEvent::Settled { verdict, batch }) => {
                statistics.discarded_frames += u64::from(verdict != Verdict::Done);
                if verdict != Verdict::Done {
                    tracing::info!(
                        ?channel,
                        ?verdict,
                        "a frame in custody was deleted because its recipient cannot use it"
                    );
                }
                self.write(batch, Stored::Removed);
            }
            Ok(RelayEvent::Published(session, batch)) => match &self.writer {
                Some(writer) => writer.write(batch, Stored::Published(session)),
                // A relay without a store keeps nothing.
                None => relay.published(session),
            },
            Ok(RelayEvent::Asked(question)) => match &self.writer {
                Some(writer) => writer.read(Table::Published, question.name.0.to_vec(), Stored::Asked(question)),
                None => self.answer_question(now, question, None),
            },
            Ok(event) => tracing::debug!(?channel, ?event, "hop"),
            Err(error) => {
                statistics.refused_frames += 1;
                statistics.malformed_frames += 1;
                tracing::debug!(?channel, %error, "a client does not speak the hop protocol");
            }
        }
    }

    pub(super) fn published(&mut self, session: SessionId) {
        if let Some(relay) = &mut self.relay {
            relay.published(session);
        }
    }

    pub(super) fn answer_question(&mut self, now: Timestamp, question: Question, row: Option<&[u8]>) {
        let Self { relay, endpoint, links, scratch, statistics, .. } = self;
        let Some(relay) = relay else { return };
        relay.answer(question, row, |session, frame| {
            let pushed = seal_hop_frame(now, endpoint, links, scratch, ChannelId(session.0), frame);
            statistics.dropped_frames += u64::from(!pushed);
        });
    }

    fn box_registered(&mut self, now: Timestamp, channel: ChannelId, name: BoxName, batch: Batch) {
        match &self.writer {
            Some(writer) => writer.write(batch, Stored::Registered { channel, name }),
            None => self.box_is_open(now, channel, name),
        }
    }

    pub(super) fn box_is_open(&mut self, now: Timestamp, channel: ChannelId, name: BoxName) {
        let outcome = Registration::Open;
        self.send_hop_frame(now, channel, &HopFrame::Registered { name, outcome });
        self.tell_where_seen(now, channel);
    }

    /// Tells a client from where its frames come, if that is where others could reach it.
    fn tell_where_seen(&mut self, now: Timestamp, channel: ChannelId) {
        let link = self.served.get(&channel).and_then(|link| self.links.get(link));
        if let Some(address) = link.and_then(|link| link.observed) {
            self.send_hop_frame(now, channel, &HopFrame::Seen { address });
        }
    }

    pub(super) fn client_attached(&mut self, channel: ChannelId, client: IdentityId) {
        let Some(link) = self.prove_link(channel) else { return };
        self.endpoint.set_hop_channel(channel);
        self.served.insert(channel, link);
        if let Some(relay) = &mut self.relay {
            relay.attach(Self::session_of(channel), client);
        }
        tracing::info!(client = %client.short(), "attached");
    }

    /// A new session: of the same link, or of one that replaces a link which is dead.
    pub(super) fn client_renewed(&mut self, now: Timestamp, channel: ChannelId, client: IdentityId) {
        let old = self.served.get(&channel).copied();
        let new = self.prove_link(channel);
        if old == new {
            return;
        }
        self.client_attached(channel, client);
        self.tell_where_seen(now, channel);
        if let Some(link) = old.and_then(|old| self.links.get(&old)) {
            link.queue.close();
        }
    }

    pub(super) fn client_detached(&mut self, channel: ChannelId) {
        self.served.remove(&channel);
        if let Some(relay) = &mut self.relay {
            relay.detach(Self::session_of(channel));
        }
        self.endpoint.forget(channel);
    }

    // ---- out ----

    /// Gives a flow over a relay up.
    pub(super) fn end_flow(&mut self, path: PathId) {
        let Some((index, flow)) = as_flow(path) else { return };
        if let Some(attachment) = self.dials.get_mut(index).and_then(|dial| dial.attachment()) {
            attachment.client.end(flow);
        }
    }

    /// Sends a frame of the endpoint on its path.
    pub(super) fn transmit(&mut self, now: Timestamp, path: PathId, frame: &[u8]) {
        let Some((index, flow)) = as_flow(path) else { return self.push_to_link(path, frame) };
        let mut hop = std::mem::take(&mut self.scratch.hop);
        let dial = self.dials.get_mut(index);
        let channel = dial.as_ref().and_then(|dial| dial.channel);
        let attachment = dial.and_then(|dial| dial.attachment()).filter(|attachment| attachment.attached);
        let encoded = attachment.and_then(|attachment| attachment.client.encode(flow, frame, &mut hop));
        match (channel, encoded) {
            (Some(channel), Some(Ok(len))) => self.send_datagram(now, channel, &hop[..len]),
            // The relay is away: the machines repeat what matters.
            _ => self.statistics.dropped_frames += 1,
        }
        self.scratch.hop = hop;
    }

    fn push_to_link(&mut self, path: PathId, frame: &[u8]) {
        let pushed = self.links.get(&LinkId(path.0)).is_some_and(|link| link.queue.push(frame));
        self.statistics.dropped_frames += u64::from(!pushed);
    }

    /// The link that a path leads over now, if there is one.
    pub(super) fn link_of(&mut self, path: PathId) -> Option<&Link> {
        let link = match as_flow(path) {
            None => Some(LinkId(path.0)),
            Some((index, _)) => {
                let dial = self.dials.get_mut(index);
                let channel = dial.and_then(|dial| {
                    let is_attached = dial.attachment().is_some_and(|attachment| attachment.attached);
                    dial.channel.filter(|_| is_attached)
                });
                channel.and_then(|channel| self.endpoint.path(channel)).map(|path| LinkId(path.0))
            }
        };
        link.and_then(|link| self.links.get(&link))
    }

    /// Whether an outbox may send on a path now.
    pub(super) fn has_room(&mut self, path: PathId) -> bool {
        self.link_of(path).is_some_and(|link| link.queue.has_room())
    }
}
