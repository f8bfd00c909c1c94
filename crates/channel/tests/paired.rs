//! Two machines on a virtual clock: what they promise each other holds whatever the network does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_channel::{Event, FrameError, HandshakeError, PathId, SendError, Source};
use sealway_identity::{IdentityError, PayloadParts, Policy};
use sealway_testkit::network::{Conditions, Network, other};
use sealway_wire::{
    Lane,
    content::{CloseReason, Committed},
};

const SECOND: Duration = Duration::from_secs(1);

fn opened(seed: u64) -> Network {
    let mut network = Network::pair(seed);
    network.open(0, 1);
    network.run(SECOND);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    network
}

fn count(network: &Network, machine: usize, wanted: impl Fn(&Event) -> bool) -> usize {
    network.machines[machine].events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn the_flights_have_the_sizes_of_the_specification() {
    let network = opened(1);
    let sizes: Vec<(usize, u8, usize)> =
        network.log.iter().map(|(from, _, frame)| (*from, frame[0], frame.len())).take(4).collect();
    assert_eq!(sizes[0], (0, 0x11, 1246));
    assert_eq!(sizes[1], (1, 0x12, 1145));
    assert!((sizes[2].0, sizes[2].1) == (0, 0x13) && sizes[2].2 < 500, "{sizes:?}");
    // START: instance, a zero, the type; header 7 and tag 16.
    assert_eq!(sizes[3], (1, 0x96, 7 + 4 + 1 + 1 + 16));
}

#[test]
fn records_cost_23_octets_and_messages_26_live_and_28_stored() {
    let mut network = opened(2);
    network.send(0, 1, b"1234");
    assert_eq!(network.log.last().unwrap().2.len(), 4 + 23);
    network.send_message(0, 1, Lane::Live, 0, b"1234");
    assert_eq!(network.log.last().unwrap().2.len(), 4 + 26);
    network.send_message(1, 0, Lane::Stored, 0, b"5678");
    assert_eq!(network.log.last().unwrap().2.len(), 4 + 28);
    network.run(SECOND);
    assert_eq!(network.machines[1].received, [b"1234", b"1234"]);
    assert_eq!(network.machines[0].received, [b"5678"]);
}

#[test]
fn a_stranger_gets_no_octet() {
    // Specification: [M8].
    let mut network = Network::of(3, 3);
    network.open(0, 1);
    network.drain();
    // A card of somebody else: the gate does not fit, and nothing is answered.
    let to_1 = network.log[0].2.clone();
    assert_eq!(network.deliver(0, 2, to_1.clone()), Err(FrameError::Gate));
    for octet0 in 0..=255 {
        let mut frame = to_1.clone();
        frame[0] = octet0;
        frame[1] ^= 1;
        assert!(network.deliver(0, 1, frame).is_err());
    }
    assert!(network.machines[2].endpoint.poll_transmit(network.now, &mut [0; 2048]).is_none());
    assert!(network.machines[1].endpoint.poll_transmit(network.now, &mut [0; 2048]).is_none());
    assert_eq!(network.machines[1].endpoint.half_open(), 0, "nothing is kept before message 1 has opened");
}

#[test]
fn a_peer_that_policy_does_not_admit_learns_nothing_and_opens_nothing() {
    let mut network = Network::pair(4);
    let card = network.machines[1].card.clone();
    let now = network.now;
    let machine = &mut network.machines[0].endpoint;
    machine.open(now, &card, &Policy::only(&card), PayloadParts::default(), PathId(1)).unwrap();
    network.run(SECOND * 30);
    assert!(network.channel(0, 1).is_none() && network.channel(1, 0).is_none());
    let refusal = FrameError::Handshake(HandshakeError::Identity(IdentityError::NotAdmitted));
    assert!(network.machines[1].refused.contains(&refusal));
    assert!(count(&network, 0, |event| matches!(event, Event::AttemptFailed { .. })) > 0);
}

#[test]
fn who_is_not_admitted_by_the_policy_is_not_called() {
    let mut network = Network::pair(5);
    let card = network.machines[1].card.clone();
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    let nobody = endpoint.open(now, &card, &Policy::nobody(), PayloadParts::default(), PathId(1));
    assert_eq!(nobody, Err(sealway_channel::OpenError::NotAdmitted));
    let own = network.machines[0].card.clone();
    let endpoint = &mut network.machines[0].endpoint;
    let own = endpoint.open(now, &own, &Policy::only(&own), PayloadParts::default(), PathId(0));
    assert_eq!(own, Err(sealway_channel::OpenError::OwnCard));
}

/// Whichever single frame of the handshake is lost, both sides open; and neither says so before the other can.
#[test]
fn each_flight_may_be_lost() {
    for lost in 0..5 {
        let mut network = Network::pair(10 + lost as u64);
        network.open(0, 1);
        let mut sent = 0;
        let end = network.now.after(SECOND * 20);
        while network.now < end {
            network.conditions.loss = 0;
            let before = network.log.len();
            network.drain();
            if sent <= lost && network.log.len() > before {
                let dropped = lost >= before && lost < network.log.len();
                sent = network.log.len();
                if dropped {
                    network.cut();
                }
            }
            network.run(Duration::from_millis(20));
        }
        assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some(), "frame {lost}");
        network.send(0, 1, b"after");
        network.run(SECOND);
        assert_eq!(network.machines[1].received, [b"after"]);
    }
}

