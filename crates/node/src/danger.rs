//! What a relay's operator can do, for demonstrations and tests of what that is worth. Nothing here weakens the ends.

/// Sees everything that a relay sees, and decides what it passes on. Set with
/// [`RelayConfig::with_tap`](crate::RelayConfig::with_tap).
pub trait RelayTap: Send + Sync {
    /// A hop frame, as the relay has decrypted it: the most that a relay ever reads.
    fn saw(&self, hop_frame: &[u8]);

    /// The frames that client `to` gets instead of `frame`: none, the same, others, more.
    fn passes_on(&self, to: u64, frame: &[u8]) -> Vec<Vec<u8>>;
}

#[cfg(sealway_break)]
pub use sealway_wire::danger::{Protection, turn_off};
