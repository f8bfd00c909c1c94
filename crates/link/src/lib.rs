//! What Sealway asks of a medium.
//!
//! A [`Transport`] connects and listens; what comes of it is a [`FrameLink`], which carries whole frames. The per-frame
//! path is poll-based: no allocation, nothing lost on cancellation, usable as a trait object. Implementations are one
//! crate a medium (`sealway-tcp`).
//!
//! What media have in common is here too, as machines without I/O: [`fragment`] for frames that are longer than a datagram,
//! [`mod@line`] for frames on a line of octets, [`recovery`] for what gets lost. Middlewares wrap any link: [`Faulty`] has frames
//! lost, doubled, overtaken and damaged.
//!
//! `no_std`, with `alloc`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod capabilities;
mod error;
mod faults;
pub mod fragment;
mod frames;
pub mod line;
mod link;
mod places;
pub mod recovery;

pub use capabilities::{LinkCapabilities, Ordering};
pub use error::{LinkError, LinkErrorKind};
pub use faults::{Faults, Faulty};
pub use frames::Frames;
pub use link::{BoxFuture, Branch, Branched, FrameLink, Listener, Transport};
pub use places::Places;
