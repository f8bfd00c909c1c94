//! What an endpoint knows of one peer: its sessions, and its own attempt to make a new one.
//!
//! ```text
//!            open / missed deadline / session is old
//!   Idle ───────────────────────────────────────────► Message1 ──S1.2──► Message3 ──START──► Idle, session opened
//!    ▲                                                   │ 10 s             │ 10 s
//!    └───────────── Waiting (exponential, jitter) ◄──────┴──────────────────┘
//! ```

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use sealway_identity::{Card, PayloadParts};
use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{
    Cid, IdentityId, Instance, Timestamp, VarInt,
    content::{CloseReason, Committed},
};

use crate::{
    Role,
    endpoint::PathId,
    established::{Established, Repeat},
    initiator::{AwaitingMessage2, Finished},
    lane::{MAX_CONTENT, Padding, Shape},
    stored::{BOX_TIME, SEALING_TIME, StoredLane},
};

/// How long each stage of our own handshake may take.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// First delay after an attempt that failed, doubled each time up to [`MAX_BACKOFF`], plus up to a quarter at random.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Who speaks on a session of this age makes a new one. A session on which nobody speaks ends after [`IDLE_AGE`].
const ACTIVE_AGE: Duration = Duration::from_secs(60 * 60);
const IDLE_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long receive keys are kept once the peer is known to send on a later session.
const RETIRE: Duration = Duration::from_secs(3 * 60);
/// How long sending may go unanswered before PING, how long each PING may, and how many of them.
const SILENCE: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(10);
const PINGS: u32 = 3;
/// The most sessions of one peer; the oldest goes.
const MAX_SESSIONS: usize = 4;
/// Runs of the peer of which committed messages are told at a time.
const MAX_REPORTS: usize = 16;
/// The most stored lanes that are kept beyond their sessions; the oldest goes.
const MAX_KEPT: usize = 4;

/// What an application may know about how a channel came to be. It is the context of policy decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The profile.
    pub profile: Profile,
    /// What protects the channel against a quantum computer.
    pub post_quantum: PostQuantum,
    /// The end of the peer's attestation could not be judged, for want of a clock.
    pub unclocked: bool,
    /// The session was made under the recovery psk of a constrained pairing: its operator has let a device in that had lost its
    /// state.
    pub recovered: bool,
}

/// A set of algorithms and flights: never negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// X25519 and ML-KEM-768, AES-256-GCM, three flights.
    S1,
    /// A pairwise psk and X25519, AES-256-CCM with tags of 8 octets, two flights.
    C1,
}

/// Protection against quantum computers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostQuantum {
    /// What was recorded stays confidential; authentication is classical.
    Recorded,
    /// What was recorded stays confidential as long as some psk of the chain is unknown; so does authentication.
    PskChain,
}

/// Our own handshake with the peer.
pub(crate) enum Attempt<V: Vault + Clone + 'static> {
    Idle,
    /// After a failure.
    Waiting {
        until: Timestamp,
    },
    Message1 {
        handshake: Box<AwaitingMessage2<V>>,
        path: PathId,
        give_up: Timestamp,
        repeat: Repeat,
    },
    Message3 {
        finished: Box<Finished<V>>,
        path: PathId,
        give_up: Timestamp,
        repeat: Repeat,
    },
}

/// A stored lane beyond its session.
pub(crate) struct Kept<P: CryptoProvider> {
    pub(crate) stored: StoredLane<P>,
    until: Timestamp,
    /// Writes of its state that have not completed, and whether one of them has failed.
    pub(crate) unsaved: u32,
    pub(crate) failed: bool,
}

/// The committed messages that every ACK tells of.
pub(crate) struct Report {
    /// No ACK has told it yet.
    pub(crate) is_news: bool,
    instance: Instance,
    mark: u32,
    bitmap: [u8; 128],
    len: usize,
    held: [u8; 128],
    held_len: usize,
}

