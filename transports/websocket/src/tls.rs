//! Certificates: whom a client believes, and what a server shows.

use std::{
    error::Error,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sealway_link::{LinkError, LinkErrorKind};
use sealway_wire::NetAddress;
use tokio::sync::OnceCell;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use crate::link::Counted;

/// Why a certificate cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is none in the PEM text.
    NoCertificate,
    /// The PEM text has no private key, or one of a form that is not known.
    NoKey,
    /// It is malformed, or certificate and key do not belong together.
    Unusable(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("there is no certificate in PEM"),
            Self::NoKey => f.write_str("there is no private key in PEM"),
            Self::Unusable(error) => write!(f, "the certificate cannot be used ({error})"),
        }
    }
}

impl Error for CertificateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unusable(error) => Some(&**error),
            _ => None,
        }
    }
}

fn unusable(error: impl Into<Box<dyn Error + Send + Sync>>) -> CertificateError {
    CertificateError::Unusable(error.into())
}

/// Named, because a program may have several.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// HTTP/1.1: a WebSocket begins as one of its requests.
fn protocols() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(unusable)?;
    if all.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(all) }
}

/// Whom a client believes: the authorities that were given, or the system's, which are read when they are needed first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client(Arc<OnceCell<Arc<ClientConfig>>>);

impl Client {
    pub(crate) fn trusting(pem: &[u8]) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(unusable)?;
        }
        let config = client_config(roots).map_err(unusable)?;
        Ok(Self(Arc::new(OnceCell::new_with(Some(config)))))
    }

    /// TLS with the host that `address` names.
    pub(crate) async fn connect(
        &self,
        stream: Counted,
        address: &NetAddress<'_>,
    ) -> Result<client::TlsStream<Counted>, LinkError> {
        let unavailable =
            |error: Box<dyn Error + Send + Sync>| LinkError::new(LinkErrorKind::Other, address).caused_by(error);
        let config = self.0.get_or_try_init(system_config).await.map_err(unavailable)?.clone();
        let host = address.host.to_string();
        // An IPv6 address has brackets in an address, and none as a name.
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).map_err(|error| unavailable(error.into()))?;
        let connected = TlsConnector::from(config).connect(name.to_owned(), stream).await;
        connected.map_err(|error| sealway_ip::failure(error, address))
    }
}

fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols();
    Ok(Arc::new(config))
}

async fn system_config() -> Result<Arc<ClientConfig>, Box<dyn Error + Send + Sync>> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        return Err(format!("this system names no authorities for certificates {why}").into());
    }
    Ok(client_config(roots)?)
}

/// What a server shows, which may change while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl Server {
    pub(crate) fn set(&self, pem: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain = certificates(pem)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        let shown = CertifiedKey::from_der(chain, key, &provider()).map_err(unusable)?;
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shown));
        Ok(())
    }

    pub(crate) fn acceptor(&self, address: &NetAddress<'_>) -> Result<TlsAcceptor, LinkError> {
        let unsupported = || LinkError::new(LinkErrorKind::Unsupported, address);
        if self.0.current().is_none() {
            return Err(unsupported().caused_by("no certificate was given"));
        }
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| unsupported().caused_by(error))?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(self.0.clone());
        config.alpn_protocols = protocols();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Shown {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}
