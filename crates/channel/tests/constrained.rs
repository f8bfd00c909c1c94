//! The constrained profile: its sizes, its ratchet under loss and power cuts, clones, recovery, forgeries.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::Duration;

use proptest::prelude::*;
use sealway_channel::{
    CallError, ChannelId, ConstrainedRecord, Event, FrameError, Pairing, PairingEvent, Role, SendError, Source,
    StateError,
};
use sealway_testkit::network::Network;
use sealway_testkit::pairing::{
    DEVICE, Fate, Pair, SERVICE, STEPS, cloned_device, interleave, keys, lengths, simulate,
};
use sealway_wire::{
    Counter, Lane,
    constrained::{Frame, MAX_PAYLOAD, MAX_RECORD, RecordHeader},
    content::{Ack, Content, Reliable},
};

const OPENED: PairingEvent = PairingEvent::Opened { recovered: false };

/// Two machines with a session that both know the other to have.
fn open() -> Pair {
    let mut pair = Pair::new(1);
    pair.call(&[]).unwrap();
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.events.clone()), [vec![OPENED], vec![OPENED]]);
    pair
}

fn handle(pair: &mut Pair, to: usize, frame: &[u8]) -> Result<(), FrameError> {
    let now = pair.now;
    let source = Source::proven(9);
    pair.machines[to].pairing.handle_frame(now, source, &mut frame.to_vec()).map(drop)
}

fn header(frame: &[u8]) -> RecordHeader {
    let Ok(Frame::Data(header, _)) = Frame::decode(frame) else { panic!("a record") };
    header
}

#[test]
fn a_handshake_is_two_messages_of_51_octets_and_a_record_costs_12() {
    let mut pair = open();
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    let lengths = lengths(&pair);
    assert_eq!(lengths[&0x21].iter().copied().collect::<Vec<_>>(), [51]);
    assert_eq!(lengths[&0x22].iter().copied().collect::<Vec<_>>(), [51]);
    // 16 octets of the application's; octet 0, connection id and counter before them, the tag behind.
    assert_eq!(pair.on_the_way[0].1.len(), 16 + 4 + 8);
    pair.machines[DEVICE].pairing.leave_out_cids();
    assert!(pair.send(DEVICE));
    assert_eq!(pair.on_the_way.last().unwrap().1.len(), 16 + 2 + 8, "the link names the peer");
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].committed.len(), 2);
    // After more than 127 records of which the peer has acknowledged none, the counter needs a second octet.
    (0..130).for_each(|_| assert!(pair.send(SERVICE)));
    assert_eq!(pair.on_the_way.last().unwrap().1.len(), 16 + 5 + 8);
}

#[test]
fn what_is_kept_is_small() {
    let mut pair = open();
    pair.send(SERVICE);
    pair.deliver_all();
    let device = pair.machines[DEVICE].disk.as_ref().unwrap().len();
    assert!(device <= 256, "{device} octets");
    let live = size_of::<Pairing<sealway_testkit::network::TestVault>>();
    println!("stored {device}, live {live} without sessions");
    assert!(live <= 1024, "{live} octets");
}

#[test]
fn early_data_and_the_reply_come_once_and_after_the_write() {
    // Specification: [M35].
    let mut pair = Pair::new(2);
    pair.machines[SERVICE].pairing.set_reply(b"sleep for an hour").unwrap();
    pair.call(b"river at 3.2 m").unwrap();
    assert_eq!(pair.call(b"again").unwrap_err(), CallError::UnderWay);
    let (_, call) = pair.on_the_way.remove(0);
    assert_eq!(call.len(), 51 + 14);
    // What an answer depends on is not written: nothing leaves, nothing is told.
    pair.machines[SERVICE].next_write = Fate::WrittenUnheard;
    pair.deliver(SERVICE, call.clone());
    assert!(pair.on_the_way.is_empty());
    assert_eq!(pair.machines[SERVICE].events, []);
    // The call comes again: the answer is the same octets, and what came early is not told a second time.
    pair.repeat();
    assert_eq!(pair.on_the_way, [(SERVICE, call.clone())], "the same octets");
    pair.deliver(SERVICE, call.clone());
    let (_, answer) = pair.on_the_way.last().unwrap().clone();
    pair.deliver(SERVICE, call);
    assert_eq!(pair.on_the_way.last().unwrap().1, answer);
    assert_eq!(answer.len(), 51 + 17);
    pair.deliver_all();
    assert_eq!(pair.machines[DEVICE].events, [PairingEvent::Reply(b"sleep for an hour".to_vec()), OPENED]);
    assert_eq!(pair.machines[SERVICE].events, [OPENED], "lost with the crash");
    // Without a crash it comes.
    pair.call(b"river at 3.4 m").unwrap();
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].events[1..], [PairingEvent::Early(b"river at 3.4 m".to_vec()), OPENED]);
}

