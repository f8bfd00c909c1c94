//! What Sealway asks of a medium.
//!
//! A [`Transport`] connects and listens; what comes of it is a [`FrameLink`], which carries whole frames. The per-frame
//! path is poll-based: no allocation, nothing lost on cancellation, usable as a trait object. Implementations are one
//! crate a medium (`sealway-tcp`).
//!
//! Middlewares wrap any link: [`Faulty`] has frames lost, doubled, overtaken and damaged.
//!
//! `no_std`, with `alloc`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod capabilities;
mod error;
mod faults;
mod frames;
mod link;

pub use capabilities::{LinkCapabilities, Ordering};
pub use error::{LinkError, LinkErrorKind};
pub use faults::{Faults, Faulty};
pub use frames::Frames;
pub use link::{BoxFuture, FrameLink, Listener, Transport};
