//! Writes the test vectors to `docs/vectors`: `cargo xtask vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is run by hand")]

fn main() {
    std::fs::create_dir_all("docs/vectors").unwrap();
    for (name, value) in sealway_testkit::vectors::generate() {
        let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
        std::fs::write(format!("docs/vectors/{name}"), text).unwrap();
    }
}
