//! Runs in which a seed decides what the network, the clocks and the power do.

use std::{ops::RangeInclusive, time::Duration};

use sealway_channel::{PairingEvent, Source};
use sealway_wire::Lane;

use super::{DEVICE, Fate, Machine, Pair, SERVICE, cloned_device};
use crate::entropy::Seeded;

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

/// When the clone of a device calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CloneCalls {
    /// Before the device.
    First,
    /// Before the device has its answer.
    Second,
    /// When the device has its session.
    Afterwards,
}

impl Pair {
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

    /// There is a second device with what the first has on its disk, and both call.
    ///
    /// # Panics
    /// If the service answers both, or does not say what it has seen.
    fn meets_a_clone(&mut self, seed: u64, clone_calls: CloneCalls) {
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
        if clone_calls == CloneCalls::First {
            calls.reverse();
        }
        let [first, second] = calls;
        self.machines[SERVICE].events.clear();
        self.deliver(SERVICE, first);
        let (to, answer) = self.on_the_way.pop().expect("the first is answered");
        assert!(to == DEVICE && self.on_the_way.is_empty());
        if clone_calls == CloneCalls::Afterwards {
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
}

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
            99 if recovers => pair.recovers(),
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
        pair.meets_a_clone(seed, [CloneCalls::First, CloneCalls::Second, CloneCalls::Afterwards][random.index(3)]);
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
