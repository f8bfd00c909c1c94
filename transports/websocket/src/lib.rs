//! Sealway frames over WebSockets (RFC 6455), for networks that let nothing but the web through.
//!
//! * Addresses: `ws://relay.example:80/sealway`, `wss://relay.example:443/sealway`. The path has to be the listener's.
//! * Framing: each frame is one binary message; the subprotocol is `sealway`, and both sides insist on it. What is no binary
//!   message, is empty, or longer than the MTU ends the link.
//! * MTU 20480 octets; reliable, in order. Small frames are collected and leave in one write.
//! * TLS protects nothing that Sealway does not: it is what proxies and firewalls expect. The server's certificate is verified
//!   against the system's authorities, or those that are given; TLS 1.2 and 1.3.
//! * Through proxies: HTTP CONNECT (RFC 9110, 9.3.6), with a name and a password where the proxy wants them.
//! * Behind proxies: whom limits of strangers count is read from `X-Forwarded-For` where the operator names the proxy.
//! * Time limits: connecting and upgrading (10 s), writing (60 s without an octet taken), nothing received for 90 s. After 25 s
//!   without a frame sent, a ping keeps proxies from forgetting the connection.
//! * An end is one of both directions: there is no half-close.
#![forbid(unsafe_code)]

mod link;
mod listener;
mod proxy;
mod tls;

use std::{net::IpAddr, sync::Arc, time::Duration};

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener, Transport};
use sealway_wire::{Address, NetAddress};
use tokio_tungstenite::tungstenite::{
    Error,
    client::IntoClientRequest,
    error::ProtocolError,
    http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
    protocol::WebSocketConfig,
};

pub use link::{MTU, WebSocketLink};
pub use listener::WebSocketListener;
pub use proxy::{Proxy, ProxyError};
pub use tls::CertificateError;

use link::{Counted, Medium, Peer};
use proxy::Proxies;

/// What the two sides speak, as they tell each other and whoever is between them.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("sealway");
/// Small frames are collected up to this many octets before they are written.
const WRITE_BUFFER: usize = 64 * 1024;
/// The shortest time between two pings.
const LEAST_PING: Duration = Duration::from_millis(10);
/// What each connection keeps for reading.
const READ_BUFFER: usize = 4 * 1024;

/// The medium: its limits, its certificates, and the proxies on its way.
#[derive(Clone, Debug)]
pub struct WebSocket {
    connect_timeout: Duration,
    times: Times,
    local: Option<IpAddr>,
    proxies: Proxies,
    trusted: Vec<IpAddr>,
    client: tls::Client,
    server: tls::Server,
}

/// How an established link keeps time.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Nothing has arrived: the link is given up.
    idle: Duration,
    /// Something is to be written, and the peer takes nothing: the link is given up.
    write: Duration,
    /// Nothing was sent: a ping is.
    ping: Duration,
}

impl Default for WebSocket {
    fn default() -> Self {
        let [idle, write, ping] = [90, 60, 25].map(Duration::from_secs);
        Self {
            connect_timeout: Duration::from_secs(10),
            times: Times { idle, write, ping },
            local: None,
            proxies: Proxies::default(),
            trusted: Vec::new(),
            client: tls::Client::default(),
            server: tls::Server::default(),
        }
    }
}

impl WebSocket {
    /// Connects from `address`, for machines with several.
    #[must_use]
    pub fn from_local_address(self, address: IpAddr) -> Self {
        Self { local: Some(address), ..self }
    }

    /// Gives up what is not connected, or not accepted, within `limit`.
    #[must_use]
    pub fn with_connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// Gives a link up on which nothing has arrived for `limit`.
    #[must_use]
    pub fn with_idle_timeout(self, limit: Duration) -> Self {
        Self { times: Times { idle: limit, ..self.times }, ..self }
    }

    /// Sends a ping when nothing was sent for `interval`, 10 ms at least, for proxies that end silent connections sooner than others.
    #[must_use]
    pub fn with_ping_interval(self, interval: Duration) -> Self {
        Self { times: Times { ping: interval.max(LEAST_PING), ..self.times }, ..self }
    }

    /// Connects to every host through `proxy`.
    #[must_use]
    pub fn through(self, proxy: Proxy) -> Self {
        Self { proxies: Proxies::always(proxy), ..self }
    }

    /// Connects through the proxies that the environment names: `https_proxy` for wss, `http_proxy` for ws, `all_proxy` for
    /// both, `no_proxy` for hosts and domains to which there is none (no networks: 10.0.0.0/8 names none). Of the first and the last
    /// two, the names in capitals count too. What is no proxy that is spoken here, SOCKS say, is told when a connection needs it.
    #[must_use]
    pub fn through_environment(self) -> Self {
        Self { proxies: Proxies::from_environment(|name| std::env::var(name).ok()), ..self }
    }

