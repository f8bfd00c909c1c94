//! Messages from node to node over TCP on the loopback interface, direct and through a relay, against rustls over tokio with
//! the same framing (a length before each message), the same runtime and threads, TCP_NODELAY, and writes that are batched.
//!
//! Ours do more: each message is acknowledged by the application and kept until then. Each side's time is that of one
//! message; all messages of a measurement are under way together, as far as windows let them.

use std::{sync::Arc, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sealway_crypto_aws_lc::AwsLc;
use sealway_identity::{Card, CardParts, Owner, Policy, RelayEntry};
use sealway_node::{Channel, Node, NodeError, RelayConfig};
use sealway_tcp::Tcp;
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault};
use sealway_wire::BoxName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

type Vault = Arc<SoftwareVault<AwsLc>>;

struct Machine {
    vault: Vault,
    owner: Owner,
    contact_box: BoxName,
}

type Failure = Box<dyn std::error::Error>;

impl Machine {
    fn new() -> Result<Self, Failure> {
        let mut vault = SoftwareVault::new(AwsLc::new());
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
        let contact_box = BoxName(vault_random(&vault)?);
        Ok(Self { vault: Arc::new(vault), owner, contact_box })
    }

    fn card(&self, address: Option<String>, relay: Option<&Card>) -> Result<Card, Failure> {
        let entry = |relay: &Card| RelayEntry {
            id: relay.id(),
            channel_key: relay.attestation().channel_key,
            contact_box: self.contact_box,
            addresses: relay.addresses().to_vec(),
        };
        let parts = CardParts {
            addresses: address.into_iter().collect(),
            relays: relay.map(entry).into_iter().collect(),
            ..CardParts::default()
        };
        Ok(self.owner.card(&self.vault, &parts)?)
    }

    fn builder(&self) -> sealway_node::Builder<Vault> {
        Node::builder((self.vault.clone(), self.owner.clone())).transport(Tcp::default()).contact_box(self.contact_box)
    }
}

fn vault_random<P: CryptoProvider>(vault: &SoftwareVault<P>) -> Result<[u8; 16], Failure> {
    use sealway_vault::Vault as _;
    Ok(vault.provider().random()?)
}

/// Two nodes with a channel, and whatever has to live as long.
struct Talk {
    from: Channel,
    to: Channel,
    nodes: Vec<Node>,
}

async fn direct() -> Result<Talk, Failure> {
    let (left, right) = (Machine::new()?, Machine::new()?);
    let server = right.builder().accept(Policy::ids([left.owner.id()])).start().await?;
    let card = right.card(Some(server.listen("tcp://127.0.0.1:0").await?), None)?;
    let client = left.builder().start().await?;
    let mut from = client.open(&card, Policy::only(&card)).await?;
    from.opened().await?;
    let to = server.accept().await.ok_or("the node has ended")?;
    Ok(Talk { from, to, nodes: vec![server, client] })
}

async fn through_a_relay() -> Result<Talk, Failure> {
    let (relay, left, right) = (Machine::new()?, Machine::new()?, Machine::new()?);
    let clients = Policy::ids([left.owner.id(), right.owner.id()]);
    let relay_node = relay.builder().accept(clients).relay(RelayConfig::default()).start().await?;
    let relay_card = relay.card(Some(relay_node.listen("tcp://127.0.0.1:0").await?), None)?;
    let (left_card, right_card) = (left.card(None, Some(&relay_card))?, right.card(None, Some(&relay_card))?);
    let (client, server) = (left.builder().start().await?, right.builder().start().await?);
    client.attach(&relay_card).await?;
    server.attach(&relay_card).await?;
    let to = server.open(&left_card, Policy::only(&left_card)).await?;
    let mut from = client.open(&right_card, Policy::only(&right_card)).await?;
    from.opened().await?;
    Ok(Talk { from, to, nodes: vec![relay_node, server, client] })
}

