//! How flows over UDP share a path with one over TCP.
//!
//! `share sink 192.0.2.1:7000 FLOWS` takes so many flows over UDP and one over TCP; `share source 192.0.2.1:7000 FLOWS SECONDS` sends
//! them, as fast as they go. The sink prints what came, in octets: `udp OCTETS .. tcp OCTETS`.

use std::{
    error::Error,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use sealway_link::{FrameLink, Frames, Transport as _};
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
        ["sink", place, flows] => sink(place, flows.parse()?).await,
        ["source", place, flows, seconds] => source(place, flows.parse()?, Duration::from_secs(seconds.parse()?)).await,
        _ => Err("usage: share sink ADDRESS:PORT FLOWS | share source ADDRESS:PORT FLOWS SECONDS".into()),
    }
}

async fn sink(place: &str, flows: usize) -> Result<(), Box<dyn Error>> {
    let text = format!("udp://{place}");
    let mut datagrams = Udp::default().listen(&Address::parse(&text)?).await?;
    let streams = TcpListener::bind(place).await?;
    println!("ready");
    let mut links = Vec::new();
    while links.len() < flows {
        let mut link = datagrams.accept().await?;
        link.set_proved();
        links.push((link, 0));
    }
    let (mut stream, _) = streams.accept().await?;
    let mut tcp = 0;
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = Frames::new();
    // All of them in each turn, so that none waits for another.
    let mut take = |cx: &mut Context<'_>, links: &mut Vec<(Box<dyn FrameLink>, usize)>| {
        for (link, came) in links {
            while let Poll::Ready(Ok(true)) = link.poll_recv(cx, &mut frames, 64 * 1024) {
                *came += frames.octets();
                frames.clear();
            }
        }
        Poll::<()>::Pending
    };
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                // The source breaks it off at the end.
                Ok(0) | Err(_) => break,
                Ok(count) => tcp += count,
            },
            () = poll_fn(|cx| take(cx, &mut links)) => {}
        }
    }
    let udp: Vec<String> = links.iter().map(|(_, came)| format!("udp {came}")).collect();
    println!("{} tcp {tcp}", udp.join(" "));
    Ok(())
}

async fn source(place: &str, flows: usize, time: Duration) -> Result<(), Box<dyn Error>> {
    let text = format!("udp://{place}");
    let mut links = Vec::new();
    for _ in 0..flows {
        let mut link = Udp::default().connect(&Address::parse(&text)?).await?;
        link.set_proved();
        // The first frame makes the link at the other end.
        poll_fn(|cx| link.poll_send(cx, &FRAME)).await?;
        poll_fn(|cx| link.poll_flush(cx)).await?;
        links.push(link);
    }
    let mut stream = TcpStream::connect(place).await?;
    let end = Instant::now() + time;
    let sending = async move {
        while Instant::now() < end {
            stream.write_all(&[0; 16 * 1024]).await?;
        }
        // What the system still holds is not of this time.
        stream.set_zero_linger()?;
        Ok::<_, std::io::Error>(())
    };
    let mut sending = pin!(sending);
    poll_fn(|cx| {
        for link in &mut links {
            while let Poll::Ready(Ok(())) = link.poll_send(cx, &FRAME) {}
            let _ = link.poll_flush(cx);
            let _ = link.poll_recv(cx, &mut Frames::new(), 1);
        }
        sending.as_mut().poll(cx)
    })
    .await?;
    Ok(())
}
