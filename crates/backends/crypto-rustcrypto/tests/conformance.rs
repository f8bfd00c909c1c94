//! The suite that every provider passes.

#[test]
fn conforms_over_the_systems_randomness() {
    sealway_testkit::provider::conforms(&sealway_crypto_rustcrypto::RustCrypto::os());
}