/// Sends `count` messages, and waits until the other application has done with each.
async fn talk(talk: Talk, body: Arc<Vec<u8>>, count: u64) -> Result<Talk, Failure> {
    let Talk { from, mut to, nodes } = talk;
    let expected = body.len();
    let sends = tokio::spawn(async move {
        let mut last = None;
        for _ in 0..count {
            last = Some(from.send_live(body.as_slice()).await?);
        }
        if let Some(last) = last {
            last.delivered().await?;
        }
        Ok::<_, NodeError>(from)
    });
    let receives = tokio::spawn(async move {
        for _ in 0..count {
            let Some(message) = to.recv().await? else { return Err(NodeError::Closed) };
            assert_eq!(message.body().len(), expected);
            message.done().await?;
        }
        Ok::<_, NodeError>(to)
    });
    let (from, to) = tokio::try_join!(sends, receives)?;
    Ok(Talk { from: from?, to: to?, nodes })
}

type Tls = (tokio_rustls::client::TlsStream<TcpStream>, tokio_rustls::server::TlsStream<TcpStream>);

async fn tls() -> Result<Tls, Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let server =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    let (accepted, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let name = ServerName::try_from("localhost")?;
    Ok(tokio::try_join!(connector.connect(name, stream), acceptor.accept(accepted))?)
}

async fn talk_tls((client, server): Tls, body: Arc<Vec<u8>>, count: u64) -> Result<Tls, Failure> {
    let length = u32::try_from(body.len())?.to_be_bytes();
    let expected = body.len();
    let sends = tokio::spawn(async move {
        let mut client = BufWriter::with_capacity(64 * 1024, client);
        for _ in 0..count {
            client.write_all(&length).await?;
            client.write_all(&body).await?;
        }
        client.flush().await?;
        Ok::<_, std::io::Error>(client.into_inner())
    });
    let receives = tokio::spawn(async move {
        let mut server = BufReader::with_capacity(64 * 1024, server);
        for _ in 0..count {
            let mut body = vec![0; usize::try_from(server.read_u32().await?).unwrap_or(0)];
            server.read_exact(&mut body).await?;
            assert_eq!(body.len(), expected);
        }
        Ok::<_, std::io::Error>(server.into_inner())
    });
    let (client, server) = tokio::try_join!(sends, receives)?;
    Ok((client?, server?))
}

fn messages(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() else {
        return;
    };
    let measured = compare(criterion, &runtime);
    assert!(measured.is_ok(), "{:?}", measured.err());
}

fn compare(criterion: &mut Criterion, runtime: &Runtime) -> Result<(), Failure> {
    let mut direct = Some(runtime.block_on(direct())?);
    let mut relayed = Some(runtime.block_on(through_a_relay())?);
    let mut encrypted = Some(runtime.block_on(tls())?);
    let mut group = criterion.benchmark_group("tcp");
    group.sample_size(20);
    for size in [64, 1024, 65_536_usize] {
        let body = Arc::new(vec![5; size]);
        // So many that their start and end do not count.
        let batch = if size > 10_000 { 500 } else { 20_000 };
        group.throughput(Throughput::Bytes(size as u64));
        for (name, talker) in [("direct", &mut direct), ("through a relay", &mut relayed)] {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    let count = iterations.max(batch);
                    let Some(pair) = talker.take() else { return std::time::Duration::ZERO };
                    let start = Instant::now();
                    let talked = runtime.block_on(talk(pair, body.clone(), count));
                    let taken = start.elapsed();
                    assert!(talked.is_ok(), "{:?}", talked.as_ref().err());
                    *talker = talked.ok();
                    taken.mul_f64(iterations as f64 / count as f64)
                });
            });
        }
        group.bench_function(BenchmarkId::new("rustls", size), |bencher| {
            bencher.iter_custom(|iterations| {
                let count = iterations.max(batch);
                let Some(streams) = encrypted.take() else { return std::time::Duration::ZERO };
                let start = Instant::now();
                let talked = runtime.block_on(talk_tls(streams, body.clone(), count));
                let taken = start.elapsed();
                assert!(talked.is_ok(), "{:?}", talked.as_ref().err());
                encrypted = talked.ok();
                taken.mul_f64(iterations as f64 / count as f64)
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, messages);
criterion_main!(benches);
