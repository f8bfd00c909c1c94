//! Names of fixed length. Each has a type of its own, so that none is taken for another.

use core::{fmt, str::FromStr};

use crate::{DecodeError, Hex, Reason, hex};

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $len:literal, $field:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Its length in octets.
            pub const LEN: usize = $len;

            /// The octets.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Hex(&self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), Hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = DecodeError;

            fn from_str(text: &str) -> Result<Self, DecodeError> {
                hex::parse(text).map(Self).ok_or(DecodeError::new($field, Reason::Malformed))
            }
        }
    };
}

name!(
    /// The identifier of an identity: SHA-256 of its inception event. As text 64 hexadecimal digits.
    IdentityId, 32, "identity id"
);
name!(
    /// A connection id: chosen at random by the receiver of the frames that carry it, for one session.
    Cid, 4, "connection id"
);
name!(
    /// The name of a box at a relay: random, known to its owner, to the relay and to those that the owner told.
    BoxName, 16, "box name"
);
name!(
    /// Which run of the sender numbered a message: random, drawn anew at each start.
    Instance, 4, "message instance"
);
name!(
    /// Which restart of the sender a record was sealed after: random, drawn anew at each start.
    Incarnation, 8, "incarnation"
);

name!(
    /// A connection id of the constrained profile: both ends derive it. Two sessions may have the same.
    ShortCid, 2, "connection id"
);
name!(
    /// Which restart of the sender a record of the constrained profile was sealed after: random, drawn anew at each start.
    ShortIncarnation, 4, "incarnation"
);
name!(
    /// Which prekey of its recipient a letter was sealed to: chosen by the recipient, at random.
    PrekeyId, 4, "prekey id"
);
name!(
    /// By what the receiver of a handshake message of the constrained profile finds the psk that it was made with.
    Hint, 2, "hint"
);

impl IdentityId {
    /// The first eight hexadecimal digits, for people who compare and for logs. Not enough to decide on.
    #[must_use]
    pub fn short(&self) -> impl fmt::Display + use<'_> {
        Hex(self.0.get(..4).unwrap_or_default())
    }
}

/// The identity of one message from one sender: stable across resends, sessions and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The run of the sender that numbered it.
    pub instance: Instance,
    /// Its number in that run, upward from 0.
    pub number: u32,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.number)
    }
}
