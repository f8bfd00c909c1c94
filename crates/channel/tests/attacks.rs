//! Attacks and misfortunes that once left a channel dead, misled or doubled: each must pass without harm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use sealway_channel::{Config, Endpoint, Event, FrameError, HandshakeError, PathId, Source};
use sealway_identity::{PayloadParts, Policy};
use sealway_testkit::network::{Network, TestVault};
use sealway_vault::{DhHandle, PublicKey, Secret, Signature, SigningHandle, Vault, VaultError, VerifyingKey};
use sealway_wire::{
    Instance, Lane,
    content::{CloseReason, Committed},
};

const SECOND: Duration = Duration::from_secs(1);

fn opened(seed: u64) -> Network {
    let mut network = Network::pair(seed);
    network.open(0, 1);
    network.run(SECOND * 3);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    network
}

/// Delivers frames one by one until machine 0 has opened the channel; what it sends then is lost.
fn open_at_the_initiator_alone(seed: u64) -> Network {
    let mut network = Network::pair(seed);
    network.open(0, 1);
    while network.channel(0, 1).is_none() {
        network.drain();
        let (from, to, frame) = network.log.last().cloned().unwrap();
        network.cut();
        network.deliver(from, to, frame).unwrap();
        let machine = &mut network.machines[0];
        machine.events.extend(std::iter::from_fn(|| machine.endpoint.poll_event()));
    }
    network
}

fn handshakes(network: &Network) -> usize {
    let first: BTreeSet<&[u8]> =
        network.log.iter().filter(|(_, _, frame)| frame[0] == 0x11).map(|(_, _, frame)| frame.as_slice()).collect();
    first.len()
}

/// The initiator believes in a channel whose other end has given it up: it finds out, although it has nothing to send.
#[test]
fn a_start_that_is_never_answered_ends_in_a_new_handshake() {
    let mut network = open_at_the_initiator_alone(1);
    network.conditions.loss = 100;
    network.run(SECOND * 200);
    network.conditions.loss = 0;
    network.run(SECOND * 120);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    network.send(1, 0, b"command");
    network.run(SECOND);
    assert_eq!(network.machines[0].received, [b"command"]);
}

/// The peer speaks on the old session while everything on the new one is lost: that is no sign of life of the new one.
#[test]
fn records_on_an_old_session_do_not_hide_that_the_new_one_is_dead() {
    let mut network = opened(2);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.missed_deadline(network.now, channel);
    let renewed = |network: &Network| network.machines[0].events.iter().any(|e| matches!(e, Event::Renewed { .. }));
    while !renewed(&network) {
        let before = network.log.len();
        network.drain();
        let news = network.log[before..].to_vec();
        network.cut();
        if renewed(&network) {
            break;
        }
        for (from, to, frame) in news {
            let _ = network.deliver(from, to, frame);
        }
        let machine = &mut network.machines[0];
        machine.events.extend(std::iter::from_fn(|| machine.endpoint.poll_event()));
    }
    let mut after_the_heal = 0;
    for second in 0..600_u32 {
        let before = network.log.len();
        network.send(1, 0, b"from 1");
        network.send(0, 1, b"from 0");
        network.drain();
        if second < 200 {
            // Only what machine 1 sends arrives.
            network.cut();
            let news = network.log[before..].to_vec();
            for (from, to, frame) in news {
                if from == 1 {
                    let _ = network.deliver(from, to, frame);
                }
            }
            network.conditions.loss = 100;
        }
        if second == 300 {
            after_the_heal = network.machines[1].received.len();
        }
        network.run(SECOND);
        network.conditions.loss = 0;
    }
    assert!(network.machines[1].received.len() > after_the_heal + 250, "machine 1 hears machine 0 again");
}

#[test]
fn a_repeated_record_of_the_stored_lane_is_no_sign_of_life() {
    let mut network = opened(3);
    network.send_message(1, 0, Lane::Stored, 0, b"kept");
    let frame = network.log.last().unwrap().2.clone();
    network.run(SECOND * 2);
    network.conditions.loss = 100;
    let before = handshakes(&network);
    for _ in 0..20 {
        network.send(0, 1, b"into the void");
        network.deliver(1, 0, frame.clone()).unwrap();
        network.run(SECOND * 10);
    }
    assert!(handshakes(&network) > before);
}

#[test]
fn a_message_that_overtakes_start_is_not_lost() {
    let mut network = open_at_the_initiator_alone(4);
    network.send_message(0, 1, Lane::Live, 0, b"first");
    let frame = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(0, 1, frame).unwrap();
    assert_eq!(network.machines[1].received, [b"first"]);
}

/// An observer repeats message 1 from his own address before it arrives: the session goes to where message 3 came from.
#[test]
fn a_copied_first_message_does_not_divert_the_session() {
    let mut network = Network::of(5, 3);
    network.open(0, 1);
    network.drain();
    let message1 = network.log.last().unwrap().2.clone();
    network.cut();
    network.deliver(2, 1, message1.clone()).unwrap();
    network.drain();
    network.cut();
    network.deliver(0, 1, message1).unwrap();
    network.run(SECOND * 9);
    assert!(network.channel(0, 1).is_some() && network.channel(1, 0).is_some());
    let records = network.log.iter().filter(|(from, _, frame)| *from == 1 && frame[0] >= 0x80);
    assert!(records.clone().count() > 0 && records.into_iter().all(|(_, to, _)| *to == 0));
}