#[test]
fn an_answer_to_a_source_that_can_be_forged_is_no_longer_than_the_call() {
    // Specification: [M38].
    let mut pair = Pair::new(9);
    pair.machines[SERVICE].pairing.set_reply(b"a reply").unwrap();
    for early in [&b"123456"[..], b"1234567"] {
        pair.call(early).unwrap();
        let (_, mut call) = pair.on_the_way.remove(0);
        let length = call.len();
        let now = pair.now;
        let service = &mut pair.machines[SERVICE].pairing;
        service.handle_frame(now, Source::claimed(1), &mut call).unwrap();
        let state = service.poll_state().unwrap().unwrap();
        service.written(state.version);
        let mut out = [0; MAX_RECORD];
        let len = service.poll_transmit(&mut out).unwrap().unwrap();
        assert!(len <= length);
        pair.deliver(DEVICE, out[..len].to_vec());
        pair.deliver_all();
    }
    assert_eq!(
        pair.machines[DEVICE].events,
        [OPENED, PairingEvent::Reply(b"a reply".to_vec()), OPENED],
        "it has waited"
    );
}

#[test]
fn nothing_is_sealed_or_sent_before_the_state_is_written() {
    // Specification: [M34] [M35] [M37].
    let mut pair = Pair::new(3);
    let device = &mut pair.machines[DEVICE].pairing;
    device.call(&[]).unwrap();
    let mut out = [0; MAX_RECORD];
    assert_eq!(device.poll_transmit(&mut out), Ok(None));
    let state = device.poll_state().unwrap().unwrap();
    assert_eq!(device.poll_transmit(&mut out), Ok(None));
    assert_eq!(device.poll_state(), Ok(None), "it is being written");
    device.not_written();
    let again = device.poll_state().unwrap().unwrap();
    assert_eq!(again.version, state.version);
    device.written(again.version);
    let len = device.poll_transmit(&mut out).unwrap().unwrap();
    handle(&mut pair, SERVICE, &out[..len]).unwrap();
    let service = &mut pair.machines[SERVICE].pairing;
    assert_eq!(service.poll_transmit(&mut out), Ok(None));
    let state = service.poll_state().unwrap().unwrap();
    service.written(state.version);
    let len = service.poll_transmit(&mut out).unwrap().unwrap();
    handle(&mut pair, DEVICE, &out[..len]).unwrap();
    let device = &mut pair.machines[DEVICE].pairing;
    assert_eq!(device.seal_datagram(b"x", &mut out), Err(SendError::NotOpen));
    let state = device.poll_state().unwrap().unwrap();
    device.written(state.version);
    assert!(device.seal_datagram(b"x", &mut out).is_ok());
}

#[test]
fn a_lost_answer_is_had_again_and_the_old_session_serves_until_then() {
    let mut pair = open();
    pair.call(&[]).unwrap();
    let (_, call) = pair.on_the_way.remove(0);
    pair.deliver(SERVICE, call);
    pair.on_the_way.clear(); // the answer
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.committed.len()), [1, 1]);
    pair.repeat();
    // A record of the old session overtakes the answer.
    assert!(pair.send(SERVICE));
    pair.deliver_all();
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.committed.len()), [3, 2]);
    assert_eq!(pair.machines[SERVICE].events, [OPENED, OPENED]);
}

#[test]
fn two_devices_with_one_key_and_psk_are_noticed_within_two_handshakes() {
    // Specification: [M36].
    let mut pair = Pair::new(4);
    let (vault, device_keys) = cloned_device(4);
    let mut clone = Pairing::new(vault, device_keys).unwrap();
    clone.call(&[]).unwrap();
    let state = clone.poll_state().unwrap().unwrap();
    clone.written(state.version);
    let mut out = [0; MAX_RECORD];
    let len = clone.poll_transmit(&mut out).unwrap().unwrap();
    let of_clone = out[..len].to_vec();
    // Before the first one's session is confirmed it is authentic: a clone, or one that went back in time.
    pair.call(&[]).unwrap();
    let (_, call) = pair.on_the_way.remove(0);
    pair.deliver(SERVICE, call);
    pair.deliver(SERVICE, of_clone.clone());
    assert_eq!(pair.machines[SERVICE].refused, [FrameError::Cloned]);
    assert_eq!(pair.machines[SERVICE].events, [PairingEvent::CloneSuspected]);
    // After it, what is left is a hint that anybody may have heard.
    pair.deliver_all();
    pair.now = pair.now.after(Duration::from_secs(61));
    pair.deliver(SERVICE, of_clone);
    assert_eq!(pair.machines[SERVICE].events, [PairingEvent::CloneSuspected, OPENED, PairingEvent::PskUsedAgain]);
    pair.heals();
}

