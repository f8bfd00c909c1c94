//! Handshakes whose flights are letters: two that are never there at once come to a session, whatever the relay in between does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use sealway_channel::{
    Config, Deposit, Endpoint, FrameError, PathId, PrekeyKind, Received, Record, SendError, Source, StateError,
};
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy, Prekey, UnverifiedPrekey};
use sealway_testkit::{
    audit::Audited,
    entropy::{Seeded, seeded_provider},
};
use sealway_vault::{Algorithm, SoftwareVault, Vault};
use sealway_wire::{IdentityId, Instance, Letter, RecordHeader, Timestamp, content::Reliable, letter::MAX_LETTER};

type TestVault = Arc<SoftwareVault<Audited<RustCrypto<Seeded>>>>;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const RELAY: Source = Source::proven(9);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A row of the disk, and how its endpoint is told that it is there.
type Row = (Vec<u8>, Option<Vec<u8>>, Written);

#[derive(Clone)]
enum Written {
    Session(IdentityId, sealway_wire::Cid),
    Prekey(sealway_wire::PrekeyId),
    Handshake(IdentityId, u64),
}

struct Machine {
    vault: TestVault,
    owner: Owner,
    card: Card,
    endpoint: Endpoint<TestVault>,
    /// By table and key: what has reached the disk.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What has not yet, in its order.
    unwritten: VecDeque<Row>,
    admitted: Vec<IdentityId>,
    received: Vec<Vec<u8>>,
    starts: u8,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut vault = SoftwareVault::new(Audited(seeded_provider(seed)));
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let vault = Arc::new(vault);
        let card = owner.card(&vault, &CardParts::default()).unwrap();
        let mut machine = Self {
            endpoint: endpoint(&vault, &owner, 0),
            vault,
            owner,
            card,
            disk: BTreeMap::new(),
            unwritten: VecDeque::new(),
            admitted: Vec::new(),
            received: Vec::new(),
            starts: 0,
        };
        machine.look_after(NOW);
        machine.sync(NOW, usize::MAX);
        machine
    }

    fn id(&self) -> IdentityId {
        self.card.id()
    }

    fn admit(&mut self, other: &IdentityId) {
        self.admitted.push(*other);
        self.endpoint.admit(&Policy::ids([*other]));
    }

    /// Does what is due, and queues what is to be written.
    fn look_after(&mut self, now: Timestamp) {
        self.endpoint.handle_timeout(now);
        let row = |table: u8, key: &[u8]| [&[table], key].concat();
        while let Some(saved) = self.endpoint.poll_saved() {
            let key = row(0, &[saved.peer.0.as_slice(), &saved.session.0].concat());
            self.unwritten.push_back((key, saved.state, Written::Session(saved.peer, saved.session)));
        }
        while let Some(saved) = self.endpoint.poll_prekey() {
            self.unwritten.push_back((row(1, &saved.id.0), saved.state, Written::Prekey(saved.id)));
        }
        while let Some(saved) = self.endpoint.poll_handshake() {
            let written = Written::Handshake(saved.peer, saved.number);
            self.unwritten.push_back((row(2, &saved.peer.0), saved.state, written));
        }
        while self.endpoint.poll_event().is_some() {}
    }

    /// Has the first `count` of what is queued reach the disk.
    fn sync(&mut self, now: Timestamp, count: usize) {
        for _ in 0..count {
            let Some((key, state, written)) = self.unwritten.pop_front() else { break };
            let is_there = state.is_some();
            match state {
                Some(state) => drop(self.disk.insert(key, state)),
                None => drop(self.disk.remove(&key)),
            }
            match written {
                Written::Session(peer, session) if is_there => self.endpoint.written(&peer, session),
                Written::Prekey(id) if is_there => self.endpoint.prekey_written(now, id),
                Written::Handshake(peer, number) if is_there => self.endpoint.handshake_written(&peer, number),
                _ => {}
            }
            self.look_after(now);
        }
    }

    /// Ends here and begins anew, with what is on the disk.
    fn restart(&mut self, now: Timestamp) {
        self.unwritten.clear();
        self.starts += 1;
        self.endpoint = endpoint(&self.vault, &self.owner, self.starts);
        self.endpoint.admit(&Policy::ids(self.admitted.iter().copied()));
        for (key, state) in &self.disk {
            match key[0] {
                0 => drop(self.endpoint.restore(now, state).unwrap()),
                1 => self.endpoint.restore_prekey(now, state).unwrap(),
                _ => {
                    let peer = IdentityId(key[1..].try_into().unwrap());
                    self.endpoint.restore_handshake(now, peer, state).unwrap();
                }
            }
        }
        self.look_after(now);
    }

    fn settle(&mut self, now: Timestamp) {
        self.look_after(now);
        self.sync(now, usize::MAX);
    }

    fn prekey(&self) -> Option<Prekey> {
        let (_, statement) = self.endpoint.published_prekey().unwrap()?;
        let unverified = UnverifiedPrekey::decode(&statement).unwrap();
        Some(unverified.verify(self.vault.provider(), &self.owner.id()).unwrap())
    }

    /// The flight that is due for `peer`, and its number.
    fn flight(&mut self, now: Timestamp, peer: &Self) -> Option<(Vec<u8>, u64)> {
        let id = peer.id();
        let due = self.endpoint.flight_due(now, &id)?;
        let mut out = vec![0; MAX_LETTER];
        let prekey = peer.prekey();
        let sealed = self.endpoint.seal_flight(now, &id, prekey.as_ref(), &PayloadParts::default(), &mut out);
        out.truncate(sealed.ok()?);
        assert_eq!(due.is_letter, Letter::is_letter(&out));
        Some((out, due.number))
    }

    /// The same, which a relay takes.
    fn leave(&mut self, now: Timestamp, peer: &Self) -> Option<Vec<u8>> {
        self.settle(now);
        let (frame, number) = self.flight(now, peer)?;
        self.endpoint.flight_left(now, &peer.id(), number);
        Some(frame)
    }

    fn take(&mut self, now: Timestamp, frame: &[u8]) -> Result<(), FrameError> {
        let mut frame = frame.to_vec();
        let record = if Letter::is_letter(&frame) {
            self.endpoint.open_letter(now, RELAY, &mut frame)?.record
        } else {
            match self.endpoint.handle_frame(now, PathId(0), RELAY, &mut frame)? {
                Received::Record { record, .. } => Some(record),
                Received::Nothing => None,
            }
        };
        if let Some(Record::Message { body, .. }) = record {
            self.received.push(body.to_vec());
        }
        self.look_after(now);
        Ok(())
    }

    fn may_deposit(&mut self, now: Timestamp, peer: &IdentityId) -> bool {
        let channel = self.endpoint.channel_with(peer);
        channel.is_some_and(|channel| self.endpoint.may_deposit(now, channel))
    }

    /// A message under the session with a peer.
    fn message(&mut self, now: Timestamp, peer: &IdentityId, body: &[u8]) -> Result<Vec<u8>, SendError> {
        let channel = self.endpoint.channel_with(peer).ok_or(SendError::UnknownChannel)?;
        let mut out = vec![0; 256];
        let message = Reliable { instance: None, number: 1, lowest: 0, unwanted: 0, part: None, body };
        let len = self.endpoint.seal_deposit(now, channel, Deposit::Message(message), &mut out)?;
        out.truncate(len);
        Ok(out)
    }
}

