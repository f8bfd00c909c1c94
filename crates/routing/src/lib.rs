//! How frames and messages find their way: state machines without cryptography and without I/O.
//!
//! ```text
//! sender                              relay                              recipient
//! Outbox ── what is not committed     Relay ── boxes, attached clients   Inbox ── order, once, mark and bitmap
//! Client ── flows to boxes  ◄──hop──► flows joined two by two ◄──hop──►  Client
//! ```
//!
//! * [`Relay`] forwards frames between attached clients, and keeps frames for those that are away; it never sees what is in
//!   them and never dials anybody.
//! * [`Client`] is the other end of a hop session: it names flows and learns labels.
//! * [`Outbox`] keeps messages until the peer has committed them; [`Inbox`] hands them over in order and once.
//! * [`Store`] is what both need of a disk. What they want written comes out as a [`Batch`]; who drives them writes it and
//!   reports back. Without a store everything lives in memory alone.
//!
//! `no_std`, with `alloc`. Protocol sections 5 and 6.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod custody;
mod inbox;
mod outbox;
mod relay;
mod store;

pub use client::{Client, ClientEvent, FlowId};
pub use custody::CustodyId;
pub use inbox::{Delivery, Holding, Inbox, Intake, Marks};
pub use outbox::{Delivered, MAX_MESSAGE, MAX_WHOLE, Outbox, PushError, SendOptions, ToSend};
pub use relay::{Deposited, Limits, Push, Question, Relay, RelayEvent, SessionId};
pub use store::{Batch, MemoryStore, Operation, Store, StoreError, StoreErrorKind, Table};