impl Report {
    pub(crate) fn new(committed: &Committed<'_>) -> Self {
        let ((bitmap, len), (held, held_len)) = (trimmed(committed.bitmap), trimmed(committed.held));
        Self { is_news: true, instance: committed.instance, mark: committed.mark, bitmap, len, held, held_len }
    }

    pub(crate) fn committed(&self) -> Committed<'_> {
        let (bitmap, held) = (&self.bitmap[..self.len], &self.held[..self.held_len]);
        Committed { instance: self.instance, mark: self.mark, bitmap, held }
    }
}

/// The only valid form of a bitmap has no zeros at its end.
fn trimmed(bits: &[u8]) -> ([u8; 128], usize) {
    let bits = bits.get(..128).unwrap_or(bits);
    let len = bits.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    let mut bitmap = [0; 128];
    bitmap[..len].copy_from_slice(&bits[..len]);
    (bitmap, len)
}

/// A peer.
pub(crate) struct Channel<V: Vault + Clone + 'static> {
    pub(crate) peer: IdentityId,
    /// With it, and a path, we can initiate.
    pub(crate) card: Option<Card>,
    pub(crate) path: Option<PathId>,
    /// The shell has chosen the path: it does not follow the peer's.
    pub(crate) is_pinned: bool,
    pub(crate) payload: PayloadParts,
    pub(crate) attempt: Attempt<V>,
    /// A new session is wanted as soon as an attempt may begin.
    pub(crate) wanted: bool,
    failures: u32,
    /// In the order of establishment.
    pub(crate) sessions: Vec<Established<V::Provider>>,
    /// Stored lanes of earlier sessions, and of earlier runs, in the same order.
    pub(crate) kept: Vec<Kept<V::Provider>>,
    /// Our connection id of the session that we send on.
    pub(crate) sending: Option<Cid>,
    /// The newest last.
    pub(crate) reports: Vec<Report>,
    /// Since when nothing was heard although something was sent; and the PINGs sent since.
    silent_since: Option<Timestamp>,
    pings: u32,
    pub(crate) ping_wanted: bool,
    /// PINGs that the shell has asked for, until one is answered: the newest, in order.
    pub(crate) asked: Vec<Asked>,
    pub(crate) closing: Option<CloseReason>,
    /// That it closes is news to the shell.
    pub(crate) tells_closed: bool,
    /// When a record of the live lane has opened last.
    pub(crate) heard_at: Option<Timestamp>,
    /// It carries frames of other channels: nothing of it is kept.
    pub(crate) is_hop: bool,
    /// How large records may be, and are made.
    pub(crate) shape: Shape,
    /// The deadline under which the endpoint keeps it.
    pub(crate) scheduled: Option<Timestamp>,
    /// The path under which the endpoint keeps it while it waits for S1.2.
    pub(crate) first_flight: Option<PathId>,
}

/// A PING on its way.
pub(crate) struct Asked {
    pub(crate) cid: Cid,
    pub(crate) counter: u64,
    pub(crate) at: Timestamp,
}

/// What a channel's deadline asks for.
pub(crate) enum Due {
    Nothing,
    Begin,
    GaveUp,
    Unresponsive,
}

