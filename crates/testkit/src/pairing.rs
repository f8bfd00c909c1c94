//! Two machines of the constrained profile: their stores, whose writes may be the last before the power goes, and a network
//! that does what it likes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use sealway_channel::{
    CallError, ConstrainedRecord, FrameError, Pairing, PairingEvent, PairingKeys, RenewalError, Role, Source,
};
use sealway_identity::{Owner, PayloadParts, UnverifiedPayload};
use sealway_vault::{Algorithm, CryptoProvider, DhHandle, KeyStore, Secret, SoftwareVault, Vault};
use sealway_wire::{
    IdentityId, Lane, Timestamp, constrained,
    content::{Ack, Content},
};

use crate::{
    audit::{self, Audited},
    entropy::{Seeded, seeded_provider},
    network::TestVault,
};

/// The machine that calls.
pub const DEVICE: usize = 0;
/// The machine that answers.
pub const SERVICE: usize = 1;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reaches the disk, and its machine learns of it.
    Written,
    /// It reaches the disk, and then the power goes.
    WrittenUnheard,
    /// The power goes before it reaches the disk.
    Lost,
}

/// Channel keys, and the identity payloads that attest them.
type KeysToCome = VecDeque<(DhHandle, Vec<u8>)>;

/// One machine.
pub struct Machine {
    vault: TestVault,
    /// What it shares with the other.
    pub keys: PairingKeys,
    /// What is on its disk.
    pub disk: Option<Vec<u8>>,
    /// Its end of the channel.
    pub pairing: Pairing<TestVault>,
    /// What becomes of the next write.
    pub next_write: Fate,
    /// Numbers of the datagrams that it has sent.
    pub sent: HashSet<u64>,
    /// Numbers of those that it has received and written down.
    pub committed: HashSet<u64>,
    /// What was reported.
    pub events: Vec<PairingEvent>,
    /// Frames that were refused, and why.
    pub refused: Vec<FrameError>,
    /// How often it has lost its power.
    pub power_cuts: u64,
    /// Its disk cannot go back: counters are reserved there.
    pub reserves_counters: bool,
    /// Its clock begins anew when it starts.
    pub forgets_time: bool,
    /// When its clock began.
    began: Timestamp,
    /// The channel keys that it will have.
    keys_to_come: KeysToCome,
    /// What attests the present one.
    payload: Vec<u8>,
}

/// Both machines, their clock, and what is on the way.
pub struct Pair {
    /// The clock.
    pub now: Timestamp,
    /// [`DEVICE`] and [`SERVICE`].
    pub machines: [Machine; 2],
    /// Frames that have not arrived: to whom, and octets.
    pub on_the_way: Vec<(usize, Vec<u8>)>,
    /// Every frame that was sent: to whom, and octets.
    pub log: Vec<(usize, Vec<u8>)>,
    /// The device has lost its disk: there is an operator who lets it back in, and somebody at the device.
    pub has_lost_all: bool,
    /// From where frames come.
    pub source: Source,
    number: u64,
    /// Numbers of the datagrams that were left of each burst: of a later epoch than what was sent before it.
    left_of_bursts: Vec<RangeInclusive<u64>>,
}

/// What a datagram of a run says: its number, twice, for half of it could be hit by chance.
fn numbered(number: u64) -> [u8; 16] {
    u128::from(number).wrapping_mul((1 << 64) + 1).to_be_bytes()
}

/// Which datagram that is.
///
/// # Panics
/// If nobody has made it.
fn number_of(body: &[u8]) -> u64 {
    let first = body.first_chunk().copied().map_or(0, u64::from_be_bytes);
    assert_eq!(body, numbered(first), "never sent");
    first
}

/// A secret that a seed names.
fn secret(provider: &impl CryptoProvider) -> Secret<32> {
    provider.random_secret().unwrap()
}

