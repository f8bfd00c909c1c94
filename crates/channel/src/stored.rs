//! The stored lane of a session: for records that a relay keeps. It outlives the live lane, and restarts. Protocol section 4.
//!
//! ```text
//!            ┌─"stored initiator/responder"─────────► chain ─► key, iv            sealed until the first restart
//!  PRK ──────┤
//!            └─"restart initiator/responder"─► secret ── incarnation ─► chain ─► key, iv      sealed after each restart
//! ```
//!
//! What is kept of it at rest opens everything that it may still bring. It seals nothing by itself: after a restart the
//! sender draws an incarnation at random, so that a copied or restored store never repeats a nonce. On a disk that cannot go back
//! and has no copies it goes on behind a block of counters instead, which was reserved before.

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};
use core::time::Duration;

use sealway_identity::Peer;
use sealway_vault::{CryptoProvider, EntropyError, Secret};
use sealway_wire::{
    Cid, Incarnation, Instance, Lane, Reader, RecordHeader, Timestamp, VarInt,
    content::{Content, Start},
    danger::{self, Protection},
};

use crate::{
    FrameError, Role, SendError, StateError, at_rest,
    lane::{MAX_STORED, Opened, Plaintext, ReceiveLane, SendLane, Shape},
    reserved::Reserved,
    schedule::{self, DOMAIN, SessionKey},
};

/// How long records are sealed on the stored lane of a session.
pub const SEALING_TIME: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How long a relay may keep a record, and a superseded lane is kept for it.
pub const BOX_TIME: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Incarnations of the sender that a receiver follows in one session; with as many, a new session is wanted.
pub const MAX_INCARNATIONS: usize = 64;

/// A START that has come out of a box is answered once in so long: its sender leaves it each day.
const START_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);
/// Counters that are reserved at once, where they are: what a restart may skip.
const BLOCK: u64 = 1 << 12;

/// The label of the chain of an incarnation.
const INCARNATION: &str = "incarnation";

/// The stored lane, in both directions.
pub(crate) struct StoredLane<P: CryptoProvider> {
    pub(crate) role: Role,
    /// Our connection id: the peer puts it on its records.
    pub(crate) local: Cid,
    /// The peer's connection id.
    pub(crate) remote: Cid,
    pub(crate) peer: Peer,
    /// When the session was established.
    pub(crate) since: Timestamp,
    /// The instance of the peer's START, once it has opened.
    pub(crate) peer_instance: Option<Instance>,
    /// A record of the peer has opened: it has the session.
    pub(crate) confirmed: bool,
    /// When a START of the peer was answered on this lane, in this run.
    start_answered: Option<Timestamp>,
    /// How many records the peer has sealed on this lane, as it says in the START of the session after.
    pub(crate) sealed_by_peer: Option<u64>,
    secrets: StoredSecrets,
    /// The chain of the session itself, or, after a restart, of an incarnation that was drawn since.
    send: Option<SendLane<P>>,
    restored: bool,
    /// Where counters are reserved; and of the states that are being written, up to which counter they reserve, and whether they
    /// do nothing else.
    reserved: Option<Reserved>,
    writes: VecDeque<(u64, bool)>,
    receive: ReceiveLane<P>,
    /// Which records of the chain of the session itself have opened, in this run.
    opened: OpenedSet,
    /// The newest last. They can be derived anew: the lane has no window that would be lost with one.
    incarnations: VecDeque<(Incarnation, ReceiveLane<P>)>,
}

/// Counters that have opened: all below `low`, and some above.
#[derive(Default)]
struct OpenedSet {
    low: u64,
    above: BTreeSet<u64>,
}

/// Counters above a gap that are remembered; with more of them the lane simply stays as long as it may.
const MAX_ABOVE: usize = 1024;

impl OpenedSet {
    fn insert(&mut self, counter: u64) {
        if counter >= self.low && self.above.len() < MAX_ABOVE {
            self.above.insert(counter);
        }
        while self.above.remove(&self.low) {
            self.low += 1;
        }
    }
}

