//! How much may be under way, and how fast it leaves.

use core::time::Duration;

use sealway_wire::Timestamp;

/// `NewReno` as RFC 9002 section 7 has it: it takes what a TCP flow takes beside it, and no more.
#[derive(Debug)]
pub(super) struct Congestion {
    window: usize,
    threshold: usize,
    /// Octets that have arrived since the window grew by a packet.
    arrived: usize,
    /// What was sent before is the same loss.
    recovery_began: Option<Timestamp>,
}

/// Packets that the window begins with, and never falls below: RFC 9002 section 7.2.
const FIRST: usize = 10;
const LEAST: usize = 2;
/// Nobody needs more: 16 MiB are a gigabit a second over 130 ms.
const MOST: usize = 16 * 1024 * 1024;

impl Congestion {
    pub(super) const fn new(packet: usize) -> Self {
        Self { window: FIRST * packet, threshold: usize::MAX, arrived: 0, recovery_began: None }
    }

    pub(super) const fn window(&self) -> usize {
        self.window
    }

    /// So many octets have arrived, of a packet of that time. They open the window only if it was what held us back.
    pub(super) fn acknowledged(&mut self, octets: usize, sent: Timestamp, was_full: bool, packet: usize) {
        if !was_full || self.recovery_began.is_some_and(|began| sent <= began) {
            return;
        }
        if self.window < self.threshold {
            self.window += octets;
        } else {
            self.arrived += octets;
            if self.arrived >= self.window {
                self.arrived -= self.window;
                self.window += packet;
            }
        }
        self.window = self.window.min(MOST);
    }

    /// A packet of that time was lost.
    pub(super) fn lost(&mut self, now: Timestamp, sent: Timestamp, packet: usize) {
        if self.recovery_began.is_some_and(|began| sent <= began) {
            return;
        }
        self.recovery_began = Some(now);
        self.window = (self.window / 2).max(LEAST * packet);
        self.threshold = self.window;
    }

    /// Nothing has arrived for several timeouts: RFC 9002 section 7.6.
    pub(super) fn collapse(&mut self, packet: usize) {
        self.window = LEAST * packet;
        self.recovery_began = None;
    }
}

/// Spreads the window over the round trip: RFC 9002 section 7.7.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Octets that may leave at once.
    tokens: usize,
    filled: Timestamp,
}

/// What may leave in one burst: a handful of packets, or what leaves in the time that timers are inexact by.
const BURST: usize = 10;
const GRAIN: Duration = Duration::from_millis(2);

impl Pacer {
    pub(super) const fn new(now: Timestamp, packet: usize) -> Self {
        Self { tokens: BURST * packet, filled: now }
    }

    /// Octets a second: a quarter more than the window a round trip, so that the pace is not what limits.
    fn rate(window: usize, round_trip: Duration) -> u128 {
        (window as u128).saturating_mul(1_250_000) / round_trip.as_micros().max(1)
    }

    fn fill(&mut self, now: Timestamp, window: usize, round_trip: Duration, packet: usize) {
        let rate = Self::rate(window, round_trip);
        let earned = rate.saturating_mul(now.since(self.filled).as_micros()) / 1_000_000;
        let most = usize::try_from(rate.saturating_mul(GRAIN.as_micros()) / 1_000_000).unwrap_or(usize::MAX);
        if earned > 0 {
            let tokens = self.tokens.saturating_add(usize::try_from(earned).unwrap_or(usize::MAX));
            self.tokens = tokens.min(most.max(BURST * packet));
            self.filled = now;
        }
    }

    /// When a packet of so many octets may leave: now, which takes them, or later.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        octets: usize,
        (window, round_trip, packet): (usize, Duration, usize),
    ) -> Result<(), Timestamp> {
        self.fill(now, window, round_trip, packet);
        match self.tokens.checked_sub(octets) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => {
                // Several at once: waking for each would cost more than it smooths.
                let missing = (BURST * packet / 2).max(octets).saturating_sub(self.tokens) as u128;
                let micros = missing.saturating_mul(1_000_000) / Self::rate(window, round_trip).max(1);
                let wait = Duration::from_micros(u64::try_from(micros.clamp(1, 1_000_000)).unwrap_or(1_000_000));
                Err(now.after(wait))
            }
        }
    }
}
