//! A relay: boxes, attached clients, and flows that are joined two by two.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use sealway_wire::{
    BoxName, DecodeError, Hop, IdentityId, Route,
    hop::{HopFrame, Label, Registration, Senders},
};

use crate::{Batch, Table};

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
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 64, boxes: 64 }
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
    /// A label was given, or a notice taken.
    Control,
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
}

impl Session {
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

/// Forwards frames between the clients that are attached to it. It never dials an address out of a frame.
#[derive(Default)]
pub struct Relay {
    limits: Limits,
    sessions: BTreeMap<SessionId, Session>,
    /// The newest session of each client.
    attached: BTreeMap<IdentityId, SessionId>,
    boxes: BTreeMap<BoxName, Mailbox>,
    /// How many boxes each client has.
    owned: BTreeMap<IdentityId, usize>,
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
        let fresh = Session { identity, flows: BTreeMap::new(), by_theirs: BTreeMap::new(), next_label: 0 };
        self.sessions.insert(session, fresh);
        self.attached.insert(identity, session);
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
            // Only relays say these.
            HopFrame::Absent { .. } | HopFrame::Registered { .. } => RelayEvent::Control,
        })
    }

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
        self.insert(name, mailbox);
        Ok(batch)
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

    /// Takes a box back from the store. Returns whether the row is one.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> bool {
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
        let mailbox = self.boxes.get(&name)?;
        let sender = self.sessions.get(&session)?.identity;
        let admitted = mailbox.senders.is_empty() || mailbox.senders.contains(&sender);
        self.attached.get(&mailbox.owner).copied().filter(|_| admitted)
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
