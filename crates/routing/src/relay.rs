//! A relay: boxes, attached clients, flows that are joined two by two, and frames in custody.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;

use sealway_wire::{
    BoxName, DecodeError, Hop, IdentityId, Route, Timestamp, VarInt,
    danger::{self, Protection},
    hop::{Custody as Answer, HopFrame, Label, MAX_PUBLISHED, Registration, Senders, Verdict},
};

use crate::{
    Batch, CustodyId, Table,
    custody::{Custody, Parties},
};

/// A hop session, as the driver numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How much one client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Flows of one hop session; the one that was used least recently goes.
    pub flows: usize,
    /// Boxes of one client.
    pub boxes: usize,
    /// Octets in custody of one box, 512 for each frame included.
    pub box_octets: usize,
    /// Octets in custody of one box that one client has deposited, counted in the same way.
    pub share_octets: usize,
    /// Octets in custody that one client has deposited, counted in the same way.
    pub depositor_octets: usize,
    /// Octets in custody in all, counted in the same way.
    pub custody_octets: usize,
    /// How long a frame is kept in custody.
    pub keep: Duration,
}

/// Frames of one depositor that were pushed to one client, and of which it has said nothing, and their octets, at most.
/// Others have their own room: who leaves what cannot be taken holds up nobody else.
const PUSHED: usize = 64;
const PUSHED_OCTETS: usize = 256 * 1024;
/// Questions for prekeys of one hop session that wait for the disk, and statements that are being written.
const QUESTIONS: usize = 32;
const PUBLICATIONS: usize = 8;
/// The same, of all depositors.
const PUSHED_IN_ALL: usize = 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 64,
            boxes: 64,
            box_octets: 16 << 20,
            share_octets: 4 << 20,
            depositor_octets: 32 << 20,
            custody_octets: 1 << 30,
            keep: Duration::from_secs(14 * 24 * 60 * 60),
        }
    }
}

/// What a relay counts. Each is something that a client did or that policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayEvent {
    /// A frame was passed on.
    Forwarded,
    /// Nobody is attached at the box, there is none of that name, or its owner does not let the sender in: the sender is
    /// told the same in all three cases.
    Absent,
    /// A label that is not known, or not any more.
    UnknownLabel,
    /// A frame that names a relay which the operator has not configured, or goes on after a box.
    NoSuchHop,
    /// A box was refused; the client has been told.
    Refused(Registration),
    /// A box is open as soon as this is written: then the client is to be told. A box that was forgotten could be taken by
    /// whoever knows its name.
    Registered {
        /// The name of the box.
        name: BoxName,
        /// To be written.
        batch: Batch,
    },
    /// A frame was taken into custody as soon as this is written: then [`Relay::deposited`] is to be called, or, if it
    /// could not be, [`Relay::not_deposited`].
    Deposited {
        /// The frame.
        deposit: Deposited,
        /// To be written.
        batch: Batch,
    },
    /// A frame was not taken into custody; the client has been told.
    NotKept(Answer),
    /// A frame in custody was deleted.
    Settled {
        /// Why.
        verdict: Verdict,
        /// To be written.
        batch: Batch,
    },
    /// The owner of a box has published its prekeys, or withdrawn them: this is to be written. Then
    /// [`Relay::published`] is to be called, whether it could be or not.
    Published(SessionId, Batch),
    /// The prekeys of a box's owner are to be read from [`Table::Published`] and handed to [`Relay::answer`].
    Asked(Question),
    /// A client asks or publishes more at once than is worked on. It has heard nothing.
    Ignored,
    /// A label was given, or a notice taken.
    Control,
}

/// A question for the prekeys of a box's owner, whom the asker may send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The box: its name is the key of the row.
    pub name: BoxName,
    session: SessionId,
    number: VarInt,
}

/// A frame that is about to be in custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deposited {
    session: SessionId,
    number: VarInt,
    seconds: VarInt,
    id: CustodyId,
}

