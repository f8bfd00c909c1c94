//! Nodes over real sockets: directly, through a relay, across restarts of each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::num::NonZeroU32;

use sealway_identity::{CardParts, Policy};
use sealway_node::{Node, NodeError, RelayConfig};
use sealway_tcp::Tcp;
use tokio::io::AsyncWriteExt;

use self::machines::{ANY_PORT, Machine, Pair, numbers, receive, run_relay, through_a_relay};

#[tokio::test]
async fn two_nodes_talk_directly_and_the_accepting_one_needs_no_card() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let mut there = client_node.open(&card, Policy::only(&card)).await.unwrap();
    there.opened().await.unwrap();
    let mut here = server_node.accept().await.unwrap();
    assert_eq!(here.peer(), client.owner.id());
    let receipt = there.send(b"question".to_vec()).await.unwrap();
    assert_eq!(receive(&mut here, 1).await, [b"question"]);
    receipt.delivered().await.unwrap();
    let receipt = here.send_live(b"answer".to_vec()).await.unwrap();
    assert_eq!(receive(&mut there, 1).await, [b"answer"]);
    receipt.delivered().await.unwrap();
    client_node.shutdown().await;
    server_node.shutdown().await;
}

#[tokio::test]
async fn a_thousand_messages_through_a_relay_arrive_in_order_both_ways() {
    let pair = through_a_relay(RelayConfig::default(), Machine::builder).await;
    let Pair { relay: relay_node, nodes: _nodes, channels: [mut to_right, mut to_left] } = pair;
    for number in numbers(1000) {
        to_right.send_live(number.clone()).await.unwrap();
        to_left.send(number).await.unwrap();
    }
    assert_eq!(receive(&mut to_left, 1000).await, numbers(1000));
    assert_eq!(receive(&mut to_right, 1000).await, numbers(1000));
    let statistics = relay_node.statistics().await.unwrap();
    assert!(statistics.forwarded_frames >= 2000 && statistics.links == 2, "{statistics:?}");
}

/// Nothing is written: what is committed is told all the same, and a receipt ends with its node.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_store_talk_live() {
    let pair = through_a_relay(RelayConfig::default(), Machine::builder_without_a_store).await;
    let Pair { relay: _relay, nodes, channels: [mut to_right, mut to_left] } = pair;
    assert!(matches!(to_right.send(b"durably".to_vec()).await, Err(NodeError::NoStore)));
    let sends = async {
        let mut last = None;
        for number in numbers(3000) {
            to_right.send_live(number).await.unwrap();
            last = Some(to_right.send_live(vec![7; 20_000]).await.unwrap());
        }
        last.unwrap().delivered().await.unwrap();
        to_right.flushed().await.unwrap();
    };
    let receives = async {
        for number in numbers(3000) {
            assert_eq!(receive(&mut to_left, 2).await, [number, vec![7; 20_000]]);
        }
    };
    tokio::join!(sends, receives);
    let receipt = to_right.send_live(b"nobody takes it".to_vec()).await.unwrap();
    let taken = to_left.recv().await.unwrap().unwrap();
    nodes[0].shutdown().await;
    assert!(matches!(receipt.delivered().await, Err(NodeError::Closed)));
    assert!(matches!(to_right.flushed().await, Err(NodeError::Closed)), "it was not delivered");
    assert!(matches!(to_right.send_live(b"too late".to_vec()).await, Err(NodeError::Closed)));
    assert!(to_right.recv().await.unwrap().is_none());
    nodes[1].shutdown().await;
    assert!(matches!(taken.done().await, Err(NodeError::Closed)));
}

/// What was said to be done with is told before the end, and what was sent leaves.
#[tokio::test]
async fn a_shutdown_tells_what_was_committed_and_sends_what_was_handed_in() {
    let pair = through_a_relay(RelayConfig::default(), Machine::builder_without_a_store).await;
    let Pair { relay: _relay, nodes: [left, right], channels: [mut to_right, mut to_left] } = pair;
    let receipt = to_left.send_live(b"commit me".to_vec()).await.unwrap();
    let message = to_right.recv().await.unwrap().unwrap();
    for number in numbers(500) {
        to_right.send_live(number).await.unwrap();
    }
    message.done().await.unwrap();
    left.shutdown().await;
    receipt.delivered().await.unwrap();
    assert_eq!(receive(&mut to_left, 500).await, numbers(500));
    right.shutdown().await;
}

