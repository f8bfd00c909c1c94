//! How messages are cut, how much of them is under way, and when they are repeated: for large records, and for small ones.

use core::time::Duration;

use sealway_wire::content::MAX_PARTS;

/// The longest message that goes in one record, in octets. A longer one goes in parts.
pub const MAX_WHOLE: usize = 16_355;
/// What one part carries.
const PART: usize = 16_000;
/// Messages that may be under way at once: no more than an inbox has places for.
const IN_FLIGHT: usize = 512;
/// The longest message in octets.
pub const MAX_MESSAGE: usize = 1024 * 1024;
const _: () = assert!(MAX_MESSAGE.div_ceil(PART) <= MAX_PARTS as usize);

/// Where records are small, index and count of a part are a varint of one octet: so many parts.
const SMALL_PARTS: usize = 63;
/// What is in front of a message that goes whole, at most: instance, number, distance, and how many are not wanted.
const WHOLE_HEADER: usize = 4 + 4 + 2 + 2;
/// What is in front of a part: index and count, too.
const PART_HEADER: usize = WHOLE_HEADER + 1 + 1;
/// What may be under way where records are small, in parts' octets, and by number: fewer than make a session look one-way.
const SMALL_WINDOW: usize = 64;
const SMALL_IN_FLIGHT: usize = 90;

/// The longest time for which what waits at the peer is not repeated, where records are small.
const MAX_HELD: Duration = Duration::from_secs(15 * 60);

/// Bounds of the octets that may be under way at once: less where they are lost, for what lies between drops what it cannot
/// hold, and more where they are not. RFC 5681 section 3.1, in its simplest form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) min: usize,
    pub(super) max: usize,
}

/// The time after which an unanswered message is sent again: before the round trip is known, and its bounds. RFC 6298.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) first: Duration,
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// What a record has to carry, beside its type, for so many octets of a message or of a part of one.
pub(super) const fn needed(octets: usize, is_part: bool) -> usize {
    octets + if is_part { PART_HEADER } else { WHOLE_HEADER }
}

/// What depends on the size of records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest message that goes whole.
    pub(super) whole: usize,
    /// Octets of each part of a longer one.
    pub(super) part: usize,
    /// How many parts there may be.
    parts: usize,
    /// Messages, or parts, that may be under way at once.
    pub(super) in_flight: usize,
    pub(super) first_window: usize,
    pub(super) window: Window,
    pub(super) timeout: Timeouts,
    /// Frames do not overtake each other, and are lost to noise: what was sent after another arrives after it, also when it was
    /// sent again, and waiting longer each time helps nobody.
    pub(super) is_in_order: bool,
}

impl Pace {
    /// For records of 16 KiB.
    pub(super) const LARGE: Self = Self {
        whole: MAX_WHOLE,
        part: PART,
        parts: MAX_PARTS as usize,
        in_flight: IN_FLIGHT,
        first_window: 256 * 1024,
        window: Window { min: 32 * 1024, max: 1024 * 1024 },
        timeout: Timeouts {
            first: Duration::from_secs(1),
            min: Duration::from_millis(400),
            max: Duration::from_secs(30),
        },
        is_in_order: false,
    };

    /// For records that carry `content` octets beside their type. What is lost there is lost to noise: the window does not
    /// shrink, and the link's queue says how fast. `None`: not even a part of one octet fits.
    pub(super) fn small(content: usize) -> Option<Self> {
        let part = content.checked_sub(PART_HEADER).filter(|part| *part > 0)?;
        let octets = SMALL_WINDOW * part;
        Some(Self {
            whole: content - WHOLE_HEADER,
            part,
            parts: SMALL_PARTS,
            in_flight: SMALL_IN_FLIGHT,
            first_window: octets,
            window: Window { min: octets, max: octets },
            timeout: Timeouts {
                first: Duration::from_secs(4),
                min: Duration::from_millis(200),
                max: Duration::from_secs(64),
            },
            is_in_order: true,
        })
    }

    /// How long to wait for an answer to what was sent so many times before.
    pub(super) fn wait(&self, timeout: Duration, times: u32) -> Duration {
        let doublings = if self.is_in_order { times / 4 } else { times };
        (timeout * (1 << doublings.min(10))).min(self.timeout.max)
    }

    /// How long not to repeat what waits at the peer for its application, and was sent so many times. Where frames are lost to
    /// noise the next thing that is heard may be lost: that is asked for soon, and then less and less.
    pub(super) fn held(&self, timeout: Duration, times: u32) -> Duration {
        match self.is_in_order {
            false => self.timeout.max,
            true => (timeout * 4 * (1 << times.saturating_sub(1).min(10))).min(MAX_HELD),
        }
    }

    /// The longest message that is taken.
    pub(super) fn longest(&self) -> usize {
        MAX_MESSAGE.min(self.part * self.parts)
    }
}