/// A frame in custody that is to be read from [`Table::Custody`] and handed to [`Relay::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// The frame: [`CustodyId::key`] says where it is.
    pub id: CustodyId,
    session: SessionId,
    number: u64,
}

struct Flow {
    /// The label that the client gave it, once it has.
    theirs: Option<Label>,
    /// The other end.
    partner: (SessionId, Label),
    /// For the choice of the flow that goes.
    used: u64,
}

struct Session {
    identity: IdentityId,
    flows: BTreeMap<Label, Flow>,
    by_theirs: BTreeMap<Label, Label>,
    next_label: u32,
    /// Frames that were pushed, by number, and have no verdict.
    pushed: BTreeMap<u64, Outstanding>,
    /// The same, by depositor.
    windows: BTreeMap<IdentityId, Window>,
    /// What waits for the disk.
    questions: usize,
    publications: usize,
}

struct Outstanding {
    id: CustodyId,
    depositor: IdentityId,
    octets: usize,
}

/// What of one depositor has no verdict.
#[derive(Default)]
struct Window {
    numbers: BTreeMap<CustodyId, u64>,
    octets: usize,
}

impl Session {
    fn pushed(&mut self, number: u64, outstanding: Outstanding) {
        let window = self.windows.entry(outstanding.depositor).or_default();
        window.numbers.insert(outstanding.id, number);
        window.octets += outstanding.octets;
        self.pushed.insert(number, outstanding);
    }

    fn settle(&mut self, number: u64) -> Option<CustodyId> {
        let Outstanding { id, depositor, octets } = self.pushed.remove(&number)?;
        if let Some(window) = self.windows.get_mut(&depositor) {
            window.octets -= octets;
            window.numbers.remove(&id);
            if window.numbers.is_empty() {
                self.windows.remove(&depositor);
            }
        }
        Some(id)
    }

    /// Takes note of the client's label for the flow that we call `mine`. Each of its labels names one flow.
    fn name(&mut self, mine: Label, theirs: Option<Label>) {
        let Some(flow) = self.flows.get_mut(&mine) else { return };
        let old = core::mem::replace(&mut flow.theirs, theirs);
        old.map(|old| self.by_theirs.remove(&old));
        let displaced = theirs.and_then(|theirs| self.by_theirs.insert(theirs, mine));
        if let Some(other) = displaced.filter(|other| *other != mine).and_then(|other| self.flows.get_mut(&other)) {
            other.theirs = None;
        }
    }
}

struct Mailbox {
    owner: IdentityId,
    /// Empty: everybody who is attached.
    senders: BTreeSet<IdentityId>,
}

impl Mailbox {
    /// `owner 32 | sender 32 *`.
    fn encode(&self) -> Vec<u8> {
        core::iter::once(&self.owner).chain(&self.senders).flat_map(|id| id.0).collect()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (ids, []) = value.as_chunks::<32>() else { return None };
        let (owner, senders) = ids.split_first()?;
        Some(Self { owner: IdentityId(*owner), senders: senders.iter().map(|id| IdentityId(*id)).collect() })
    }
}

/// Forwards frames between the clients that are attached to it, and keeps frames for those that are not. It never dials an
/// address out of a frame.
#[derive(Default)]
pub struct Relay {
    limits: Limits,
    sessions: BTreeMap<SessionId, Session>,
    /// The newest session of each client.
    attached: BTreeMap<IdentityId, SessionId>,
    boxes: BTreeMap<BoxName, Mailbox>,
    /// How many boxes each client has.
    owned: BTreeMap<IdentityId, usize>,
    custody: Custody,
    /// Clients that may be pushed something now, and those that may be later.
    wanting: BTreeSet<IdentityId>,
    timers: BTreeSet<(Timestamp, IdentityId)>,
    timer_of: BTreeMap<IdentityId, Timestamp>,
    /// Never twice, whatever session it is of: a verdict that comes late must not hit another frame.
    next_push: u64,
    clock: u64,
}

