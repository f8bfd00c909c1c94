//! Why a gateway does not start.

use std::{error::Error, fmt};

use sealway_link::LinkError;
use sealway_wire::DecodeError;

/// A gateway that is not set up as it must be, or whose addresses cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum GatewayError {
    /// An address is malformed.
    Address {
        /// The address.
        text: String,
        /// The part that is wrong.
        error: DecodeError,
    },
    /// An address cannot be listened on.
    Link(LinkError),
    /// Sources can be forged there: devices need a connection, or a line.
    Forgeable {
        /// The address.
        text: String,
    },
    /// No transport speaks an address.
    Unsupported {
        /// The address.
        text: String,
    },
    /// There is no address for devices.
    NoLink,
    /// There is no address of a relay.
    NoUplink,
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { text, error } => write!(f, "{text:.80} is no address ({error})"),
            Self::Link(error) => error.fmt(f),
            Self::Forgeable { text } => {
                write!(f, "{text:.80} is no link for devices: sources of datagrams can be forged, take tcp, ws or wss")
            }
            Self::Unsupported { text } => write!(f, "no transport is set up for {text:.80}"),
            Self::NoLink => f.write_str("a gateway needs at least one address at which devices are"),
            Self::NoUplink => f.write_str("a gateway needs at least one address of a relay"),
        }
    }
}

impl Error for GatewayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Address { error, .. } => Some(error),
            Self::Link(error) => Some(error),
            _ => None,
        }
    }
}
