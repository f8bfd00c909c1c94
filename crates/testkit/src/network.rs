//! Endpoints on a virtual clock, over a network that loses, delays, reorders, duplicates and damages, all from one seed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sealway_channel::{ChannelId, Config, Deposit, Endpoint, Event, FrameError, PathId, Received, Record, Source};
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy, RecoveryKey};
use sealway_vault::{Algorithm, DhHandle, SoftwareVault};
use sealway_wire::{
    Cid, IdentityId, Instance, Lane, Timestamp,
    content::{Committed, Reliable},
};

use crate::{
    audit::{self, Audited},
    entropy::{Seeded, seeded_provider},
};

/// The vault of a simulated machine.
pub type TestVault = Arc<SoftwareVault<Audited<RustCrypto<Seeded>>>>;

/// What the network does to each frame, in hundredths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Frames that are lost.
    pub loss: u64,
    /// Frames that arrive twice.
    pub duplication: u64,
    /// Frames of which one bit is flipped.
    pub damage: u64,
    /// The longest delay of a frame. Frames overtake each other within it.
    pub delay: Duration,
}

/// One machine.
pub struct Machine {
    /// Its identity and card.
    pub card: Card,
    /// Its endpoint.
    pub endpoint: Endpoint<TestVault>,
    /// Everything that has happened, in order.
    pub events: Vec<Event>,
    /// Bodies of the messages and datagrams that have arrived, in order.
    pub received: Vec<Vec<u8>>,
    /// Frames that were refused, and why.
    pub refused: Vec<FrameError>,
    /// What it has written to survive a restart.
    pub disk: BTreeMap<(IdentityId, Cid), Vec<u8>>,
    /// Whether writes complete. If not, they have not happened.
    pub disk_works: bool,
    /// Its disk cannot go back: counters of stored lanes are reserved there.
    pub reserves_counters: bool,
    /// Marks of committed messages that have arrived.
    pub committed: Vec<u32>,
    admitted: Vec<Card>,
    owner: Owner,
    recovery: RecoveryKey,
    earlier_key: Option<(DhHandle, Timestamp)>,
    vault: TestVault,
}

/// Machines, their clock, and what is on the way between them.
pub struct Network {
    /// The clock.
    pub now: Timestamp,
    /// The conditions from now on.
    pub conditions: Conditions,
    /// The machines; a machine's index is the number of the path that leads to it.
    pub machines: Vec<Machine>,
    /// Every frame that was sent: from, to, octets.
    pub log: Vec<(usize, usize, Vec<u8>)>,
    random: Seeded,
    on_the_way: BTreeMap<(Timestamp, u64), (usize, usize, Vec<u8>)>,
    sequence: u64,
}

/// The peer of a machine in a network of two.
#[must_use]
pub const fn other(machine: usize) -> usize {
    1 - machine
}

impl Network {
    /// Two machines that hold each other's cards, of a seed. Neither admits anybody yet.
    #[must_use]
    pub fn pair(seed: u64) -> Self {
        Self::of(seed, 2)
    }

