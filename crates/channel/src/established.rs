//! A session of a channel: what it still has to say by itself, and when it ends.

use alloc::vec::Vec;
use core::time::Duration;

use sealway_vault::CryptoProvider;
use sealway_wire::{
    Timestamp,
    content::Ranges,
    danger::{self, Protection},
};

use crate::{Role, endpoint::PathId, session::Session};

/// First delay before a frame of the handshake, or START, is repeated; doubled each time up to [`MAX_REPEAT`].
const FIRST_REPEAT: Duration = Duration::from_millis(500);
const MAX_REPEAT: Duration = Duration::from_secs(4);
/// The side that answered the last handshake leaves the other one so much time to begin the next.
const RESPONDER_WAITS: Duration = Duration::from_secs(6 * 60);
/// How long a session that the peer has not confirmed is kept.
const UNCONFIRMED: Duration = Duration::from_secs(3 * 60);
/// An ACK is sent at the latest so long, or so many records, after a record that asks for one.
const ACK_DELAY: Duration = Duration::from_secs(1);
const ACK_RECORDS: u32 = 64;
/// How soon a path is challenged once more.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// Paths of the shell's choice that may be under trial at once: the oldest gives way.
const TRIALS: usize = 32;
/// PATHs that wait to be answered: those beyond are asked again.
const REPLIES: usize = 4;
/// An ACK that tells of committed messages waits only so long for more of them.
const COMMIT_DELAY: Duration = Duration::from_millis(10);

/// When something is to be repeated.
pub(crate) struct Repeat {
    pub(crate) next: Timestamp,
    tries: u32,
}

impl Repeat {
    pub(crate) const fn now(now: Timestamp) -> Self {
        Self { next: now, tries: 0 }
    }

    /// Has it repeated at `now`; what comes after is not sooner for it.
    pub(crate) const fn at_once(&mut self, now: Timestamp) {
        self.next = now;
    }

    /// Whether it is due; the next time is set then.
    pub(crate) fn is_due(&mut self, now: Timestamp) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now.after((FIRST_REPEAT * (1 << self.tries.min(8))).min(MAX_REPEAT));
        self.tries += 1;
        true
    }
}

/// START: sent first on a session, repeated until it is acknowledged.
struct OwnStart {
    repeat: Repeat,
    /// Counters under which it was sent first and last.
    counters: [Option<u64>; 2],
    acknowledged: bool,
}

/// A session of the channel.
pub(crate) struct Established<P: CryptoProvider> {
    pub(crate) session: Session<P>,
    pub(crate) path: PathId,
    own_start: OwnStart,
    /// SHA-256 of the S1.3 that made it, where we answered.
    pub(crate) message3: Option<[u8; 32]>,
    pub(crate) retire_at: Option<Timestamp>,
    /// Records of the live lane received since our last ACK, and when the ACK is due.
    unacknowledged: u32,
    ack_at: Option<Timestamp>,
    /// Writes of its state that have not completed: START and ACK wait for them, so that what the peer knows to have
    /// arrived survives a restart.
    pub(crate) unsaved: u32,
    /// A path on which records of the peer come, and that has not answered yet.
    probe: Option<Probe>,
    /// No path is challenged before.
    no_probe_before: Timestamp,
    /// Paths that the shell wants to know of whether they lead to the peer.
    trials: Vec<Probe>,
    /// PATHs that are to be answered, and where: one a path.
    path_replies: Vec<(PathId, [u8; 8])>,
    /// Where START goes once, because S1.3 was repeated from there: anybody may have repeated it.
    start_path: Option<PathId>,
}

/// A PATH that was sent, or is to be.
struct Probe {
    path: PathId,
    challenge: [u8; 8],
    is_due: bool,
}

impl<P: CryptoProvider> Established<P> {
    pub(crate) fn new(now: Timestamp, mut session: Session<P>, path: PathId, message3: Option<[u8; 32]>) -> Self {
        session.stored.since = now;
        let own_start = OwnStart { repeat: Repeat::now(now), counters: [None; 2], acknowledged: false };
        Self {
            session,
            path,
            own_start,
            message3,
            retire_at: None,
            unacknowledged: 0,
            ack_at: None,
            unsaved: 0,
            probe: None,
            no_probe_before: now,
            trials: Vec::new(),
            path_replies: Vec::new(),
            start_path: None,
        }
    }

