//! After the worst that can befall two machines, the next message is delivered: by the same session, or by a new one that
//! they make themselves. Nobody is told to open anything again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_testkit::network::{Conditions, Network, other};
use sealway_wire::Lane;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn opened(seed: u64) -> Network {
    let mut network = Network::pair(seed);
    // Both hold the other's card: either may begin anew.
    network.open(0, 1);
    network.open(1, 0);
    network.run(SECOND * 10);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    network
}

/// Sends as an outbox does: until the other side has it. Returns whether it was there within ten minutes.
fn delivers(network: &mut Network, from: usize, number: u32) -> bool {
    let body = [b"message ".as_slice(), &number.to_be_bytes(), &[u8::try_from(from).unwrap()]].concat();
    for _ in 0..120 {
        network.try_send_message(from, other(from), Lane::Live, number, &body);
        network.run(SECOND * 5);
        if network.machines[other(from)].received.contains(&body) {
            return true;
        }
        let channel = network.channel(from, other(from));
        // What an outbox does about silence.
        if let Some(channel) = channel.filter(|channel| {
            let since = network.machines[from].endpoint.silent_since(*channel);
            since.is_some_and(|since| network.now.since(since) > SECOND * 10)
        }) {
            let now = network.now;
            network.machines[from].endpoint.missed_deadline(now, channel);
        }
    }
    false
}

fn seal(network: &mut Network, from: usize, count: u32) -> Vec<Vec<u8>> {
    let channel = network.channel(from, other(from)).unwrap();
    let mut out = [0; 64];
    let mut seal = |number: u32| {
        let (now, endpoint) = (network.now, &mut network.machines[from].endpoint);
        let outgoing = endpoint.seal_datagram(now, channel, &number.to_be_bytes(), &mut out).unwrap();
        out[..outgoing.len].to_vec()
    };
    (0..count).map(&mut seal).collect()
}

/// An order from a seed.
fn shuffled(frames: Vec<Vec<u8>>, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    let mut keyed: Vec<(u64, Vec<u8>)> = Vec::new();
    for frame in frames {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        keyed.push((state >> 20, frame));
    }
    keyed.sort();
    keyed.into_iter().map(|(_, frame)| frame).collect()
}

type Catastrophe = fn(&mut Network);

const CATASTROPHES: &[(&str, Catastrophe)] = &[
    ("nothing", |_| {}),
    ("a burst of 10^6 lost records", |network| drop(seal(network, 0, 1_000_000))),
    ("bursts both ways", |network| {
        drop(seal(network, 0, 100_000));
        drop(seal(network, 1, 100_000));
    }),
    ("a burst over three epochs", |network| drop(seal(network, 1, 3_200_000))),
    ("any order, and each three times", |network| {
        let frames = seal(network, 0, 3000);
        let all = [frames.clone(), frames.clone(), frames].concat();
        for frame in shuffled(all, 7) {
            let _ = network.deliver(0, 1, frame);
        }
    }),
    ("truncation", |network| {
        for frame in seal(network, 0, 20) {
            (0..frame.len()).for_each(|len| assert!(network.deliver(0, 1, frame[..len].to_vec()).is_err()));
        }
    }),
    ("each bit of all that is said in an hour", |network| {
        let from = network.log.len();
        for _ in 0..20 {
            network.send(0, 1, b"question");
            network.send(1, 0, b"answer");
            network.run(SECOND * 180);
        }
        for (from, to, frame) in network.log.clone().drain(from..).filter(|(_, _, frame)| frame.len() < 100) {
            for bit in 0..frame.len() * 8 {
                let mut flipped = frame.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(network.deliver(from, to, flipped).is_err());
            }
        }
    }),
    ("everything replayed", |network| {
        for (from, to, frame) in network.log.clone() {
            let _ = network.deliver(from, to, frame.clone());
            let _ = network.deliver(to, from, frame);
        }
    }),
    ("a year of silence", |network| network.run(YEAR)),
    ("a day without a network", |network| {
        network.conditions.loss = 100;
        network.run(YEAR / 365);
        network.conditions.loss = 0;
    }),
    ("a clock that jumps", |network| network.now = network.now.after(YEAR)),
    ("a restart of 0", |network| {
        network.restart(0);
        network.open(0, 1);
    }),
    ("a restart of 1", |network| {
        network.restart(1);
        network.open(1, 0);
    }),
    ("a restart of both", |network| {
        network.restart(0);
        network.restart(1);
        network.open(0, 1);
        network.open(1, 0);
    }),
    ("a restart in the middle of a handshake", |network| {
        let (channel, now) = (network.channel(0, 1).unwrap(), network.now);
        network.machines[0].endpoint.missed_deadline(now, channel);
        for _ in 0..2 {
            network.drain();
            let (from, to, frame) = network.log.last().unwrap().clone();
            network.cut();
            let _ = network.deliver(from, to, frame);
        }
        network.restart(1);
        network.open(1, 0);
    }),
    ("a third message that is lost again and again", |network| {
        let (channel, now) = (network.channel(0, 1).unwrap(), network.now);
        network.machines[0].endpoint.missed_deadline(now, channel);
        for _ in 0..2000 {
            network.run(Duration::from_millis(10));
            if network.log.last().is_some_and(|(_, _, frame)| frame[0] == 0x13) {
                network.cut();
            }
        }
    }),
    ("nine of ten frames lost for an hour", |network| {
        network.conditions = Conditions { loss: 90, duplication: 10, damage: 10, delay: SECOND * 3 };
        network.run(SECOND * 3600);
        network.conditions = Conditions::default();
    }),
];

#[test]
fn after_the_worst_the_next_message_is_delivered() {
    for (index, (name, catastrophe)) in CATASTROPHES.iter().enumerate() {
        let mut network = opened(500 + index as u64);
        assert!(delivers(&mut network, 0, 0) && delivers(&mut network, 1, 0));
        catastrophe(&mut network);
        assert!(delivers(&mut network, 0, 1), "after {name}, from 0");
        assert!(delivers(&mut network, 1, 1), "after {name}, from 1");
        // And on: what it took to come back is over.
        network.run(SECOND * 400);
        assert!(delivers(&mut network, 1, 2) && delivers(&mut network, 0, 2), "some time after {name}");
    }
}