fn endpoint(vault: &TestVault, owner: &Owner, starts: u8) -> Endpoint<TestVault> {
    let mut config = Config::new(Instance([starts; 4]));
    config.keeps_state = true;
    let mut endpoint = Endpoint::new(vault.clone(), owner.clone(), config);
    endpoint.make_prekeys(PrekeyKind::Hybrid);
    endpoint
}

/// An initiator, which has the other's card, and that other.
fn pair(seed: u64) -> (Machine, Machine) {
    sealway_testkit::audit::begin();
    let (mut initiator, mut responder) = (Machine::new(seed), Machine::new(seed + 1_000_000));
    initiator.admit(&responder.id());
    responder.admit(&initiator.id());
    (initiator, responder)
}

/// Both exchange messages under a session that has no live lane.
fn talk(now: Timestamp, one: &mut Machine, other: &mut Machine) {
    for body in [b"there".as_slice(), b"and"] {
        let frame = one.message(now, &other.id(), body).unwrap();
        assert!(RecordHeader::is_data(frame[0]));
        other.take(now, &frame).unwrap();
        assert_eq!(other.received.last().unwrap(), body);
        other.settle(now);
    }
    let frame = other.message(now, &one.id(), b"back").unwrap();
    one.take(now, &frame).unwrap();
    assert_eq!(one.received.last().unwrap(), b"back");
}