/// A responder whose START never arrives does not believe in a channel, and an initiator neither.
#[test]
fn no_side_reports_open_before_it_has_opened_a_record_of_the_other() {
    // Specification: [M29].
    let mut network = Network::pair(20);
    network.open(0, 1);
    network.conditions.loss = 100;
    for _ in 0..600 {
        network.run(Duration::from_millis(50));
        // Only handshake frames pass.
        for (from, to, frame) in std::mem::take(&mut network.log) {
            if frame[0] < 0x80 {
                let _ = network.deliver(from, to, frame);
            }
        }
    }
    assert!(network.channel(0, 1).is_none() && network.channel(1, 0).is_none());
    network.conditions.loss = 0;
    network.run(SECOND * 30);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some(), "and it opens when records pass");
}

#[test]
fn both_may_initiate_at_once_and_one_session_survives() {
    for seed in 30..40 {
        let mut network = Network::pair(seed);
        network.conditions.delay = Duration::from_millis(40);
        network.open(0, 1);
        network.open(1, 0);
        network.run(SECOND * 3);
        for machine in 0..2 {
            assert_eq!(count(&network, machine, |event| matches!(event, Event::Opened { .. })), 1);
            network.send(machine, other(machine), b"hello");
        }
        network.run(SECOND);
        assert_eq!(network.machines[0].received, [b"hello"]);
        assert_eq!(network.machines[1].received, [b"hello"]);
        let lower = network.lower();
        let sender_of_3 = network.log.iter().filter(|(_, _, frame)| frame[0] == 0x13).map(|(from, ..)| *from);
        assert!(sender_of_3.clone().any(|from| from == lower), "the lower id's handshake survives");
    }
}

#[test]
fn a_replayed_record_is_refused_and_so_is_a_reflected_one() {
    // Specification: [M26].
    let mut network = opened(40);
    network.send(0, 1, b"pay");
    let frame = network.log.last().unwrap().2.clone();
    network.run(SECOND);
    assert_eq!(network.deliver(0, 1, frame.clone()), Err(FrameError::Replayed));
    assert_eq!(network.deliver(1, 0, frame), Err(FrameError::UnknownConnection));
    assert_eq!(network.machines[1].received, [b"pay"]);
}

/// A record of one session, sent under the connection id of another pair's session, does not open there.
#[test]
fn crossed_records_are_refused() {
    let mut network = Network::of(41, 3);
    network.open(0, 1);
    network.open(0, 2);
    network.run(SECOND);
    network.send(0, 1, b"for one");
    let mut crossed = network.log.last().unwrap().2.clone();
    network.send(0, 2, b"for two");
    let genuine = network.log.last().unwrap().2.clone();
    network.cut();
    crossed[1..5].copy_from_slice(&genuine[1..5]);
    assert_eq!(network.deliver(0, 2, crossed), Err(FrameError::Rejected));
}

#[test]
fn no_bit_of_a_record_can_be_flipped() {
    // Specification: [M25].
    let mut network = opened(42);
    network.send(0, 1, b"an exact text");
    let frame = network.log.last().unwrap().2.clone();
    network.cut();
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(network.deliver(0, 1, flipped).is_err(), "bit {bit}");
    }
    network.deliver(0, 1, frame).unwrap();
    assert_eq!(network.machines[1].received, [b"an exact text"]);
}

