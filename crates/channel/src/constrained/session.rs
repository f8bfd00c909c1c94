//! A session of the constrained profile: its lanes in both directions, and what of them survives a restart.
//!
//! After a restart nothing is sealed under the session's own chains: the sender draws an incarnation, whose chains nobody
//! has used. So a copied or restored store never repeats a nonce.

use alloc::{boxed::Box, vec::Vec};

use sealway_vault::{CryptoProvider, Secret};
use sealway_wire::{
    DecodeError, Lane, Reader, Reason, ShortCid, ShortIncarnation, Timestamp,
    constrained::RecordHeader,
    content::Ranges,
    danger::{self, Protection},
};

use super::seldom::Seldom;
use crate::{
    FrameError, Role, SendError,
    lane::{Opened, Plaintext, ReceiveLane, SavedLane, Sealed, SendLane, Shape},
    reserved::Reserved,
    schedule::{self, SessionKey},
    suite::{C1, MAX_CONSTRAINED},
};

/// Where the counters of what is sealed come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counters {
    /// From nought, under the session's own chains, in this run.
    OfSession,
    /// The same, in blocks that are reserved on a disk which cannot go back; after a restart behind them.
    Reserved,
    /// From nought, under chains that are drawn: a copy of the store may have made the session too.
    OfIncarnation,
}

/// The domain of the labels of C1.
pub(super) const DOMAIN: &str = "C1";
/// Restarts of the peer that are followed within one session; with as many, a new session is wanted.
const MAX_INCARNATIONS: usize = 64;
/// Own restarts within one session after which another is wanted, well before the peer stops following.
const MAX_RESTARTS: u8 = 32;

/// Records that are left on a lane when another session is wanted.
const RESERVE: u64 = 1 << 10;
/// Counters that are reserved at once, where they are: what a restart may skip.
const BLOCK: u64 = 64;

/// What is sealed goes here. A stored lane comes into being when it is used, which it mostly is not.
struct Sending<P: CryptoProvider> {
    live: SendLane<P, C1>,
    stored: Option<Box<SendLane<P, C1>>>,
    /// Nobody knows what of the stored lane was used before a restart.
    stored_has_ended: bool,
}

impl<P: CryptoProvider> Sending<P> {
    const fn new(live: SendLane<P, C1>) -> Self {
        Self { live, stored: None, stored_has_ended: false }
    }

    /// The lane. Both are under the same incarnation, if under any, and both chains come from `chain`.
    fn get(
        &mut self,
        lane: Lane,
        chain: impl FnOnce(Option<ShortIncarnation>) -> Secret<32>,
    ) -> Result<&mut SendLane<P, C1>, SendError> {
        match lane {
            Lane::Live => Ok(&mut self.live),
            Lane::Stored if self.stored_has_ended => Err(SendError::LaneStopped),
            Lane::Stored => Ok(self.stored.get_or_insert_with(|| {
                let incarnation = self.live.incarnation();
                let chain = chain(incarnation);
                Box::new(match incarnation {
                    Some(incarnation) => SendLane::restored(Lane::Stored, chain, incarnation),
                    None => SendLane::new(Lane::Stored, chain),
                })
            })),
        }
    }

    fn sealed(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.sealed()).max(self.live.sealed())
    }
}

/// What is opened comes from here.
struct Receiving<P: CryptoProvider> {
    live: ReceiveLane<P, C1>,
    stored: Option<Box<ReceiveLane<P, C1>>>,
}

impl<P: CryptoProvider> Receiving<P> {
    const fn new(live: ReceiveLane<P, C1>) -> Self {
        Self { live, stored: None }
    }

    /// Opens a record. The stored lane begins with the chain that `stored` gives.
    fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        (cid, header): (ShortCid, &RecordHeader),
        frame: &mut [u8],
        stored: impl FnOnce() -> Secret<32>,
    ) -> Result<Opened, FrameError> {
        let cid = (false, cid);
        if header.lane == Lane::Live {
            return self.live.open(provider, now, &cid, header, frame);
        }
        if let Some(lane) = &mut self.stored {
            return lane.open(provider, now, &cid, header, frame);
        }
        let mut lane = ReceiveLane::new(Lane::Stored, stored());
        let opened = lane.open(provider, now, &cid, header, frame)?;
        self.stored = Some(Box::new(lane));
        Ok(opened)
    }

    fn next(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.next()).max(self.live.next())
    }
}