/// What the lane is derived from, as far as it is needed after the session has begun.
struct StoredSecrets {
    receive: Secret<32>,
    restart_send: Secret<32>,
    restart_receive: Secret<32>,
}

impl<P: CryptoProvider> StoredLane<P> {
    pub(crate) fn new(key: &SessionKey<'_, P>, role: Role, (local, remote): (Cid, Cid), peer: Peer) -> Self {
        let secrets = StoredSecrets {
            receive: key.chain(Lane::Stored, role.other()),
            restart_send: key.restart(role),
            restart_receive: key.restart(role.other()),
        };
        Self {
            role,
            local,
            remote,
            peer,
            since: Timestamp::from_micros(0),
            peer_instance: None,
            confirmed: false,
            start_answered: None,
            sealed_by_peer: None,
            send: Some(SendLane::new(Lane::Stored, key.chain(Lane::Stored, role))),
            restored: false,
            reserved: None,
            writes: VecDeque::new(),
            receive: ReceiveLane::new(Lane::Stored, secrets.receive.clone()),
            opened: OpenedSet::default(),
            incarnations: VecDeque::new(),
            secrets,
        }
    }

    /// Whether records may be sealed: the peer is known to have the session, and will still have it when they come.
    pub(crate) fn may_seal(&self, now: Timestamp) -> bool {
        self.confirmed && self.may_start(now)
    }

    /// Whether as many records were sealed as a chain takes.
    pub(crate) fn is_full(&self) -> bool {
        self.send.as_ref().is_some_and(|send| send.sealed() >= MAX_STORED)
    }

    /// Whether START may be sealed: there would be something to follow it.
    pub(crate) fn may_start(&self, now: Timestamp) -> bool {
        now.since(self.since) < SEALING_TIME
    }

    /// Whether a START of the peer is answered with our own: not each time that a relay repeats it.
    pub(crate) fn answers_start(&mut self, now: Timestamp) -> bool {
        let answers = self.start_answered.is_none_or(|at| now.since(at) >= START_PAUSE);
        if answers {
            self.start_answered = Some(now);
        }
        answers
    }

    /// Until when the peer may still have records of this lane on the way.
    pub(crate) fn ends_at(&self) -> Timestamp {
        self.since.after(SEALING_TIME + BOX_TIME)
    }

    /// How many records were sealed. `None`: not known, for the lane was restored.
    pub(crate) fn sealed(&self) -> Option<u64> {
        self.send.as_ref().filter(|_| !self.restored).map(SendLane::sealed)
    }