    /// Believes the reverse proxy at `address` from where a connection comes: the last entry of its `X-Forwarded-For`, which it
    /// has to write. Without this, all who come through it count as one source, and share what strangers may cost.
    #[must_use]
    pub fn behind(mut self, address: IpAddr) -> Self {
        self.trusted.push(address.to_canonical());
        self
    }

    /// Trusts these authorities, as certificates in PEM, instead of the system's.
    ///
    /// # Errors
    /// If there is no certificate, or one of them is none.
    pub fn trusting(self, authorities: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self { client: tls::Client::trusting(authorities)?, ..self })
    }

    /// Listens with this certificate and those that vouch for it, and its private key, all in PEM. What is accepted from now on
    /// has it, also by listeners of this transport's clones: certificates are renewed while a relay runs.
    ///
    /// # Errors
    /// If either is not what it must be, or they do not belong together.
    pub fn set_certificate(&self, certificates: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        self.server.set(certificates, key)
    }

    async fn upgrade(&self, address: &NetAddress<'_>) -> Result<WebSocketLink, LinkError> {
        let is_secure = address.transport == sealway_wire::Transport::Wss;
        let (stream, peer) = match self.proxies.of(address, is_secure) {
            Some(Err(error)) => return Err(LinkError::new(LinkErrorKind::Unsupported, address).caused_by(error)),
            Some(Ok(proxy)) => proxy.connect(address, self.local).await?,
            None => sealway_ip::stream::connect(address, self.local).await?,
        };
        let (stream, taken) = Counted::new(stream);
        let octets: Box<dyn Medium> =
            if is_secure { Box::new(self.client.connect(stream, address).await?) } else { Box::new(stream) };
        let failed = |error| failure(error, address);
        let mut request = address.to_string().into_client_request().map_err(failed)?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        let upgraded = tokio_tungstenite::client_async_with_config(request, octets, Some(config())).await;
        let (socket, _) = upgraded.map_err(failed)?;
        let peer = Peer { place: address.to_string().into(), source: sealway_ip::source(peer.ip()), taken };
        Ok(WebSocketLink::new(socket, peer, self.times))
    }
}

/// Bounds of what one connection holds.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(2 * WRITE_BUFFER)
        .max_message_size(Some(MTU))
        .max_frame_size(Some(MTU))
}

/// What an error of a WebSocket means for its link to `place`.
fn failure(error: Error, place: impl std::fmt::Display) -> LinkError {
    match error {
        Error::Io(error) => sealway_ip::failure(error, place),
        Error::Http(response) => {
            let status = response.status();
            LinkError::new(LinkErrorKind::Refused, place).caused_by(format!("HTTP {status}"))
        }
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(ProtocolError::SendAfterClosing) => {
            LinkError::new(LinkErrorKind::Lost, place)
        }
        error @ (Error::Capacity(_) | Error::Utf8(_)) => LinkError::new(LinkErrorKind::Framing, place).caused_by(error),
        // A connection that ends without a word is lost as others are.
        Error::Protocol(error @ ProtocolError::ResetWithoutClosingHandshake) => {
            LinkError::new(LinkErrorKind::Lost, place).caused_by(error)
        }
        error @ Error::Protocol(_) => LinkError::new(LinkErrorKind::Framing, place).caused_by(error),
        error => LinkError::new(LinkErrorKind::Other, place).caused_by(error),
    }
}

/// The address, or that it is none of this medium.
fn place<'a>(address: &'a Address<'a>) -> Result<&'a NetAddress<'a>, LinkError> {
    let of = |transport| sealway_ip::place(address, transport);
    let place = of(sealway_wire::Transport::Ws).or_else(|| of(sealway_wire::Transport::Wss));
    place.ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, address))
}

impl Transport for WebSocket {
    fn supports(&self, address: &Address<'_>) -> bool {
        place(address).is_ok()
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            match tokio::time::timeout(self.connect_timeout, self.upgrade(address)).await {
                Ok(link) => link.map(|link| Box::new(link) as _),
                Err(_) => Err(LinkError::new(LinkErrorKind::TimedOut, address)),
            }
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        Box::pin(async move {
            let address = place(address)?;
            let is_secure = address.transport == sealway_wire::Transport::Wss;
            let secure = if is_secure { Some(self.server.acceptor(address)?) } else { None };
            let listener = sealway_ip::stream::listen(address).await?;
            let setup = listener::Setup {
                secure,
                path: address.path.into(),
                trusted: self.trusted.clone().into(),
                limit: self.connect_timeout,
                times: self.times,
            };
            Ok(Box::new(WebSocketListener::new(listener, Arc::new(setup))) as _)
        })
    }
}
