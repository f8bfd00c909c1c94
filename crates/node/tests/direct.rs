//! Ways from client to client: found while a relay carries the channel, left when they end, found again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::{future::Future, net::Ipv4Addr, time::Duration};

use machines::{
    Machine, TestVault, meet, numbers, receive, run_relay, send_all,
    switch::{Switch, Switched},
};
use sealway_identity::{Card, Policy};
use sealway_node::{Builder, Channel, Node};
use sealway_udp::Udp;
use tokio::net::UdpSocket;

const ANY_PORT: &str = "udp://127.0.0.1:0";
/// What happens at all happens sooner.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

fn builder(machine: &Machine, switch: &Switch) -> Builder<TestVault> {
    let keys = (machine.vault.clone(), machine.owner.clone());
    let node = Node::builder(keys).contact_box(machine.contact_box).store(machine.disk.clone());
    let udp = Udp::default().from_local_address(Ipv4Addr::LOCALHOST.into());
    node.transport(Switched(udp, switch.clone()))
}

/// A message each way.
async fn round_trip([there, back]: &mut [Channel; 2]) {
    send_all(there, &[b"ask".to_vec()]).await;
    receive(back, 1).await;
    send_all(back, &[b"answer".to_vec()]).await;
    receive(there, 1).await;
}

async fn direct_peers(node: &Node) -> u64 {
    node.statistics().await.unwrap().direct_peers
}