    /// `count` machines.
    #[must_use]
    pub fn of(seed: u64, count: u64) -> Self {
        audit::begin();
        let machines = (0..count).map(|index| Machine::new(seed * 100 + index)).collect();
        Self {
            now: Timestamp::from_micros(1),
            conditions: Conditions::default(),
            machines,
            log: Vec::new(),
            random: Seeded::new(seed),
            on_the_way: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// The machine with the lower identity, which goes first when both initiate at once.
    #[must_use]
    pub fn lower(&self) -> usize {
        usize::from(self.machines[1].card.id() < self.machines[0].card.id())
    }

    /// Has `from` open a channel to `to`, and `to` admit it.
    pub fn open(&mut self, from: usize, to: usize) -> ChannelId {
        let admit = self.machines[from].card.clone();
        self.machines[to].endpoint.admit(&Policy::only(&admit));
        self.machines[to].admitted.push(admit);
        let card = self.machines[to].card.clone();
        let path = PathId(to as u64);
        let machine = &mut self.machines[from];
        machine.admitted.push(card.clone());
        machine
            .endpoint
            .open(self.now, &card, &Policy::only(&card), PayloadParts::default(), path)
            .expect("the policy admits the card")
    }

    /// Carries the first two flights of a handshake that has just been begun, and returns the third, which is on the way.
    ///
    /// # Panics
    /// If one of them is refused.
    pub fn third_message(&mut self) -> Vec<u8> {
        for _ in 0..2 {
            self.drain();
            let (from, to, frame) = self.log.last().expect("a flight").clone();
            self.cut();
            self.deliver(from, to, frame).expect("genuine");
        }
        self.drain();
        self.log.last().expect("the third").2.clone()
    }

    /// The channel that `machine` has to `peer`, if it is open.
    #[must_use]
    pub fn channel(&self, machine: usize, peer: usize) -> Option<ChannelId> {
        let peer = self.machines[peer].card.id();
        let endpoint = &self.machines[machine].endpoint;
        let of_event = |event: &Event| match event {
            Event::Opened { channel, .. } => Some(*channel),
            _ => None,
        };
        let opened = self.machines[machine].events.iter().rev().filter_map(of_event);
        let mut open = opened.filter(|channel| endpoint.is_open(*channel) && endpoint.peer(*channel) == Some(peer));
        open.next()
    }

    /// Has `from` send a datagram to `to`.
    ///
    /// # Panics
    /// If the channel is not open.
    pub fn send(&mut self, from: usize, to: usize, body: &[u8]) {
        let channel = self.channel(from, to).expect("an open channel");
        let mut out = vec![0; 2 * body.len() + 128];
        let outgoing = self.machines[from].endpoint.seal_datagram(self.now, channel, body, &mut out).expect("sealed");
        out.truncate(outgoing.len);
        self.carry(from, outgoing.path, out);
    }

    /// Has `from` send a message that is to be committed.
    ///
    /// # Panics
    /// If the channel is not open.
    pub fn send_message(&mut self, from: usize, to: usize, lane: Lane, number: u32, body: &[u8]) {
        if lane == Lane::Stored {
            let frame = self.deposit(from, to, number, body);
            self.carry(from, PathId(to as u64), frame);
            return;
        }
        let channel = self.channel(from, to).expect("an open channel");
        let mut out = vec![0; 2 * body.len() + 128];
        let message = Reliable { instance: None, number, lowest: 0, unwanted: 0, part: None, body };
        let outgoing = self.machines[from].endpoint.seal_message(self.now, channel, message, &mut out).expect("sealed");
        out.truncate(outgoing.len);
        self.carry(from, outgoing.path, out);
    }

    /// The same, if there is a session to seal it under.
    pub fn try_send_message(&mut self, from: usize, to: usize, lane: Lane, number: u32, body: &[u8]) {
        let peer = self.machines[to].id();
        let endpoint = &mut self.machines[from].endpoint;
        let Some(channel) = (0..8).map(ChannelId).find(|channel| endpoint.peer(*channel) == Some(peer)) else { return };
        let mut out = vec![0; 2 * body.len() + 128];
        let message = Reliable { instance: None, number, lowest: 0, unwanted: 0, part: None, body };
        let sealed = match lane {
            Lane::Live => {
                endpoint.seal_message(self.now, channel, message, &mut out).map(|sealed| (sealed.path, sealed.len))
            }
            Lane::Stored => endpoint
                .seal_deposit(self.now, channel, Deposit::Message(message), &mut out)
                .map(|len| (PathId(to as u64), len)),
        };
        if let Ok((path, len)) = sealed {
            out.truncate(len);
            self.carry(from, path, out);
        }
    }

    /// A message of `from` to `to`, sealed on the stored lane: for the test to keep as a relay would.
    ///
    /// # Panics
    /// If there is no session to seal under.
    pub fn deposit(&mut self, from: usize, to: usize, number: u32, body: &[u8]) -> Vec<u8> {
        self.seal_deposit(
            from,
            to,
            Deposit::Message(Reliable { instance: None, number, lowest: 0, unwanted: 0, part: None, body }),
        )
    }

    /// What `from` has committed of the messages of `to`, sealed on the stored lane.
    ///
    /// # Panics
    /// If there is no session to seal under.
    pub fn deposit_committed(&mut self, from: usize, to: usize, mark: u32) -> Vec<u8> {
        let committed = Committed { instance: Instance([9; 4]), mark, bitmap: &[], held: &[] };
        self.seal_deposit(from, to, Deposit::Committed(committed))
    }

    fn seal_deposit(&mut self, from: usize, to: usize, deposit: Deposit<'_>) -> Vec<u8> {
        let peer = self.machines[to].id();
        let endpoint = &mut self.machines[from].endpoint;
        let channel = (0..8).map(ChannelId).find(|channel| endpoint.peer(*channel) == Some(peer)).expect("a channel");
        let mut out = vec![0; sealway_channel::MAX_RECORD];
        let len = endpoint.seal_deposit(self.now, channel, deposit, &mut out).expect("sealed");
        out.truncate(len);
        out
    }

    /// Hands a frame to the network as if `from` had sent it on `path`.
    pub fn carry(&mut self, from: usize, path: PathId, frame: Vec<u8>) {
        let to = usize::try_from(path.0).expect("the index of a machine");
        self.log.push((from, to, frame.clone()));
        let copies = 1 + u64::from(self.hits(self.conditions.duplication));
        for _ in 0..copies {
            if self.hits(self.conditions.loss) {
                continue;
            }
            let mut frame = frame.clone();
            if self.hits(self.conditions.damage) {
                let bit = usize::try_from(self.random.below(frame.len() as u64 * 8)).expect("fits");
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            let micros = u64::try_from(self.conditions.delay.as_micros()).expect("fits");
            let at = self.now.after(Duration::from_micros(self.random.below(micros + 1)));
            self.sequence += 1;
            self.on_the_way.insert((at, self.sequence), (from, to, frame));
        }
    }

    fn hits(&self, hundredths: u64) -> bool {
        hundredths > 0 && self.random.below(100) < hundredths
    }

    /// Delivers a frame to a machine at once, as if it came from `from`, and returns why it was refused, if it was.
    pub fn deliver(&mut self, from: usize, to: usize, frame: Vec<u8>) -> Result<(), FrameError> {
        self.deliver_from(from, to, Source::proven(from as u64), frame)
    }

    /// The same, from a source of the test's choice.
    pub fn deliver_from(
        &mut self,
        from: usize,
        to: usize,
        source: Source,
        mut frame: Vec<u8>,
    ) -> Result<(), FrameError> {
        let machine = &mut self.machines[to];
        let received = machine.endpoint.handle_frame(self.now, PathId(from as u64), source, &mut frame);
        match received {
            Ok(Received::Record { record: Record::Datagram(body) | Record::Message { body, .. }, .. }) => {
                machine.received.push(body.to_vec());
                Ok(())
            }
            Ok(Received::Record { record: Record::Committed(committed), .. }) => {
                machine.committed.push(committed.mark);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                machine.refused.push(error);
                Err(error)
            }
        }
    }

    /// Sends whatever the machines have to send just now.
    pub fn drain(&mut self) {
        let mut out = vec![0; sealway_channel::MAX_RECORD];
        for index in 0..self.machines.len() {
            while let Some(outgoing) = self.machines[index].endpoint.poll_transmit(self.now, &mut out) {
                self.carry(index, outgoing.path, out[..outgoing.len].to_vec());
            }
            if self.machines[index].write() {
                // What waited for the writes leaves at once.
                while let Some(outgoing) = self.machines[index].endpoint.poll_transmit(self.now, &mut out) {
                    self.carry(index, outgoing.path, out[..outgoing.len].to_vec());
                }
            }
            let machine = &mut self.machines[index];
            machine.events.extend(std::iter::from_fn(|| machine.endpoint.poll_event()));
        }
    }

    /// Lets `time` pass: frames arrive and deadlines pass in their order.
    pub fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            self.drain();
            let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
            let deadlines = self.machines.iter().filter_map(|machine| machine.endpoint.poll_timeout());
            let Some(next) = deadlines.chain(arrival).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival.is_some_and(|arrival| arrival <= self.now)
                && let Some((_, (from, to, frame))) = self.on_the_way.pop_first()
            {
                let _ = self.deliver(from, to, frame);
                continue;
            }
            for machine in &mut self.machines {
                machine.endpoint.handle_timeout(self.now);
            }
        }
        self.now = end;
        self.drain();
    }

    /// Lets time pass until `done`, at most `limit`. Returns whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now.after(limit);
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.run(Duration::from_millis(50));
        }
        true
    }

    /// Takes all that is on the way off the network.
    pub fn cut(&mut self) {
        self.on_the_way.clear();
    }

    /// Ends a machine and starts it anew: what was in memory is gone; identity, vault, disk and policy stay.
    pub fn restart(&mut self, machine: usize) {
        let instance = Instance(self.random.below(1 << 32).to_be_bytes()[4..].try_into().expect("four octets"));
        self.machines[machine].restart(self.now, instance);
    }
}