#[test]
fn two_that_are_never_there_at_once_come_to_a_session() {
    // Specification: [M60].
    for restarts in [false, true] {
        let (mut initiator, mut responder) = pair(1);
        let (own, peer) = (initiator.id(), responder.id());
        let mut now = NOW;
        initiator.endpoint.begin_by_letter(now, &responder.card).unwrap();
        assert!(initiator.flight(now, &responder).is_none(), "not before it is written");
        let mut sizes = Vec::new();
        for _ in 0..2 {
            for is_back in [false, true] {
                let (from, to) =
                    if is_back { (&mut responder, &mut initiator) } else { (&mut initiator, &mut responder) };
                let frame = from.leave(now, to).expect("a flight");
                assert!(from.flight(now, to).is_none(), "it has left");
                sizes.push(frame.len());
                // Each is gone when the other comes.
                if restarts {
                    from.restart(now);
                    to.restart(now.after(DAY));
                }
                now = now.after(DAY);
                to.take(now, &frame).unwrap();
                assert!(to.flight(now, from).is_none(), "not before it is written");
                to.settle(now);
            }
        }
        assert!(initiator.may_deposit(now, &peer));
        assert!(!responder.may_deposit(now, &own), "it has not heard of the initiator under the session");
        let start = initiator.leave(now, &responder).expect("START");
        responder.take(now, &start).unwrap();
        responder.settle(now);
        sizes.push(start.len());
        let payload = initiator.owner.payload(&PayloadParts::default()).unwrap().len();
        // A letter has 1191 octets, the payload and the type around what it carries; a record of the stored lane 25.
        let letter = 1191 + payload + 1;
        let start = 25 + 4 + 8 + 1;
        // Only the initiator has restarted since it has the session.
        let of_initiator = if restarts { start + 8 } else { start };
        assert_eq!(sizes, [letter + 1246, letter + 1145, letter + 77 + payload, start, of_initiator]);
        talk(now, &mut initiator, &mut responder);
        initiator.settle(now);
        for machine in [&mut initiator, &mut responder] {
            machine.restart(now);
        }
        talk(now, &mut responder, &mut initiator);
        // All is over: nothing is left to be said, also not after a day.
        let later = now.after(DAY * 2);
        assert!(initiator.leave(later, &responder).is_none() && responder.leave(later, &initiator).is_none());
        initiator.endpoint.begin_by_letter(later, &responder.card).unwrap();
        assert!(initiator.leave(later, &responder).is_none(), "there is a session");
    }
}

/// The flights of a handshake up to where the initiator has the session.
fn flights(now: Timestamp, initiator: &mut Machine, responder: &mut Machine) -> [Vec<u8>; 4] {
    initiator.endpoint.begin_by_letter(now, &responder.card).unwrap();
    let first = initiator.leave(now, responder).unwrap();
    responder.take(now, &first).unwrap();
    let second = responder.leave(now, initiator).unwrap();
    initiator.take(now, &second).unwrap();
    let third = initiator.leave(now, responder).unwrap();
    responder.take(now, &third).unwrap();
    let start = responder.leave(now, initiator).unwrap();
    initiator.take(now, &start).unwrap();
    initiator.settle(now);
    [first, second, third, start]
}

