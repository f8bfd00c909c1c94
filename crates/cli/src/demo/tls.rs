//! The contrast: the same readings over TLS, link by link, through a relay that ends each.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{files::Folder, reading::Reading};
use crate::failure::Failure;

const NAME: &str = "relay.example";
const LEN: usize = 17;

/// The relay's process: takes readings from the one client over TLS and passes them to the other over TLS.
pub(crate) async fn relay(folder: &Folder, address: &str) -> Result<(), Failure> {
    let certified = rcgen::generate_simple_self_signed([NAME.to_string()]).map_err(Failure::failed)?;
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(Failure::failed)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.map_err(Failure::failed)?));
    let seen = folder.append("tls-relay.seen")?;
    let listener = TcpListener::bind(address).await.map_err(Failure::failed)?;
    std::fs::write(folder.path("tls-relay.der"), &certificate).map_err(Failure::failed)?;
    println!("listening on {}", listener.local_addr().map_err(Failure::failed)?);
    // The phone first, then the monitor.
    let (phone, _) = listener.accept().await.map_err(Failure::failed)?;
    let mut phone = acceptor.accept(phone).await.map_err(Failure::failed)?;
    let (monitor, _) = listener.accept().await.map_err(Failure::failed)?;
    let mut monitor = acceptor.accept(monitor).await.map_err(Failure::failed)?;
    let mut reading = [0; LEN];
    while monitor.read_exact(&mut reading).await.is_ok() {
        // Decrypted, as it must be here to be encrypted again.
        seen.write(&reading);
        phone.write_all(&reading).await.map_err(Failure::failed)?;
    }
    phone.shutdown().await.map_err(Failure::failed)
}

async fn connect(certificate: &[u8], relay: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec())).map_err(Failure::failed)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(relay).await.map_err(Failure::failed)?;
    let name = ServerName::try_from(NAME).map_err(Failure::failed)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(Failure::failed)
}

/// Sends all readings from a monitor to a phone, and returns how many came out unaltered.
pub(crate) async fn exchange(folder: &Folder, relay: SocketAddr) -> Result<usize, Failure> {
    let certificate = std::fs::read(folder.path("tls-relay.der")).map_err(Failure::failed)?;
    let mut phone = connect(&certificate, relay).await?;
    let mut monitor = connect(&certificate, relay).await?;
    let (received, mut readings) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        let mut octets = [0; LEN];
        while phone.read_exact(&mut octets).await.is_ok() {
            let _ = received.send(octets);
        }
    });
    for reading in Reading::recorded() {
        monitor.write_all(&reading.encode()).await.map_err(Failure::failed)?;
    }
    monitor.shutdown().await.map_err(Failure::failed)?;
    reading.await.map_err(Failure::failed)?;
    let mut unaltered = 0;
    for expected in Reading::recorded() {
        unaltered += usize::from(readings.recv().await == Some(expected.encode()));
    }
    Ok(unaltered)
}
