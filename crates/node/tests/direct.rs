//! Ways from client to client: found while a relay carries the channel, left when they end, found again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::{future::Future, time::Duration};

use machines::{
    Machine, TestVault, meet, numbers, receive, run_relay, send_all,
    switch::{Switch, Switched},
};
use sealway_identity::Card;
use sealway_node::{Builder, Channel, Node};
use sealway_udp::Udp;

const ANY_PORT: &str = "udp://127.0.0.1:0";
/// What happens at all happens sooner.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

fn builder(machine: &Machine, switch: &Switch) -> Builder<TestVault> {
    let keys = (machine.vault.clone(), machine.owner.clone());
    let node = Node::builder(keys).contact_box(machine.contact_box).store(machine.disk.clone());
    node.transport(Switched(Udp::default(), switch.clone()))
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
    Scene { relay: relay_node, nodes, channels, switch }
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
    let Scene { nodes, mut channels, switch, .. } = scene().await;
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
