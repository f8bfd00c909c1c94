//! The async shell of Sealway: one task that drives the state machines over any link. Clock and threads enter here.
//!
//! ```text
//!  Node, Channel ──commands──► ┌────────────────────────────────┐ ◄──frames── link task ◄── TCP, ...
//!               ◄──messages─── │ driver: Endpoint, Relay,       │ ──frames──► link task ──►
//!                              │ Client, Outbox, Inbox          │ ──batches─► store thread (group commit)
//!                              └────────────────────────────────┘ ◄──written──
//! ```
//!
//! Every queue has a bound. A sender waits when its peer's outbox is full; a recipient that does not take its messages
//! leaves them at the sender; a frame that finds its link's queue full is dropped, counted, and sent again by the outbox.
#![forbid(unsafe_code)]

mod builder;
mod clock;
pub mod danger;
mod datagrams;
mod driver;
mod error;
mod handle;
mod links;
mod pairing;
mod payloads;
mod rate;
mod receipt;
mod rhythm;
mod route;
mod shared;
mod statistics;
mod stream;
mod writer;

pub use builder::{Builder, Keys, RelayConfig};
pub use datagrams::Datagrams;
pub use error::NodeError;
pub use handle::{Channel, Message, Node};
pub use pairing::PairedPeer;
pub use payloads::{HandshakePayload, HandshakePayloads};
pub use receipt::{Progress, Receipt};
pub use rhythm::Rhythm;
pub use route::{Hop, HopState};
pub use sealway_routing::{MAX_MESSAGE, SendOptions};
pub use statistics::{Kind, Statistic, Statistics};
pub use stream::Stream;
