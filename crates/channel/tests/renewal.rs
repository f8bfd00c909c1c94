//! What a pairing renews between two handshakes: seeds that go into its psk, and channel keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
use sealway_channel::{Pairing, PairingEvent, RenewalError, Source, StateError};
use sealway_identity::{Owner, PayloadParts, UnverifiedPayload};
use sealway_testkit::{
    entropy::seeded_provider,
    pairing::{DEVICE, Fate, Pair, SERVICE},
};
use sealway_vault::{Algorithm, Secret, SoftwareVault};
use sealway_wire::Lane;

fn open(rotations: usize) -> Pair {
    let mut pair = Pair::rotating(1, rotations);
    pair.call(&[]).unwrap();
    pair.deliver_all();
    pair
}

/// What the service has sent to the device and the device to the service, with what they answer, arrives.
fn talk(pair: &mut Pair) {
    for machine in [DEVICE, SERVICE] {
        pair.repeat_of(machine);
        pair.send_typed(machine, Lane::Live);
        pair.deliver_all();
    }
}

fn handshake(pair: &mut Pair) {
    pair.call(&[]).unwrap();
    pair.deliver_all();
}

fn reseeds(pair: &Pair) -> usize {
    pair.machines[SERVICE].events.iter().filter(|event| **event == PairingEvent::Reseeded).count()
}

#[test]
fn a_seed_makes_what_was_stolen_before_useless() {
    let mut pair = open(0);
    let stolen = pair.machines[DEVICE].disk.clone();
    let keys = pair.machines[DEVICE].keys.clone();
    pair.reseed();
    pair.deliver_all();
    assert_eq!(reseeds(&pair), 0, "the caller has not called yet");
    handshake(&mut pair);
    assert_eq!(reseeds(&pair), 1);
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    // Who has the state from before calls under a psk that has served, and is not answered.
    let present = pair.machines[DEVICE].disk.clone();
    (pair.machines[DEVICE].disk, pair.machines[DEVICE].keys) = (stolen, keys);
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.call(&[]).unwrap();
    let answered = pair.log.iter().filter(|(to, frame)| *to == DEVICE && frame[0] == 0x22).count();
    pair.deliver_all();
    assert_eq!(pair.log.iter().filter(|(to, frame)| *to == DEVICE && frame[0] == 0x22).count(), answered);
    assert!(pair.machines[SERVICE].events.contains(&PairingEvent::PskUsedAgain));
    // The device itself goes on.
    pair.machines[DEVICE].disk = present;
    pair.machines[DEVICE].restart(now);
    handshake(&mut pair);
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
}

#[test]
fn a_seed_is_on_the_disk_before_it_leaves_and_repeated_until_it_is_known() {
    // Specification: [M56].
    let mut pair = open(0);
    let seed = |octet| Secret::new([octet; 32]);
    assert!(pair.machines[SERVICE].pairing.reseed(seed(1)).unwrap());
    assert!(!pair.machines[SERVICE].pairing.reseed(seed(2)).unwrap(), "one at a time");
    assert_eq!(pair.machines[DEVICE].pairing.reseed(seed(3)), Err(RenewalError::NotResponder));
    let mut out = [0; 51];
    assert_eq!(pair.machines[SERVICE].pairing.poll_transmit(&mut out), Ok(None), "it is not written");
    // Written, and lost on the way; the service has restarted too.
    pair.settle(SERVICE);
    let (_, frame) = pair.on_the_way.pop().unwrap();
    assert!(frame.len() <= 51, "{} octets", frame.len());
    let now = pair.now;
    pair.machines[SERVICE].restart(now);
    pair.deliver_all();
    // Without it the device calls as ever, and is answered.
    handshake(&mut pair);
    assert_eq!(reseeds(&pair), 0);
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    // It goes under the session after that too, several times: it is used once.
    (0..3).for_each(|_| pair.repeat_of(SERVICE));
    pair.deliver_all();
    handshake(&mut pair);
    assert_eq!(reseeds(&pair), 1);
    // Then it is known, and nothing is repeated any more.
    assert!(!pair.machines[SERVICE].pairing.is_unanswered());
    handshake(&mut pair);
    assert_eq!(reseeds(&pair), 1);
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
    pair.deliver_all();
    assert!(pair.machines.iter().all(|machine| {
        machine.events.iter().all(|event| !matches!(event, PairingEvent::CloneSuspected | PairingEvent::PskUsedAgain))
    }));
}

#[test]
fn a_seed_that_comes_while_a_call_is_under_way_waits_for_the_next() {
    let mut pair = open(0);
    pair.reseed();
    let (_, seed) = pair.on_the_way.pop().unwrap();
    pair.call(&[]).unwrap();
    let (_, call) = pair.on_the_way.pop().unwrap();
    pair.deliver(DEVICE, seed);
    pair.repeat();
    assert_eq!(pair.on_the_way.pop().unwrap().1, call, "the same octets");
    pair.deliver(SERVICE, call);
    pair.deliver_all();
    assert_eq!(reseeds(&pair), 0);
    talk(&mut pair);
    handshake(&mut pair);
    assert_eq!(reseeds(&pair), 1);
}