#[test]
fn what_was_lost_is_left_again_after_a_day_in_another_run_and_when_the_peer_asks() {
    let (mut initiator, mut responder) = pair(2);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    let first = initiator.leave(NOW, &responder).unwrap();
    assert!(initiator.leave(NOW.after(DAY - HOUR), &responder).is_none());
    assert_eq!(initiator.endpoint.flight_due_at(&responder.id()), Some(NOW.after(DAY)));
    let again = initiator.leave(NOW.after(DAY), &responder).expect("after a day");
    assert_ne!(first, again, "the letter is another");
    initiator.restart(NOW.after(DAY));
    assert!(initiator.leave(NOW.after(DAY), &responder).is_some(), "in another run");
    // Each letter with S1.1 gets the S1.2 that there is, once.
    let mut answers = Vec::new();
    for letter in [&first, &again] {
        responder.take(NOW, letter).unwrap();
        answers.push(responder.leave(NOW, &initiator).expect("asked for"));
        responder.take(NOW, letter).unwrap();
        assert!(responder.leave(NOW, &initiator).is_none());
    }
    // Whichever comes, and however often: there is one session of it.
    initiator.take(NOW, &answers[1]).unwrap();
    let third = initiator.leave(NOW, &responder).unwrap();
    initiator.take(NOW, &answers[0]).unwrap();
    assert!(initiator.leave(NOW, &responder).is_none());
    responder.take(NOW, &third).unwrap();
    let lost = responder.leave(NOW, &initiator).unwrap();
    assert!(RecordHeader::is_data(lost[0]));
    responder.take(NOW, &third).unwrap();
    let start = responder.leave(NOW, &initiator).expect("S1.3 has come again");
    initiator.take(NOW, &start).unwrap();
    initiator.settle(NOW);
    // The initiator's START is lost: the responder says its own again, and is answered.
    drop(initiator.leave(NOW, &responder).unwrap());
    assert!(initiator.leave(NOW.after(DAY * 3), &responder).is_none());
    let start = responder.leave(NOW.after(DAY), &initiator).expect("after a day");
    initiator.take(NOW, &start).unwrap();
    let answer = initiator.leave(NOW, &responder).expect("the peer has not heard of us");
    responder.take(NOW, &answer).unwrap();
    responder.settle(NOW);
    talk(NOW, &mut responder, &mut initiator);
}

#[test]
fn an_old_first_message_displaces_nothing() {
    // Specification: [M61].
    let (mut initiator, mut responder) = pair(3);
    let old = flights(NOW, &mut initiator, &mut responder);
    // The initiator loses everything but its identity, and begins anew.
    initiator.disk.clear();
    initiator.restart(NOW);
    initiator.settle(NOW);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    let first = initiator.leave(NOW, &responder).unwrap();
    responder.take(NOW, &first).unwrap();
    let second = responder.leave(NOW, &initiator).unwrap();
    // The relay repeats what was before. It opens, and does nothing: also after a restart.
    for restarts in [false, true] {
        if restarts {
            responder.restart(NOW);
        }
        responder.take(NOW, &old[0]).unwrap();
        responder.take(NOW, &old[2]).unwrap();
        // The session of the old S1.3 is there: START is said again on it, once. What each run leaves is S1.2.
        assert!(RecordHeader::is_data(responder.leave(NOW, &initiator).expect("START")[0]));
        let left = responder.leave(NOW, &initiator);
        assert_eq!(left.map(|frame| Letter::is_letter(&frame)), restarts.then_some(true));
    }
    initiator.take(NOW, &second).unwrap();
    let third = initiator.leave(NOW, &responder).unwrap();
    responder.take(NOW, &third).unwrap();
    let start = responder.leave(NOW, &initiator).unwrap();
    initiator.take(NOW, &start).unwrap();
    initiator.settle(NOW);
    talk(NOW, &mut initiator, &mut responder);
}

#[test]
fn of_two_that_begin_the_lower_ones_handshake_goes_on() {
    // Specification: [M62].
    let (mut lower, mut higher) = pair(4);
    if higher.id() < lower.id() {
        std::mem::swap(&mut lower, &mut higher);
    }
    lower.endpoint.begin_by_letter(NOW, &higher.card).unwrap();
    higher.endpoint.begin_by_letter(NOW, &lower.card).unwrap();
    let (of_lower, of_higher) = (lower.leave(NOW, &higher).unwrap(), higher.leave(NOW, &lower).unwrap());
    lower.take(NOW, &of_higher).unwrap();
    higher.take(NOW, &of_lower).unwrap();
    assert!(lower.leave(NOW, &higher).is_none(), "its own goes on");
    let second = higher.leave(NOW, &lower).expect("its own is given up");
    lower.take(NOW, &second).unwrap();
    let third = lower.leave(NOW, &higher).unwrap();
    higher.take(NOW, &third).unwrap();
    let start = higher.leave(NOW, &lower).unwrap();
    lower.take(NOW, &start).unwrap();
    lower.settle(NOW);
    talk(NOW, &mut lower, &mut higher);
}

