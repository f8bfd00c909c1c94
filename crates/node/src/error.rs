//! What a node can fail with.

use std::{error::Error, fmt};

use sealway_channel::{OpenError, StateError};
use sealway_link::LinkError;
use sealway_routing::{PushError, StoreError};
use sealway_wire::{DecodeError, hop::Registration};

/// A failure of a node, with its cause.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeError {
    /// An address is malformed.
    Address(DecodeError),
    /// A link failed.
    Link(LinkError),
    /// The store failed. What was handed in with this call was not taken.
    Store(std::sync::Arc<StoreError>),
    /// There is no store: durable sending is not possible. Set one up, or use `send_live`.
    NoStore,
    /// The channel cannot be opened.
    Open(OpenError),
    /// The message was not taken.
    Push(PushError),
    /// There is no session with the peer, or no link that leads there: a datagram is not kept until there is.
    NotOpen,
    /// As many datagrams wait as may. Waiting for room is for `send`.
    Full,
    /// The card names no relay that this node is attached to, and no address.
    NoRoute,
    /// The card has no address to connect to.
    NoAddress,
    /// The relay does not give us our box.
    Box(Registration),
    /// There is a handle of this channel already, or the message was done with before.
    InUse,
    /// The message or datagram is longer than it may be.
    TooLong {
        /// The limit in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
    /// There is no pairing with this peer.
    NotPaired,
    /// That is for the other side of the pairing to do.
    WrongSide,
    /// The pairing is of another identity than this node's.
    OtherIdentity,
    /// What is on disk of a pairing cannot be taken back, or the vault fails.
    Pairing(StateError),
    /// The link's frames are too short for the constrained profile, or for what waits to be sent and was cut for longer ones.
    Mtu {
        /// The shortest that will do, in octets.
        needed: usize,
        /// The link's, in octets.
        got: usize,
    },
    /// The message expired, or was superseded, before it was committed.
    Dropped,
    /// The source of randomness failed.
    Entropy,
    /// The node has shut down.
    Closed,
}

impl NodeError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Link(error) => error.is_retryable(),
            Self::Store(_) | Self::Entropy | Self::NotOpen | Self::Full => true,
            _ => false,
        }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(error) => error.fmt(f),
            Self::Link(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::NoStore => f.write_str("this node has no store, so nothing can be sent durably"),
            Self::Open(error) => error.fmt(f),
            Self::Push(PushError::Exhausted) => f.write_str("this run has numbered 2^32 messages; restart"),
            Self::Push(PushError::KeyTooLong { got }) => write!(f, "a key of {got} octets, the limit is 255"),
            Self::Push(PushError::TooLong { limit, got }) => {
                write!(f, "a message of {got} octets, the limit is {limit}")
            }
            Self::Push(_) => f.write_str("the message was not taken"),
            Self::NotOpen => f.write_str("there is no session with the peer, or no link that leads there"),
            Self::Full => f.write_str("as many datagrams wait as may"),
            Self::NoRoute => f.write_str("the card names no relay that this node is attached to, and no address"),
            Self::NoAddress => f.write_str("the card has no address to connect to"),
            Self::Box(Registration::Taken) => f.write_str("another client of the relay owns our box"),
            Self::Box(_) => f.write_str("the relay gives us no more boxes"),
            Self::InUse => f.write_str("a handle of this channel exists already"),
            Self::TooLong { limit, got } => write!(f, "a message of {got} octets, the limit is {limit}"),
            Self::NotPaired => f.write_str("there is no pairing with this peer"),
            Self::WrongSide => f.write_str("that is for the other side of the pairing to do"),
            Self::OtherIdentity => f.write_str("the pairing is of another identity than this node's"),
            Self::Pairing(error) => write!(f, "the pairing on disk cannot be used: {error}"),
            Self::Mtu { needed, got } => write!(f, "frames of {got} octets, at least {needed} are needed"),
            Self::Dropped => f.write_str("the message expired or was superseded before it was committed"),
            Self::Entropy => f.write_str("the source of randomness failed"),
            Self::Closed => f.write_str("the node has shut down"),
        }
    }
}

impl Error for NodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Address(error) => Some(error),
            Self::Link(error) => Some(error),
            Self::Store(error) => Some(&**error),
            Self::Open(error) => Some(error),
            Self::Pairing(error) => Some(error),
            _ => None,
        }
    }
}

impl From<DecodeError> for NodeError {
    fn from(error: DecodeError) -> Self {
        Self::Address(error)
    }
}

impl From<LinkError> for NodeError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<OpenError> for NodeError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}
