//! Setting a node up.

use std::sync::Arc;

use sealway_channel::{Config, Endpoint};
use sealway_identity::{Owner, Policy};
use sealway_link::Transport;
use sealway_routing::Store;
use sealway_vault::{CryptoProvider, Vault};
use sealway_wire::{BoxName, Instance};
use tokio::sync::mpsc;

use crate::{
    Node, NodeError,
    clock::Clock,
    danger::RelayTap,
    driver::{self, Driver},
    handle::ACCEPT_QUEUE,
    writer::Writer,
};

/// What a relay is set up with.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct RelayConfig {
    /// Limits of each client.
    pub limits: sealway_routing::Limits,
    /// What reads and tampers with what passes through. None, but for demonstrations.
    pub tap: Option<Arc<dyn RelayTap>>,
}

impl RelayConfig {
    /// Has `tap` read everything, and tamper with it.
    #[must_use]
    pub fn with_tap(self, tap: impl RelayTap + 'static) -> Self {
        Self { tap: Some(Arc::new(tap)), ..self }
    }
}

/// The keys and the name of a machine, wherever they come from.
pub trait Keys {
    /// Where the private keys are.
    type Vault: Vault + Clone + 'static;

    /// The vault, the identity whose keys are in it, and the box that its card names, if one does.
    fn into_parts(self) -> (Self::Vault, Owner, Option<BoxName>);
}

impl<V: Vault + Clone + 'static> Keys for (V, Owner) {
    type Vault = V;

    fn into_parts(self) -> (V, Owner, Option<BoxName>) {
        (self.0, self.1, None)
    }
}

/// Sets a node up. Without anything but an identity it admits nobody and reaches nobody.
pub struct Builder<V> {
    pub(crate) vault: V,
    pub(crate) owner: Owner,
    pub(crate) contact_box: Option<BoxName>,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) store: Option<Box<dyn Store>>,
    pub(crate) accept: Policy,
    pub(crate) relay: Option<RelayConfig>,
}

impl<V: Vault + Clone + 'static> Builder<V> {
    pub(crate) const fn new(vault: V, owner: Owner, contact_box: Option<BoxName>) -> Self {
        Self { vault, owner, contact_box, transports: Vec::new(), store: None, accept: Policy::nobody(), relay: None }
    }

    /// Adds a medium.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transports.push(Arc::new(transport));
        self
    }

    /// Keeps outbox and inbox on disk. Without a store, `send` is refused and duplicates are recognised only while the
    /// node runs.
    #[must_use]
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Lets these identities open channels to us; without a call, nobody but those whom we open a channel to.
    #[must_use]
    pub fn accept(mut self, policy: Policy) -> Self {
        self.accept = policy;
        self
    }

    /// The box under which the own card says that relays keep us. Without a call, a new one is drawn at each start.
    #[must_use]
    pub const fn contact_box(mut self, name: BoxName) -> Self {
        self.contact_box = Some(name);
        self
    }

    /// Forwards frames between those whom [`accept`](Self::accept) lets attach.
    #[must_use]
    pub fn relay(mut self, config: RelayConfig) -> Self {
        self.relay = Some(config);
        self
    }

    /// Starts the node's task on the current tokio runtime.
    ///
    /// # Errors
    /// If there is no randomness, or the store cannot be read.
    pub async fn start(self) -> Result<Node, NodeError> {
        let provider = self.vault.provider();
        let instance = Instance(provider.random().map_err(|_| NodeError::Entropy)?);
        let contact_box = match self.contact_box {
            Some(name) => name,
            None => BoxName(provider.random().map_err(|_| NodeError::Entropy)?),
        };
        let mut config = Config::new(instance);
        config.accept = self.accept;
        let endpoint = Endpoint::new(self.vault, self.owner, config);
        let commands = mpsc::channel(1024);
        let (accepted, accept_queue) = mpsc::channel(ACCEPT_QUEUE);
        let (written, written_queue) = mpsc::unbounded_channel();
        let mut rows = Vec::new();
        let writer = match self.store {
            None => None,
            Some(mut store) => {
                for table in sealway_routing::Table::ALL {
                    let visit = &mut |key: &[u8], value: &[u8]| rows.push((table, key.to_vec(), value.to_vec()));
                    store.load(table, visit).map_err(|error| NodeError::Store(Arc::new(error)))?;
                }
                let failed = |error| sealway_routing::StoreError::new(sealway_routing::StoreErrorKind::Other, error);
                let writer = Writer::start(store, written).map_err(failed);
                Some(writer.map_err(|error| NodeError::Store(Arc::new(error)))?)
            }
        };
        let node = Node::new(commands.0.clone(), accept_queue, endpoint.owner().id(), contact_box);
        let (senders, queues) = driver::queues(commands, accepted, written_queue);
        let setup = driver::Setup { instance, contact_box, transports: self.transports, relay: self.relay };
        let mut driver = Driver::new(Clock::new(), endpoint, setup, senders, writer);
        driver.load(&rows);
        tokio::spawn(driver.run(queues));
        Ok(node)
    }
}
