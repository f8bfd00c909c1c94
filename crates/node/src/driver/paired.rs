//! Peers behind constrained links: their pairings, and when they are spoken to.
//!
//! Outbox and inbox are those of any peer; here is what carries them where frames are few and small. What a handshake makes is
//! written before it leaves; messages leave while the device is awake and the link's queue, which is short, has room.

use std::{
    collections::{BTreeSet, hash_map::Entry},
    time::Duration,
};

use sealway_channel::{
    CallError, ConstrainedRecord, FrameError, Pairing, PairingEvent, Record, Role, SendError, Source, StateError,
};
use sealway_link::FrameLink;
use sealway_routing::{Batch, Table};
use sealway_vault::Vault;
use sealway_wire::{
    IdentityId, Instance, Lane, Reader, Timestamp,
    constrained::{HANDSHAKE_OVERHEAD, MAX_PLAINTEXT, MAX_RECORD, TAG_LEN},
    content::{Ack, Content, Reliable},
};

use super::{
    Driver,
    peer::Peer,
    peers::{Stored, TURN},
};
use crate::{NodeError, PairedPeer, handle::Channel, links::LinkId, rhythm::Waking};

/// What was heard is told after as many times as it takes from one message to the next, within these bounds: with what else
/// there is then to tell.
const ACK_INTERVALS: u32 = 4;
const MIN_ACK_DELAY: Duration = Duration::from_millis(100);
const MAX_ACK_DELAY: Duration = Duration::from_secs(4);
const FIRST_INTERVAL: Duration = Duration::from_millis(250);
/// As many messages are told at once: they are a quarter of what their sender may have under way.
const ACK_MESSAGES: u32 = 16;
/// Runs of the peer of which there is something to tell.
const REPORTS: usize = 8;
/// First delay before what is unanswered is sent again, doubled each time up to the second.
const FIRST_REPEAT: Duration = Duration::from_secs(2);
const MAX_REPEAT: Duration = Duration::from_secs(64);
/// A store that has failed is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// A record's header where the link names the peer, at its longest: octet 0, a counter of 4 octets, an incarnation of 4.
const HEADER: usize = 1 + 4 + 4;

/// A peer with whom there is a pairing.
pub(super) struct Paired<V: Vault + Clone + 'static> {
    pairing: Pairing<V>,
    role: Role,
    /// The link that leads to it, and its longest frame.
    link: Option<LinkId>,
    mtu: usize,
    waking: Waking,
    /// The instance of the peer's START.
    peer_instance: Option<Instance>,
    /// A state is being written; or not before.
    is_writing: bool,
    write_at: Option<Timestamp>,
    /// When what is unanswered is sent again, and how long after that.
    repeat: Option<(Timestamp, Duration)>,
    /// What the peer is to be told, and by when; how many messages have come since, and octets that were committed.
    reports: BTreeSet<Instance>,
    ack_at: Option<Timestamp>,
    arrived: u32,
    committed: usize,
    interval: Interval,
    /// The peer asks for any record.
    ping_due: bool,
    /// Something has happened.
    is_touched: bool,
    /// The link took nothing more.
    is_blocked: bool,
}

/// From one message of the peer to the next: what a fast link tells at once would be half the traffic of a slow one.
struct Interval {
    smoothed: Duration,
    last: Timestamp,
}

impl Interval {
    fn passed(&mut self, now: Timestamp) {
        let sample = now.since(self.last).min(MAX_ACK_DELAY);
        self.smoothed = (self.smoothed * 7 + sample) / 8;
        self.last = now;
    }

    fn ack_delay(&self) -> Duration {
        (self.smoothed * ACK_INTERVALS).clamp(MIN_ACK_DELAY, MAX_ACK_DELAY)
    }
}

