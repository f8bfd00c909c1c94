//! Nodes on the two ends of a serial line, and a relay that joins it with a network.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::time::Duration;

use machines::{
    Machine,
    cable::{Cable, address},
    numbers, receive, send_all,
};
use sealway_channel::Role;
use sealway_identity::{Card, CardParts, Policy};
use sealway_node::{PairedPeer, RelayConfig};
use sealway_serial::Serial;
use sealway_vault::{CryptoProvider, Secret, Vault};
use sealway_wire::Address;

#[tokio::test]
async fn two_nodes_talk_over_a_line_that_is_unplugged() {
    let folder = tempfile::tempdir().unwrap();
    let names = [folder.path().join("a"), folder.path().join("b")];
    let names = [&*names[0], &*names[1]];
    let cable = Cable::plug(names);
    let (device, phone) = (Machine::new(), Machine::new());
    let device_node = device.builder().transport(Serial::default()).accept(phone.policy()).start().await.unwrap();
    device_node.listen(&address(names[0])).await.unwrap();
    let phone_node = phone.builder().transport(Serial::default()).start().await.unwrap();
    let card = device.owner.card(&device.vault, &CardParts::default()).unwrap();
    let no_route = phone_node.open(&card, Policy::only(&card)).await.err().unwrap().to_string();
    assert!(no_route.contains("no address"), "{no_route}");
    phone_node.reach(card.id(), &address(names[1])).await.unwrap();
    let mut there = phone_node.open(&card, Policy::only(&card)).await.unwrap();
    let messages: Vec<Vec<u8>> = [0, 1, 1000, 20_000, 200_000].into_iter().map(|size| vec![6; size]).collect();
    send_all(&there, &messages).await;
    let mut here = device_node.accept().await.unwrap();
    assert_eq!(receive(&mut here, messages.len()).await, messages);
    send_all(&here, &messages).await;
    assert_eq!(receive(&mut there, messages.len()).await, messages);
    // What is sent while nobody is there arrives when the line is back.
    drop(cable);
    send_all(&there, &numbers(20)).await;
    send_all(&here, &numbers(20)).await;
    let _cable = Cable::plug(names);
    assert_eq!(receive(&mut here, 20).await, numbers(20));
    assert_eq!(receive(&mut there, 20).await, numbers(20));
}

/// The relay has a line, to which a device is plugged, and a network, on which the phone is.
#[tokio::test]
async fn a_relay_joins_a_line_with_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let names = [folder.path().join("a"), folder.path().join("b")];
    let names = [&*names[0], &*names[1]];
    let _cable = Cable::plug(names);
    let (relay, device, phone) = (Machine::new(), Machine::new(), Machine::new());
    let mut clients = device.policy();
    clients.admit(phone.owner.id());
    let builder = relay.builder().transport(Serial::default()).accept(clients);
    let relay_node = builder.relay(RelayConfig::default()).start().await.unwrap();
    relay_node.listen(&address(names[0])).await.unwrap();
    let relay_card: Card = relay.card_at(&relay_node.listen("udp://127.0.0.1:0").await.unwrap());
    let device_node = device.builder().transport(Serial::default()).start().await.unwrap();
    let plain = relay.owner.card(&relay.vault, &CardParts::default()).unwrap();
    device_node.reach(plain.id(), &address(names[1])).await.unwrap();
    device_node.attach(&plain).await.unwrap();
    let phone_node = phone.builder().start().await.unwrap();
    phone_node.attach(&relay_card).await.unwrap();
    let (device_card, phone_card) = (device.card_behind(&relay_card), phone.card_behind(&relay_card));
    let mut to_phone = device_node.open(&phone_card, Policy::only(&phone_card)).await.unwrap();
    let mut to_device = phone_node.open(&device_card, Policy::only(&device_card)).await.unwrap();
    let messages: Vec<Vec<u8>> = (1..10).map(|number| vec![number; 20_000]).collect();
    send_all(&to_phone, &messages).await;
    assert_eq!(receive(&mut to_device, messages.len()).await, messages);
    send_all(&to_device, &messages).await;
    assert_eq!(receive(&mut to_phone, messages.len()).await, messages);
}