/// The keys of both ends, and their vaults.
#[must_use]
pub fn keys(seed: u64) -> [(TestVault, PairingKeys); 2] {
    let provider = seeded_provider(seed);
    let (psk, recovery) = (secret(&provider), secret(&provider));
    let ends = [1, 2].map(|end| {
        let mut vault = SoftwareVault::new(Audited(seeded_provider(seed * 3 + end)));
        let handle = vault.generate_dh().unwrap();
        (Arc::new(vault), handle, IdentityId(provider.random().unwrap()))
    });
    paired(ends, (psk, recovery))
}

/// The keys of both ends, their vaults, and what they are going to be: identities that rotate so often.
fn rotating_keys(seed: u64, rotations: usize) -> [(TestVault, PairingKeys, KeysToCome); 2] {
    let provider = seeded_provider(seed);
    let secrets = (secret(&provider), secret(&provider));
    let ends = [1, 2].map(|end| {
        let mut vault = SoftwareVault::new(Audited(seeded_provider(seed * 3 + end)));
        let (mut owner, mut recovery) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let (id, first) = (owner.id(), owner.channel_key());
        let to_come = (0..rotations).map(|_| {
            (owner, recovery) = owner.rotate(&mut vault, &recovery).unwrap();
            (owner.channel_key(), owner.payload(&PayloadParts::default()).unwrap())
        });
        let to_come = to_come.collect();
        ((Arc::new(vault), first, id), to_come)
    });
    let [(device, of_device), (service, of_service)] = ends;
    let [(device, device_keys), (service, service_keys)] = paired([device, service], secrets);
    [(device, device_keys, of_device), (service, service_keys, of_service)]
}

fn paired(
    ends: [(TestVault, DhHandle, IdentityId); 2],
    (psk, recovery): (Secret<32>, Secret<32>),
) -> [(TestVault, PairingKeys); 2] {
    let [(device, device_key, device_id), (service, service_key, service_id)] = ends;
    let of = |role, own, channel_key, peer, peer_key| PairingKeys {
        role,
        own,
        channel_key,
        earlier_key: None,
        peer,
        peer_key,
        psk: psk.clone(),
        recovery: recovery.clone(),
    };
    let (device_public, service_public) =
        (device.dh_public(&device_key).unwrap(), service.dh_public(&service_key).unwrap());
    [
        (device, of(Role::Initiator, device_id, device_key, service_id, service_public)),
        (service, of(Role::Responder, service_id, service_key, device_id, device_public)),
    ]
}

/// The first end once more, with the same keys and randomness of its own.
#[must_use]
pub fn cloned_device(seed: u64) -> (TestVault, PairingKeys) {
    let [(vault, device), _] = keys(seed);
    // Its stream of randomness goes on where the first one's does not come in a test.
    for _ in 0..10_000 {
        let _: [u8; 32] = vault.provider().random().unwrap();
    }
    (vault, device)
}

impl Machine {
    /// A machine that has written nothing yet.
    #[must_use]
    pub fn new(vault: TestVault, keys: PairingKeys) -> Self {
        let pairing = Pairing::new(vault.clone(), keys.clone()).unwrap();
        Self {
            vault,
            keys,
            disk: None,
            pairing,
            next_write: Fate::Written,
            sent: HashSet::new(),
            committed: HashSet::new(),
            events: Vec::new(),
            refused: Vec::new(),
            power_cuts: 0,
            reserves_counters: false,
            forgets_time: false,
            began: Timestamp::default(),
            keys_to_come: VecDeque::new(),
            payload: Vec::new(),
        }
    }

    /// Has another channel key from now on, if the peer has made a handshake with the present one. `true`: it has.
    fn rotate(&mut self, now: Timestamp) -> bool {
        // Its first write has to be done: before that, nobody would know that there was a key before.
        if self.pairing.earlier_key().is_some() || self.disk.is_none() {
            return false;
        }
        let Some((key, payload)) = self.keys_to_come.pop_front() else { return false };
        self.keys.earlier_key = Some(std::mem::replace(&mut self.keys.channel_key, key));
        self.payload = payload;
        self.restart(now);
        true
    }