#[test]
fn opening_at_once_makes_one_session() {
    for seed in 6..16 {
        let mut network = Network::pair(seed);
        network.conditions.delay = Duration::from_millis(40);
        network.open(0, 1);
        network.open(1, 0);
        network.run(SECOND * 60);
        assert_eq!(handshakes(&network), 2, "seed {seed}: each side began once");
        let renewed = network.machines.iter().flat_map(|machine| &machine.events);
        assert_eq!(renewed.filter(|event| matches!(event, Event::Renewed { .. })).count(), 0, "seed {seed}");
    }
}

#[test]
fn a_close_that_was_held_back_does_not_end_a_later_session() {
    let mut network = opened(17);
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.close(channel, CloseReason::Finished);
    network.drain();
    let close = network.log.last().unwrap().2.clone();
    network.cut();
    network.open(0, 1);
    network.run(SECOND * 2);
    network.deliver(0, 1, close).unwrap();
    network.send(0, 1, b"still open");
    network.run(SECOND);
    assert_eq!(network.machines[1].received, [b"still open"]);
}

#[test]
fn a_report_with_zeros_at_its_end_is_sent_in_the_only_valid_form() {
    let mut network = opened(18);
    let channel = network.channel(1, 0).unwrap();
    network.send_message(0, 1, Lane::Live, 0, b"message");
    network.run(SECOND);
    let committed = Committed { instance: Instance([0; 4]), mark: 1, bitmap: &[1, 0, 0, 0], held: &[] };
    network.machines[1].endpoint.report_committed(network.now, channel, &committed, false);
    network.run(SECOND);
    assert!(network.channel(0, 1).is_some() && network.machines[0].refused.is_empty());
}

/// A vault that claims somebody else's public key and computes with a key that it really has.
#[derive(Clone)]
struct Impostor {
    vault: TestVault,
    key: DhHandle,
}

impl Vault for Impostor {
    type Provider = <TestVault as Vault>::Provider;

    fn provider(&self) -> &Self::Provider {
        self.vault.provider()
    }

    fn dh_public(&self, claimed: &DhHandle) -> Result<PublicKey, VaultError> {
        Ok(claimed.0)
    }

    fn dh(&self, _: &DhHandle, peer: &PublicKey) -> Result<Secret<32>, VaultError> {
        self.vault.dh(&self.key, peer)
    }

    fn verifying_key(&self, handle: &SigningHandle) -> Result<VerifyingKey, VaultError> {
        self.vault.verifying_key(handle)
    }

    fn sign(&self, handle: &SigningHandle, message: &[u8]) -> Result<Signature, VaultError> {
        self.vault.sign(handle, message)
    }
}

/// Who has the responder's static key opens no channel to it as another initiator (key-compromise impersonation), though
/// he has all that the initiator says of itself.
#[test]
fn a_stolen_responder_key_does_not_let_the_thief_be_somebody_else() {
    let mut network = Network::of(19, 3);
    let admit = Policy::only(&network.machines[0].card);
    network.machines[1].endpoint.admit(&admit);
    let card = network.machines[1].card.clone();
    // With the stolen key, and with a key of his own.
    for keys_of in [1, 2] {
        let holder = &network.machines[keys_of];
        let vault = Impostor { vault: holder.vault().clone(), key: holder.owner().channel_key() };
        let claimed = network.machines[0].owner().clone();
        let mut thief = Endpoint::new(vault, claimed, Config::new(Instance([6; 4])));
        let mut now = network.now;
        thief.open(now, &card, &Policy::only(&card), PayloadParts::default(), PathId(1)).unwrap();
        let (mut out, mut refusals) = (vec![0; 4096], Vec::new());
        for _ in 0..100 {
            while let Some(outgoing) = thief.poll_transmit(now, &mut out) {
                let mut frame = out[..outgoing.len].to_vec();
                let endpoint = &mut network.machines[1].endpoint;
                refusals.extend(endpoint.handle_frame(now, PathId(0), Source::proven(0), &mut frame).err());
                while let Some(answer) = endpoint.poll_transmit(now, &mut out) {
                    let mut answer = out[..answer.len].to_vec();
                    let _ = thief.handle_frame(now, PathId(1), Source::proven(1), &mut answer);
                }
                assert!(endpoint.poll_event().is_none(), "nothing opens");
            }
            now = now.after(Duration::from_millis(100));
            thief.handle_timeout(now);
        }
        assert!(refusals.contains(&FrameError::Handshake(HandshakeError::Noise)), "{refusals:?}");
    }
}

/// With everything that both ends have left after a session, on disk too, not one of its records opens.
#[test]
fn records_of_an_earlier_session_do_not_open_for_who_takes_both_vaults_and_states_later() {
    let mut network = opened(20);
    network.send(0, 1, b"past");
    network.send_message(0, 1, Lane::Stored, 0, b"kept a while");
    network.run(SECOND);
    let recorded: Vec<_> = network.log.clone();
    // A later session, and the time that the old keys are kept.
    network.open(0, 1);
    network.run(SECOND * 300);
    // Both machines restart: vault, identity and saved states are all that is left, and the attacker has them.
    network.restart(0);
    network.restart(1);
    network.machines[1].received.truncate(1);
    for (from, to, frame) in recorded {
        // The whole recorded conversation again: the responder's fresh ephemeral makes it worthless.
        let outcome = network.deliver(from, to, frame.clone());
        assert!(frame[0] == 0x11 || outcome == Err(FrameError::UnknownConnection), "{outcome:?}");
    }
    assert_eq!(network.machines[1].received.len(), 1, "from before the restart");
}