fn config(instance: Instance) -> Config {
    let mut config = Config::new(instance);
    config.keeps_state = true;
    config
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut vault = SoftwareVault::new(Audited(seeded_provider(seed)));
        let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519).expect("seeded randomness");
        let vault = Arc::new(vault);
        let card = owner.card(&vault, &CardParts::default()).expect("an empty card");
        let instance = Instance(seed.to_be_bytes()[4..].try_into().expect("four octets"));
        let endpoint = Endpoint::new(vault.clone(), owner.clone(), config(instance));
        Self {
            card,
            endpoint,
            events: Vec::new(),
            received: Vec::new(),
            refused: Vec::new(),
            disk: BTreeMap::new(),
            disk_works: true,
            reserves_counters: false,
            committed: Vec::new(),
            admitted: Vec::new(),
            owner,
            recovery,
            earlier_key: None,
            vault,
        }
    }

    /// Moves to the announced key and a new channel key, and starts anew: the old channel key answers until then.
    ///
    /// # Panics
    /// If it has rotated before.
    pub fn rotate(&mut self, now: Timestamp, until: Timestamp, seed: u64) {
        let provider = Audited(seeded_provider(seed));
        let mut vault = SoftwareVault::load(provider, &self.vault.save().expect("few keys")).expect("saved");
        self.earlier_key = Some((self.owner.channel_key(), until));
        (self.owner, self.recovery) = self.owner.rotate(&mut vault, &self.recovery).expect("the announced key");
        self.vault = Arc::new(vault);
        self.card = self.owner.card(&self.vault, &CardParts::default()).expect("an empty card");
        self.restart(now, Instance(seed.to_be_bytes()[4..].try_into().expect("four octets")));
    }

    fn config(&self, instance: Instance) -> Config {
        let mut config = config(instance);
        config.earlier_key = self.earlier_key;
        config.reserves_counters = self.reserves_counters;
        config
    }

    fn restart(&mut self, now: Timestamp, instance: Instance) {
        self.endpoint = Endpoint::new(self.vault.clone(), self.owner.clone(), self.config(instance));
        self.events.clear();
        for card in &self.admitted {
            self.endpoint.admit(&Policy::only(card));
        }
        for state in self.disk.values() {
            self.endpoint.restore(now, state).expect("the machine's own state");
        }
    }

    /// Has the next restarts admit nobody, and this run neither.
    pub fn forget_policy(&mut self) {
        self.admitted.clear();
        let instance = Instance([7; 4]);
        self.endpoint = Endpoint::new(self.vault.clone(), self.owner.clone(), self.config(instance));
        self.restart(Timestamp::from_micros(1), instance);
    }

    /// Writes what the endpoint wants written. Returns whether anything was.
    fn write(&mut self) -> bool {
        let mut any = false;
        while self.disk_works
            && let Some(saved) = self.endpoint.poll_saved()
        {
            any = true;
            let key = (saved.peer, saved.session);
            match saved.state {
                Some(state) => {
                    self.disk.insert(key, state);
                    self.endpoint.written(&saved.peer, saved.session);
                }
                None => drop(self.disk.remove(&key)),
            }
        }
        any
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> IdentityId {
        self.card.id()
    }

    /// The vault.
    #[must_use]
    pub const fn vault(&self) -> &TestVault {
        &self.vault
    }

    /// The own identity, with its handles.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }
}