impl<V: Vault + Clone + 'static> Paired<V> {
    pub(super) const fn wake(&mut self) {
        (self.is_touched, self.is_blocked) = (true, false);
    }

    /// Has the peer told of a run of it.
    pub(super) fn tell(&mut self, now: Timestamp, instance: Instance) {
        if self.reports.len() < REPORTS {
            self.reports.insert(instance);
        }
        self.tell_by(if self.is_awaited() { now } else { now.after(self.interval.ack_delay()) });
    }

    /// Whatever there is to tell goes now.
    pub(super) fn tell_at_once(&mut self, now: Timestamp) {
        if self.ack_at.is_some() {
            self.tell_by(now);
        }
    }

    /// So many octets of the peer were committed since. Much of it is told at once: the peer's window waits for it.
    pub(super) const fn committed(&mut self, octets: usize) {
        self.committed += octets;
    }

    fn is_awaited(&self) -> bool {
        self.arrived >= ACK_MESSAGES || self.committed >= ACK_MESSAGES as usize * self.mtu / 2
    }

    fn tell_by(&mut self, at: Timestamp) {
        self.ack_at = Some(self.ack_at.map_or(at, |before| before.min(at)));
        self.is_touched = true;
    }

    fn may_send(&self, now: Timestamp) -> bool {
        self.link.is_some() && !self.is_blocked && self.waking.is_open(now)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.is_touched || self.next_timeout().is_some_and(|at| at <= now)
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let (repeat, ack) = (self.repeat.map(|(at, _)| at), self.ack_at);
        // What cannot be sent now waits for what lets it.
        let sends = repeat.into_iter().chain(ack).filter(|_| self.link.is_some() && !self.is_blocked);
        sends.filter(|at| self.waking.is_open(*at)).chain(self.waking.next()).chain(self.write_at).min()
    }

    /// Seals what there is to tell of one run of the peer, and as much of it as a frame takes.
    fn seal_ack(&mut self, mut ack: Ack<'_>, out: &mut [u8]) -> Result<usize, SendError> {
        loop {
            match self.pairing.seal(Lane::Live, &Content::Ack(ack), out) {
                Err(SendError::Buffer(_)) if ack.shorten() => {}
                sealed => return sealed,
            }
        }
    }
}

