//! Setting a node up.

use std::{num::NonZeroU32, sync::Arc};

use sealway_channel::{Config, Endpoint};
use sealway_identity::{Owner, Policy};
use sealway_link::Transport;
use sealway_routing::{Batch, Store, StoreError, StoreErrorKind, Table};
use sealway_vault::{CryptoProvider, DhHandle, Vault};
use sealway_wire::{BoxName, Instance, Timestamp};
use tokio::sync::mpsc;

use crate::{
    Node, NodeError,
    clock::Clock,
    danger::RelayTap,
    driver::{self, Driver},
    handle::ACCEPT_QUEUE,
    shared::Common,
    writer::Writer,
};

/// What a relay is set up with.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct RelayConfig {
    /// Limits of each client.
    pub limits: sealway_routing::Limits,
    /// Octets a second that are read from each connection, on average. What is beyond waits at its sender: nothing is dropped.
    /// None: as many as there are.
    pub client_rate: Option<NonZeroU32>,
    /// What reads and tampers with what passes through. None, but for demonstrations.
    pub tap: Option<Arc<dyn RelayTap>>,
}

impl RelayConfig {
    /// Reads no more than so many octets a second from each connection, on average.
    #[must_use]
    pub const fn with_client_rate(mut self, octets_per_second: NonZeroU32) -> Self {
        self.client_rate = Some(octets_per_second);
        self
    }

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

    /// The channel key before the present one, and until when it answers those who hold an older card, as time since 1970.
    fn earlier_key(&self) -> Option<(DhHandle, Timestamp)> {
        None
    }
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
    pub(crate) is_observer: bool,
    pub(crate) is_relayed_only: bool,
    pub(crate) store_has_no_copies: bool,
    pub(crate) earlier_key: Option<(DhHandle, Timestamp)>,
}

impl<V: Vault + Clone + 'static> Builder<V> {
    pub(crate) const fn new(
        vault: V,
        owner: Owner,
        contact_box: Option<BoxName>,
        earlier_key: Option<(DhHandle, Timestamp)>,
    ) -> Self {
        let accept = Policy::nobody();
        Self {
            vault,
            owner,
            contact_box,
            transports: Vec::new(),
            store: None,
            accept,
            relay: None,
            is_observer: false,
            is_relayed_only: false,
            store_has_no_copies: false,
            earlier_key,
        }
    }

    /// Adds a medium.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transports.push(Arc::new(transport));
        self
    }

    /// Keeps outbox, inbox and what of sessions survives a restart on disk; of a relay, its clients' boxes and what is in
    /// them. Without a store, `send` is refused, duplicates are recognised only while the node runs, and a relay keeps
    /// nothing for clients that are away.
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

    /// Looks around: what waits at relays is left there, and no prekeys are published. As with any node, relays let those reach our box
    /// whom this run admits and those with whom there is a session; others wait until the next run names them again.
    #[must_use]
    pub const fn observer(mut self) -> Self {
        self.is_observer = true;
        self
    }

    /// Says that the store cannot go back and has no copies: a microcontroller's flash, never a file, a disk of a virtual machine,
    /// or what a backup is made of. Counters of what is sealed across restarts are then reserved there in blocks, and a restart
    /// costs neither octets on each record nor handshakes.
    ///
    /// # Security
    /// Two machines that go on with the same state use nonces twice, and whoever hears both reads them.
    #[must_use]
    pub const fn store_has_no_copies(mut self) -> Self {
        self.store_has_no_copies = true;
        self
    }

    /// Tells no peer at which network addresses this machine can be reached: everything goes over the relay, also where there
    /// is a direct way.
    #[must_use]
    pub const fn relayed_only(mut self) -> Self {
        self.is_relayed_only = true;
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
        config.earlier_key = self.earlier_key;
        // A relay's channels are hop channels: they end with their links.
        config.keeps_state = self.store.is_some() && self.relay.is_none();
        config.reserves_counters = self.store_has_no_copies;
        let endpoint = Endpoint::new(self.vault, self.owner, config);
        let (commands, command_queue) = mpsc::channel(1024);
        let (accepted, accept_queue) = mpsc::channel(ACCEPT_QUEUE);
        let (completed, completed_queue) = mpsc::unbounded_channel();
        let node = Node::new(commands.clone(), accept_queue, endpoint.owner().id(), contact_box);
        let (senders, queues) = driver::queues(command_queue, accepted, completed_queue);
        let common = Common { instance, commands, wake: Arc::default(), has_store: self.store.is_some() };
        let Self { transports, relay, is_observer, is_relayed_only, store_has_no_copies, .. } = self;
        let setup =
            driver::Setup { common, contact_box, transports, relay, is_observer, is_relayed_only, store_has_no_copies };
        let mut driver = Driver::new(Clock::new(), endpoint, setup, senders);
        if let Some(mut store) = self.store {
            let mut stale = Batch::default();
            for table in Table::ALL {
                let loaded = store.load(table, &mut |key, value| {
                    // What was sealed and cannot be taken back never will be: under a channel key that was replaced, say.
                    if !driver.load(table, key, value) && table.is_sealed() {
                        stale.delete(table, key.to_vec());
                    }
                });
                loaded.map_err(|error| NodeError::Store(Arc::new(error)))?;
            }
            let failed = |error| StoreError::new(StoreErrorKind::Other, error);
            let started = Writer::start(store, completed).map_err(failed);
            let (writer, thread) = started.map_err(|error| NodeError::Store(Arc::new(error)))?;
            driver.write_with(writer, thread, stale);
        }
        tokio::spawn(driver.run(queues));
        Ok(node)
    }
}
