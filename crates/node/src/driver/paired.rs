//! Peers behind constrained links: their pairings, and when they are spoken to.
//!
//! Outbox and inbox are those of any peer; here is what carries them where frames are few and small. What a handshake makes is
//! written before it leaves; messages leave while the device is awake and the link's queue, which is short, has room.

use std::{collections::BTreeSet, time::Duration};

use sealway_channel::{
    CallError, ConstrainedRecord, FrameError, Pairing, PairingEvent, PairingKeys, Record, Role, SendError, Source,
    StateError,
};
use sealway_identity::{IdentityError, PayloadParts, UnverifiedPayload};
use sealway_link::FrameLink;
use sealway_routing::{Batch, Table};
use sealway_vault::{CryptoProvider, DhHandle, Vault};
use sealway_wire::{
    IdentityId, Instance, Lane, Reader, Timestamp,
    constrained::{HANDSHAKE_OVERHEAD, MAX_PAYLOAD, MAX_PLAINTEXT, MAX_RECORD, TAG_LEN},
    content::{Ack, Content, Reliable},
};

use super::{
    Driver,
    custody::Away,
    peer::Peer,
    peers::{Stored, TURN},
};
use crate::{HandshakePayload, NodeError, PairedPeer, handle::Channel, links::LinkId, rhythm::Waking};

/// What was heard is told after as many times as it takes from one message to the next, within these bounds: with what else
/// there is then to tell.
const ACK_INTERVALS: u32 = 4;
const MIN_ACK_DELAY: Duration = Duration::from_millis(100);
const MAX_ACK_DELAY: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_secs(3);
const FIRST_INTERVAL: Duration = Duration::from_millis(250);
/// As many messages are told at once: they are a quarter of what their sender may have under way.
const ACK_MESSAGES: u32 = 16;
/// Runs of the peer of which there is something to tell.
const REPORTS: usize = 8;
/// First delay before what is unanswered is sent again, doubled each time up to the second.
const FIRST_REPEAT: Duration = Duration::from_secs(2);
const MAX_REPEAT: Duration = Duration::from_secs(64);
/// So many unanswered records, before a peer is taken to be absent.
const PROBE_FROM: u32 = 80;
/// A session's age is looked at so often.
const CHECK: Duration = Duration::from_secs(3600);
/// A store that has failed is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// A record's header where the link names the peer, at its longest: octet 0, a counter of 4 octets, an incarnation of 4.
const HEADER: usize = 1 + 4 + 4;

