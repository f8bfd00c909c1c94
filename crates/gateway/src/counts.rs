//! What a gateway counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Frames that were dropped: there was no link up, or the other side carries none that are so long.
    pub dropped_frames: u64,
}

/// The same while it counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) links: AtomicU64,
    pub(crate) uplinks: AtomicU64,
    pub(crate) failed_uplinks: AtomicU64,
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
        let all = [
            &self.links,
            &self.uplinks,
            &self.failed_uplinks,
            &self.refused_links,
            &self.up.frames,
            &self.up.octets,
            &self.down.frames,
            &self.down.octets,
            &self.dropped_frames,
        ];
        let [
            links,
            uplinks,
            failed_uplinks,
            refused_links,
            frames_up,
            octets_up,
            frames_down,
            octets_down,
            dropped_frames,
        ] = all.map(|count| count.load(Relaxed));
        Counts {
            links,
            uplinks,
            failed_uplinks,
            refused_links,
            frames_up,
            octets_up,
            frames_down,
            octets_down,
            dropped_frames,
        }
    }
}