/// Counters of the live lane that are reserved, and the version of the state that reserves those that were asked for last. The
/// first are in the state that has the session.
struct Reserving {
    counters: Reserved,
    asked_in: u64,
}

impl Reserving {
    fn from(counter: u64) -> Self {
        Self { counters: Reserved::new(counter, BLOCK, MAX_CONSTRAINED), asked_in: 0 }
    }
}

/// Keys and counters of one session.
pub(super) struct Session<P: CryptoProvider> {
    /// A record of the peer has opened under it.
    pub(super) confirmed: bool,
    role: Role,
    /// Our connection id, and the peer's: both are derived.
    local: ShortCid,
    remote: ShortCid,
    /// It was made in a recovery.
    pub(super) recovered: bool,
    /// When its handshake ended, or, later, this run began.
    pub(super) since: Timestamp,
    /// When a record of the peer has opened last, or it began.
    pub(super) heard: Timestamp,
    /// Records sealed since the last one that opened.
    pub(super) unanswered: u32,
    /// Frames whose tags did not verify.
    pub(super) forgeries: u32,
    /// Our own restarts since it began.
    restarts: u8,
    /// What all comes from but the chains of the live lane.
    later: Secret<32>,
    /// The chains of the session itself, or, after a restart, of an incarnation drawn since. Where counters are reserved the
    /// live lane goes on under its own chain, and the stored one has ended.
    send: Option<Sending<P>>,
    reserved: Option<Box<Reserving>>,
    receive: Receiving<P>,
    /// Restarts of the peer; those that have been heard live come last, the newest at the end.
    incarnations: Seldom<(ShortIncarnation, Receiving<P>)>,
    /// Where the last START of the peer came in this run of ours.
    start_heard: Option<(Option<ShortIncarnation>, u64)>,
}

impl<P: CryptoProvider> Session<P> {
    /// The session of a handshake. One whose first message was written before the last start counts as `restored`: a copy
    /// of the store may have made it too.
    pub(super) fn new(
        key: &SessionKey<'_, P>,
        role: Role,
        recovered: bool,
        counters: Counters,
        now: Timestamp,
    ) -> Self {
        let [initiator, responder] = key.cids();
        let (local, remote) = match role {
            Role::Initiator => (initiator, responder),
            Role::Responder => (responder, initiator),
        };
        let is_reserved = counters == Counters::Reserved;
        let chain = key.chain(Lane::Live, role);
        let live = if is_reserved { SendLane::kept(Lane::Live, chain) } else { SendLane::new(Lane::Live, chain) };
        Self {
            confirmed: false,
            role,
            local,
            remote,
            recovered,
            since: now,
            heard: now,
            unanswered: 0,
            forgeries: 0,
            restarts: 0,
            later: key.later(),
            send: (counters != Counters::OfIncarnation).then(|| Sending::new(live)),
            reserved: is_reserved.then(|| Box::new(Reserving::from(0))),
            receive: Receiving::new(ReceiveLane::new(Lane::Live, key.chain(Lane::Live, role.other()))),
            incarnations: Seldom::new(),
            start_heard: None,
        }
    }

    /// Whether a record may be for this session: its connection id is ours, or does not travel.
    pub(super) fn may_be_for(&self, header: &RecordHeader) -> bool {
        header.cid.is_none_or(|cid| cid == self.local)
    }

    /// Whether a side has restarted as often as is followed.
    pub(super) fn is_crowded(&self) -> bool {
        // Reserved counters need no incarnation.
        self.incarnations.len() >= MAX_INCARNATIONS || self.reserved.is_none() && self.restarts >= MAX_RESTARTS
    }

    /// The records of the live lane that were opened, of the newest incarnation of the peer.
    pub(super) fn opened(&self) -> Option<Ranges> {
        self.incarnations.last().map_or(&self.receive, |(_, lanes)| lanes).live.opened()
    }