/// Exchanges messages until both, or none, send without the relay.
async fn until_direct(nodes: &[Node; 2], channels: &mut [Channel; 2], count: u64) {
    soon(async {
        while direct_peers(&nodes[0]).await != count || direct_peers(&nodes[1]).await != count {
            round_trip(channels).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

struct Scene {
    relay: Node,
    card: Card,
    machines: [Machine; 2],
    nodes: [Node; 2],
    channels: [Channel; 2],
    switch: Switch,
}

async fn scene() -> Scene {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let card = relay.card_at(&address);
    let switch = Switch::default();
    let nodes = [builder(&left, &switch).start().await.unwrap(), builder(&right, &switch).start().await.unwrap()];
    let channels = meet([(&left, &card), (&right, &card)], [&nodes[0], &nodes[1]]).await;
    Scene { relay: relay_node, card, machines: [left, right], nodes, channels, switch }
}

#[tokio::test]
async fn two_clients_find_the_way_to_each_other_and_need_the_relay_no_more() {
    let Scene { relay, nodes, mut channels, .. } = scene().await;
    until_direct(&nodes, &mut channels, 1).await;
    // Nothing that is on its way over the relay counts below.
    round_trip(&mut channels).await;
    let before = relay.statistics().await.unwrap().forwarded_frames;
    for _ in 0..100 {
        round_trip(&mut channels).await;
    }
    assert_eq!(relay.statistics().await.unwrap().forwarded_frames, before);
    let route = nodes[0].route(channels[0].peer()).await.unwrap();
    assert!(route.last().unwrap().place.as_ref().unwrap().starts_with("udp://127.0.0.1:"));
    relay.shutdown().await;
    let [there, back] = &mut channels;
    let messages = numbers(1000);
    let (_, received) = soon(async { tokio::join!(send_all(there, &messages), receive(back, 1000)) }).await;
    assert_eq!(received, messages);
}

#[tokio::test]
async fn a_direct_way_that_ends_costs_no_message_and_is_found_again() {
    let Scene { nodes, mut channels, switch, relay: _relay, .. } = scene().await;
    until_direct(&nodes, &mut channels, 1).await;
    {
        let [there, back] = &mut channels;
        let messages = numbers(1000);
        let (_, received) = soon(async {
            tokio::join!(
                async {
                    send_all(there, &messages[..500]).await;
                    switch.cut(true);
                    send_all(there, &messages[500..]).await;
                },
                receive(back, 1000)
            )
        })
        .await;
        assert_eq!(received, messages);
    }
    until_direct(&nodes, &mut channels, 0).await;
    switch.cut(false);
    until_direct(&nodes, &mut channels, 1).await;
}

/// PATH passes, and what is longer does not.
#[tokio::test]
async fn a_way_that_answers_and_loses_messages_is_left() {
    let Scene { nodes, mut channels, switch, relay: _relay, .. } = scene().await;
    until_direct(&nodes, &mut channels, 1).await;
    switch.pass_up_to(120);
    let [there, back] = &mut channels;
    let long = [vec![7; 400], vec![8; 20_000]];
    send_all(there, &long).await;
    // The peer talks all the while.
    let talks = back.datagrams();
    let mut turns = tokio::time::interval(Duration::from_millis(300));
    let came = {
        let arrive = soon(receive(back, 2));
        tokio::pin!(arrive);
        loop {
            tokio::select! {
                came = &mut arrive => break came,
                _ = turns.tick() => {
                    let _ = talks.try_send(b"not long");
                }
            }
        }
    };
    assert_eq!(came, long);
    switch.cut(false);
    until_direct(&nodes, &mut channels, 1).await;
}

#[tokio::test]
async fn who_wants_only_relays_is_reached_over_them_alone() {
    let (relay, middle, open, closed) = (Machine::new(), Machine::new(), Machine::new(), Machine::new());
    let (_relay, address) = run_relay(&relay, &[&middle, &open, &closed], ANY_PORT).await;
    let card: Card = relay.card_at(&address);
    let switch = Switch::default();
    let start = async |builder: Builder<TestVault>| builder.start().await.unwrap();
    let middle_node = start(builder(&middle, &switch)).await;
    let open_node = start(builder(&open, &switch)).await;
    let closed_node = start(builder(&closed, &switch).relayed_only()).await;
    let mut one = meet([(&middle, &card), (&open, &card)], [&middle_node, &open_node]).await;
    let mut other = meet([(&middle, &card), (&closed, &card)], [&middle_node, &closed_node]).await;
    soon(async {
        // Both were asked alike.
        while direct_peers(&open_node).await == 0 || direct_peers(&middle_node).await == 0 {
            round_trip(&mut other).await;
            round_trip(&mut one).await;
        }
    })
    .await;
    for _ in 0..100 {
        round_trip(&mut other).await;
    }
    assert_eq!((direct_peers(&middle_node).await, direct_peers(&closed_node).await), (1, 0));
}

#[tokio::test]
async fn who_starts_again_is_found_again_and_nothing_is_lost_meanwhile() {
    let Scene { card, machines: [left, right], nodes, mut channels, switch, relay } = scene().await;
    until_direct(&nodes, &mut channels, 1).await;
    let [left_node, right_node] = nodes;
    let [there, back] = channels;
    drop(back);
    right_node.shutdown().await;
    let waiting: Vec<_> = numbers(100);
    send_all(&there, &waiting).await;
    let right_node = builder(&right, &switch).start().await.unwrap();
    right_node.attach(&card).await.unwrap();
    let left_card = left.card_behind(&card);
    let mut back = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    assert_eq!(soon(receive(&mut back, 100)).await, waiting);
    until_direct(&[left_node, right_node], &mut [there, back], 1).await;
    relay.shutdown().await;
}

#[tokio::test]
async fn nobody_gets_a_handshake_answered_where_a_client_only_calls() {
    // Specification: [M55].
    let Scene { nodes, mut channels, machines: [_, right], relay, .. } = scene().await;
    until_direct(&nodes, &mut channels, 1).await;
    let route = nodes[0].route(channels[0].peer()).await.unwrap();
    let place = route.last().unwrap().place.clone().unwrap();
    let target = place.trim_start_matches("udp://").to_string();
    // What somebody with the card would send there.
    let trap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let card = right.card_at(&format!("udp://{}", trap.local_addr().unwrap()));
    let caller = Machine::new();
    let calling = caller.builder().start().await.unwrap();
    let _channel = calling.open(&card, Policy::only(&card)).await.unwrap();
    let mut datagrams = Vec::new();
    let mut buffer = [0; 2048];
    while datagrams.iter().map(Vec::len).sum::<usize>() < 1246 {
        let len = soon(trap.recv(&mut buffer)).await.unwrap();
        datagrams.push(buffer[..len].to_vec());
    }
    let before = nodes[1].statistics().await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(&target).await.unwrap();
    // Looks like a record: it makes a link.
    stranger.send(&[0x94; 40]).await.unwrap();
    soon(async {
        while nodes[1].statistics().await.unwrap().refused_frames == before.refused_frames {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let between = nodes[1].statistics().await.unwrap();
    for datagram in &datagrams {
        stranger.send(datagram).await.unwrap();
    }
    soon(async {
        while nodes[1].statistics().await.unwrap().refused_frames == between.refused_frames {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(nodes[1].statistics().await.unwrap().half_open_handshakes, 0);
    assert!(stranger.try_recv(&mut buffer).is_err(), "nothing came back");
    relay.shutdown().await;
}
