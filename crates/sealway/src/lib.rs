//! End-to-end encrypted, mutually authenticated channels for machines that cannot reach each other directly.
//!
//! This is the crate that most people name: it opens an identity, starts a node, and re-exports what goes with them. Each
//! layer beneath it is a crate of its own, for those who need only one: `sealway-channel` runs without I/O in a loop of
//! yours, `sealway-identity` without channels.
//!
//! ```no_run
//! use sealway::{Identity, Node, Policy, RedbStore, Tcp, Unlock, UnverifiedCard};
//!
//! # async fn run(unlock: Unlock, relay: &str, phone: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity::open("monitor.vault".as_ref(), unlock)?;
//! let relay = identity.verify(&UnverifiedCard::from_uri(relay)?)?;
//! let phone = identity.verify(&UnverifiedCard::from_uri(phone)?)?;
//!
//! let node = Node::builder(identity)
//!     .transport(Tcp::default())
//!     .store(RedbStore::open("monitor.data".as_ref())?)
//!     .start()
//!     .await?;
//! node.attach(&relay).await?; // one outgoing connection, kept alive, made again when lost
//! let mut channel = node.open(&phone, Policy::only(&phone)).await?; // also while the phone is away
//! let receipt = channel.send(*b"72 bpm").await?; // on disk when this returns
//! receipt.delivered().await?; // committed by the phone's application
//! while let Some(message) = channel.recv().await? {
//!     println!("{:?} from {}", message.body(), message.peer());
//!     message.done().await?; // it is never handed over again
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod crypto;
mod identity;
mod provision;

pub use crypto::{Crypto, crypto};
pub use identity::{Identity, IdentityFileError};
pub use provision::{ProvisionedDevice, provision};
pub use sealway_channel::{Context, PairingKeys, PostQuantum, Profile, Role};
pub use sealway_gateway::{Builder as GatewayBuilder, Counts, Gateway, GatewayError};
pub use sealway_identity::{Card, CardParts, IdentityError, Policy, RecoveryKey, RelayEntry, UnverifiedCard};
pub use sealway_link::{FrameLink, LinkError, Transport};
pub use sealway_node::danger;
pub use sealway_node::{
    Builder, Channel, Datagrams, HandshakePayload, HandshakePayloads, Hop, HopState, Keys, Kind, MAX_MESSAGE, Message,
    Node, NodeError, PairedPeer, Progress, Receipt, RelayConfig, Rhythm, SendOptions, Statistic, Statistics, Stream,
};
#[cfg(feature = "recorder")]
pub use sealway_recorder::Recorder;
pub use sealway_routing::{Store, StoreError, StoreErrorKind};
#[cfg(feature = "serial")]
pub use sealway_serial::Serial;
#[cfg(feature = "redb")]
pub use sealway_store_redb::RedbStore;
#[cfg(feature = "tcp")]
pub use sealway_tcp::Tcp;
#[cfg(feature = "udp")]
pub use sealway_udp::Udp;
pub use sealway_vault::{Algorithm, CryptoProvider, Secret, Vault};
pub use sealway_vault_file::{FileVaultError, Unlock, write_private};
#[cfg(feature = "websocket")]
pub use sealway_websocket::{CertificateError, Proxy, ProxyError, WebSocket};
/// Octets: frames, records, hop frames, for who looks into them.
pub use sealway_wire as wire;
pub use sealway_wire::{Address, BoxName, DecodeError, IdentityId, MessageId, Timestamp};