    /// Takes note of what the peer has opened of the live lane.
    pub(super) fn acknowledge(&mut self, opened: &Ranges) {
        if let Some(send) = &mut self.send {
            send.live.acknowledge(opened);
        }
    }

    /// Records that have to be left when another session is wanted. Where counters are reserved each restart takes a block.
    pub(super) const fn reserve(&self) -> u64 {
        if self.reserved.is_some() { 8 * RESERVE } else { RESERVE }
    }

    /// Whether what a START says holds from now on, and if so takes note of it: none of an earlier run is taken after one of the
    /// present. `at` is its incarnation and counter.
    pub(super) fn takes_start(&mut self, at: (Option<ShortIncarnation>, u64)) -> bool {
        let is_newest = self.incarnations.last().map(|(incarnation, _)| *incarnation) == at.0;
        let is_later = self.start_heard.is_none_or(|(incarnation, counter)| incarnation != at.0 || counter <= at.1);
        if is_newest && is_later {
            self.start_heard = Some(at);
        }
        is_newest && is_later
    }

    /// Whether a message that names no instance is of the run of the last START.
    pub(super) fn is_of_last_start(&self, at: (Option<ShortIncarnation>, u64)) -> bool {
        self.start_heard.is_none_or(|(incarnation, counter)| incarnation == at.0 && counter < at.1)
    }

    /// How far the fullest of its lanes is, either way.
    pub(super) fn fullest(&self) -> u64 {
        let sealed = self.send.as_ref().map_or(0, Sending::sealed);
        let lanes = self.incarnations.iter().map(|(_, lanes)| lanes).chain([&self.receive]);
        lanes.map(Receiving::next).fold(sealed, u64::max)
    }

    pub(super) fn export(&self, provider: &P, name: &str, context: &[u8], out: &mut [u8]) -> bool {
        let exporter = later(provider, &self.later).exporter();
        schedule::export(provider, DOMAIN, &exporter, name, context, out)
    }

    /// Whether what is sealed goes under the chains of an incarnation.
    pub(super) fn is_incarnation(&self) -> bool {
        self.send.as_ref().is_none_or(|send| send.live.is_incarnation())
    }

    /// The state is on disk up to that version.
    pub(super) fn grant(&mut self, on_disk: u64) {
        let reserved = self.reserved.iter_mut().filter(|reserved| reserved.asked_in <= on_disk);
        reserved.for_each(|reserved| reserved.counters.grant());
    }

    /// Asks for another block of counters, if few are left. `true`: the state of that version has to be written.
    pub(super) fn ask(&mut self, version: u64) -> bool {
        let (Some(reserved), Some(send)) = (&mut self.reserved, &self.send) else { return false };
        let is_asked = reserved.counters.ask(send.live.sealed());
        if is_asked {
            reserved.asked_in = version;
        }
        is_asked
    }

    /// The store is not, or no longer, said to have no copies: after a restart nothing is sealed under the own chains.
    pub(super) fn has_copies(&mut self) {
        if self.reserved.is_some() && self.restarts > 0 {
            (self.reserved, self.send) = (None, None);
        }
    }

    /// Whether the next counter of the lane may be used.
    fn may_use(&self, lane: Lane) -> Result<(), SendError> {
        let (Some(reserved), Some(send)) = (&self.reserved, &self.send) else { return Ok(()) };
        match lane {
            Lane::Live if send.live.sealed() >= MAX_CONSTRAINED => Err(SendError::LaneStopped),
            Lane::Live if reserved.counters.admits(send.live.sealed()) => Ok(()),
            Lane::Live => Err(SendError::NotOpen),
            // After a restart it has ended.
            Lane::Stored => Ok(()),
        }
    }

