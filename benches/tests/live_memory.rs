//! What a constrained device holds of a pairing, by the allocator. The only test of its binary: the allocator counts for all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::alloc::System;

use sealway_benches::constrained::{Ends, Machine, settle, shake};
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_wire::Timestamp;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A device that calls while it has a session: the most that it holds as a rule.
#[test]
fn a_pairing_lives_in_a_kilobyte_and_is_kept_in_a_quarter_of_it() {
    let ends = Ends::new(&RustCrypto::os()).unwrap();
    let mut pair = ends.machines().unwrap();
    shake(&mut Timestamp::from_micros(0), &mut pair);
    let [mut device, service] = pair;
    device.call(&[]).unwrap();
    let stored = settle(&mut device);
    let region = Region::new(ALLOCATOR);
    drop(device);
    let freed = region.change();
    let live = size_of::<Machine<RustCrypto<OsEntropy>>>() + freed.bytes_deallocated - freed.bytes_allocated;
    drop(service);
    println!("{live} octets live, {stored} stored");
    assert!(live <= 1024, "{live} octets live");
    assert!((1..=256).contains(&stored), "{stored} octets stored");
}