impl Relay {
    /// A relay with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A client has attached: policy has admitted it, its hop channel is open.
    pub fn attach(&mut self, session: SessionId, identity: IdentityId) {
        self.detach(session);
        let fresh = Session {
            identity,
            flows: BTreeMap::new(),
            by_theirs: BTreeMap::new(),
            next_label: 0,
            pushed: BTreeMap::new(),
            windows: BTreeMap::new(),
            questions: 0,
            publications: 0,
        };
        self.sessions.insert(session, fresh);
        self.attached.insert(identity, session);
        self.custody.begin_anew(&identity);
        self.wanting.insert(identity);
    }

    /// A hop session has ended: its flows end with it, on both sides.
    pub fn detach(&mut self, session: SessionId) {
        let Some(gone) = self.sessions.remove(&session) else { return };
        if self.attached.get(&gone.identity) == Some(&session) {
            self.attached.remove(&gone.identity);
        }
        for flow in gone.flows.into_values() {
            self.remove_half(flow.partner);
        }
        for pushed in gone.pushed.into_values() {
            self.custody.not_pushed(pushed.id);
        }
    }

    /// Frames in custody, and their octets with 512 for each frame.
    #[must_use]
    pub fn custody(&self) -> (usize, usize) {
        (self.custody.len(), self.custody.octets())
    }

