//! What strangers can have a responder do and keep before it knows them: little, and the same however many they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_channel::{FrameError, HandshakeError, PathId, Source};
use sealway_testkit::network::Network;

const SECOND: Duration = Duration::from_secs(1);

/// First messages to machine 1, each of a handshake of its own, by somebody who has its card.
fn first_messages(network: &mut Network, count: usize) -> Vec<Vec<u8>> {
    let begin = |network: &mut Network| {
        network.restart(0);
        network.open(0, 1);
        network.drain();
        network.cut();
        network.log.last().unwrap().2.clone()
    };
    (0..count).map(|_| begin(network)).collect()
}

fn answers(network: &mut Network) -> Vec<Vec<u8>> {
    let mut out = [0; 2048];
    let (now, endpoint) = (network.now, &mut network.machines[1].endpoint);
    let mut answers = Vec::new();
    while let Some(outgoing) = endpoint.poll_transmit(now, &mut out) {
        answers.push(out[..outgoing.len].to_vec());
    }
    answers
}

/// Two half-open handshakes from each of 32 sources.
fn crowd(network: &mut Network) {
    for (index, frame) in first_messages(network, 64).into_iter().enumerate() {
        network.deliver_from(0, 1, Source::claimed(index as u64 / 2), frame).unwrap();
    }
    assert_eq!(network.machines[1].endpoint.half_open(), 64);
    assert!(answers(network).iter().all(|answer| answer[0] == 0x12));
}

#[test]
fn under_load_an_address_that_can_be_forged_has_to_answer() {
    // Specification: [M13].
    let mut network = Network::pair(1);
    crowd(&mut network);
    let first = first_messages(&mut network, 1).remove(0);
    let source = Source::claimed(100);
    assert_eq!(network.deliver_from(0, 1, source, first.clone()), Err(FrameError::CookieWanted));
    let retry = answers(&mut network).remove(0);
    assert_eq!((retry[0], retry.len()), (0x14, 25), "shorter than what it answers");
    assert_eq!(network.machines[1].endpoint.half_open(), 64, "nothing is kept");
    // Of a connection no cookie is wanted: what is sent there arrives.
    let other = first_messages(&mut network, 1).remove(0);
    network.deliver_from(0, 1, Source::proven(101), other).unwrap();
    answers(&mut network);
    // With the cookie the initiator is let in; from another address the same frame is not.
    let third = first_messages(&mut network, 1).remove(0);
    assert_eq!(network.deliver_from(0, 1, source, third.clone()), Err(FrameError::CookieWanted));
    let retry = answers(&mut network).remove(0);
    network.deliver(1, 0, retry.clone()).unwrap();
    network.drain();
    network.cut();
    let with_cookie = network.log.last().unwrap().2.clone();
    assert_eq!(with_cookie.len(), 1262);
    assert_eq!(with_cookie[25..], third[9..], "the Noise message of a flight exists once");
    assert_eq!(network.deliver_from(0, 1, Source::claimed(102), with_cookie.clone()), Err(FrameError::CookieWanted));
    answers(&mut network);
    network.deliver_from(0, 1, source, with_cookie).unwrap();
    network.run(SECOND * 5);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
}

#[test]
fn a_stale_cookie_is_answered_with_a_fresh_one() {
    let mut network = Network::pair(2);
    crowd(&mut network);
    let first = first_messages(&mut network, 1).remove(0);
    assert_eq!(network.deliver_from(0, 1, Source::claimed(1000), first), Err(FrameError::CookieWanted));
    let retry = answers(&mut network).remove(0);
    network.deliver(1, 0, retry).unwrap();
    network.drain();
    network.cut();
    let stale = network.log.last().unwrap().2.clone();
    network.now = network.now.after(SECOND * 300);
    network.machines[1].endpoint.handle_timeout(network.now);
    crowd(&mut network);
    assert_eq!(network.deliver_from(0, 1, Source::claimed(1000), stale), Err(FrameError::CookieWanted));
    assert_eq!(answers(&mut network).remove(0)[0], 0x14);
}

