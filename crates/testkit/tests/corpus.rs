//! Replays the corpora of the fuzz targets, and octets from seeds, without a fuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use sealway_testkit::{corpus, entropy::Seeded, targets::ALL};
use sealway_vault::Entropy;

#[test]
fn what_fuzzers_have_found_stays_found() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut replayed = 0;
    for (name, target) in ALL {
        // A crate that is tested out of its package has no corpora beside it.
        for entry in std::fs::read_dir(corpora.join(name)).into_iter().flatten() {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed >= ALL.len() || !corpora.exists(), "each target has a corpus: {replayed}");
}

#[test]
fn the_corpora_hold_what_the_vectors_show() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    // A crate that is tested out of its package has no corpora beside it.
    for seed in corpus::generate().iter().filter(|_| corpora.exists()) {
        let kept = std::fs::read(corpora.join(seed.target).join(&seed.name));
        let is_current = kept.is_ok_and(|octets| octets == seed.octets);
        assert!(is_current, "{}/{} is not what is made now: cargo xtask vectors", seed.target, seed.name);
    }
}

#[test]
fn octets_from_seeds() {
    for seed in 0..200 {
        let random = Seeded::new(seed);
        let mut octets = vec![0; usize::try_from(random.below(1500)).unwrap()];
        random.fill(&mut octets).unwrap();
        for (name, target) in ALL {
            // The endpoints' schedules are long; a few of them do.
            if name != "endpoint" || seed < 20 {
                println!("{name}, seed {seed}");
                target(&octets);
            }
        }
    }
}
