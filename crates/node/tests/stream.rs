//! Streams, and messages that no record takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use sealway_identity::Policy;
use sealway_node::{Channel, MAX_MESSAGE, NodeError, Progress, RelayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::machines::{ANY_PORT, Machine, Pair, run_relay, through_a_relay};

/// Octets that are not the same anywhere.
fn octets(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn octets_arrive_in_order_in_both_directions_and_end_where_they_were_ended() {
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let side = |channel: Channel, own: u64, other: u64| async move {
        let (mut from, mut to) = tokio::io::split(channel.into_stream());
        let sends = async move {
            for piece in octets(own, 3_000_000).chunks(70_001) {
                to.write_all(piece).await.unwrap();
            }
            to.shutdown().await.unwrap();
        };
        let receives = async move {
            let mut received = Vec::new();
            from.read_to_end(&mut received).await.unwrap();
            assert!(received == octets(other, 3_000_000));
        };
        tokio::join!(sends, receives);
    };
    tokio::join!(side(left, 1, 2), side(right, 2, 1));
}

/// The writer is never further ahead than buffers and window hold, however slowly the other application reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stops_the_writer() {
    const LEN: usize = 6_000_000;
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writes = tokio::spawn(async move {
        for piece in octets(3, LEN).chunks(10_000) {
            left.write_all(piece).await.unwrap();
            counter.fetch_add(piece.len(), Ordering::SeqCst);
        }
        left.finish().await.unwrap();
    });
    let (mut read, mut furthest) = (0, 0);
    let mut piece = vec![0; 3000];
    while read < LEN {
        read += right.read(&mut piece).await.unwrap();
        furthest = furthest.max(written.load(Ordering::SeqCst).saturating_sub(read));
        tokio::task::yield_now().await;
    }
    writes.await.unwrap();
    assert!(furthest < 900_000, "{furthest} octets ahead");
    assert_eq!(right.read(&mut piece).await.unwrap(), 0, "the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_is_broken_off_and_not_ended() {
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    left.write_all(b"half a sent").await.unwrap();
    // Until something has come, the stream would wait for another opening.
    let mut received = vec![right.read_u8().await.unwrap()];
    drop(left);
    let error = right.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(b"half a sent".starts_with(&received), "{received:?}");
}

/// One end begins anew while the other's stream lives on: what the two have to say is not joined into one.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_continued_by_another() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    let mut there = client_node.open(&card, Policy::only(&card)).await.unwrap().into_stream();
    there.write_all(b"the first").await.unwrap();
    let mut here = server_node.accept().await.unwrap().into_stream();
    let mut first = [0; 9];
    here.read_exact(&mut first).await.unwrap();
    // The client's process ends, as far as the server can see: nothing is said.
    drop(client_node);
    let client_node = client.builder().start().await.unwrap();
    let mut again = client_node.open(&card, Policy::only(&card)).await.unwrap().into_stream();
    again.write_all(b"the second").await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(here.read_to_end(&mut rest).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(rest.is_empty() && first == *b"the first", "{rest:?}");
}

/// Dropped although the peer takes nothing: the peer hears of it, and the channel can be had again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_with_a_full_window_ends() {
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    let piece = octets(9, 10_000);
    let wrote = tokio::spawn(async move {
        // More than window and buffers hold: it is stopped, and given up by whoever waits.
        for _ in 0..200 {
            left.write_all(&piece).await?;
        }
        Ok::<_, io::Error>(left)
    });
    right.read_u8().await.unwrap();
    while !wrote.is_finished() && right.read_u8().await.is_ok() {
        wrote.abort();
    }
    let mut rest = Vec::new();
    assert_eq!(right.read_to_end(&mut rest).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// The news that the peer has broken off does not wait behind what nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_reads_nothing_hears_that_the_peer_has_gone() {
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    // More than buffer and window of the reader's end hold, and nobody reads it.
    let wrote = tokio::spawn(async move {
        let outcome = left.write_all(&octets(9, 1_000_000)).await;
        outcome.map(|()| left)
    });
    right.write_all(b"one octet is read").await.unwrap();
    right.read_u8().await.unwrap();
    wrote.abort();
    assert!(
        wrote.await.is_err_and(|error| error.is_cancelled()),
        "the writer was stopped by a reader that does not read"
    );
    let error = right.finish().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// What was written to a process that is gone was not delivered, whoever has taken its place.
// Specification: [M32].
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_does_not_acknowledge_what_was_for_another() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    // A process of its own, as far as anybody can see: it ends with its runtime, and says nothing.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (builder, servers_card) = (client.builder(), card.clone());
    let there = process.spawn(async move {
        let node = builder.start().await.unwrap();
        let mut there = node.open(&servers_card, Policy::only(&servers_card)).await.unwrap().into_stream();
        there.write_all(b"paired").await.unwrap();
        there
    });
    let mut there = there.await.unwrap();
    let mut here = server_node.accept().await.unwrap().into_stream();
    let mut first = [0; 6];
    here.read_exact(&mut first).await.unwrap();
    here.write_all(b"paired").await.unwrap();
    let there = process.spawn(async move {
        there.read_exact(&mut [0; 6]).await.unwrap();
        there
    });
    let _there = there.await.unwrap();
    process.shutdown_background();
    // It is on its way to nobody.
    here.write_all(b"for the first one").await.unwrap();
    let finishes = tokio::spawn(here.finish());
    let client_node = client.builder().start().await.unwrap();
    let mut again = client_node.open(&card, Policy::only(&card)).await.unwrap().into_stream();
    again.write_all(b"anew").await.unwrap();
    assert_eq!(finishes.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// A stream that is dropped before anything has come of it leaves nothing behind that the next one would wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_came_to_nothing_makes_place_for_the_next() {
    let (server, client) = (Machine::new(), Machine::new());
    let server_node = server.builder().accept(client.policy()).start().await.unwrap();
    let card = server.card_at(&server_node.listen(ANY_PORT).await.unwrap());
    let client_node = client.builder().start().await.unwrap();
    for _ in 0..3 {
        let channel = loop {
            // The handle before it is given back when its stream has ended.
            match client_node.open(&card, Policy::only(&card)).await {
                Ok(channel) => break channel,
                Err(NodeError::InUse) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        channel.into_stream().abort().await;
    }
    let channel = client_node.open(&card, Policy::only(&card)).await.unwrap();
    let (mut there, mut here) = (channel.into_stream(), server_node.accept().await.unwrap().into_stream());
    there.write_all(b"to the server").await.unwrap();
    here.write_all(b"to the client").await.unwrap();
    let (mut to_server, mut to_client) = ([0; 13], [0; 13]);
    here.read_exact(&mut to_server).await.unwrap();
    there.read_exact(&mut to_client).await.unwrap();
    assert_eq!((&to_server, &to_client), (b"to the server", b"to the client"));
    let (ended, finished) = tokio::join!(there.delivered(), here.delivered());
    ended.unwrap();
    finished.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_not_taken_for_a_stream() {
    let Pair { channels: [left, right], relay: _relay, nodes: _nodes } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    left.send_live(b"a message".to_vec()).await.unwrap();
    let mut right = right.into_stream();
    let error = right.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_ends_its_streams_with_an_error() {
    let Pair { channels: [left, _right], relay: _relay, nodes: [node, _other] } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let mut left = left.into_stream();
    node.shutdown().await;
    let mut received = Vec::new();
    assert_eq!(left.read_to_end(&mut received).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_arrives_as_a_whole_between_short_ones() {
    let Pair { channels: [left, mut right], relay: _relay, nodes: [node, _other] } =
        through_a_relay(RelayConfig::default(), Machine::builder).await;
    let bodies = [octets(4, 10), octets(5, MAX_MESSAGE), octets(6, 16_355), octets(7, 16_356), octets(8, 0)];
    let mut receipts = Vec::new();
    for body in &bodies {
        receipts.push(left.send(body.clone()).await.unwrap());
    }
    for body in &bodies {
        let message = right.recv().await.unwrap().unwrap();
        assert!(message.body() == body);
        message.done().await.unwrap();
    }
    for receipt in receipts {
        receipt.delivered().await.unwrap();
    }
    let long = left.send(vec![0; MAX_MESSAGE + 1]).await.unwrap_err();
    assert!(matches!(long, NodeError::TooLong { limit: MAX_MESSAGE, got } if got == MAX_MESSAGE + 1), "{long}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_parts_waits_at_a_relay_for_its_recipient() {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let (_relay_node, address) = run_relay(&relay, &[&left, &right], ANY_PORT).await;
    let relay_card = relay.card_at(&address);
    let (left_card, right_card) = (left.card_behind(&relay_card), right.card_behind(&relay_card));
    let left_node = left.builder().start().await.unwrap();
    left_node.attach(&relay_card).await.unwrap();
    let channel = left_node.open(&right_card, Policy::only(&right_card)).await.unwrap();
    // They meet once, and the recipient goes.
    let right_node = right.builder().start().await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    let mut there = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    let receipt = channel.send(b"met".to_vec()).await.unwrap();
    there.recv().await.unwrap().unwrap().done().await.unwrap();
    receipt.delivered().await.unwrap();
    right_node.shutdown().await;
    let body = octets(9, 150_000);
    let mut receipt = channel.send(body.clone()).await.unwrap();
    while receipt.progress() != Progress::InCustody {
        receipt.changed().await.unwrap();
    }
    left_node.shutdown().await;
    let right_node = right.builder().start().await.unwrap();
    right_node.attach(&relay_card).await.unwrap();
    let mut there = right_node.open(&left_card, Policy::only(&left_card)).await.unwrap();
    let message = there.recv().await.unwrap().unwrap();
    assert!(message.body() == body);
    message.done().await.unwrap();
    right_node.shutdown().await;
}