    /// Looks at a key of the peer's, and takes it.
    fn look_at(&mut self, payload: &[u8]) {
        let payload = UnverifiedPayload::decode(payload).unwrap();
        let (provider, known) = (self.vault.provider(), self.pairing.peer_rank());
        let attestation = payload.verify_key(provider, &self.keys.peer, known, None).unwrap();
        let taken = self.pairing.accept_key(&attestation);
        assert!(matches!(taken, Ok(()) | Err(RenewalError::UnderWay)), "{taken:?}");
    }

    /// Its vault.
    #[must_use]
    pub const fn vault(&self) -> &TestVault {
        &self.vault
    }

    /// Counters are reserved, from now on.
    pub const fn reserve_counters(&mut self) {
        self.reserves_counters = true;
        self.pairing.reserve_counters();
    }

    /// What its clock shows.
    fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp::default().after(now.since(self.began))
    }

    /// The machine ends where it is, and starts with what is on its disk.
    pub fn restart(&mut self, now: Timestamp) {
        if self.forgets_time {
            self.began = now;
        }
        let clock = self.clock(now);
        self.pairing = match &self.disk {
            Some(state) => Pairing::restore(self.vault.clone(), self.keys.clone(), clock, state).unwrap(),
            None => Pairing::new(self.vault.clone(), self.keys.clone()).unwrap(),
        };
        if self.reserves_counters {
            self.pairing.reserve_counters();
        }
        if self.keys.earlier_key.is_some() {
            self.pairing.announce_key(&self.payload).unwrap();
        }
        // A shell writes what a start has changed before anything else.
        if let Some(state) = self.pairing.poll_state().unwrap() {
            self.disk = Some(state.octets);
            self.pairing.written(state.version);
        }
    }

    /// The power goes and comes again.
    pub fn lose_power(&mut self, now: Timestamp) {
        self.power_cuts += 1;
        self.restart(now);
    }

    /// What may be sent.
    fn transmitted(&mut self) -> Vec<Vec<u8>> {
        let mut out = [0; constrained::MAX_RECORD];
        let next = || self.pairing.poll_transmit(&mut out).unwrap().map(|len| out[..len].to_vec());
        std::iter::from_fn(next).collect()
    }

    /// Writes the state, if it has changed. Returns what became of the write.
    fn write(&mut self) -> Option<Fate> {
        let state = self.pairing.poll_state().unwrap()?;
        let fate = std::mem::replace(&mut self.next_write, Fate::Written);
        if fate != Fate::Lost {
            self.disk = Some(state.octets);
        }
        if fate == Fate::Written {
            self.pairing.written(state.version);
        }
        Some(fate)
    }
}

