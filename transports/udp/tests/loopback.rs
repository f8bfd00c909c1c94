//! Frames over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    future::poll_fn,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use sealway_link::{FrameLink, Frames, LinkErrorKind, Listener, Transport};
use sealway_testkit::links::{End, conform, numbered};
use sealway_udp::Udp;
use sealway_wire::Address;

async fn listen(udp: &Udp, address: &str) -> Box<dyn Listener> {
    udp.listen(&Address::parse(address).unwrap()).await.unwrap()
}

/// Two ends, and the listener that has to stay for others to come.
async fn pair(udp: &Udp, address: &str) -> [Box<dyn FrameLink>; 2] {
    let mut listener = listen(udp, address).await;
    let address = listener.address();
    let mut client = udp.connect(&Address::parse(&address).unwrap()).await.unwrap();
    client.set_proved();
    // Nobody is there before something has come.
    poll_fn(|cx| client.poll_send(cx, &[0x11])).await.unwrap();
    poll_fn(|cx| client.poll_flush(cx)).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    assert_eq!(recv(&mut server).await.unwrap().get(0), Some(&[0x11][..]));
    [client, server]
}

async fn recv(link: &mut Box<dyn FrameLink>) -> Result<Frames, LinkErrorKind> {
    let mut frames = Frames::new();
    poll_fn(|cx| link.poll_recv(cx, &mut frames, 1)).await.map_err(|error| error.kind)?;
    Ok(frames)
}

#[tokio::test]
async fn udp_is_a_link() {
    for address in ["udp://127.0.0.1:0", "udp://[::1]:0"] {
        conform(async || pair(&Udp::default(), address).await).await;
    }
}

#[tokio::test]
async fn one_socket_serves_many_peers() {
    let udp = Udp::default();
    let mut listener = listen(&udp, "udp://127.0.0.1:0").await;
    let address = listener.address();
    let address = Address::parse(&address).unwrap();
    let mut ends = Vec::new();
    for number in 0..50_u32 {
        let mut client = End::new(udp.connect(&address).await.unwrap());
        client.send(&numbered(number, 700)).await.unwrap();
        let mut server = End::new(listener.accept().await.unwrap());
        assert_eq!(server.recv().await, Ok(Some(numbered(number, 700))));
        ends.push((client, server));
    }
    for (number, (client, server)) in (0..).zip(&mut ends) {
        server.send(&numbered(number, 3000)).await.unwrap();
        assert_eq!(client.recv().await, Ok(Some(numbered(number, 3000))));
    }
}

/// A stranger gets three times what it has sent, and no acknowledgement.
// Specification: [M52], [M53].
#[tokio::test]
async fn a_stranger_gets_little() {
    let udp = Udp::default();
    let mut listener = listen(&udp, "udp://127.0.0.1:0").await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(listener.address().trim_start_matches("udp://")).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // A packet with a frame in it, and a handshake's.
    stranger.send(&[2, 0, 0, 0, 1, 0, 1, 0x80]).unwrap();
    let mut server = listener.accept().await.unwrap();
    assert_eq!(recv(&mut server).await.unwrap().get(0), Some(&[0x80][..]));
    stranger.send(&[0x11; 92]).unwrap();
    assert_eq!(recv(&mut server).await.unwrap().octets(), 92);
    for _ in 0..9 {
        poll_fn(|cx| server.poll_send(cx, &[0x12; 100])).await.unwrap();
        poll_fn(|cx| server.poll_flush(cx)).await.unwrap();
    }
    let mut answers = Vec::new();
    let mut buffer = [0; 2000];
    while let Ok(len) = stranger.recv(&mut buffer) {
        answers.push(buffer[..len].to_vec());
    }
    assert_eq!(answers, vec![vec![0x12; 100]; 3], "three times the hundred octets that came");
}