#[test]
fn a_session_makes_a_pairing() {
    let mut network = Network::pair(6);
    network.open(1, 0);
    let both = |network: &Network| [(0, 1), (1, 0)].map(|(own, peer)| network.channel(own, peer));
    assert!(network.run_until(Duration::from_secs(5), |network| both(network).iter().all(Option::is_some)));
    let roles = [Role::Initiator, Role::Responder];
    let mut ends: Vec<_> = [0, 1]
        .map(|end| {
            let machine = &mut network.machines[end];
            let channel = opened(&machine.events);
            let keys = machine.endpoint.pairing(channel, roles[end]).unwrap();
            Pairing::new(machine.vault().clone(), keys).unwrap()
        })
        .into();
    let mut service = ends.pop().unwrap();
    let mut device = ends.pop().unwrap();
    device.call(b"first words").unwrap();
    let mut out = [0; MAX_RECORD];
    // The call, the answer, START, and START back.
    for turn in 0..4 {
        let (from, to) = if turn % 2 == 0 { (&mut device, &mut service) } else { (&mut service, &mut device) };
        if let Some(state) = from.poll_state().unwrap() {
            from.written(state.version);
        }
        let len = from.poll_transmit(&mut out).unwrap().expect("its turn");
        to.handle_frame(network.now, Source::proven(1), &mut out[..len]).unwrap();
    }
    for end in [&mut device, &mut service] {
        if let Some(state) = end.poll_state().unwrap() {
            end.written(state.version);
        }
    }
    assert_eq!(service.poll_event(), Some(PairingEvent::Early(b"first words".to_vec())));
    assert_eq!(service.poll_event(), Some(OPENED));
    // Without a session there is none.
    let stranger = &mut Network::pair(7).machines[0];
    let refused = stranger.endpoint.pairing(ChannelId(0), Role::Initiator);
    assert!(matches!(refused, Err(SendError::UnknownChannel)));
}

fn opened(events: &[Event]) -> ChannelId {
    let opened = events.iter().find_map(|event| match event {
        Event::Opened { channel, .. } => Some(*channel),
        _ => None,
    });
    opened.expect("open")
}

#[test]
fn the_hints_of_each_handshake_are_its_own() {
    let mut pair = Pair::new(5);
    let mut hints = std::collections::BTreeSet::new();
    for round in 1..=4 {
        pair.call(&[]).unwrap();
        while !pair.on_the_way.is_empty() {
            for (_, frame) in &pair.on_the_way {
                if let Ok(Frame::Message1(message) | Frame::Message2(message)) = Frame::decode(frame) {
                    hints.insert(message.hint);
                }
            }
            let (to, frame) = pair.on_the_way.remove(0);
            pair.deliver(to, frame);
        }
        assert_eq!(hints.len(), 2 * round, "who hears two calls of a device cannot tell that they are of one");
    }
}

#[test]
fn a_device_that_has_lost_its_state_is_recovered_by_its_operator() {
    // Specification: [M39].
    let mut pair = open();
    pair.machines[DEVICE].disk = None;
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.call(&[]).unwrap();
    for _ in 0..12 {
        pair.repeat();
        pair.deliver_all();
        pair.now = pair.now.after(Duration::from_secs(10));
    }
    let service = &pair.machines[SERVICE];
    assert!(service.events.contains(&PairingEvent::PskUsedAgain));
    assert!(service.refused.contains(&FrameError::UnknownConnection), "nobody has allowed it");
    assert!(pair.machines[DEVICE].events.len() == 1);
    let calls = pair.log.iter().filter(|(to, frame)| *to == SERVICE && frame[0] == 0x21);
    assert!(calls.map(|(_, frame)| frame.len()).all(|len| len == 51), "a recovery fits where an ordinary call does");
    let until = pair.now.after(Duration::from_secs(600));
    pair.machines[SERVICE].pairing.open_recovery(until);
    pair.repeat();
    pair.repeat();
    pair.deliver_all();
    let recovered = PairingEvent::Opened { recovered: true };
    assert_eq!(pair.machines[DEVICE].events.last(), Some(&recovered));
    assert_eq!(pair.machines[SERVICE].events.last(), Some(&recovered));
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.committed.len()), [1, 1]);
    // The next handshake is an ordinary one. The recovery psk has not changed: nobody can use the old call again.
    pair.call(&[]).unwrap();
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].events.last(), Some(&OPENED));
    let old = pair.log.iter().filter(|(to, frame)| *to == SERVICE && frame[0] == 0x21).cloned().collect::<Vec<_>>();
    let events = pair.machines[SERVICE].events.len();
    for (to, frame) in old {
        pair.deliver(to, frame);
    }
    assert!(pair.machines[SERVICE].events[events..].iter().all(|event| *event == PairingEvent::PskUsedAgain));
    // A device that has lost everything twice counts from one again: somebody there has to ask for another number.
    pair.machines[DEVICE].disk = None;
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.call(&[]).unwrap();
    let until = pair.now.after(Duration::from_secs(6000));
    pair.machines[SERVICE].pairing.open_recovery(until);
    let tries = |pair: &mut Pair| {
        for _ in 0..12 {
            pair.repeat();
            pair.deliver_all();
            pair.now = pair.now.after(Duration::from_secs(60));
        }
    };
    tries(&mut pair);
    assert_ne!(pair.machines[SERVICE].events.last(), Some(&recovered));
    pair.machines[DEVICE].pairing.renew_recovery();
    tries(&mut pair);
    assert_eq!(pair.machines[SERVICE].events.last(), Some(&recovered));
}

