//! How a flow over UDP shares a path with one over TCP.
//!
//! `share sink 192.0.2.1:7000` takes both; `share source 192.0.2.1:7000 SECONDS` sends both, as fast as they go. The sink prints what
//! came: `udp OCTETS tcp OCTETS`.

use std::{
    error::Error,
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use sealway_link::{Frames, Transport as _};
use sealway_udp::Udp;
use sealway_wire::Address;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// As records begin, and of a size at which several do not share a packet.
const FRAME: [u8; 1100] = [0x80; 1100];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sink", place] => sink(place).await,
        ["source", place, seconds] => source(place, Duration::from_secs(seconds.parse()?)).await,
        _ => Err("usage: share sink ADDRESS:PORT | share source ADDRESS:PORT SECONDS".into()),
    }
}

async fn sink(place: &str) -> Result<(), Box<dyn Error>> {
    let text = format!("udp://{place}");
    let mut datagrams = Udp::default().listen(&Address::parse(&text)?).await?;
    let streams = TcpListener::bind(place).await?;
    println!("ready");
    let mut link = datagrams.accept().await?;
    link.set_proved();
    let (mut stream, _) = streams.accept().await?;
    let (mut udp, mut tcp) = (0, 0);
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = Frames::new();
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read? {
                0 => break,
                count => tcp += count,
            },
            more = poll_fn(|cx| link.poll_recv(cx, &mut frames, 64 * 1024)) => {
                more?;
                udp += frames.octets();
                frames.clear();
            }
        }
    }
    println!("udp {udp} tcp {tcp}");
    Ok(())
}

async fn source(place: &str, time: Duration) -> Result<(), Box<dyn Error>> {
    let text = format!("udp://{place}");
    let mut link = Udp::default().connect(&Address::parse(&text)?).await?;
    link.set_proved();
    // The first frame makes the link at the other end.
    poll_fn(|cx| link.poll_send(cx, &FRAME)).await?;
    poll_fn(|cx| link.poll_flush(cx)).await?;
    let mut stream = TcpStream::connect(place).await?;
    let end = Instant::now() + time;
    let sending = async move {
        while Instant::now() < end {
            stream.write_all(&[0; 16 * 1024]).await?;
        }
        stream.shutdown().await
    };
    let mut sending = std::pin::pin!(sending);
    poll_fn(|cx| {
        while let Poll::Ready(Ok(())) = link.poll_send(cx, &FRAME) {}
        let _ = link.poll_flush(cx);
        let _ = link.poll_recv(cx, &mut Frames::new(), 1);
        sending.as_mut().poll(cx)
    })
    .await?;
    Ok(())
}
