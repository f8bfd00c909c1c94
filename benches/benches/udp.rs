//! From node to node over UDP on the loopback interface, against boringtun's data path over sockets of the same library, and
//! against quinn's datagrams: the same sizes, the same runtime and threads, sends that are batched, and as much under way.
//!
//! The peers' datagrams may be lost, so that both of them are told at no cost how many have arrived, and keep no more under way than
//! a receiver takes. Messages of ours are acknowledged by the application and kept until then.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use boringtun::{
    noise::{Tunn, TunnResult},
    x25519::{PublicKey, StaticSecret},
};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sealway_benches::{
    machine::{Failure, Talk},
    message::{measure, stream, talk},
};
use sealway_node::{Datagrams, Node, NodeError, Stream};
use tokio::{io::Interest, net::UdpSocket, runtime::Runtime, sync::Notify};

/// Datagrams that are under way at once: as many as messages of a channel, and no more octets than a receiver's system keeps.
const WINDOW: u64 = 512;
const WINDOW_OCTETS: usize = 128 * 1024;
/// What has not arrived by then is lost, and another one is sent.
const LOST: Duration = Duration::from_millis(200);
/// Octets that the system takes at once.
const BATCH: usize = 60 * 1024;
/// Reads at once, and octets of each: as in the transport.
const READS: usize = 8;
const BUFFER: usize = 64 * 1024;

/// How many have arrived, told to the sender at no cost.
#[derive(Clone, Default)]
struct Arrived(Arc<(AtomicU64, Notify)>);

impl Arrived {
    fn add(&self, count: u64) {
        self.0.0.fetch_add(count, Ordering::AcqRel);
        self.0.1.notify_one();
    }

    fn count(&self) -> u64 {
        self.0.0.load(Ordering::Acquire)
    }

    /// Waits until no more than `most` of `sent` are under way. Returns how many those are that were sent and are not lost.
    async fn wait(&self, sent: u64, most: u64) -> u64 {
        loop {
            let notified = self.0.1.notified();
            if sent.saturating_sub(self.count()) <= most {
                return sent;
            }
            if tokio::time::timeout(LOST, notified).await.is_err() {
                return self.count();
            }
        }
    }
}

fn window(size: usize) -> u64 {
    WINDOW.min((WINDOW_OCTETS / size) as u64)
}

/// One end of a tunnel.
struct Side {
    tunnel: Tunn,
    io: UdpSocket,
    state: UdpSocketState,
}

impl Side {
    fn new(own: [u8; 32], peer: [u8; 32], index: u32) -> Result<Self, Failure> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&socket).into())?;
        let _ = state.set_recv_buffer_size((&socket).into(), 2 * 1024 * 1024);
        let _ = state.set_send_buffer_size((&socket).into(), 2 * 1024 * 1024);
        let peer = PublicKey::from(&StaticSecret::from(peer));
        let tunnel = Tunn::new(StaticSecret::from(own), peer, None, None, index, None);
        Ok(Self { tunnel, io: UdpSocket::from_std(socket)?, state })
    }
}

/// Two ends that have a session: the handshake goes from hand to hand.
fn tunnel() -> Result<(Side, Side), Failure> {
    let (mut client, mut server) = (Side::new([1; 32], [2; 32], 1)?, Side::new([2; 32], [1; 32], 2)?);
    let mut buffers = [[0; 512]; 2];
    let mut packet = match client.tunnel.format_handshake_initiation(&mut buffers[0], false) {
        TunnResult::WriteToNetwork(packet) => packet.to_vec(),
        _ => return Err("no handshake".into()),
    };
    // Initiation, response, and the first packet, after which both may send.
    for turn in 0..3 {
        let side = if turn % 2 == 0 { &mut server } else { &mut client };
        match side.tunnel.decapsulate(None, &packet, &mut buffers[1]) {
            TunnResult::WriteToNetwork(answer) => packet = answer.to_vec(),
            TunnResult::Done => return Ok((client, server)),
            _ => return Err("the handshake failed".into()),
        }
    }
    Err("the handshake does not end".into())
}

/// An IPv4 packet of that length: what a tunnel carries.
fn packet(length: usize) -> Result<Vec<u8>, Failure> {
    let mut packet = vec![5; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length)?.to_be_bytes());
    Ok(packet)
}

