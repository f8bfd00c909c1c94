//! One letter, sealed and opened, against the sum of its public-key operations with the same provider in the same run.
//!
//! The floor: the sender generates an ephemeral key, and each side agrees twice (es, ss); to a hybrid prekey the sender
//! encapsulates and the recipient decapsulates; the recipient verifies the attestation's signature. A sender may have
//! verified the prekey long before: that is not counted.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sealway_benches::floor::Known;
use sealway_channel::{Config, Deposit, Endpoint, PrekeyKind, Source};
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_identity::{Owner, PayloadParts, Policy, Prekey, UnverifiedPrekey};
use sealway_vault::{Algorithm, CryptoProvider, DhKey, KemKey, SigningKey, SoftwareVault};
use sealway_wire::{Instance, Timestamp, content::Reliable, letter::MAX_LETTER};

type Machine<P> = Endpoint<Arc<SoftwareVault<P>>>;

fn machine<P: CryptoProvider>(provider: &P) -> Option<Machine<P>> {
    let mut vault = SoftwareVault::new(provider.clone());
    let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).ok()?;
    Some(Endpoint::new(Arc::new(vault), owner, Config::new(Instance([1; 4]))))
}

/// A sender, a recipient that admits it, and the recipient's prekey.
fn ends<P: CryptoProvider>(provider: &P, kind: PrekeyKind, now: Timestamp) -> Option<(Machine<P>, Machine<P>, Prekey)> {
    let (mut sender, mut recipient) = (machine(provider)?, machine(provider)?);
    let (from, to) = (sender.owner().id(), recipient.owner().id());
    sender.admit(&Policy::ids([to]));
    recipient.admit(&Policy::ids([from]));
    recipient.make_prekeys(kind);
    recipient.handle_timeout(now);
    while let Some(saved) = recipient.poll_prekey() {
        recipient.prekey_written(now, saved.id);
    }
    let (_, statement) = recipient.published_prekey().ok()??;
    let prekey = UnverifiedPrekey::decode(&statement).ok()?.verify(provider, &to).ok()?;
    Some((sender, recipient, prekey))
}

fn compare<P: CryptoProvider>(criterion: &mut Criterion, name: &str, provider: &P) {
    let mut group = criterion.benchmark_group(format!("letter/{name}"));
    for (kind, size) in [(PrekeyKind::Classical, "classical"), (PrekeyKind::Hybrid, "hybrid")] {
        let mut now = Timestamp::from_micros(0);
        let Some((mut sender, mut recipient, prekey)) = ends(provider, kind, now) else { return };
        let mut frame = vec![0; MAX_LETTER];
        group.bench_function(BenchmarkId::new("both sides", size), |bencher| {
            bencher.iter(|| {
                // Of one relay no more than 500 a second are opened.
                now = now.after(Duration::from_millis(10));
                let body = [7; 64];
                let message = Reliable { instance: None, number: 1, lowest: 1, unwanted: 0, part: None, body: &body };
                let payload = PayloadParts::default();
                let len = sender.seal_letter(&prekey, &payload, Deposit::Message(message), &mut frame).ok()?;
                recipient.open_letter(now, Source::proven(1), &mut frame[..len]).map(drop).ok()
            });
        });
        let (Ok(own), Ok(prekey), Ok(kem), Ok(seed)) =
            (provider.generate_dh(), provider.generate_dh(), provider.generate_kem(), provider.random_secret())
        else {
            return;
        };
        let (own, prekey) = (Known::new(own), Known::new(prekey));
        let Ok(signer) = provider.load_signing(Algorithm::Ed25519, &seed) else { return };
        let (key, signature) = (signer.verifying_key(), signer.sign(b"an attestation"));
        let (mut public, mut ciphertext) = ([0; 1184], [0; 1088]);
        kem.encapsulation_key(&mut public);
        group.bench_function(BenchmarkId::new("its public-key operations", size), |bencher| {
            bencher.iter(|| {
                let ephemeral = Known::new(provider.generate_dh().ok()?);
                for from in [&ephemeral, &own] {
                    black_box(from.key.agree(&prekey.public).ok()?);
                    black_box(prekey.key.agree(&from.public).ok()?);
                }
                if size == "hybrid" {
                    black_box(provider.encapsulate(&public, &mut ciphertext).ok()?);
                    black_box(kem.decapsulate(&ciphertext));
                }
                provider.verify(&key, b"an attestation", &signature).ok()
            });
        });
    }
    group.finish();
}

fn letters(criterion: &mut Criterion) {
    compare(criterion, "aws-lc", &AwsLc::new());
    compare(criterion, "rustcrypto", &RustCrypto::os());
}

criterion_group!(benches, letters);
criterion_main!(benches);