#[test]
fn after_a_restart_records_still_open_and_none_a_second_time() {
    // Specification: [M41].
    let mut pair = open();
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    let now = pair.now;
    pair.machines.iter_mut().for_each(|machine| machine.restart(now));
    for (to, frame) in pair.log.clone() {
        pair.deliver(to, frame);
    }
    pair.on_the_way.clear();
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    assert!(pair.on_the_way.iter().all(|(_, frame)| header(frame).incarnation.is_some()), "under a fresh key");
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.committed.len()), [2, 2]);
    // And again, also of what came under the incarnation.
    let now = pair.now;
    pair.machines.iter_mut().for_each(|machine| machine.restart(now));
    for (to, frame) in pair.log.clone() {
        pair.deliver(to, frame);
    }
    pair.heals();
}

#[test]
fn two_copies_of_a_store_never_use_a_nonce_twice() {
    let mut pair = open();
    pair.send(SERVICE);
    pair.deliver_all();
    let (vault, device_keys) = cloned_device(1);
    let now = pair.now;
    // The audit of the provider holds all of them against each other.
    let state = pair.machines[DEVICE].disk.clone().unwrap();
    for _ in 0..4 {
        let mut copy = Pairing::restore(vault.clone(), device_keys.clone(), now, &state).unwrap();
        let mut out = [0; MAX_RECORD];
        assert_eq!(copy.seal_datagram(b"too early", &mut out), Err(SendError::NotOpen), "the restart is not written");
        let state = copy.poll_state().unwrap().unwrap();
        copy.written(state.version);
        for _ in 0..2 {
            // Different in each copy.
            copy.seal_datagram(&copy.instance().0, &mut out).unwrap();
        }
    }
}

#[test]
fn a_call_written_before_a_restart_makes_a_session_that_copies_may_have_too() {
    // Specification: [M41].
    let mut pair = Pair::new(5);
    pair.call(b"early").unwrap();
    let state = pair.machines[DEVICE].disk.clone().unwrap();
    let (_, call) = pair.on_the_way[0].clone();
    let [(vault, device_keys), _] = keys(5);
    let now = pair.now;
    let mut copy = Pairing::restore(vault, device_keys, now, &state).unwrap();
    pair.machines[DEVICE].restart(now);
    pair.deliver(SERVICE, call);
    let (_, answer) = pair.on_the_way.iter().find(|(to, _)| *to == DEVICE).unwrap().clone();
    let mut out = [0; MAX_RECORD];
    for device in [&mut copy, &mut pair.machines[DEVICE].pairing] {
        device.handle_frame(now, Source::proven(1), &mut answer.clone()).unwrap();
        let state = device.poll_state().unwrap().unwrap();
        device.written(state.version);
        // The audit of the provider compares the two.
        let len = device.seal_datagram(&[device.instance().0[0]; 4], &mut out).unwrap();
        assert!(header(&out[..len]).incarnation.is_some());
    }
}

#[test]
fn forgeries_are_few_and_cost_their_source_alone() {
    // Specification: [M40].
    let mut pair = open();
    assert!(pair.send(DEVICE));
    let (_, genuine) = pair.on_the_way.pop().unwrap();
    let now = pair.now;
    let service = &mut pair.machines[SERVICE].pairing;
    let mut outcomes = Vec::new();
    for bit in 0..genuine.len() * 8 {
        let mut forged = genuine.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        outcomes.push(service.handle_frame(now, Source::claimed(7), &mut forged).map(drop).unwrap_err());
    }
    assert_eq!(outcomes.iter().filter(|error| **error == FrameError::Rejected).count(), 64);
    assert!(outcomes.contains(&FrameError::Throttled));
    let mut same_source = genuine.clone();
    assert!(matches!(service.handle_frame(now, Source::claimed(7), &mut same_source), Err(FrameError::Throttled)));
    let mut genuine = genuine;
    let received = service.handle_frame(now, Source::claimed(8), &mut genuine);
    assert!(matches!(received, Ok(ConstrainedRecord::Datagram(_))));
}

#[test]
fn calls_that_are_not_authentic_change_nothing() {
    // Specification: [M33].
    let mut pair = Pair::new(6);
    pair.call(b"early data").unwrap();
    let (_, call) = pair.on_the_way.remove(0);
    for bit in 0..call.len() * 8 {
        let mut forged = call.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let refused = handle(&mut pair, SERVICE, &forged).unwrap_err();
        let is_of_hint = (8..24).contains(&bit);
        assert!(!is_of_hint || refused == FrameError::UnknownConnection, "bit {bit}: {refused:?}");
        pair.now = pair.now.after(Duration::from_secs(1));
    }
    assert_eq!(pair.machines[SERVICE].pairing.poll_state(), Ok(None));
    pair.deliver(SERVICE, call);
    let (_, answer) = pair.on_the_way.remove(0);
    for bit in 0..answer.len() * 8 {
        let mut forged = answer.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(handle(&mut pair, DEVICE, &forged).is_err(), "bit {bit}");
        pair.now = pair.now.after(Duration::from_secs(1));
    }
    pair.deliver(DEVICE, answer);
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].events[1..], [OPENED]);
}

