//! How much may be under way, and how fast it leaves.

use core::time::Duration;

use sealway_wire::Timestamp;

/// CUBIC, RFC 9438, with what RFC 9002 says of packets instead of segments: it takes what a TCP flow takes beside it, and no more.
/// Losses lower the window to seven tenths; then it grows by a cubic of the time since, or as Reno's would where that is more.
#[derive(Debug)]
pub(super) struct Congestion {
    is_fixed: bool,
    window: u64,
    threshold: u64,
    /// Before the last loss: where the cubic has its flat part, and where the estimate of Reno's window begins to grow as fast as
    /// that.
    plateau: u64,
    before: u64,
    /// Of the growth since the last loss; none while the window is not what limits.
    epoch: Option<Epoch>,
    /// Parts of an octet that the window has grown by.
    rest: u64,
    /// What was sent before is the same loss.
    recovery_began: Option<Timestamp>,
}

#[derive(Debug)]
struct Epoch {
    began: Timestamp,
    /// Milliseconds until the window is what it was.
    until_plateau: u64,
    /// Reno's window, in parts of 256 of an octet.
    estimate: u64,
}

/// Packets that the window begins with, and never falls below: RFC 9002 section 7.2.
const FIRST: u64 = 10;
const LEAST: u64 = 2;
/// Nobody needs more: 16 MiB are a gigabit a second over 130 ms.
const MOST: u64 = 16 * 1024 * 1024;
/// Cubic milliseconds in which the window grows by a packet: 1 / C, with C = 0.4 a cubic second.
const CUBE: u64 = 2_500_000_000;
/// 3 (1 - beta) / (1 + beta), with beta = 0.7, of 256 parts: as fast as Reno's window grows that halves at a loss.
const RENO: u64 = 135;

