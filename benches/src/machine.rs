//! Machines whose nodes talk over real sockets.

use std::sync::Arc;

use sealway_crypto_aws_lc::AwsLc;
use sealway_identity::{Card, CardParts, Owner, Policy, RelayEntry};
use sealway_node::{Builder, Channel, Node, RelayConfig};
use sealway_tcp::Tcp;
use sealway_udp::Udp;
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault, Vault as _};
use sealway_wire::BoxName;

/// Why a bench cannot run.
pub type Failure = Box<dyn std::error::Error>;

type Vault = Arc<SoftwareVault<AwsLc>>;

/// What stays of a machine when its node ends.
pub struct Machine {
    vault: Vault,
    /// Its identity.
    pub owner: Owner,
    contact_box: BoxName,
}

impl Machine {
    /// A machine with a new identity.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new() -> Result<Self, Failure> {
        let mut vault = SoftwareVault::new(AwsLc::new());
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
        let contact_box = BoxName(vault.provider().random()?);
        Ok(Self { vault: Arc::new(vault), owner, contact_box })
    }

    /// Its card: with an address, behind a relay, or neither.
    ///
    /// # Errors
    /// If the address is malformed.
    pub fn card(&self, address: Option<String>, relay: Option<&Card>) -> Result<Card, Failure> {
        let entry = |relay: &Card| RelayEntry {
            id: relay.id(),
            channel_key: relay.attestation().channel_key,
            contact_box: self.contact_box,
            addresses: relay.addresses().to_vec(),
        };
        let parts = CardParts {
            addresses: address.into_iter().collect(),
            relays: relay.map(entry).into_iter().collect(),
            ..CardParts::default()
        };
        Ok(self.owner.card(&self.vault, &parts)?)
    }

    /// Its node, before it starts.
    #[must_use]
    pub fn builder(&self) -> Builder<Vault> {
        Node::builder((self.vault.clone(), self.owner.clone()))
            .transport(Tcp::default())
            .transport(Udp::default())
            .contact_box(self.contact_box)
    }
}

/// Two nodes with a channel, and whatever has to live as long.
pub struct Talk {
    /// The end that opened it.
    pub from: Channel,
    /// The other.
    pub to: Channel,
    nodes: Vec<Node>,
}

impl Talk {
    /// Directly, over TCP on the loopback interface. `sender` sets the node up that opens the channel.
    ///
    /// # Errors
    /// If anything fails.
    pub async fn direct(sender: impl FnOnce(Builder<Vault>) -> Builder<Vault>) -> Result<Self, Failure> {
        Self::at("tcp://127.0.0.1:0", sender).await
    }

    /// The same at another address.
    ///
    /// # Errors
    /// If anything fails.
    pub async fn at(address: &str, sender: impl FnOnce(Builder<Vault>) -> Builder<Vault>) -> Result<Self, Failure> {
        let (left, right) = (Machine::new()?, Machine::new()?);
        let server = right.builder().accept(Policy::ids([left.owner.id()])).start().await?;
        let card = right.card(Some(server.listen(address).await?), None)?;
        let client = sender(left.builder()).start().await?;
        let mut from = client.open(&card, Policy::only(&card)).await?;
        from.opened().await?;
        let to = server.accept().await.ok_or("the node has ended")?;
        Ok(Self { from, to, nodes: vec![server, client] })
    }

    /// Through a relay that both are attached to.
    ///
    /// # Errors
    /// If anything fails.
    pub async fn through_a_relay() -> Result<Self, Failure> {
        let (relay, left, right) = (Machine::new()?, Machine::new()?, Machine::new()?);
        let clients = Policy::ids([left.owner.id(), right.owner.id()]);
        let relay_node = relay.builder().accept(clients).relay(RelayConfig::default()).start().await?;
        let relay_card = relay.card(Some(relay_node.listen("tcp://127.0.0.1:0").await?), None)?;
        let (left_card, right_card) = (left.card(None, Some(&relay_card))?, right.card(None, Some(&relay_card))?);
        let (client, server) = (left.builder().start().await?, right.builder().start().await?);
        client.attach(&relay_card).await?;
        server.attach(&relay_card).await?;
        let to = server.open(&left_card, Policy::only(&left_card)).await?;
        let mut from = client.open(&right_card, Policy::only(&right_card)).await?;
        from.opened().await?;
        Ok(Self { from, to, nodes: vec![relay_node, server, client] })
    }

    /// The two ends, and the nodes, which have to live as long.
    #[must_use]
    pub fn into_parts(self) -> (Channel, Channel, Vec<Node>) {
        (self.from, self.to, self.nodes)
    }

    /// The same, after a use of its parts.
    #[must_use]
    pub const fn of(from: Channel, to: Channel, nodes: Vec<Node>) -> Self {
        Self { from, to, nodes }
    }
}