impl Pair {
    /// Two machines that share a first psk and a recovery psk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        audit::begin();
        Self::of(keys(seed).map(|(vault, keys)| Machine::new(vault, keys)))
    }

    /// The same, of two machines whose identities rotate so often.
    #[must_use]
    pub fn rotating(seed: u64, rotations: usize) -> Self {
        audit::begin();
        let machines = rotating_keys(seed, rotations);
        Self::of(machines.map(|(vault, keys, to_come)| Machine { keys_to_come: to_come, ..Machine::new(vault, keys) }))
    }

    fn of(machines: [Machine; 2]) -> Self {
        let now = Timestamp::from_micros(1_000_000);
        Self {
            now,
            machines,
            on_the_way: Vec::new(),
            log: Vec::new(),
            has_lost_all: false,
            source: Source::proven(0),
            number: 0,
            left_of_bursts: Vec::new(),
        }
    }

    /// The device calls.
    ///
    /// # Errors
    /// As [`Pairing::call`].
    pub fn call(&mut self, early: &[u8]) -> Result<(), CallError> {
        self.machines[DEVICE].pairing.call(early)?;
        self.settle(DEVICE);
        Ok(())
    }

    /// What is unanswered is sent once more.
    pub fn repeat(&mut self) {
        self.repeat_of(DEVICE);
    }

    /// What a machine is not known to have told is told once more.
    pub fn repeat_of(&mut self, machine: usize) {
        let clock = self.machines[machine].clock(self.now);
        self.machines[machine].pairing.repeat(clock).unwrap();
        self.settle(machine);
    }

    /// The service has a seed go into the psk.
    pub fn reseed(&mut self) {
        let seed = secret(self.machines[SERVICE].vault.provider());
        self.machines[SERVICE].pairing.reseed(seed).unwrap();
        self.settle(SERVICE);
    }

    /// A machine has another channel key from now on. `false`: the peer has made no handshake with the present one.
    pub fn rotate(&mut self, machine: usize) -> bool {
        let now = self.now;
        let has_rotated = self.machines[machine].rotate(now);
        self.settle(machine);
        has_rotated
    }

    /// A machine tells what it has opened, or sends something that a relay may keep.
    pub fn send_typed(&mut self, from: usize, lane: Lane) {
        let mut frame = vec![0; constrained::MAX_RECORD];
        let pairing = &mut self.machines[from].pairing;
        let opened = pairing.opened().map(|ranges| Ack { opened: Some((Lane::Live, ranges)), committed: None });
        let content = match (lane, opened) {
            (Lane::Live, Some(ack)) => Content::Ack(ack),
            _ => Content::Data(b"typed"),
        };
        if let Ok(len) = pairing.seal(lane, &content, &mut frame) {
            frame.truncate(len);
            self.put(1 - from, frame);
        }
    }

    /// A machine sends a datagram that nobody has sent before. `false`: it has no session.
    pub fn send(&mut self, from: usize) -> bool {
        self.number += 1;
        let mut frame = [0; 64];
        let machine = &mut self.machines[from];
        let Ok(len) = machine.pairing.seal_datagram(&numbered(self.number), &mut frame) else { return false };
        machine.sent.insert(self.number);
        let reserves = machine.reserves_counters;
        self.put(1 - from, frame[..len].to_vec());
        if reserves {
            self.settle(from);
        }
        true
    }

    /// Puts a frame on the way.
    pub fn put(&mut self, to: usize, frame: Vec<u8>) {
        self.log.push((to, frame.clone()));
        self.on_the_way.push((to, frame));
    }

    /// A frame arrives, and what it brings is committed in one write with the state of the machine.
    ///
    /// # Panics
    /// If something is committed twice, or was never sent.
    pub fn deliver(&mut self, to: usize, mut frame: Vec<u8>) {
        let machine = &mut self.machines[to];
        let clock = machine.clock(self.now);
        let received = match machine.pairing.handle_frame(clock, self.source, &mut frame) {
            Ok(ConstrainedRecord::Datagram(body)) => Some(number_of(body)),
            Ok(_) => None,
            Err(error) => {
                machine.refused.push(error);
                None
            }
        };
        // Who asks too early gets nothing that depends on what is not written.
        let early = machine.transmitted();
        let fate = machine.write();
        early.into_iter().for_each(|frame| self.put(1 - to, frame));
        if let Some(number) = received
            && fate != Some(Fate::Lost)
        {
            assert!(fate.is_some(), "the window has changed");
            assert!(self.machines[to].committed.insert(number), "committed twice: {number}");
            assert!(self.machines[1 - to].sent.contains(&number), "never sent: {number}");
        }
        self.after_write(to, fate);
    }

    /// A machine writes what has changed.
    pub fn save(&mut self, of: usize) {
        self.machines[of].write();
    }

    /// Writes what has changed and sends what may be sent.
    pub fn settle(&mut self, of: usize) {
        let fate = self.machines[of].write();
        self.after_write(of, fate);
    }

    fn after_write(&mut self, of: usize, fate: Option<Fate>) {
        let now = self.now;
        let machine = &mut self.machines[of];
        if matches!(fate, Some(Fate::Lost | Fate::WrittenUnheard)) {
            machine.lose_power(now);
            return;
        }
        let events: Vec<PairingEvent> = std::iter::from_fn(|| machine.pairing.poll_event()).collect();
        for event in events {
            match event {
                PairingEvent::Rotation(payload) => {
                    machine.look_at(&payload);
                    return self.settle(of);
                }
                event => machine.events.push(event),
            }
        }
        let machine = &mut self.machines[of];
        machine.transmitted().into_iter().for_each(|frame| self.put(1 - of, frame));
    }

    /// Everything that is on the way arrives, in order, until nothing is.
    pub fn deliver_all(&mut self) {
        while !self.on_the_way.is_empty() {
            let (to, frame) = self.on_the_way.remove(0);
            self.deliver(to, frame);
        }
    }

    /// A machine seals so much that its lane reaches the next epoch. Nearly all of it is lost; the first that is not arrives.
    fn burst(&mut self, from: usize) {
        let before = self.on_the_way.len();
        if (0..BURST).all(|_| self.send(from)) {
            let lost = self.on_the_way.len() - LEFT_OF_A_BURST;
            self.on_the_way.drain(before..lost);
            self.left_of_bursts.push(self.number + 1 - LEFT_OF_A_BURST as u64..=self.number);
            let (to, frame) = self.on_the_way.remove(before);
            self.deliver(to, frame);
        }
    }

    /// What was seen until now.
    fn totals(&self) -> Totals {
        let reported = |of: fn(&PairingEvent) -> bool| {
            self.machines[SERVICE].events.iter().filter(|event| of(event)).count() as u64
        };
        let mut totals = Totals {
            handshakes: reported(|event| matches!(event, PairingEvent::Opened { .. })),
            recoveries: reported(|event| matches!(event, PairingEvent::Opened { recovered: true })),
            reseeds: reported(|event| *event == PairingEvent::Reseeded),
            ..Totals::default()
        };
        for machine in &self.machines {
            totals.sent += machine.sent.len() as u64;
            totals.committed += machine.committed.len() as u64;
            totals.power_cuts += machine.power_cuts;
            totals.refused += machine.refused.len() as u64;
            let has_one_of =
                |left: &&RangeInclusive<u64>| (*left).clone().any(|number| machine.committed.contains(&number));
            totals.epochs += self.left_of_bursts.iter().filter(has_one_of).count() as u64;
        }
        totals
    }

    /// There is a second device with what the first has on its disk, and both call, in the order that is named.
    ///
    /// # Panics
    /// If the service answers both, or does not say what it has seen.
    fn is_cloned(&mut self, seed: u64, is_first: bool, is_confirmed: bool) {
        // What is under way comes to its end.
        for _ in 0..3 {
            self.repeat();
            self.repeat_of(SERVICE);
            self.send(DEVICE);
            self.deliver_all();
        }
        let (vault, keys) = cloned_device(seed);
        let mut clone = Machine { disk: self.machines[DEVICE].disk.clone(), ..Machine::new(vault, keys) };
        clone.restart(self.now);
        let call = |machine: &mut Machine| {
            machine.pairing.call(&[]).unwrap();
            machine.write();
            machine.transmitted().pop().expect("a call is sent")
        };
        let mut calls = [call(&mut self.machines[DEVICE]), call(&mut clone)];
        if is_first {
            calls.reverse();
        }
        let [first, second] = calls;
        self.machines[SERVICE].events.clear();
        self.deliver(SERVICE, first);
        let (to, answer) = self.on_the_way.pop().expect("the first is answered");
        assert!(to == DEVICE && self.on_the_way.is_empty());
        if is_confirmed && !is_first {
            // What is left of the psk by then is its hint, and a call with it is told of once in a while.
            self.deliver(DEVICE, answer);
            self.deliver_all();
            self.now = self.now.after(Duration::from_secs(61));
            self.deliver(SERVICE, second);
            assert!(self.machines[SERVICE].events.contains(&PairingEvent::PskUsedAgain));
        } else {
            self.deliver(SERVICE, second);
            assert!(self.machines[SERVICE].events.contains(&PairingEvent::CloneSuspected));
        }
        assert!(self.on_the_way.is_empty(), "one psk, two answers");
    }

    /// The operator lets the device back in, and somebody is at the device.
    fn recovers(&mut self) {
        let until = self.machines[SERVICE].clock(self.now).after(Duration::from_secs(3600));
        self.machines[SERVICE].pairing.open_recovery(until);
        self.machines[DEVICE].pairing.renew_recovery();
    }

    /// The network heals: whatever has happened, messages get through in both directions again.
    ///
    /// # Panics
    /// If they do not.
    pub fn heals(&mut self) {
        self.on_the_way.clear();
        for machine in &mut self.machines {
            machine.next_write = Fate::Written;
        }
        // What limits forgeries is paid off.
        self.now = self.now.after(Duration::from_secs(600));
        let before = [DEVICE, SERVICE].map(|machine| self.machines[machine].committed.len());
        let rounds = if self.has_lost_all { 400 } else { 40 };
        for round in 0..rounds {
            let arrived = [DEVICE, SERVICE].map(|machine| self.machines[machine].committed.len() > before[machine]);
            if arrived == [true; 2] {
                return;
            }
            // A sender who misses an acknowledgement calls.
            let device = &self.machines[DEVICE];
            if device.pairing.is_due(device.clock(self.now)) || round % 8 == 7 {
                let _ = self.machines[DEVICE].pairing.call(&[]);
                self.settle(DEVICE);
            }
            if self.has_lost_all && round % 16 == 15 {
                self.recovers();
                self.settle(DEVICE);
            }
            self.repeat();
            self.repeat_of(SERVICE);
            self.send(DEVICE);
            self.send(SERVICE);
            self.deliver_all();
            self.now = self.now.after(Duration::from_secs(30));
        }
        panic!("no progress: {:?} {:?}", self.machines[DEVICE].refused, self.machines[SERVICE].refused);
    }
}