#[test]
fn power_that_goes_at_any_write_loses_no_psk_with_a_seed() {
    // Which write is lost, or not heard of, of the machine that takes the seed and calls with it.
    for cut in 0..5 {
        for fate in [Fate::Lost, Fate::WrittenUnheard] {
            for machine in [DEVICE, SERVICE] {
                let mut pair = open(0);
                let mut writes = 0;
                let mut cut_at = |pair: &mut Pair| {
                    if writes == cut {
                        pair.machines[machine].next_write = fate;
                    }
                    writes += 1;
                };
                cut_at(&mut pair);
                pair.reseed();
                cut_at(&mut pair);
                pair.deliver_all();
                cut_at(&mut pair);
                let _ = pair.call(&[]);
                cut_at(&mut pair);
                pair.repeat();
                cut_at(&mut pair);
                pair.deliver_all();
                pair.machines[machine].next_write = Fate::Written;
                pair.heals();
            }
        }
    }
}

#[test]
fn either_side_gets_another_channel_key_or_both_at_once() {
    // Specification: [M58].
    for rotating in [&[DEVICE][..], &[SERVICE], &[DEVICE, SERVICE]] {
        let mut pair = open(2);
        for round in 0..2 {
            for machine in rotating {
                assert!(pair.rotate(*machine));
                assert!(!pair.rotate(*machine), "not before a handshake with this one");
            }
            // Some parts are lost; the rest is in frames of 51 octets.
            let mut parts = 0;
            for _ in 0..30 {
                rotating.iter().for_each(|machine| pair.repeat_of(*machine));
                parts += pair.on_the_way.len();
                assert!(pair.on_the_way.iter().all(|(_, frame)| frame.len() <= 51));
                if !pair.on_the_way.is_empty() {
                    pair.on_the_way.remove(0);
                }
                talk(&mut pair);
            }
            assert!(parts >= 8, "{parts}");
            // Both keys serve until then.
            for machine in rotating {
                assert!(pair.machines[*machine].pairing.earlier_key().is_some());
            }
            handshake(&mut pair);
            for machine in [DEVICE, SERVICE] {
                assert_eq!(pair.machines[machine].pairing.earlier_key(), None, "{rotating:?}, {round}");
                assert!(!pair.machines[machine].pairing.is_unanswered());
                let other = &pair.machines[1 - machine];
                let known = other.pairing.peer_rank().map(|(event, _)| event);
                assert_eq!(known, rotating.contains(&machine).then_some(round + 1));
                // It is on the disk.
                let now = pair.now;
                pair.machines[machine].keys.earlier_key = None;
                pair.machines[machine].restart(now);
                pair.settle(machine);
            }
            handshake(&mut pair);
            assert!(pair.send(DEVICE) && pair.send(SERVICE));
            pair.deliver_all();
        }
    }
}

#[test]
fn a_call_that_was_made_before_goes_on_with_the_keys_of_then() {
    for rotating in [DEVICE, SERVICE] {
        let mut pair = open(1);
        pair.call(&[]).unwrap();
        let (_, call) = pair.on_the_way.pop().unwrap();
        assert!(pair.rotate(rotating));
        for _ in 0..20 {
            pair.repeat_of(SERVICE);
            pair.repeat_of(DEVICE);
            // The call itself does not get through.
            pair.on_the_way.retain(|(_, frame)| frame[0] != 0x21);
            pair.deliver_all();
        }
        let (now, other) = (pair.now, 1 - rotating);
        pair.machines[other].restart(now);
        pair.deliver(SERVICE, call);
        pair.deliver_all();
        assert!(pair.send(DEVICE) && pair.send(SERVICE));
        assert!(pair.machines[rotating].pairing.earlier_key().is_some());
        pair.settles();
    }
}

#[test]
fn only_the_peers_own_and_latest_key_is_taken() {
    // Specification: [M57].
    let mut pair = open(0);
    let mut vault = SoftwareVault::new(seeded_provider(77));
    let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
    let payload = UnverifiedPayload::decode(&owner.payload(&PayloadParts::default()).unwrap()).unwrap();
    let device = pair.machines[DEVICE].keys.own;
    payload.verify_key(&seeded_provider(1), &device, None, None).unwrap_err();
    let attestation = payload.verify_key(&seeded_provider(1), &owner.id(), None, None).unwrap();
    payload.verify_key(&seeded_provider(1), &owner.id(), Some((0, 1)), None).unwrap_err();
    let service = &mut pair.machines[SERVICE].pairing;
    assert_eq!(service.accept_key(&attestation), Err(RenewalError::OtherPeer));
    let of_device = sealway_identity::Attestation { subject: device, event: 2, ..attestation };
    service.accept_key(&of_device).unwrap();
    let earlier = sealway_identity::Attestation { event: 1, ..of_device };
    assert_eq!(service.accept_key(&earlier), Err(RenewalError::Superseded));
    let none = sealway_identity::Attestation { event: 3, channel_key: [0; 32], ..of_device };
    assert!(matches!(service.accept_key(&none), Err(RenewalError::Vault(_))));
    assert_eq!(service.peer_rank(), Some((2, 0)), "it is as it was");
    assert_eq!(service.announce_key(&[]), Err(RenewalError::Empty));
    assert_eq!(service.announce_key(&[0; 1793]), Err(RenewalError::TooLong { limit: 1792, got: 1793 }));
    // The one before serves: there was no handshake with another.
    handshake(&mut pair);
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
}

