//! Nodes that have never met, and are never there at the same time: what they have for each other goes in letters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use sealway_identity::{Card, Policy};
use sealway_node::{Channel, Node, Progress, Receipt, RelayConfig, danger::RelayTap};
use sealway_routing::{Store, Table};

use self::machines::{ANY_PORT, Machine, run_relay};

/// Two machines behind a relay, each of which has been attached once, alone.
struct Scene {
    relay: Machine,
    left: Machine,
    right: Machine,
    relay_card: Card,
    address: String,
}

impl Scene {
    async fn set() -> (Self, Node) {
        let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
        let (node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
        let relay_card = relay.card_at(&address);
        let scene = Self { relay, left, right, relay_card, address };
        for (published, [machine, peer]) in [(1, [&scene.left, &scene.right]), (2, [&scene.right, &scene.left])] {
            let node = machine.builder().accept(peer.policy()).start().await.unwrap();
            node.attach(&scene.relay_card).await.unwrap();
            // Its prekey is published once it is on its own disk, and is there once it is on the relay's.
            while rows(&scene.relay, Table::Published) < published {
                tokio::task::yield_now().await;
            }
            node.shutdown().await;
        }
        (scene, node)
    }

    async fn start(&self, machine: &Machine, peer: &Machine) -> (Node, Channel) {
        let node = machine.builder().start().await.unwrap();
        let card = peer.card_behind(&self.relay_card);
        node.stay_attached(&self.relay_card).await.unwrap();
        let channel = node.open(&card, Policy::only(&card)).await.unwrap();
        (node, channel)
    }

    async fn restart_relay(&self, node: Node) -> Node {
        node.shutdown().await;
        run_relay(&self.relay, &[&self.left, &self.right], &self.address).await.0
    }
}

fn rows(machine: &Machine, table: Table) -> usize {
    let mut rows = 0;
    machine.disk.clone().load(table, &mut |_, _| rows += 1).unwrap();
    rows
}

async fn reaches(receipt: &mut Receipt, progress: Progress) {
    while receipt.progress() != progress {
        receipt.changed().await.unwrap();
    }
}

/// The next messages, all of which have come in letters.
async fn read(channel: &mut Channel, count: usize) -> Vec<Vec<u8>> {
    let (read, letters) = read_any(channel, count).await;
    assert_eq!(letters, count);
    read
}

/// The next messages, and how many of them have come in letters.
async fn read_any(channel: &mut Channel, count: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut read, mut letters) = (Vec::new(), 0);
    while read.len() < count {
        let message = channel.recv().await.unwrap().expect("the channel is open");
        letters += usize::from(message.is_early());
        read.push(message.body().to_vec());
        message.done().await.unwrap();
    }
    (read, letters)
}

#[tokio::test]
async fn two_that_never_meet_write_to_each_other_and_come_to_a_session() {
    const ROUNDS: u32 = 6;
    let (scene, mut relay) = Scene::set().await;
    let mut letters = Vec::new();
    let bodies = |first: u32, count: u32| -> Vec<Vec<u8>> {
        (first..first + count).map(|number| number.to_be_bytes().to_vec()).collect()
    };
    for round in 0..ROUNDS {
        let first = round * 25;
        for (own, peer, is_first) in [(&scene.left, &scene.right, round == 0), (&scene.right, &scene.left, false)] {
            let (node, mut channel) = scene.start(own, peer).await;
            let mut receipts = Vec::new();
            for body in bodies(first, 25) {
                receipts.push(channel.send(body).await.unwrap());
            }
            if !is_first {
                let is_left = own.owner.id() == scene.left.owner.id();
                let (read, in_letters) = read_any(&mut channel, 25).await;
                assert_eq!(read, bodies(if is_left { first - 25 } else { first }, 25));
                letters.push(in_letters);
            }
            for receipt in &mut receipts {
                reaches(receipt, Progress::InCustody).await;
            }
            node.shutdown().await;
        }
        relay = scene.restart_relay(relay).await;
    }
    // Each learns that everything was committed.
    let (node, mut left) = scene.start(&scene.left, &scene.right).await;
    let (read, in_letters) = read_any(&mut left, 25).await;
    assert_eq!(read, bodies(25 * (ROUNDS - 1), 25));
    letters.push(in_letters);
    // What was written before the three flights were through went in letters, the rest under the session that came of them.
    println!("letters of 25 messages: {letters:?}");
    assert_eq!((letters[..2].to_vec(), letters[letters.len() - 4..].to_vec()), (vec![25; 2], vec![0; 4]));
    left.flushed().await.unwrap();
    node.shutdown().await;
    let (node, right) = scene.start(&scene.right, &scene.left).await;
    right.flushed().await.unwrap();
    let statistics = node.statistics().await.unwrap();
    assert_eq!(statistics.sessions, 1, "live is that with the relay: {statistics:?}");
    node.shutdown().await;
    assert_eq!(relay.statistics().await.unwrap().refused_deposits, 0);
    assert_eq!((rows(&scene.left, Table::Outbox), rows(&scene.right, Table::Outbox)), (0, 0));
    relay.shutdown().await;
}