#[test]
fn who_is_not_admitted_gets_no_handshake_and_begins_none() {
    let (mut initiator, mut responder) = pair(6);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    let first = initiator.leave(NOW, &responder).unwrap();
    responder.endpoint.set_accepted(Policy::nobody());
    responder.take(NOW, &first).unwrap_err();
    assert!(responder.leave(NOW, &initiator).is_none());
    responder.endpoint.begin_by_letter(NOW, &initiator.card).unwrap();
    responder.settle(NOW);
    assert!(responder.endpoint.flight_due(NOW, &initiator.id()).is_none());
    // Taken off the list while a handshake is under way, it gets nothing more.
    responder.endpoint.set_accepted(Policy::ids([initiator.id()]));
    responder.take(NOW, &first).unwrap();
    responder.settle(NOW);
    responder.endpoint.set_accepted(Policy::nobody());
    assert!(responder.leave(NOW, &initiator).is_none());
}

#[test]
fn what_is_kept_of_a_handshake_opens_for_its_owner_and_its_peer_alone() {
    let (mut initiator, mut responder) = pair(7);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    initiator.settle(NOW);
    let state = initiator.disk.iter().find(|(key, _)| key[0] == 2).unwrap().1.clone();
    let (own, peer) = (initiator.id(), responder.id());
    assert_eq!(responder.endpoint.restore_handshake(NOW, own, &state), Err(StateError::Rejected));
    assert_eq!(initiator.endpoint.restore_handshake(NOW, own, &state), Err(StateError::Rejected), "of another peer");
    for at in 0..state.len() {
        let mut damaged = state.clone();
        damaged[at] ^= 1;
        assert!(initiator.endpoint.restore_handshake(NOW, peer, &damaged).is_err());
    }
    for len in 0..state.len() {
        assert!(initiator.endpoint.restore_handshake(NOW, peer, &state[..len]).is_err());
    }
    initiator.endpoint.restore_handshake(NOW, peer, &state).unwrap();
}

#[test]
fn a_handshake_that_leads_to_nothing_makes_room_for_another() {
    let (mut initiator, responder) = pair(8);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    let first = initiator.leave(NOW, &responder).unwrap();
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    assert!(initiator.leave(NOW, &responder).is_none(), "one at a time");
    let later = NOW.after(DAY * 14);
    initiator.settle(later);
    assert!(initiator.leave(later, &responder).is_none(), "its time is over");
    initiator.endpoint.begin_by_letter(later, &responder.card).unwrap();
    assert_ne!(initiator.leave(later, &responder).expect("another"), first);
}

#[test]
fn a_disk_that_fails_holds_a_flight_back_until_it_works() {
    let (mut initiator, responder) = pair(9);
    initiator.endpoint.begin_by_letter(NOW, &responder.card).unwrap();
    let peer = responder.id();
    for _ in 0..3 {
        initiator.look_after(NOW);
        let (_, _, written) = initiator.unwritten.pop_front().expect("it is tried");
        let Written::Handshake(_, number) = written else { panic!("a handshake") };
        initiator.endpoint.handshake_not_written(&peer, number);
        assert!(initiator.endpoint.flight_due(NOW, &peer).is_none());
    }
    assert!(initiator.leave(NOW, &responder).is_some());
}