/// Who forges S1.R without proof achieves nothing; who holds the card and sees S1.1 makes it leave three times more.
#[test]
fn a_request_for_a_cookie_is_believed_with_its_proof_and_three_times() {
    // Specification: [M14].
    let mut network = Network::pair(3);
    crowd(&mut network);
    let first = first_messages(&mut network, 1).remove(0);
    let mut cookies = Vec::new();
    for source in 0..6 {
        assert_eq!(
            network.deliver_from(0, 1, Source::claimed(200 + source), first.clone()),
            Err(FrameError::CookieWanted)
        );
        cookies.push(answers(&mut network).remove(0));
    }
    for bit in 0..cookies[0].len() * 8 {
        let mut flipped = cookies[0].clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(network.deliver(1, 0, flipped).is_err(), "bit {bit}");
    }
    // Each is taken, but the first three alone have S1.1 sent at once: the genuine one is not shut out by forged ones.
    let mut sent = 0;
    for cookie in &cookies {
        network.deliver(1, 0, cookie.clone()).unwrap();
        assert!(network.deliver(1, 0, cookie.clone()).is_err(), "once");
        let before = network.log.len();
        network.drain();
        network.cut();
        sent += network.log.len() - before;
    }
    assert_eq!(sent, 3);
    network.run(SECOND * 5);
    let with_the_last = network.log.iter().rfind(|(_, _, frame)| frame[0] == 0x11).unwrap().2.clone();
    assert_eq!(with_the_last[9..25], cookies[5][9..], "S1.1 has gone out again, with the newest cookie");
}

#[test]
fn a_first_message_is_worked_on_once() {
    let mut network = Network::pair(4);
    let frames = first_messages(&mut network, 20);
    for (index, frame) in frames.iter().enumerate() {
        network.deliver_from(0, 1, Source::proven(index as u64), frame.clone()).unwrap();
    }
    answers(&mut network);
    network.now = network.now.after(SECOND * 11);
    network.machines[1].endpoint.handle_timeout(network.now);
    assert_eq!(network.machines[1].endpoint.half_open(), 0);
    for frame in frames {
        assert_eq!(network.deliver_from(0, 1, Source::proven(50), frame), Err(FrameError::Replayed));
    }
    assert!(answers(&mut network).is_empty() && network.machines[1].endpoint.half_open() == 0);
}

#[test]
fn what_one_source_has_us_compute_is_limited_and_others_are_served() {
    let mut network = Network::pair(5);
    let flood = first_messages(&mut network, 100);
    let throttled = flood.into_iter().map(|frame| network.deliver_from(0, 1, Source::proven(1), frame));
    let throttled = throttled.filter(|outcome| *outcome == Err(FrameError::Throttled)).count();
    assert_eq!(throttled, 36);
    assert_eq!(network.machines[1].endpoint.half_open(), 8);
    answers(&mut network);
    // Damaged ones cost a computation too, and count.
    let mut network = Network::pair(6);
    let damaged: Vec<_> = first_messages(&mut network, 1)
        .into_iter()
        .map(|mut frame| {
            frame[300] ^= 1;
            frame
        })
        .collect();
    let outcomes: Vec<_> = (0..70).map(|_| network.deliver_from(0, 1, Source::proven(1), damaged[0].clone())).collect();
    assert_eq!(outcomes[0], Err(FrameError::Handshake(HandshakeError::Noise)));
    assert_eq!(outcomes[69], Err(FrameError::Throttled));
    // The honest one from elsewhere opens meanwhile, and from there as soon as its budget has grown.
    network.restart(0);
    network.open(0, 1);
    network.run(SECOND * 5);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
}

#[test]
fn without_the_card_nothing_is_computed_kept_or_answered() {
    // Specification: [M7].
    let mut network = Network::pair(7);
    let genuine = first_messages(&mut network, 1).remove(0);
    for bit in 0..41 * 8 {
        // Gate, e, and octet 0: what the gate covers, and itself.
        let mut forged = genuine.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let outcome = network.deliver(0, 1, forged);
        assert!(
            matches!(outcome, Err(FrameError::Gate | FrameError::Decode(_) | FrameError::UnknownConnection)),
            "bit {bit}: {outcome:?}"
        );
    }
    assert!(answers(&mut network).is_empty());
    assert_eq!(network.machines[1].endpoint.half_open(), 0);
    let now = network.now;
    let endpoint = &mut network.machines[1].endpoint;
    endpoint.handle_frame(now, PathId(0), Source::proven(0), &mut genuine.clone()).unwrap();
    assert_eq!(endpoint.half_open(), 1, "and none of it had used up the budget");
}

