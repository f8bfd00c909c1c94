//! Waiting for connections.

use std::net::SocketAddr;

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener};
use sealway_wire::NetAddress;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::{Timeouts, link::TcpLink};

/// Connections that the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// A listening socket.
#[derive(Debug)]
pub struct TcpFrameListener {
    listener: TcpListener,
    timeouts: Timeouts,
}

impl TcpFrameListener {
    pub(crate) async fn bind(address: &NetAddress<'_>, timeouts: Timeouts) -> Result<Self, LinkError> {
        let targets = sealway_ip::resolve(address).await?;
        let target = targets.first().ok_or_else(|| LinkError::new(LinkErrorKind::Unreachable, address))?;
        let listener = bind(*target).map_err(|error| sealway_ip::failure(error, address))?;
        Ok(Self { listener, timeouts })
    }
}

fn bind(target: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    // A listener that was restarted takes its port back although old connections linger.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if target.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&target.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Listener for TcpFrameListener {
    fn address(&self) -> String {
        match self.listener.local_addr() {
            Ok(SocketAddr::V4(address)) => format!("tcp://{address}"),
            Ok(SocketAddr::V6(address)) => format!("tcp://[{}]:{}", address.ip(), address.port()),
            Err(_) => "tcp://?".to_string(),
        }
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let (stream, peer) =
                self.listener.accept().await.map_err(|error| sealway_ip::failure(error, "a listener"))?;
            stream.set_nodelay(true).map_err(|error| sealway_ip::failure(error, peer))?;
            Ok(Box::new(TcpLink::new(stream, peer, self.timeouts)) as _)
        })
    }
}