/// What a relay and two disks may do to a handshake by letter.
struct World {
    random: Seeded,
    now: Timestamp,
    machines: [Machine; 2],
    /// What the relay has for each.
    boxes: [Vec<Vec<u8>>; 2],
    /// All that was ever left for each.
    past: [Vec<Vec<u8>>; 2],
    has_card: [bool; 2],
    restarts: u32,
    repeated: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let (one, two) = pair(1000 + seed);
        let random = Seeded::new(seed);
        let both = random.below(2) == 0;
        Self {
            random,
            now: NOW,
            machines: [one, two],
            boxes: Default::default(),
            past: Default::default(),
            has_card: [true, both],
            restarts: 0,
            repeated: 0,
        }
    }

    fn below(&self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).unwrap()
    }

    fn two(&mut self, which: usize) -> (&mut Machine, &mut Machine) {
        let [one, two] = &mut self.machines;
        if which == 0 { (one, two) } else { (two, one) }
    }

    /// A machine leaves what is due, if the relay takes it.
    fn act(&mut self, which: usize, takes: bool) {
        let (now, has_card) = (self.now, self.has_card[which]);
        let (machine, peer) = self.two(which);
        let id = peer.id();
        if has_card && !machine.may_deposit(now, &id) {
            machine.endpoint.begin_by_letter(now, &peer.card).unwrap();
        }
        machine.look_after(now);
        if let Some((frame, number)) = machine.flight(now, peer) {
            if takes {
                machine.endpoint.flight_left(now, &id, number);
                machine.look_after(now);
            }
            self.boxes[1 - which].push(frame.clone());
            self.past[1 - which].push(frame);
        }
    }

    fn deliver(&mut self, which: usize, frame: &[u8]) {
        let now = self.now;
        match self.machines[which].take(now, frame) {
            Ok(()) => {}
            // Prekeys end.
            Err(FrameError::UnknownPrekey | FrameError::UnknownConnection) => {}
            Err(error) => panic!("a genuine frame is refused: {error}"),
        }
    }

    /// Who is told that the other has the session can rely on it: also if both lose what they have not written.
    fn probe(&mut self, which: usize) {
        let now = self.now;
        let (machine, peer) = self.two(which);
        if machine.may_deposit(now, &peer.id()) {
            let frame = machine.message(now, &peer.id(), b"probe").unwrap();
            peer.restart(now);
            peer.take(now, &frame).expect("it has the session");
            machine.restart(now);
            self.restarts += 2;
        }
    }

    fn step(&mut self) {
        let which = self.below(2);
        match self.below(16) {
            0..4 => self.act(which, true),
            4 => self.act(which, false),
            5..9 if !self.boxes[which].is_empty() => {
                let at = self.below(self.boxes[which].len());
                let frame = self.boxes[which].remove(at);
                // Done, lost, or handed over once more later.
                match self.below(8) {
                    0 => {}
                    1 => self.boxes[which].push(frame),
                    _ => self.deliver(which, &frame),
                }
            }
            9 if !self.past[which].is_empty() => {
                let at = self.below(self.past[which].len());
                let frame = self.past[which][at].clone();
                self.repeated += 1;
                self.deliver(which, &frame);
            }
            10..13 => {
                let (now, count) = (self.now, 1 + self.below(3));
                self.machines[which].sync(now, count);
            }
            13 => {
                let (now, count) = (self.now, self.below(3));
                self.machines[which].sync(now, count);
                self.machines[which].restart(now);
                self.restarts += 1;
            }
            14 => self.probe(which),
            _ => {
                let hours = 1 + self.random.below(12);
                self.now = self.now.after(HOUR * u32::try_from(hours).unwrap());
                let now = self.now;
                self.machines.iter_mut().for_each(|machine| machine.look_after(now));
            }
        }
    }

    /// From now on nothing is lost. Returns after how many days both have a session.
    fn heal(&mut self) -> Option<u32> {
        for days in 0..60 {
            for which in [0, 1, 0, 1] {
                let now = self.now;
                self.machines[which].settle(now);
                self.act(which, true);
                self.machines[which].settle(now);
                self.act(which, true);
                for frame in std::mem::take(&mut self.boxes[1 - which]) {
                    self.deliver(1 - which, &frame);
                }
                self.machines[1 - which].settle(now);
            }
            let now = self.now;
            let ids = [self.machines[1].id(), self.machines[0].id()];
            if self.machines.iter_mut().zip(ids).all(|(machine, peer)| machine.may_deposit(now, &peer)) {
                return Some(days);
            }
            self.now = self.now.after(DAY);
            let now = self.now;
            self.machines.iter_mut().for_each(|machine| machine.settle(now));
        }
        None
    }
}

#[test]
fn whatever_a_relay_and_two_disks_do_a_session_comes_of_it() {
    // Specification: [M60].
    let (mut restarts, mut repeated, mut days) = (0, 0, BTreeMap::<u32, u32>::new());
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..40 + world.below(160) {
            world.step();
        }
        let healed = world.heal().unwrap_or_else(|| panic!("seed {seed}: no session"));
        let now = world.now;
        let [one, two] = &mut world.machines;
        talk(now, one, two);
        (restarts, repeated) = (restarts + world.restarts, repeated + world.repeated);
        *days.entry(healed).or_default() += 1;
    }
    println!("{restarts} restarts, {repeated} frames repeated, days until there was a session: {days:?}");
    assert!(restarts > 1000 && repeated > 500);
    // A flight that was lost is left again after a day; nothing waits for a handshake to be given up.
    assert!(days.keys().all(|days| *days <= 5));
}