/// Each bit of each flight, flipped, is refused, and the genuine frame completes the handshake afterwards.
#[test]
fn no_bit_of_the_handshake_can_be_flipped() {
    let mut network = Network::pair(43);
    network.open(0, 1);
    for flight in [0x11, 0x12, 0x13_u8] {
        network.drain();
        let (from, to, frame) = network.log.last().unwrap().clone();
        network.cut();
        assert_eq!(frame[0], flight);
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Each from a source of its own, or the limits on work would refuse it first.
            let outcome = network.deliver_from(from, to, Source::proven(bit as u64 + 10), flipped);
            assert!(!matches!(outcome, Ok(()) | Err(FrameError::Throttled)), "flight {flight:#x} bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(network.deliver(from, to, frame[..len].to_vec()).is_err(), "flight {flight:#x} cut to {len}");
        }
        network.deliver(from, to, frame).unwrap();
    }
    network.run(SECOND);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
}

/// Ockam's channel is dead for ever after a burst of 32 lost records. Here a million may be lost at once.
#[test]
fn a_burst_of_a_million_lost_records_does_no_harm() {
    let mut network = opened(44);
    let channel = network.channel(0, 1).unwrap();
    let mut out = [0; 64];
    for _ in 0..1_100_000 {
        network.machines[0].endpoint.seal_datagram(network.now, channel, b"lost", &mut out).unwrap();
    }
    network.send(0, 1, b"found");
    network.run(SECOND);
    assert_eq!(network.machines[1].received, [b"found"]);
    network.send(1, 0, b"answer");
    network.run(SECOND * 2);
    assert_eq!(network.machines[0].received, [b"answer"]);
}

#[test]
fn garbage_is_refused_without_panic_and_changes_nothing() {
    let mut network = opened(45);
    for len in 0..1400_usize {
        for octet0 in [0x11, 0x12, 0x13, 0x14, 0x94, 0x96, 0x9c, 0xd6, 0x00, 0xff] {
            let mut frame = vec![0x55; len];
            if let Some(first) = frame.first_mut() {
                *first = octet0;
            }
            assert!(network.deliver(0, 1, frame).is_err());
        }
    }
    network.send(0, 1, b"still here");
    network.run(SECOND);
    assert_eq!(network.machines[1].received, [b"still here"]);
}

#[test]
fn half_open_handshakes_are_bounded_per_source_and_in_time() {
    // Specification: [M30].
    let mut network = Network::pair(46);
    let mut frames = Vec::new();
    for _ in 0..12 {
        // Each restart of the initiator begins a handshake of its own.
        network.restart(0);
        network.open(0, 1);
        network.drain();
        frames.push(network.log.last().unwrap().2.clone());
        network.cut();
    }
    for frame in &frames {
        let now = network.now;
        let endpoint = &mut network.machines[1].endpoint;
        endpoint.handle_frame(now, PathId(0), Source::proven(7), &mut frame.clone()).unwrap();
    }
    assert_eq!(network.machines[1].endpoint.half_open(), 8);
    // A repetition is recognised: identical octets in, identical octets out, nothing new is kept.
    let mut out = [0; 2048];
    let mut answers = Vec::new();
    while let Some(outgoing) = network.machines[1].endpoint.poll_transmit(network.now, &mut out) {
        answers.push(out[..outgoing.len].to_vec());
    }
    network.deliver(0, 1, frames[11].clone()).unwrap();
    let again = network.machines[1].endpoint.poll_transmit(network.now, &mut out).unwrap();
    assert_eq!(out[..again.len], answers[11]);
    assert_eq!(network.machines[1].endpoint.half_open(), 8);
    network.conditions.loss = 100;
    network.run(SECOND * 11);
    assert_eq!(network.machines[1].endpoint.half_open(), 0);
}

#[test]
fn after_a_restart_of_either_side_the_channel_comes_back() {
    for restarted in 0..2 {
        let mut network = opened(50 + restarted as u64);
        network.restart(restarted);
        if restarted == 0 {
            network.open(0, 1);
        } else {
            // The responder comes back with the same policy but has no session; the initiator notices by the silence.
            let admit = Policy::only(&network.machines[0].card);
            network.machines[1].endpoint.admit(&admit);
            network.send(0, 1, b"into the void");
        }
        assert!(network.run_until(SECOND * 120, |network| network.channel(1, 0).is_some()));
        network.run(SECOND * 5);
        network.send(0, 1, b"one");
        network.send(1, 0, b"two");
        network.run(SECOND);
        assert_eq!(network.machines[1].received, [b"one"]);
        assert_eq!(network.machines[0].received, [b"two"]);
    }
}

#[test]
fn a_session_is_renewed_after_an_hour_without_a_gap() {
    let mut network = opened(60);
    for minute in 0..70_u32 {
        network.send(0, 1, &minute.to_be_bytes());
        network.send(1, 0, &minute.to_be_bytes());
        network.run(SECOND * 60);
    }
    let expected: Vec<Vec<u8>> = (0..70_u32).map(|minute| minute.to_be_bytes().to_vec()).collect();
    assert_eq!(network.machines[0].received, expected);
    assert_eq!(network.machines[1].received, expected);
    assert_eq!(count(&network, 0, |event| matches!(event, Event::Renewed { .. })), 1);
    assert_eq!(count(&network, 1, |event| matches!(event, Event::Renewed { .. })), 1);
}

#[test]
fn a_year_of_silence_does_no_harm() {
    let mut network = opened(61);
    network.run(SECOND * 3600 * 24 * 365);
    network.send(0, 1, b"spring");
    network.run(SECOND);
    assert_eq!(network.machines[1].received, [b"spring"]);
    let handshakes = network.log.iter().filter(|(_, _, frame)| frame[0] == 0x11).count();
    assert_eq!(handshakes, 366, "the first, one a day, and one for the message on a session of many hours");
}

#[test]
fn what_is_committed_is_told_to_the_sender() {
    let mut network = opened(62);
    let channel = network.channel(1, 0).unwrap();
    network.send_message(0, 1, Lane::Live, 0, b"commit me");
    network.run(Duration::from_millis(1));
    let instance = sealway_wire::Instance([0; 4]);
    let now = network.now;
    network.machines[1].endpoint.report_committed(
        now,
        channel,
        &Committed { instance, mark: 1, bitmap: &[], held: &[] },
        false,
    );
    let acks = |network: &Network| network.log.iter().filter(|(from, ..)| *from == 1).count();
    network.run(Duration::from_millis(20));
    let before = acks(&network);
    assert!(before >= 3, "an ACK has left within the delay");
    // One that the sender's window waits for does not wait for more to tell.
    let (now, committed) = (network.now, Committed { instance, mark: 2, bitmap: &[], held: &[] });
    network.machines[1].endpoint.report_committed(now, channel, &committed, true);
    network.run(Duration::from_millis(1));
    assert_eq!(acks(&network), before + 1);
}

#[test]
fn close_ends_the_channel_at_both_sides() {
    let mut network = opened(63);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.close(channel, CloseReason::Finished);
    network.run(SECOND);
    assert!(matches!(network.machines[1].events.last(), Some(Event::Closed { reason: CloseReason::Finished, .. })));
    let now = network.now;
    let gone = network.machines[0].endpoint.seal_datagram(now, channel, b"late", &mut [0; 64]);
    assert_eq!(gone, Err(SendError::NotOpen));
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_limit() {
    let mut network = opened(64);
    let channel = network.channel(0, 1).unwrap();
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    let mut out = vec![0; 20_000];
    let long = endpoint.seal_datagram(now, channel, &[0; 16_385], &mut out);
    assert_eq!(long, Err(SendError::TooLong { limit: 16_384, got: 16_385 }));
    assert!(endpoint.seal_datagram(now, channel, &[0; 16_384], &mut out).is_ok());
    assert!(matches!(endpoint.seal_datagram(now, channel, b"body", &mut [0; 20]), Err(SendError::Buffer(_))));
}

#[test]
fn exported_secrets_agree_and_differ_by_label_and_context() {
    let mut network = opened(65);
    let (here, there) = (network.channel(0, 1).unwrap(), network.channel(1, 0).unwrap());
    let mut export = |machine: usize, channel, label: &str, context: &[u8]| {
        let mut out = [0; 32];
        network.machines[machine].endpoint.export(channel, label, context, &mut out).unwrap();
        out
    };
    let secret = export(0, here, "psk", b"pair");
    assert_eq!(secret, export(1, there, "psk", b"pair"));
    assert_ne!(secret, export(0, here, "psk", b"pairs"));
    assert_ne!(secret, export(0, here, "pskp", b"air"));
}

/// Loss, reordering, duplication and damage at once: the channel opens, and what arrives is what was sent.
#[test]
fn bad_networks() {
    for seed in 100..160 {
        let mut network = Network::pair(seed);
        network.conditions =
            Conditions { loss: seed % 50, duplication: 20, damage: 10, delay: Duration::from_millis(seed * 7) };
        network.open(0, 1);
        if seed % 3 == 0 {
            network.open(1, 0);
        }
        let both = |network: &Network| network.channel(0, 1).is_some() && network.channel(1, 0).is_some();
        assert!(network.run_until(SECOND * 600, both), "seed {seed}");
        for number in 0..100_u32 {
            network.send(0, 1, &number.to_be_bytes());
            network.run(Duration::from_millis(20));
        }
        network.run(SECOND * 10);
        let mut received = network.machines[1].received.clone();
        received.sort();
        let total = received.len();
        received.dedup();
        assert_eq!(received.len(), total, "seed {seed}: nothing is opened twice");
        assert!(received.iter().all(|body| u32::from_be_bytes(body.as_slice().try_into().unwrap()) < 100));
        network.conditions = Conditions::default();
        network.run(SECOND * 30);
        let before = network.machines[1].received.len();
        network.send(0, 1, b"healed");
        network.run(SECOND);
        assert_eq!(network.machines[1].received.len(), before + 1, "seed {seed}: it works once the network heals");
    }
}
