//! Nodes over UDP: real sockets, and a path that loses datagrams and moves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use machines::{Machine, meet, numbers, receive, run_relay, send_all};
use sealway_identity::{Card, Policy};
use sealway_node::{Channel, Node, RelayConfig};
use tokio::{net::UdpSocket, sync::Mutex, task::JoinHandle};

const ANY_PORT: &str = "udp://127.0.0.1:0";

/// What lies between: for each client a socket of its own towards the server, as a NAT has, and chance.
struct Path {
    address: SocketAddr,
    /// Counts up when all clients get another address.
    moves: Arc<AtomicU64>,
    lost_per_thousand: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Path {
    async fn to(server: &str) -> Self {
        let server: SocketAddr = server.trim_start_matches("udp://").parse().unwrap();
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let (moves, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(forward(front, server, moves.clone(), lost.clone()));
        Self { address, moves, lost_per_thousand: lost, task }
    }

    fn address(&self) -> String {
        format!("udp://{}", self.address)
    }

    fn lose(&self, per_thousand: u64) {
        self.lost_per_thousand.store(per_thousand, Ordering::Relaxed);
    }

    fn move_clients(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Chance(u64);

impl Chance {
    fn happens(&mut self, per_thousand: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 1000 < per_thousand
    }
}

async fn forward(front: Arc<UdpSocket>, server: SocketAddr, moves: Arc<AtomicU64>, lost: Arc<AtomicU64>) {
    let mut backs: HashMap<(SocketAddr, u64), Arc<UdpSocket>> = HashMap::new();
    let chance = Arc::new(Mutex::new(Chance(11)));
    let mut tasks = tokio::task::JoinSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((len, client)) = front.recv_from(&mut buffer).await else { continue };
        let key = (client, moves.load(Ordering::Relaxed));
        if let Entry::Vacant(place) = backs.entry(key) {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            back.connect(server).await.unwrap();
            place.insert(back.clone());
            let (front, lost, chance) = (front.clone(), lost.clone(), chance.clone());
            let moves = moves.clone();
            tasks.spawn(async move {
                let mut buffer = vec![0; 65_536];
                // What still comes to the old address of a client that has moved is lost.
                while let Ok(len) = back.recv(&mut buffer).await {
                    let is_lost = chance.lock().await.happens(lost.load(Ordering::Relaxed));
                    if !is_lost && moves.load(Ordering::Relaxed) == key.1 {
                        let _ = front.send_to(&buffer[..len], client).await;
                    }
                }
            });
        }
        if !chance.lock().await.happens(lost.load(Ordering::Relaxed)) {
            let _ = backs[&key].send(&buffer[..len]).await;
        }
    }
}

/// A node that listens, one that has opened a channel to it, and both ends of the channel.
async fn direct(
    listener: &Machine,
    caller: &Machine,
    path: impl AsyncFnOnce(String) -> String,
) -> ([Node; 2], Channel) {
    let listening = listener.builder().accept(caller.policy()).start().await.unwrap();
    let address = path(listening.listen(ANY_PORT).await.unwrap()).await;
    let calling = caller.builder().start().await.unwrap();
    let card = listener.card_at(&address);
    let channel = calling.open(&card, Policy::only(&card)).await.unwrap();
    ([listening, calling], channel)
}

#[tokio::test]
async fn messages_of_any_size_go_both_ways() {
    let (listener, caller) = (Machine::new(), Machine::new());
    let (nodes, mut there) = direct(&listener, &caller, async |address| address).await;
    let messages: Vec<Vec<u8>> =
        [0, 1, 100, 1100, 1200, 16_000, 100_000, 1 << 20].into_iter().map(|size| vec![5; size]).collect();
    send_all(&there, &messages).await;
    let mut here = nodes[0].accept().await.unwrap();
    assert_eq!(receive(&mut here, messages.len()).await, messages);
    send_all(&here, &messages).await;
    assert_eq!(receive(&mut there, messages.len()).await, messages);
}

#[tokio::test]
async fn what_the_path_loses_arrives_all_the_same() {
    for lost in [50, 200] {
        let (listener, caller) = (Machine::new(), Machine::new());
        let mut path = None;
        let (nodes, mut there) = direct(&listener, &caller, async |address| {
            let between = Path::to(&address).await;
            // The handshake too: its fragments are lost like everything else.
            between.lose(lost);
            let address = between.address();
            path = Some(between);
            address
        })
        .await;
        let messages: Vec<Vec<u8>> = numbers(300).into_iter().map(|number| number.repeat(200)).collect();
        send_all(&there, &messages).await;
        let mut here = nodes[0].accept().await.unwrap();
        assert_eq!(receive(&mut here, messages.len()).await, messages);
        send_all(&here, &messages).await;
        assert_eq!(receive(&mut there, messages.len()).await, messages);
        let sessions = nodes[0].statistics().await.unwrap().sessions;
        assert_eq!(sessions, 1, "loss is no reason for a new session");
    }
}

/// A relay that starts again on its address knows nothing of the packets that are under way: the links are given up, and the next
/// ones begin with handshakes.
#[tokio::test]
async fn a_relay_that_starts_again_is_found_again() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (mut relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let card = relay.card_at(&address);
    let [left_node, right_node] = [left.builder().start().await.unwrap(), right.builder().start().await.unwrap()];
    let [mut to_right, mut to_left] = meet([(&left, &card), (&right, &card)], [&left_node, &right_node]).await;
    for round in 0..2 {
        send_all(&to_right, &numbers(20)).await;
        send_all(&to_left, &numbers(20)).await;
        assert_eq!(receive(&mut to_left, 20).await, numbers(20));
        assert_eq!(receive(&mut to_right, 20).await, numbers(20));
        if round == 0 {
            relay_node.shutdown().await;
            (relay_node, _) = run_relay(&relay, &[&left, &right], &address).await;
        }
    }
}

/// The clients of a relay get other addresses, as behind a NAT that forgets, while messages pass: the sessions go on.
#[tokio::test]
async fn clients_move_without_a_new_handshake() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let mut clients = left.policy();
    clients.admit(right.owner.id());
    let relay_node = relay.builder().accept(clients).relay(RelayConfig::default()).start().await.unwrap();
    let path = Path::to(&relay_node.listen(ANY_PORT).await.unwrap()).await;
    let card = relay.card_at(&path.address());
    let [left_node, right_node] = [left.builder().start().await.unwrap(), right.builder().start().await.unwrap()];
    let [mut to_right, mut to_left] = meet([(&left, &card), (&right, &card)], [&left_node, &right_node]).await;
    // Both say something: who is silent is found again when it asks its relay for a sign of life.
    let exchange = async |to_right: &mut Channel, to_left: &mut Channel| {
        send_all(to_right, &numbers(50)).await;
        send_all(to_left, &numbers(50)).await;
        assert_eq!(receive(to_left, 50).await, numbers(50));
        assert_eq!(receive(to_right, 50).await, numbers(50));
    };
    exchange(&mut to_right, &mut to_left).await;
    let before = relay_node.statistics().await.unwrap().sessions;
    for _ in 0..3 {
        path.move_clients();
        exchange(&mut to_right, &mut to_left).await;
    }
    assert_eq!(relay_node.statistics().await.unwrap().sessions, before, "no handshake with the relay");
}

/// What claims to be a part of a long frame is not kept without a sign that its sender has our card, and gets no answer.
// Specification: [M51].
#[tokio::test]
async fn fragments_of_strangers_are_not_kept() {
    let machine = Machine::new();
    let node = machine.builder().accept(Policy::nobody()).start().await.unwrap();
    let address = node.listen(ANY_PORT).await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(address.trim_start_matches("udp://")).await.unwrap();
    // A beginning with a gate that does not fit, one of a third message that nobody waits for, a record, and what comes behind.
    let first = [[0x11; 600].as_slice(), &[0x13; 600], &[0x90; 600]];
    let mut sent = 0;
    for (id, octets) in (0_u8..).zip(first) {
        let head = [1, 0, 0, 0, id];
        stranger.send(&[&head[..], &1246_u16.to_be_bytes(), &[0, 0], octets].concat()).await.unwrap();
        stranger.send(&[&head[..], &1246_u16.to_be_bytes(), &600_u16.to_be_bytes(), &[0; 646]].concat()).await.unwrap();
        sent += 2;
    }
    // Each was refused as it came: had one been kept, its second part would not have been.
    while node.statistics().await.unwrap().refused_frames < sent {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.statistics().await.unwrap().malformed_frames, 0, "nothing was put together and read");
    assert!(stranger.try_recv(&mut [0; 2000]).is_err(), "and nothing was answered");
}

/// One client comes over TCP, the other over UDP: what the one sends in long records reaches the other in short datagrams.
#[tokio::test]
async fn a_relay_joins_media() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let mut clients = left.policy();
    clients.admit(right.owner.id());
    let relay_node = relay.builder().accept(clients).relay(RelayConfig::default()).start().await.unwrap();
    let over_tcp: Card = relay.card_at(&relay_node.listen(machines::ANY_PORT).await.unwrap());
    let over_udp: Card = relay.card_at(&relay_node.listen(ANY_PORT).await.unwrap());
    let [left_node, right_node] = [left.builder().start().await.unwrap(), right.builder().start().await.unwrap()];
    left_node.attach(&over_tcp).await.unwrap();
    right_node.attach(&over_udp).await.unwrap();
    let (left_card, right_card) = (left.card_behind(&over_udp), right.card_behind(&over_tcp));
    let mut to_right = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    let mut to_left = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    let messages: Vec<Vec<u8>> = (1..20).map(|number| vec![number; 40_000]).collect();
    send_all(&to_right, &messages).await;
    assert_eq!(receive(&mut to_left, messages.len()).await, messages);
    send_all(&to_left, &messages).await;
    assert_eq!(receive(&mut to_right, messages.len()).await, messages);
}

/// A card with two addresses, of which one leads nowhere: the other is tried in its turn.
#[tokio::test]
async fn another_address_is_tried_where_nobody_answers() {
    let (listener, caller) = (Machine::new(), Machine::new());
    let listening = listener.builder().accept(caller.policy()).start().await.unwrap();
    let tcp = listening.listen(machines::ANY_PORT).await.unwrap();
    // A socket that takes everything and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![format!("udp://{}", silent.local_addr().unwrap()), tcp];
    let parts = sealway_identity::CardParts { addresses, ..sealway_identity::CardParts::default() };
    let card = listener.owner.card(&listener.vault, &parts).unwrap();
    let calling = caller.builder().start().await.unwrap();
    let channel = calling.open(&card, Policy::only(&card)).await.unwrap();
    send_all(&channel, &numbers(3)).await;
    let mut here = listening.accept().await.unwrap();
    assert_eq!(receive(&mut here, 3).await, numbers(3));
}