    pub(super) fn seal(
        &mut self,
        provider: &P,
        lane: Lane,
        with_cid: bool,
        plaintext: Plaintext<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<Sealed, SendError> {
        self.may_use(lane)?;
        let send = match &mut self.send {
            Some(send) => send,
            none => {
                let incarnation = match danger::is_off(Protection::Incarnation) {
                    false => ShortIncarnation(provider.random().map_err(|_| SendError::Entropy)?),
                    true => ShortIncarnation([0; 4]),
                };
                let chain = chain_of(provider, &self.later, self.role, Lane::Live, Some(incarnation));
                none.insert(Sending::new(SendLane::restored(Lane::Live, chain, incarnation)))
            }
        };
        let stored = |incarnation| chain_of(provider, &self.later, self.role, Lane::Stored, incarnation);
        let sealed = send.get(lane, stored)?.seal(provider, (with_cid, self.remote), plaintext, shape, out)?;
        self.unanswered = self.unanswered.saturating_add(1);
        Ok(sealed)
    }

    pub(super) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        // What comes on the stored lane has to be harmless when repeated.
        if header.lane == Lane::Stored && !header.typed {
            return Err(FrameError::Rejected);
        }
        let opened = self.open_lane(provider, now, header, frame)?;
        // What a relay may have held back, or repeats, is no sign of life.
        if header.lane == Lane::Live {
            (self.unanswered, self.heard) = (0, now);
        }
        Ok(opened)
    }

    fn open_lane(
        &mut self,
        provider: &P,
        now: Timestamp,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        let to = (self.local, header);
        let (later, sender) = (&self.later, self.role.other());
        let stored = || chain_of(provider, later, sender, Lane::Stored, header.incarnation);
        let Some(incarnation) = header.incarnation else {
            return self.receive.open(provider, now, to, frame, stored);
        };
        let is_it = |(known, _): &(ShortIncarnation, _)| *known == incarnation;
        if let Some((_, lanes)) = self.incarnations.iter_mut().find(|known| is_it(known)) {
            let is_heard = lanes.live.next() > 0;
            let opened = lanes.open(provider, now, to, frame, stored)?;
            // Now it is known to be the newest.
            if header.lane == Lane::Live && !is_heard {
                let newest = self.incarnations.take_if(is_it);
                newest.into_iter().for_each(|newest| self.incarnations.push(newest));
            }
            return Ok(opened);
        }
        if self.incarnations.len() >= MAX_INCARNATIONS {
            return Err(FrameError::TooFarAhead);
        }
        // In scratch state: whoever makes incarnations up changes nothing.
        let live = chain_of(provider, later, sender, Lane::Live, Some(incarnation));
        let mut lanes = Receiving::new(ReceiveLane::new(Lane::Live, live));
        let opened = lanes.open(provider, now, to, frame, stored)?;
        // A relay may bring what was sealed before the last restart: what is heard live is newer.
        let index = if header.lane == Lane::Live { self.incarnations.len() } else { 0 };
        self.incarnations.insert(index, (incarnation, lanes));
        Ok(opened)
    }

    /// How long [`save`](Self::save) makes it.
    pub(super) fn saved_len(&self) -> usize {
        let reserved = if self.kept().is_some() { 32 + 1 + 3 } else { 0 };
        1 + 1 + 1 + 4 + 32 + 32 + 12 + reserved + 1 + 16 * self.incarnations.len()
    }

    /// The sending lane that goes on after a restart, if one does, and from which counter.
    fn kept(&self) -> Option<(&Secret<32>, u8, u64)> {
        let (reserved, send) = (self.reserved.as_ref()?, self.send.as_ref()?);
        let (chain, epoch) = send.live.save()?;
        let from = if danger::is_off(Protection::Blocks) { send.live.sealed() } else { reserved.counters.asked() };
        Some((chain, epoch, from))
    }