#[test]
fn the_stored_lane_takes_typed_records_alone() {
    let mut pair = open();
    let mut out = [0; MAX_RECORD];
    let device = &mut pair.machines[DEVICE].pairing;
    let len = device.seal(Lane::Stored, &Content::Data(b"kept by a relay"), &mut out).unwrap();
    let frame = out[..len].to_vec();
    let now = pair.now;
    let service = &mut pair.machines[SERVICE].pairing;
    for _ in 0..2 {
        let mut frame = frame.clone();
        let received = service.handle_frame(now, Source::proven(1), &mut frame).unwrap();
        assert!(matches!(received, ConstrainedRecord::Typed(Lane::Stored, Content::Data(b"kept by a relay"))));
    }
}

#[test]
fn a_device_that_sleeps_between_any_two_records_asks_for_a_session_in_time() {
    let mut pair = open();
    let mut wakes = 0;
    for _ in 0..200 {
        let now = pair.now;
        pair.machines[DEVICE].restart(now);
        wakes += 1;
        if pair.machines[DEVICE].pairing.is_due(now) {
            pair.call(&[]).unwrap();
            pair.deliver_all();
            wakes = 0;
        }
        assert!(wakes <= 32, "the service follows 64");
        assert!(pair.send(DEVICE));
        pair.deliver_all();
        pair.now = pair.now.after(Duration::from_secs(900));
    }
    assert_eq!(pair.machines[SERVICE].committed.len(), 200);
}

#[test]
fn a_device_that_sleeps_notices_that_nothing_comes_back() {
    let mut pair = open();
    let mut sent = 0;
    while !pair.machines[DEVICE].pairing.is_due(pair.now) {
        for _ in 0..20 {
            assert!(pair.send(DEVICE));
            sent += 1;
        }
        pair.on_the_way.clear();
        pair.save(DEVICE);
        let now = pair.now;
        pair.machines[DEVICE].restart(now);
    }
    assert!(sent <= 96 + 20 * 6, "{sent}");
}

#[test]
fn floods_of_forgeries_do_not_keep_a_peer_out_that_restarts_and_is_known() {
    let mut pair = open();
    let peer = Source::claimed(5);
    pair.source = peer;
    assert!(pair.send(DEVICE));
    pair.deliver_all();
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    for number in 0..5000_u64 {
        let forged = [&[0xac, 0, 0, 0, 0][..], &number.to_be_bytes()[4..], &[0; 8]].concat();
        let service = &mut pair.machines[SERVICE].pairing;
        assert!(service.handle_frame(now, Source::claimed(100 + number), &mut forged.clone()).is_err());
    }
    assert!(pair.send(DEVICE));
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].committed.len(), 2);
}

#[test]
fn what_a_relay_held_back_before_a_restart_does_not_become_the_newest() {
    let mut pair = open();
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.send_typed(DEVICE, Lane::Stored);
    let (_, held_back) = pair.on_the_way.remove(0);
    pair.machines[DEVICE].restart(now);
    assert!(pair.send(DEVICE));
    pair.deliver_all();
    pair.deliver(SERVICE, held_back);
    assert_eq!(pair.machines[SERVICE].pairing.opened().unwrap().largest(), 0, "of the newest incarnation");
}

#[test]
fn what_comes_on_the_session_before_opens_after_a_restart_too() {
    let mut pair = open();
    assert!(pair.send(SERVICE));
    let (_, late) = pair.on_the_way.remove(0);
    pair.call(&[]).unwrap();
    for _ in 0..2 {
        let (to, frame) = pair.on_the_way.remove(0);
        pair.deliver(to, frame);
    }
    // The device has the answer, the service does not know.
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.deliver(DEVICE, late);
    assert_eq!(pair.machines[DEVICE].committed.len(), 1);
    pair.on_the_way.clear();
    pair.heals();
}

#[test]
fn a_device_that_sleeps_between_any_two_calls_comes_to_a_recovery() {
    let mut pair = open();
    pair.machines[DEVICE].disk = None;
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.machines[SERVICE].pairing.open_recovery(now.after(Duration::from_secs(1_000_000)));
    pair.call(&[]).unwrap();
    for _ in 0..12 {
        let now = pair.now;
        pair.machines[DEVICE].restart(now);
        pair.repeat();
        pair.deliver_all();
        pair.now = pair.now.after(Duration::from_secs(900));
    }
    assert_eq!(pair.machines[SERVICE].events.last(), Some(&PairingEvent::Opened { recovered: true }));
}

