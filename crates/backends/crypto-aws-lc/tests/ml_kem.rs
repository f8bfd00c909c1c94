//! ML-KEM-768 of three independent implementations against each other: AWS-LC's, RustCrypto's, and libcrux's, which is verified
//! with F*.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use libcrux_ml_kem::mlkem768::{self, MlKem768Ciphertext, MlKem768PublicKey};
use sealway_crypto_aws_lc::AwsLc;
use sealway_testkit::entropy::seeded_provider;
use sealway_vault::{CryptoProvider, KemKey};

/// What is encapsulated by one provider to a key of libcrux, and the other way round.
fn agrees(provider: &impl CryptoProvider, seed: u64) {
    let random = seeded_provider(seed);
    // One seed in FIPS 203's form, d and z, gives all of them one key.
    let key_seed = random.random_secret().unwrap();
    let third = mlkem768::generate_key_pair(*key_seed.expose());
    let key = provider.load_kem(&key_seed);
    let mut public = [0; 1184];
    key.encapsulation_key(&mut public);
    assert_eq!(&public, third.pk(), "seed {seed}");
    let mut ciphertext = [0; 1088];
    let shared = provider.encapsulate(&public, &mut ciphertext).unwrap();
    let decapsulated = mlkem768::decapsulate(third.private_key(), &MlKem768Ciphertext::from(ciphertext));
    assert_eq!(shared.expose(), &decapsulated, "seed {seed}");
    let (ciphertext, shared) = mlkem768::encapsulate(&MlKem768PublicKey::from(public), random.random().unwrap());
    let ciphertext = *ciphertext.as_slice();
    assert_eq!(key.decapsulate(&ciphertext).expose(), &shared, "seed {seed}");
    // A ciphertext that was tampered with gives the same wrong secret everywhere: implicit rejection.
    let mut damaged = ciphertext;
    damaged[usize::try_from(seed % 1088).unwrap()] ^= 1;
    let rejected = mlkem768::decapsulate(third.private_key(), &MlKem768Ciphertext::from(damaged));
    assert_eq!(key.decapsulate(&damaged).expose(), &rejected, "seed {seed}");
    // A key that a provider has made, and that has no seed.
    let generated = provider.generate_kem().unwrap();
    generated.encapsulation_key(&mut public);
    let (ciphertext, shared) = mlkem768::encapsulate(&MlKem768PublicKey::from(public), random.random().unwrap());
    let ciphertext = *ciphertext.as_slice();
    assert_eq!(generated.decapsulate(&ciphertext).expose(), &shared, "seed {seed}");
}

#[test]
fn three_implementations_agree_on_a_thousand_seeds() {
    for seed in 0..1000 {
        agrees(&AwsLc::new(), seed);
        agrees(&seeded_provider(seed), seed);
    }
}
