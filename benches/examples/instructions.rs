//! Does one thing so many times, for callgrind to count its instructions: `instructions WHAT TIMES`. Randomness is seeded and the
//! provider is the one in pure Rust, so that the same is done each time. See `cargo xtask instructions`.

use sealway_benches::Pair;
use sealway_channel::{PathId, Source};
use sealway_testkit::entropy::seeded_provider;
use sealway_wire::Timestamp;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let times = arguments.next().and_then(|times| times.parse().ok()).unwrap_or(0_u64);
    let pair = Pair::new(&seeded_provider(1));
    match what.as_str() {
        "handshake" => {
            for _ in 0..times {
                let (mut left, mut right) = pair.endpoints();
                pair.shake(&mut left, &mut right);
            }
        }
        "record-64" => records(&pair, 64, times),
        "record-1024" => records(&pair, 1024, times),
        other => println!("{other}: handshake, record-64 and record-1024 can be counted"),
    }
}

fn records<P: sealway_vault::CryptoProvider>(pair: &Pair<P>, size: usize, times: u64) {
    let (mut left, mut right) = pair.endpoints();
    let channel = pair.shake(&mut left, &mut right);
    let (body, mut frame) = (vec![3; size], vec![0; size + 64]);
    for number in 0..times {
        let now = Timestamp::from_micros(2 + number);
        if let Ok(sealed) = left.seal_datagram(now, channel, &body, &mut frame) {
            let _ = right.handle_frame(now, PathId(0), Source::proven(0), &mut frame[..sealed.len]);
        }
    }
}