impl Pair {
    /// What was begun of channel keys comes to its end, when the network lets it.
    ///
    /// # Panics
    /// If it does not.
    pub fn settles(&mut self) {
        for round in 0..400 {
            if self.machines.iter().all(|machine| machine.pairing.earlier_key().is_none()) {
                return;
            }
            if round % 10 == 9 {
                let _ = self.machines[DEVICE].pairing.call(&[]);
                self.settle(DEVICE);
            }
            self.repeat();
            self.repeat_of(SERVICE);
            for machine in [DEVICE, SERVICE] {
                self.send_typed(machine, Lane::Live);
            }
            self.deliver_all();
            self.now = self.now.after(Duration::from_secs(30));
        }
        panic!("the keys are not settled: {:?} {:?}", self.machines[DEVICE].refused, self.machines[SERVICE].refused);
    }
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams committed.
    pub committed: u64,
    /// Sessions that the answering side has seen confirmed.
    pub handshakes: u64,
    /// Those of them that were recoveries.
    pub recoveries: u64,
    /// Starts after the power went.
    pub power_cuts: u64,
    /// Epochs of a lane, beyond its first, of which something was committed.
    pub epochs: u64,
    /// Seeds that went into a psk with which a handshake was made.
    pub reseeds: u64,
    /// Channel keys with which the peer has made a handshake.
    pub rotations: u64,
    /// Frames that were refused, replays and damage among them.
    pub refused: u64,
}