impl<V: Vault + Clone + 'static> Driver<V> {
    // ---- commands ----

    pub(super) fn pair(&mut self, now: Timestamp, peer: PairedPeer) -> Result<Channel, NodeError> {
        let PairedPeer { keys, link, rhythm } = peer;
        let (id, role) = (keys.peer, keys.role);
        if self.writer.is_none() {
            return Err(NodeError::NoStore);
        }
        if keys.own != self.endpoint.owner().id() {
            return Err(NodeError::OtherIdentity);
        }
        check_mtu(&*link)?;
        if let Some(peer) = self.peers.get(&id)
            && peer.application.as_ref().is_some_and(|application| !application.is_gone())
        {
            return Err(NodeError::InUse);
        }
        if let Entry::Vacant(vacant) = self.paired.entry(id) {
            let vault = self.endpoint.vault().clone();
            let (mut pairing, peer_instance) = match self.unclaimed.get(&id) {
                Some(row) => {
                    let (peer_instance, state) = decode_row(row).ok_or(NodeError::Pairing(StateError::Rejected))?;
                    let restored = Pairing::restore(vault, keys, now, state).map_err(NodeError::Pairing)?;
                    (restored, peer_instance)
                }
                None => (Pairing::new(vault, keys).map_err(|error| NodeError::Pairing(error.into()))?, None),
            };
            self.unclaimed.remove(&id);
            pairing.set_instance(self.common.instance);
            pairing.leave_out_cids();
            vacant.insert(Paired {
                pairing,
                role,
                link: None,
                mtu: 0,
                waking: Waking::new(rhythm, role),
                peer_instance,
                is_writing: false,
                write_at: None,
                repeat: None,
                reports: BTreeSet::new(),
                ack_at: None,
                arrived: 0,
                committed: 0,
                interval: Interval { smoothed: FIRST_INTERVAL, last: now },
                ping_due: false,
                is_touched: true,
                is_blocked: false,
            });
        }
        self.relink(id, link)?;
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        let (handle, rewound) = peer.handle();
        self.paired_opened(id);
        for instance in rewound {
            self.paired.get_mut(&id).into_iter().for_each(|paired| paired.tell(now, instance));
        }
        Ok(handle)
    }

    pub(super) fn relink(&mut self, id: IdentityId, link: Box<dyn FrameLink>) -> Result<(), NodeError> {
        let mtu = check_mtu(&*link)?;
        let content = (mtu - HEADER - TAG_LEN).min(MAX_PLAINTEXT) - 1;
        let Some(paired) = self.paired.get_mut(&id) else { return Err(NodeError::NotPaired) };
        let before = paired.link.take();
        paired.mtu = mtu;
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        if !peer.shared.set_content(content) {
            return Err(NodeError::Mtu { needed: HANDSHAKE_OVERHEAD, got: mtu });
        }
        if let Some(link) = before.and_then(|before| self.links.get(&before)) {
            link.queue.close();
        }
        let link = self.add_paired_link(link, id);
        if let Some(paired) = self.paired.get_mut(&id) {
            paired.link = Some(link);
            paired.wake();
        }
        self.peers.get_mut(&id).into_iter().for_each(Peer::wake);
        Ok(())
    }

    pub(super) fn open_recovery(&mut self, until: Timestamp, id: IdentityId) -> Result<(), NodeError> {
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        paired.pairing.open_recovery(until);
        Ok(())
    }

    pub(super) fn renew_recovery(&mut self, id: IdentityId) -> Result<(), NodeError> {
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        paired.pairing.renew_recovery();
        paired.is_touched = true;
        Ok(())
    }

    // ---- the store ----

    /// Keeps a pairing of an earlier run until somebody names its keys.
    pub(super) fn keep_unclaimed(&mut self, key: &[u8], row: &[u8]) -> bool {
        let Ok(id) = <[u8; 32]>::try_from(key) else { return false };
        if decode_row(row).is_none() {
            return false;
        }
        self.unclaimed.insert(IdentityId(id), row.to_vec());
        true
    }

    pub(super) fn pairing_written(&mut self, now: Timestamp, id: IdentityId, version: Option<u64>) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        paired.is_writing = false;
        match version {
            Some(version) => paired.pairing.written(version),
            None => {
                paired.pairing.not_written();
                paired.write_at = Some(now.after(WRITE_AGAIN));
            }
        }
        paired.is_touched = true;
        // What waited for the disk may be sealed.
        self.peers.get_mut(&id).into_iter().for_each(Peer::wake);
    }

    fn write_pairing(&mut self, now: Timestamp, id: IdentityId) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        if paired.is_writing || paired.write_at.is_some_and(|at| at > now) {
            return;
        }
        paired.write_at = None;
        let state = match paired.pairing.poll_state() {
            Ok(Some(state)) => state,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the state of a pairing cannot be sealed");
                paired.write_at = Some(now.after(WRITE_AGAIN));
                return;
            }
        };
        let Some(writer) = &self.writer else { return };
        paired.is_writing = true;
        let mut batch = Batch::default();
        batch.put(Table::Pairings, id.0.to_vec(), encode_row(paired.peer_instance, &state.octets));
        writer.write(batch, Stored::Pairing { peer: id, version: state.version });
    }

    // ---- frames ----

    pub(super) fn paired_link_ended(&mut self, id: IdentityId, link: LinkId) {
        if let Some(paired) = self.paired.get_mut(&id)
            && paired.link == Some(link)
        {
            paired.link = None;
            tracing::warn!(peer = %id.short(), "the link to a paired peer has ended; what is sent waits for another");
        }
    }

    pub(super) fn handle_paired_frame(&mut self, now: Timestamp, id: IdentityId, source: Source, frame: &mut [u8]) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        // Also where it is refused: what limits forgeries is part of the state.
        paired.is_touched = true;
        let record = match paired.pairing.handle_frame(now, source, frame) {
            Ok(record) => record,
            Err(error) => {
                if !matches!(error, FrameError::Throttled | FrameError::Replayed) {
                    eprintln!("refused {error:?}");
                }
                self.statistics.refused(&error);
                return;
            }
        };
        let was_open = paired.waking.is_open(now);
        paired.waking.heard(now);
        match record {
            ConstrainedRecord::Typed(Lane::Live, Content::Start(start)) => {
                paired.peer_instance = Some(start.instance);
                paired.ping_due = true;
                paired.tell_by(now);
            }
            ConstrainedRecord::Typed(_, Content::Ping) => {
                paired.ping_due = true;
                paired.tell_by(now);
            }
            ConstrainedRecord::Typed(_, Content::Reliable(message)) => {
                let Some(instance) = message.instance.or(paired.peer_instance) else {
                    // Its START is still on the way; the message is repeated until it is committed.
                    return;
                };
                paired.arrived += 1;
                paired.interval.passed(now);
                paired.tell(now, instance);
                let Reliable { number, lowest, unwanted, part, body, .. } = message;
                let record = Record::Message { instance, number, lowest, unwanted, part, body };
                self.take_record(now, id, record, None);
            }
            ConstrainedRecord::Typed(_, Content::Ack(Ack { committed: Some(committed), .. })) => {
                self.take_record(now, id, Record::Committed(committed), None);
            }
            // Peers of a node send messages.
            ConstrainedRecord::Datagram(_) | ConstrainedRecord::Typed(_, Content::Data(_)) => {
                self.statistics.refused_frames += 1;
            }
            _ => {}
        }
        if !was_open {
            self.peers.get_mut(&id).into_iter().for_each(Peer::wake);
        }
    }

    fn paired_opened(&mut self, id: IdentityId) {
        let context = self.paired.get(&id).and_then(|paired| paired.pairing.context());
        let Some(peer) = self.peers.get_mut(&id).filter(|_| context.is_some()) else { return };
        peer.context.send_replace(context);
        peer.shared.set_met(true);
        let mut outgoing = peer.shared.outgoing();
        outgoing.outbox.renew();
        outgoing.met();
        drop(outgoing);
        peer.wake();
    }

    // ---- what is due ----

    pub(super) fn pump_paired(&mut self, now: Timestamp) {
        let due = |(id, paired): (&IdentityId, &Paired<V>)| paired.is_due(now).then_some(*id);
        let ids: Vec<IdentityId> = self.paired.iter().filter_map(due).collect();
        for id in ids {
            self.look_after_paired(now, id);
        }
    }

    fn look_after_paired(&mut self, now: Timestamp, id: IdentityId) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        paired.is_touched = false;
        if paired.waking.wakes(now) {
            // Its peer has waited for a sign of it.
            paired.ping_due = true;
            paired.repeat = paired.repeat.map(|_| (now, FIRST_REPEAT));
            self.peers.get_mut(&id).into_iter().for_each(Peer::wake);
        }
        self.handshake_paired(now, id);
        self.handle_pairing_events(id);
        self.transmit_paired(now, id);
        self.write_pairing(now, id);
    }

    /// Calls, and sends again what is unanswered.
    fn handshake_paired(&mut self, now: Timestamp, id: IdentityId) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        if paired.role == Role::Responder || !paired.may_send(now) {
            return;
        }
        let is_unanswered = paired.pairing.is_unanswered();
        let done = if paired.pairing.is_due(now) && !is_unanswered {
            paired.repeat = Some((now.after(FIRST_REPEAT), FIRST_REPEAT));
            paired.pairing.call(&[])
        } else if !is_unanswered {
            paired.repeat = None;
            return;
        } else {
            // Of an earlier run, or of this session's START.
            let (at, delay) = paired.repeat.unwrap_or((now, FIRST_REPEAT / 2));
            if at > now {
                return;
            }
            let delay = (delay * 2).min(MAX_REPEAT);
            paired.repeat = Some((now.after(delay), delay));
            paired.pairing.repeat(now)
        };
        match done {
            Ok(()) | Err(CallError::UnderWay) => {}
            Err(error) => tracing::error!(peer = %id.short(), %error, "a paired peer cannot be called"),
        }
    }

    fn handle_pairing_events(&mut self, id: IdentityId) {
        while let Some(event) = self.paired.get_mut(&id).and_then(|paired| paired.pairing.poll_event()) {
            eprintln!("{} {event:?}", id.short());
            match event {
                PairingEvent::Opened { .. } => {
                    self.statistics.sessions += 1;
                    self.paired_opened(id);
                }
                PairingEvent::CloneSuspected => {
                    self.statistics.suspected_clones += 1;
                    tracing::error!(peer = %id.short(), "two devices share the keys of this pairing, or one has gone back");
                }
                PairingEvent::PskUsedAgain => {
                    tracing::warn!(peer = %id.short(), "somebody has used a psk of this pairing that has served");
                }
                // A node sends nothing with its calls and answers.
                _ => self.statistics.refused_frames += 1,
            }
        }
    }

    /// Sends what the pairing wants sent, and tells the peer what has arrived.
    fn transmit_paired(&mut self, now: Timestamp, id: IdentityId) {
        let mut frame = std::mem::take(&mut self.scratch.inner);
        while let Some(paired) = self.paired.get_mut(&id).filter(|paired| paired.may_send(now)) {
            let Some(link) = paired.link.and_then(|link| self.links.get(&link)) else { break };
            if !link.queue.has_room() {
                paired.is_blocked = true;
                break;
            }
            let out = &mut frame[..paired.mtu.min(MAX_RECORD)];
            let len = match paired.pairing.poll_transmit(out) {
                Ok(Some(len)) => len,
                Ok(None) => match paired.next_ack(now, self.peers.get(&id), out) {
                    Some(len) => len,
                    None => break,
                },
                Err(error) => {
                    tracing::warn!(peer = %id.short(), %error, "a frame of a pairing was not sent");
                    break;
                }
            };
            let pushed = link.queue.push(&out[..len]);
            self.statistics.dropped_frames += u64::from(!pushed);
        }
        self.scratch.inner = frame;
    }

    /// Sends messages of the outbox, as long as the device is awake and its link takes them.
    pub(super) fn send_paired(&mut self, now: Timestamp, id: IdentityId) {
        let (Some(paired), Some(peer)) = (self.paired.get_mut(&id), self.peers.get_mut(&id)) else { return };
        let shared = peer.shared.clone();
        let link = paired.link.filter(|_| paired.may_send(now) && paired.pairing.is_open());
        let Some(link) = link.and_then(|link| self.links.get(&link)) else { return self.block(id) };
        let mut frame = std::mem::take(&mut self.scratch.inner);
        for sent in 0.. {
            if sent == TURN {
                // The rest in the next turn, which follows at once.
                self.common.wake.notify_one();
                break;
            }
            if !link.queue.has_room() {
                (peer.awake, peer.blocked) = (false, true);
                break;
            }
            let mut outgoing = shared.outgoing();
            let Some(message) = outgoing.outbox.poll_send(now, Lane::Live) else {
                peer.awake = false;
                break;
            };
            let is_known = message.id.instance == paired.pairing.instance() && paired.pairing.instance_is_known();
            let is_plain = message.unwanted == 0 && message.part.is_none();
            let content = Content::Reliable(Reliable {
                instance: (!is_known || !is_plain).then_some(message.id.instance),
                number: message.id.number,
                lowest: message.lowest,
                unwanted: message.unwanted,
                part: message.part,
                body: message.body,
            });
            let out = &mut frame[..paired.mtu.min(MAX_RECORD)];
            let sealed = paired.pairing.seal(Lane::Live, &content, out);
            drop(outgoing);
            match sealed {
                Ok(len) => {
                    let pushed = link.queue.push(&out[..len]);
                    self.statistics.dropped_frames += u64::from(!pushed);
                }
                Err(error) => {
                    eprintln!("not sealed {error:?}");
                    (peer.awake, peer.blocked) = (false, true);
                    break;
                }
            }
        }
        // Records are counted, and so many of them make another session due.
        paired.is_touched = true;
        self.scratch.inner = frame;
    }
}

