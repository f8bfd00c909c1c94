//! A relay between clients: who gets what, and who gets nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use sealway_routing::{Client, ClientEvent, FlowId, Limits, MemoryStore, Relay, RelayEvent, SessionId, Store, Table};
use sealway_wire::{
    BoxName, Hop, HopFrame, IdentityId, Route, Timestamp,
    hop::{Label, Registration, SenderList, Senders},
};

/// A relay and its clients; client `n` has session `n` and identity `[n; 32]`.
struct World {
    relay: Relay,
    clients: Vec<Client>,
    /// What has come to each client: the flow and the frame.
    received: Vec<Vec<(FlowId, Vec<u8>)>>,
    absent: Vec<usize>,
    events: Vec<RelayEvent>,
    carried: Vec<Vec<u8>>,
}

impl World {
    fn new(clients: usize, limits: Limits) -> Self {
        let mut world = Self {
            relay: Relay::new(limits),
            clients: (0..clients).map(|_| Client::new(64)).collect(),
            received: vec![Vec::new(); clients],
            absent: vec![0; clients],
            events: Vec::new(),
            carried: Vec::new(),
        };
        for client in 0..clients {
            world.relay.attach(SessionId(client as u64), identity(client));
        }
        world
    }

    fn register(&mut self, client: usize, name: BoxName, senders: Senders<'_>) -> RelayEvent {
        let mut octets = vec![0; 2048];
        let len = HopFrame::Register { name, senders }.encode(&mut octets).unwrap();
        self.at_relay(client, &octets[..len])
    }

    fn at_relay(&mut self, client: usize, octets: &[u8]) -> RelayEvent {
        let mut answers: Vec<(SessionId, Vec<u8>)> = Vec::new();
        let event = self
            .relay
            .handle(Timestamp::from_micros(1), SessionId(client as u64), octets, |session, frame| {
                let mut out = vec![0; 2048];
                let len = frame.encode(&mut out).unwrap();
                answers.push((session, out[..len].to_vec()));
            })
            .unwrap();
        self.events.push(event.clone());
        for (session, octets) in answers {
            self.carried.push(octets.clone());
            self.at_client(usize::try_from(session.0).unwrap(), &octets);
        }
        event
    }

    fn at_client(&mut self, client: usize, octets: &[u8]) {
        match self.clients[client].handle(HopFrame::decode(octets).unwrap()) {
            ClientEvent::Frame { flow, frame, answer } => {
                self.received[client].push((flow, frame.to_vec()));
                if let Some(answer) = answer {
                    self.answer(client, answer);
                }
            }
            ClientEvent::Absent { .. } => self.absent[client] += 1,
            ClientEvent::Answer(answer) => self.answer(client, answer),
            _ => {}
        }
    }

    fn answer(&mut self, client: usize, answer: HopFrame<'_>) {
        let mut out = [0; 64];
        let len = answer.encode(&mut out).unwrap();
        self.at_relay(client, &out[..len]);
    }

    fn send(&mut self, client: usize, flow: FlowId, frame: &[u8]) -> Option<usize> {
        let mut out = vec![0; 2048];
        let len = self.clients[client].encode(flow, frame, &mut out)?.unwrap();
        self.at_relay(client, &out[..len]);
        Some(len)
    }
}

fn is_open(event: &RelayEvent) -> bool {
    matches!(event, RelayEvent::Registered { .. })
}

fn identity(client: usize) -> IdentityId {
    IdentityId([u8::try_from(client).unwrap(); 32])
}

const BOX: BoxName = BoxName([7; 16]);

#[test]
fn frames_go_both_ways_and_cost_two_octets_once_labels_are_known() {
    let mut world = World::new(2, Limits::default());
    assert!(is_open(&world.register(1, BOX, Senders::Attached)));
    let flow = world.clients[0].flow_to(BOX);
    assert_eq!(world.send(0, flow, b"one"), Some(1 + 1 + 18 + 3), "kind, label, route of one box");
    let (back, frame) = world.received[1][0].clone();
    assert_eq!(frame, b"one");
    assert_eq!(world.send(1, back, b"two"), Some(2 + 3));
    assert_eq!(world.received[0], [(flow, b"two".to_vec())]);
    assert_eq!(world.send(0, flow, b"three"), Some(2 + 5));
    assert_eq!(world.received[1][1], (back, b"three".to_vec()));
}

