//! Records: what their lengths tell, which path they take, and which of them open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_channel::{EPOCH_BITS, Event, FrameError, Padding, PathId};
use sealway_testkit::network::Network;
use sealway_wire::{Lane, RecordHeader};

const SECOND: Duration = Duration::from_secs(1);

fn opened(seed: u64) -> Network {
    let mut network = Network::of(seed, 3);
    network.open(0, 1);
    network.run(SECOND * 3);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    network
}

fn moves(network: &Network, machine: usize) -> Vec<PathId> {
    let path = |event: &Event| match event {
        Event::Moved { path, .. } => Some(*path),
        _ => None,
    };
    network.machines[machine].events.iter().filter_map(path).collect()
}

#[test]
fn padded_records_tell_the_magnitude_of_their_content() {
    let mut network = opened(1);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.set_padding(channel, Padding::Buckets);
    let before = network.log.len();
    let mut bodies = Vec::new();
    for len in [0, 1, 12, 37, 63, 64, 100, 127, 1000, 5000, 8191, 8192, 16_000, 16_383] {
        let body = vec![7; len];
        let mut out = vec![0; 40_000];
        let (now, endpoint) = (network.now, &mut network.machines[0].endpoint);
        let outgoing = endpoint.seal_datagram(now, channel, &body, &mut out).unwrap();
        network.carry(0, outgoing.path, out[..outgoing.len].to_vec());
        bodies.push(body);
    }
    // A message, and what the endpoint says by itself.
    network.send_message(0, 1, Lane::Live, 0, b"message");
    bodies.push(b"message".to_vec());
    network.machines[0].endpoint.ping(network.now, channel);
    network.send(1, 0, b"asks for an ACK");
    network.run(SECOND * 3);
    assert_eq!(network.machines[1].received, bodies);
    let sent: Vec<_> = network.log[before..].iter().filter(|(from, ..)| *from == 0).collect();
    assert!(sent.len() > bodies.len() + 1);
    for (_, _, frame) in sent {
        let header = RecordHeader::decode(frame).unwrap().0;
        let plaintext = frame.len() - header.len() - 16;
        assert!(header.typed && plaintext >= 64 && plaintext.is_power_of_two(), "{plaintext}");
    }
}

#[test]
fn a_deposit_is_padded_too() {
    let mut network = opened(2);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.set_padding(channel, Padding::Buckets);
    let short = network.deposit(0, 1, 0, b"1");
    let longer = network.deposit(0, 1, 1, b"as long as this");
    assert_eq!(short.len(), longer.len());
    network.deliver(0, 1, longer).unwrap();
    assert_eq!(network.machines[1].received, [b"as long as this"]);
}

/// The peer's address changes. Ours go to the old one until the new one has answered, then to the new one: without a
/// handshake, and without anything unauthenticated having been believed.
#[test]
fn records_follow_a_peer_that_moves() {
    // Specification: [M16].
    let mut network = opened(3);
    let handshakes = |network: &Network| network.log.iter().filter(|(_, _, frame)| frame[0] < 0x80).count();
    let before = handshakes(&network);
    // Machine 0 reaches machine 1 by way of 2 from now on: path 2 leads back to it.
    network.send(0, 1, b"from elsewhere");
    let frame = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(2, 1, frame).unwrap();
    network.send(1, 0, b"to the old path");
    assert_eq!(network.log.last().unwrap().1, 0);
    network.drain();
    let (from, to, challenge) = network.log.last().unwrap().clone();
    assert_eq!((from, to), (1, 2), "the challenge goes to the new path");
    assert!(challenge.len() <= 3 * (14 + 23), "no more than three times what came from there");
    network.cut();
    // The answer goes where the challenge came from, which is the path to machine 1 for machine 0.
    network.deliver(1, 0, challenge).unwrap();
    network.drain();
    let answer = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(2, 1, answer).unwrap();
    network.drain();
    assert_eq!(moves(&network, 1), [PathId(2)]);
    network.send(1, 0, b"to the new path");
    assert_eq!(network.log.last().unwrap().1, 2);
    assert_eq!(handshakes(&network), before);
}

