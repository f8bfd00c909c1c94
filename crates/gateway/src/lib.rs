//! A gateway: it carries frames between the links of devices and a relay, each way as they come, and has no key that opens one.
//!
//! A device behind it talks with its relay as if it were there: what it needs is the address at which it reaches the gateway. The
//! gateway has no identity and decides nothing; who may attach, the relay decides.
//!
//! * One link up for each link down, made when the first frame comes, so that who says nothing costs the relay nothing.
//! * What one side does not take waits, and holds a connection on the other side back; of datagrams, what finds no room is dropped,
//!   as a router would. What is dropped is counted: also where a line has no link up, a link ends with something on its way, or a
//!   frame is longer than the other side carries.
//! * Links on which the relay has not said anything yet are few, and for 12 s: strangers who come to a gateway take not all of the
//!   places that the relay has for one address.
//! * When the link up ends, a link down that can tell so ends too: the device comes back at once. A line stays; its device finds out
//!   by the relay's silence.
//! * A link whose source can be forged is none for devices: each datagram would cost the relay a connection.
#![forbid(unsafe_code)]

mod bridge;
mod counts;
mod error;
mod gateway;
mod up;

pub use counts::Counts;
pub use error::GatewayError;
pub use gateway::{Builder, Gateway};