/// What is beyond a client's rate waits at its sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_reads_no_more_than_its_rate_and_drops_nothing() {
    let rate = NonZeroU32::new(512 * 1024).unwrap();
    let pair = through_a_relay(RelayConfig::default().with_client_rate(rate), Machine::builder).await;
    let Pair { relay, nodes: _nodes, channels: [to_right, mut to_left] } = pair;
    let sends = async {
        for _ in 0..64 {
            to_right.send_live(vec![3; 16_000]).await.unwrap();
        }
    };
    let (received, ()) = tokio::join!(receive(&mut to_left, 64), sends);
    assert!(received.iter().all(|body| *body == [3; 16_000]));
    let statistics = relay.statistics().await.unwrap();
    assert!(statistics.held_back_links > 0 && statistics.dropped_frames == 0, "{statistics:?}");
}

#[tokio::test]
async fn what_was_sent_while_the_peer_was_away_arrives_once_after_either_restarts() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (_relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let (left_card, right_card) = (left.card_behind(&relay_card), right.card_behind(&relay_card));
    // The right side was never there: ten messages are on the left one's disk, which then ends.
    let left_node = left.builder().start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    let channel = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    for number in &numbers(10) {
        channel.send(number.clone()).await.unwrap();
    }
    left_node.shutdown().await;
    let left_node = left.builder().start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    let channel = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    for number in &numbers(20)[10..] {
        channel.send(number.clone()).await.unwrap();
    }
    let mut received = Vec::new();
    for part in [5, 15] {
        let right_node = right.builder().start().await.unwrap();
        right_node.attach(&relay_card).await.unwrap();
        let mut channel = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
        received.extend(receive(&mut channel, part).await);
        if part == 5 {
            // One more was handed over, and not done with: it comes again, and says so.
            let message = channel.recv().await.unwrap().unwrap();
            assert_eq!((message.body(), message.redelivered()), (numbers(6)[5].as_slice(), false));
        }
        right_node.shutdown().await;
    }
    assert_eq!(received, numbers(20));
}

#[tokio::test]
async fn a_relay_that_dies_and_comes_back_loses_nothing() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let (left_card, right_card) = (left.card_behind(&relay_card), right.card_behind(&relay_card));
    let (left_node, right_node) = (left.builder().start().await.unwrap(), right.builder().start().await.unwrap());
    left_node.attach(&relay_card).await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    let to_right = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    let mut to_left = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    to_right.send(b"before".to_vec()).await.unwrap();
    assert_eq!(receive(&mut to_left, 1).await, [b"before"]);
    relay_node.shutdown().await;
    let receipt = to_right.send(b"while away".to_vec()).await.unwrap();
    let (_relay_node, _) = run_relay(&relay, &[&left, &right], &address).await;
    assert_eq!(receive(&mut to_left, 1).await, [b"while away"]);
    receipt.delivered().await.unwrap();
}

#[tokio::test]
async fn who_is_not_admitted_gets_nowhere() {
    let (relay, stranger, client) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&client], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let stranger_node = stranger.builder().start().await.unwrap();
    let attaching = tokio::spawn(async move { stranger_node.attach(&relay_card).await });
    // The refusal is counted at the relay; the stranger is told nothing.
    while relay_node.statistics().await.unwrap().refused_frames == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!attaching.is_finished());
    attaching.abort();
}