    /// Hop sessions that are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.sessions.len()
    }

    /// Handles a hop frame of `session`; what is to be sent goes to `send`.
    ///
    /// # Errors
    /// If it is no hop frame. The client is at fault; the session may go on.
    pub fn handle(
        &mut self,
        now: Timestamp,
        session: SessionId,
        octets: &[u8],
        mut send: impl FnMut(SessionId, &HopFrame<'_>),
    ) -> Result<RelayEvent, DecodeError> {
        let frame = HopFrame::decode(octets)?;
        self.clock += 1;
        Ok(match frame {
            HopFrame::Forward { label, frame } => self.forward(session, label, frame, &mut send),
            HopFrame::Routed { back, route, frame } => self.routed(session, back, route, frame, &mut send),
            HopFrame::Assign { back, label } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.name(back, Some(label));
                }
                RelayEvent::Control
            }
            HopFrame::Unknown { label } => {
                if let Some(session) = self.sessions.get_mut(&session)
                    && let Some(mine) = session.by_theirs.get(&label).copied()
                {
                    session.name(mine, None);
                }
                RelayEvent::Control
            }
            HopFrame::Register { name, senders } => match self.register(session, name, senders) {
                Ok(batch) => RelayEvent::Registered { name, batch },
                Err(outcome) => {
                    send(session, &HopFrame::Registered { name, outcome });
                    RelayEvent::Refused(outcome)
                }
            },
            HopFrame::Deposit { number, seconds, route, frame } => {
                match self.deposit(now, session, (number, seconds), route, frame) {
                    Ok(event) => {
                        if danger::is_off(Protection::Custody) {
                            send(session, &HopFrame::Custody { number, outcome: Answer::Kept { seconds } });
                        }
                        event
                    }
                    Err(outcome) => {
                        send(session, &HopFrame::Custody { number, outcome });
                        RelayEvent::NotKept(outcome)
                    }
                }
            }
            HopFrame::Verdict { number, verdict } => self.settle(now, session, number, verdict),
            HopFrame::Publish { name, statement } => self.publish(session, name, statement),
            HopFrame::Fetch { number, name } => {
                match (self.admitting(session, name), self.sessions.get_mut(&session)) {
                    (Some(_), Some(asker)) if asker.questions < QUESTIONS => {
                        asker.questions += 1;
                        RelayEvent::Asked(Question { name, session, number })
                    }
                    (Some(_), _) => RelayEvent::Ignored,
                    // As if there were none: who may not send to a box does not learn that it is there.
                    (None, _) => {
                        send(session, &HopFrame::Fetched { number, statement: &[] });
                        RelayEvent::Control
                    }
                }
            }
            // Only relays say these.
            HopFrame::Absent { .. }
            | HopFrame::Registered { .. }
            | HopFrame::Custody { .. }
            | HopFrame::Push { .. }
            | HopFrame::Fetched { .. }
            | HopFrame::Seen { .. } => RelayEvent::Control,
        })
    }

    // ---- custody ----

    fn deposit(
        &mut self,
        now: Timestamp,
        session: SessionId,
        (number, seconds): (VarInt, VarInt),
        route: Route,
        frame: &[u8],
    ) -> Result<RelayEvent, Answer> {
        let Some((Hop::Box(name), Route::HERE)) = route.split_first() else { return Err(Answer::Refused) };
        let owner = self.admitting(session, name).ok_or(Answer::Refused)?;
        let depositor = self.sessions.get(&session).ok_or(Answer::Refused)?.identity;
        let asked = Some(Duration::from_secs(seconds.get())).filter(|asked| !asked.is_zero());
        let keep = asked.map_or(self.limits.keep, |asked| asked.min(self.limits.keep));
        let parties = Parties { owner, depositor };
        let taken = self.custody.deposit(&self.limits, name, parties, now.after(keep), frame);
        let (id, batch) = taken.map_err(|_| Answer::Full)?;
        let seconds = VarInt::new(keep.as_secs()).unwrap_or(VarInt::MAX);
        Ok(RelayEvent::Deposited { deposit: Deposited { session, number, seconds, id }, batch })
    }

    /// A frame is on disk: its depositor is told, and it is pushed.
    pub fn deposited(&mut self, deposit: Deposited, mut send: impl FnMut(SessionId, &HopFrame<'_>)) {
        let Deposited { session, number, seconds, id } = deposit;
        self.wanting.extend(self.custody.written(id));
        if self.sessions.contains_key(&session) {
            send(session, &HopFrame::Custody { number, outcome: Answer::Kept { seconds } });
        }
    }

    /// A frame could not be written: it is not in custody, and its depositor is told so.
    pub fn not_deposited(&mut self, deposit: Deposited, mut send: impl FnMut(SessionId, &HopFrame<'_>)) {
        self.custody.remove(deposit.id);
        if self.sessions.contains_key(&deposit.session) {
            send(deposit.session, &HopFrame::Custody { number: deposit.number, outcome: Answer::Full });
        }
    }

    /// The next frame that is to be pushed. It counts as pushed.
    pub fn poll_push(&mut self, now: Timestamp) -> Option<Push> {
        while let Some(client) = self.wanting.first().copied() {
            if let Some(push) = self.next_push(now, client) {
                return Some(push);
            }
            self.wanting.remove(&client);
            if self.attached.contains_key(&client) {
                // What may not be pushed yet; a verdict makes room where there is none.
                let next = self.custody.next_time(&client).filter(|at| *at > now);
                next.into_iter().for_each(|at| self.set_timer(client, at));
            }
        }
        None
    }

    fn set_timer(&mut self, client: IdentityId, at: Timestamp) {
        let earlier = self.timer_of.get(&client).copied();
        if earlier.is_none_or(|earlier| at < earlier) {
            earlier.map(|earlier| self.timers.remove(&(earlier, client)));
            self.timers.insert((at, client));
            self.timer_of.insert(client, at);
        }
    }

    fn next_push(&mut self, now: Timestamp, client: IdentityId) -> Option<Push> {
        let session_id = *self.attached.get(&client)?;
        let depositors = self.custody.depositors_for(&client);
        let session = self.sessions.get_mut(&session_id)?;
        for depositor in depositors {
            let Some(id) = self.custody.head(now, client, depositor) else { continue };
            let window = session.windows.get(&depositor);
            // One that has gone unanswered is pushed under a new number.
            if let Some(number) = window.and_then(|window| window.numbers.get(&id)).copied() {
                session.settle(number);
            }
            let window = session.windows.get(&depositor);
            let is_full = |window: &Window| window.numbers.len() >= PUSHED || window.octets >= PUSHED_OCTETS;
            if window.is_some_and(is_full) || session.pushed.len() >= PUSHED_IN_ALL {
                // What came first is waited for by what came later: it takes the place of the last.
                let last = window.and_then(|window| window.numbers.last_key_value());
                let Some((last, number)) = last.map(|(last, number)| (*last, *number)).filter(|(last, _)| id < *last)
                else {
                    continue;
                };
                session.settle(number);
                self.custody.not_pushed(last);
            }
            let number = self.next_push;
            self.next_push += 1;
            let octets = self.custody.pushed(now, id);
            session.pushed(number, Outstanding { id, depositor, octets });
            return Some(Push { id, session: session_id, number });
        }
        None
    }

    /// Pushes a frame, whose row in the store is `row`. `send` says whether the session has room for it. Without a row the
    /// frame is gone; with an error it stays.
    pub fn push<E>(
        &mut self,
        now: Timestamp,
        push: Push,
        row: Result<Option<&[u8]>, E>,
        mut send: impl FnMut(SessionId, &HopFrame<'_>) -> bool,
    ) {
        let Push { id, session, number } = push;
        let Some(attached) = self.sessions.get_mut(&session) else { return };
        // Another session of the same client, a verdict, or a frame that goes first may have been faster.
        if attached.pushed.get(&number).is_none_or(|pushed| pushed.id != id) {
            return;
        }
        let frame = row.map(|row| row.and_then(Custody::frame_of));
        if let (Ok(Some(frame)), Some(number)) = (&frame, VarInt::new(number))
            && send(session, &HopFrame::Push { number, frame })
        {
            return;
        }
        attached.settle(number);
        let client = attached.identity;
        self.wanting.insert(client);
        match frame {
            Ok(Some(_)) => self.custody.no_room(now, id),
            Ok(None) => drop(self.custody.remove(id)),
            Err(_) => self.custody.later(now, id),
        }
    }

    fn settle(&mut self, now: Timestamp, session: SessionId, number: VarInt, verdict: Verdict) -> RelayEvent {
        let Some(session) = self.sessions.get_mut(&session) else { return RelayEvent::Control };
        let Some(id) = session.settle(number.get()) else { return RelayEvent::Control };
        self.wanting.insert(session.identity);
        let deletes = match verdict {
            Verdict::Done | Verdict::Discard(_) => true,
            Verdict::Unopened => self.custody.unopened(now, id),
            Verdict::Later => {
                self.custody.later(now, id);
                false
            }
        };
        if deletes { RelayEvent::Settled { verdict, batch: self.custody.remove(id) } } else { RelayEvent::Control }
    }

    /// Deletes frames that have outlived their time, and says how many. The batch is to be written.
    pub fn handle_timeout(&mut self, now: Timestamp) -> (usize, Batch) {
        while let Some((at, client)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, client));
            self.timer_of.remove(&client);
            self.wanting.insert(client);
        }
        let (expired, batch) = self.custody.expire(now);
        for (id, Parties { owner, depositor }) in &expired {
            let session = self.attached.get(owner).and_then(|session| self.sessions.get_mut(session));
            let Some(session) = session else { continue };
            let window = session.windows.get(depositor);
            if let Some(number) = window.and_then(|window| window.numbers.get(id)).copied() {
                session.settle(number);
                self.wanting.insert(*owner);
            }
        }
        (expired.len(), batch)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.custody.next_expiry()).min()
    }

    // ---- boxes ----

    fn register(&mut self, session: SessionId, name: BoxName, senders: Senders<'_>) -> Result<Batch, Registration> {
        let owner = self.sessions.get(&session).map(|session| session.identity).ok_or(Registration::Quota)?;
        match self.boxes.get(&name) {
            Some(taken) if taken.owner != owner => return Err(Registration::Taken),
            Some(_) => {}
            None if self.owned(owner) >= self.limits.boxes => return Err(Registration::Quota),
            None => {}
        }
        let senders = match senders {
            Senders::Attached => BTreeSet::new(),
            Senders::Only(list) => list.ids().collect(),
        };
        let mailbox = Mailbox { owner, senders };
        let mut batch = Batch::default();
        batch.put(Table::Boxes, name.0.to_vec(), mailbox.encode());
        let is_known = self.boxes.contains_key(&name);
        self.insert(name, mailbox);
        if is_known {
            // What its owner could not take before, it may take now.
            self.custody.resume(&owner);
            self.wanting.insert(owner);
        }
        Ok(batch)
    }

    /// Only the owner of a box publishes there. What it says is not read here: those who ask verify it.
    fn publish(&mut self, session: SessionId, name: BoxName, statement: &[u8]) -> RelayEvent {
        let Some(publisher) = self.sessions.get_mut(&session) else { return RelayEvent::Ignored };
        if self.boxes.get(&name).is_none_or(|mailbox| mailbox.owner != publisher.identity) {
            return RelayEvent::Refused(Registration::Taken);
        }
        if publisher.publications >= PUBLICATIONS {
            return RelayEvent::Ignored;
        }
        publisher.publications += 1;
        let mut batch = Batch::default();
        if statement.is_empty() {
            batch.delete(Table::Published, name.0.to_vec());
        } else {
            batch.put(Table::Published, name.0.to_vec(), statement.to_vec());
        }
        RelayEvent::Published(session, batch)
    }

    /// What a client has published is written, or could not be: it publishes again when it attaches again.
    pub fn published(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.publications = session.publications.saturating_sub(1);
        }
    }

    /// Answers a question with what was read; none: nothing is published, or could be read.
    pub fn answer(&mut self, question: Question, row: Option<&[u8]>, mut send: impl FnMut(SessionId, &HopFrame<'_>)) {
        if let Some(asker) = self.sessions.get_mut(&question.session) {
            asker.questions = asker.questions.saturating_sub(1);
            let statement = row.filter(|row| row.len() <= MAX_PUBLISHED).unwrap_or_default();
            send(question.session, &HopFrame::Fetched { number: question.number, statement });
        }
    }

    fn owned(&self, owner: IdentityId) -> usize {
        self.owned.get(&owner).copied().unwrap_or(0)
    }

    fn insert(&mut self, name: BoxName, mailbox: Mailbox) {
        let owner = mailbox.owner;
        if self.boxes.insert(name, mailbox).is_none() {
            *self.owned.entry(owner).or_default() += 1;
        }
    }

    /// Takes a row back from the store: boxes first, then custody. Returns whether it is one.
    pub fn load(&mut self, table: Table, key: &[u8], value: &[u8]) -> bool {
        if table == Table::Custody {
            let Some((name, id)) = Custody::parse_key(key) else { return false };
            return self.boxes.get(&name).is_some_and(|mailbox| self.custody.load(id, mailbox.owner, value));
        }
        let (Ok(name), Some(mailbox)) = (key.try_into(), Mailbox::decode(value)) else { return false };
        self.insert(BoxName(name), mailbox);
        true
    }

    fn forward(
        &mut self,
        session: SessionId,
        label: Label,
        frame: &[u8],
        send: &mut impl FnMut(SessionId, &HopFrame<'_>),
    ) -> RelayEvent {
        let used = self.clock;
        let flow = self.sessions.get_mut(&session).and_then(|session| session.flows.get_mut(&label));
        let Some(flow) = flow else {
            send(session, &HopFrame::Unknown { label });
            return RelayEvent::UnknownLabel;
        };
        flow.used = used;
        let partner = flow.partner;
        self.pass_on(partner, frame, send)
    }

    /// Sends a frame to the client at the end `to` of a flow: by label, or by a route until the client has given one.
    fn pass_on(
        &mut self,
        (session, label): (SessionId, Label),
        frame: &[u8],
        send: &mut impl FnMut(SessionId, &HopFrame<'_>),
    ) -> RelayEvent {
        let used = self.clock;
        let flow = self.sessions.get_mut(&session).and_then(|session| session.flows.get_mut(&label));
        let Some(flow) = flow else { return RelayEvent::Absent };
        flow.used = used;
        match flow.theirs {
            Some(label) => send(session, &HopFrame::Forward { label, frame }),
            None => send(session, &HopFrame::Routed { back: label, route: Route::HERE, frame }),
        }
        RelayEvent::Forwarded
    }

    fn routed(
        &mut self,
        session: SessionId,
        back: Label,
        route: Route,
        frame: &[u8],
        send: &mut impl FnMut(SessionId, &HopFrame<'_>),
    ) -> RelayEvent {
        let name = match route.split_first() {
            Some((Hop::Box(name), Route::HERE)) => name,
            _ => {
                send(session, &HopFrame::Absent { back });
                return RelayEvent::NoSuchHop;
            }
        };
        let Some(target) = self.recipient(session, name) else {
            send(session, &HopFrame::Absent { back });
            return RelayEvent::Absent;
        };
        let label = self.join(session, back, target);
        let Some((label, partner)) = label else { return RelayEvent::Absent };
        send(session, &HopFrame::Assign { back, label });
        self.pass_on(partner, frame, send)
    }

    /// The attached owner of a box that lets the client of `session` in.
    fn recipient(&self, session: SessionId, name: BoxName) -> Option<SessionId> {
        self.admitting(session, name).and_then(|owner| self.attached.get(&owner)).copied()
    }

    /// The owner of a box that lets the client of `session` in.
    fn admitting(&self, session: SessionId, name: BoxName) -> Option<IdentityId> {
        let mailbox = self.boxes.get(&name)?;
        let sender = self.sessions.get(&session)?.identity;
        let admitted = mailbox.senders.is_empty() || mailbox.senders.contains(&sender);
        admitted.then_some(mailbox.owner)
    }

    /// The flow that `session` calls `back`, to `target`: the one that is there, or a new one. Returns our label of it,
    /// and its other end.
    fn join(&mut self, session: SessionId, back: Label, target: SessionId) -> Option<(Label, (SessionId, Label))> {
        let known = self.sessions.get(&session)?.by_theirs.get(&back).copied();
        if let Some(label) = known {
            let partner = self.sessions.get(&session)?.flows.get(&label)?.partner;
            if partner.0 == target {
                return Some((label, partner));
            }
            self.remove_half(partner);
            self.remove_half((session, label));
        }
        self.make_room(session, target);
        self.make_room(target, session);
        let here = self.draw_label(session)?;
        let there = self.draw_label(target)?;
        let used = self.clock;
        let near = self.sessions.get_mut(&session)?;
        near.flows.insert(here, Flow { theirs: None, partner: (target, there), used });
        near.name(here, Some(back));
        let far = self.sessions.get_mut(&target)?;
        far.flows.insert(there, Flow { theirs: None, partner: (session, here), used });
        Some((here, (target, there)))
    }

    fn draw_label(&mut self, session: SessionId) -> Option<Label> {
        let session = self.sessions.get_mut(&session)?;
        let label = Label::new(session.next_label)?;
        session.next_label += 1;
        Some(label)
    }

    /// Ends a flow of a session that has as many as it may: the oldest with the same partner, if there is one, so that
    /// nobody drives out the flows of others.
    fn make_room(&mut self, session: SessionId, partner: SessionId) {
        let limit = self.limits.flows;
        let full = self.sessions.get(&session).filter(|session| session.flows.len() >= limit);
        let oldest = full.and_then(|session| {
            let with_partner = session.flows.iter().filter(|(_, flow)| flow.partner.0 == partner);
            let oldest = with_partner.min_by_key(|(_, flow)| flow.used);
            oldest.or_else(|| session.flows.iter().min_by_key(|(_, flow)| flow.used))
        });
        if let Some((label, partner)) = oldest.map(|(label, flow)| (*label, flow.partner)) {
            self.remove_half(partner);
            self.remove_half((session, label));
        }
    }

    fn remove_half(&mut self, (session, label): (SessionId, Label)) {
        if let Some(session) = self.sessions.get_mut(&session)
            && let Some(flow) = session.flows.remove(&label)
            && let Some(theirs) = flow.theirs
        {
            session.by_theirs.remove(&theirs);
        }
    }
}