impl<V: Vault + Clone + 'static> Channel<V> {
    pub(crate) const fn new(peer: IdentityId) -> Self {
        Self {
            peer,
            card: None,
            path: None,
            is_pinned: false,
            payload: PayloadParts { credentials: Vec::new(), mailbox: None },
            attempt: Attempt::Idle,
            wanted: false,
            failures: 0,
            sessions: Vec::new(),
            kept: Vec::new(),
            sending: None,
            reports: Vec::new(),
            silent_since: None,
            pings: 0,
            ping_wanted: false,
            asked: Vec::new(),
            closing: None,
            tells_closed: false,
            heard_at: None,
            is_hop: false,
            shape: Shape { limit: MAX_CONTENT, padding: Padding::None },
            scheduled: None,
            first_flight: None,
        }
    }

    pub(crate) fn by_cid(&mut self, cid: Cid) -> Option<&mut Established<V::Provider>> {
        self.sessions.iter_mut().find(|established| established.session.local() == cid)
    }

    /// The session that we send on.
    pub(crate) fn current(&mut self) -> Option<&mut Established<V::Provider>> {
        let cid = self.sending?;
        self.by_cid(cid)
    }

    /// A stored lane that is kept without its live one.
    pub(crate) fn kept_by_cid(&mut self, cid: Cid) -> Option<&mut Kept<V::Provider>> {
        self.kept.iter_mut().find(|kept| kept.stored.local == cid)
    }

    /// The stored lane of the session `cid`.
    pub(crate) fn stored_by_cid(&mut self, cid: Cid) -> Option<&mut StoredLane<V::Provider>> {
        self.stored_lanes().find(|stored| stored.local == cid)
    }

    fn stored_lanes(&mut self) -> impl Iterator<Item = &mut StoredLane<V::Provider>> {
        let kept = self.kept.iter_mut().map(|kept| &mut kept.stored);
        kept.chain(self.sessions.iter_mut().map(|established| &mut established.session.stored))
    }

    /// The stored lane that records are sealed on: of the latest session that the peer is known to have.
    pub(crate) fn depositing(&mut self, now: Timestamp) -> Option<&mut StoredLane<V::Provider>> {
        // Not before our own state is written: the peer's answer would find nobody after a crash.
        let sessions = self.sessions.iter_mut().filter(|established| established.unsaved == 0);
        let kept = self.kept.iter_mut().filter(|kept| kept.unsaved == 0 && !kept.failed);
        let lanes =
            kept.map(|kept| &mut kept.stored).chain(sessions.map(|established| &mut established.session.stored));
        lanes.filter(|stored| stored.may_seal(now)).max_by_key(|stored| stored.since)
    }

    /// Records sealed on the stored lane of the session before `cid`, as START tells it: 0 if there is none, the largest
    /// number if it is not known any more.
    pub(crate) fn sealed_before(&mut self, cid: Cid) -> VarInt {
        // One that the peer may not have does not count: nothing was sealed under it.
        let sealed = self.before(cid, true).map_or(Some(0), |stored| stored.sealed());
        sealed.and_then(VarInt::new).unwrap_or(VarInt::MAX)
    }

    /// The peer says how many records it has sealed on the stored lane of the session before `cid`.
    pub(crate) fn peer_sealed_before(&mut self, cid: Cid, sealed: VarInt) {
        // If we do not know that the peer has the session before, it may mean an earlier one.
        if let Some(before) = self.before(cid, false).filter(|before| before.confirmed) {
            before.sealed_by_peer = Some(sealed.get());
        }
    }

    fn before(&mut self, cid: Cid, confirmed: bool) -> Option<&mut StoredLane<V::Provider>> {
        let since = self.stored_by_cid(cid)?.since;
        let earlier = self.stored_lanes().filter(|stored| stored.local != cid && stored.since <= since);
        earlier.filter(|stored| stored.confirmed || !confirmed).max_by_key(|stored| stored.since)
    }

    /// A record of the stored lane `cid` has opened: once the last one has, the lane is kept only for repetitions.
    pub(crate) fn stored_heard(&mut self, now: Timestamp, cid: Cid) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.stored.local == cid && kept.stored.is_exhausted()) {
            kept.until = kept.until.min(now.after(RETIRE));
        }
    }

    /// Takes a stored lane back from an earlier run. Returns the connection id of one that had to go.
    pub(crate) fn restore(&mut self, stored: StoredLane<V::Provider>) -> Option<Cid> {
        let until = stored.ends_at();
        self.keep(stored, until)
    }

    /// Takes the stored lane of a session that has no live one. Returns the connection id of one that had to go.
    pub(crate) fn keep_mailed(&mut self, now: Timestamp, stored: StoredLane<V::Provider>) -> Option<Cid> {
        // The same once more: what was written of it before a crash, and has sealed nothing.
        self.kept.retain(|kept| kept.stored.local != stored.local);
        self.keep(stored, now.after(SEALING_TIME + BOX_TIME))
    }

    /// Wipes the live lane of a session, and keeps its stored lane as long as it may bring something. Returns the
    /// connection ids under which nothing opens any more.
    fn end_live(&mut self, now: Timestamp, established: Established<V::Provider>, keeps: bool) -> Vec<Cid> {
        let stored = established.session.stored;
        if !keeps || stored.is_exhausted() {
            return alloc::vec![stored.local];
        }
        let until = stored.ends_at().min(now.after(BOX_TIME));
        self.keep(stored, until).into_iter().collect()
    }

    fn keep(&mut self, stored: StoredLane<V::Provider>, until: Timestamp) -> Option<Cid> {
        let at = self.kept.iter().filter(|kept| kept.stored.since <= stored.since).count();
        self.kept.reserve_exact(1);
        let newest = stored.local;
        self.kept.insert(at, Kept { stored, until, unsaved: 0, failed: false });
        let surplus = self.kept.len() > MAX_KEPT;
        // One that the peer was never heard under is the likeliest to bring nothing.
        let unconfirmed = self.kept.iter().position(|kept| !kept.stored.confirmed && kept.stored.local != newest);
        surplus.then(|| self.kept.remove(unconfirmed.unwrap_or(0)).stored.local)
    }

    /// Has ACKs tell what was committed: of every run of the peer, what was said last.
    pub(crate) fn report(&mut self, now: Timestamp, report: Report, is_awaited: bool) {
        self.reports.retain(|known| known.instance != report.instance);
        // There is one as a rule: no room for more is kept.
        self.reports.reserve_exact(1);
        self.reports.push(report);
        if self.reports.len() > MAX_REPORTS {
            self.reports.remove(0);
        }
        if let Some(current) = self.current() {
            current.wants_commit_ack(now, is_awaited);
        }
    }

    /// Adds a session; returns the connection ids of those that had to go.
    pub(crate) fn establish(&mut self, now: Timestamp, established: Established<V::Provider>, keeps: bool) -> Vec<Cid> {
        let surplus = self.sessions.len() >= MAX_SESSIONS;
        let oldest = self.sessions.iter().position(|old| Some(old.session.local()) != self.sending);
        let oldest = oldest.filter(|_| surplus).map(|at| self.sessions.remove(at));
        let gone = oldest.map_or_else(Vec::new, |oldest| self.end_live(now, oldest, keeps));
        // The same here, where each is large.
        self.sessions.reserve_exact(1);
        self.sessions.push(established);
        gone
    }

    /// The common case: one more record on the one session that both sides use, which changes no deadline. Returns whether it
    /// was that, and was noted.
    pub(crate) fn heard_again(&mut self, now: Timestamp, cid: Cid) -> bool {
        let [established] = self.sessions.as_mut_slice() else { return false };
        let goes_on = self.sending == Some(cid) && self.silent_since.is_none() && self.pings == 0;
        let is_noted = goes_on && established.session.local() == cid && established.counts_one_more();
        if is_noted {
            self.heard_at = Some(now);
        }
        is_noted
    }

    /// Takes note of a record of the peer under the session `cid`. Returns whether sending has moved to that session.
    pub(crate) fn heard(&mut self, now: Timestamp, cid: Cid, is_start: bool) -> bool {
        let Some(at) = self.sessions.iter().position(|established| established.session.local() == cid) else {
            return false;
        };
        self.heard_at = Some(now);
        self.sessions[at].heard();
        let current = self
            .sending
            .and_then(|sending| self.sessions.iter().position(|established| established.session.local() == sending));
        // A sign of life on an earlier session says nothing of the one that we send on.
        if current.is_none_or(|current| current <= at) {
            self.silent_since = None;
            self.pings = 0;
        }
        // Sending never moves to an earlier session.
        let moves = current.is_none_or(|current| current < at);
        if moves {
            self.sending = Some(cid);
        }
        // The responder's first record comes before it knows that we have the session: only a later one, or the
        // initiator's first, shows that the peer sends here now.
        if !is_start || self.sessions[at].session.role() == Role::Responder {
            for earlier in &mut self.sessions[..at] {
                earlier.retire_at.get_or_insert(now.after(RETIRE));
            }
        }
        moves
    }

    /// Takes note of a record that the peer is expected to answer some time. Returns whether a deadline has changed.
    pub(crate) fn spoke(&mut self, now: Timestamp) -> bool {
        let before = (self.silent_since, self.wanted);
        self.silent_since.get_or_insert(now);
        let aged = |established: &mut Established<_>| established.replaced_at(ACTIVE_AGE) <= now;
        if self.can_initiate() && self.current().is_some_and(aged) {
            self.wanted = true;
        }
        before != (self.silent_since, self.wanted)
    }

    /// Ends the live lanes of the session `cid` and all before it, because the peer has. Returns the connection ids that
    /// are gone, and whether a later session is left.
    pub(crate) fn end_up_to(&mut self, now: Timestamp, cid: Cid, keeps: bool) -> (Vec<Cid>, bool) {
        let last = self.sessions.iter().position(|established| established.session.local() == cid);
        let ended: Vec<_> = self.sessions.drain(..last.map_or(0, |last| last + 1)).collect();
        let gone = ended.into_iter().flat_map(|ended| self.end_live(now, ended, keeps)).collect();
        self.forget_sending();
        (gone, !self.sessions.is_empty())
    }

    /// Ends what goes on by itself: stored lanes are kept for what is still to come.
    /// Returns the connection id of the handshake that ends with it.
    pub(crate) fn stop(&mut self) -> Option<Cid> {
        let stale = self.attempt.cid();
        self.attempt = Attempt::Idle;
        self.wanted = false;
        self.closing = None;
        self.silent_since = None;
        self.ping_wanted = false;
        stale
    }

    /// Removes the session `cid` with everything of it. Returns whether it was there.
    pub(crate) fn abandon(&mut self, cid: Cid) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|established| established.session.local() != cid);
        self.forget_sending();
        self.sessions.len() < before
    }

    fn forget_sending(&mut self) {
        if self.sending.is_some_and(|sending| !self.sessions.iter().any(|left| left.session.local() == sending)) {
            self.sending = None;
        }
    }

    pub(crate) const fn silent_since(&self) -> Option<Timestamp> {
        self.silent_since
    }

    /// Whether a PING is due; it counts as sent then.
    pub(crate) fn take_due_ping(&mut self, now: Timestamp) -> bool {
        if core::mem::take(&mut self.ping_wanted) {
            return true;
        }
        let due = self.ping_at().is_some_and(|at| at <= now) && self.pings < PINGS;
        if due {
            self.pings += 1;
        }
        due
    }

    fn ping_at(&self) -> Option<Timestamp> {
        // Nothing gets past a hop that is dead, and what is sent on one is answered within a second.
        let first = if self.is_hop { PING_TIME } else { SILENCE };
        self.silent_since.map(|since| since.after(first + PING_TIME * self.pings))
    }

    /// Removes sessions and stored lanes whose time is over, and returns the connection ids that are gone.
    pub(crate) fn retire(&mut self, now: Timestamp, keeps: bool) -> Vec<Cid> {
        let mut gone = Vec::new();
        let over = |established: &Established<_>| established.ends_at().is_some_and(|at| at <= now);
        while let Some(at) = self.sessions.iter().position(over) {
            let established = self.sessions.remove(at);
            gone.extend(self.end_live(now, established, keeps));
        }
        gone.extend(self.kept.iter().filter(|kept| kept.until <= now).map(|kept| kept.stored.local));
        self.kept.retain(|kept| kept.until > now);
        self.forget_sending();
        gone
    }

    /// What is to be done at `now` about handshakes.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp, jitter: u64) -> Due {
        match &self.attempt {
            Attempt::Message1 { give_up, .. } | Attempt::Message3 { give_up, .. } if *give_up <= now => {
                self.fail(now, jitter);
                return Due::GaveUp;
            }
            Attempt::Waiting { until } if *until <= now => self.attempt = Attempt::Idle,
            _ => {}
        }
        if self.rekey_at().is_some_and(|at| at <= now) {
            self.wanted = true;
        }
        if self.pings >= PINGS && self.ping_at().is_some_and(|at| at <= now) {
            self.silent_since = None;
            self.pings = 0;
            // What a hop session means is lost with it: the shell makes both anew.
            if self.is_hop || !self.can_initiate() {
                return Due::Unresponsive;
            }
            self.wanted = true;
        }
        if self.wanted && self.can_initiate() && matches!(self.attempt, Attempt::Idle) {
            Due::Begin
        } else {
            Due::Nothing
        }
    }

    /// Ends the attempt and waits before the next one.
    pub(crate) fn fail(&mut self, now: Timestamp, jitter: u64) {
        let backoff = (FIRST_BACKOFF * (1 << self.failures.min(8))).min(MAX_BACKOFF);
        let jitter = Duration::from_micros(jitter % (u64::try_from(backoff.as_micros()).unwrap_or(u64::MAX) / 4 + 1));
        self.failures += 1;
        self.attempt = Attempt::Waiting { until: now.after(backoff + jitter) };
    }

    /// Takes note that a session has opened: nothing is left to be wanted.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.wanted = false;
        self.silent_since = None;
    }

    pub(crate) const fn can_initiate(&self) -> bool {
        self.card.is_some() && self.path.is_some()
    }

    fn rekey_at(&self) -> Option<Timestamp> {
        if self.wanted || !self.can_initiate() {
            return None;
        }
        let current = self.sessions.iter().find(|established| Some(established.session.local()) == self.sending)?;
        Some(current.replaced_at(IDLE_AGE))
    }

    /// When [`handle_timeout`](Self::handle_timeout) or the drain of transmissions has something to do.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let attempt = match &self.attempt {
            Attempt::Idle => (self.wanted && self.can_initiate()).then_some(Timestamp::from_micros(0)),
            Attempt::Waiting { until } => Some(*until),
            Attempt::Message1 { give_up, repeat, .. } | Attempt::Message3 { give_up, repeat, .. } => {
                Some(repeat.next.min(*give_up))
            }
        };
        let sessions = self.sessions.iter().filter_map(Established::deadline);
        let kept = self.kept.iter().map(|kept| kept.until);
        let immediate = (self.ping_wanted || self.closing.is_some()).then_some(Timestamp::from_micros(0));
        sessions.chain(kept).chain(attempt).chain(self.rekey_at()).chain(self.ping_at()).chain(immediate).min()
    }
}

