//! Why a statement about an identity was refused.

use core::fmt;

use sealway_vault::VaultError;
use sealway_wire::DecodeError;

/// Why a statement was refused, or could not be made. Nothing has changed in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// The octets are no such statement. Peer's fault.
    Decode(DecodeError),
    /// A signature does not verify, or was made by another key. Peer's fault.
    Signature {
        /// What was signed: `rotation`, `attestation`, `card` or `prekey`.
        statement: &'static str,
    },
    /// A rotation does not follow from the event before it. Peer's fault.
    History {
        /// The number of the event.
        event: usize,
    },
    /// The attested channel key is not the one that the handshake has proved. Peer's fault.
    ChannelKey,
    /// The statement names another identity, or an event that the history does not have. Peer's fault.
    Subject {
        /// The statement.
        statement: &'static str,
    },
    /// The attestation is older than one that is already known: it was replaced. Peer's fault, or a replay.
    Superseded,
    /// The attestation has ended. Peer's fault.
    Expired,
    /// Policy does not admit the identity. Nothing of it was verified.
    NotAdmitted,
    /// The own vault refused.
    Vault(VaultError),
    /// The parts are more than the statement may hold. Caller's fault.
    TooLong {
        /// The statement.
        statement: &'static str,
        /// Its limit in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::Signature { statement } => write!(f, "the signature of the {statement} does not verify"),
            Self::History { event } => {
                write!(f, "event {event} of the identity does not follow from the one before it")
            }
            Self::ChannelKey => f.write_str("the identity attests another channel key than the handshake has proved"),
            Self::Subject { statement } => write!(f, "the {statement} speaks of another identity"),
            Self::Superseded => f.write_str("the channel key was replaced by a newer one that is known here"),
            Self::Expired => f.write_str("the attestation of the channel key has ended"),
            Self::NotAdmitted => f.write_str("policy does not admit this identity"),
            Self::Vault(error) => error.fmt(f),
            Self::TooLong { statement, limit, got } => {
                write!(f, "the {statement} would have {got} octets, the limit is {limit}")
            }
        }
    }
}

impl core::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Decode(error) => Some(error),
            Self::Vault(error) => Some(error),
            _ => None,
        }
    }
}

impl From<DecodeError> for IdentityError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<VaultError> for IdentityError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}