    /// Whether everything has been opened that the peer says it has sealed.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.sealed_by_peer.is_some_and(|sealed| self.opened.low >= sealed)
    }

    /// Whether the peer has restarted as often as a receiver follows.
    pub(crate) fn is_crowded(&self) -> bool {
        self.incarnations.len() >= MAX_INCARNATIONS
    }

    /// Reserves counters from now on: before the first state is written, and so before anything is sealed.
    pub(crate) fn reserve(&mut self) {
        if self.reserved.is_none()
            && !self.restored
            && let Some(send) = &mut self.send
            && send.keep()
        {
            self.reserved = Some(Reserved::new(0, BLOCK, MAX_STORED));
        }
    }

    /// A state has been handed out to be written.
    pub(crate) fn is_being_written(&mut self, reserves_only: bool) {
        if let Some(reserved) = &self.reserved {
            self.writes.push_back((reserved.asked(), reserves_only));
        }
    }

    /// The first of them is on disk: what it reserves may be used. `true`: it did nothing else.
    pub(crate) fn written(&mut self) -> bool {
        let Some((asked, reserves_only)) = self.writes.pop_front() else { return false };
        self.reserved.iter_mut().for_each(|reserved| reserved.grant_up_to(asked));
        // One that was asked for meanwhile, and could not be made.
        self.not_made();
        reserves_only
    }

    /// The first of them will not be on disk.
    pub(crate) fn not_written(&mut self) {
        self.writes.pop_front();
        self.not_made();
    }

    /// One could not even be made: what it was to reserve is asked for again.
    pub(crate) fn not_made(&mut self) {
        if let (Some(reserved), true) = (&mut self.reserved, self.writes.is_empty()) {
            reserved.revert();
        }
    }

    /// Whether another block of counters is to be written down.
    pub(crate) fn wants_saving(&mut self) -> bool {
        let sealed = self.send.as_ref().map_or(0, SendLane::sealed);
        self.reserved.as_mut().is_some_and(|reserved| reserved.ask(sealed))
    }

    pub(crate) fn seal(
        &mut self,
        provider: &P,
        now: Timestamp,
        content: &Content<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if !self.may_seal(now) {
            return Err(SendError::NotOpen);
        }
        self.seal_any(provider, content, shape, out)
    }

    /// Seals START, which tells the peer that we have the session: also before we know that it has.
    pub(crate) fn seal_start(
        &mut self,
        provider: &P,
        now: Timestamp,
        instance: Instance,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if !self.may_start(now) {
            return Err(SendError::NotOpen);
        }
        // What was sealed under a session before is not known to have been the peer's last.
        let start = Start { instance, stored_before: VarInt::MAX, credentials: &[] };
        self.seal_any(provider, &Content::Start(start), shape, out)
    }

    fn seal_any(
        &mut self,
        provider: &P,
        content: &Content<'_>,
        shape: Shape,
        out: &mut [u8],
    ) -> Result<usize, SendError> {
        if let (Some(reserved), Some(send)) = (&self.reserved, &self.send)
            && send.sealed() < MAX_STORED
            && !reserved.admits(send.sealed())
        {
            return Err(SendError::NotOpen);
        }
        let send = match &mut self.send {
            Some(send) => send,
            none if danger::is_off(Protection::Incarnation) => {
                none.insert(SendLane::restored(Lane::Stored, self.secrets.restart_send.clone(), Incarnation([0; 8])))
            }
            none => {
                let incarnation = Incarnation(provider.random().map_err(|_| SendError::Entropy)?);
                let chain =
                    schedule::incarnation(provider, (DOMAIN, INCARNATION), &self.secrets.restart_send, &incarnation.0);
                none.insert(SendLane::restored(Lane::Stored, chain, incarnation))
            }
        };
        send.seal(provider, self.remote, Plaintext::Typed(content), shape, out).map(|sealed| sealed.len)
    }

    pub(crate) fn open(
        &mut self,
        provider: &P,
        now: Timestamp,
        header: &RecordHeader,
        frame: &mut [u8],
    ) -> Result<Opened, FrameError> {
        if !header.typed {
            return Err(FrameError::Rejected);
        }
        let local = self.local;
        let Some(incarnation) = header.incarnation else {
            let opened = self.receive.open(provider, now, &local, header, frame)?;
            self.opened.insert(opened.counter);
            return Ok(opened);
        };
        if let Some((_, lane)) = self.incarnations.iter_mut().find(|(known, _)| *known == incarnation) {
            return lane.open(provider, now, &local, header, frame);
        }
        // In scratch state: whoever makes incarnations up changes nothing.
        let chain =
            schedule::incarnation(provider, (DOMAIN, INCARNATION), &self.secrets.restart_receive, &incarnation.0);
        let mut lane = ReceiveLane::new(Lane::Stored, chain);
        let opened = lane.open(provider, now, &local, header, frame)?;
        if self.is_crowded() {
            self.incarnations.pop_front();
        }
        self.incarnations.push_back((incarnation, lane));
        Ok(opened)
    }

    /// Writes what has to survive a restart, sealed under `key` and bound to `owner`.
    pub(crate) fn save(&self, provider: &P, key: &P::AeadKey, owner: &[u8; 32]) -> Result<Vec<u8>, EntropyError> {
        let flags = u8::from(self.role == Role::Responder)
            | u8::from(self.confirmed) << 1
            | u8::from(self.peer_instance.is_some()) << 2
            | u8::from(self.kept().is_some()) << 3;
        let peer = self.peer.to_saved();
        let reserved_len = if self.kept().is_some() { RESERVED_LEN } else { 0 };
        at_rest::seal(provider, key, (DOMAIN, &[owner]), FIXED_LEN + reserved_len + peer.len(), |state| {
            state.push(flags);
            state.extend_from_slice(&self.local.0);
            state.extend_from_slice(&self.remote.0);
            state.extend_from_slice(&self.since.as_micros().to_be_bytes());
            state.extend_from_slice(&self.peer_instance.unwrap_or(Instance([0; 4])).0);
            for secret in [&self.secrets.receive, &self.secrets.restart_send, &self.secrets.restart_receive] {
                state.extend_from_slice(secret.expose());
            }
            if let Some((chain, from)) = self.kept() {
                state.extend_from_slice(chain.expose());
                state.extend_from_slice(&u32::try_from(from).unwrap_or(u32::MAX).to_be_bytes());
            }
            state.extend_from_slice(&peer);
        })
    }

    /// The sending chain that goes on after a restart, if it does, and from which counter.
    fn kept(&self) -> Option<(&Secret<32>, u64)> {
        let (reserved, send) = (self.reserved.as_ref()?, self.send.as_ref()?);
        let from = if danger::is_off(Protection::Blocks) { send.sealed() } else { reserved.asked() };
        send.save().map(|(chain, _)| (chain, from))
    }

    /// Takes back what [`save`](Self::save) wrote.
    pub(crate) fn restore(
        provider: &P,
        key: &P::AeadKey,
        (owner, reserves): (&[u8; 32], bool),
        state: &[u8],
    ) -> Result<Self, StateError> {
        let plaintext = at_rest::open(key, (DOMAIN, &[owner]), state)?;
        let mut reader = Reader::new(&plaintext);
        let flags = reader.u8("state flags")?;
        let (local, remote) = (Cid(reader.array("state CID")?), Cid(reader.array("state CID")?));
        let since = Timestamp::from_micros(u64::from_be_bytes(reader.array("state time")?));
        let peer_instance = Instance(reader.array("state instance")?);
        let mut secret = || reader.array("state secret").map(Secret::new);
        let secrets = StoredSecrets { receive: secret()?, restart_send: secret()?, restart_receive: secret()? };
        let kept = match flags & 8 {
            0 => None,
            _ => {
                let chain = Secret::new(reader.array("state send chain")?);
                Some((chain, u32::from_be_bytes(reader.array("state reserved counter")?)))
            }
        };
        // Who does not say any more that the disk has no copies, or has no block left, draws an incarnation.
        let kept = kept.filter(|(_, from)| reserves && u64::from(*from) + BLOCK <= MAX_STORED);
        let reserved = kept.as_ref().map(|(_, from)| Reserved::new((*from).into(), BLOCK, MAX_STORED));
        let send = kept.map(|(chain, from)| SendLane::resume(provider, Lane::Stored, (chain, 0), from));
        let peer = Peer::from_saved(reader.rest())?;
        let receive = ReceiveLane::new(Lane::Stored, secrets.receive.clone());
        Ok(Self {
            role: if flags & 1 == 0 { Role::Initiator } else { Role::Responder },
            local,
            remote,
            peer,
            since,
            peer_instance: (flags & 4 != 0).then_some(peer_instance),
            confirmed: flags & 2 != 0,
            start_answered: None,
            sealed_by_peer: None,
            secrets,
            send,
            restored: true,
            reserved,
            writes: VecDeque::new(),
            receive,
            opened: OpenedSet::default(),
            incarnations: VecDeque::new(),
        })
    }
}

/// `flags 1 | CIDs 8 | time 8 | instance 4 | secrets 96 | [ send chain 32 | first counter that is not reserved 4 | ] peer`, without
/// the last two.
const FIXED_LEN: usize = 1 + 8 + 8 + 4 + 96;
const RESERVED_LEN: usize = 32 + 4;
