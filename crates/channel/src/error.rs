//! Why a frame was dropped, a handshake failed, or a record could not be sent.

use core::fmt;

use sealway_identity::IdentityError;
use sealway_vault::{EntropyError, KemError, VaultError};
use sealway_wire::{DecodeError, EncodeError};

/// Why a frame changed nothing. Drop it and go on: no error here ends a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// It is no frame of this protocol. Peer's or medium's fault.
    Decode(DecodeError),
    /// Its gate fits none of our channel keys: the sender does not have our card. It gets no answer.
    Gate,
    /// It belongs to no session or handshake of ours.
    UnknownConnection,
    /// It is a record that was opened before, or one too old for the window; or a first message that was worked on before.
    Replayed,
    /// It is further ahead than a receiver follows: 64 epochs, or too many jumps in one second.
    TooFarAhead,
    /// Its tag does not verify.
    Rejected,
    /// It is of a session that was restored, and policy does not admit the peer (yet).
    NotAdmitted,
    /// Its handshake message is refused.
    Handshake(HandshakeError),
    /// It begins a handshake while many are half-open, from a source that can be forged: it was asked for a cookie.
    CookieWanted,
    /// It would have us compute, and its source has had us compute enough for now. Its repetition may succeed.
    Throttled,
    /// It answers a handshake that our own, which goes first, is still running against. Its repetition may succeed.
    Yielding,
    /// It is a letter to a prekey that is not ours, or is forgotten by now: its sender has to seal it to a newer one.
    UnknownPrekey,
    /// It was made with a psk that another message was answered under: two devices share it, or one has gone back to an older
    /// state.
    Cloned,
    /// The own vault or its randomness failed.
    Vault(VaultError),
}

/// Why a handshake of the constrained profile does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The other side calls in this pairing.
    NotInitiator,
    /// The other side answers in this pairing.
    NotResponder,
    /// A call is unanswered: there is one for each psk.
    UnderWay,
    /// What goes with it is too long.
    TooLong {
        /// The limit, in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
    /// All numbers of calls for recovery have been used.
    Exhausted,
    /// The own vault or its randomness failed.
    Frame(FrameError),
}

/// Why a handshake message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Noise refused it: forged, damaged, or meant for another key.
    Noise,
    /// The proof of S1.3 does not verify.
    Proof,
    /// The peer's ML-KEM key is none.
    Kem,
    /// The payload is not one.
    Payload(DecodeError),
    /// The identity in S1.3 was refused.
    Identity(IdentityError),
    /// S1.3 names our own identity.
    Reflected,
}

/// Why nothing was sent. State is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// No channel of that number is here.
    UnknownChannel,
    /// The channel has no session that the peer has confirmed. Wait for it to open.
    NotOpen,
    /// Too many records of the lane are unacknowledged; it stops until a new session is there.
    LaneStopped,
    /// The content is longer than a record may be.
    TooLong {
        /// The limit of content, in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
    /// The caller's buffer is too short.
    Buffer(EncodeError),
    /// The source of randomness failed.
    Entropy,
    /// A letter cannot be sealed: the own vault, or the recipient's ML-KEM key, is at fault.
    Letter(HandshakeError),
    /// A call cannot be sent: the own vault is at fault.
    Call(HandshakeError),
}

/// Why what was kept of a session cannot be taken back. Delete it: a new session will be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// It was written by a version that this one does not know.
    Version(u8),
    /// It is damaged, or of another identity, or of an earlier channel key.
    Rejected,
    /// The peer has not made a handshake with the channel key yet, and the one before was not given, or another.
    EarlierKey,
    /// A field is not as it must be.
    Decode(DecodeError),
    /// The vault failed.
    Vault(VaultError),
}

/// Why a key or a psk of a pairing is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewalError {
    /// The other side gives seeds in this pairing.
    NotResponder,
    /// There is nothing to tell.
    Empty,
    /// What is to be told is too long.
    TooLong {
        /// The limit, in octets.
        limit: usize,
        /// Its length in octets.
        got: usize,
    },
    /// The key is another identity's.
    OtherPeer,
    /// A later key of the peer was accepted before.
    Superseded,
    /// A call is unanswered that was made with the key whose place this one would take. Later: the peer tells of it again.
    UnderWay,
    /// The own vault failed, or nothing can be agreed with the key.
    Vault(VaultError),
}

