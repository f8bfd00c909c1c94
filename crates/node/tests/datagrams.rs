//! Datagrams between nodes: each once at most, never kept, and an error where they cannot be sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use sealway_identity::Policy;
use sealway_node::{Channel, Datagrams, Node, NodeError, RelayConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use self::machines::{ANY_PORT, Machine, Pair, meet, receive, run_relay, through_a_relay};

async fn directly(address: &str) -> ([Node; 2], [Channel; 2]) {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder_without_a_store().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(address).await.unwrap());
    let client_node = client.builder_without_a_store().start().await.unwrap();
    let mut there = client_node.open(&card, Policy::only(&card)).await.unwrap();
    there.opened().await.unwrap();
    let here = server_node.accept().await.unwrap();
    ([client_node, server_node], [there, here])
}

/// Sends when there is a way: the other side may not have heard of the session yet.
async fn send_when_open(datagrams: &Datagrams, datagram: &[u8]) {
    loop {
        match datagrams.send(datagram).await {
            Err(NodeError::NotOpen) => tokio::task::yield_now().await,
            sent => return sent.unwrap(),
        }
    }
}

/// Of every length, both ways, beside messages: on a link that loses nothing all of them arrive.
async fn all_arrive(channels: [Channel; 2]) {
    let [mut there, mut here] = channels;
    let lengths: Vec<usize> = (0..40).chain([1180, 1200, 1500, 4096, 16_382, 16_383]).collect();
    let (from, mut to) = (there.datagrams(), here.datagrams());
    assert_eq!((from.max_len(), from.peer(), to.peer()), (16_383, there.peer(), here.peer()));
    let got = from.send(&vec![0; 16_384]).await;
    assert!(matches!(got, Err(NodeError::TooLong { limit: 16_383, got: 16_384 })), "{got:?}");
    let mut left: BTreeSet<usize> = lengths.iter().copied().collect();
    for length in &lengths {
        send_when_open(&from, &vec![7; *length]).await;
    }
    while !left.is_empty() {
        let datagram = to.recv().await.unwrap();
        assert!(datagram.iter().all(|octet| *octet == 7));
        assert!(left.remove(&datagram.len()), "{} octets came twice, or were not sent", datagram.len());
    }
    let receipt = there.send_live(b"beside them".to_vec()).await.unwrap();
    assert_eq!(receive(&mut here, 1).await, [b"beside them"]);
    receipt.delivered().await.unwrap();
    send_when_open(&to, b"back").await;
    let mut back = there.datagrams();
    assert_eq!(back.recv().await, Some(b"back".as_slice()));
    let receipt = here.send_live(b"and forth".to_vec()).await.unwrap();
    assert_eq!(receive(&mut there, 1).await, [b"and forth"]);
    receipt.delivered().await.unwrap();
}

#[tokio::test]
async fn datagrams_of_any_length_cross_tcp() {
    let (_nodes, channels) = directly(ANY_PORT).await;
    all_arrive(channels).await;
}

#[tokio::test]
async fn datagrams_of_any_length_cross_udp() {
    let (_nodes, channels) = directly("udp://127.0.0.1:0").await;
    all_arrive(channels).await;
}

#[tokio::test]
async fn datagrams_of_any_length_cross_a_relay() {
    let pair = through_a_relay(RelayConfig::default(), Machine::builder_without_a_store).await;
    let Pair { relay: _relay, nodes: _nodes, mut channels } = pair;
    for channel in &mut channels {
        channel.opened().await.unwrap();
    }
    all_arrive(channels).await;
}

/// More than any queue holds, one after another: whoever sends waits, and nothing is lost between two who take what comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_faster_than_the_link_waits() {
    const COUNT: u32 = 3000;
    let (nodes, [there, here]) = directly(ANY_PORT).await;
    let (from, mut to) = (there.datagrams(), here.datagrams());
    let sends = tokio::spawn(async move {
        for number in 0..COUNT {
            let mut datagram = vec![0; 1000];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            from.send(&datagram).await.unwrap();
        }
        (there, from)
    });
    let mut seen = BTreeSet::new();
    let (mut from, mut sends) = (None, sends);
    let dropped = async || nodes[1].statistics().await.unwrap().dropped_datagrams;
    while seen.len() as u64 + dropped().await < u64::from(COUNT) {
        tokio::select! {
            datagram = to.recv() => {
                let number = u32::from_be_bytes(datagram.unwrap()[..4].try_into().unwrap());
                assert!(seen.insert(number), "{number} came twice");
            }
            sent = &mut sends, if from.is_none() => from = Some(sent.unwrap()),
        }
    }
    let [sender, receiver] = [nodes[0].statistics().await.unwrap(), nodes[1].statistics().await.unwrap()];
    assert_eq!(sender.dropped_datagrams, 0, "the way was open all the time");
    assert_eq!(receiver.delivered_datagrams, seen.len() as u64);
}

/// What nobody takes is dropped at a bound and counted, and messages pass all the same.
#[tokio::test]
async fn what_nobody_takes_is_counted() {
    let (nodes, [there, mut here]) = directly(ANY_PORT).await;
    let from = there.datagrams();
    for _ in 0..300 {
        send_when_open(&from, &[1; 1000]).await;
    }
    there.send_live(b"after them".to_vec()).await.unwrap();
    // TCP keeps the order: the datagrams came before.
    assert_eq!(receive(&mut here, 1).await, [b"after them"]);
    let statistics = nodes[1].statistics().await.unwrap();
    let (taken, lost) = (statistics.delivered_datagrams, statistics.dropped_datagrams);
    assert!(taken + lost == 300 && taken > 200 && lost > 30, "{taken} kept, {lost} dropped");
    let mut to = here.datagrams();
    for _ in 0..taken {
        assert_eq!(to.recv().await.map(<[u8]>::len), Some(1000));
    }
    send_when_open(&from, b"there is room again").await;
    assert_eq!(to.recv().await, Some(b"there is room again".as_slice()));
}