#[test]
fn a_service_that_has_filled_its_lane_is_heard_by_the_device() {
    let mut pair = open();
    let now = pair.now;
    let mut out = [0; MAX_RECORD];
    while let Ok(len) = pair.machines[SERVICE].pairing.seal_datagram(b"", &mut out) {
        let device = &mut pair.machines[DEVICE].pairing;
        let _ = device.handle_frame(now, Source::proven(1), &mut out[..len]);
    }
    assert!(pair.machines[DEVICE].pairing.is_due(now));
}

#[test]
fn reserved_counters_cost_a_device_that_sleeps_nothing_on_the_air() {
    // Specification: [M48].
    let mut pair = Pair::new(1);
    pair.machines[DEVICE].reserve_counters();
    pair.call(&[]).unwrap();
    pair.deliver_all();
    assert_eq!(pair.machines[DEVICE].events, [OPENED]);
    // More restarts than a peer would follow, each behind a block, over the end of an epoch.
    let mut last = None;
    for wake in 0..100 {
        let now = pair.now;
        pair.machines[DEVICE].restart(now);
        for _ in 0..=wake % 3 {
            assert!(pair.send(DEVICE));
            let (_, frame) = pair.on_the_way.last().unwrap();
            let header = header(frame);
            assert_eq!(header.incarnation, None);
            assert_eq!(frame.len(), header.len() + 16 + 8, "as long as any other");
            let counter =
                header.counter.expand(Counter::new(last.map_or(0, |last: u64| last + 1)).unwrap()).unwrap().get();
            assert!(last.is_none_or(|last| counter > last), "no counter is used twice");
            last = Some(counter);
        }
        if wake % 2 == 0 {
            assert!(pair.send(SERVICE));
            pair.deliver_all();
        }
        pair.on_the_way.clear();
    }
    assert!(last.unwrap() >= 100 * 64 && !pair.machines[DEVICE].pairing.is_due(pair.now));
    // What is not reserved on disk is not used.
    let mut out = [0; MAX_RECORD];
    let device = &mut pair.machines[DEVICE].pairing;
    let sealed = (0..100).take_while(|_| device.seal_datagram(b"", &mut out).is_ok()).count();
    assert!((48..=64).contains(&sealed), "{sealed}");
    assert_eq!(device.seal_datagram(b"", &mut out), Err(SendError::NotOpen));
    pair.save(DEVICE);
    assert!(pair.machines[DEVICE].pairing.seal_datagram(b"", &mut out).is_ok());
    // Of the stored lane nobody knows what was used.
    let stored = pair.machines[DEVICE].pairing.seal(Lane::Stored, &Content::Data(b"kept"), &mut out);
    assert_eq!(stored, Err(SendError::LaneStopped));
}

