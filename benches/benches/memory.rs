//! What the allocator gives out for a channel that is open and idle, and for a half-open handshake at its responder, beside
//! the budgets. Counted, not timed: the same in every run.

use std::alloc::System;

use sealway_benches::Pair;
use sealway_channel::Source;
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_vault::CryptoProvider;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn held(region: &Region<'_, System>) -> isize {
    let change = region.change();
    change.bytes_allocated.cast_signed() - change.bytes_deallocated.cast_signed()
}

fn measure<P: CryptoProvider>(name: &str, provider: &P) {
    const COUNT: isize = 200;
    // Each of many peers has a channel to one endpoint.
    let pairs: Vec<Pair<P>> = (0..COUNT).map(|_| Pair::new(provider)).collect();
    let (_, mut right) = pairs[0].endpoints();
    let mut lefts: Vec<_> = pairs.iter().map(|pair| pair.endpoints().0).collect();
    let hub = &pairs[0];
    let region = Region::new(ALLOCATOR);
    let mut of_lefts = 0;
    for (left, pair) in lefts.iter_mut().zip(&pairs) {
        let before = held(&region);
        hub.shake_with(left, pair, &mut right);
        of_lefts += held(&region) - before;
    }
    // Both sides of each channel are in it.
    println!(
        "memory/{name}: an open channel {} octets a side (budget 1024 of state; a node's 4096)",
        of_lefts / COUNT / 2
    );
    let (_, mut right) = hub.endpoints();
    let messages: Vec<_> = (0..COUNT).map(|_| hub.first_message()).collect();
    let region = Region::new(ALLOCATOR);
    for (source, message) in messages.iter().enumerate() {
        let mut frame = message.clone();
        hub.receive(&mut right, Source::proven(source as u64), &mut frame);
    }
    println!("memory/{name}: a half-open handshake {} octets (budget 4096)", held(&region) / COUNT);
}

fn main() {
    measure("aws-lc", &AwsLc::new());
    measure("rustcrypto", &RustCrypto::os());
}