/// A forged third message, by who has seen everything on the wire, does not spoil the handshake for the genuine one.
#[test]
fn a_third_message_without_proof_is_not_read() {
    // Specification: [M11].
    let mut network = Network::pair(8);
    network.open(0, 1);
    let genuine = network.third_message();
    assert_eq!(genuine[0], 0x13);
    network.cut();
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1; // s opens, the payload does not: Noise's state would be spent
    assert_eq!(network.deliver(0, 1, forged), Err(FrameError::Handshake(HandshakeError::Proof)));
    network.deliver(0, 1, genuine).unwrap();
    network.run(SECOND);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
}

/// Handshakes without end by somebody who has the card, each from another address.
#[test]
fn a_flood_of_half_open_handshakes_stays_in_its_bounds() {
    // Specification: [M31].
    let mut network = Network::pair(9);
    let mut kept = 0;
    for source in 0..1500 {
        let frame = first_messages(&mut network, 1).remove(0);
        network.deliver_from(0, 1, Source::proven(source + 10), frame).unwrap();
        answers(&mut network);
        kept = kept.max(network.machines[1].endpoint.half_open());
    }
    assert_eq!(kept, 1024);
}

/// Forged addresses, each used once: none of the limits of a source catches them, but the one that they share does.
#[test]
fn forged_addresses_share_one_budget() {
    let mut network = Network::pair(10);
    let mut damaged = first_messages(&mut network, 1).remove(0);
    damaged[300] ^= 1;
    let outcomes: Vec<_> =
        (0..200).map(|source| network.deliver_from(0, 1, Source::claimed(source), damaged.clone())).collect();
    let computed = outcomes.iter().filter(|outcome| **outcome == Err(FrameError::Handshake(HandshakeError::Noise)));
    assert_eq!(computed.count(), 64);
    assert_eq!(outcomes[199], Err(FrameError::CookieWanted));
}

/// Somebody sends in the name of another address: its owner is asked for a cookie, and is served with it.
#[test]
fn who_is_impersonated_gets_through_with_a_cookie() {
    let mut network = Network::pair(11);
    let victim = Source::claimed(7);
    for frame in first_messages(&mut network, 100) {
        let _ = network.deliver_from(0, 1, victim, frame);
    }
    assert_eq!(network.machines[1].endpoint.half_open(), 2);
    answers(&mut network);
    let own = first_messages(&mut network, 1).remove(0);
    assert_eq!(network.deliver_from(0, 1, victim, own), Err(FrameError::CookieWanted));
    let retry = answers(&mut network).remove(0);
    network.deliver(1, 0, retry).unwrap();
    network.drain();
    network.cut();
    let with_cookie = network.log.last().unwrap().2.clone();
    network.deliver_from(0, 1, victim, with_cookie).unwrap();
    network.run(SECOND * 5);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
}

/// A half-open handshake that had to make room is not refused for having been seen.
#[test]
fn who_was_driven_out_may_come_again() {
    let mut network = Network::pair(12);
    let source = Source::proven(3);
    let frames = first_messages(&mut network, 9);
    for frame in &frames {
        network.deliver_from(0, 1, source, frame.clone()).unwrap();
    }
    // The first has made room for the ninth.
    network.deliver_from(0, 1, source, frames[0].clone()).unwrap();
    assert_eq!(network.machines[1].endpoint.half_open(), 8);
}

/// The key before a rotation answers those who hold the old card, and not a moment longer than it was told to.
#[test]
fn an_earlier_key_ceases_to_answer_without_a_restart() {
    let mut network = Network::pair(91);
    let frame = first_messages(&mut network, 1).remove(0);
    let (now, until) = (network.now, network.now.after(100 * SECOND));
    network.machines[1].rotate(now, until, 92);
    let responder = &mut network.machines[1].endpoint;
    let late = responder.handle_frame(until, PathId(0), Source::proven(1), &mut frame.clone()).map(drop);
    assert_eq!(late, Err(FrameError::Gate));
    assert!(responder.handle_frame(now, PathId(0), Source::proven(1), &mut frame.clone()).is_ok());
    assert_eq!(responder.half_open(), 1);
}
