//! Nodes that are not there at the same time: a relay keeps what they leave for each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use sealway_identity::{Card, Policy};
use sealway_node::{Channel, Node, NodeError, Progress, Receipt, SendOptions};
use sealway_routing::{Store, Table};
use sealway_wire::Timestamp;

use self::machines::{ANY_PORT, Machine, numbers, receive, run_relay};

/// Two machines behind a relay.
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
        (Self { relay, left, right, relay_card, address }, node)
    }

    async fn start(&self, machine: &Machine, peer: &Machine) -> (Node, Channel) {
        let node = machine.builder().start().await.unwrap();
        let card = peer.card_behind(&self.relay_card);
        node.stay_attached(&self.relay_card).await.unwrap();
        let channel = node.open(&card, Policy::only(&card)).await.unwrap();
        (node, channel)
    }

    /// Has both be there once.
    async fn meet(&self) {
        let (left_node, mut left) = self.start(&self.left, &self.right).await;
        let (right_node, mut right) = self.start(&self.right, &self.left).await;
        left.send(b"hello".to_vec()).await.unwrap();
        assert_eq!(receive(&mut right, 1).await, [b"hello"]);
        right.send(b"hello too".to_vec()).await.unwrap();
        assert_eq!(receive(&mut left, 1).await, [b"hello too"]);
        left.flushed().await.unwrap();
        right.flushed().await.unwrap();
        left_node.shutdown().await;
        right_node.shutdown().await;
    }

    async fn restart_relay(&self, node: Node) -> Node {
        node.shutdown().await;
        run_relay(&self.relay, &[&self.left, &self.right], &self.address).await.0
    }

    fn sessions(machine: &Machine) -> usize {
        let mut rows = 0;
        machine.disk.clone().load(Table::Sessions, &mut |_, _| rows += 1).unwrap();
        rows
    }
}

async fn reaches(receipt: &mut Receipt, progress: Progress) {
    while receipt.progress() != progress {
        receipt.changed().await.unwrap();
    }
}

