//! Sealway secure channels, as a state machine: octets, times and randomness go in; octets, events and deadlines come out.
//!
//! [`Endpoint`] is the machine: it holds the channels of one identity to any number of peers, initiates and answers S1
//! handshakes, seals and opens records. It does no I/O, reads no clock and stores nothing.
//!
//! ```text
//!               open(card)                                   handle_frame
//!  application ───────────► ┌──────────────────────────┐ ◄──────────────── link
//!  seal_*      ───────────► │ Endpoint                 │
//!              ◄─────────── │  half-open handshakes    │ ────────────────►
//!  poll_event               │  channel ─ session, ...  │   poll_transmit
//!                           └──────────────────────────┘
//!                                handle_timeout / poll_timeout
//! ```
//!
//! The shell (`sealway-node`, or a loop of your own) drives it in this order: feed what has arrived to
//! [`handle_frame`](Endpoint::handle_frame), deadlines to [`handle_timeout`](Endpoint::handle_timeout); then drain
//! [`poll_transmit`](Endpoint::poll_transmit) and [`poll_event`](Endpoint::poll_event); then read
//! [`poll_timeout`](Endpoint::poll_timeout) and wait.
//!
//! A channel is reported open only when a record of the peer has opened under its session: a lost third message leaves
//! neither side with a channel that the other does not have. A new session replaces an old one without a gap.
//!
//! [`Pairing`] is the machine of the constrained profile, for links that carry some dozens of octets; it knows one peer.
//!
//! `no_std`, with `alloc`. Protocol sections 3 to 5 and 10 to 12.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod at_rest;
mod channel;
mod constrained;
mod endpoint;
mod error;
mod established;
mod expense;
mod gate;
mod half_open;
mod initiator;
mod lane;
mod letter;
mod mailed;
mod noise;
mod prekeys;
mod replay;
mod reserved;
mod responder;
mod schedule;
mod session;
mod stored;
mod suite;

pub use channel::{Context, PostQuantum, Profile};
pub use constrained::{ConstrainedRecord, HintTable, Pairing, PairingEvent, PairingKeys, PairingState, Provision};
pub use endpoint::{
    ChannelId, Config, Deposit, Endpoint, Event, Flight, OpenedLetter, Outgoing, PathId, Received, Record, Restored,
    Saved, SavedHandshake, Source,
};
pub use error::{CallError, FrameError, HandshakeError, OpenError, RenewalError, SendError, StateError};
pub use lane::{
    EPOCH_BITS, HOP_ALLOWANCE, MAX_CONTENT, MAX_EPOCH_JUMP, MAX_RECORD, MAX_STORED, MAX_UNACKNOWLEDGED, Padding,
};
pub use prekeys::{PREKEY_TIME, PrekeyKind, SavedPrekey};
pub use replay::WINDOW;
pub use schedule::Role;
pub use stored::{BOX_TIME, MAX_INCARNATIONS, SEALING_TIME};
