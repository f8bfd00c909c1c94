//! A relay that keeps frames for clients that are away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use proptest::prelude::*;
use sealway_routing::{
    Batch, Holding, Inbox, Limits, MemoryStore, Outbox, Relay, RelayEvent, SendOptions, SessionId, Store, Table,
};
use sealway_wire::{
    BoxName, HopFrame, IdentityId, Instance, Lane, MessageId, Route, Timestamp, VarInt,
    content::Committed,
    hop::{Custody, DiscardReason, SenderList, Senders, Verdict},
};

const BOX: BoxName = BoxName([7; 16]);
const SECOND: Duration = Duration::from_secs(1);

fn identity(client: u64) -> IdentityId {
    IdentityId([u8::try_from(client).unwrap(); 32])
}

/// A relay with its disk. Client `n` is session `n` and identity `[n; 32]`.
struct World {
    now: Timestamp,
    relay: Relay,
    disk: MemoryStore,
    limits: Limits,
    /// What was sent to each session and not looked at yet.
    sent: Vec<(SessionId, Vec<u8>)>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let disk = MemoryStore::default();
        Self { now: Timestamp::from_micros(1), relay: Relay::new(limits), disk, limits, sent: Vec::new() }
    }

    fn with_box(limits: Limits) -> Self {
        let mut world = Self::new(limits);
        world.relay.attach(SessionId(1), identity(1));
        world.register(1, BOX, Senders::Attached);
        world
    }

    fn handle(&mut self, client: u64, frame: HopFrame<'_>) -> RelayEvent {
        let mut octets = vec![0; 4096];
        let len = frame.encode(&mut octets).unwrap();
        let Self { relay, sent, now, .. } = self;
        let event = relay.handle(*now, SessionId(client), &octets[..len], |session, frame| keep(sent, session, frame));
        event.unwrap()
    }

    fn register(&mut self, client: u64, name: BoxName, senders: Senders<'_>) {
        match self.handle(client, HopFrame::Register { name, senders }) {
            RelayEvent::Registered { batch, .. } => self.disk.commit(&[batch]).unwrap(),
            event => panic!("{event:?}"),
        }
    }

    /// Deposits a frame, and writes it if `writes`.
    fn deposit(&mut self, client: u64, number: u32, frame: &[u8], writes: bool) -> RelayEvent {
        let (number, seconds) = (VarInt::from_u32(number), VarInt::from_u32(0));
        let event = self.handle(client, HopFrame::Deposit { number, seconds, route: Route::to_box(BOX), frame });
        if let RelayEvent::Deposited { deposit, batch } = &event
            && writes
        {
            self.disk.commit(std::slice::from_ref(batch)).unwrap();
            let Self { relay, sent, .. } = self;
            relay.deposited(*deposit, |session, frame| keep(sent, session, frame));
        }
        event
    }

    fn verdict(&mut self, client: u64, number: VarInt, verdict: Verdict) {
        if let RelayEvent::Settled { batch, .. } = self.handle(client, HopFrame::Verdict { number, verdict }) {
            self.disk.commit(&[batch]).unwrap();
        }
    }

    /// Pushes what is to be pushed, as the driver does: out of the store.
    fn push(&mut self) {
        let (_, batch) = self.relay.handle_timeout(self.now);
        self.disk.commit(&[batch]).unwrap();
        while let Some(push) = self.relay.poll_push(self.now) {
            let row = self.disk.get(Table::Custody, &push.id.key()).unwrap();
            let Self { relay, sent, now, .. } = self;
            let row: Result<_, ()> = Ok(row.as_deref());
            relay.push(*now, push, row, |session, frame| {
                keep(sent, session, frame);
                true
            });
        }
    }

    fn take(&mut self, client: u64) -> Vec<Vec<u8>> {
        let (own, others) = std::mem::take(&mut self.sent).into_iter().partition(|(to, _)| *to == SessionId(client));
        self.sent = others;
        own.into_iter().map(|(_, octets): (SessionId, Vec<u8>)| octets).collect()
    }

    /// Frames that were pushed to a client, with their numbers.
    fn pushed(&mut self, client: u64) -> Vec<(VarInt, Vec<u8>)> {
        self.push();
        let frames = self.take(client);
        let push = |octets: &Vec<u8>| match HopFrame::decode(octets).unwrap() {
            HopFrame::Push { number, frame } => Some((number, frame.to_vec())),
            _ => None,
        };
        frames.iter().filter_map(push).collect()
    }

    fn custody(&mut self, client: u64) -> Vec<(VarInt, Custody)> {
        let answer = |octets: &Vec<u8>| match HopFrame::decode(octets).unwrap() {
            HopFrame::Custody { number, outcome } => Some((number, outcome)),
            _ => None,
        };
        self.take(client).iter().filter_map(answer).collect()
    }

    /// The first frame in custody is lost.
    fn forget_first(&mut self) {
        let mut first = None;
        self.disk.load(Table::Custody, &mut |key, _| first = first.take().or(Some(key.to_vec()))).unwrap();
        let mut batch = Batch::default();
        batch.delete(Table::Custody, first.unwrap());
        self.disk.commit(&[batch]).unwrap();
        self.restart();
    }

    /// The relay is killed and started again: its disk is what is left.
    fn restart(&mut self) {
        self.relay = Relay::new(self.limits);
        self.sent.clear();
        for table in [Table::Boxes, Table::Custody] {
            let relay = &mut self.relay;
            self.disk.load(table, &mut |key, value| assert!(relay.load(table, key, value))).unwrap();
        }
    }
}