#[test]
fn a_state_is_not_taken_without_the_key_that_the_peer_goes_by() {
    let mut pair = open(2);
    let before = pair.machines[SERVICE].keys.channel_key;
    assert!(pair.rotate(SERVICE));
    let service = &pair.machines[SERVICE];
    let (now, disk) = (pair.now, service.disk.clone().unwrap());
    let restore = |earlier_key| {
        let keys = sealway_channel::PairingKeys { earlier_key, ..service.keys.clone() };
        Pairing::restore(service.vault().clone(), keys, now, &disk).map(drop)
    };
    restore(Some(before)).unwrap();
    assert_eq!(restore(None), Err(StateError::EarlierKey));
    assert_eq!(
        restore(Some(pair.machines[DEVICE].keys.channel_key)).unwrap_err(),
        StateError::Vault(sealway_vault::VaultError::UnknownKey)
    );
}

/// The call that is on the disk was made with a key that is told no more: the state has to be read all the same.
#[test]
fn a_second_key_waits_for_the_call_that_was_made_with_the_first() {
    let mut pair = open(2);
    assert!(pair.rotate(SERVICE));
    while !pair.machines[DEVICE].pairing.is_due(pair.now) {
        talk(&mut pair);
    }
    pair.call(&[]).unwrap();
    let (_, call) = pair.on_the_way.pop().unwrap();
    pair.deliver(SERVICE, call);
    // The answer is lost; the service thinks that it is through, and rotates once more.
    pair.on_the_way.clear();
    assert!(pair.rotate(SERVICE));
    for _ in 0..20 {
        pair.repeat_of(SERVICE);
        pair.send_typed(DEVICE, Lane::Live);
        pair.on_the_way.retain(|(_, frame)| frame[0] != 0x21);
        pair.deliver_all();
    }
    assert_eq!(pair.machines[DEVICE].pairing.peer_rank().map(|(event, _)| event), Some(1), "the second is told again");
    let now = pair.now;
    pair.machines[DEVICE].restart(now);
    pair.settles();
    assert_eq!(pair.machines[DEVICE].pairing.peer_rank().map(|(event, _)| event), Some(2));
    assert!(pair.send(DEVICE) && pair.send(SERVICE));
}

/// Before it is on the disk that a key has served, nobody is told that it may go.
#[test]
fn a_key_is_not_given_free_before_the_write() {
    let mut pair = open(1);
    assert!(pair.rotate(SERVICE));
    while !pair.machines[DEVICE].pairing.is_due(pair.now) {
        talk(&mut pair);
    }
    pair.call(&[]).unwrap();
    let (_, mut call) = pair.on_the_way.pop().unwrap();
    let (now, source) = (pair.now, pair.source);
    let service = &mut pair.machines[SERVICE].pairing;
    service.handle_frame(now, source, &mut call).unwrap();
    assert!(service.earlier_key().is_some(), "after a power cut the state would want it");
    let state = service.poll_state().unwrap().unwrap();
    service.written(state.version);
    assert_eq!(service.earlier_key(), None);
}

/// A message without a hint may be under several psks, and made with several pairs of keys: repeated, it meets each with each.
#[test]
fn a_bare_call_is_found_whatever_it_was_made_with() {
    for seeds in [false, true] {
        for frames_before in 0..8 {
            let mut pair = open(1);
            assert!(pair.rotate(DEVICE) && pair.rotate(SERVICE));
            if seeds {
                pair.reseed();
            }
            for _ in 0..30 {
                talk(&mut pair);
            }
            pair.call(&[]).unwrap();
            let (_, call) = pair.on_the_way.pop().unwrap();
            let (now, source) = (pair.now, Source::proven(5));
            let service = &mut pair.machines[SERVICE].pairing;
            let other = [0x55; 48];
            (0..frames_before).for_each(|_| assert!(service.handle_bare(now, source, &other).is_err()));
            let tries = (1..=8).find(|_| service.handle_bare(now, source, &call[3..]).is_ok());
            assert!(tries.is_some(), "with a seed: {seeds}, after {frames_before} frames");
        }
    }
}
