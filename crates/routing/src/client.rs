//! A client's end of a hop session: flows, and the labels that the two ends have given them.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;

use sealway_wire::{
    BoxName, EncodeError, Route, VarInt,
    hop::{Custody, HopFrame, Label, Registration},
};

/// A flow as the client names it, for as long as the client runs: labels change with each hop session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// What a hop frame means to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// An end-to-end frame has come on a flow.
    Frame {
        /// The flow; an answer on it goes back to where the frame came from.
        flow: FlowId,
        /// The frame.
        frame: &'a [u8],
        /// To be sent to the relay: the label of a new flow.
        answer: Option<HopFrame<'static>>,
    },
    /// Nobody is attached at the other end of the flow just now.
    Absent {
        /// The flow.
        flow: FlowId,
    },
    /// What became of a box.
    Registered {
        /// The box.
        name: BoxName,
        /// The outcome.
        outcome: Registration,
    },
    /// What became of a deposit.
    Custody {
        /// Its number.
        number: VarInt,
        /// The outcome.
        outcome: Custody,
    },
    /// A frame that the relay has kept for us; it waits for a verdict.
    Push {
        /// The relay's number for it.
        number: VarInt,
        /// The frame.
        frame: &'a [u8],
    },
    /// The prekeys of a box's owner, as the relay has them.
    Fetched {
        /// The number of the question.
        number: VarInt,
        /// The statement; empty: the relay has none for us.
        statement: &'a [u8],
    },
    /// From where the relay sees our frames come.
    Seen {
        /// The address.
        address: SocketAddr,
    },
    /// A frame for a label that we do not know: this is to be sent to the relay.
    Answer(HopFrame<'static>),
    /// Nothing to do.
    Nothing,
}

#[derive(Clone, Copy)]
struct Flow {
    /// The label that we gave it, in this hop session.
    mine: Label,
    /// The label that the relay gave it, once it has.
    theirs: Option<Label>,
    /// Where it goes, if we began it.
    route: Option<Route>,
}

/// Flows over one relay.
pub struct Client {
    flows: BTreeMap<FlowId, Flow>,
    by_label: BTreeMap<Label, FlowId>,
    next_label: u32,
    next_flow: u64,
    limit: usize,
}

impl Client {
    /// A client that lets the relay begin at most `limit` flows at a time.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { flows: BTreeMap::new(), by_label: BTreeMap::new(), next_label: 0, next_flow: 0, limit }
    }

    /// A flow to a box at the relay. The same box gives the same flow.
    pub fn flow_to(&mut self, name: BoxName) -> FlowId {
        let route = Route::to_box(name);
        if let Some((id, _)) = self.flows.iter().find(|(_, flow)| flow.route == Some(route)) {
            return *id;
        }
        self.insert(None, Some(route))
    }

    /// Gives a flow up.
    pub fn end(&mut self, flow: FlowId) {
        if let Some(ended) = self.flows.remove(&flow) {
            self.by_label.remove(&ended.mine);
        }
    }

    /// Starts anew after the hop session was replaced: labels are gone, and so are the flows that others began.
    pub fn reset(&mut self) {
        self.by_label.clear();
        self.flows.retain(|_, flow| flow.route.is_some());
        self.next_label = 0;
        for (id, flow) in &mut self.flows {
            flow.theirs = None;
            flow.mine = Label::new(self.next_label).unwrap_or(Label::MAX);
            self.next_label += 1;
            self.by_label.insert(flow.mine, *id);
        }
    }

    /// Writes the hop frame that carries `frame` on `flow`, and returns its length. `None`: the flow is gone.
    ///
    /// # Errors
    /// If `out` is too short.
    pub fn encode(&self, flow: FlowId, frame: &[u8], out: &mut [u8]) -> Option<Result<usize, EncodeError>> {
        let flow = self.flows.get(&flow)?;
        let hop_frame = match (flow.theirs, flow.route) {
            (Some(label), _) => HopFrame::Forward { label, frame },
            (None, Some(route)) => HopFrame::Routed { back: flow.mine, route, frame },
            (None, None) => return None,
        };
        Some(hop_frame.encode(out))
    }

    /// Handles a hop frame of the relay.
    pub fn handle<'a>(&mut self, frame: HopFrame<'a>) -> ClientEvent<'a> {
        match frame {
            HopFrame::Forward { label, frame } => match self.by_label.get(&label) {
                Some(flow) => ClientEvent::Frame { flow: *flow, frame, answer: None },
                None => ClientEvent::Answer(HopFrame::Unknown { label }),
            },
            // The relay sends a route until it has our label: the same flow again.
            HopFrame::Routed { back, frame, .. } => {
                let known = self.flows.iter().find(|(_, flow)| flow.theirs == Some(back)).map(|(id, _)| *id);
                let flow = known.unwrap_or_else(|| self.insert(Some(back), None));
                let label = self.flows.get(&flow).map_or(Label::MAX, |flow| flow.mine);
                ClientEvent::Frame { flow, frame, answer: Some(HopFrame::Assign { back, label }) }
            }
            HopFrame::Assign { back, label } => {
                if let Some(flow) = self.by_label.get(&back).and_then(|id| self.flows.get_mut(id)) {
                    flow.theirs = Some(label);
                }
                ClientEvent::Nothing
            }
            HopFrame::Unknown { label } => {
                let unknown = self.flows.values_mut().filter(|flow| flow.theirs == Some(label));
                unknown.for_each(|flow| flow.theirs = None);
                ClientEvent::Nothing
            }
            HopFrame::Absent { back } => match self.by_label.get(&back) {
                Some(flow) => ClientEvent::Absent { flow: *flow },
                None => ClientEvent::Nothing,
            },
            HopFrame::Registered { name, outcome } => ClientEvent::Registered { name, outcome },
            HopFrame::Custody { number, outcome } => ClientEvent::Custody { number, outcome },
            HopFrame::Seen { address } => ClientEvent::Seen { address },
            HopFrame::Push { number, frame } => ClientEvent::Push { number, frame },
            HopFrame::Fetched { number, statement } => ClientEvent::Fetched { number, statement },
            // Only clients say these.
            HopFrame::Register { .. }
            | HopFrame::Deposit { .. }
            | HopFrame::Verdict { .. }
            | HopFrame::Publish { .. }
            | HopFrame::Fetch { .. } => ClientEvent::Nothing,
        }
    }

    fn insert(&mut self, theirs: Option<Label>, route: Option<Route>) -> FlowId {
        // The oldest flow that the relay began makes room: its other end routes again.
        let begun_by_relay = || self.flows.iter().filter(|(_, flow)| flow.route.is_none());
        if route.is_none() && begun_by_relay().count() >= self.limit {
            let oldest = begun_by_relay().map(|(id, flow)| (*id, flow.mine)).next();
            if let Some((id, label)) = oldest {
                self.flows.remove(&id);
                self.by_label.remove(&label);
            }
        }
        let id = FlowId(self.next_flow);
        self.next_flow += 1;
        let mine = Label::new(self.next_label).unwrap_or(Label::MAX);
        self.next_label += 1;
        self.flows.insert(id, Flow { mine, theirs, route });
        self.by_label.insert(mine, id);
        id
    }
}
