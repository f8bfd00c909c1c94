//! Randomness from a seed, the same in every run.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sealway_crypto_rustcrypto::{RustCrypto, Sha256State};
use sealway_vault::{Entropy, EntropyError, Sha256};

/// SHA-256 of seed and a counter, block by block. Clones share the counter.
#[derive(Clone, Debug)]
pub struct Seeded {
    seed: u64,
    drawn: Arc<AtomicU64>,
}

impl Seeded {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: Arc::default() }
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        let mut octets = [0; 8];
        self.fill(&mut octets).expect("a seeded source does not fail");
        u64::from_be_bytes(octets) % bound
    }

    /// An index below `len`.
    ///
    /// # Panics
    /// If `len` is 0.
    #[must_use]
    pub fn index(&self, len: usize) -> usize {
        let bound = u64::try_from(len).expect("a length");
        usize::try_from(self.below(bound)).expect("below a length")
    }
}

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        for block in out.chunks_mut(32) {
            let mut hash = Sha256State::default();
            hash.update(&self.seed.to_be_bytes());
            hash.update(&self.drawn.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            block.copy_from_slice(&hash.finish()[..block.len()]);
        }
        Ok(())
    }
}

/// The pure Rust provider over seeded randomness.
#[must_use]
pub fn seeded_provider(seed: u64) -> RustCrypto<Seeded> {
    RustCrypto::new(Seeded::new(seed))
}
