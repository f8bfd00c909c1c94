//! Frames over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    future::poll_fn,
    io::{Read, Write},
    net::TcpStream,
    task::Poll,
    time::Duration,
};

use sealway_link::{FrameLink, Frames, LinkErrorKind, Listener, Transport};
use sealway_tcp::{MTU, Tcp};
use sealway_wire::Address;

const ANY_PORT: &str = "tcp://127.0.0.1:0";

async fn listen(tcp: &Tcp, address: &str) -> Box<dyn Listener> {
    tcp.listen(&Address::parse(address).unwrap()).await.unwrap()
}

async fn pair(address: &str) -> (Box<dyn FrameLink>, Box<dyn FrameLink>) {
    let tcp = Tcp::default();
    let mut listener = listen(&tcp, address).await;
    let address = listener.address();
    let address = Address::parse(&address).unwrap();
    let (client, server) = tokio::join!(tcp.connect(&address), listener.accept());
    (client.unwrap(), server.unwrap())
}

async fn send(link: &mut Box<dyn FrameLink>, frame: &[u8]) -> Result<(), LinkErrorKind> {
    poll_fn(|cx| link.poll_send(cx, frame)).await.map_err(|error| error.kind)
}

async fn flush(link: &mut Box<dyn FrameLink>) {
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
}

async fn recv(link: &mut Box<dyn FrameLink>) -> Result<Option<Frames>, LinkErrorKind> {
    let mut frames = Frames::new();
    let more = poll_fn(|cx| link.poll_recv(cx, &mut frames, 64 * 1024)).await;
    more.map(|more| more.then_some(frames)).map_err(|error| error.kind)
}

#[tokio::test]
async fn every_size_arrives_octet_by_octet_over_both_families() {
    for address in [ANY_PORT, "tcp://[::1]:0"] {
        let (mut client, mut server) = pair(address).await;
        let sizes: Vec<usize> = (1..200).chain([1000, 4096, 16_384, MTU - 1, MTU]).collect();
        let expected: Vec<Vec<u8>> =
            sizes.iter().map(|size| (0..*size).map(|at| u8::try_from(at % 251).unwrap()).collect()).collect();
        let sender = async {
            for frame in &expected {
                send(&mut client, frame).await.unwrap();
            }
            flush(&mut client).await;
        };
        let receiver = async {
            let mut received = Vec::new();
            while received.len() < expected.len() {
                let frames = recv(&mut server).await.unwrap().unwrap();
                received.extend((0..frames.len()).map(|index| frames.get(index).unwrap().to_vec()));
            }
            received
        };
        let ((), received) = tokio::join!(sender, receiver);
        assert_eq!(received, expected);
        assert_eq!(send(&mut client, &[0; MTU + 1]).await, Err(LinkErrorKind::Framing));
        assert_eq!(send(&mut client, &[]).await, Err(LinkErrorKind::Framing));
    }
}

#[tokio::test]
async fn after_half_close_the_other_direction_still_works() {
    let (mut client, mut server) = pair(ANY_PORT).await;
    send(&mut client, b"last").await.unwrap();
    poll_fn(|cx| client.poll_close(cx)).await.unwrap();
    assert_eq!(recv(&mut server).await.unwrap().unwrap().get(0), Some(b"last".as_slice()));
    assert_eq!(recv(&mut server).await, Ok(None));
    send(&mut server, b"answer").await.unwrap();
    flush(&mut server).await;
    assert_eq!(recv(&mut client).await.unwrap().unwrap().get(0), Some(b"answer".as_slice()));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_holds_the_sender_back_and_loses_nothing() {
    let (mut client, mut server) = pair(ANY_PORT).await;
    let mut sent = 0_u32;
    // Until the buffers of both ends are full: then a frame is not taken.
    loop {
        let frame = [sent.to_be_bytes().as_slice(), &[0; 8000]].concat();
        let taken = poll_fn(|cx| Poll::Ready(client.poll_send(cx, &frame))).await;
        if taken.is_pending() {
            break;
        }
        sent += 1;
    }
    assert!(sent > 8, "a bounded amount was taken: {sent}");
    let flushed = tokio::spawn(async move {
        flush(&mut client).await;
        client
    });
    let mut received = 0_u32;
    while received < sent {
        let frames = recv(&mut server).await.unwrap().unwrap();
        for index in 0..frames.len() {
            assert_eq!(frames.get(index).unwrap()[..4], received.to_be_bytes());
            received += 1;
        }
    }
    flushed.await.unwrap();
}

#[tokio::test]
async fn a_length_that_is_not_allowed_ends_the_link() {
    for prefix in [[0, 0], [0xff, 0xff], [0x50, 0x01]] {
        let tcp = Tcp::default();
        let mut listener = listen(&tcp, ANY_PORT).await;
        let mut raw = TcpStream::connect(listener.address().trim_start_matches("tcp://")).unwrap();
        let mut server = listener.accept().await.unwrap();
        raw.write_all(&prefix).unwrap();
        assert_eq!(recv(&mut server).await, Err(LinkErrorKind::Framing), "{prefix:?}");
    }
}

#[tokio::test]
async fn an_end_in_mid_frame_is_a_loss() {
    let tcp = Tcp::default();
    let mut listener = listen(&tcp, ANY_PORT).await;
    let mut raw = TcpStream::connect(listener.address().trim_start_matches("tcp://")).unwrap();
    let mut server = listener.accept().await.unwrap();
    raw.write_all(&[0, 9, 1, 2]).unwrap();
    drop(raw);
    assert_eq!(recv(&mut server).await, Err(LinkErrorKind::Lost));
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let tcp = Tcp::default().with_idle_timeout(Duration::from_millis(50));
    let mut listener = listen(&tcp, ANY_PORT).await;
    let mut raw = TcpStream::connect(listener.address().trim_start_matches("tcp://")).unwrap();
    let mut server = listener.accept().await.unwrap();
    assert_eq!(recv(&mut server).await, Err(LinkErrorKind::TimedOut));
    drop(server);
    assert_eq!(raw.read(&mut [0; 1]).unwrap(), 0);
}

#[tokio::test]
async fn failures_say_what_and_where() {
    let tcp = Tcp::default();
    // A socket that is bound and does not listen holds the port.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = format!("tcp://{}", held.local_addr().unwrap());
    let refused = tcp.connect(&Address::parse(&free).unwrap()).await.err().unwrap();
    assert_eq!(refused.kind, LinkErrorKind::Refused);
    assert!(refused.to_string().starts_with(&format!("nobody listens at {free}")), "{refused}");
    let listener = listen(&tcp, ANY_PORT).await;
    let taken = tcp.listen(&Address::parse(&listener.address()).unwrap()).await.err().unwrap();
    assert_eq!(taken.kind, LinkErrorKind::AddressUnavailable);
    let unknown = Address::parse("tcp://no-such-host.invalid:1").unwrap();
    let unknown = tcp.connect(&unknown).await.err().unwrap();
    assert!(unknown.is_retryable() && unknown.kind == LinkErrorKind::Unreachable, "{unknown}");
    // An address of this machine is used as the local one, another is not to be had.
    let foreign = Tcp::default().from_local_address([192, 0, 2, 1].into());
    let foreign = foreign.connect(&Address::parse(&free).unwrap()).await.err().unwrap();
    assert_eq!(foreign.kind, LinkErrorKind::AddressUnavailable);
}
