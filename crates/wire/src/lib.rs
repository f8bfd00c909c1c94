//! The octets of the Sealway protocol and nothing else: no I/O, no cryptography, no allocation.
//!
//! Every layout of `docs/protocol.md` has its decoder and its encoder here, side by side:
//!
//! ```text
//! handshake   S1.1, S1.2, S1.3, S1.R          (protocol section 3)
//! record      the header of a data frame       (section 4)
//! content     what a typed record carries      (section 5)
//! hop         what a client and a relay say    (section 6)
//! candidates  where a peer may be reached      (sections 5, 6)
//! route       where a frame is to go           (section 6)
//! address     tcp://host:port and others       (section 7)
//! constrained the frames of C1                 (section 11)
//! letter      M1, for a peer that is away      (section 12)
//! ```
//!
//! Decoders borrow from the octets that they were given, accept exactly what the encoders write (every accepted input
//! re-encodes to itself), never panic, and name the field and the limit in their error.
//!
//! ```
//! use sealway_wire::{Cid, Counter, CounterWidth, Lane, RecordHeader};
//!
//! let header = RecordHeader::new(Lane::Live, true, Cid([1, 2, 3, 4]), Counter::new(70_000).unwrap(), CounterWidth::Two);
//! let mut octets = [0; 32];
//! let len = header.encode(&mut octets).unwrap();
//! assert_eq!(len, 7);
//! let (decoded, rest) = RecordHeader::decode(&octets[..len]).unwrap();
//! assert_eq!(decoded, header);
//! assert!(rest.is_empty());
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod address;
mod candidates;
pub mod constrained;
pub mod content;
mod counter;
#[doc(hidden)]
pub mod danger;
mod error;
pub mod handshake;
mod hex;
pub mod hop;
mod id;
pub mod letter;
pub mod pairing;
mod reader;
mod record;
mod route;
mod time;
mod varint;
mod writer;

pub use address::{Address, Flow, Host, NetAddress, SerialAddress, Transport};
pub use candidates::{Candidates, MAX_CANDIDATES};
pub use counter::{Counter, CounterWidth, Truncated};
pub use error::{DecodeError, EncodeError, Reason};
pub use handshake::Frame;
pub use hex::Hex;
pub use hop::HopFrame;
pub use id::{BoxName, Cid, Hint, IdentityId, Incarnation, Instance, MessageId, PrekeyId, ShortCid, ShortIncarnation};
pub use letter::Letter;
pub use reader::Reader;
pub use record::{Lane, MAX_HEADER_LEN, RecordHeader, TAG_LEN};
pub use route::{Hop, MAX_HOPS, Route};
pub use time::Timestamp;
pub use varint::VarInt;
pub use writer::Writer;
