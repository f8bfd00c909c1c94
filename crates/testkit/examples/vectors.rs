//! Writes the test vectors to `docs/vectors`, and what fuzzers begin with to `fuzz/corpus`: `cargo xtask vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is run by hand")]

use std::{fs, path::Path};

fn main() {
    fs::create_dir_all("docs/vectors").unwrap();
    for (name, value) in sealway_testkit::vectors::generate() {
        let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
        fs::write(format!("docs/vectors/{name}"), text).unwrap();
    }
    for seed in sealway_testkit::corpus::generate() {
        let folder = Path::new("fuzz/corpus").join(seed.target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(seed.name), seed.octets).unwrap();
    }
}