impl Totals {
    /// A run has seen what each has to see: a run that sees less proves less.
    #[must_use]
    pub const fn is_a_run(&self) -> bool {
        self.committed >= 200 && self.handshakes >= 3 && self.epochs >= 1 && self.power_cuts >= 1
    }

    /// So many runs have seen, now and then, what is not a part of each.
    #[must_use]
    pub const fn are_varied(&self, runs: u64) -> bool {
        self.recoveries >= runs / 20
            && self.reseeds >= runs / 10
            && self.rotations >= runs / 10
            && self.refused >= 10 * runs
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.committed += other.committed;
        self.handshakes += other.handshakes;
        self.recoveries += other.recoveries;
        self.power_cuts += other.power_cuts;
        self.epochs += other.epochs;
        self.reseeds += other.reseeds;
        self.rotations += other.rotations;
        self.refused += other.refused;
    }
}

/// Records that are sealed at once, so that a lane reaches its next epoch.
const BURST: usize = 1100;
/// Those of a burst that are not lost.
const LEFT_OF_A_BURST: usize = 3;
const STEPS_OF_A_RUN: u32 = 500;
/// A run that has not seen enough goes on, as far as this.
const MOST_STEPS_OF_A_RUN: u32 = 5000;

/// One run: some hundred steps in which the seed decides what the network, the clock and the power do, then the network
/// heals.
///
/// # Panics
/// If something is committed twice or was never sent, if a nonce is used twice under a key, or if nothing gets through in the
/// end.
#[must_use]
pub fn simulate(seed: u64) -> Totals {
    let random = Seeded::new(seed);
    let (damage, replays) = (random.below(20), random.below(20));
    let mut loss = 0;
    let recovers = random.below(4) == 0;
    // A device that has lost all knows no key of the service but the one that it was given.
    let rotates = !recovers && random.below(4) == 0;
    let mut pair = if rotates { Pair::rotating(seed, 2) } else { Pair::new(seed) };
    for machine in &mut pair.machines {
        if random.below(2) == 0 {
            machine.reserve_counters();
        }
        machine.forgets_time = random.below(2) == 0;
    }
    let mut rotations = 0;
    let machine = || usize::from(random.below(2) == 1);
    for step in 0..MOST_STEPS_OF_A_RUN {
        if step >= STEPS_OF_A_RUN && pair.totals().is_a_run() {
            break;
        }
        pair.source = if random.below(3) == 0 { Source::claimed(random.below(3)) } else { Source::proven(1) };
        // Good times and bad ones.
        if step % 50 == 0 {
            loss = random.below(91) * random.below(2);
        }
        if recovers && step == STEPS_OF_A_RUN / 2 {
            pair.has_lost_all = true;
            pair.machines[DEVICE].disk = None;
            let now = pair.now;
            pair.machines[DEVICE].restart(now);
        }
        match random.below(100) {
            0..45 => {
                for _ in 0..=random.below(3) {
                    pair.send(machine());
                }
            }
            45..75 => (0..=random.below(10)).for_each(|_| arrive(&mut pair, &random, loss, damage)),
            75..83 => pair.repeat(),
            83 => pair.repeat_of(SERVICE),
            84 if random.below(4) == 0 => pair.reseed(),
            84 if rotates => rotations += u64::from(pair.rotate(machine())),
            85..88 => {
                let early = random.below(64).to_be_bytes();
                let _ = pair.call(&early[..usize::from(random.below(2) == 1) * 8]);
            }
            88..91 => {
                let fates = [Fate::Lost, Fate::WrittenUnheard];
                pair.machines[machine()].next_write = fates[machine()];
            }
            91 => {
                let now = pair.now;
                pair.machines[machine()].lose_power(now);
            }
            98 => pair.send_typed(machine(), [Lane::Live, Lane::Stored][machine()]),
            99 if recovers => {
                pair.recovers();
            }
            92..96 if random.below(20) < replays && !pair.log.is_empty() => {
                let again = random.index(pair.log.len());
                let (to, frame) = pair.log[again].clone();
                pair.deliver(to, frame);
            }
            96 if pair.totals().epochs == 0 || random.below(16) == 0 => pair.burst(machine()),
            97 => pair.now = pair.now.after(Duration::from_secs(random.below(10 * 24 * 60 * 60))),
            _ => pair.now = pair.now.after(Duration::from_secs(random.below(60))),
        }
        // What is left lying for long is lost.
        if pair.on_the_way.len() > 60 {
            let lost = random.index(60);
            pair.on_the_way.drain(..lost);
        }
    }
    pair.heals();
    pair.settles();
    for machine in &pair.machines {
        let suspects = machine.events.contains(&PairingEvent::CloneSuspected);
        assert!(!suspects || pair.has_lost_all, "there is no clone, and nothing has gone back in time");
    }
    let totals = Totals { rotations, ..pair.totals() };
    if !recovers && !rotates && random.below(4) == 0 {
        pair.is_cloned(seed, random.below(2) == 0, random.below(2) == 0);
    }
    totals
}