/// What a record has beside its content, at most: header, type and tag.
const OVERHEAD: usize = HEADER + 1 + TAG_LEN;

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
    /// When what is unanswered is sent again, and how long after that; whether that is a call.
    repeat: Option<(Timestamp, Duration)>,
    repeats_call: bool,
    /// What goes with our next call.
    payload: Vec<u8>,
    /// When the device asks for a sign of life, until it has heard one, and how long after that.
    sign: Option<(Timestamp, Duration)>,
    /// To a peer of which nothing is heard one record goes at a time: when the next may.
    probe_at: Option<Timestamp>,
    /// When it is looked whether the session is too old.
    check_at: Timestamp,
    /// What the peer is to be told, and by when; how many messages have come since, and octets that were committed.
    reports: BTreeSet<Instance>,
    ack_at: Option<Timestamp>,
    arrived: u32,
    committed: usize,
    interval: Interval,
    /// The peer asks for any record.
    answer_due: bool,
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
        let sample = now.since(self.last);
        // What comes after a pause tells nothing of how fast the link is.
        if sample <= PAUSE {
            self.smoothed = (self.smoothed * 7 + sample) / 8;
        }
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
        self.tell_soon(now);
    }

    fn tell_soon(&mut self, now: Timestamp) {
        let delay = self.interval.ack_delay();
        // Otherwise it would wait until the device wakes again.
        let delay = self.waking.awake().map_or(delay, |awake| delay.min(awake / 8));
        self.tell_by(if self.is_awaited() { now } else { now.after(delay) });
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

    /// How long frames its link has to carry for handshakes.
    fn handshake_len(&self) -> usize {
        self.pairing.handshake_len().max(HANDSHAKE_OVERHEAD + self.payload.len())
    }

    pub(super) fn may_send(&self, now: Timestamp) -> bool {
        self.link.is_some() && !self.is_blocked && self.waking.is_open(now)
    }

    /// The link on which datagrams leave now, if the peer is awake and answers.
    pub(super) fn datagram_link(&self, now: Timestamp) -> Option<LinkId> {
        self.link.filter(|_| self.waking.is_open(now) && self.pairing.is_open() && !self.is_probing())
    }

    /// Seals a datagram of the application, and returns the record's length.
    pub(super) fn seal_datagram(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
        self.is_touched = true;
        self.pairing.seal_datagram(datagram, out)
    }

    /// A datagram has come. Many of them are acknowledged, for their sender numbers its records by what it knows to have arrived;
    /// one by one they are not, for a slow link would carry as many acknowledgements.
    fn datagram_came(&mut self, now: Timestamp) {
        self.arrived += 1;
        if self.arrived >= ACK_MESSAGES {
            self.tell_by(now);
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.is_touched || self.next_timeout(now).is_some_and(|at| at <= now)
    }

    pub(super) fn next_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        // What cannot be sent now waits for what lets it: that touches the pairing.
        let may_send = self.may_send(now);
        let records = [self.ack_at, self.sign.map(|(at, _)| at), self.probe_at];
        let records = records.into_iter().flatten().filter(|_| may_send && self.pairing.is_open());
        let repeat = self.repeat.map(|(at, _)| at).filter(|_| may_send);
        let write = self.write_at.filter(|_| !self.is_writing);
        let always = [self.waking.next(), write, Some(self.check_at)].into_iter().flatten();
        records.chain(repeat).chain(always).min()
    }

    /// Nothing was heard for so long that one record goes at a time. Otherwise a lane would be used up on nobody.
    fn is_probing(&self) -> bool {
        self.pairing.unanswered() >= PROBE_FROM
    }

    /// Asks for a sign of life, and again after growing delays until there is one.
    fn ask_for_sign(&mut self, at: Timestamp) {
        if self.role == Role::Initiator {
            let delay = self.waking.awake().map_or(FIRST_REPEAT, |awake| awake / 4);
            self.sign = Some((at, delay));
            self.is_touched = true;
        }
    }

    /// Nothing was heard for long: a sign of life is asked for, also by the side that answers.
    pub(super) fn ask_if_silent(&mut self, now: Timestamp) {
        if self.is_probing() && self.sign.is_none() {
            self.sign = Some((now.after(FIRST_REPEAT), FIRST_REPEAT));
            self.is_touched = true;
        }
    }

    /// The longest frame of the link.
    pub(super) const fn mtu(&self) -> usize {
        self.mtu
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
        let PairedPeer { keys, link, rhythm, payload } = peer;
        let (id, role) = (keys.peer, keys.role);
        if self.writer.is_none() {
            return Err(NodeError::NoStore);
        }
        if keys.own != self.endpoint.owner().id() {
            return Err(NodeError::OtherIdentity);
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        if peer.application.as_ref().is_some_and(|application| !application.is_gone()) {
            return Err(NodeError::InUse);
        }
        let made = if self.paired.contains_key(&id) { None } else { Some(self.pairing(now, keys)?) };
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        // Whatever else there is with this peer goes on as it was if the link does not do.
        let needed = made.as_ref().map(|(pairing, _)| pairing.handshake_len());
        let needed = needed.or(self.paired.get(&id).map(Paired::handshake_len)).unwrap_or(HANDSHAKE_OVERHEAD);
        check_payload(link.capabilities().unit, &payload)?;
        let mtu = fit(peer, needed, &*link)?;
        if let Some((pairing, peer_instance)) = made {
            // From now on it is spoken to in this profile alone: whether it is away from its relay does not matter.
            peer.away = Away::default();
            peer.lane = Lane::Live;
            self.unclaimed.remove(&id);
            let paired = Paired {
                pairing,
                role,
                link: None,
                mtu,
                waking: Waking::new(rhythm, role),
                peer_instance,
                is_writing: false,
                write_at: None,
                repeat: None,
                repeats_call: false,
                payload: Vec::new(),
                sign: None,
                probe_at: None,
                check_at: now,
                reports: BTreeSet::new(),
                ack_at: None,
                arrived: 0,
                committed: 0,
                interval: Interval { smoothed: FIRST_INTERVAL, last: now },
                answer_due: false,
                is_touched: true,
                is_blocked: false,
            };
            self.paired.insert(id, paired);
        }
        if let Some(paired) = self.paired.get_mut(&id) {
            paired.waking.set_rhythm(rhythm);
        }
        self.connect_paired(now, id, link, mtu);
        if !payload.is_empty() {
            self.set_payload(id, payload)?;
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        let (handle, rewound) = peer.handle();
        self.paired_opened(id);
        for instance in rewound {
            self.paired.get_mut(&id).into_iter().for_each(|paired| paired.tell(now, instance));
        }
        Ok(handle)
    }

    /// The pairing as the store has it, or a new one, and the instance of the peer's START.
    fn pairing(&self, now: Timestamp, keys: PairingKeys) -> Result<(Pairing<V>, Option<Instance>), NodeError> {
        let vault = self.endpoint.vault().clone();
        let (mut pairing, peer_instance) = match self.unclaimed.get(&keys.peer) {
            Some(row) => {
                let (peer_instance, state) = decode_row(row).ok_or(NodeError::Pairing(StateError::Rejected))?;
                let restored = Pairing::restore(vault, keys, now, state).map_err(NodeError::Pairing)?;
                (restored, peer_instance)
            }
            None => (Pairing::new(vault, keys).map_err(|error| NodeError::Pairing(error.into()))?, None),
        };
        pairing.set_instance(self.common.instance);
        pairing.leave_out_cids();
        if self.store_has_no_copies {
            pairing.reserve_counters();
        }
        if pairing.earlier_key().is_some() {
            let payload = self.endpoint.owner().payload(&PayloadParts::default());
            let announced = payload.map_err(|error| error.to_string());
            let announced =
                announced.and_then(|payload| pairing.announce_key(&payload).map_err(|error| error.to_string()));
            if let Err(error) = announced {
                tracing::error!(%error, "a paired peer cannot be told of the new channel key");
            }
        }
        Ok((pairing, peer_instance))
    }

    pub(super) fn relink(&mut self, now: Timestamp, id: IdentityId, link: Box<dyn FrameLink>) -> Result<(), NodeError> {
        let needed = self.paired.get(&id).map(Paired::handshake_len).ok_or(NodeError::NotPaired)?;
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.common));
        let mtu = fit(peer, needed, &*link)?;
        self.connect_paired(now, id, link, mtu);
        Ok(())
    }

    /// Has a link lead to a paired peer, instead of the one before.
    fn connect_paired(&mut self, now: Timestamp, id: IdentityId, link: Box<dyn FrameLink>, mtu: usize) {
        let link = self.add_paired_link(link, id);
        let Some(paired) = self.paired.get_mut(&id) else { return };
        paired.mtu = mtu;
        paired.ask_for_sign(now);
        let before = paired.link.replace(link);
        paired.wake();
        if let Some(link) = before.and_then(|before| self.links.get(&before)) {
            link.queue.close();
        }
        self.peers.get_mut(&id).into_iter().for_each(Peer::wake);
    }

    pub(super) fn open_recovery(&mut self, until: Timestamp, id: IdentityId) -> Result<(), NodeError> {
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        if paired.role == Role::Initiator {
            return Err(NodeError::WrongSide);
        }
        paired.pairing.open_recovery(until);
        Ok(())
    }

    pub(super) fn reseed(&mut self, now: Timestamp, id: IdentityId) -> Result<bool, NodeError> {
        let seed = self.endpoint.vault().provider().random_secret().map_err(|_| NodeError::Entropy)?;
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        let is_new = paired.pairing.reseed(seed).map_err(|_| NodeError::WrongSide)?;
        paired.repeat = paired.repeat.or(Some((now.after(FIRST_REPEAT), FIRST_REPEAT)));
        paired.is_touched = true;
        Ok(is_new)
    }

    /// Has something go with the next handshake.
    pub(super) fn set_payload(&mut self, id: IdentityId, octets: Vec<u8>) -> Result<(), NodeError> {
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        check_payload(paired.mtu, &octets)?;
        match paired.role {
            Role::Initiator => paired.payload = octets,
            // Its length was looked at.
            Role::Responder => {
                let _ = paired.pairing.set_reply(&octets);
            }
        }
        Ok(())
    }

    /// The channel key that has to stay beside the newest, for the sake of a paired peer.
    pub(super) fn earlier_key(&self, id: IdentityId) -> Result<Option<DhHandle>, NodeError> {
        let paired = self.paired.get(&id).ok_or(NodeError::NotPaired)?;
        Ok(paired.pairing.earlier_key())
    }

    pub(super) fn renew_recovery(&mut self, now: Timestamp, id: IdentityId) -> Result<(), NodeError> {
        let paired = self.paired.get_mut(&id).ok_or(NodeError::NotPaired)?;
        if paired.role == Role::Responder {
            return Err(NodeError::WrongSide);
        }
        paired.pairing.renew_recovery();
        paired.repeat = paired.repeat.map(|_| (now, FIRST_REPEAT));
        paired.is_touched = true;
        Ok(())
    }

    // ---- the store ----

    /// Keeps a pairing of an earlier run until somebody names its keys.
    pub(super) fn keep_unclaimed(&mut self, key: &[u8], row: &[u8]) -> bool {
        let Ok(id) = <[u8; 32]>::try_from(key) else { return false };
        // Also one that cannot be read: its psk has moved on, and the first one must not be used again.
        self.unclaimed.insert(IdentityId(id), row.to_vec());
        true
    }

    pub(super) fn pairing_written(&mut self, now: Timestamp, id: IdentityId, version: Option<u64>) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        paired.is_writing = false;
        match version {
            Some(version) => {
                paired.pairing.written(version);
                // What has opened is told when a restart would know of it.
                if paired.arrived >= ACK_MESSAGES {
                    paired.tell_by(now);
                }
            }
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
        let was_calling = paired.pairing.is_calling();
        let record = match paired.pairing.handle_frame(now, source, frame) {
            Ok(record) => record,
            Err(error) => {
                if !matches!(error, FrameError::Throttled | FrameError::Replayed) {
                    tracing::debug!(peer = %id.short(), %error, "a frame was refused");
                }
                self.statistics.refused(&error);
                return;
            }
        };
        // When a record of the stored lane comes is for a relay to say.
        if !matches!(record, ConstrainedRecord::Typed(Lane::Stored, _)) {
            paired.waking.heard(now);
            (paired.sign, paired.probe_at) = (None, None);
        }
        let has_called = was_calling && !paired.pairing.is_calling();
        if let Some(peer) = self.peers.get_mut(&id) {
            // What holds of the session holds of its first message too.
            if let Some(context) = paired.pairing.context().filter(|context| *peer.context.borrow() != Some(*context)) {
                peer.context.send_replace(Some(context));
            }
            // What the caller sends goes under the new session from now on.
            if has_called {
                peer.shared.outgoing().outbox.renew();
            }
            peer.wake();
        }
        match record {
            ConstrainedRecord::Typed(Lane::Live, Content::Start(start)) => {
                paired.peer_instance = Some(start.instance);
                paired.answer_due = true;
                paired.tell_by(now);
            }
            ConstrainedRecord::Typed(_, Content::Ping) => {
                paired.answer_due = true;
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
            ConstrainedRecord::Datagram(octets) | ConstrainedRecord::Typed(Lane::Live, Content::Data(octets)) => {
                paired.datagram_came(now);
                self.take_datagram(now, id, octets);
            }
            ConstrainedRecord::ToAcknowledge => {
                paired.arrived += 1;
                paired.tell_soon(now);
            }
            // What a relay keeps may come again.
            ConstrainedRecord::Typed(Lane::Stored, Content::Data(_)) => self.statistics.refused_frames += 1,
            _ => {}
        }
    }

    fn paired_opened(&mut self, id: IdentityId) {
        let context = self.paired.get(&id).and_then(|paired| paired.pairing.context());
        let Some(peer) = self.peers.get_mut(&id).filter(|_| context.is_some()) else { return };
        peer.context.send_replace(context);
        peer.shared.set_met(true);
        let is_caller = self.paired.get(&id).is_some_and(|paired| paired.role == Role::Initiator);
        let mut outgoing = peer.shared.outgoing();
        // The caller has sent under it before.
        if !is_caller {
            outgoing.outbox.renew();
        }
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
        if paired.check_at <= now {
            paired.check_at = now.after(CHECK);
        }
        let mut wakes = paired.write_at.is_some_and(|at| at <= now);
        wakes |= paired.probe_at.take_if(|at| *at <= now).is_some();
        if paired.waking.wakes(now) {
            wakes = true;
            paired.repeat = paired.repeat.map(|_| (now, FIRST_REPEAT));
            // Its peer has waited for a sign of it. What it has to say is one.
            let is_empty = self.peers.get(&id).is_none_or(|peer| peer.shared.outgoing().outbox.is_empty());
            let later = paired.waking.awake().filter(|_| !is_empty).unwrap_or_default() / 2;
            paired.ask_for_sign(now.after(later));
        }
        if wakes {
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
        if !paired.may_send(now) {
            return;
        }
        let is_calling = paired.pairing.is_calling();
        // Of the session that was called for START is what is repeated next.
        if std::mem::replace(&mut paired.repeats_call, is_calling) != is_calling {
            paired.repeat = paired.repeat.map(|_| (now.after(FIRST_REPEAT), FIRST_REPEAT));
        }
        let done = if paired.role == Role::Initiator && paired.pairing.is_due(now) && !is_calling {
            paired.repeat = Some((now.after(FIRST_REPEAT), FIRST_REPEAT));
            paired.repeats_call = true;
            let called = paired.pairing.call(&paired.payload);
            if called.is_ok() {
                paired.payload = Vec::new();
            }
            called
        } else if !paired.pairing.is_unanswered() {
            paired.repeat = None;
            return;
        } else {
            // Of an earlier run, of this session's START, or of what is told of keys.
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
            tracing::debug!(peer = %id.short(), "pairing");
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
                PairingEvent::Rotation(payload) => self.take_key(id, &payload),
                PairingEvent::Reseeded => tracing::info!(peer = %id.short(), "the psk of the pairing has been renewed"),
                PairingEvent::Early(octets) => self.payload_came(id, &octets, true),
                PairingEvent::Reply(octets) => self.payload_came(id, &octets, false),
                _ => self.statistics.refused_frames += 1,
            }
        }
    }

    /// Something has come with a handshake of the peer.
    fn payload_came(&mut self, id: IdentityId, octets: &[u8], is_early: bool) {
        let Some(peer) = self.peers.get(&id) else { return };
        let has_room = peer.shared.payloads_in.came(&HandshakePayload::encode(octets, is_early));
        self.statistics.dropped_datagrams += u64::from(!has_room);
    }

    /// Looks at what a paired peer says of its channel key, and takes it if it is so.
    fn take_key(&mut self, id: IdentityId, payload: &[u8]) {
        let Some(paired) = self.paired.get_mut(&id) else { return };
        let vault = self.endpoint.vault();
        let verified = UnverifiedPayload::decode(payload).map_err(IdentityError::from).and_then(|payload| {
            // No clock is declared good, as for channels.
            payload.verify_key(vault.provider(), &id, paired.pairing.peer_rank(), None)
        });
        let taken = match &verified {
            Ok(attestation) => paired.pairing.accept_key(attestation).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match taken {
            Ok(()) => tracing::info!(peer = %id.short(), "the peer has another channel key"),
            Err(error) => {
                self.statistics.refused_frames += 1;
                tracing::warn!(peer = %id.short(), %error, "another channel key of a paired peer was refused");
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
                Ok(None) => match paired.next_record(now, self.peers.get(&id), out) {
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
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // By turns: on a short queue there may be room for one of the two.
        peer.datagrams_first = !peer.datagrams_first;
        if peer.datagrams_first {
            self.send_paired_datagrams(now, id);
            self.send_paired_messages(now, id);
        } else {
            self.send_paired_messages(now, id);
            self.send_paired_datagrams(now, id);
        }
    }

    fn send_paired_messages(&mut self, now: Timestamp, id: IdentityId) {
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
            let waits = paired.is_probing() && paired.probe_at.is_some_and(|at| at > now);
            if waits || !link.queue.has_room() {
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
                    if paired.is_probing() {
                        paired.probe_at = Some(now.after(MAX_REPEAT));
                    }
                }
                Err(error) => {
                    // Of the other errors the end is heard of: a state that is written, a session that is opened.
                    if error == SendError::Entropy {
                        paired.write_at = Some(now.after(WRITE_AGAIN));
                    }
                    tracing::warn!(peer = %id.short(), %error, "a message was not sealed; it waits");
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
    /// The next record that tells the peer what has arrived, or asks whether it is there, if one is due.
    fn next_record(&mut self, now: Timestamp, peer: Option<&Peer>, out: &mut [u8]) -> Option<usize> {
        if !self.pairing.is_open() {
            return None;
        }
        self.next_ack(now, peer, out).or_else(|| self.next_ping(now, out))
    }

    fn next_ack(&mut self, now: Timestamp, peer: Option<&Peer>, out: &mut [u8]) -> Option<usize> {
        if !self.answer_due && self.ack_at.is_none_or(|at| at > now) {
            return None;
        }
        let opened = self.pairing.opened().map(|ranges| (Lane::Live, ranges));
        let report = self.reports.first().copied();
        let mut incoming = peer.map(|peer| peer.shared.incoming());
        let committed = match (&mut incoming, report) {
            (Some(incoming), Some(instance)) => incoming.inbox.committed(instance),
            _ => None,
        };
        if opened.is_none() && committed.is_none() {
            report.map(|report| self.reports.remove(&report));
            // When the state is written there is something to tell.
            self.ack_at = self.ack_at.filter(|_| !self.reports.is_empty());
            return None;
        }
        let sealed = self.seal_ack(Ack { opened, committed }, out);
        drop(incoming);
        match sealed {
            Ok(len) => {
                report.map(|report| self.reports.remove(&report));
                (self.answer_due, self.arrived, self.committed) = (false, 0, 0);
                self.ack_at = self.ack_at.filter(|_| !self.reports.is_empty());
                Some(len)
            }
            Err(error) => {
                tracing::debug!(%error, "what has arrived was not told");
                self.ack_at = Some(now.after(WRITE_AGAIN));
                None
            }
        }
    }

    fn next_ping(&mut self, now: Timestamp, out: &mut [u8]) -> Option<usize> {
        let (_, delay) = self.sign.filter(|(at, _)| *at <= now)?;
        self.sign = Some((now.after(delay), (delay * 2).min(MAX_REPEAT)));
        self.pairing.seal(Lane::Live, &Content::Ping, out).ok()
    }
}

/// Has messages to a peer cut for a link, and returns its longest frame. What waits was cut before, and parts that the peer may
/// have are not cut anew: they have to fit; so do handshakes, which take `needed`.
fn fit(peer: &Peer, needed: usize, link: &dyn FrameLink) -> Result<usize, NodeError> {
    let got = link.capabilities().unit;
    if got < needed {
        return Err(NodeError::Mtu { needed, got });
    }
    let content = (got - OVERHEAD).min(MAX_PLAINTEXT - 1);
    let fits = peer.shared.set_content(content);
    fits.map(|()| got).map_err(|needed| NodeError::Mtu { needed: needed + OVERHEAD, got })
}

/// Whether a handshake with this payload fits a link's frames.
fn check_payload(mtu: usize, payload: &[u8]) -> Result<(), NodeError> {
    let (limit, got) = (MAX_PAYLOAD.min(mtu.saturating_sub(HANDSHAKE_OVERHEAD)), payload.len());
    if got > limit { Err(NodeError::TooLong { limit, got }) } else { Ok(()) }
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
