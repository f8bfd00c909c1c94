//! A gateway between links of devices and those of a relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_gateway::{Gateway, GatewayError};
use sealway_link::{FrameLink, Listener, Transport};
use sealway_tcp::Tcp;
use sealway_testkit::links::{End, conform, numbered};
use sealway_udp::Udp;
use sealway_wire::Address;

async fn listen(transport: &impl Transport, address: &str) -> Box<dyn Listener> {
    transport.listen(&Address::parse(address).unwrap()).await.unwrap()
}

async fn connect(address: &str) -> Box<dyn FrameLink> {
    Tcp::default().connect(&Address::parse(address).unwrap()).await.unwrap()
}

async fn gateway(relay: &str) -> Gateway {
    let builder = Gateway::builder().transport(Tcp::default()).transport(Udp::default());
    builder.link("tcp://127.0.0.1:0").uplink(relay).start().await.unwrap()
}

/// A device and the relay, as soon as the device's first frame has come.
async fn pair(gateway: &Gateway, relay: &mut dyn Listener) -> [End; 2] {
    let mut device = End::new(connect(&gateway.addresses()[0]).await);
    let frame = numbered(0, 50);
    device.send(&frame).await.unwrap();
    let mut there = End::new(relay.accept().await.unwrap());
    assert_eq!(there.recv().await, Ok(Some(frame)));
    [device, there]
}