/// Why a channel cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The policy given for the channel does not admit the card's identity.
    NotAdmitted,
    /// The card is one's own.
    OwnCard,
    /// The card is older than what is known of the identity.
    Superseded,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::Gate => f.write_str("the sender does not have our card"),
            Self::UnknownConnection => f.write_str("no session has that connection id"),
            Self::Replayed => f.write_str("it came before, or is too old"),
            Self::TooFarAhead => f.write_str("the record's counter is too far ahead"),
            Self::Rejected => f.write_str("the record is not authentic"),
            Self::NotAdmitted => f.write_str("policy does not admit the peer of this session"),
            Self::Handshake(error) => error.fmt(f),
            Self::CookieWanted => f.write_str("under load: a cookie was asked for"),
            Self::Throttled => f.write_str("the source has begun too many handshakes just now"),
            Self::Yielding => f.write_str("our own handshake goes first"),
            Self::UnknownPrekey => f.write_str("it was sealed to a prekey that is not ours, or not any more"),
            Self::Cloned => f.write_str("its psk has served another: two devices share it, or one went back in time"),
            Self::Vault(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitiator => f.write_str("the other side calls in this pairing"),
            Self::NotResponder => f.write_str("the other side answers in this pairing"),
            Self::UnderWay => f.write_str("a call is unanswered"),
            Self::TooLong { limit, got } => write!(f, "{got} octets, a call takes {limit}"),
            Self::Exhausted => f.write_str("no number is left for a call for recovery"),
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noise => f.write_str("the handshake message is not authentic"),
            Self::Proof => f.write_str("the proof of the third message does not verify"),
            Self::Kem => KemError::InvalidKey.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::Identity(error) => error.fmt(f),
            Self::Reflected => f.write_str("the third message names our own identity"),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownChannel => f.write_str("there is no such channel"),
            Self::NotOpen => f.write_str("the peer has not confirmed a session yet"),
            Self::LaneStopped => f.write_str("too many records are unacknowledged"),
            Self::TooLong { limit, got } => write!(f, "{got} octets, a record takes {limit}"),
            Self::Buffer(error) => error.fmt(f),
            Self::Entropy => f.write_str("the source of randomness failed"),
            Self::Letter(error) | Self::Call(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "state of version {version}, this program knows version 1"),
            Self::Rejected => f.write_str("the state is damaged, or of another identity or channel key"),
            Self::EarlierKey => f.write_str("the peer goes by an earlier channel key of ours, which was not given"),
            Self::Decode(error) => error.fmt(f),
            Self::Vault(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAdmitted => "the policy does not admit the identity on the card",
            Self::OwnCard => "the card is one's own",
            Self::Superseded => "the card is older than what is known of the identity",
        })
    }
}

impl core::error::Error for CallError {}
impl core::error::Error for FrameError {}
impl core::error::Error for HandshakeError {}
impl core::error::Error for SendError {}
impl core::error::Error for OpenError {}
impl core::error::Error for StateError {}

impl fmt::Display for RenewalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotResponder => f.write_str("the other side gives seeds in this pairing"),
            Self::Empty => f.write_str("there is nothing to tell"),
            Self::TooLong { limit, got } => write!(f, "{got} octets are to be told, at most {limit} can be"),
            Self::OtherPeer => f.write_str("the key is another identity's"),
            Self::Superseded => f.write_str("a later key of the peer was accepted before"),
            Self::UnderWay => f.write_str("a call with the key before is unanswered"),
            Self::Vault(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RenewalError {}

impl From<DecodeError> for FrameError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<DecodeError> for StateError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<VaultError> for StateError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<HandshakeError> for FrameError {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

impl From<VaultError> for FrameError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<EntropyError> for FrameError {
    fn from(error: EntropyError) -> Self {
        Self::Vault(error.into())
    }
}

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        // Why Noise refused would help a forger and nobody else.
        Self::Noise
    }
}

impl From<EncodeError> for SendError {
    fn from(error: EncodeError) -> Self {
        Self::Buffer(error)
    }
}
