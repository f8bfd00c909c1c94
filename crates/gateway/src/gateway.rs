//! Setting a gateway up, and the links that come to it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sealway_link::{FrameLink, Listener, Places, Transport};
use sealway_wire::Address;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{Counts, GatewayError, bridge, counts::Counters, up::Up};

/// Links of devices at once, and those of one source among them. A line is a source of its own.
const MAX_LINKS: usize = 4096;
const MAX_LINKS_OF_SOURCE: usize = 256;
/// The pause after a connection that could not be accepted: the process may have no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Sets a gateway up.
#[derive(Default)]
pub struct Builder {
    transports: Vec<Arc<dyn Transport>>,
    links: Vec<String>,
    uplinks: Vec<String>,
}

impl Builder {
    /// Adds a medium.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transports.push(Arc::new(transport));
        self
    }

    /// Adds an address at which devices are: a serial line, or one to listen on.
    #[must_use]
    pub fn link(mut self, address: impl Into<String>) -> Self {
        self.links.push(address.into());
        self
    }

    /// Adds an address of the relay. They are tried in turn.
    #[must_use]
    pub fn uplink(mut self, address: impl Into<String>) -> Self {
        self.uplinks.push(address.into());
        self
    }

    /// Starts the gateway's tasks on the current tokio runtime.
    ///
    /// # Errors
    /// If an address is wrong or missing, or one for devices cannot be had. A relay that is away is none.
    pub async fn start(self) -> Result<Gateway, GatewayError> {
        let Self { transports, links, uplinks } = self;
        if links.is_empty() {
            return Err(GatewayError::NoLink);
        }
        if uplinks.is_empty() {
            return Err(GatewayError::NoUplink);
        }
        for text in &uplinks {
            speaker(&transports, text)?;
        }
        let mut listeners = Vec::new();
        for text in &links {
            let (transport, address) = speaker(&transports, text)?;
            if matches!(&address, Address::Net(net) if net.transport == sealway_wire::Transport::Udp) {
                return Err(GatewayError::Forgeable { text: text.clone() });
            }
            listeners.push(transport.listen(&address).await.map_err(GatewayError::Link)?);
        }
        let addresses = listeners.iter().map(|listener| listener.address()).collect();
        let counters = Arc::<Counters>::default();
        let (stop, stopped) = watch::channel(false);
        let up = Arc::new(Up::new(transports, uplinks));
        tokio::spawn(run(listeners, up, counters.clone(), stopped));
        Ok(Gateway { addresses, counters, stop })
    }
}

/// The transport for an address.
pub(crate) fn speaker<'a>(
    transports: &[Arc<dyn Transport>],
    text: &'a str,
) -> Result<(Arc<dyn Transport>, Address<'a>), GatewayError> {
    let wrong = |error| GatewayError::Address { text: text.into(), error };
    let address = Address::parse(text).map_err(wrong)?;
    match transports.iter().find(|transport| transport.supports(&address)) {
        Some(transport) => Ok((transport.clone(), address)),
        None => Err(GatewayError::Unsupported { text: text.into() }),
    }
}

/// A running gateway. It ends when it is shut down or dropped.
pub struct Gateway {
    addresses: Vec<String>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
}

impl Gateway {
    /// Sets a gateway up.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where devices are, in the order of the builder's calls, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What it has counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Sends what it has taken, for 5 s at most each way, and ends.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        // Each task has an end of it for as long as it runs.
        self.stop.closed().await;
    }
}

/// Accepts links, and carries frames between each and the relay.
async fn run(
    listeners: Vec<Box<dyn Listener>>,
    up: Arc<Up>,
    counters: Arc<Counters>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener));
    }
    let mut bridges = JoinSet::new();
    let mut places = Places::new(MAX_LINKS, MAX_LINKS_OF_SOURCE);
    loop {
        tokio::select! {
            // Also when the handle is gone.
            _ = stopped.changed() => break,
            Some(accepted) = accepting.join_next() => {
                let Ok((listener, accepted)) = accepted else { continue };
                accepting.spawn(accept(listener));
                let Some(link) = accepted else { continue };
                let source = link.source();
                if !places.take(Some(source)) {
                    counters.refused_links.fetch_add(1, Relaxed);
                    tracing::warn!(links = places.taken(), "too many links, or too many of one source; one is turned away");
                    continue;
                }
                let (up, counters, stopped) = (up.clone(), counters.clone(), stopped.clone());
                bridges.spawn(async move {
                    counters.links.fetch_add(1, Relaxed);
                    bridge::run(link, &up, &counters, stopped).await;
                    counters.links.fetch_sub(1, Relaxed);
                    source
                });
            }
            Some(ended) = bridges.join_next() => {
                ended.into_iter().for_each(|source| places.give_back(Some(source)));
            }
        }
    }
    while bridges.join_next().await.is_some() {}
}

/// The next link of a listener, if it is one for devices.
async fn accept(mut listener: Box<dyn Listener>) -> (Box<dyn Listener>, Option<Box<dyn FrameLink>>) {
    match listener.accept().await {
        Ok(link) if link.capabilities().forgeable_source => {
            tracing::error!("a link whose source can be forged is none for devices");
            (listener, None)
        }
        Ok(mut link) => {
            link.set_proved();
            (listener, Some(link))
        }
        Err(error) => {
            tracing::warn!(%error, "a link could not be accepted");
            sleep(PAUSE).await;
            (listener, None)
        }
    }
}
