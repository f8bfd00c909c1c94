//! The machine: all channels of one identity.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

use sealway_identity::{Card, IdentityError, Owner, PayloadParts, Peer, Policy};
use sealway_vault::{CryptoProvider, Vault, VaultError};
use sealway_wire::{
    Cid, DecodeError, Frame, IdentityId, Instance, Lane, Reason, RecordHeader, TAG_LEN, Timestamp, VarInt,
    content::{Ack, CloseReason, Committed, Content, Reliable, Start},
    handshake::{Message1, Message2, Message3},
};

use crate::{
    Context, FrameError, HOP_ALLOWANCE, HandshakeError, MAX_CONTENT, OpenError, PostQuantum, Profile, SendError,
    channel::{Attempt, Channel, Due, Established, HANDSHAKE_TIME, Repeat, Report},
    gate::GateKey,
    half_open::{HalfOpenTable, State},
    initiator::AwaitingMessage2,
    lane::Plaintext,
    responder::{Admission, HalfOpen, Refused},
};

/// A channel of an endpoint: to one peer, over any number of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u64);

/// A way on which frames leave: the shell numbers them as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u64);

/// Whom the limits of half-open handshakes count against: an IPv4 address, an IPv6 /56, a label of a hop session. The
/// shell maps them to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(pub u64);

/// What an endpoint is set up with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Who may open a channel to us. Nobody, unless named.
    pub accept: Policy,
    /// The instance under which we number our messages: random, drawn anew at each start.
    pub instance: Instance,
}

impl Config {
    /// A configuration that admits nobody.
    #[must_use]
    pub const fn new(instance: Instance) -> Self {
        Self { accept: Policy::nobody(), instance }
    }
}

/// What has happened to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The channel has its first session that the peer has confirmed.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The peer.
        peer: Peer,
        /// How the channel came to be.
        context: Context,
    },
    /// Sending has moved to a new session: what the peer has not committed is to be sent again.
    Renewed {
        /// The channel.
        channel: ChannelId,
        /// The peer, as it introduced itself for this session.
        peer: Peer,
    },
    /// Our handshake went unanswered. Another one begins by itself, unless the channel is closed.
    AttemptFailed {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer has replaced the channel key on the card that we have: without a newer card we cannot initiate.
    CardSuperseded {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer is silent, and we cannot initiate a handshake to it.
    Unresponsive {
        /// The channel.
        channel: ChannelId,
    },
    /// The live lane has ended, by the peer or because it broke the protocol.
    Closed {
        /// The channel.
        channel: ChannelId,
        /// Why.
        reason: CloseReason,
    },
}

/// What a frame has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'f> {
    /// Nothing for the application: a part of the handshake, an acknowledgement of records, a PING.
    Nothing,
    /// The content of a record, decrypted where the frame lies.
    Record {
        /// The channel.
        channel: ChannelId,
        /// The lane.
        lane: Lane,
        /// The content.
        record: Record<'f>,
    },
}

/// Content for the application.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'f> {
    /// A datagram, which may be lost.
    Datagram(&'f [u8]),
    /// A message that the sender repeats until it is committed: it may come more than once.
    Message {
        /// The run of the sender that numbered it.
        instance: Instance,
        /// Its number.
        number: u32,
        /// The lowest number of that instance that the sender still wants committed.
        lowest: u32,
        /// The message.
        body: &'f [u8],
    },
    /// What the peer's application has committed.
    Committed(Committed<'f>),
}

/// A frame that was written into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it is to go.
    pub path: PathId,
    /// Its length in octets.
    pub len: usize,
}

/// All channels of one identity. See the crate's documentation for the order in which to call.
pub struct Endpoint<V: Vault + Clone + 'static> {
    vault: V,
    owner: Owner,
    gate: GateKey,
    config: Config,
    channels: BTreeMap<ChannelId, Channel<V>>,
    by_peer: BTreeMap<IdentityId, ChannelId>,
    by_cid: BTreeMap<Cid, ChannelId>,
    /// The highest rank of an attestation seen of each admitted identity.
    known: BTreeMap<IdentityId, (u32, u32)>,
    half_open: HalfOpenTable<V>,
    /// S1.2 to be sent. At most [`MAX_ANSWERS`]: an initiator whose answer is dropped asks again.
    answers: VecDeque<(PathId, Vec<u8>)>,
    events: VecDeque<Event>,
    deadlines: BTreeSet<(Timestamp, ChannelId)>,
    next_channel: u64,
}