/// A frame arrives, or is lost, damaged or repeated on the way.
fn arrive(pair: &mut Pair, random: &Seeded, loss: u64, damage: u64) {
    if pair.on_the_way.is_empty() {
        return;
    }
    // Mostly the oldest, sometimes any.
    let index = if random.below(4) == 0 { random.index(pair.on_the_way.len()) } else { 0 };
    let (to, mut frame) = pair.on_the_way.remove(index);
    if random.below(100) < loss {
        return;
    }
    if random.below(100) < damage {
        let bit = random.index(frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
    }
    if random.below(20) == 0 {
        pair.on_the_way.push((to, frame.clone()));
    }
    pair.deliver(to, frame);
}

/// One step of an exhaustive search: what happens, and what becomes of the write that it causes.
pub const STEPS: [(Step, Fate); 8] = [
    (Step::Repeat, Fate::Written),
    (Step::Repeat, Fate::Lost),
    (Step::ToService, Fate::Written),
    (Step::ToService, Fate::WrittenUnheard),
    (Step::ToService, Fate::Lost),
    (Step::ToDevice, Fate::Written),
    (Step::ToDevice, Fate::WrittenUnheard),
    (Step::ToDevice, Fate::Lost),
];

/// All that matters for the ratchet, once the device has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is unanswered is sent once more.
    Repeat,
    /// The oldest frame to the service arrives.
    ToService,
    /// The oldest frame to the device arrives.
    ToDevice,
}

