//! Links the core without std: its own panic handler and allocator would collide with std's if anything brought std in.
#![no_std]

extern crate alloc;

use core::{
    alloc::{GlobalAlloc, Layout},
    panic::PanicInfo,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use sealway_channel::{Config, Endpoint};
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::Owner;
use sealway_link::Frames;
use sealway_routing::{Limits, Relay};
use sealway_vault::{Algorithm, Entropy, EntropyError, SoftwareVault};
use sealway_wire::{Instance, Timestamp};

/// A heap that only grows: enough to link.
struct Heap;

const SIZE: usize = 64 * 1024;
static mut MEMORY: [u8; SIZE] = [0; SIZE];
static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: each allocation gets octets of MEMORY that no other has, aligned as asked for; none is ever given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = USED.fetch_add(layout.size() + layout.align(), Ordering::Relaxed);
        let base = &raw mut MEMORY as *mut u8;
        let aligned = (base as usize + start).next_multiple_of(layout.align()) - base as usize;
        if aligned + layout.size() > SIZE { ptr::null_mut() } else { base.wrapping_add(aligned) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Heap = Heap;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// The board's source of randomness would stand here.
#[derive(Clone)]
struct Board;

impl Entropy for Board {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError)
    }
}

/// Reaches into every crate of the core, so that all of it is linked.
#[unsafe(no_mangle)]
pub extern "C" fn sealway_bare(frame: *mut u8, len: usize) -> usize {
    let mut vault = SoftwareVault::new(RustCrypto::new(Board));
    let Ok((owner, _)) = Owner::incept(&mut vault, Algorithm::Ed25519) else { return 0 };
    let vault = alloc::sync::Arc::new(vault);
    let mut endpoint = Endpoint::new(vault, owner, Config::new(Instance([0; 4])));
    let mut relay = Relay::new(Limits::default());
    // SAFETY: the caller of this function, which is never called, hands over `len` octets.
    let frame = unsafe { core::slice::from_raw_parts_mut(frame, len) };
    let now = Timestamp::from_micros(0);
    let _ = relay.handle(sealway_wire::Timestamp::from_micros(0), sealway_routing::SessionId(0), frame, |_, _| {});
    let _ = endpoint.handle_frame(now, sealway_channel::PathId(0), sealway_channel::Source::proven(0), frame);
    let mut frames = Frames::new();
    frames.push(frame);
    endpoint.poll_transmit(now, frame).map_or(frames.len(), |outgoing| outgoing.len)
}