#[tokio::test]
async fn who_has_no_card_of_the_sender_answers_by_letter() {
    let (scene, _relay) = Scene::set().await;
    let (node, left) = scene.start(&scene.left, &scene.right).await;
    let mut receipt = left.send(b"who is there?".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    node.shutdown().await;
    let node = scene.right.builder().accept(scene.left.policy()).start().await.unwrap();
    node.attach(&scene.relay_card).await.unwrap();
    let mut accepted = node.accept().await.unwrap();
    assert_eq!(accepted.peer(), scene.left.owner.id());
    assert_eq!(read(&mut accepted, 1).await, [b"who is there?"]);
    let mut receipt = accepted.send(b"me".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    node.shutdown().await;
    let (_node, mut left) = scene.start(&scene.left, &scene.right).await;
    assert_eq!(read(&mut left, 1).await, [b"me"]);
    left.flushed().await.unwrap();
}

#[tokio::test]
async fn an_answer_leaves_although_its_sender_has_no_card_and_began_anew() {
    let (scene, relay) = Scene::set().await;
    let (node, left) = scene.start(&scene.left, &scene.right).await;
    let mut receipt = left.send(b"who is there?".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    node.shutdown().await;
    let start = || async {
        let node = scene.right.builder().accept(scene.left.policy()).start().await.unwrap();
        node.stay_attached(&scene.relay_card).await.unwrap();
        node
    };
    let node = start().await;
    let mut accepted = node.accept().await.unwrap();
    assert_eq!(read(&mut accepted, 1).await, [b"who is there?"]);
    relay.shutdown().await;
    accepted.send(b"me".to_vec()).await.unwrap();
    node.shutdown().await;
    let (_relay, _) = run_relay(&scene.relay, &[&scene.left, &scene.right], &scene.address).await;
    let node = start().await;
    while node.statistics().await.unwrap().letters_sent == 0 {
        tokio::task::yield_now().await;
    }
    node.shutdown().await;
    let (_node, mut left) = scene.start(&scene.left, &scene.right).await;
    assert_eq!(read(&mut left, 1).await, [b"me"]);
}

#[tokio::test]
async fn those_who_have_written_meet_and_go_on_under_a_session() {
    let (scene, _relay) = Scene::set().await;
    let (left_node, mut left) = scene.start(&scene.left, &scene.right).await;
    let mut receipt = left.send(b"a letter".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    let (_right_node, mut right) = scene.start(&scene.right, &scene.left).await;
    let message = right.recv().await.unwrap().unwrap();
    assert_eq!(message.body(), b"a letter");
    message.done().await.unwrap();
    reaches(&mut receipt, Progress::Delivered).await;
    left.opened().await.unwrap();
    let letters = left_node.statistics().await.unwrap().letters_sent;
    right.send(b"under a session".to_vec()).await.unwrap();
    let message = left.recv().await.unwrap().unwrap();
    assert_eq!((message.body(), message.is_early()), (b"under a session".as_slice(), false));
    message.done().await.unwrap();
    right.flushed().await.unwrap();
    assert_eq!(left_node.statistics().await.unwrap().letters_sent, letters);
}

#[tokio::test]
async fn a_stranger_learns_no_prekey_and_leaves_no_letter() {
    let (scene, relay) = Scene::set().await;
    let stranger = Machine::new();
    relay.shutdown().await;
    let clients = [&scene.left, &scene.right, &stranger];
    let (relay, _) = run_relay(&scene.relay, &clients, &scene.address).await;
    let (node, channel) = scene.start(&stranger, &scene.right).await;
    let receipt = channel.send(b"let me in".to_vec()).await.unwrap();
    // One more on the same hop session: when that is answered, so is the question for a prekey before it.
    channel.send(b"please".to_vec()).await.unwrap();
    while relay.statistics().await.unwrap().absent_frames == 0 {
        tokio::task::yield_now().await;
    }
    node.attach(&scene.relay_card).await.unwrap();
    assert_eq!(receipt.progress(), Progress::NeverMet);
    assert_eq!(node.statistics().await.unwrap().letters_sent, 0);
    assert_eq!(relay.statistics().await.unwrap().kept_frames, 0);
}

/// Lets nothing pass but what is left in boxes.
struct BoxesOnly;

impl RelayTap for BoxesOnly {
    fn saw(&self, _: &[u8]) {}

    fn passes_on(&self, _: u64, _: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Both are there all the time, and nothing that would have to be repeated in another run is: each flight leaves when the one before has come.
#[tokio::test]
async fn flights_leave_as_soon_as_they_can() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let config = RelayConfig::default().with_tap(BoxesOnly);
    let policy = Policy::ids([left.owner.id(), right.owner.id()]);
    let relay_node = relay.builder().accept(policy).relay(config).start().await.unwrap();
    let relay_card = relay.card_at(&relay_node.listen(ANY_PORT).await.unwrap());
    let right_node = right.builder().accept(left.policy()).start().await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    let left_node = left.builder().start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    let card = right.card_behind(&relay_card);
    let mut there = left_node.open(&card, Policy::only(&card)).await.unwrap();
    there.send(b"first".to_vec()).await.unwrap();
    let mut here = right_node.accept().await.unwrap();
    assert_eq!(read(&mut here, 1).await, [b"first"]);
    // Messages to and fro, until they go under the session.
    let mut letters = 0;
    loop {
        here.send(b"back".to_vec()).await.unwrap();
        let (_, of_right) = read_any(&mut there, 1).await;
        there.send(b"forth".to_vec()).await.unwrap();
        let (_, of_left) = read_any(&mut here, 1).await;
        if of_right + of_left == 0 {
            break;
        }
        letters += of_right + of_left;
    }
    println!("{letters} letters before");
    assert_eq!(left_node.statistics().await.unwrap().sessions, 1, "live is that with the relay");
}
