//! Machines for tests of nodes: what stays of each when its node ends.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::sync::{Arc, Mutex};

use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_identity::{Card, CardParts, Owner, Policy, RelayEntry};
use sealway_node::{Builder, Channel, Node, RelayConfig};
use sealway_routing::{Batch, MemoryStore, Store, StoreError, StoreErrorKind, Table};
use sealway_tcp::Tcp;
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault, Vault};
use sealway_wire::BoxName;

pub(crate) type TestVault = Arc<SoftwareVault<RustCrypto<OsEntropy>>>;

/// A disk that survives the node that uses it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) rows: Arc<Mutex<MemoryStore>>,
    pub(crate) full: Arc<Mutex<bool>>,
}

impl Store for Disk {
    fn load(&mut self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.rows.lock().unwrap().load(table, visit)
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.lock().unwrap().get(table, key)
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        if *self.full.lock().unwrap() {
            return Err(StoreError::new(StoreErrorKind::Full, "no space left on device"));
        }
        self.rows.lock().unwrap().commit(batches)
    }
}

/// A machine: what stays when its node ends.
pub(crate) struct Machine {
    pub(crate) vault: TestVault,
    pub(crate) owner: Owner,
    pub(crate) contact_box: BoxName,
    pub(crate) disk: Disk,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let mut vault = SoftwareVault::new(RustCrypto::os());
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let contact_box = BoxName(vault.provider().random().unwrap());
        Self { vault: Arc::new(vault), owner, contact_box, disk: Disk::default() }
    }

    pub(crate) fn builder(&self) -> Builder<TestVault> {
        Node::builder((self.vault.clone(), self.owner.clone()))
            .transport(Tcp::default())
            .store(self.disk.clone())
            .contact_box(self.contact_box)
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::ids([self.owner.id()])
    }

    pub(crate) fn card_at(&self, address: &str) -> Card {
        self.owner.card(&self.vault, &CardParts { addresses: vec![address.into()], ..CardParts::default() }).unwrap()
    }

    pub(crate) fn card_behind(&self, relay: &Card) -> Card {
        let entry = RelayEntry {
            id: relay.id(),
            channel_key: relay.attestation().channel_key,
            contact_box: self.contact_box,
            addresses: relay.addresses().to_vec(),
        };
        self.owner.card(&self.vault, &CardParts { relays: vec![entry], ..CardParts::default() }).unwrap()
    }
}

pub(crate) const ANY_PORT: &str = "tcp://127.0.0.1:0";

pub(crate) async fn run_relay(machine: &Machine, clients: &[&Machine], address: &str) -> (Node, String) {
    let mut policy = Policy::nobody();
    clients.iter().for_each(|client| policy.admit(client.owner.id()));
    let relay = machine.builder().accept(policy).relay(RelayConfig::default()).start().await.unwrap();
    let address = relay.listen(address).await.unwrap();
    (relay, address)
}

pub(crate) async fn receive(channel: &mut Channel, count: usize) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    while received.len() < count {
        let message = channel.recv().await.unwrap().expect("the channel is open");
        received.push(message.body().to_vec());
        message.done().await.unwrap();
    }
    received
}

pub(crate) fn numbers(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|number| number.to_be_bytes().to_vec()).collect()
}