impl<V: Vault + Clone + 'static> Attempt<V> {
    /// The handshake frame that is to be sent now, and on which path.
    pub(crate) fn due_frame(&mut self, now: Timestamp) -> Option<(PathId, &[u8])> {
        match self {
            Self::Message1 { handshake, path, repeat, .. } => {
                repeat.is_due(now).then_some((*path, handshake.frame.as_slice()))
            }
            Self::Message3 { finished, path, repeat, .. } => {
                repeat.is_due(now).then_some((*path, finished.frame.as_slice()))
            }
            Self::Idle | Self::Waiting { .. } => None,
        }
    }

    /// Our connection id of the handshake that runs.
    pub(crate) fn cid(&self) -> Option<Cid> {
        match self {
            Self::Message1 { handshake, .. } => Some(handshake.cid),
            Self::Message3 { finished, .. } => Some(finished.session.local()),
            Self::Idle | Self::Waiting { .. } => None,
        }
    }

    /// The path on which S1.1 waits for its answer.
    pub(crate) const fn first_flight(&self) -> Option<PathId> {
        match self {
            Self::Message1 { path, .. } => Some(*path),
            _ => None,
        }
    }

    pub(crate) const fn is_running(&self) -> bool {
        matches!(self, Self::Message1 { .. } | Self::Message3 { .. })
    }
}
