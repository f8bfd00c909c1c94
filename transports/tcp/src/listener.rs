//! Waiting for connections.

use std::net::SocketAddr;

use sealway_link::{BoxFuture, FrameLink, LinkError, Listener};
use sealway_wire::NetAddress;
use tokio::net::TcpListener;

use crate::{Timeouts, link::TcpLink};

/// A listening socket.
#[derive(Debug)]
pub struct TcpFrameListener {
    listener: TcpListener,
    timeouts: Timeouts,
}

impl TcpFrameListener {
    pub(crate) async fn bind(address: &NetAddress<'_>, timeouts: Timeouts) -> Result<Self, LinkError> {
        Ok(Self { listener: sealway_ip::stream::listen(address).await?, timeouts })
    }
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
            let (stream, peer) = sealway_ip::stream::accept(&self.listener).await?;
            Ok(Box::new(TcpLink::new(stream, peer, self.timeouts)) as _)
        })
    }
}
