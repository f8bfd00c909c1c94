//! What the tests of Sealway's crates share. Not for use in a program: its randomness repeats.
//!
//! * [`audit`]: a provider that panics when a nonce is used twice under a key.
//! * [`corpus`]: what fuzzers begin with.
//! * [`entropy`]: randomness from a seed.
//! * [`links`]: the conformance suite that every transport passes.
//! * [`network`]: endpoints on a virtual clock, over a network that loses, reorders, duplicates and damages.
//! * [`pairing`]: two machines of the constrained profile, whose power goes.
//! * [`radio`]: two ends of a link in memory.
//! * [`targets`]: what is fuzzed.
//! * [`vectors`]: the test vectors of the documentation.
//! * [`provider`]: the conformance suite that every crypto provider passes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agreement;
pub mod audit;
pub mod corpus;
pub mod entropy;
pub mod links;
pub mod network;
pub mod pairing;
pub mod provider;
pub mod radio;
pub mod targets;
pub mod vectors;

/// Octets from hexadecimal text.
///
/// # Panics
/// If the text is not lower-case hexadecimal.
#[must_use]
pub fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hexadecimal text")
}
