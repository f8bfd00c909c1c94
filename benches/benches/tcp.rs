//! Messages from node to node on the loopback interface, over TCP and UDP, direct and through a relay, against rustls over tokio
//! with the same framing (a length before each message), the same runtime and threads, TCP_NODELAY, and writes that are batched.
//!
//! Messages do more: each is acknowledged by the application and kept until then. Streams are octets, as those of rustls are.
//! Each side's time is that of one message; all messages of a measurement are under way together, as far as windows let them.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sealway_benches::{
    machine::{Failure, Talk},
    message::{measure, stream, talk},
};
use sealway_node::{Node, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

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

fn messages(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() else {
        return;
    };
    let measured = compare(criterion, &runtime);
    assert!(measured.is_ok(), "{:?}", measured.err());
}

fn compare(criterion: &mut Criterion, runtime: &Runtime) -> Result<(), Failure> {
    let mut direct = Some(runtime.block_on(Talk::direct(|sender| sender))?);
    let mut datagrams = Some(runtime.block_on(Talk::at("udp://127.0.0.1:0", |sender| sender))?);
    let mut relayed = Some(runtime.block_on(Talk::through_a_relay())?);
    let streams = |talk: Talk| -> (Option<(Stream, Stream)>, Vec<Node>) {
        let (from, to, nodes) = talk.into_parts();
        let _inside = runtime.enter();
        (Some((from.into_stream(), to.into_stream())), nodes)
    };
    let (mut direct_stream, _direct) = streams(runtime.block_on(Talk::direct(|sender| sender))?);
    let (mut relayed_stream, _relayed) = streams(runtime.block_on(Talk::through_a_relay())?);
    let mut encrypted = Some(runtime.block_on(tls())?);
    let mut group = criterion.benchmark_group("tcp");
    group.sample_size(20);
    for size in [64, 1024, 65_536_usize] {
        let body = Arc::new(vec![5; size]);
        // So many that their start and end do not count.
        let batch = if size > 10_000 { 500 } else { 20_000 };
        group.throughput(Throughput::Bytes(size as u64));
        let talkers = [("direct", &mut direct), ("direct over UDP", &mut datagrams), ("through a relay", &mut relayed)];
        for (name, talker) in talkers {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    measure(runtime, talker, (iterations, batch), |pair, count| talk(pair, body.clone(), count))
                });
            });
        }
        for (name, streams) in [("stream", &mut direct_stream), ("stream through a relay", &mut relayed_stream)] {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    measure(runtime, streams, (iterations, batch), |pair, count| stream(pair, body.clone(), count))
                });
            });
        }
        group.bench_function(BenchmarkId::new("rustls", size), |bencher| {
            bencher.iter_custom(|iterations| {
                measure(runtime, &mut encrypted, (iterations, batch), |pair, count| stream(pair, body.clone(), count))
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, messages);
criterion_main!(benches);
