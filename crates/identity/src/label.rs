//! Domain separation: every signature and every derived key has a label of its own.

use alloc::vec::Vec;

/// `"sealway/" || domain || 0x00 || name || 0x00`. Neither part may hold a zero octet; all names are constants.
#[must_use]
pub fn label(domain: &str, name: &str) -> Vec<u8> {
    [b"sealway/", domain.as_bytes(), &[0], name.as_bytes(), &[0]].concat()
}

pub(crate) const DOMAIN: &str = "id";