fn keep(sent: &mut Vec<(SessionId, Vec<u8>)>, session: SessionId, frame: &HopFrame<'_>) {
    let mut out = vec![0; 4096];
    let len = frame.encode(&mut out).unwrap();
    sent.push((session, out[..len].to_vec()));
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn a_frame_is_pushed_when_its_recipient_attaches_and_deleted_when_it_is_done() {
    let mut world = World::with_box(Limits::default());
    world.relay.detach(SessionId(1));
    world.relay.attach(SessionId(2), identity(2));
    world.deposit(2, 70, b"first", true);
    world.deposit(2, 71, b"second", true);
    let seconds = VarInt::from_u32(14 * 24 * 3600);
    let kept = Custody::Kept { seconds };
    assert_eq!(world.custody(2), [(VarInt::from_u32(70), kept), (VarInt::from_u32(71), kept)]);
    assert_eq!(world.pushed(1), []);
    world.restart();
    world.relay.attach(SessionId(1), identity(1));
    let pushed = world.pushed(1);
    assert_eq!(pushed.iter().map(|(_, frame)| frame.as_slice()).collect::<Vec<_>>(), [b"first".as_slice(), b"second"]);
    assert_eq!(world.pushed(1), [], "once, as long as the recipient has time to answer");
    for (number, _) in pushed {
        world.verdict(1, number, Verdict::Done);
    }
    assert_eq!(world.relay.custody(), (0, 0));
    world.restart();
    world.relay.attach(SessionId(1), identity(1));
    assert_eq!(world.pushed(1), []);
}

#[test]
fn custody_is_acknowledged_only_after_the_write() {
    // Specification: [M23].
    sealway_testkit::audit::begin();
    let mut world = World::with_box(Limits::default());
    let event = world.deposit(1, 0, b"frame", false);
    assert_eq!((world.custody(1), world.pushed(1)), (vec![], vec![]));
    let RelayEvent::Deposited { deposit, .. } = event else { panic!("{event:?}") };
    let World { relay, sent, .. } = &mut world;
    relay.not_deposited(deposit, |session, frame| keep(sent, session, frame));
    assert_eq!(world.custody(1), [(VarInt::from_u32(0), Custody::Full)]);
    assert_eq!(world.relay.custody(), (0, 0));
}

#[test]
fn verdicts() {
    let mut world = World::with_box(Limits::default());
    let only = |pushed: Vec<(VarInt, Vec<u8>)>| pushed.into_iter().next().map(|(number, _)| number);
    world.deposit(1, 0, b"unopened", true);
    for _ in 0..3 {
        let number = only(world.pushed(1)).expect("pushed three times");
        world.verdict(1, number, Verdict::Unopened);
        assert_eq!(only(world.pushed(1)), None, "not at once");
        world.now = world.now.after(SECOND * 320);
    }
    assert_eq!(world.relay.custody().0, 0, "three failures to open are a discard");
    world.deposit(1, 1, b"refused", true);
    let number = only(world.pushed(1)).unwrap();
    world.verdict(1, number, Verdict::Discard(DiscardReason::Protocol));
    assert_eq!(world.relay.custody().0, 0);
    world.deposit(1, 2, b"later", true);
    for _ in 0..20 {
        let number = only(world.pushed(1)).unwrap();
        // A verdict on what was never pushed, or by somebody else, changes nothing.
        world.relay.attach(SessionId(9), identity(9));
        world.verdict(9, number, Verdict::Done);
        world.verdict(1, VarInt::from_u32(1000), Verdict::Done);
        world.verdict(1, number, Verdict::Later);
        // 5 s, then 10 and so on, at most 320.
        world.now = world.now.after(SECOND * 320);
    }
    assert!(only(world.pushed(1)).is_some());
    world.now = world.now.after(SECOND * 60);
    assert!(only(world.pushed(1)).is_some(), "one without an answer is pushed again");
}

#[test]
fn time_to_live_is_the_relays_or_the_senders_whichever_is_shorter() {
    let mut world = World::with_box(limits(|limits| limits.keep = SECOND * 100));
    for (number, seconds) in [(0, 0), (1, 30), (2, 1000)] {
        let (number, seconds) = (VarInt::from_u32(number), VarInt::from_u32(seconds));
        let route = Route::to_box(BOX);
        let event = world.handle(1, HopFrame::Deposit { number, seconds, route, frame: b"frame" });
        let RelayEvent::Deposited { deposit, batch } = event else { panic!("{event:?}") };
        world.disk.commit(&[batch]).unwrap();
        let World { relay, sent, .. } = &mut world;
        relay.deposited(deposit, |session, frame| keep(sent, session, frame));
    }
    let kept = world.custody(1).into_iter().map(|(_, outcome)| match outcome {
        Custody::Kept { seconds } => seconds.get(),
        other => panic!("{other:?}"),
    });
    assert_eq!(kept.collect::<Vec<_>>(), [100, 30, 100]);
    for (after, left) in [(29, 3), (31, 2), (99, 2), (101, 0)] {
        let (_, batch) = world.relay.handle_timeout(Timestamp::from_micros(1).after(SECOND * after));
        world.disk.commit(&[batch]).unwrap();
        assert_eq!(world.relay.custody().0, left, "after {after} s");
    }
    let mut rows = 0;
    world.disk.load(Table::Custody, &mut |_, _| rows += 1).unwrap();
    assert_eq!(rows, 0);
}

#[test]
fn quotas_of_box_depositor_and_relay() {
    // Each frame counts its octets and 512.
    for (limits, by_another) in [
        (limits(|limits| limits.box_octets = 10 * 522), false),
        (limits(|limits| limits.share_octets = 10 * 522), true),
        (limits(|limits| limits.depositor_octets = 10 * 522), true),
        (limits(|limits| limits.custody_octets = 10 * 522), false),
    ] {
        let mut world = World::with_box(limits);
        world.relay.attach(SessionId(2), identity(2));
        for number in 0..10 {
            world.deposit(1, number, &[0; 10], true);
        }
        world.take(1);
        world.deposit(1, 10, b"", true);
        assert_eq!(world.custody(1), [(VarInt::from_u32(10), Custody::Full)]);
        assert_eq!(matches!(world.deposit(2, 0, b"", true), RelayEvent::Deposited { .. }), by_another);
        // What is taken makes room.
        for (number, _) in world.pushed(1) {
            world.verdict(1, number, Verdict::Done);
        }
        assert!(matches!(world.deposit(1, 11, &[0; 10], true), RelayEvent::Deposited { .. }));
    }
}

#[test]
fn a_box_takes_deposits_of_those_whom_its_owner_lets_in() {
    let mut world = World::new(Limits::default());
    for client in 1..=3 {
        world.relay.attach(SessionId(client), identity(client));
    }
    world.register(1, BOX, Senders::Only(SenderList::new(&[identity(2).0]).unwrap()));
    world.deposit(2, 0, b"welcome", true);
    world.deposit(3, 0, b"unwelcome", true);
    assert_eq!(world.custody(3), [(VarInt::from_u32(0), Custody::Refused)]);
    let (number, seconds) = (VarInt::from_u32(1), VarInt::from_u32(0));
    for route in [Route::HERE, Route::to_box(BoxName([8; 16]))] {
        world.handle(3, HopFrame::Deposit { number, seconds, route, frame: b"nowhere" });
        assert_eq!(world.custody(3), [(number, Custody::Refused)], "there is no way to tell which boxes exist");
    }
    assert_eq!(world.pushed(1).len(), 1);
}

#[test]
fn a_recipient_that_does_not_answer_gets_so_much_and_no_more() {
    let mut world = World::with_box(Limits::default());
    for number in 0..100 {
        world.deposit(1, number, b"frame", true);
    }
    let pushed = world.pushed(1);
    assert_eq!(pushed.len(), 64);
    world.verdict(1, pushed[5].0, Verdict::Done);
    assert_eq!(world.pushed(1).len(), 1, "a verdict makes room for one more");
    // What was pushed to a session that ended is pushed to the next one, in the same order.
    world.relay.detach(SessionId(1));
    world.relay.attach(SessionId(3), identity(1));
    assert_eq!(world.pushed(3).len(), 64);
}

/// A sender and a recipient that are never attached at the same time, and crash; and a relay that crashes.
struct Story {
    world: World,
    outbox: Outbox,
    outbox_disk: MemoryStore,
    inbox: Inbox,
    inbox_disk: MemoryStore,
    runs: u8,
    next_deposit: u32,
    sent: u32,
    committed: Vec<u32>,
    unreported: bool,
}

const SENDER: u64 = 1;
const RECIPIENT: u64 = 2;
const SENDERS_BOX: BoxName = BoxName([1; 16]);
const RECIPIENTS_BOX: BoxName = BoxName([2; 16]);

impl Story {
    fn new() -> Self {
        let mut world = World::new(Limits::default());
        for (client, name) in [(SENDER, SENDERS_BOX), (RECIPIENT, RECIPIENTS_BOX)] {
            world.relay.attach(SessionId(client), identity(client));
            world.register(client, name, Senders::Attached);
            world.relay.detach(SessionId(client));
        }
        Self {
            world,
            outbox: Outbox::new(identity(RECIPIENT), Instance([0; 4])),
            outbox_disk: MemoryStore::default(),
            inbox: Inbox::new(identity(SENDER)),
            inbox_disk: MemoryStore::default(),
            runs: 0,
            next_deposit: 0,
            sent: 0,
            committed: Vec::new(),
            unreported: false,
        }
    }

    /// `frame` to `name`; whether the relay has it on disk.
    fn deposit(&mut self, client: u64, name: BoxName, frame: &[u8], relay_crashes: bool) -> bool {
        self.next_deposit += 1;
        let (number, seconds) = (VarInt::from_u32(self.next_deposit), VarInt::from_u32(0));
        let event = self.world.handle(client, HopFrame::Deposit { number, seconds, route: Route::to_box(name), frame });
        let RelayEvent::Deposited { deposit, batch } = event else { return false };
        if relay_crashes {
            // The write completes or not; nobody is told.
            if self.next_deposit.is_multiple_of(2) {
                self.world.disk.commit(&[batch]).unwrap();
            }
            self.world.restart();
            self.world.relay.attach(SessionId(client), identity(client));
            return false;
        }
        self.world.disk.commit(&[batch]).unwrap();
        let World { relay, sent, .. } = &mut self.world;
        relay.deposited(deposit, |session, frame| keep(sent, session, frame));
        self.world.custody(client).iter().any(|(_, outcome)| matches!(outcome, Custody::Kept { .. }))
    }

    /// The sender comes, sends some more, leaves everything at the relay, and takes what there is for it.
    fn sender_comes(&mut self, messages: u8, crashes_after: Option<u8>) {
        self.world.relay.attach(SessionId(SENDER), identity(SENDER));
        for _ in 0..messages {
            let (id, effects) =
                self.outbox.push(self.sent.to_be_bytes().to_vec(), SendOptions::default(), true).unwrap();
            self.outbox_disk.commit(&[effects.batch]).unwrap();
            self.outbox.written(id);
            self.sent += 1;
        }
        let mut steps = crashes_after.map_or(u32::MAX, u32::from);
        while let Some(message) = self.outbox.poll_send(self.world.now, Lane::Stored) {
            let (id, lowest, unwanted) = (message.id, message.lowest, message.unwanted);
            let [number, lowest, unwanted] = [id.number, lowest, unwanted].map(u32::to_be_bytes);
            let frame = [&id.instance.0, &number, &lowest, &unwanted, message.body].concat();
            let crash = crashes_after.is_some() && steps % 7 == 3;
            if self.deposit(SENDER, RECIPIENTS_BOX, &frame, crash) && steps > 0 {
                let batch = self.outbox.in_custody(self.world.now, id, SECOND * 1_000_000);
                self.outbox_disk.commit(&[batch]).unwrap();
            } else {
                self.outbox.redirect();
            }
            let Some(left) = steps.checked_sub(1) else { break };
            steps = left;
        }
        for (number, frame) in self.world.pushed(SENDER) {
            let instance = Instance(frame[..4].try_into().unwrap());
            let mark = u32::from_be_bytes(frame[4..8].try_into().unwrap());
            let committed = Committed { instance, mark, bitmap: &frame[8..], held: &[] };
            let delivered = self.outbox.committed(self.world.now, &committed);
            self.outbox_disk.commit(&[delivered.batch]).unwrap();
            self.world.verdict(SENDER, number, Verdict::Done);
        }
        if crashes_after.is_some() {
            self.runs += 1;
            self.outbox = Outbox::new(identity(RECIPIENT), Instance([self.runs; 4]));
            let outbox = &mut self.outbox;
            self.outbox_disk.load(Table::Outbox, &mut |key, value| assert!(outbox.load(key, value).is_some())).unwrap();
        }
        self.world.relay.detach(SessionId(SENDER));
    }

    /// The recipient comes, takes what there is, commits so many, says so, and leaves.
    fn recipient_comes(&mut self, commits: u8, crashes: bool) {
        self.world.relay.attach(SessionId(RECIPIENT), identity(RECIPIENT));
        self.inbox.rewind();
        let mut left = u32::from(commits);
        let mut numbers: Vec<(VarInt, MessageId)> = Vec::new();
        loop {
            let pushed = self.world.pushed(RECIPIENT);
            if pushed.is_empty() {
                break;
            }
            for (number, frame) in pushed {
                let id = MessageId {
                    instance: Instance(frame[..4].try_into().unwrap()),
                    number: u32::from_be_bytes(frame[4..8].try_into().unwrap()),
                };
                let lowest = u32::from_be_bytes(frame[8..12].try_into().unwrap());
                let unwanted = u32::from_be_bytes(frame[12..16].try_into().unwrap());
                self.inbox.handle_message(id, lowest, unwanted, None, &frame[16..]);
                numbers.push((number, id));
            }
            while let Some(delivery) = self.inbox.poll_deliver() {
                self.inbox_disk.commit(&[delivery.before]).unwrap();
                if left == 0 {
                    break;
                }
                left -= 1;
                let (batch, marks) = self.inbox.done(delivery.id).unwrap();
                self.inbox_disk.commit(&[batch]).unwrap();
                self.inbox.written(delivery.id.instance, marks);
                self.committed.push(u32::from_be_bytes(delivery.body.try_into().unwrap()));
                self.unreported = true;
            }
            let mut reported = Vec::new();
            let crowded = numbers.len() >= 8;
            for (number, id) in std::mem::take(&mut numbers) {
                // As the driver does.
                let verdict = match self.inbox.holding(id) {
                    Holding::Committed => Verdict::Done,
                    Holding::Waiting if crowded && self.inbox.is_blocked(id) => Verdict::Later,
                    Holding::Waiting => {
                        numbers.push((number, id));
                        continue;
                    }
                    Holding::Nothing => Verdict::Later,
                };
                // A committed message is acknowledged end to end before the relay may forget it.
                if verdict == Verdict::Done && !reported.contains(&id.instance) {
                    let committed = self.inbox.committed(id.instance).unwrap();
                    let report = [&id.instance.0, committed.mark.to_be_bytes().as_slice(), committed.bitmap].concat();
                    assert!(self.deposit(RECIPIENT, SENDERS_BOX, &report, false));
                    reported.push(id.instance);
                }
                self.world.verdict(RECIPIENT, number, verdict);
            }
        }
        if crashes {
            self.inbox = Inbox::new(identity(SENDER));
            let inbox = &mut self.inbox;
            self.inbox_disk.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).unwrap();
        }
        self.world.relay.detach(SessionId(RECIPIENT));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Sender(u8, Option<u8>),
    Recipient(u8, bool),
    RelayCrash,
    Wait(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..60, proptest::option::weighted(0.3, 0_u8..40)).prop_map(|(messages, crash)| Step::Sender(messages, crash)),
        4 => (0_u8..100, any::<bool>()).prop_map(|(commits, crash)| Step::Recipient(commits, crash)),
        2 => Just(Step::RelayCrash),
        3 => (0_u32..100_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever crashes when: every message is committed once and in order, the sender comes to know it, and nothing is left
    /// at the relay.
    #[test]
    fn two_that_never_meet(steps in steps()) {
        let mut story = Story::new();
        for step in steps {
            match step {
                Step::Sender(messages, crash) => story.sender_comes(messages, crash),
                Step::Recipient(commits, crash) => story.recipient_comes(commits, crash),
                Step::RelayCrash => story.world.restart(),
                Step::Wait(seconds) => story.world.now = story.world.now.after(SECOND * seconds),
            }
        }
        for _ in 0..6 {
            story.world.now = story.world.now.after(SECOND * 100);
            story.sender_comes(0, None);
            story.recipient_comes(255, false);
        }
        for _ in 0..40 {
            story.world.now = story.world.now.after(SECOND * 100);
            story.recipient_comes(255, false);
            story.sender_comes(0, None);
        }
        prop_assert_eq!(story.committed, (0..story.sent).collect::<Vec<_>>());
        prop_assert!(story.outbox.is_empty(), "{} left at the sender", story.outbox.len());
        prop_assert_eq!(story.world.relay.custody(), (0, 0));
    }
}

/// The head of a queue that could not be taken at first is not kept out by what follows it.
#[test]
fn what_came_first_takes_the_place_of_what_came_last() {
    let mut world = World::with_box(Limits::default());
    for number in 0..200 {
        world.deposit(1, number, &number.to_be_bytes(), true);
    }
    let first = world.pushed(1);
    assert_eq!(first.len(), 64);
    // The recipient waits for the first one before it says anything of the others.
    world.verdict(1, first[0].0, Verdict::Later);
    assert_eq!(world.pushed(1).len(), 1, "its place is taken");
    world.now = world.now.after(SECOND * 5);
    let again = world.pushed(1);
    assert_eq!(again.iter().map(|(_, frame)| frame.clone()).collect::<Vec<_>>(), [0_u32.to_be_bytes()]);
    // The verdict on one that had to make room is of no effect.
    let before = world.relay.custody().0;
    world.verdict(1, again[0].0, Verdict::Done);
    assert_eq!(world.relay.custody().0, before - 1);
}

#[test]
fn one_depositor_does_not_hold_up_another() {
    let mut world = World::with_box(Limits::default());
    for client in 2..=3 {
        world.relay.attach(SessionId(client), identity(client));
    }
    for number in 0..100 {
        world.deposit(2, number, b"never taken", true);
    }
    assert_eq!(world.pushed(1).len(), 64);
    world.deposit(3, 0, b"of another", true);
    assert_eq!(world.pushed(1).into_iter().map(|(_, frame)| frame).collect::<Vec<_>>(), [b"of another"]);
}

#[test]
fn a_push_that_comes_late_is_not_taken_for_another() {
    let mut world = World::with_box(Limits::default());
    world.deposit(1, 0, b"first", true);
    let late = world.relay.poll_push(world.now).unwrap();
    // The client attaches again before the row was read.
    world.relay.attach(SessionId(1), identity(1));
    let row = world.disk.get(Table::Custody, &late.id.key()).unwrap();
    let World { relay, sent, now, .. } = &mut world;
    let row: Result<_, ()> = Ok(row.as_deref());
    relay.push(*now, late, row, |session, frame| {
        keep(sent, session, frame);
        true
    });
    assert_eq!(world.pushed(1).len(), 1, "in the new session, once");
    // A store that fails loses nothing.
    world.relay.attach(SessionId(1), identity(1));
    let push = world.relay.poll_push(world.now).unwrap();
    let World { relay, now, .. } = &mut world;
    relay.push(*now, push, Err(()), |_, _| true);
    world.now = world.now.after(SECOND * 5);
    assert_eq!(world.pushed(1).len(), 1);
}

/// What was superseded or has expired leaves a gap between messages in custody: nobody waits for it.
#[test]
fn gaps_in_a_box_hold_nothing_up() {
    let mut story = Story::new();
    let push = |story: &mut Story, body: u32, options: SendOptions| {
        let (id, effects) = story.outbox.push(body.to_be_bytes().to_vec(), options, true).unwrap();
        story.outbox_disk.commit(&[effects.batch]).unwrap();
        story.outbox.written(id);
    };
    let latest = || {
        let mut options = SendOptions::default();
        options.supersedes = Some(b"level".to_vec());
        options
    };
    push(&mut story, 0, SendOptions::default());
    push(&mut story, 77, latest());
    push(&mut story, 1, latest());
    story.sender_comes(0, None);
    let mut options = SendOptions::default();
    options.expires = Some(story.world.now.after(SECOND * 10));
    push(&mut story, 78, options);
    push(&mut story, 2, SendOptions::default());
    story.sender_comes(0, None);
    // One expires at the sender. Its copy at the relay is older than what says that it is not wanted, and may still come.
    story.world.now = story.world.now.after(SECOND * 20);
    let expired = story.outbox.expire(story.world.now);
    assert_eq!(expired.ids.len(), 1);
    story.outbox_disk.commit(&[expired.batch]).unwrap();
    story.sender_comes(0, None);
    story.recipient_comes(255, false);
    assert!(story.committed.ends_with(&[2]), "{:?}", story.committed);
    assert!(story.committed.starts_with(&[0, 1]), "{:?}", story.committed);
}

/// What says that nobody needs to wait for the first of two hundred lies behind all of them.
#[test]
fn a_gap_at_the_head_of_a_long_box_is_found_out_about() {
    let mut story = Story::new();
    let mut options = SendOptions::default();
    options.expires = Some(story.world.now.after(SECOND * 10));
    let (id, effects) = story.outbox.push(99_u32.to_be_bytes().to_vec(), options, true).unwrap();
    story.outbox_disk.commit(&[effects.batch]).unwrap();
    story.outbox.written(id);
    // The relay has never had it: it expires before the sender comes.
    story.world.now = story.world.now.after(SECOND * 5);
    story.sender_comes(200, None);
    story.world.forget_first();
    story.world.now = story.world.now.after(SECOND * 10);
    let expired = story.outbox.expire(story.world.now);
    assert_eq!(expired.ids, [id]);
    story.outbox_disk.commit(&[expired.batch]).unwrap();
    story.sender_comes(0, None);
    for _ in 0..20 {
        story.world.now = story.world.now.after(SECOND * 10);
        story.recipient_comes(255, false);
    }
    assert_eq!(story.committed, (0..200).collect::<Vec<_>>());
}

/// A message that the relay has not taken holds back what comes after it, and nothing else.
#[test]
fn nothing_overtakes_what_a_relay_has_refused() {
    let mut outbox = Outbox::new(identity(2), Instance([0; 4]));
    let now = Timestamp::from_micros(1);
    let ids: Vec<MessageId> =
        (0..3).map(|_| outbox.push(vec![0; 10], SendOptions::default(), false).unwrap().0).collect();
    let due = |outbox: &mut Outbox, now| outbox.poll_send(now, Lane::Stored).map(|message| message.id);
    assert_eq!((due(&mut outbox, now), due(&mut outbox, now)), (Some(ids[0]), Some(ids[1])));
    outbox.not_kept(now, ids[0], SECOND * 30);
    assert_eq!(due(&mut outbox, now), None);
    assert_eq!(outbox.poll_timeout(Lane::Stored), Some(now.after(SECOND * 30)), "the second waits behind it");
    let later = now.after(SECOND * 30);
    assert_eq!((due(&mut outbox, later), due(&mut outbox, later)), (Some(ids[0]), None), "alone, until it is taken");
    outbox.in_custody(later, ids[0], SECOND * 1000);
    assert_eq!((due(&mut outbox, later), due(&mut outbox, later)), (Some(ids[1]), Some(ids[2])));
}

#[test]
fn thousands_wait_in_a_box_beyond_the_window_of_numbers() {
    let mut story = Story::new();
    for _ in 0..12 {
        story.sender_comes(250, None);
    }
    assert_eq!(story.world.relay.custody().0, 3000);
    for _ in 0..60 {
        story.world.now = story.world.now.after(SECOND * 10);
        story.recipient_comes(255, false);
    }
    assert_eq!(story.committed, (0..3000).collect::<Vec<_>>());
    story.sender_comes(0, None);
    for _ in 0..100 {
        story.world.now = story.world.now.after(SECOND * 10);
        story.sender_comes(0, None);
    }
    assert!(story.outbox.is_empty(), "{} left", story.outbox.len());
    assert_eq!(story.world.relay.custody().0, 0);
}

#[test]
fn a_batch_of_nothing_changes_nothing() {
    let mut world = World::with_box(Limits::default());
    let (count, batch) = world.relay.handle_timeout(world.now);
    assert_eq!((count, batch), (0, Batch::default()));
    assert_eq!(world.relay.poll_timeout(), None);
}

/// Whoever names more senders for its box takes what it could not take before; what is under way is not pushed twice.
#[test]
fn what_was_left_for_later_comes_again_when_its_owner_admits_more() {
    let mut world = World::with_box(Limits::default());
    world.relay.attach(SessionId(2), identity(2));
    world.deposit(2, 1, b"refused", true);
    world.deposit(2, 2, b"under way", true);
    let pushed = world.pushed(1);
    assert_eq!(pushed.len(), 2);
    world.verdict(1, pushed[0].0, Verdict::Later);
    assert!(world.pushed(1).is_empty());
    let admitted = [identity(2).0];
    world.register(1, BOX, Senders::Only(SenderList::new(&admitted).unwrap()));
    let again = world.pushed(1);
    assert_eq!(again.iter().map(|(_, frame)| frame.as_slice()).collect::<Vec<_>>(), [b"refused"]);
}