#[test]
fn an_answer_to_a_challenge_counts_on_its_path_and_once() {
    let mut network = opened(4);
    network.send(0, 1, b"moved");
    let frame = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(2, 1, frame).unwrap();
    network.drain();
    let challenge = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(1, 0, challenge).unwrap();
    network.drain();
    let answer = network.log.last().unwrap().2.clone();
    network.cut();
    // It arrives on another path than the challenge was sent on.
    network.deliver(0, 1, answer).unwrap();
    network.drain();
    assert_eq!(moves(&network, 1), []);
    network.send(1, 0, b"stays");
    assert_eq!(network.log.last().unwrap().1, 0);
}

/// Somebody on the way repeats records from another address, and what is older than the newest comes from elsewhere.
#[test]
fn copies_and_stragglers_move_nothing() {
    let mut network = opened(5);
    network.send(0, 1, b"late");
    let late = network.log.last().unwrap().2.clone();
    network.send(0, 1, b"newest");
    let newest = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(0, 1, newest.clone()).unwrap();
    network.deliver(2, 1, late).unwrap();
    assert_eq!(network.deliver(2, 1, newest), Err(FrameError::Replayed));
    network.run(SECOND * 2);
    assert!(network.log.iter().all(|(_, to, _)| *to != 2), "nobody was challenged");
}

#[test]
fn a_path_that_the_shell_has_chosen_stays() {
    let mut network = opened(6);
    let channel = network.channel(1, 0).unwrap();
    network.machines[1].endpoint.pin_path(channel, PathId(0));
    network.send(0, 1, b"by another way");
    let frame = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(2, 1, frame).unwrap();
    network.run(SECOND * 2);
    assert!(network.log.iter().all(|(_, to, _)| *to != 2));
}

/// The next frame that machine `from` sends, which goes by the path `to`.
fn next(network: &mut Network, to: usize) -> Vec<u8> {
    let before = network.log.len();
    network.drain();
    let frames: Vec<_> = network.log[before..].iter().filter(|(_, path, _)| *path == to).collect();
    assert_eq!(frames.len(), 1, "one frame on that path");
    let frame = frames[0].2.clone();
    network.cut();
    frame
}

#[test]
fn a_way_that_is_tried_carries_records_when_its_answer_came_back_on_it() {
    // Specification: [M16].
    let mut network = opened(8);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.pin_path(channel, PathId(1));
    let back = network.channel(1, 0).unwrap();
    network.machines[1].endpoint.pin_path(back, PathId(0));
    let answered = |network: &Network| {
        let is_it = |event: &&Event| matches!(event, Event::PathAnswered { path: PathId(2), .. });
        network.machines[0].events.iter().filter(is_it).count()
    };
    network.machines[0].endpoint.try_path(channel, PathId(2));
    let challenge = next(&mut network, 2);
    assert!(challenge.len() <= 34);
    // It reaches machine 1 on its path 2, and the answer leaves there.
    network.deliver(2, 1, challenge).unwrap();
    let answer = next(&mut network, 2);
    // On another path it means nothing, and a copy nothing either.
    network.deliver(1, 0, answer).unwrap();
    assert_eq!(answered(&network), 0);
    network.machines[0].endpoint.try_path(channel, PathId(2));
    let challenge = next(&mut network, 2);
    network.deliver(2, 1, challenge).unwrap();
    let answer = next(&mut network, 2);
    network.deliver(2, 0, answer.clone()).unwrap();
    assert_eq!(network.deliver(2, 0, answer), Err(FrameError::Replayed));
    network.drain();
    assert_eq!(answered(&network), 1);
    network.send(0, 1, b"where it was");
    assert_eq!(network.log.last().unwrap().1, 1, "the shell decides");
    network.machines[0].endpoint.reroute(channel, PathId(2));
    network.send(0, 1, b"straight");
    assert_eq!(network.log.last().unwrap().1, 2);
}

