//! Frames over pseudo terminals.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{num::NonZeroU32, os::unix::fs::symlink, path::Path};

use sealway_link::{FrameLink, LinkErrorKind, Transport, fragment::Fragment, line::LineEncoder};
use sealway_repeat::Repeated;
use sealway_serial::{MTU, Serial, SerialLink};
use sealway_testkit::links::{End, conform, numbered};
use sealway_wire::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::{SerialPort, SerialStream};

const BAUD: NonZeroU32 = NonZeroU32::new(115_200).unwrap();
/// What goes in one piece at that rate.
const UNIT: usize = 115_200 / 10 / 4;

fn link(stream: SerialStream) -> SerialLink {
    Serial::default().with_stream(stream, BAUD, None)
}

#[tokio::test]
async fn a_serial_line_is_a_link() {
    for mtu in [None, Some(64), Some(250), Some(20_000)] {
        let mtu = mtu.map(|mtu| mtu.try_into().unwrap());
        conform(async || {
            let (master, slave) = SerialStream::pair().unwrap();
            [master, slave]
                .map(|stream| Box::new(Serial::default().with_stream(stream, BAUD, mtu)) as Box<dyn FrameLink>)
        })
        .await;
    }
}

fn repeated(stream: SerialStream, mtu: u16) -> Box<dyn FrameLink> {
    Box::new(Repeated::new(Box::new(Serial::default().with_stream(stream, BAUD, mtu.try_into().ok()))).unwrap())
}

#[tokio::test]
async fn a_line_that_repeats_is_a_link() {
    for mtu in [250, 2880] {
        conform(async || {
            let (master, slave) = SerialStream::pair().unwrap();
            [master, slave].map(|stream| repeated(stream, mtu))
        })
        .await;
    }
}

