//! A stranger on the wire in front of the relay: copies both directions, writes all of it down, and now and then flips a bit.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::files::{Appender, Folder};
use crate::failure::Failure;

/// One bit in so many octets is flipped.
const FLIP_EVERY: u64 = 48 * 1024;

/// A wiretap in front of a relay.
pub(crate) struct Wiretap {
    pub(crate) address: SocketAddr,
    pub(crate) flipped: Arc<AtomicU64>,
    relay: Arc<OnceLock<SocketAddr>>,
}

struct Tap {
    capture: Appender,
    octets: AtomicU64,
    /// None: it only listens.
    flipped: Option<Arc<AtomicU64>>,
}

impl Wiretap {
    /// Listens on a port of its own and writes all that passes to the file `name`. With `flips`, not without damage.
    pub(crate) async fn bind(folder: &Folder, name: &str, flips: bool) -> Result<Self, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Failure::failed)?;
        let address = listener.local_addr().map_err(Failure::failed)?;
        let flipped = Arc::new(AtomicU64::new(0));
        let capture = folder.append(name)?;
        let tap = Arc::new(Tap { capture, octets: AtomicU64::new(0), flipped: flips.then(|| flipped.clone()) });
        let relay: Arc<OnceLock<SocketAddr>> = Arc::default();
        let target = relay.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let tap = tap.clone();
                // Nobody at the relay: the client's connection ends, as it would.
                let Some(relay) = target.get().copied() else { continue };
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(relay).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let up = carry(from_client, to_server, &tap);
                    let down = carry(from_server, to_client, &tap);
                    tokio::join!(up, down);
                });
            }
        });
        Ok(Self { address, flipped, relay })
    }

    /// From now on connections are carried to `relay`.
    pub(crate) fn carry_to(&self, relay: SocketAddr) {
        let _ = self.relay.set(relay);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, tap: &Tap) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let octets = &mut buffer[..read];
        tap.capture.write(octets);
        let before = tap.octets.fetch_add(read as u64, Ordering::Relaxed);
        if let Some(flipped) = &tap.flipped
            && before / FLIP_EVERY != (before + read as u64) / FLIP_EVERY
        {
            octets[read / 2] ^= 1;
            flipped.fetch_add(1, Ordering::Relaxed);
        }
        if to.write_all(octets).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