async fn empties(relay: &Node) {
    while relay.statistics().await.unwrap().frames_in_custody > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_that_have_met_once_need_not_meet_again() {
    let (scene, mut relay) = Scene::set().await;
    scene.meet().await;
    assert_eq!((Scene::sessions(&scene.left), Scene::sessions(&scene.right)), (1, 1));
    let mut sent = Vec::new();
    for round in 0..3_u32 {
        // The left side is alone: what it sends is at the relay, and what the right side has committed comes from there.
        let (node, mut left) = scene.start(&scene.left, &scene.right).await;
        let from = u32::try_from(sent.len()).unwrap();
        let mut receipts = Vec::new();
        for number in from..from + 150 {
            receipts.push(left.send(number.to_be_bytes().to_vec()).await.unwrap());
            sent.push(number.to_be_bytes().to_vec());
        }
        for receipt in &mut receipts {
            reaches(receipt, Progress::InCustody).await;
        }
        if round > 0 {
            assert_eq!(receive(&mut left, 1).await, [round.to_be_bytes()]);
        }
        node.shutdown().await;
        relay = scene.restart_relay(relay).await;
        // The right side is alone.
        let (node, mut right) = scene.start(&scene.right, &scene.left).await;
        assert_eq!(receive(&mut right, 150).await, sent[sent.len() - 150..]);
        let mut receipt = right.send((round + 1).to_be_bytes().to_vec()).await.unwrap();
        reaches(&mut receipt, Progress::InCustody).await;
        node.shutdown().await;
    }
    // The last time: each learns that everything was committed, although the left side ends as soon as it has committed.
    let (node, mut left) = scene.start(&scene.left, &scene.right).await;
    assert_eq!(receive(&mut left, 1).await, [3_u32.to_be_bytes()]);
    left.flushed().await.unwrap();
    node.shutdown().await;
    let (node, right) = scene.start(&scene.right, &scene.left).await;
    right.flushed().await.unwrap();
    // A report that was left a second time finds nothing to do.
    let (_left_node, _left) = scene.start(&scene.left, &scene.right).await;
    empties(&relay).await;
    node.shutdown().await;
    let statistics = relay.statistics().await.unwrap();
    assert_eq!(statistics.refused_deposits, 0, "{statistics:?}");
}

#[tokio::test]
async fn a_peer_that_was_never_there_is_waited_for_and_the_receipt_says_so() {
    let (scene, relay) = Scene::set().await;
    let (_left_node, left) = scene.start(&scene.left, &scene.right).await;
    let mut receipt = left.send(b"first words".to_vec()).await.unwrap();
    assert_eq!(receipt.progress(), Progress::NeverMet);
    let (_right_node, mut right) = scene.start(&scene.right, &scene.left).await;
    assert_eq!(receive(&mut right, 1).await, [b"first words"]);
    reaches(&mut receipt, Progress::Delivered).await;
    assert_eq!(relay.statistics().await.unwrap().kept_frames, 0);
}

#[tokio::test]
async fn what_goes_live_and_what_was_left_arrive_in_one_order() {
    let (scene, relay) = Scene::set().await;
    scene.meet().await;
    let (_left_node, left) = scene.start(&scene.left, &scene.right).await;
    let mut receipts = Vec::new();
    for number in numbers(50) {
        receipts.push(left.send(number).await.unwrap());
    }
    for receipt in &mut receipts {
        reaches(receipt, Progress::InCustody).await;
    }
    let (_right_node, mut right) = scene.start(&scene.right, &scene.left).await;
    for number in &numbers(100)[50..] {
        left.send(number.clone()).await.unwrap();
    }
    assert_eq!(receive(&mut right, 100).await, numbers(100));
    left.flushed().await.unwrap();
    empties(&relay).await;
}

#[tokio::test]
async fn a_message_that_was_not_done_with_comes_again_from_the_relay() {
    let (scene, relay) = Scene::set().await;
    scene.meet().await;
    let (node, left) = scene.start(&scene.left, &scene.right).await;
    let mut receipt = left.send(b"take it".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    node.shutdown().await;
    for time in 0..3 {
        let (node, mut right) = scene.start(&scene.right, &scene.left).await;
        let message = right.recv().await.unwrap().unwrap();
        assert_eq!((message.body(), message.redelivered()), (b"take it".as_slice(), time > 0));
        if time == 2 {
            message.done().await.unwrap();
        }
        node.shutdown().await;
    }
    let (_right_node, _right) = scene.start(&scene.right, &scene.left).await;
    let (_left_node, left) = scene.start(&scene.left, &scene.right).await;
    left.flushed().await.unwrap();
    empties(&relay).await;
}

#[tokio::test]
async fn what_expires_at_the_relay_is_not_delivered_and_the_sender_knows() {
    let (scene, relay) = Scene::set().await;
    scene.meet().await;
    let (_left_node, left) = scene.start(&scene.left, &scene.right).await;
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let soon = since_1970 + std::time::Duration::from_millis(1500);
    let mut options = SendOptions::default();
    options.expires = Some(Timestamp::from_micros(u64::try_from(soon.as_micros()).unwrap()));
    let mut receipt = left.send_with(b"for today".to_vec(), options).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    assert!(matches!(receipt.delivered().await, Err(NodeError::Dropped)));
    while relay.statistics().await.unwrap().expired_frames == 0 {
        tokio::task::yield_now().await;
    }
    left.send(b"for ever".to_vec()).await.unwrap();
    let (_right_node, mut right) = scene.start(&scene.right, &scene.left).await;
    assert_eq!(receive(&mut right, 1).await, [b"for ever"]);
}

#[tokio::test]
async fn a_relay_whose_disk_is_full_says_so_and_nothing_is_lost() {
    let (scene, relay) = Scene::set().await;
    scene.meet().await;
    let (left_node, left) = scene.start(&scene.left, &scene.right).await;
    left_node.attach(&scene.relay_card).await.unwrap();
    *scene.relay.disk.full.lock().unwrap() = true;
    let mut receipt = left.send(b"no room".to_vec()).await.unwrap();
    while relay.statistics().await.unwrap().refused_deposits == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(receipt.progress(), Progress::UnderWay, "custody is acknowledged after the write only");
    *scene.relay.disk.full.lock().unwrap() = false;
    let (_right_node, mut right) = scene.start(&scene.right, &scene.left).await;
    assert_eq!(receive(&mut right, 1).await, [b"no room"]);
    reaches(&mut receipt, Progress::Delivered).await;
}

#[tokio::test]
async fn a_recipient_without_a_card_of_its_peer_answers_over_its_box() {
    let (scene, _relay) = Scene::set().await;
    let accepting = |machine: &Machine, peer: &Machine| machine.builder().accept(peer.policy());
    let right_node = accepting(&scene.right, &scene.left).start().await.unwrap();
    right_node.attach(&scene.relay_card).await.unwrap();
    let (left_node, left) = scene.start(&scene.left, &scene.right).await;
    left.send(b"question".to_vec()).await.unwrap();
    let mut to_left = right_node.accept().await.unwrap();
    assert_eq!(receive(&mut to_left, 1).await, [b"question"]);
    left.flushed().await.unwrap();
    let mut receipt = left.send(b"another".to_vec()).await.unwrap();
    left_node.shutdown().await;
    drop(left);
    let _ = receipt.changed().await;
    // Only the name of the left side is known here, and it is away.
    assert_eq!(receive(&mut to_left, 1).await, [b"another"]);
    let mut receipt = to_left.send(b"answer".to_vec()).await.unwrap();
    reaches(&mut receipt, Progress::InCustody).await;
    right_node.shutdown().await;
    let (_left_node, mut left) = scene.start(&scene.left, &scene.right).await;
    assert_eq!(receive(&mut left, 1).await, [b"answer"]);
}

/// A relay keeps from our box whom we do not admit: nothing of a stranger with our card reaches us.
#[tokio::test]
async fn a_box_is_open_to_those_who_are_admitted() {
    let stranger = Machine::new();
    let (left, right, relay) = (Machine::new(), Machine::new(), Machine::new());
    let (relay_node, address) = run_relay(&relay, &[&left, &right, &stranger], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let (left_card, right_card) = (left.card_behind(&relay_card), right.card_behind(&relay_card));
    let right_node = right.builder().start().await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    // Named after the box was registered: the relay has to be told.
    let mut there = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    let left_node = left.builder().start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    let here = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    here.send(b"welcome".to_vec()).await.unwrap();
    assert_eq!(receive(&mut there, 1).await, [b"welcome"]);
    // What crossed while the two had not registered each other is counted by now; the rest is the stranger's.
    let kept_away = relay_node.statistics().await.unwrap().absent_frames;
    let stranger_node = stranger.builder().start().await.unwrap();
    stranger_node.attach(&relay_card).await.unwrap();
    let _ignored = stranger_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    while relay_node.statistics().await.unwrap().absent_frames == kept_away {
        let statistics = right_node.statistics().await.unwrap();
        assert_eq!(statistics.refused_peers, 0, "the stranger's handshake has reached us: {statistics:?}");
        tokio::task::yield_now().await;
    }
    let statistics = right_node.statistics().await.unwrap();
    assert_eq!((statistics.refused_peers, statistics.sessions), (0, 2), "the relay's, and the peer's: {statistics:?}");
}