#[test]
fn a_box_of_somebody_who_is_not_attached_is_absent_and_so_is_one_that_does_not_exist_or_does_not_admit() {
    let mut world = World::new(3, Limits::default());
    let only = [identity(2).0];
    world.register(1, BOX, Senders::Only(SenderList::new(&only).unwrap()));
    let flow = world.clients[0].flow_to(BOX);
    world.send(0, flow, b"not admitted");
    let unknown = world.clients[0].flow_to(BoxName([9; 16]));
    world.send(0, unknown, b"no such box");
    let admitted = world.clients[2].flow_to(BOX);
    world.send(2, admitted, b"admitted");
    world.relay.detach(SessionId(1));
    world.send(2, admitted, b"gone");
    world.send(2, admitted, b"gone");
    assert_eq!(world.absent, [2, 0, 1], "the first frame after the end finds its label unknown, the next one nobody");
    assert_eq!(world.received[1].len(), 1);
}

#[test]
fn nobody_takes_over_a_box() {
    let mut world = World::new(2, Limits::default());
    world.register(0, BOX, Senders::Attached);
    assert_eq!(world.register(1, BOX, Senders::Attached), RelayEvent::Refused(Registration::Taken));
    assert!(is_open(&world.register(0, BOX, Senders::Attached)));
    let mut limits = Limits::default();
    limits.boxes = 2;
    let mut world = World::new(1, limits);
    let outcomes = (0..3).map(|name| world.register(0, BoxName([name; 16]), Senders::Attached));
    let outcomes: Vec<RelayEvent> = outcomes.collect();
    assert_eq!(outcomes[2], RelayEvent::Refused(Registration::Quota));
}

/// After a restart of the relay the box is still its owner's.
#[test]
fn a_box_survives_in_the_store_with_its_owner_and_its_senders() {
    let mut world = World::new(3, Limits::default());
    let only = [identity(2).0];
    let RelayEvent::Registered { batch, .. } = world.register(1, BOX, Senders::Only(SenderList::new(&only).unwrap()))
    else {
        panic!("the box is open")
    };
    let mut store = MemoryStore::default();
    store.commit(&[batch]).unwrap();
    let mut world = World::new(3, Limits::default());
    store.load(Table::Boxes, &mut |key, value| assert!(world.relay.load(Table::Boxes, key, value))).unwrap();
    assert_eq!(world.register(0, BOX, Senders::Attached), RelayEvent::Refused(Registration::Taken));
    let (stranger, friend) = (world.clients[0].flow_to(BOX), world.clients[2].flow_to(BOX));
    world.send(0, stranger, b"from a stranger");
    world.send(2, friend, b"from a friend");
    let bodies: Vec<&[u8]> = world.received[1].iter().map(|(_, frame)| frame.as_slice()).collect();
    assert_eq!(bodies, [b"from a friend"]);
    assert!(!world.relay.load(Table::Boxes, &[0; 15], &[0; 32]) && !world.relay.load(Table::Boxes, &[0; 16], &[0; 33]));
}

#[test]
fn a_client_that_reattaches_uses_its_flows_again() {
    let mut world = World::new(2, Limits::default());
    world.register(1, BOX, Senders::Attached);
    let flow = world.clients[0].flow_to(BOX);
    world.send(0, flow, b"before");
    world.relay.attach(SessionId(0), identity(0));
    world.clients[0].reset();
    assert_eq!(world.clients[0].flow_to(BOX), flow);
    world.send(0, flow, b"after");
    let bodies: Vec<&[u8]> = world.received[1].iter().map(|(_, frame)| frame.as_slice()).collect();
    assert_eq!(bodies, [b"before".as_slice(), b"after"]);
}

#[test]
fn flows_are_bounded_and_the_oldest_goes() {
    let mut limits = Limits::default();
    limits.flows = 4;
    limits.boxes = 8;
    let mut world = World::new(2, limits);
    for name in 0..8 {
        world.register(1, BoxName([name; 16]), Senders::Attached);
    }
    let flows: Vec<FlowId> = (0..8).map(|name| world.clients[0].flow_to(BoxName([name; 16]))).collect();
    for flow in &flows {
        world.send(0, *flow, b"first");
    }
    assert_eq!(world.received[1].len(), 8);
    // The first flow's label was forgotten: the relay says so, the client routes again, nothing else is disturbed.
    world.send(0, flows[0], b"lost");
    assert_eq!(world.events.iter().filter(|event| **event == RelayEvent::UnknownLabel).count(), 1);
    world.send(0, flows[0], b"again");
    assert_eq!(world.received[1].last().unwrap().1, b"again");
}

#[test]
fn a_route_through_relays_that_nobody_configured_leads_nowhere() {
    // Specification: [M22].
    let mut world = World::new(2, Limits::default());
    world.register(1, BOX, Senders::Attached);
    let back = Label::new(0).unwrap();
    for hops in [vec![], vec![Hop::Relay(identity(1))], vec![Hop::Box(BOX), Hop::Box(BoxName([8; 16]))]] {
        let mut out = [0; 256];
        let route = Route::new(&hops).unwrap();
        let len = HopFrame::Routed { back, route, frame: b"frame" }.encode(&mut out).unwrap();
        assert_eq!(world.at_relay(0, &out[..len]), RelayEvent::NoSuchHop);
    }
    assert!(world.received[1].is_empty());
}