const MAX_ANSWERS: usize = 256;

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
    /// An endpoint of the identity `owner`, whose keys are in `vault`.
    #[must_use]
    pub fn new(vault: V, owner: Owner, config: Config) -> Self {
        let gate = GateKey::new(vault.provider(), &owner.channel_key().0);
        Self {
            vault,
            owner,
            gate,
            config,
            channels: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_cid: BTreeMap::new(),
            known: BTreeMap::new(),
            half_open: HalfOpenTable::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_channel: 0,
        }
    }

    /// The own identity.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The primitives and the randomness.
    #[must_use]
    pub fn provider(&self) -> &V::Provider {
        self.vault.provider()
    }

    /// Half-open handshakes that others have begun.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Admits more identities to open channels to us.
    pub fn admit(&mut self, policy: &Policy) {
        policy.admitted().for_each(|id| self.config.accept.admit(*id));
    }

    // ---- commands ----

    /// Opens a channel to the identity on `card`, which `policy` has to admit, on `path`. `payload` is what the peer shall
    /// know of us. The handshake begins at the next [`poll_transmit`](Self::poll_transmit) and is repeated, with growing
    /// delays, until the channel opens or is forgotten.
    ///
    /// A channel to that identity that exists already is taken, with a new handshake on the new path.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn open(
        &mut self,
        now: Timestamp,
        card: &Card,
        policy: &Policy,
        payload: PayloadParts,
        path: PathId,
    ) -> Result<ChannelId, OpenError> {
        let peer = card.id();
        if peer == self.owner.id() {
            return Err(OpenError::OwnCard);
        }
        if !policy.decide(&peer).is_allow() {
            return Err(OpenError::NotAdmitted);
        }
        let rank = card.attestation().rank();
        if self.known.get(&peer).is_some_and(|known| rank < *known) {
            return Err(OpenError::Superseded);
        }
        self.known.insert(peer, rank);
        self.config.accept.admit(peer);
        let id = self.channel_of(peer);
        if let Some(channel) = self.channels.get_mut(&id) {
            let stale = channel.attempt.cid();
            stale.map(|cid| self.by_cid.remove(&cid));
            channel.card = Some(card.clone());
            channel.payload = payload;
            channel.path = Some(path);
            channel.attempt = Attempt::Idle;
            channel.closing = None;
            channel.wanted = true;
        }
        self.handle_channel(now, id);
        Ok(id)
    }

    /// Lets records of the channel carry 512 octets more: it carries other frames.
    pub fn set_hop_channel(&mut self, channel: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.limit = MAX_CONTENT + HOP_ALLOWANCE;
        }
    }

    /// Sends what follows on another path, for example to the box that the peer has named.
    pub fn set_path(&mut self, channel: ChannelId, path: PathId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.path = Some(path);
            channel.sessions.iter_mut().for_each(|established| established.path = path);
        }
    }

    /// Takes note that what was sent has gone unanswered for too long: a new session is made, if we can initiate one. More
    /// calls while a handshake runs or waits change nothing.
    pub fn missed_deadline(&mut self, now: Timestamp, channel: ChannelId) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.wanted |= found.can_initiate();
        }
        self.handle_channel(now, channel);
    }

    /// Since when something was sent on the channel and nothing of the peer has opened.
    #[must_use]
    pub fn silent_since(&self, channel: ChannelId) -> Option<Timestamp> {
        self.channels.get(&channel).and_then(Channel::silent_since)
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self, now: Timestamp, channel: ChannelId) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.ping_wanted = found.sending.is_some();
            found.spoke(now);
        }
        self.reschedule(channel);
    }

    /// Ends the channel: CLOSE leaves at the next [`poll_transmit`](Self::poll_transmit), then it is forgotten.
    pub fn close(&mut self, channel: ChannelId, reason: CloseReason) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.closing = Some(reason);
        }
        self.reschedule(channel);
    }

    /// Wipes everything about a channel without a word to the peer.
    pub fn forget(&mut self, channel: ChannelId) {
        let Some(found) = self.channels.remove(&channel) else { return };
        self.by_peer.remove(&found.peer);
        found.scheduled.map(|at| self.deadlines.remove(&(at, channel)));
        let cids = found.sessions.iter().map(|established| established.session.local).chain(found.attempt.cid());
        cids.for_each(|cid| {
            self.by_cid.remove(&cid);
        });
    }

    /// Seals a datagram of the application, or a frame of a hop, into `out`.
    ///
    /// `out` has to hold the body and 23 octets more, 25 where more than 2^15 records are unacknowledged. Works in place,
    /// without allocating.
    ///
    /// # Errors
    /// [`SendError`]; nothing has changed then.
    pub fn seal_datagram(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        body: &[u8],
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        self.seal(now, channel, Lane::Live, Plaintext::Datagram(body), true, out)
    }

    /// Seals a message that is repeated until the peer commits it.
    ///
    /// `out` has to hold the body and at most 42 octets more. Works in place, without allocating.
    ///
    /// # Errors
    /// [`SendError`]; nothing has changed then.
    pub fn seal_message(
        &mut self,
        now: Timestamp,
        channel: ChannelId,
        lane: Lane,
        message: Reliable<'_>,
        out: &mut [u8],
    ) -> Result<Outgoing, SendError> {
        // The instance travels only where the peer does not know it from START.
        let own = self.config.instance;
        let known = self.channels.get_mut(&channel).and_then(Channel::current).is_some_and(|now| now.start_is_known());
        let instance = Some(message.instance.unwrap_or(own)).filter(|instance| !known || *instance != own);
        let content = Content::Reliable(Reliable { instance, ..message });
        self.seal(now, channel, lane, Plaintext::Typed(&content), true, out)
    }

    /// Has the following ACKs tell what the application has committed of the peer's messages.
    pub fn report_committed(&mut self, now: Timestamp, channel: ChannelId, committed: &Committed<'_>) {
        if let Some(found) = self.channels.get_mut(&channel) {
            found.report = Some(Report::new(committed));
            if let Some(current) = found.current() {
                current.wants_commit_ack(now);
            }
        }
        self.reschedule(channel);
    }

    /// Writes `out.len()` octets that only the two ends of the channel's session know, for `label` and `context`.
    ///
    /// # Errors
    /// [`SendError::NotOpen`], or [`SendError::TooLong`] above 8160 octets.
    pub fn export(&mut self, channel: ChannelId, label: &str, context: &[u8], out: &mut [u8]) -> Result<(), SendError> {
        let channel = self.channels.get_mut(&channel).ok_or(SendError::UnknownChannel)?;
        let current = channel.current().ok_or(SendError::NotOpen)?;
        let got = out.len();
        let written = current.session.export(self.vault.provider(), label, context, out);
        if written { Ok(()) } else { Err(SendError::TooLong { limit: 8160, got }) }
    }

    /// Whether the channel has a session that the peer has confirmed.
    #[must_use]
    pub fn is_open(&self, channel: ChannelId) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.sending.is_some())
    }

    /// The path on which records of the channel leave.
    #[must_use]
    pub fn path(&mut self, channel: ChannelId) -> Option<PathId> {
        self.channels.get_mut(&channel).and_then(Channel::current).map(|established| established.path)
    }

    /// The identity at the other end.
    #[must_use]
    pub fn peer(&self, channel: ChannelId) -> Option<IdentityId> {
        self.channels.get(&channel).map(|channel| channel.peer)
    }

    // ---- input ----

    /// Handles a frame that arrived on `path`, and decrypts it in place. `path` is also where an answer to a handshake
    /// goes.
    ///
    /// # Errors
    /// [`FrameError`]: the frame has changed nothing; drop it.
    pub fn handle_frame<'f>(
        &mut self,
        now: Timestamp,
        path: PathId,
        source: Source,
        frame: &'f mut [u8],
    ) -> Result<Received<'f>, FrameError> {
        match Frame::decode(frame)? {
            Frame::Data(header, _) => self.handle_record(now, header, frame),
            Frame::Message1(message) => self.handle_message1(now, path, source, &message).map(|()| Received::Nothing),
            Frame::Message2(message) => self.handle_message2(now, &message).map(|()| Received::Nothing),
            Frame::Message3(message) => self.handle_message3(now, path, &message).map(|()| Received::Nothing),
            // Cookies are asked for only on links whose sources can be forged; this version has none.
            _ => Err(FrameError::UnknownConnection),
        }
    }

    fn handle_message1(
        &mut self,
        now: Timestamp,
        path: PathId,
        source: Source,
        message: &Message1<'_>,
    ) -> Result<(), FrameError> {
        let provider = self.vault.provider();
        if !self.gate.fits(provider, message) {
            return Err(FrameError::Gate);
        }
        let key = provider.sha256(&[message.noise]);
        if let Some(answer) = self.half_open.repeated(&key) {
            let answer = answer.map(<[u8]>::to_vec);
            answer.into_iter().for_each(|frame| self.answer(path, frame));
            return Ok(());
        }
        let cid = self.draw_cid()?;
        let random = u64::from_be_bytes(self.vault.provider().random()?);
        let half_open = HalfOpen::accept(&self.vault, &self.owner, cid, message)?;
        let frame = half_open.frame.clone();
        self.half_open.insert(now, cid, key, source, half_open, random);
        self.answer(path, frame);
        Ok(())
    }

    fn handle_message2(&mut self, now: Timestamp, message: &Message2<'_>) -> Result<(), FrameError> {
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
            // S1.2 once more: S1.3 is repeated by its own timer.
            other => channel.attempt = other,
        }
        self.reschedule(id);
        Ok(())
    }

    fn handle_message3(&mut self, now: Timestamp, path: PathId, message: &Message3<'_>) -> Result<(), FrameError> {
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
        let peer = accepted.session.peer.id();
        let running = |channel: &Channel<V>| channel.attempt.is_running();
        let own_runs = self.by_peer.get(&peer).and_then(|id| self.channels.get(id)).is_some_and(running);
        if own_runs && self.owner.id() < peer {
            return Err(FrameError::Yielding);
        }
        let removed = self.half_open.remove(message.cid).map(|entry| entry.state);
        let Some(State::Withheld(accepted)) = removed else { return Err(FrameError::UnknownConnection) };
        // It may have waited: a newer channel key can have become known since.
        let rank = accepted.session.peer.attestation().rank();
        if self.known.get(&peer).is_some_and(|known| rank < *known) {
            return Err(HandshakeError::Identity(IdentityError::Superseded).into());
        }
        self.known.insert(peer, rank);
        let id = self.channel_of(peer);
        if let Some(channel) = self.channels.get_mut(&id) {
            if let Some(cid) = channel.attempt.cid() {
                self.by_cid.remove(&cid);
            }
            // The peer's handshake takes the place of ours, unless it leads to nothing.
            channel.attempt = match channel.wanted {
                true => Attempt::Waiting { until: now.after(HANDSHAKE_TIME) },
                false => Attempt::Idle,
            };
            let established = Established::new(now, accepted.session, path, Some(accepted.message3));
            let gone = channel.establish(established);
            gone.map(|cid| self.by_cid.remove(&cid));
        }
        self.by_cid.insert(message.cid, id);
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

    fn handle_record<'f>(
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

    /// Acts on every deadline at or before `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.half_open.expire(now);
        let due: Vec<ChannelId> =
            self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, channel)| *channel).collect();
        for channel in due {
            self.handle_channel(now, channel);
        }
    }

    fn handle_channel(&mut self, now: Timestamp, id: ChannelId) {
        let jitter = self.vault.provider().random().map_or(0, u64::from_be_bytes);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        for cid in channel.retire(now) {
            self.by_cid.remove(&cid);
        }
        let stale = channel.attempt.cid();
        match channel.handle_timeout(now, jitter) {
            Due::Nothing => {}
            Due::Begin => self.begin(now, id, jitter),
            Due::GaveUp => {
                stale.map(|cid| self.by_cid.remove(&cid));
                self.events.push_back(Event::AttemptFailed { channel: id });
            }
            Due::Unresponsive => self.events.push_back(Event::Unresponsive { channel: id }),
        }
        self.reschedule(id);
    }

    fn begin(&mut self, now: Timestamp, id: ChannelId, jitter: u64) {
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

    // ---- output ----

    /// Writes the next frame of the handshake, START, ACK, PING or CLOSE into `out`, which has to hold 2048 octets.
    pub fn poll_transmit(&mut self, now: Timestamp, out: &mut [u8]) -> Option<Outgoing> {
        while let Some((path, frame)) = self.answers.pop_front() {
            if let Some(len) = copy(&frame, out) {
                return Some(Outgoing { path, len });
            }
        }
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            if let Some(outgoing) = self.transmit_for(now, id, out) {
                self.reschedule(id);
                return Some(outgoing);
            }
            // Nothing to send: the deadline is of another kind.
            self.handle_channel(now, id);
            if self.deadlines.first() == Some(&(at, id)) {
                break;
            }
        }
        None
    }

    fn transmit_for(&mut self, now: Timestamp, id: ChannelId, out: &mut [u8]) -> Option<Outgoing> {
        let channel = self.channels.get_mut(&id)?;
        if let Some((path, frame)) = channel.attempt.due_frame(now) {
            return copy(frame, out).map(|len| Outgoing { path, len });
        }
        let provider = self.vault.provider();
        let limit = channel.limit;
        let stored = channel.sessions.iter().rev().nth(1).map_or(0, |before| before.session.stored_records());
        for established in channel.sessions.iter_mut().rev() {
            if established.start_is_due(now) {
                let stored_before = VarInt::new(stored).unwrap_or(VarInt::MAX);
                let start = Start { instance: self.config.instance, stored_before, credentials: &[] };
                let plaintext = Content::Start(start);
                let sealed = established.session.seal(provider, Lane::Live, Plaintext::Typed(&plaintext), limit, out);
                if let Ok(sealed) = sealed {
                    established.start_sent(sealed.counter);
                    let outgoing = Outgoing { path: established.path, len: sealed.len };
                    if channel.sending == Some(established.session.local) {
                        channel.spoke(now);
                    }
                    return Some(outgoing);
                }
            }
            while let Some(lane) = established.take_due_ack(now) {
                let Some(opened) = established.session.opened(lane) else { continue };
                let committed = channel.report.as_ref().map(Report::committed);
                let content = Content::Ack(Ack { lane, opened, committed });
                let sealed = established.session.seal(provider, Lane::Live, Plaintext::Typed(&content), limit, out);
                if let Ok(sealed) = sealed {
                    return Some(Outgoing { path: established.path, len: sealed.len });
                }
            }
        }
        if let Some(reason) = channel.closing {
            let content = Content::Close(reason);
            let sealed = self.seal(now, id, Lane::Live, Plaintext::Typed(&content), false, out).ok();
            self.forget(id);
            return sealed;
        }
        if channel.take_due_ping(now) {
            return self.seal(now, id, Lane::Live, Plaintext::Typed(&Content::Ping), true, out).ok();
        }
        None
    }

    /// The next event. That a session is there is told only after START has left on it, which is each side's first record:
    /// drain [`poll_transmit`](Self::poll_transmit) first.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(Event::Opened { channel, .. } | Event::Renewed { channel, .. }) = self.events.front()
            && let Some(current) = self.channels.get_mut(channel).and_then(Channel::current)
            && !current.start_was_sent()
        {
            return None;
        }
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) want to be called next. A
    /// moment in the past means now. Read it after draining both.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let answers = (!self.answers.is_empty()).then_some(Timestamp::from_micros(0));
        let channels = self.deadlines.first().map(|(at, _)| *at);
        answers.into_iter().chain(channels).chain(self.half_open.deadline()).min()
    }

    // ---- helpers ----

    fn seal(
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

    fn channel_of(&mut self, peer: IdentityId) -> ChannelId {
        if let Some(id) = self.by_peer.get(&peer) {
            return *id;
        }
        let id = ChannelId(self.next_channel);
        self.next_channel += 1;
        self.channels.insert(id, Channel::new(peer));
        self.by_peer.insert(peer, id);
        id
    }

    /// A connection id that no session or handshake of ours has.
    fn draw_cid(&self) -> Result<Cid, FrameError> {
        loop {
            let cid = Cid(self.vault.provider().random()?);
            if !self.by_cid.contains_key(&cid) && !self.half_open.contains(cid) {
                return Ok(cid);
            }
        }
    }

    fn answer(&mut self, path: PathId, frame: Vec<u8>) {
        if self.answers.len() < MAX_ANSWERS {
            self.answers.push_back((path, frame));
        }
    }

    fn reschedule(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let deadline = channel.deadline();
        if deadline != channel.scheduled {
            channel.scheduled.map(|at| self.deadlines.remove(&(at, id)));
            channel.scheduled = deadline;
            self.deadlines.extend(deadline.map(|at| (at, id)));
        }
    }
}

fn copy(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    out.get_mut(..frame.len())?.copy_from_slice(frame);
    Some(frame.len())
}

impl<V: Vault + Clone + 'static> core::fmt::Debug for Endpoint<V> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Endpoint")
            .field("owner", &self.owner.id())
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}
