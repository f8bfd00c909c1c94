//! What a gateway counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What a gateway has counted since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Links of devices that are up.
    pub links: u64,
    /// Links to a relay that are up.
    pub uplinks: u64,
    /// Links to a relay that could not be made.
    pub failed_uplinks: u64,
    /// Links to a relay on which nothing has come.
    pub unanswered_uplinks: u64,
    /// The last time that a link to a relay was to be made, none could.
    pub is_cut_off: bool,
    /// Links of devices that were turned away, for there were too many.
    pub refused_links: u64,
    /// Frames carried to a relay, and their octets.
    pub frames_up: u64,
    /// Octets of these.
    pub octets_up: u64,
    /// Frames carried to devices.
    pub frames_down: u64,
    /// Octets of these.
    pub octets_down: u64,
    /// Frames that were dropped: there was no link up, they were longer than the other side carries, a link ended or there was no room
    /// for datagrams.
    pub dropped_frames: u64,
}

/// The same while it counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) links: AtomicU64,
    pub(crate) uplinks: AtomicU64,
    pub(crate) failed_uplinks: AtomicU64,
    pub(crate) unanswered_uplinks: AtomicU64,
    pub(crate) is_cut_off: AtomicBool,
    pub(crate) refused_links: AtomicU64,
    pub(crate) up: Carried,
    pub(crate) down: Carried,
    pub(crate) dropped_frames: AtomicU64,
}

/// What was carried one way.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    frames: AtomicU64,
    octets: AtomicU64,
}

impl Carried {
    pub(crate) fn add(&self, octets: usize) {
        self.frames.fetch_add(1, Relaxed);
        self.octets.fetch_add(u64::try_from(octets).unwrap_or(0), Relaxed);
    }
}

impl Counters {
    pub(crate) fn read(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        Counts {
            links: count(&self.links),
            uplinks: count(&self.uplinks),
            failed_uplinks: count(&self.failed_uplinks),
            unanswered_uplinks: count(&self.unanswered_uplinks),
            is_cut_off: self.is_cut_off.load(Relaxed),
            refused_links: count(&self.refused_links),
            frames_up: count(&self.up.frames),
            octets_up: count(&self.up.octets),
            frames_down: count(&self.down.frames),
            octets_down: count(&self.down.octets),
            dropped_frames: count(&self.dropped_frames),
        }
    }
}