impl<V: Vault + Clone + 'static> Paired<V> {
    /// The next record that tells the peer what has arrived, if one is due.
    fn next_ack(&mut self, now: Timestamp, peer: Option<&Peer>, out: &mut [u8]) -> Option<usize> {
        let is_due = self.ack_at.is_some_and(|at| at <= now);
        if !(is_due || self.ping_due) || !self.pairing.is_open() {
            return None;
        }
        let opened = self.pairing.opened().map(|ranges| (Lane::Live, ranges));
        let report = self.reports.pop_first();
        let mut incoming = peer.map(|peer| peer.shared.incoming());
        let committed = match (&mut incoming, report) {
            (Some(incoming), Some(instance)) => incoming.inbox.committed(instance),
            _ => None,
        };
        let sealed = match (opened, committed) {
            // It is the device that asks for a sign of life; so it answers none with another.
            (None, None) if self.ping_due && self.role == Role::Initiator => {
                self.pairing.seal(Lane::Live, &Content::Ping, out)
            }
            // The state has not been written: when it has, there is more to tell.
            (None, None) => {
                self.ack_at = None;
                return None;
            }
            (opened, committed) => self.seal_ack(Ack { opened, committed }, out),
        };
        drop(incoming);
        (self.ping_due, self.arrived, self.committed) = (false, 0, 0);
        if self.reports.is_empty() {
            self.ack_at = None;
        }
        sealed.inspect_err(|error| tracing::debug!(%error, "what has arrived was not told")).ok()
    }
}

/// The longest frame of a link, if C1 fits.
fn check_mtu(link: &dyn FrameLink) -> Result<usize, NodeError> {
    let mtu = link.capabilities().mtu;
    if mtu < HANDSHAKE_OVERHEAD {
        return Err(NodeError::Mtu { needed: HANDSHAKE_OVERHEAD, got: mtu });
    }
    Ok(mtu)
}

/// `1 | instance 4 | state`, or `0 | state` before the peer's START has come.
fn encode_row(peer_instance: Option<Instance>, state: &[u8]) -> Vec<u8> {
    match peer_instance {
        Some(instance) => [&[1], instance.0.as_slice(), state].concat(),
        None => [&[0], state].concat(),
    }
}

fn decode_row(row: &[u8]) -> Option<(Option<Instance>, &[u8])> {
    let mut reader = Reader::new(row);
    let instance = match reader.u8("pairing flags").ok()? {
        0 => None,
        1 => Some(Instance(reader.array("pairing instance").ok()?)),
        _ => return None,
    };
    Some((instance, reader.rest()))
}
