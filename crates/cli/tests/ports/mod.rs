//! Ports for processes that are told where to listen.

use std::sync::atomic::{AtomicU16, Ordering};

/// A port that is free, and that the system gives to nobody else in the meantime: below those of outgoing connections. Each
/// test file takes those from a `base` of its own, for two may run at once.
pub(crate) fn free_port(base: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 5000).unwrap() * 2;
    let mut ports = std::iter::from_fn(|| Some(base + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000));
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