    pub(crate) const fn is_confirmed(&self) -> bool {
        self.session.stored.confirmed
    }

    /// Asks for START once more, as a repeated S1.3 does; it goes where that has come from.
    pub(crate) fn repeat_start(&mut self, now: Timestamp, path: PathId) {
        if !self.is_confirmed() {
            self.own_start.repeat = Repeat::now(now);
            self.start_path = Some(path);
        }
    }

    /// Where START goes this time.
    pub(crate) fn take_start_path(&mut self) -> PathId {
        self.start_path.take().unwrap_or(self.path)
    }

    /// Sends what follows on `path`.
    pub(crate) const fn take_path(&mut self, path: PathId) {
        self.path = path;
        self.probe = None;
    }

    pub(crate) const fn start_was_sent(&self) -> bool {
        self.own_start.counters[0].is_some()
    }

    /// Whether the peer is known to have our START, and with it our instance.
    pub(crate) const fn start_is_known(&self) -> bool {
        self.own_start.acknowledged
    }

    pub(crate) const fn wants_start(&self) -> bool {
        !self.own_start.acknowledged
    }

    pub(crate) fn start_is_due(&mut self, now: Timestamp) -> bool {
        !self.own_start.acknowledged && self.unsaved == 0 && self.own_start.repeat.is_due(now)
    }

    pub(crate) fn start_sent(&mut self, counter: u64) {
        self.own_start.counters = [self.own_start.counters[0].or(Some(counter)), Some(counter)];
        self.own_start.acknowledged |= danger::is_off(Protection::Start);
    }

    /// The responder's START is acknowledged by any record of the initiator, who sends none before it has opened.
    pub(crate) fn heard(&mut self) {
        self.session.stored.confirmed = true;
        if self.session.role() == Role::Responder {
            self.own_start.acknowledged = true;
        }
    }

    /// The peer has opened these records of the live lane.
    pub(crate) fn acknowledged(&mut self, opened: &Ranges) {
        self.session.acknowledge(opened);
        let sent = self.own_start.counters.iter().flatten();
        let inside = |counter: &u64| opened.as_slice().iter().any(|(low, high)| (low..=high).contains(&counter));
        if sent.into_iter().any(inside) {
            self.own_start.acknowledged = true;
        }
    }

    /// Takes note of a record that asks to be acknowledged.
    pub(crate) fn wants_ack(&mut self, now: Timestamp, at_once: bool) {
        self.unacknowledged += 1;
        let due = if at_once || self.unacknowledged >= ACK_RECORDS { now } else { now.after(ACK_DELAY) };
        self.ack_at = Some(self.ack_at.map_or(due, |earlier| earlier.min(due)));
    }

    /// Counts a record for which an ACK is due some time anyway, if that changes nothing of when.
    pub(crate) fn counts_one_more(&mut self) -> bool {
        let is_due_later = self.is_confirmed() && self.ack_at.is_some() && self.unacknowledged + 1 < ACK_RECORDS;
        let counts = is_due_later && !self.probe.as_ref().is_some_and(|probe| probe.is_due);
        self.unacknowledged += u32::from(counts);
        counts
    }

    /// Takes note that there are committed messages to tell of, and whether the peer waits for that.
    pub(crate) fn wants_commit_ack(&mut self, now: Timestamp, is_awaited: bool) {
        let due = if is_awaited { now } else { now.after(COMMIT_DELAY) };
        self.ack_at = Some(self.ack_at.map_or(due, |earlier| earlier.min(due)));
    }

    /// The newest record of the peer has come on `path`. If that is not where ours go, the path is challenged: in answer to
    /// a record, so that no more than twice the octets go there that have come from there. `random` makes the challenge.
    pub(crate) fn heard_on(&mut self, now: Timestamp, path: PathId, random: impl FnOnce() -> Option<[u8; 8]>) {
        // What was challenged has this long to answer: records that come on two paths in turn do not end that.
        if path == self.path || now < self.no_probe_before {
            return;
        }
        match &mut self.probe {
            Some(probe) if probe.path == path => probe.is_due = true,
            other => *other = random().map(|challenge| Probe { path, challenge, is_due: true }),
        }
    }

