//! Connections of TCP, whatever is spoken over them.

use std::net::{IpAddr, SocketAddr};

use sealway_link::{LinkError, LinkErrorKind};
use sealway_wire::NetAddress;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{failure, resolve};

/// Connections that the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// Connects to the first address behind `address` that lets us, from `local` where it is of the same family, with
/// `TCP_NODELAY`.
///
/// # Errors
/// Why the last of them did not. Cancel-safe.
pub async fn connect(address: &NetAddress<'_>, local: Option<IpAddr>) -> Result<(TcpStream, SocketAddr), LinkError> {
    let mut last = LinkError::new(LinkErrorKind::Unreachable, address);
    for target in resolve(address).await? {
        match connect_one(target, local).await {
            Ok(stream) => return Ok((stream, target)),
            Err(error) => last = failure(error, address),
        }
    }
    Err(last)
}

async fn connect_one(target: SocketAddr, local: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local.filter(|local| local.is_ipv4() == target.is_ipv4()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(target).await
}

/// Listens on the first address behind `address`: on all of both families for `[::]`.
///
/// # Errors
/// If it is none of this machine, is in use, or may not be used.
pub async fn listen(address: &NetAddress<'_>) -> Result<TcpListener, LinkError> {
    let targets = resolve(address).await?;
    let target = targets.first().ok_or_else(|| LinkError::new(LinkErrorKind::Unreachable, address))?;
    bind(*target).map_err(|error| failure(error, address))
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

/// The next connection, with `TCP_NODELAY`.
///
/// # Errors
/// Of the system, or of the one connection. Cancel-safe.
pub async fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), LinkError> {
    let (stream, peer) = listener.accept().await.map_err(|error| failure(error, "a listener"))?;
    stream.set_nodelay(true).map_err(|error| failure(error, peer))?;
    Ok((stream, peer))
}