/// Carries octets one way, and changes one in so many.
async fn noisy(mut from: tokio::io::ReadHalf<SerialStream>, mut to: tokio::io::WriteHalf<SerialStream>, every: usize) {
    let mut buffer = [0; 500];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        for octet in &mut buffer[..count] {
            passed += 1;
            *octet ^= u8::from(passed % every == 0) << 3;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_line_that_repeats_gets_everything_through_noise() {
    let pairs = [SerialStream::pair().unwrap(), SerialStream::pair().unwrap()];
    let [(left, one), (right, other)] = pairs;
    let ((from_one, to_one), (from_other, to_other)) = (tokio::io::split(one), tokio::io::split(other));
    tokio::spawn(noisy(from_one, to_other, 1009));
    tokio::spawn(noisy(from_other, to_one, 997));
    let [mut left, mut right] = [left, right].map(|stream| End::new(repeated(stream, 300)));
    let sent: Vec<_> = (0..300).map(|number| numbered(number, 200)).collect();
    let sending = async {
        for frame in &sent {
            left.send(frame).await.unwrap();
        }
        // What was lost last is sent again when it is found out.
        loop {
            let _ = left.recv().await;
        }
    };
    let mut missing: std::collections::BTreeSet<Vec<u8>> = sent.iter().cloned().collect();
    let receiving = async {
        while !missing.is_empty() {
            let frame = right.recv().await.unwrap().unwrap();
            missing.remove(&frame);
        }
    };
    tokio::select! {
        () = receiving => {}
        () = sending => {}
    }
    assert!(missing.is_empty());
}

#[tokio::test]
async fn noise_costs_what_it_touches() {
    let (mut raw, slave) = SerialStream::pair().unwrap();
    let mut end = End::new(Box::new(link(slave)));
    let mut encoder = LineEncoder::new(UNIT);
    let mut line = vec![0x55, 0xaa, 0x13, 0x11]; // before anything was sent
    let mut sent = Vec::new();
    for number in 0..20 {
        let frame = numbered(number, 60);
        let start = line.len();
        encoder.encode(&frame, number == 0, &mut line);
        match number % 4 {
            1 => line[start + 20] ^= 0x40,
            2 => drop(line.drain(start + 5..start + 9)),
            _ => sent.push(frame),
        }
    }
    raw.write_all(&line).await.unwrap();
    for frame in sent {
        assert_eq!(end.recv().await, Ok(Some(frame)));
    }
}

#[tokio::test]
async fn long_frames_go_in_pieces_that_others_can_read() {
    let (mut raw, slave) = SerialStream::pair().unwrap();
    let mut end = End::new(Box::new(link(slave)));
    let frame = numbered(7, MTU);
    let sending = async { end.send(&frame).await.unwrap() };
    let reading = async {
        let (mut decoder, mut frames) = (sealway_link::line::LineDecoder::new(UNIT), sealway_link::Frames::new());
        let mut buffer = [0; 1000];
        while frames.octets() < MTU + 8 * 9 {
            let count = raw.read(&mut buffer).await.unwrap();
            decoder.decode(&buffer[..count], &mut frames);
        }
        frames
    };
    let ((), frames) = tokio::join!(sending, reading);
    let pieces: Vec<_> = (0..frames.len()).map(|index| Fragment::decode(frames.get(index).unwrap()).unwrap()).collect();
    assert!(pieces.iter().all(|piece| piece.octets.len() <= UNIT - 9 && usize::from(piece.total) == MTU));
    assert_eq!(pieces.iter().flat_map(|piece| piece.octets).copied().collect::<Vec<_>>(), frame);
}

#[tokio::test]
async fn who_is_unplugged_is_lost() {
    // The one end sees an error, the other one an end.
    for first in [true, false] {
        let (master, slave) = SerialStream::pair().unwrap();
        let (kept, gone) = if first { (master, slave) } else { (slave, master) };
        let mut end = End::new(Box::new(link(kept)));
        drop(gone);
        assert_eq!(end.recv().await, Err(LinkErrorKind::Lost));
    }
}

/// Another pseudo terminal behind the same name, as a device that is plugged in again.
fn plug(name: &Path) -> (SerialStream, SerialStream) {
    let (master, slave) = SerialStream::pair().unwrap();
    let _ = std::fs::remove_file(name);
    symlink(slave.name().unwrap(), name).unwrap();
    (master, slave)
}

#[tokio::test]
async fn a_device_is_plugged_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("tty");
    let (mut master, slave) = plug(&name);
    let text = format!("serial:{}?baud=115200", name.display());
    let address = Address::parse(&text).unwrap();
    let mut listener = Serial::default().listen(&address).await.unwrap();
    assert_eq!(listener.address(), text);
    drop(slave);
    let mut line = Vec::new();
    LineEncoder::new(UNIT).encode(b"\x90first", true, &mut line);
    master.write_all(&line).await.unwrap();
    let mut end = End::new(listener.accept().await.unwrap());
    assert_eq!(end.recv().await, Ok(Some(b"\x90first".to_vec())));
    drop(master);
    assert_eq!(end.recv().await, Err(LinkErrorKind::Lost));
    drop(end);
    // Told once that it is away, and then waited for.
    std::fs::remove_file(&name).unwrap();
    assert_eq!(listener.accept().await.err().unwrap().kind, LinkErrorKind::Unreachable);
    let back = async {
        let (mut master, slave) = plug(&name);
        // Until the listener has opened it, this end is what keeps it.
        master.write_all(&line).await.unwrap();
        (master, slave)
    };
    let (accepted, _kept) = tokio::join!(listener.accept(), back);
    let mut end = End::new(accepted.unwrap());
    assert_eq!(end.recv().await, Ok(Some(b"\x90first".to_vec())));
}

#[tokio::test]
async fn failures_say_what_and_where() {
    let serial = Serial::default();
    let missing = Address::parse("serial:/dev/no-such-device?baud=9600").unwrap();
    for error in [serial.connect(&missing).await.err(), serial.listen(&missing).await.err()].map(Option::unwrap) {
        assert_eq!(error.kind, LinkErrorKind::Unreachable);
        assert!(error.is_retryable());
        assert!(error.to_string().starts_with("serial:/dev/no-such-device?baud=9600 cannot be reached"), "{error}");
    }
    let other = Address::parse("tcp://127.0.0.1:1").unwrap();
    assert!(!serial.supports(&other));
    assert_eq!(serial.connect(&other).await.err().unwrap().kind, LinkErrorKind::Unsupported);
}