#[test]
fn the_shell_hears_of_a_way_that_the_peer_tries_if_it_has_chosen_the_path() {
    for is_pinned in [true, false] {
        let mut network = opened(9);
        let channel = network.channel(1, 0).unwrap();
        if is_pinned {
            network.machines[1].endpoint.pin_path(channel, PathId(0));
        }
        let trying = network.channel(0, 1).unwrap();
        network.machines[0].endpoint.try_path(trying, PathId(2));
        let challenge = next(&mut network, 2);
        network.deliver(2, 1, challenge).unwrap();
        network.drain();
        let is_it = |event: &Event| matches!(event, Event::Challenged { path: PathId(2), .. });
        assert_eq!(network.machines[1].events.iter().any(is_it), is_pinned);
    }
}

#[test]
fn candidates_come_as_they_were_told() {
    let mut network = opened(10);
    let channel = network.channel(0, 1).unwrap();
    let told: Vec<std::net::SocketAddr> =
        ["192.0.2.1:7", "[2001:db8::1]:65535"].map(|text| text.parse().unwrap()).into();
    let mut out = [0; 256];
    let now = network.now;
    let outgoing = network.machines[0].endpoint.seal_candidates(now, channel, &told, true, &mut out).unwrap();
    network.deliver(0, 1, out[..outgoing.len].to_vec()).unwrap();
    network.drain();
    let came = network.machines[1].events.iter().find_map(|event| match event {
        Event::Candidates { addresses, answer_wanted, .. } => Some((addresses.clone(), *answer_wanted)),
        _ => None,
    });
    assert_eq!(came, Some((told, true)));
    // As many as there are places for.
    let many = vec!["192.0.2.1:7".parse().unwrap(); 100];
    let outgoing = network.machines[0].endpoint.seal_candidates(now, channel, &many, false, &mut out).unwrap();
    network.deliver(0, 1, out[..outgoing.len].to_vec()).unwrap();
    network.drain();
    let last = network.machines[1].events.last();
    assert!(matches!(last, Some(Event::Candidates { addresses, .. }) if addresses.len() == 8));
}

/// 2^20 records make an epoch: what was under way when it ended still opens, and one step needs no place among the jumps.
#[test]
fn a_record_of_the_epoch_before_opens() {
    let mut network = opened(7);
    let channel = network.channel(0, 1).unwrap();
    let mut out = [0; 64];
    let mut last = Vec::new();
    for number in 0..(1_u64 << EPOCH_BITS) + 40 {
        let (now, endpoint) = (network.now, &mut network.machines[0].endpoint);
        let outgoing = endpoint.seal_datagram(now, channel, &number.to_be_bytes(), &mut out).unwrap();
        if number > (1 << EPOCH_BITS) - 40 {
            last.push(out[..outgoing.len].to_vec());
        }
    }
    // The last one first: it is of the new epoch, the first ones are of the one before.
    for frame in last.iter().rev() {
        network.deliver(0, 1, frame.clone()).unwrap();
    }
    assert_eq!(network.machines[1].received.len(), last.len());
}

/// Each jump over epochs makes a receiver derive keys before it can see that a record is forged.
#[test]
fn forged_jumps_are_few() {
    // Specification: [M27].
    let mut network = opened(8);
    network.send(0, 1, b"genuine");
    let genuine = network.log.last().unwrap().2.clone();
    network.cut();
    let header = RecordHeader::decode(&genuine).unwrap().0;
    let mut outcomes = Vec::new();
    for epoch in 0..40_u32 {
        let counter = (3 + epoch % 20) << EPOCH_BITS;
        let mut forged = vec![(genuine[0] & !0b1100) | 0b1000];
        forged.extend(header.cid.unwrap().0);
        forged.extend(counter.to_be_bytes());
        forged.extend([0; 40]);
        outcomes.push(network.deliver(0, 1, forged).unwrap_err());
    }
    assert!(outcomes[..16].iter().all(|outcome| *outcome == FrameError::Rejected), "{outcomes:?}");
    assert!(outcomes[16..].iter().all(|outcome| *outcome == FrameError::TooFarAhead), "{outcomes:?}");
    network.deliver(0, 1, genuine).unwrap();
}