#[tokio::test]
async fn links_through_a_gateway_do_what_links_do() {
    let mut relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    conform(async || pair(&gateway, &mut *relay).await.map(End::into_link)).await;
    let counts = gateway.counts();
    assert!(counts.frames_up > 1000 && counts.octets_up > 1_000_000, "{counts:?}");
    assert_eq!((counts.dropped_frames, counts.failed_uplinks, counts.refused_links), (0, 0, 0), "{counts:?}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_gateway_carries_between_a_stream_and_datagrams() {
    let mut relay = listen(&Udp::default(), "udp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    let [mut device, mut there] = pair(&gateway, &mut *relay).await;
    for size in [1, 100, 1200, 1201, 5000, 16_384] {
        let frame = numbered(1, size);
        device.send(&frame).await.unwrap();
        assert_eq!(there.recv().await, Ok(Some(frame.clone())), "{size} octets up");
        there.send(&frame).await.unwrap();
        assert_eq!(device.recv().await, Ok(Some(frame)), "{size} octets down");
    }
    // It ends on both sides, and what was taken before is delivered.
    device.send(&numbered(2, 9000)).await.unwrap();
    drop(device);
    assert_eq!(there.recv().await, Ok(Some(numbered(2, 9000))));
}

#[tokio::test]
async fn an_end_on_one_side_is_one_on_the_other() {
    let mut relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    let [device, mut there] = pair(&gateway, &mut *relay).await;
    drop(device);
    assert_eq!(there.recv().await, Ok(None));
    let [mut device, there] = pair(&gateway, &mut *relay).await;
    drop(there);
    assert_eq!(device.recv().await, Ok(None));
    // Nobody is there any more: who comes is turned away, and may try another address.
    drop(relay);
    let mut device = End::new(connect(&gateway.addresses()[0]).await);
    device.send(&numbered(0, 50)).await.unwrap();
    assert_eq!(device.recv().await, Ok(None));
    assert_eq!(gateway.counts().failed_uplinks, 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn who_says_nothing_costs_the_relay_nothing() {
    let relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    let mut device = End::new(connect(&gateway.addresses()[0]).await);
    while gateway.counts().links == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(device.recv().await, Ok(None));
    assert_eq!(gateway.counts().uplinks, 0);
}

#[tokio::test]
async fn the_links_of_one_source_are_bounded() {
    let relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    let mut devices = Vec::new();
    for _ in 0..256 {
        devices.push(connect(&gateway.addresses()[0]).await);
    }
    let mut late = End::new(connect(&gateway.addresses()[0]).await);
    assert_eq!(late.recv().await, Ok(None));
    let counts = gateway.counts();
    assert_eq!((counts.links, counts.refused_links), (256, 1), "{counts:?}");
    // One that leaves makes room.
    devices.pop();
    while gateway.counts().links == 256 {
        tokio::task::yield_now().await;
    }
    devices.push(connect(&gateway.addresses()[0]).await);
    while gateway.counts().links < 256 {
        tokio::task::yield_now().await;
    }
}

/// Of datagrams, only silence tells that nobody is there.
#[tokio::test]
async fn another_address_is_tried_where_nobody_answers() {
    let mut relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let builder = Gateway::builder().transport(Tcp::default()).transport(Udp::default()).link("tcp://127.0.0.1:0");
    let builder = builder.uplink(format!("udp://{}", nobody.local_addr().unwrap())).uplink(relay.address());
    let gateway = builder.start().await.unwrap();
    let mut device = End::new(connect(&gateway.addresses()[0]).await);
    device.send(&numbered(0, 50)).await.unwrap();
    nobody.set_nonblocking(true).unwrap();
    let nobody = tokio::net::UdpSocket::from_std(nobody).unwrap();
    nobody.readable().await.unwrap();
    drop(device);
    while gateway.counts().unanswered_uplinks == 0 {
        tokio::task::yield_now().await;
    }
    let [mut device, mut there] = pair(&gateway, &mut *relay).await;
    there.send(&numbered(1, 50)).await.unwrap();
    assert_eq!(device.recv().await, Ok(Some(numbered(1, 50))));
    assert!(!gateway.counts().is_cut_off);
}

/// Strangers are not let take the places that a relay has for one address.
#[tokio::test]
async fn few_wait_for_the_relays_first_word() {
    let relay = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let gateway = gateway(&relay.address()).await;
    let mut devices = Vec::new();
    for _ in 0..20 {
        let mut device = End::new(connect(&gateway.addresses()[0]).await);
        device.send(&[0x80; 40]).await.unwrap();
        devices.push(device);
    }
    while gateway.counts().refused_links < 4 {
        tokio::task::yield_now().await;
    }
    let counts = gateway.counts();
    assert_eq!((counts.refused_links, counts.links), (4, 16), "{counts:?}");
}

/// What a device says while the relay is not reached is bounded, whatever it says.
#[tokio::test]
async fn a_device_cannot_fill_a_gateway_that_does_not_reach_its_relay() {
    // A listener that is full takes no connection, and refuses none.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let mut kept = Vec::new();
    let address = full.local_addr().unwrap();
    let one = Duration::from_millis(300);
    while let Ok(Ok(stream)) = tokio::time::timeout(one, tokio::net::TcpStream::connect(address)).await {
        kept.push(stream);
    }
    let gateway = gateway(&format!("tcp://{address}")).await;
    let mut device = End::new(connect(&gateway.addresses()[0]).await);
    let mut sent = 0_usize;
    while let Ok(outcome) = tokio::time::timeout(one, device.send(&[0x80; 20_000])).await {
        outcome.unwrap();
        sent += 20_000;
        assert!(sent < 64 << 20, "a device that nobody reads is held back");
    }
    assert_eq!(gateway.counts().uplinks, 0);
}

#[tokio::test]
async fn a_gateway_that_is_set_up_wrongly_says_what_is_wrong() {
    let builder = || Gateway::builder().transport(Tcp::default()).transport(Udp::default());
    for (link, uplink, expected) in [
        ("", "tcp://127.0.0.1:1", "a gateway needs at least one address at which devices are"),
        ("tcp://127.0.0.1:0", "", "a gateway needs at least one address of a relay"),
        ("tcp//127.0.0.1:0", "tcp://127.0.0.1:1", "tcp//127.0.0.1:0 is no address (address scheme: malformed)"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1", "tcp://127.0.0.1 is no address (address port: malformed)"),
        ("tcp://127.0.0.1:0", "wss://127.0.0.1:1", "no transport is set up for wss://127.0.0.1:1"),
        (
            "udp://127.0.0.1:0",
            "tcp://127.0.0.1:1",
            "udp://127.0.0.1:0 is no link for devices: sources of datagrams can be forged, take tcp, ws or wss",
        ),
    ] {
        let with_link = if link.is_empty() { builder() } else { builder().link(link) };
        let with_both = if uplink.is_empty() { with_link } else { with_link.uplink(uplink) };
        let error: GatewayError = with_both.start().await.err().unwrap();
        assert_eq!(error.to_string(), expected);
    }
    let taken = listen(&Tcp::default(), "tcp://127.0.0.1:0").await;
    let error = builder().link(taken.address()).uplink("tcp://127.0.0.1:1").start().await.err().unwrap().to_string();
    assert!(error.contains("is in use"), "{error}");
}
