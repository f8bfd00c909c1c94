//! When a device that sleeps can be spoken to.

use std::time::Duration;

use sealway_channel::Role;
use sealway_wire::Timestamp;

/// A device that sleeps: "awake 3 s every 15 minutes". It sends and listens while it is awake; its peer holds what is for it
/// until it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// How long it is awake each time.
    pub awake: Duration,
    /// From one time that it wakes to the next: a millisecond at least.
    pub every: Duration,
}

impl Rhythm {
    fn every(&self) -> Duration {
        self.every.max(Duration::from_millis(1))
    }
}

/// Where a pairing is in its rhythm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waking {
    rhythm: Option<Rhythm>,
    role: Role,
    /// When the device has woken last, as far as is known here.
    woke: Option<Timestamp>,
}

impl Waking {
    /// The device, which calls, wakes when it begins; the other side waits to hear it.
    pub(crate) const fn new(rhythm: Option<Rhythm>, role: Role) -> Self {
        Self { rhythm, role, woke: None }
    }

    /// Both sides may agree on another one.
    pub(crate) const fn set_rhythm(&mut self, rhythm: Option<Rhythm>) {
        self.rhythm = rhythm;
    }

    /// How long the device is awake each time, if it sleeps.
    pub(crate) fn awake(&self) -> Option<Duration> {
        self.rhythm.map(|rhythm| rhythm.awake)
    }

    /// The device has been heard.
    pub(crate) fn heard(&mut self, now: Timestamp) {
        // What it sends later while it is awake does not keep it awake longer.
        if self.role == Role::Responder && !self.is_open(now) {
            self.woke = Some(now);
        }
    }

    /// Whether the device has just woken, where we are it.
    pub(crate) fn wakes(&mut self, now: Timestamp) -> bool {
        let Some(rhythm) = self.rhythm.filter(|_| self.role == Role::Initiator) else { return false };
        let wakes = match self.woke {
            None => Some(now),
            // What was slept through is not made up for; the beat is kept.
            Some(woke) => {
                let every = rhythm.every();
                let passed = now.since(woke).as_micros() / every.as_micros();
                let passed = u32::try_from(passed).unwrap_or(u32::MAX);
                (passed > 0).then(|| woke.after(every.saturating_mul(passed)))
            }
        };
        self.woke = wakes.or(self.woke);
        wakes.is_some()
    }

    /// Whether something may be sent.
    pub(crate) fn is_open(&self, now: Timestamp) -> bool {
        self.rhythm.is_none_or(|rhythm| self.woke.is_some_and(|woke| now.since(woke) < rhythm.awake))
    }

    /// When the device wakes next, where we are it.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let rhythm = self.rhythm.filter(|_| self.role == Role::Initiator)?;
        Some(self.woke.map_or(Timestamp::from_micros(0), |woke| woke.after(rhythm.every())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm { awake: Duration::from_secs(3), every: Duration::from_secs(900) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_device_wakes_every_quarter_of_an_hour_for_three_seconds() {
        let mut device = Waking::new(Some(RHYTHM), Role::Initiator);
        assert!(!device.is_open(at(5)) && device.wakes(at(5)) && !device.wakes(at(5)));
        let awake: Vec<u64> =
            (5..3000).filter(|second| device.wakes(at(*second)) || device.is_open(at(*second))).collect();
        assert_eq!(awake, [5, 6, 7, 905, 906, 907, 1805, 1806, 1807, 2705, 2706, 2707]);
        // The machine itself has slept: it wakes once, and its next time is on the beat.
        assert!(device.wakes(at(10_000)) && !device.wakes(at(10_001)));
        assert_eq!(device.next(), Some(at(5 + 12 * 900)));
        assert!(!device.is_open(at(10_001)), "its three seconds were over before it could use them");
    }

    #[test]
    fn its_peer_speaks_when_it_has_heard_it_and_no_longer() {
        let mut peer = Waking::new(Some(RHYTHM), Role::Responder);
        assert!(!peer.is_open(at(1)) && !peer.wakes(at(1)) && peer.next().is_none());
        peer.heard(at(10));
        peer.heard(at(12));
        assert!(peer.is_open(at(12)) && !peer.is_open(at(13)));
        let always = Waking::new(None, Role::Responder);
        assert!(always.is_open(at(0)));
    }
}
