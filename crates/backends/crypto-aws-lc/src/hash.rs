//! SHA-256 in parts.

use std::{fmt, mem};

use aws_lc_rs::digest::{Context, SHA256};
use sealway_vault::Sha256;

/// A running SHA-256, wiped on drop.
pub struct Sha256State(Context);

impl Default for Sha256State {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Sha256 for Sha256State {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish(&mut self) -> [u8; 32] {
        let digest = mem::take(self).0.finish();
        let mut octets = [0; 32];
        octets.iter_mut().zip(digest.as_ref()).for_each(|(octet, digest)| *octet = *digest);
        octets
    }
}

impl fmt::Debug for Sha256State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256State(..)")
    }
}
