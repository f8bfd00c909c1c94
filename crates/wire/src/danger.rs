//! Protections that a test turns off, to see that it would notice. In any build but those with `--cfg sealway_break`,
//! [`is_off`] is a constant `false`, and nothing turns anything off.
//!
//! It is here because all crates that have such protections know this one, and not each other.

#[cfg(sealway_break)]
use core::sync::atomic::{AtomicU32, Ordering};

/// A protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// That nothing is taken twice: the replay window of records, and the marks of messages. Each alone would do here.
    Window,
    /// That the tag of a record has to verify.
    Tag,
    /// That a message is kept until its recipient has acknowledged it.
    Ack,
    /// That message 1 is answered only if its gate fits.
    Gate,
    /// That message 3 is read only if its proof fits.
    Proof,
    /// That a source that can be forged has to send a cookie back while many handshakes are half-open.
    Cookie,
    /// That the half-open handshakes of one source are few.
    Share,
    /// That half-open handshakes end by themselves.
    Lifetime,
    /// That what one source makes a responder compute is limited.
    Budget,
    /// That a first message is worked on once.
    Recent,
    /// That of two simultaneous handshakes one survives.
    Yield,
    /// That sending moves to a session only when a record of the peer has opened under it.
    Confirm,
    /// That START is repeated until the peer is known to have it.
    Start,
    /// That a counter's width covers what is unacknowledged.
    Width,
    /// That jumps over epochs are few.
    Jumps,
    /// That the keys of the epoch before serve on.
    Previous,
    /// That a restored lane is sealed under a chain of its own.
    Incarnation,
    /// That counters are used only where they were reserved.
    Blocks,
    /// That the two lanes have different keys.
    Lanes,
    /// That each epoch has a key of its own.
    Epochs,
    /// That the window of a constrained session survives a restart.
    KeptWindow,
    /// That a call that comes again gets the same answer.
    KeptAnswer,
    /// That one psk answers one call.
    OneAnswer,
    /// That what is made in a constrained handshake is written before it leaves.
    WriteFirst,
    /// That the hints of each psk are its own.
    Hint,
    /// That a psk which has served serves no more.
    OldPsk,
    /// That a recovery has to be allowed.
    Recovery,
    /// That a relay has a frame on its disk before it says so.
    Custody,
    /// That what letters have brought is remembered as long as they can come again.
    Letters,
    /// That a letter opens only with the ML-KEM secret of its prekey.
    Hybrid,
    /// That a path serves only after it was challenged.
    Path,
    /// That a padded channel pads.
    Padding,
}

impl Protection {
    /// All of them, with the names under which tests ask for them.
    pub const ALL: [(Self, &'static str); 32] = [
        (Self::Window, "window"),
        (Self::Tag, "tag"),
        (Self::Ack, "ack"),
        (Self::Gate, "gate"),
        (Self::Proof, "proof"),
        (Self::Cookie, "cookie"),
        (Self::Share, "share"),
        (Self::Lifetime, "lifetime"),
        (Self::Budget, "budget"),
        (Self::Recent, "recent"),
        (Self::Yield, "yield"),
        (Self::Confirm, "confirm"),
        (Self::Start, "start"),
        (Self::Width, "width"),
        (Self::Jumps, "jumps"),
        (Self::Previous, "previous"),
        (Self::Incarnation, "incarnation"),
        (Self::Blocks, "blocks"),
        (Self::Lanes, "lanes"),
        (Self::Epochs, "epochs"),
        (Self::KeptWindow, "kept-window"),
        (Self::KeptAnswer, "kept-answer"),
        (Self::OneAnswer, "one-answer"),
        (Self::WriteFirst, "write-first"),
        (Self::Hint, "hint"),
        (Self::OldPsk, "old-psk"),
        (Self::Recovery, "recovery"),
        (Self::Custody, "custody"),
        (Self::Letters, "letters"),
        (Self::Hybrid, "hybrid"),
        (Self::Path, "path"),
        (Self::Padding, "padding"),
    ];
}

#[cfg(sealway_break)]
static OFF: AtomicU32 = AtomicU32::new(0);

/// Turns a protection off in this process, for good.
#[cfg(sealway_break)]
pub fn turn_off(protection: Protection) {
    OFF.fetch_or(1 << protection as u32, Ordering::Relaxed);
}

/// Turns the protection of that name off. Returns whether there is one.
#[cfg(sealway_break)]
pub fn turn_off_named(name: &str) -> bool {
    let found = Protection::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(protection, _)| turn_off(*protection)).is_some()
}

/// Whether a protection is off.
#[cfg(sealway_break)]
#[must_use]
pub fn is_off(protection: Protection) -> bool {
    OFF.load(Ordering::Relaxed) & (1 << protection as u32) != 0
}

/// Whether a protection is off: never, in this build.
#[cfg(not(sealway_break))]
#[must_use]
pub const fn is_off(_: Protection) -> bool {
    false
}