/// A pairing of the constrained profile over a line: its records are cut for what goes in one piece.
#[tokio::test]
async fn a_pairing_talks_over_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let names = [folder.path().join("a"), folder.path().join("b")];
    let names = [&*names[0], &*names[1]];
    let _cable = Cable::plug(names);
    let machines = [Machine::new(), Machine::new()];
    let [psk, recovery] = [(); 2].map(|()| Secret::new(machines[0].vault.provider().random().unwrap()));
    let mut channels = Vec::new();
    for (own, other, role, name) in [(0, 1, Role::Initiator, names[0]), (1, 0, Role::Responder, names[1])] {
        let keys = machines[own].pairing(&machines[other], role, [&psk, &recovery]);
        let text = format!("{}&mtu=250", address(name));
        let Ok(Address::Serial(line)) = Address::parse(&text) else { panic!("{text}") };
        let link = Serial::default().with_idle_timeout(None).open(&line).unwrap();
        let node = machines[own].builder().start().await.unwrap();
        channels.push((node.pair(PairedPeer::new(keys, Box::new(link))).await.unwrap(), node));
    }
    let messages: Vec<Vec<u8>> = [0, 1, 100, 5000].into_iter().map(|size| vec![7; size]).collect();
    let [(one, _), (other, _)] = &mut channels[..] else { panic!("two of them") };
    send_all(one, &messages).await;
    assert_eq!(receive(other, messages.len()).await, messages);
    send_all(other, &messages).await;
    assert_eq!(receive(one, messages.len()).await, messages);
}

/// Nothing on a line tells that the relay at its other end has died: the device finds out by its silence.
#[tokio::test]
async fn a_relay_that_dies_on_a_line_is_attached_to_again() {
    let folder = tempfile::tempdir().unwrap();
    let names = [folder.path().join("a"), folder.path().join("b")];
    let _cable = Cable::plug([&*names[0], &*names[1]]);
    let (relay, device, phone) = (Machine::new(), Machine::new(), Machine::new());
    // A relay in a runtime of its own ends in mid-sentence with it.
    let start_relay = async || {
        let mut clients = device.policy();
        clients.admit(phone.owner.id());
        let builder = relay.builder().transport(Serial::default()).accept(clients).relay(RelayConfig::default());
        let line = address(&names[0]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let started = runtime.spawn(async move {
            let node = builder.start().await.unwrap();
            node.listen(&line).await.unwrap();
            node.listen(machines::ANY_PORT).await.unwrap()
        });
        (started.await.unwrap(), runtime)
    };
    let (place, runtime) = start_relay().await;
    let card = relay.card_at(&place);
    let device_node = device.builder().transport(Serial::default()).start().await.unwrap();
    device_node.reach(relay.owner.id(), &address(&names[1])).await.unwrap();
    let plain = relay.owner.card(&relay.vault, &CardParts::default()).unwrap();
    let phone_node = phone.builder().start().await.unwrap();
    let [mut to_phone, mut to_device] =
        machines::meet([(&device, &plain), (&phone, &card)], [&device_node, &phone_node]).await;
    send_all(&to_phone, &numbers(3)).await;
    assert_eq!(receive(&mut to_device, 3).await, numbers(3));
    // With everything that it holds open.
    tokio::task::spawn_blocking(|| runtime.shutdown_timeout(Duration::from_secs(60))).await.unwrap();
    let (place, runtime) = start_relay().await;
    phone_node.reach(relay.owner.id(), &place).await.unwrap();
    send_all(&to_device, &numbers(5)).await;
    // More of the device's time than it takes to find out, in the steps in which its timers are due.
    tokio::time::pause();
    for _ in 0..70 {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    assert_eq!(receive(&mut to_phone, 5).await, numbers(5));
    send_all(&to_phone, &numbers(3)).await;
    assert_eq!(receive(&mut to_device, 3).await, numbers(3));
    runtime.shutdown_background();
}
