//! Two machines of the constrained profile: their stores, whose writes may be the last before the power goes, and a network
//! that does what it likes.

mod interleavings;
mod simulation;

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
    entropy::seeded_provider,
    network::TestVault,
};

pub use interleavings::{STEPS, Step, interleave};
pub use simulation::{Totals, simulate};

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

const NUMBERED_LEN: usize = 16;

/// What a datagram of a run says: its number, twice, for half of it could be hit by chance.
fn numbered(number: u64) -> [u8; NUMBERED_LEN] {
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
        let mut frame = [0; constrained::MAX_HEADER_LEN + NUMBERED_LEN + constrained::TAG_LEN];
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

/// Frames by kind, for those who want to see sizes.
#[must_use]
pub fn lengths(pair: &Pair) -> BTreeMap<u8, BTreeSet<usize>> {
    let mut lengths: BTreeMap<u8, BTreeSet<usize>> = BTreeMap::new();
    for (_, frame) in &pair.log {
        lengths.entry(frame[0]).or_default().insert(frame.len());
    }
    lengths
}