    /// The challenge that is to be sent now, and where; it counts as sent.
    pub(crate) fn take_due_probe(&mut self, now: Timestamp) -> Option<(PathId, [u8; 8])> {
        let probe = self.probe.as_mut().filter(|probe| probe.is_due)?;
        probe.is_due = false;
        self.no_probe_before = now.after(PROBE_PAUSE);
        Some((probe.path, probe.challenge))
    }

    /// Has a path challenged that nothing has come on yet: the shell knows from the peer that it may lead there. `random` makes
    /// the challenge of a path that is not under trial.
    pub(crate) fn try_path(&mut self, path: PathId, random: impl FnOnce() -> Option<[u8; 8]>) {
        match self.trials.iter_mut().find(|trial| trial.path == path) {
            Some(trial) => trial.is_due = true,
            None => {
                if self.trials.len() >= TRIALS {
                    self.trials.remove(0);
                }
                self.trials.extend(random().map(|challenge| Probe { path, challenge, is_due: true }));
            }
        }
    }

    /// The challenge of a trial that is to be sent now, and where; it counts as sent.
    pub(crate) fn take_due_trial(&mut self) -> Option<(PathId, [u8; 8])> {
        let trial = self.trials.iter_mut().find(|trial| trial.is_due)?;
        trial.is_due = false;
        Some((trial.path, trial.challenge))
    }

    /// A challenge was answered on `path`. Returns whether it was that of a trial.
    pub(crate) fn trial_answered(&mut self, path: PathId, challenge: &[u8; 8]) -> bool {
        let found = self.trials.iter().position(|trial| trial.path == path && trial.challenge == *challenge);
        found.map(|at| self.trials.remove(at)).is_some()
    }

    /// A challenge has come on `path`.
    pub(crate) fn challenged(&mut self, path: PathId, challenge: [u8; 8]) {
        self.path_replies.retain(|(replied, _)| *replied != path);
        self.path_replies.truncate(REPLIES - 1);
        self.path_replies.push((path, challenge));
        // Each wants to go where the other comes from: one of the two stays, or they would change places for ever.
        if path == self.path && self.session.role() == Role::Initiator {
            self.probe = None;
        }
    }

    /// The answer to a challenge that is to be sent now, and where; it counts as sent.
    pub(crate) fn take_path_reply(&mut self) -> Option<(PathId, [u8; 8])> {
        self.path_replies.pop()
    }

    /// A challenge was answered on `path`. Returns whether it was ours: our records leave there now.
    pub(crate) fn path_answered(&mut self, path: PathId, challenge: &[u8; 8]) -> bool {
        let is_answered = |probe: &Probe| probe.path == path && probe.challenge == *challenge;
        let moves = self.probe.as_ref().is_some_and(is_answered);
        if moves {
            self.path = path;
            self.probe = None;
        }
        moves
    }

    /// Whether an ACK is due; it counts as sent then.
    pub(crate) fn take_due_ack(&mut self, now: Timestamp) -> bool {
        let due = self.unsaved == 0 && self.ack_at.is_some_and(|at| at <= now);
        if due {
            self.ack_at = None;
            self.unacknowledged = 0;
        }
        due
    }

    /// When a session of the age `age` is to be replaced by this side.
    pub(crate) fn replaced_at(&self, age: Duration) -> Timestamp {
        self.session.stored.since.after(match self.session.role() {
            Role::Initiator => age,
            Role::Responder => age + RESPONDER_WAITS,
        })
    }

    pub(crate) fn ends_at(&self) -> Option<Timestamp> {
        let unconfirmed = (!self.is_confirmed()).then(|| self.session.stored.since.after(UNCONFIRMED));
        self.retire_at.into_iter().chain(unconfirmed).min()
    }

    /// Whether a PATH or an answer to one is to leave.
    pub(crate) fn has_path_to_say(&self) -> bool {
        !self.path_replies.is_empty()
            || self.probe.as_ref().is_some_and(|probe| probe.is_due)
            || self.trials.iter().any(|trial| trial.is_due)
    }

    /// When it has something to say by itself, or ends.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let start = (!self.own_start.acknowledged).then_some(self.own_start.repeat.next);
        let path = self.has_path_to_say();
        let path = path.then_some(Timestamp::from_micros(0));
        let said = start.into_iter().chain(self.ack_at).chain(path).filter(|_| self.unsaved == 0);
        said.chain(self.ends_at()).min()
    }
}