/// Sends `count` packets through the tunnel, and opens them at the other end.
async fn tunnelled((client, server): (Side, Side), body: Arc<Vec<u8>>, count: u64) -> Result<(Side, Side), Failure> {
    let to = server.io.local_addr()?;
    let arrived = Arrived::default();
    let (inner, window) = (packet(body.len())?, window(body.len()));
    let told = arrived.clone();
    let sends = tokio::spawn(async move {
        let mut client = client;
        let (mut batch, mut sealed) = (Vec::with_capacity(BATCH + BUFFER), vec![0; 2048]);
        let mut sent = 0;
        while told.count() < count {
            let under_way = if sent < count { window / 2 } else { 0 };
            sent = told.wait(sent, under_way).await;
            batch.clear();
            let mut length = 0;
            let most = (window / 2).min(count.saturating_sub(sent)).min(client.state.max_gso_segments() as u64);
            for _ in 0..most {
                let TunnResult::WriteToNetwork(packet) = client.tunnel.encapsulate(&inner, &mut sealed) else {
                    return Err(io::Error::other("not sealed"));
                };
                length = packet.len();
                batch.extend_from_slice(packet);
                sent += 1;
                if batch.len() + length > BATCH {
                    break;
                }
            }
            if batch.is_empty() {
                continue;
            }
            let segment_size = (batch.len() > length).then_some(length);
            let transmit = Transmit { destination: to, ecn: None, contents: &batch, segment_size, src_ip: None };
            client.io.async_io(Interest::WRITABLE, || client.state.try_send((&client.io).into(), &transmit)).await?;
        }
        Ok(client)
    });
    let receives = tokio::spawn(async move {
        let mut server = server;
        let (mut buffer, mut opened) = (vec![0; READS * BUFFER], vec![0; 2048]);
        let mut received = 0;
        while received < count {
            let mut found = [RecvMeta::default(); READS];
            let (io, state) = (&server.io, &server.state);
            let reads = io
                .async_io(Interest::READABLE, || {
                    let mut parts = buffer.chunks_mut(BUFFER).map(IoSliceMut::new);
                    let mut buffers: [IoSliceMut<'_>; READS] =
                        std::array::from_fn(|_| parts.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                    state.recv(io.into(), &mut buffers, &mut found)
                })
                .await?;
            let mut came = 0;
            for (meta, part) in found.iter().take(reads).zip(buffer.chunks(BUFFER)) {
                for datagram in part[..meta.len].chunks(meta.stride.max(1)) {
                    match server.tunnel.decapsulate(None, datagram, &mut opened) {
                        TunnResult::WriteToTunnelV4(packet, _) => assert_eq!(packet.len(), body.len()),
                        _ => return Err(io::Error::other("not opened")),
                    }
                    came += 1;
                }
            }
            received += came;
            arrived.add(came);
        }
        Ok::<_, io::Error>(server)
    });
    let (client, server) = tokio::try_join!(sends, receives)?;
    Ok((client?, server?))
}

/// A connection of quinn's, at both ends, and what has to live as long.
type Connected = ((quinn::Connection, quinn::Connection), [quinn::Endpoint; 2]);

async fn connected() -> Result<Connected, Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut transport = quinn::TransportConfig::default();
    // Room for all that is under way, and for 1200 octets in a packet.
    transport.datagram_receive_buffer_size(Some(16 << 20)).datagram_send_buffer_size(16 << 20).initial_mtu(1452);
    // It waits while the others are measured.
    transport.max_idle_timeout(None);
    let transport = Arc::new(transport);
    let mut server = quinn::ServerConfig::with_single_cert(vec![made.cert.der().clone()], key)?;
    server.transport_config(transport.clone());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let mut client = quinn::ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(transport);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listening = quinn::Endpoint::server(server, any)?;
    let calling = quinn::Endpoint::client(any)?;
    let connecting = calling.connect_with(client, listening.local_addr()?, "localhost")?;
    let accepting = async { listening.accept().await.ok_or("the endpoint has ended")?.await.map_err(Failure::from) };
    let (from, to) = tokio::try_join!(async { connecting.await.map_err(Failure::from) }, accepting)?;
    Ok(((from, to), [listening, calling]))
}

/// Sends `count` datagrams from node to node, and takes them at the other end.
async fn own_datagrams(
    ends: (Datagrams, Datagrams),
    body: Arc<Vec<u8>>,
    count: u64,
) -> Result<(Datagrams, Datagrams), Failure> {
    let (from, mut to) = ends;
    let arrived = Arrived::default();
    let (told, window) = (arrived.clone(), window(body.len()));
    let expected = body.len();
    let sends = tokio::spawn(async move {
        let mut sent = 0;
        while told.count() < count {
            sent = told.wait(sent, if sent < count { window } else { 0 }).await;
            if sent < count {
                from.send(&body).await?;
                sent += 1;
            }
        }
        Ok::<_, NodeError>(from)
    });
    let receives = tokio::spawn(async move {
        for _ in 0..count {
            let Some(datagram) = to.recv().await else { return Err(NodeError::Closed) };
            assert_eq!(datagram.len(), expected);
            arrived.add(1);
        }
        Ok::<_, NodeError>(to)
    });
    let (from, to) = tokio::try_join!(sends, receives)?;
    Ok((from?, to?))
}

/// Sends `count` datagrams over a connection of quinn's, and takes them at the other end.
async fn datagrams(connected: Connected, body: Arc<Vec<u8>>, count: u64) -> Result<Connected, Failure> {
    let ((from, to), endpoints) = connected;
    let arrived = Arrived::default();
    let (told, window) = (arrived.clone(), window(body.len()));
    let (body, expected) = (Bytes::from(body.as_slice().to_vec()), body.len());
    let sends = tokio::spawn(async move {
        let mut sent = 0;
        while told.count() < count {
            sent = told.wait(sent, if sent < count { window } else { 0 }).await;
            if sent < count {
                from.send_datagram_wait(body.clone()).await.map_err(io::Error::other)?;
                sent += 1;
            }
        }
        Ok::<_, io::Error>(from)
    });
    let receives = tokio::spawn(async move {
        for _ in 0..count {
            let datagram = to.read_datagram().await?;
            assert_eq!(datagram.len(), expected);
            arrived.add(1);
        }
        Ok::<_, io::Error>(to)
    });
    let (from, to) = tokio::try_join!(sends, receives)?;
    Ok(((from?, to?), endpoints))
}

fn over_udp(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() else {
        return;
    };
    let measured = compare(criterion, &runtime);
    assert!(measured.is_ok(), "{:?}", measured.err());
}

fn compare(criterion: &mut Criterion, runtime: &Runtime) -> Result<(), Failure> {
    let at = "udp://127.0.0.1:0";
    let mut messages = Some(runtime.block_on(Talk::at(at, |sender| sender))?);
    let streams = |talk: Talk| -> (Option<(Stream, Stream)>, Vec<Node>) {
        let (from, to, nodes) = talk.into_parts();
        let _inside = runtime.enter();
        (Some((from.into_stream(), to.into_stream())), nodes)
    };
    let (mut streamed, _nodes) = streams(runtime.block_on(Talk::at(at, |sender| sender))?);
    let (from, to, _datagram_nodes) = runtime.block_on(Talk::at(at, |sender| sender))?.into_parts();
    let mut ends = Some((from.datagrams(), to.datagrams()));
    let mut tunnels = Some(runtime.block_on(async { tunnel() })?);
    let mut quic = Some(runtime.block_on(connected())?);
    let mut group = criterion.benchmark_group("udp");
    group.sample_size(20);
    for size in [64, 1200_usize] {
        let body = Arc::new(vec![5; size]);
        // So many that their start and end do not count.
        let batch = 20_000;
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("messages", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut messages, (iterations, batch), |pair, count| talk(pair, body.clone(), count))
            });
        });
        group.bench_function(BenchmarkId::new("datagrams", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut ends, (iterations, batch), |ends, count| own_datagrams(ends, body.clone(), count))
            });
        });
        group.bench_function(BenchmarkId::new("stream", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut streamed, (iterations, batch), |pair, count| stream(pair, body.clone(), count))
            });
        });
        group.bench_function(BenchmarkId::new("boringtun", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut tunnels, (iterations, batch), |pair, count| tunnelled(pair, body.clone(), count))
            });
        });
        group.bench_function(BenchmarkId::new("quinn datagrams", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut quic, (iterations, batch), |pair, count| datagrams(pair, body.clone(), count))
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, over_udp);
criterion_main!(benches);