proptest! {
    /// Whatever a client says, the relay neither panics nor hands anything to a client that owns no box.
    #[test]
    fn no_octets_of_a_client_do_harm(frames in proptest::collection::vec(
        (0_u8..8, proptest::collection::vec(0_u8..4, 0..40)), 0..50
    )) {
        let mut world = World::new(3, Limits::default());
        world.register(1, BoxName([0; 16]), Senders::Attached);
        for (kind, rest) in frames {
            let octets = [&[kind], rest.as_slice()].concat();
            if HopFrame::decode(&octets).is_ok() {
                world.at_relay(0, &octets);
            }
        }
        prop_assert!(world.received[2].is_empty());
    }
}

#[test]
fn prekeys_are_published_by_the_owner_and_served_to_those_who_may_send() {
    let mut world = World::new(4, Limits::default());
    let mut disk = MemoryStore::default();
    let friend = [identity(1).0];
    world.register(0, BoxName([5; 16]), Senders::Only(SenderList::new(&friend).unwrap()));
    let mut frame = |client: usize, frame: HopFrame<'_>, disk: &mut MemoryStore| {
        let mut octets = vec![0; 8192];
        let len = frame.encode(&mut octets).unwrap();
        world.carried.clear();
        match world.at_relay(client, &octets[..len]) {
            RelayEvent::Published(session, batch) => {
                disk.commit(&[batch]).unwrap();
                world.relay.published(session);
            }
            RelayEvent::Asked(question) => {
                let row = disk.get(Table::Published, &question.name.0).unwrap();
                let mut answers = Vec::new();
                world.relay.answer(question, row.as_deref(), |session, frame| {
                    assert_eq!(session, SessionId(client as u64));
                    let mut out = vec![0; 8192];
                    let len = frame.encode(&mut out).unwrap();
                    answers.push(out[..len].to_vec());
                });
                world.carried.extend(answers);
            }
            _ => {}
        }
        world.carried.clone()
    };
    let name = BoxName([5; 16]);
    let number = sealway_wire::VarInt::from_u32(7);
    let ask = HopFrame::Fetch { number, name };
    let answer = |statement: &[u8]| {
        let mut out = vec![0; 8192];
        let len = HopFrame::Fetched { number, statement }.encode(&mut out).unwrap();
        vec![out[..len].to_vec()]
    };
    assert_eq!(frame(1, ask, &mut disk), answer(b""));
    // Nobody else publishes there.
    frame(2, HopFrame::Publish { name, statement: b"forged" }, &mut disk);
    frame(1, HopFrame::Publish { name: BoxName([6; 16]), statement: b"no box" }, &mut disk);
    assert_eq!(frame(1, ask, &mut disk), answer(b""));
    frame(0, HopFrame::Publish { name, statement: b"prekey" }, &mut disk);
    assert_eq!(frame(1, ask, &mut disk), answer(b"prekey"));
    // To whom the box is closed there is none; nor is there a box.
    assert_eq!(frame(2, ask, &mut disk), answer(b""));
    assert_eq!(frame(1, HopFrame::Fetch { number, name: BoxName([9; 16]) }, &mut disk), answer(b""));
    frame(0, HopFrame::Publish { name, statement: b"" }, &mut disk);
    assert_eq!(frame(1, ask, &mut disk), answer(b""));
}

#[test]
fn who_asks_without_waiting_for_answers_is_not_worked_for_without_end() {
    let mut world = World::new(2, Limits::default());
    let name = BoxName([5; 16]);
    world.register(0, name, Senders::Attached);
    let mut octets = vec![0; 64];
    let ask = HopFrame::Fetch { number: sealway_wire::VarInt::from_u32(1), name };
    let len = ask.encode(&mut octets).unwrap();
    let asked: Vec<RelayEvent> = (0..100).map(|_| world.at_relay(1, &octets[..len])).collect();
    let questions: Vec<_> = asked
        .iter()
        .filter_map(|event| match event {
            RelayEvent::Asked(question) => Some(*question),
            _ => None,
        })
        .collect();
    assert_eq!(questions.len(), 32);
    world.relay.answer(questions[0], None, |_, _| {});
    assert!(matches!(world.at_relay(1, &octets[..len]), RelayEvent::Asked(_)));
    let publish = HopFrame::Publish { name, statement: b"prekey" };
    let len = publish.encode(&mut octets).unwrap();
    let published = (0..100).filter(|_| matches!(world.at_relay(0, &octets[..len]), RelayEvent::Published(..))).count();
    assert_eq!(published, 8);
    world.relay.published(SessionId(0));
    assert!(matches!(world.at_relay(0, &octets[..len]), RelayEvent::Published(..)));
}
