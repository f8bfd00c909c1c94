//! SHA-256 in parts.

use core::fmt;

use sealway_vault::Sha256;
use sha2::Digest;

/// A running SHA-256, wiped on drop.
#[derive(Default)]
pub struct Sha256State(sha2::Sha256);

impl Sha256 for Sha256State {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finish(&mut self) -> [u8; 32] {
        self.0.finalize_reset().into()
    }
}

impl fmt::Debug for Sha256State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256State(..)")
    }
}