#[tokio::test]
async fn what_nothing_begins_with_makes_no_link() {
    let udp = Udp::default();
    let mut listener = listen(&udp, "udp://127.0.0.1:0").await;
    let address = listener.address();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for junk in [&[][..], &[0], &[3, 0, 0], &[0x05; 40], &[0x7f; 9]] {
        stranger.send_to(junk, address.trim_start_matches("udp://")).unwrap();
    }
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.send_to(&[0x11, 9], address.trim_start_matches("udp://")).unwrap();
    // The first link is that of what came last.
    let mut server = listener.accept().await.unwrap();
    assert_eq!(recv(&mut server).await.unwrap().get(0), Some(&[0x11, 9][..]));
}

/// All connections leave from one port: whoever forges an address there keeps nobody from it.
#[tokio::test]
async fn a_stranger_does_not_take_the_place_of_whom_we_call() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let udp = Udp::default().from_local_address(Ipv4Addr::LOCALHOST.into()).from_local_port(free);
    let [relay, peer, other] = [0; 3].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let connect = async |to: &UdpSocket| {
        let address = format!("udp://{}", to.local_addr().unwrap());
        udp.connect(&Address::parse(&address).unwrap()).await
    };
    // This one keeps the socket, and wants nothing of others.
    let mut first = connect(&peer).await.unwrap();
    poll_fn(|cx| first.poll_flush(cx)).await.unwrap();
    assert!(first.branch().is_none(), "it was used");
    // This one takes what comes from them.
    let mut second = connect(&other).await.unwrap();
    let (branch, listener) = second.branch().unwrap();
    let own = branch.address().unwrap().port();
    assert_eq!(own, free);
    relay.send_to(&[0x80; 9], ("127.0.0.1", own)).unwrap();
    let mut stranger = listener.unwrap().accept().await.unwrap();
    recv(&mut stranger).await.unwrap();
    let mut link = connect(&relay).await.unwrap();
    link.set_proved();
    // The end of the stranger's link is not that of the other.
    drop(stranger);
    relay.send_to(&[0x12; 9], ("127.0.0.1", own)).unwrap();
    assert_eq!(recv(&mut link).await.unwrap().get(0), Some(&[0x12; 9][..]));
    assert_eq!(
        connect(&relay).await.err().map(|error| error.kind),
        Some(LinkErrorKind::Unreachable),
        "it is known there"
    );
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_may_come_again() {
    let udp = Udp::default().with_idle_timeout(Duration::from_millis(50));
    let mut listener = listen(&udp, "udp://127.0.0.1:0").await;
    let address = listener.address();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2 {
        peer.send_to(&[0x11], address.trim_start_matches("udp://")).unwrap();
        let mut server = listener.accept().await.unwrap();
        recv(&mut server).await.unwrap();
        assert_eq!(recv(&mut server).await, Err(LinkErrorKind::TimedOut));
    }
}

#[tokio::test]
async fn failures_say_what_and_where() {
    let udp = Udp::default();
    let listener = listen(&udp, "udp://127.0.0.1:0").await;
    let taken = udp.listen(&Address::parse(&listener.address()).unwrap()).await.err().unwrap();
    assert_eq!(taken.kind, LinkErrorKind::AddressUnavailable);
    let unknown = Address::parse("udp://no-such-host.invalid:1").unwrap();
    assert_eq!(udp.connect(&unknown).await.err().unwrap().kind, LinkErrorKind::Unreachable);
    let other = Address::parse("tcp://127.0.0.1:1").unwrap();
    assert!(!udp.supports(&other));
    assert_eq!(udp.connect(&other).await.err().unwrap().kind, LinkErrorKind::Unsupported);
    let foreign = Udp::default().from_local_address([192, 0, 2, 1].into());
    let foreign = foreign.connect(&Address::parse("udp://127.0.0.1:9").unwrap()).await.err().unwrap();
    assert_eq!(foreign.kind, LinkErrorKind::AddressUnavailable);
}
