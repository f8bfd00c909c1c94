//! One S1 handshake, both sides, against the sum of its public-key operations with the same provider in the same run.
//!
//! The floor: each side generates an ephemeral key and agrees three times (es, ee, se); one side generates a KEM key and
//! decapsulates, the other encapsulates; the responder verifies the history's and the attestation's signatures.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sealway_benches::{
    Pair,
    floor::{Known, agreements},
};
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_vault::{Algorithm, CryptoProvider, KemKey, SigningKey};

fn compare<P: CryptoProvider>(criterion: &mut Criterion, name: &str, provider: &P) {
    let pair = Pair::new(provider);
    let mut group = criterion.benchmark_group(format!("handshake/{name}"));
    group.bench_function("both sides", |bencher| {
        bencher.iter_batched_ref(|| pair.endpoints(), |(left, right)| pair.shake(left, right), BatchSize::SmallInput);
    });
    let (Ok(static_left), Ok(static_right), Ok(seed)) =
        (provider.generate_dh(), provider.generate_dh(), provider.random_secret())
    else {
        return;
    };
    let Ok(signer) = provider.load_signing(Algorithm::Ed25519, &seed) else { return };
    let (key, signature) = (signer.verifying_key(), signer.sign(b"an attestation"));
    let (static_left, static_right) = (Known::new(static_left), Known::new(static_right));
    group.bench_function("its public-key operations", |bencher| {
        bencher.iter(|| {
            agreements(provider, [&static_left, &static_right])?;
            let kem = provider.generate_kem().ok()?;
            let (mut public, mut ciphertext) = ([0; 1184], [0; 1088]);
            kem.encapsulation_key(&mut public);
            black_box(provider.encapsulate(&public, &mut ciphertext).ok()?);
            black_box(kem.decapsulate(&ciphertext));
            // The attestation; a history without rotations is no signature but a hash.
            provider.verify(&key, b"an attestation", &signature).ok()
        });
    });
    group.finish();
}

fn handshakes(criterion: &mut Criterion) {
    compare(criterion, "aws-lc", &AwsLc::new());
    compare(criterion, "rustcrypto", &RustCrypto::os());
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
