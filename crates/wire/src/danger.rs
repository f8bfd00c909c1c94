//! Protections that a test turns off, to see that it would notice. Not in any build but those with `--cfg sealway_break`.
//!
//! It is here because both of the crates that have such protections know this one, and not each other.

use core::sync::atomic::{AtomicU8, Ordering};

/// A protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// That nothing is taken twice: the replay window of records, and the marks of messages. Each alone would do here.
    Window = 1,
    /// That the tag of a record has to verify.
    Tag = 2,
    /// That a message is kept until its recipient has acknowledged it.
    Ack = 4,
}

static OFF: AtomicU8 = AtomicU8::new(0);

/// Turns a protection off in this process, for good.
pub fn turn_off(protection: Protection) {
    OFF.fetch_or(protection as u8, Ordering::Relaxed);
}

/// Whether a protection is off.
#[must_use]
pub fn is_off(protection: Protection) -> bool {
    OFF.load(Ordering::Relaxed) & protection as u8 != 0
}
