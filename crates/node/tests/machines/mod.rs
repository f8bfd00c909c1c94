//! Machines for tests of nodes: what stays of each when its node ends.
#![allow(dead_code, reason = "each test file uses some of it")]

#[cfg(unix)]
pub(crate) mod cable;
pub(crate) mod switch;

use std::sync::{Arc, Mutex};

use sealway_channel::{PairingKeys, Role};
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_identity::{Card, CardParts, Owner, Policy, RelayEntry};
use sealway_node::{Builder, Channel, Node, RelayConfig};
use sealway_routing::{Batch, MemoryStore, Store, StoreError, StoreErrorKind, Table};
use sealway_tcp::Tcp;
use sealway_udp::Udp;
use sealway_vault::{Algorithm, CryptoProvider, Secret, SoftwareVault, Vault};
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

    /// A machine, and what its identity is after it has rotated: the vault has the channel keys of both.
    pub(crate) fn that_will_rotate() -> (Self, Owner) {
        let mut vault = SoftwareVault::new(RustCrypto::os());
        let (owner, recovery) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let (next, _) = owner.rotate(&mut vault, &recovery).unwrap();
        let contact_box = BoxName(vault.provider().random().unwrap());
        (Self { vault: Arc::new(vault), owner, contact_box, disk: Disk::default() }, next)
    }

    pub(crate) fn builder_without_a_store(&self) -> Builder<TestVault> {
        let keys = (self.vault.clone(), self.owner.clone());
        Node::builder(keys).contact_box(self.contact_box).transport(Tcp::default()).transport(Udp::default())
    }

    pub(crate) fn builder(&self) -> Builder<TestVault> {
        self.builder_without_a_store().store(self.disk.clone())
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::ids([self.owner.id()])
    }

    /// What this machine has in common with `peer`; the device calls.
    pub(crate) fn pairing(&self, peer: &Self, role: Role, [psk, recovery]: [&Secret<32>; 2]) -> PairingKeys {
        PairingKeys {
            role,
            own: self.owner.id(),
            channel_key: self.owner.channel_key(),
            earlier_key: None,
            peer: peer.owner.id(),
            peer_key: peer.vault.dh_public(&peer.owner.channel_key()).unwrap(),
            psk: psk.clone(),
            recovery: recovery.clone(),
        }
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

/// Two nodes with a channel, attached to a relay.
pub(crate) struct Pair {
    pub(crate) relay: Node,
    pub(crate) nodes: [Node; 2],
    pub(crate) channels: [Channel; 2],
}

pub(crate) async fn through_a_relay(config: RelayConfig, builder: fn(&Machine) -> Builder<TestVault>) -> Pair {
    let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
    let mut clients = left.policy();
    clients.admit(right.owner.id());
    let relay_node = relay.builder().accept(clients).relay(config).start().await.unwrap();
    let relay_card = relay.card_at(&relay_node.listen(ANY_PORT).await.unwrap());
    let nodes = [builder(&left).start().await.unwrap(), builder(&right).start().await.unwrap()];
    let channels = meet([(&left, &relay_card), (&right, &relay_card)], [&nodes[0], &nodes[1]]).await;
    Pair { relay: relay_node, nodes, channels }
}

/// Two nodes with a channel over relays that they have attached to, each by the card that it knows, and the ends of the channel.
pub(crate) async fn meet([left, right]: [(&Machine, &Card); 2], nodes: [&Node; 2]) -> [Channel; 2] {
    nodes[0].attach(left.1).await.unwrap();
    nodes[1].attach(right.1).await.unwrap();
    let (left_card, right_card) = (left.0.card_behind(left.1), right.0.card_behind(right.1));
    let to_right = nodes[0].open(&right_card, Policy::only(&right_card)).await.unwrap();
    let to_left = nodes[1].open(&left_card, Policy::only(&left_card)).await.unwrap();
    [to_right, to_left]
}

/// Sends messages that live in memory alone.
pub(crate) async fn send_all(channel: &Channel, messages: &[Vec<u8>]) {
    for message in messages {
        channel.send_live(message.clone()).await.unwrap();
    }
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
