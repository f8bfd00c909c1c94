//! The vectors in `docs/vectors` are what this code makes: a change of the protocol shows here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[test]
fn the_vectors_are_those_of_the_documentation() {
    for (name, value) in sealway_testkit::vectors::generate() {
        let path = format!("{}/../../docs/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(kept == value, "{name} is not what is made now; if that is meant: cargo xtask vectors");
    }
}