    /// Writes what has to survive a restart: 84 octets, 36 where counters are reserved, and 16 for each restart of the peer.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        let kept = self.kept();
        out.push(u8::from(self.recovered) | u8::from(kept.is_some()) << 1);
        out.push(self.restarts);
        out.push(u8::try_from(self.unanswered).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.local.0);
        out.extend_from_slice(&self.remote.0);
        out.extend_from_slice(self.later.expose());
        let live = self.receive.live.save();
        out.extend_from_slice(live.chain.expose());
        save_counters(&live, out);
        if let Some((chain, epoch, from)) = kept {
            out.extend_from_slice(chain.expose());
            out.push(epoch);
            out.extend_from_slice(&u32::try_from(from).unwrap_or(u32::MAX).to_be_bytes()[1..]);
        }
        out.push(u8::try_from(self.incarnations.len()).unwrap_or(u8::MAX));
        for (incarnation, lanes) in self.incarnations.iter() {
            out.extend_from_slice(&incarnation.0);
            // Its chain comes from the restart secret.
            save_counters(&lanes.live.save(), out);
        }
    }

    /// Takes back what [`save`](Self::save) wrote.
    pub(super) fn restore(
        provider: &P,
        role: Role,
        now: Timestamp,
        reader: &mut Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let flags = reader.u8("session flags")?;
        let restarts = reader.u8("restarts")?.saturating_add(1);
        let unanswered = reader.u8("unanswered records")?.into();
        let (local, remote) = (ShortCid(reader.array("session CID")?), ShortCid(reader.array("session CID")?));
        let mut secret = || reader.array("session secret").map(Secret::new);
        let (later, live) = (secret()?, secret()?);
        let live = load_lane(live, reader)?;
        let mut session = Self {
            confirmed: false,
            role,
            local,
            remote,
            recovered: flags & 1 != 0,
            since: now,
            heard: now,
            unanswered,
            forgeries: 0,
            restarts,
            later,
            send: None,
            reserved: None,
            receive: Receiving::new(ReceiveLane::restore(provider, Lane::Live, live)),
            incarnations: Seldom::new(),
            start_heard: None,
        };
        if flags & 2 != 0 {
            let chain = Secret::new(reader.array("send chain")?);
            let epoch = reader.u8("send epoch")?;
            let [a, b, c] = reader.array("reserved counter")?;
            let from = u32::from_be_bytes([0, a, b, c]);
            if u64::from(from) > MAX_CONSTRAINED {
                let reason = Reason::TooLarge { limit: MAX_CONSTRAINED, got: from.into() };
                return Err(DecodeError::new("reserved counter", reason));
            }
            let live = SendLane::resume(provider, Lane::Live, (chain, epoch), from);
            session.send = Some(Sending { stored_has_ended: true, ..Sending::new(live) });
            session.reserved = Some(Box::new(Reserving::from(from.into())));
        }
        for _ in 0..reader.u8("incarnations")? {
            let incarnation = ShortIncarnation(reader.array("incarnation")?);
            let chain = chain_of(provider, &session.later, role.other(), Lane::Live, Some(incarnation));
            let live = ReceiveLane::replay(provider, Lane::Live, load_lane(chain, reader)?);
            session.incarnations.push((incarnation, Receiving::new(live)));
        }
        Ok(session)
    }
}

/// `epoch 1 | one more than the largest counter opened 3 | which of the 64 below 8`.
fn save_counters(lane: &SavedLane, out: &mut Vec<u8>) {
    out.push(lane.epoch);
    out.extend_from_slice(&lane.next.to_be_bytes()[1..]);
    out.extend_from_slice(&lane.bits.to_be_bytes());
}

fn load_lane(chain: Secret<32>, reader: &mut Reader<'_>) -> Result<SavedLane, DecodeError> {
    let epoch = reader.u8("lane epoch")?;
    let [a, b, c] = reader.array("lane counter")?;
    let bits = u64::from_be_bytes(reader.array("lane window")?);
    Ok(SavedLane { chain, epoch, next: u32::from_be_bytes([0, a, b, c]), bits })
}

fn later<'p, P: CryptoProvider>(provider: &'p P, later: &Secret<32>) -> SessionKey<'p, P> {
    SessionKey::of_later(provider, DOMAIN, later.clone())
}

/// The chain of a lane of what `sender` seals: of the session itself the stored one, or those of an incarnation.
fn chain_of<P: CryptoProvider>(
    provider: &P,
    secret: &Secret<32>,
    sender: Role,
    lane: Lane,
    incarnation: Option<ShortIncarnation>,
) -> Secret<32> {
    let key = later(provider, secret);
    let Some(incarnation) = incarnation else { return key.chain(lane, sender) };
    let name = match lane {
        Lane::Live => "live incarnation",
        Lane::Stored => "stored incarnation",
    };
    schedule::incarnation(provider, (DOMAIN, name), &key.restart(sender), &incarnation.0)
}