#[tokio::test]
async fn errors_say_what_is_missing() {
    let (machine, other) = (Machine::new(), Machine::new());
    let node = Node::builder((machine.vault.clone(), machine.owner.clone())).transport(Tcp::default());
    let node = node.start().await.unwrap();
    let nowhere = other.owner.card(&other.vault, &CardParts::default()).unwrap();
    let error = |error: NodeError| error.to_string();
    let no_route = node.open(&nowhere, Policy::only(&nowhere)).await.map(drop).map_err(error);
    assert_eq!(no_route, Err("the card names no relay that this node is attached to, and no address".into()));
    let not_admitted = node.open(&nowhere, Policy::nobody()).await.map(drop).map_err(error);
    assert_eq!(not_admitted, Err("the policy does not admit the identity on the card".into()));
    assert_eq!(node.attach(&nowhere).await.map_err(error), Err("the card has no address to connect to".into()));
    assert_eq!(node.listen("http://1.2.3.4:5").await.map_err(error), Err("address scheme: malformed".into()));
    let unsupported = node.listen("udp://1.2.3.4:5").await.map_err(error);
    assert_eq!(unsupported, Err("no transport is set up for udp://1.2.3.4:5".into()));
    let card = other.card_at("tcp://127.0.0.1:1");
    let channel = node.open(&card, Policy::only(&card)).await.unwrap();
    let again = node.open(&card, Policy::only(&card)).await.map(drop).map_err(error);
    assert_eq!(again, Err("a handle of this channel exists already".into()));
    let no_store = channel.send(b"durable".to_vec()).await.map(drop).map_err(error);
    assert_eq!(no_store, Err("this node has no store, so nothing can be sent durably".into()));
    let long = channel.send_live(vec![0; 2_000_000]).await.map(drop).map_err(error);
    assert_eq!(long, Err("a message of 2000000 octets, the limit is 1048576".into()));
    node.shutdown().await;
    assert_eq!(node.listen(ANY_PORT).await.map_err(error), Err("the node has shut down".into()));
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_not_a_loss() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    *client.disk.full.lock().unwrap() = true;
    let refused = channel.send(b"refused".to_vec()).await.unwrap_err();
    assert!(refused.to_string().starts_with("the disk is full") && refused.is_retryable(), "{refused}");
    *client.disk.full.lock().unwrap() = false;
    channel.send(b"taken".to_vec()).await.unwrap();
    let mut here = server_node.accept().await.unwrap();
    assert_eq!(receive(&mut here, 1).await, [b"taken"]);
    // The recipient's disk is full: what is not on disk is not committed, and says so.
    *server.disk.full.lock().unwrap() = true;
    let receipt = channel.send(b"later".to_vec()).await.unwrap();
    let message = here.recv().await.unwrap().unwrap();
    assert!(message.done().await.is_err());
    drop(receipt);
}

/// Garbage, a first message for somebody else, and one that is damaged: not one octet comes back, and nothing is kept.
#[tokio::test]
async fn a_prober_without_the_card_gets_no_octet() {
    let (relay, client) = (Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&client], ANY_PORT).await;
    let mut network = sealway_testkit::network::Network::pair(1);
    network.open(0, 1);
    network.drain();
    let for_somebody_else = network.log[0].2.clone();
    let mut prober = tokio::net::TcpStream::connect(address.trim_start_matches("tcp://")).await.unwrap();
    let probes: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &for_somebody_else, &[0x11; 1246], &[0x12; 1145], &[0x94; 64]];
    for (count, probe) in (1..).zip(probes) {
        let length = u16::try_from(probe.len()).unwrap().to_be_bytes();
        prober.write_all(&[&length, probe].concat()).await.unwrap();
        while relay_node.statistics().await.unwrap().refused_frames < count {
            tokio::task::yield_now().await;
        }
        let mut octet = [0];
        let read = prober.try_read(&mut octet).unwrap_err();
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock, "not one octet, and no end that would tell something");
    }
}

/// The accepting side has no card of the other, only its name in a policy: it still finds it after the relay was away.
#[tokio::test]
async fn a_peer_that_was_accepted_is_found_again_after_the_relay_was_away() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let right_card = right.card_behind(&relay_card);
    let left_node = left.builder().start().await.unwrap();
    let right_node = right.builder().accept(left.policy()).start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    let mut to_right = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    let to_left = right_node.accept().await.unwrap();
    to_left.send(b"before".to_vec()).await.unwrap();
    assert_eq!(receive(&mut to_right, 1).await, [b"before"]);
    relay_node.shutdown().await;
    let receipt = to_left.send(b"while away".to_vec()).await.unwrap();
    let (_relay_node, _) = run_relay(&relay, &[&left, &right], &address).await;
    assert_eq!(receive(&mut to_right, 1).await, [b"while away"]);
    receipt.delivered().await.unwrap();
}