#[test]
fn what_an_earlier_run_said_of_itself_is_not_taken_after_what_the_present_one_says() {
    // Specification: [M50].
    let mut pair = Pair::new(1);
    pair.machines[DEVICE].reserve_counters();
    pair.call(&[]).unwrap();
    for _ in 0..2 {
        let (to, frame) = pair.on_the_way.remove(0);
        pair.deliver(to, frame);
    }
    // A START of the first run is held back, and with it a message that relies on it.
    pair.on_the_way.clear();
    pair.repeat();
    let (_, first) = pair.on_the_way.remove(0);
    let message = |instance| {
        let message = Reliable { instance, number: 0, lowest: 0, unwanted: 0, part: None, body: b"1" };
        Content::Reliable(message)
    };
    let mut relies = vec![0; MAX_RECORD];
    let len = pair.machines[DEVICE].pairing.seal(Lane::Live, &message(None), &mut relies).unwrap();
    relies.truncate(len);
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.repeat();
    let (_, second) = pair.on_the_way.remove(0);
    let present = pair.machines[DEVICE].pairing.instance();
    let service = &mut pair.machines[SERVICE].pairing;
    let mut take = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        match service.handle_frame(now, Source::proven(1), &mut frame).unwrap() {
            ConstrainedRecord::Typed(_, Content::Start(start)) => Some(start.instance),
            ConstrainedRecord::Nothing => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([&second, &first, &relies].map(|frame| take(frame)), [Some(present), None, None]);
}

#[test]
fn where_the_link_names_the_peer_a_handshake_is_twice_forty_eight_octets() {
    // Specification: [M49].
    let source = Source::claimed(1);
    let mut pair = Pair::new(1);
    let bare_of = |pair: &mut Pair, to: usize| {
        let (at, frame) = pair.on_the_way.remove(0);
        assert_eq!(at, to);
        let noise = sealway_wire::constrained::bare(&frame).unwrap().to_vec();
        assert_eq!((frame.len(), noise.len()), (51, 48));
        noise
    };
    for round in 0..3 {
        pair.call(&[]).unwrap();
        let call = bare_of(&mut pair, SERVICE);
        // Damaged, twice for each psk: the one that is whole comes after them.
        for bit in 0..6 {
            let mut damaged = call.clone();
            damaged[40] ^= 1 << bit;
            let now = pair.now;
            assert!(pair.machines[SERVICE].pairing.handle_bare(now, source, &damaged).is_err());
        }
        let answer = |pair: &mut Pair| {
            let now = pair.now;
            // One of its repetitions reaches the psk.
            let service = &mut pair.machines[SERVICE].pairing;
            assert!((0..3).any(|_| service.handle_bare(now, source, &call).is_ok()));
            pair.settle(SERVICE);
            bare_of(pair, DEVICE)
        };
        let first = answer(&mut pair);
        assert_eq!(answer(&mut pair), first, "the same octets");
        let now = pair.now;
        let device = &mut pair.machines[DEVICE].pairing;
        let mut forged = first.clone();
        forged[47] ^= 1;
        assert!(device.handle_bare(now, source, &forged).is_err());
        device.handle_bare(now, source, &first).unwrap();
        pair.settle(DEVICE);
        // In the second round START is lost: a call under the next psk counts as a record.
        if round == 1 {
            pair.on_the_way.clear();
        }
        pair.deliver_all();
    }
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    assert_eq!(pair.machines.each_ref().map(|machine| machine.committed.len()), [1, 1]);
    for octets in [&[][..], &[0; 47], &[0; 48 + 193]] {
        let now = pair.now;
        assert!(pair.machines.iter_mut().all(|machine| machine.pairing.handle_bare(now, source, octets).is_err()));
    }
}

#[test]
fn what_anybody_can_cause_does_not_silence_the_report_of_a_clone() {
    let mut pair = open();
    let mut used = pair.log.iter().find(|(_, frame)| frame[0] == 0x21).unwrap().1.clone();
    *used.last_mut().unwrap() ^= 1;
    pair.deliver(SERVICE, used);
    let (vault, device_keys) = cloned_device(1);
    let now = pair.now;
    let mut clone = Pairing::restore(vault, device_keys, now, pair.machines[DEVICE].disk.as_ref().unwrap()).unwrap();
    pair.call(&[]).unwrap();
    let (_, call) = pair.on_the_way.remove(0);
    pair.deliver(SERVICE, call);
    clone.call(&[]).unwrap();
    let state = clone.poll_state().unwrap().unwrap();
    clone.written(state.version);
    let mut out = [0; MAX_RECORD];
    let len = clone.poll_transmit(&mut out).unwrap().unwrap();
    pair.deliver(SERVICE, out[..len].to_vec());
    let events = &pair.machines[SERVICE].events[1..];
    assert_eq!(events, [PairingEvent::PskUsedAgain, PairingEvent::CloneSuspected]);
}

#[test]
fn a_record_that_a_relay_repeats_is_no_sign_of_life_and_needs_no_write() {
    let mut pair = open();
    let mut out = [0; MAX_RECORD];
    let service = &mut pair.machines[SERVICE].pairing;
    let len = service.seal(Lane::Stored, &Content::Data(b"kept"), &mut out).unwrap();
    let kept = out[..len].to_vec();
    for _ in 0..97 {
        assert!(pair.send(DEVICE));
        pair.save(DEVICE);
        let (now, device) = (pair.now, &mut pair.machines[DEVICE].pairing);
        device.handle_frame(now, Source::proven(1), &mut kept.clone()).unwrap();
        assert_eq!(device.poll_state(), Ok(None));
    }
    assert!(pair.machines[DEVICE].pairing.is_due(pair.now));
}

#[test]
fn an_acknowledgement_of_the_session_before_counts_for_nothing() {
    let mut pair = open();
    (0..250).for_each(|_| assert!(pair.send(DEVICE)));
    pair.deliver_all();
    let mut late = vec![0; MAX_RECORD];
    let opened = pair.machines[SERVICE].pairing.opened().unwrap();
    let ack = Content::Ack(Ack { opened: Some((Lane::Live, opened)), committed: None });
    let len = pair.machines[SERVICE].pairing.seal(Lane::Live, &ack, &mut late).unwrap();
    late.truncate(len);
    pair.call(&[]).unwrap();
    pair.deliver_all();
    (0..300).for_each(|_| assert!(pair.send(DEVICE)));
    pair.on_the_way.clear();
    pair.deliver(DEVICE, late);
    let committed = pair.machines[SERVICE].committed.len();
    assert!(pair.send(DEVICE));
    pair.deliver_all();
    assert_eq!(pair.machines[SERVICE].committed.len(), committed + 1);
}

#[test]
fn a_confirmation_that_is_not_written_is_not_relied_upon() {
    let mut pair = open();
    pair.call(&[]).unwrap();
    for _ in 0..2 {
        let (to, frame) = pair.on_the_way.remove(0);
        pair.deliver(to, frame);
    }
    let (_, start) = pair.on_the_way.pop().unwrap();
    let now = pair.now;
    let service = &mut pair.machines[SERVICE].pairing;
    service.handle_frame(now, Source::proven(1), &mut start.clone()).unwrap();
    let mut out = [0; MAX_RECORD];
    assert_eq!(service.poll_transmit(&mut out), Ok(None));
    assert_eq!(service.seal_datagram(b"x", &mut out), Err(SendError::NotOpen));
    assert_eq!(service.poll_event(), None);
    assert_eq!(service.opened(), None);
    // The power goes, and the device has heard nothing: it repeats START.
    pair.machines[SERVICE].restart(now);
    pair.repeat();
    pair.deliver_all();
    assert!(pair.send(SERVICE));
    pair.deliver_all();
    assert_eq!(pair.machines[DEVICE].committed.len(), 1);
}

#[test]
fn a_burst_of_lost_records_does_no_harm() {
    let mut pair = open();
    for lost in [130, 1030, 5000, 40_000] {
        (0..lost).for_each(|_| assert!(pair.send(SERVICE)));
        pair.on_the_way.clear();
        let before = pair.machines[DEVICE].committed.len();
        assert!(pair.send(SERVICE));
        pair.deliver_all();
        assert_eq!(pair.machines[DEVICE].committed.len(), before + 1, "after {lost}");
        pair.now = pair.now.after(Duration::from_secs(2));
    }
}

#[test]
fn a_session_ends_after_two_to_the_sixteen_records_and_is_due_before() {
    let mut pair = open();
    let now = pair.now;
    let device = &mut pair.machines[DEVICE].pairing;
    let mut out = [0; MAX_RECORD];
    assert!(!device.is_due(now));
    let mut sealed = 1; // START
    while device.seal_datagram(b"", &mut out).is_ok() {
        sealed += 1;
        if sealed == 97 {
            assert!(device.is_due(now), "nothing comes back");
        }
    }
    assert_eq!(sealed, 1 << 16);
    assert_eq!(device.seal_datagram(b"", &mut out), Err(SendError::LaneStopped));
    // The last record opens, although all before it were lost; a new session takes over.
    pair.heals();
}

#[test]
fn a_state_of_another_pairing_or_a_damaged_one_is_refused() {
    let pair = open();
    let state = pair.machines[DEVICE].disk.clone().unwrap();
    let now = pair.now;
    let [(vault, device_keys), (other, service_keys)] = keys(1);
    for bit in 0..state.len() * 8 {
        let mut damaged = state.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = Pairing::restore(vault.clone(), device_keys.clone(), now, &damaged).map(drop).unwrap_err();
        assert!(matches!(error, StateError::Rejected | StateError::Version(_)));
    }
    for len in 0..state.len() {
        assert!(Pairing::restore(vault.clone(), device_keys.clone(), now, &state[..len]).is_err());
    }
    let error = Pairing::restore(other, service_keys, now, &state).map(drop).unwrap_err();
    assert_eq!(error, StateError::Rejected);
}

#[test]
fn wrong_calls_are_told_so() {
    let mut pair = Pair::new(8);
    let too_long = vec![0; MAX_PAYLOAD + 1];
    let refused = CallError::TooLong { limit: MAX_PAYLOAD, got: MAX_PAYLOAD + 1 };
    assert_eq!(pair.call(&too_long), Err(refused));
    assert_eq!(pair.machines[SERVICE].pairing.set_reply(&too_long), Err(refused));
    assert_eq!(pair.machines[SERVICE].pairing.call(&[]), Err(CallError::NotInitiator));
    assert!(!pair.send(DEVICE));
    for frame in [&[][..], &[0x21], &[0x22; 50], &[0xa0], &[0x11; 1246], &[0x80; 30]] {
        assert!(handle(&mut pair, SERVICE, frame).is_err());
        assert!(handle(&mut pair, DEVICE, frame).is_err());
    }
}

/// Each order of calls, arrivals, repetitions and power cuts of so many steps: the two come together again, and no nonce and
/// no psk is used twice on the way.
#[test]
fn no_interleaving_of_cuts_and_deliveries_loses_both_psks() {
    let steps = 4;
    (0..STEPS.len().pow(steps)).for_each(|number| interleave(number, steps));
}

#[test]
fn runs_of_many_seeds() {
    let first = std::env::var("SEALWAY_SEED").map_or(0, |text| text.parse().unwrap());
    let runs = std::env::var("SEALWAY_RUNS").map_or(100, |text| text.parse().unwrap());
    let mut totals = sealway_testkit::pairing::Totals::default();
    for seed in first..first + runs {
        println!("seed {seed}");
        let run = simulate(seed);
        assert!(run.is_a_run(), "{run:?}");
        totals += run;
    }
    println!("{runs} runs: {totals:?}");
    assert!(totals.are_varied(runs), "{totals:?}");
}

proptest! {
    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..=255) {
        let mut pair = open();
        let frame = [&[kind], octets.as_slice()].concat();
        let _ = handle(&mut pair, SERVICE, &frame);
        let _ = handle(&mut pair, DEVICE, &frame);
    }
}
