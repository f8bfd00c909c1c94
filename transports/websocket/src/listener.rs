//! Waiting for connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener, Places};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::{
    handshake::server::{Callback, ErrorResponse, Request, Response},
    http::{StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
};

use crate::{
    SUBPROTOCOL, Times, config, failure,
    link::{Counted, Medium, Peer, WebSocketLink},
};

/// Connections that are being upgraded at once, and those of one address among them. Of a proxy that is believed, all may be its
/// own: it has limits of its own.
const MAX_UPGRADES: usize = 1024;
const MAX_UPGRADES_OF_SOURCE: usize = 64;

/// What a listener has been told.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) secure: Option<TlsAcceptor>,
    pub(crate) path: Box<str>,
    pub(crate) trusted: Arc<[IpAddr]>,
    pub(crate) limit: Duration,
    pub(crate) times: Times,
}

/// A listening socket, and the connections on it that are no WebSockets yet.
pub struct WebSocketListener {
    listener: TcpListener,
    setup: Arc<Setup>,
    upgrades: JoinSet<(Option<u64>, Result<WebSocketLink, LinkError>)>,
    places: Places,
}

impl std::fmt::Debug for WebSocketListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocketListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl WebSocketListener {
    pub(crate) fn new(listener: TcpListener, setup: Arc<Setup>) -> Self {
        let places = Places::new(MAX_UPGRADES, MAX_UPGRADES_OF_SOURCE);
        Self { listener, setup, upgrades: JoinSet::new(), places }
    }

    /// Begins with a connection. It takes its time beside the others: who is slow holds nobody up.
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let address = peer.ip().to_canonical();
        let source = (!self.setup.trusted.contains(&address)).then(|| sealway_ip::source(address));
        if !self.places.take(source) {
            tracing::debug!(%peer, "too many connections are being upgraded; one is turned away");
            return;
        }
        let setup = self.setup.clone();
        self.upgrades.spawn(async move {
            let upgraded = timeout(setup.limit, setup.upgrade(stream, address, peer)).await;
            (source, upgraded.unwrap_or_else(|_| Err(LinkError::new(LinkErrorKind::TimedOut, peer))))
        });
    }
}

impl Setup {
    async fn upgrade(&self, stream: TcpStream, address: IpAddr, peer: SocketAddr) -> Result<WebSocketLink, LinkError> {
        let (stream, taken) = Counted::new(stream);
        let octets: Box<dyn Medium> = match &self.secure {
            Some(acceptor) => {
                let stream = acceptor.accept(stream).await;
                Box::new(stream.map_err(|error| sealway_ip::failure(error, peer))?)
            }
            None => Box::new(stream),
        };
        let mut source = address;
        let socket = tokio_tungstenite::accept_hdr_async_with_config(
            octets,
            Upgrade { setup: self, source: &mut source },
            Some(config()),
        );
        let socket = socket.await.map_err(|error| failure(error, peer))?;
        let peer = Peer { place: peer.to_string().into(), source: sealway_ip::source(source), taken };
        Ok(WebSocketLink::new(socket, peer, self.times))
    }

    /// From where a request comes, as far as we believe who has passed it on.
    fn origin(&self, address: IpAddr, request: &Request) -> IpAddr {
        let forwarded = request.headers().get_all("x-forwarded-for").iter().next_back();
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next().map(str::trim));
        // Some write the port too.
        let with_port = |text: &str| text.parse::<SocketAddr>().ok().map(|address| address.ip());
        let last = last.and_then(|text| text.parse().ok().or_else(|| with_port(text)));
        last.filter(|_| self.trusted.contains(&address)).unwrap_or(address)
    }

    fn answer(&self, request: &Request, mut response: Response) -> Result<Response, StatusCode> {
        let path = if self.path.is_empty() { "/" } else { &*self.path };
        if request.uri().path() != path {
            return Err(StatusCode::NOT_FOUND);
        }
        let mut offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let is_ours = |value: &str| value.split(',').any(|name| name.trim().as_bytes() == SUBPROTOCOL.as_bytes());
        if !offered.any(|value| value.to_str().is_ok_and(is_ours)) {
            return Err(StatusCode::BAD_REQUEST);
        }
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        Ok(response)
    }
}

/// What is said to one request.
struct Upgrade<'a> {
    setup: &'a Setup,
    /// From where it comes: at first the other end of the connection.
    source: &'a mut IpAddr,
}

impl Callback for Upgrade<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        *self.source = self.setup.origin(*self.source, request);
        self.setup.answer(request, response).map_err(refusal)
    }
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = status;
    response
}

impl Listener for WebSocketListener {
    fn address(&self) -> String {
        let scheme = if self.setup.secure.is_some() { "wss" } else { "ws" };
        // With brackets around an IPv6 address.
        let address = self.listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string());
        format!("{scheme}://{address}{}", self.setup.path)
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    accepted = sealway_ip::stream::accept(&self.listener) => {
                        let (stream, peer) = accepted?;
                        self.begin(stream, peer);
                    }
                    Some(upgraded) = self.upgrades.join_next() => match upgraded {
                        Ok((source, Ok(link))) => {
                            self.places.give_back(source);
                            return Ok(Box::new(link) as _);
                        }
                        Ok((source, Err(error))) => {
                            self.places.give_back(source);
                            tracing::debug!(%error, "a connection has not become a WebSocket");
                        }
                        Err(error) => tracing::error!(%error, "an upgrade has failed"),
                    },
                }
            }
        })
    }
}