/// A card that leads nowhere does not keep its owner from coming to us.
#[tokio::test]
async fn a_peer_without_a_route_can_still_come() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let nowhere = client.owner.card(&client.vault, &CardParts::default()).unwrap();
    let refused = server_node.open(&nowhere, Policy::only(&nowhere)).await;
    assert!(matches!(refused, Err(NodeError::NoRoute)));
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    channel.send(b"hello".to_vec()).await.unwrap();
    let mut accepted = server_node.accept().await.unwrap();
    assert_eq!(receive(&mut accepted, 1).await, [b"hello"]);
}

/// What a handle was given and did not do with is not lost with it.
#[tokio::test]
async fn a_handle_that_is_dropped_leaves_its_messages_to_the_next_one() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    for number in numbers(3) {
        channel.send(number).await.unwrap();
    }
    let mut first = server_node.accept().await.unwrap();
    assert_eq!(receive(&mut first, 1).await, numbers(1));
    drop(first.recv().await.unwrap());
    drop(first);
    // The client makes a new session, and with it the server is offered the peer anew.
    client_node.shutdown().await;
    let client_node = client.builder().start().await.unwrap();
    let _channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    let mut second = server_node.accept().await.unwrap();
    assert_eq!(receive(&mut second, 2).await, numbers(3)[1..]);
}

/// A peer that nobody here takes leaves its messages where they are; the node goes on, and is not busy with them.
#[tokio::test]
async fn a_peer_that_nobody_accepts_waits() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let mut channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    channel.opened().await.unwrap();
    // One handle commits something, and is dropped with something undone: another is offered, and so on until one is not used.
    channel.send_live(b"done with".to_vec()).await.unwrap();
    channel.send_live(b"looked at".to_vec()).await.unwrap();
    let mut handle = server_node.accept().await.unwrap();
    assert_eq!(receive(&mut handle, 1).await, [b"done with"]);
    assert_eq!(handle.recv().await.unwrap().unwrap().body(), b"looked at");
    drop(handle);
    let mut handle = server_node.accept().await.unwrap();
    assert_eq!(handle.recv().await.unwrap().unwrap().body(), b"looked at");
    drop(handle);
    let again = tokio::time::timeout(std::time::Duration::from_millis(300), server_node.accept()).await;
    assert!(again.is_err(), "it is not offered without end");
    let mut handle = {
        // A new session offers it again.
        drop(channel);
        client_node.shutdown().await;
        let client_node = client.builder().start().await.unwrap();
        let channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
        channel.send_live(b"anew".to_vec()).await.unwrap();
        let handle = server_node.accept().await.unwrap();
        (handle, client_node, channel)
    };
    assert_eq!(receive(&mut handle.0, 1).await, [b"anew"]);
}

/// Who opens a channel that the peer has opened a moment before gets the handle that waits to be accepted; nobody else does.
#[tokio::test]
async fn who_opens_what_the_peer_has_just_opened_gets_that_handle() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let client_node = client.builder().start().await.unwrap();
    let server_card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_card = client.card_at(&client_node.listen(ANY_PORT).await.unwrap());
    let there = client_node.open(&server_card, Policy::only(&server_card)).await.unwrap();
    there.send_live(b"first".to_vec()).await.unwrap();
    while server_node.statistics().await.unwrap().sessions == 0 {
        tokio::task::yield_now().await;
    }
    // A policy that does not fit, and a card that leads nowhere, leave it to be accepted.
    server_node.open(&client_card, Policy::nobody()).await.unwrap_err();
    let nowhere = client.owner.card(&client.vault, &CardParts::default()).unwrap();
    let refused = server_node.open(&nowhere, Policy::only(&nowhere)).await;
    assert!(matches!(refused, Err(NodeError::NoRoute)));
    let mut here = server_node.open(&client_card, Policy::only(&client_card)).await.unwrap();
    let message = here.recv().await.unwrap().unwrap();
    assert_eq!(message.body(), b"first");
    message.done().await.unwrap();
    let again = server_node.open(&client_card, Policy::only(&client_card)).await;
    assert!(matches!(again, Err(NodeError::InUse)));
    tokio::select! {
        biased;
        accepted = server_node.accept() => panic!("{accepted:?}"),
        _ = server_node.statistics() => {}
    }
    drop(here);
    there.send_live(b"second".to_vec()).await.unwrap();
    let mut here = server_node.open(&client_card, Policy::only(&client_card)).await.unwrap();
    assert_eq!(receive(&mut here, 1).await, [b"second"]);
}
