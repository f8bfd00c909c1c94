//! Counters that are reserved in blocks, on a disk that cannot go back and of which there are no copies: a restart goes on behind
//! them, under the same chain, and repeats no nonce.

/// Those below `granted` are reserved on disk, those below `asked` in the state that is written next.
pub(crate) struct Reserved {
    granted: u64,
    asked: u64,
    block: u64,
    limit: u64,
}

impl Reserved {
    /// Nothing from counter `from` on may be used yet; a block is asked for. A lane ends at `limit`.
    pub(crate) fn new(from: u64, block: u64, limit: u64) -> Self {
        Self { granted: from, asked: from.saturating_add(block).min(limit), block, limit }
    }

    /// From where a restart goes on.
    pub(crate) const fn asked(&self) -> u64 {
        self.asked
    }

    /// The state that reserves what was asked for is on disk.
    pub(crate) const fn grant(&mut self) {
        self.granted = self.asked;
    }

    /// A state is on disk that reserves counters up to `asked`, as it was when that was made.
    pub(crate) const fn grant_up_to(&mut self, asked: u64) {
        if asked > self.granted {
            self.granted = asked;
        }
    }

    /// What was asked for last could not be written: it is asked for again.
    pub(crate) const fn revert(&mut self) {
        self.asked = self.granted;
    }

    /// Whether this counter may be used.
    pub(crate) const fn admits(&self, counter: u64) -> bool {
        counter < self.granted
    }

    /// Asks for another block if little of the last is left, counters up to `used` being used. `true`: it has to be written.
    pub(crate) fn ask(&mut self, used: u64) -> bool {
        let is_low = self.asked.saturating_sub(used) < self.block / 4;
        let may_ask = is_low && self.asked == self.granted && self.asked < self.limit;
        if may_ask {
            self.asked = self.asked.saturating_add(self.block).min(self.limit);
        }
        may_ask
    }
}