#[tokio::test]
async fn without_a_way_a_datagram_is_an_error() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let mut there = client_node.open(&card, Policy::only(&card)).await.unwrap();
    let (from, second) = (there.datagrams(), there.datagrams());
    assert!(matches!(from.try_send(b"too early"), Err(NodeError::NotOpen)));
    there.opened().await.unwrap();
    let here = server_node.accept().await.unwrap();
    send_when_open(&from, b"now").await;
    assert_eq!(here.datagrams().recv().await, Some(b"now".as_slice()));
    // The peer ends: nothing is kept for its return.
    let mut waiting = there.datagrams();
    server_node.shutdown().await;
    loop {
        match from.send(b"into the void").await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break assert!(matches!(error, NodeError::NotOpen) && error.is_retryable(), "{error}"),
        }
    }
    assert_eq!(here.datagrams().recv().await, None, "its node has ended");
    let got = here.datagrams().send(b"from an end that has ended").await;
    assert!(matches!(got, Err(NodeError::Closed)), "{got:?}");
    let waits = tokio::spawn(async move { waiting.recv().await.is_none() });
    client_node.shutdown().await;
    assert!(waits.await.unwrap());
    assert!(matches!(second.send(b"too late").await, Err(NodeError::Closed)));
}

/// On one thread the driver has no turn while nothing is awaited.
#[tokio::test]
async fn a_full_queue_is_an_error_for_who_does_not_wait() {
    let (_nodes, [there, here]) = directly(ANY_PORT).await;
    let (from, mut to) = (there.datagrams(), here.datagrams());
    send_when_open(&from, &[0; 1000]).await;
    assert!(to.recv().await.is_some());
    let mut count = 0;
    let full = loop {
        match from.try_send(&[1; 1000]) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, NodeError::Full) && full.is_retryable(), "{full}");
    assert!(count > 200, "{count}");
    // The other side keeps as many.
    for _ in 0..count {
        assert_eq!(to.recv().await, Some([1; 1000].as_slice()));
    }
    from.send(b"there is room").await.unwrap();
    assert_eq!(to.recv().await, Some(b"there is room".as_slice()));
}

/// A relay has clients; a node that is one sends no datagrams, and takes none but of the hop protocol.
#[tokio::test]
async fn a_relay_is_no_peer() {
    let (relay, client) = (Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&client], ANY_PORT).await;
    let card = relay.card_at(&address);
    let node = client.builder().start().await.unwrap();
    let mut channel = node.open(&card, Policy::only(&card)).await.unwrap();
    channel.opened().await.unwrap();
    let datagrams = channel.datagrams();
    // Of no kind that the hop protocol knows.
    send_when_open(&datagrams, &[0xff; 9]).await;
    while relay_node.statistics().await.unwrap().malformed_frames == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(relay_node.statistics().await.unwrap().delivered_datagrams, 0);
}

/// A line to a relay that can be cut: connections end, and others are refused.
struct Line {
    address: String,
    is_cut: Arc<watch::Sender<bool>>,
}

impl Line {
    async fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let is_cut = Arc::new(watch::Sender::new(false));
        let cut = is_cut.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(relay).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.wait_for(|is_cut| *is_cut) => {}
                    }
                });
            }
        });
        Self { address, is_cut }
    }
}

/// The relay says that the peer is away; when it is back nobody makes a handshake, and the flow has nothing but datagrams, one way.
#[tokio::test]
async fn datagrams_go_on_when_a_peer_is_attached_again() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let line = Line::to(address.strip_prefix("tcp://").unwrap().parse().unwrap()).await;
    // No question for a way without the relay has the peer noticed by chance.
    let start = async |machine: &Machine| machine.builder().relayed_only().start().await.unwrap();
    let nodes = [start(&left).await, start(&right).await];
    let (of_left, of_right) = (relay.card_at(&address), relay.card_at(&line.address));
    let [mut there, here] = meet([(&left, &of_left), (&right, &of_right)], [&nodes[0], &nodes[1]]).await;
    there.opened().await.unwrap();
    let (from, mut to) = (there.datagrams(), here.datagrams());
    send_when_open(&from, b"before").await;
    assert_eq!(to.recv().await, Some(b"before".as_slice()));
    let sessions = nodes[1].statistics().await.unwrap().sessions;
    line.is_cut.send_replace(true);
    let mut turns = tokio::time::interval(Duration::from_millis(20));
    while nodes[0].statistics().await.unwrap().absent_frames == 0 {
        turns.tick().await;
        let _ = from.try_send(b"lost");
    }
    line.is_cut.send_replace(false);
    loop {
        tokio::select! {
            datagram = to.recv() => {
                if datagram == Some(b"after".as_slice()) {
                    break;
                }
            }
            _ = turns.tick() => {
                let _ = from.try_send(b"after");
            }
        }
    }
    // The relay's hop alone was made anew.
    assert_eq!(nodes[1].statistics().await.unwrap().sessions, sessions + 1);
    relay_node.shutdown().await;
}