/// The largest number whose cube is not larger.
fn cube_root(number: u64) -> u64 {
    let (mut low, mut high) = (0, 2_642_245);
    while low < high {
        let middle = u64::midpoint(low, high + 1);
        if middle.pow(3) <= number {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

impl Congestion {
    pub(super) const fn new(packet: usize) -> Self {
        let window = FIRST * packet as u64;
        let (plateau, before) = (0, 0);
        Self {
            is_fixed: false,
            window,
            threshold: u64::MAX,
            plateau,
            before,
            epoch: None,
            rest: 0,
            recovery_began: None,
        }
    }

    /// A window that nothing changes, for a link that nobody else uses.
    pub(super) const fn fixed(window: usize) -> Self {
        Self { is_fixed: true, window: window as u64, ..Self::new(0) }
    }

    pub(super) const fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Octets.
    pub(super) fn window(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX)
    }

    /// So many octets have arrived, of a packet of that time. They open the window only if it was what held us back.
    pub(super) fn acknowledged(
        &mut self,
        (now, sent): (Timestamp, Timestamp),
        octets: usize,
        was_full: bool,
        (packet, round_trip): (usize, Duration),
    ) {
        if self.is_fixed || self.recovery_began.is_some_and(|began| sent <= began) {
            return;
        }
        let octets = octets as u64;
        if !was_full {
            // The time in which nothing was asked of the path does not count.
            self.epoch = None;
        } else if self.window < self.threshold {
            self.window += octets;
        } else {
            self.grow(now, octets, packet as u64, round_trip);
        }
        self.window = self.window.min(MOST);
    }

    /// RFC 9438 sections 4.2 to 4.5.
    fn grow(&mut self, now: Timestamp, octets: u64, packet: u64, round_trip: Duration) {
        let Self { window, plateau, before, epoch, rest, .. } = self;
        let epoch = epoch.get_or_insert_with(|| {
            *plateau = (*plateau).max(*window);
            let packets = CUBE.saturating_mul(*plateau - *window) / packet.max(1);
            Epoch { began: now, until_plateau: cube_root(packets), estimate: *window << 8 }
        });
        let speed = if epoch.estimate >> 8 < *before { RENO } else { 256 };
        epoch.estimate += speed * packet * octets / (*window).max(1);
        let at = |time: Duration| {
            let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(1_000_000);
            let distance = time.saturating_sub_unsigned(epoch.until_plateau).clamp(-1_000_000, 1_000_000);
            let growth = i128::from(distance).pow(3) * i128::from(packet) / i128::from(CUBE);
            u64::try_from(i128::from(*plateau) + growth).unwrap_or(0)
        };
        let age = now.since(epoch.began);
        let reno = epoch.estimate >> 8;
        if at(age) < reno {
            *window = (*window).max(reno);
            return;
        }
        let target = at(age + round_trip).clamp(*window, *window * 3 / 2);
        let gain = (target - *window) * octets + *rest;
        (*window, *rest) = (*window + gain / *window, gain % *window);
    }

    /// A packet of that time was lost.
    pub(super) fn lost(&mut self, now: Timestamp, sent: Timestamp, packet: usize) {
        if self.is_fixed || self.recovery_began.is_some_and(|began| sent <= began) {
            return;
        }
        self.recovery_began = Some(now);
        self.reduce(packet);
        self.window = self.threshold;
        self.epoch = None;
    }

    /// To what the window goes back at a loss, and how it grows from there.
    fn reduce(&mut self, packet: usize) {
        // One that has not come back to where it was leaves more to the others: RFC 9438 section 4.7.
        self.plateau = if self.window < self.plateau { self.window * 17 / 20 } else { self.window };
        self.before = self.window;
        self.threshold = (self.window * 7 / 10).max(LEAST * packet as u64);
    }

    /// Nothing has arrived for several timeouts: RFC 9002 section 7.6. It begins with two packets, and doubles until it is near
    /// where it was.
    pub(super) fn collapse(&mut self, now: Timestamp, packet: usize) {
        if self.is_fixed {
            return;
        }
        let least = LEAST * packet as u64;
        if self.window > least {
            self.reduce(packet);
        }
        self.window = least;
        // What was sent before is the same silence.
        (self.recovery_began, self.epoch) = (Some(now), None);
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const PACKET: usize = 1000;
    const ROUND_TRIP: Duration = Duration::from_millis(100);

    fn seconds(number: u64) -> Timestamp {
        Timestamp::from_micros(number * 1_000_000)
    }

    /// The window after each of so many round trips in which all of it arrives, in packets.
    fn grown(congestion: &mut Congestion, from: Timestamp, round_trips: u32) -> Vec<usize> {
        let mut windows = Vec::new();
        for number in 1..=round_trips {
            let now = from.after(ROUND_TRIP * number);
            for _ in 0..congestion.window() / PACKET {
                congestion.acknowledged((now, now), PACKET, true, (PACKET, ROUND_TRIP));
            }
            windows.push(congestion.window() / PACKET);
        }
        windows
    }

    #[test]
    fn roots_of_cubes() {
        for number in [0, 1, 2, 100, 2_642_245] {
            let cube = u64::pow(number, 3);
            assert_eq!(cube_root(cube), number);
            assert_eq!(cube_root(cube + 1), number.max(1));
        }
        assert_eq!(cube_root(u64::MAX), 2_642_245);
    }

    #[test]
    fn the_window_doubles_until_something_is_lost_and_is_back_where_it_was_when_the_cubic_says() {
        let mut congestion = Congestion::new(PACKET);
        assert_eq!(grown(&mut congestion, seconds(0), 7), [20, 40, 80, 160, 320, 640, 1280]);
        congestion.lost(seconds(1), seconds(1), PACKET);
        assert_eq!(congestion.window(), 896_000);
        // What was sent before is the same loss.
        congestion.lost(seconds(2), seconds(1), PACKET);
        assert_eq!(congestion.window(), 896_000);
        // RFC 9438, equation 2: K is the cube root of 384 / 0.4, 9.86 s.
        let windows = grown(&mut congestion, seconds(2), 200);
        assert!((1275..=1281).contains(&windows[98]), "{}", windows[98]);
        // It is flat there, and steep before and after.
        assert!(windows[98] - windows[88] <= 5 && windows[10] - windows[0] > 50 && windows[190] - windows[180] > 50);
        assert!(windows.is_sorted());
    }

    #[test]
    fn on_short_ways_it_grows_as_reno_does() {
        let mut congestion = Congestion::new(PACKET);
        congestion.lost(seconds(1), seconds(1), PACKET);
        assert_eq!(congestion.window() / PACKET, 7);
        // 10 ms a round trip: the cubic has hardly begun after 0.2 s.
        for number in 1..=20_u32 {
            let now = seconds(2).after(Duration::from_millis(10) * number);
            for _ in 0..congestion.window() / PACKET {
                congestion.acknowledged((now, now), PACKET, true, (PACKET, Duration::from_millis(10)));
            }
        }
        // Six round trips at 0.53 of a packet, and then one each: RFC 9438, section 4.3.
        assert!((19..=23).contains(&(congestion.window() / PACKET)), "{}", congestion.window());
    }

    #[test]
    fn one_that_is_not_back_leaves_room_and_one_that_is_not_used_does_not_grow() {
        let mut congestion = Congestion::new(PACKET);
        grown(&mut congestion, seconds(0), 5);
        congestion.lost(seconds(1), seconds(1), PACKET);
        congestion.lost(seconds(2), seconds(2), PACKET);
        assert_eq!(congestion.plateau, 224_000 * 17 / 20);
        let before = congestion.window();
        for _ in 0..1000 {
            congestion.acknowledged((seconds(9), seconds(9)), PACKET, false, (PACKET, ROUND_TRIP));
        }
        assert_eq!(congestion.window(), before);
        let before = congestion.window();
        congestion.collapse(seconds(10), PACKET);
        assert_eq!(congestion.window(), 2 * PACKET);
        // What was lost in the silence is no further loss; then it doubles until it is where a loss would have left it.
        congestion.collapse(seconds(11), PACKET);
        congestion.lost(seconds(12), seconds(11), PACKET);
        let windows = grown(&mut congestion, seconds(12), 7);
        assert_eq!(windows[..4], [4, 8, 16, 32]);
        assert!(windows[6] >= before * 6 / 10 / PACKET, "{windows:?}");
    }
}