/// START is lost: it is repeated, and no second handshake is needed for it.
#[test]
fn a_lost_start_is_repeated() {
    let mut network = Network::pair(9);
    network.open(0, 1);
    // The responder's START, and with it everything else of two seconds.
    while network.log.last().is_none_or(|(_, _, frame)| frame[0] < 0x80) {
        network.drain();
        if network.log.last().is_some_and(|(_, _, frame)| frame[0] >= 0x80) {
            network.cut();
            break;
        }
        let (from, to, frame) = network.log.last().unwrap().clone();
        network.cut();
        network.deliver(from, to, frame).unwrap();
    }
    // S1.3 is not repeated to it, or START would be sent for that.
    let lower = |frame: &[u8]| frame[0] == 0x13;
    for _ in 0..100 {
        network.run(Duration::from_millis(20));
        if network.log.last().is_some_and(|(_, _, frame)| lower(frame)) {
            network.cut();
        }
    }
    network.run(SECOND * 5);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    let first = network.log.iter().filter(|(_, _, frame)| frame[0] == 0x11).count();
    assert_eq!(first, 1);
}

/// Each hears the other on another path than the one that it sends on: they come to rest.
#[test]
fn crossed_paths_come_to_rest() {
    let mut network = Network::of(10, 4);
    network.open(0, 1);
    network.run(SECOND * 3);
    // Machine 0 is to be reached by 0 and 2, machine 1 by 1 and 3: what goes to 2 or 3 arrives from 3 or 2.
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.set_path(channel, PathId(3));
    let mut sent = 0;
    for round in 0..200_u32 {
        if round % 50 == 0 {
            network.send(0, 1, b"from 0");
            network.send(1, 0, b"from 1");
        }
        let before = network.log.len();
        network.drain();
        let news: Vec<_> = network.log[before.saturating_sub(2 * usize::from(round % 50 == 0))..].to_vec();
        network.cut();
        sent += news.len();
        for (from, to, frame) in news {
            let (machine, path) = match to {
                0 | 1 => (to, PathId(from as u64)),
                2 => (0, PathId(3)),
                _ => (1, PathId(2)),
            };
            let now = network.now;
            let endpoint = &mut network.machines[machine].endpoint;
            let _ = endpoint.handle_frame(now, path, sealway_channel::Source::proven(0), &mut frame.clone());
        }
        network.now = network.now.after(Duration::from_millis(20));
    }
    assert!(sent < 60, "{sent} records for 8 that were sent");
}

/// Who repeats the third message from elsewhere gets one START, and nothing else ever goes there.
#[test]
fn a_copied_third_message_does_not_divert_the_session() {
    let mut network = Network::of(11, 3);
    network.open(0, 1);
    let message3 = network.third_message();
    network.deliver(0, 1, message3.clone()).unwrap();
    network.drain();
    network.deliver(2, 1, message3).unwrap();
    network.run(SECOND * 3);
    network.send(1, 0, b"answer");
    network.run(SECOND);
    assert_eq!(network.machines[0].received, [b"answer"]);
    assert!(network.log.iter().filter(|(_, to, _)| *to == 2).count() <= 1);
}

/// A record of the session before comes late: ours go on leaving under the new one.
#[test]
fn sending_never_moves_to_an_earlier_session() {
    // Specification: [M15].
    let mut network = opened(12);
    let cid = |frame: &[u8]| RecordHeader::decode(frame).unwrap().0.cid;
    network.send(1, 0, b"late");
    let late = network.log.last().unwrap().2.clone();
    network.cut();
    network.send(0, 1, b"before");
    let before = cid(&network.log.last().unwrap().2);
    let (channel, now) = (network.channel(0, 1).unwrap(), network.now);
    network.machines[0].endpoint.missed_deadline(now, channel);
    network.run(SECOND * 3);
    network.send(0, 1, b"after");
    let after = cid(&network.log.last().unwrap().2);
    assert_ne!(before, after);
    network.deliver(1, 0, late).unwrap();
    network.send(0, 1, b"still");
    assert_eq!(cid(&network.log.last().unwrap().2), after);
}