/// After a first session the device calls once more; then the steps of which `number` names one after the other, then the
/// network heals.
///
/// # Panics
/// If a nonce is used twice, something is committed twice, or nothing gets through in the end.
pub fn interleave(mut number: usize, steps: u32) {
    let mut pair = Pair::new(7);
    pair.call(&[]).unwrap();
    pair.deliver_all();
    pair.call(&[]).unwrap();
    for _ in 0..steps {
        let (step, fate) = STEPS[number % STEPS.len()];
        number /= STEPS.len();
        let machine = if step == Step::ToService { SERVICE } else { DEVICE };
        pair.machines[machine].next_write = fate;
        match step {
            Step::Repeat => pair.repeat(),
            Step::ToService => first_to(&mut pair, SERVICE),
            Step::ToDevice => first_to(&mut pair, DEVICE),
        }
        pair.machines[machine].next_write = Fate::Written;
    }
    pair.heals();
    assert!(!pair.machines[SERVICE].events.contains(&PairingEvent::CloneSuspected));
}

fn first_to(pair: &mut Pair, to: usize) {
    if let Some(index) = pair.on_the_way.iter().position(|(recipient, _)| *recipient == to) {
        let (to, frame) = pair.on_the_way.remove(index);
        pair.deliver(to, frame);
    }
}

/// Frames by kind, for those who want to see sizes.
#[must_use]
pub fn lengths(pair: &Pair) -> BTreeMap<u8, BTreeSet<usize>> {
    let mut lengths: BTreeMap<u8, BTreeSet<usize>> = BTreeMap::new();
    for (_, frame) in &pair.log {
        lengths.entry(frame[0]).or_default().insert(frame.len());
    }
    lengths
}
