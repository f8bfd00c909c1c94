//! The constrained profile: a handshake, both sides, against the sum of its public-key operations; sealing and opening one
//! record against the raw AEAD in place; each with the same provider in the same run.
//!
//! The floor of the handshake: each side generates an ephemeral key and agrees three times (es, ee, se). What the two static
//! keys have in common is computed once a pairing.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealway_benches::{
    constrained::{Ends, shake},
    floor::{Known, agreements},
};
use sealway_channel::Source;
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_vault::{CcmKey, CryptoProvider, Secret};
use sealway_wire::{Timestamp, constrained::MAX_RECORD};

fn compare<P: CryptoProvider>(criterion: &mut Criterion, name: &str, provider: &P) {
    let Some(mut machines) = Ends::new(provider).and_then(|ends| ends.machines()) else { return };
    let mut now = Timestamp::from_micros(0);
    let mut group = criterion.benchmark_group(format!("c1_handshake/{name}"));
    // With both START, and the states of both sides sealed as for a disk.
    group.bench_function("both sides", |bencher| bencher.iter(|| shake(&mut now, &mut machines)));
    let (Ok(static_left), Ok(static_right)) = (provider.generate_dh(), provider.generate_dh()) else { return };
    let (static_left, static_right) = (Known::new(static_left), Known::new(static_right));
    group.bench_function("its public-key operations", |bencher| {
        bencher.iter(|| agreements(provider, [&static_left, &static_right]));
    });
    group.finish();
    let key = P::CcmKey::new(&Secret::new([7; 32]));
    let mut group = criterion.benchmark_group(format!("c1_record/{name}"));
    for size in [16_usize, 64] {
        group.throughput(Throughput::Bytes(size as u64));
        let body = vec![3; size];
        group.bench_with_input(BenchmarkId::new("seal and open", size), &body, |bencher, body| {
            let mut frame = [0; MAX_RECORD];
            bencher.iter(|| {
                let [device, service] = &mut machines;
                let Ok(len) = device.seal_datagram(body, &mut frame) else {
                    // A session takes 2^16 records.
                    shake(&mut now, &mut machines);
                    return None;
                };
                service.handle_frame(now, Source::proven(0), &mut frame[..len]).map(drop).ok()
            });
        });
        group.bench_with_input(BenchmarkId::new("raw AEAD in place", size), &body, |bencher, body| {
            let (mut nonce, mut data) = (0_u64, vec![0; body.len()]);
            bencher.iter(|| {
                nonce += 1;
                let mut octets = [0; 13];
                octets[5..].copy_from_slice(&nonce.to_be_bytes());
                data.copy_from_slice(body);
                let tag = key.seal(&octets, &[0; 11], &mut data);
                key.open(&octets, &[0; 11], &mut data, &tag)
            });
        });
    }
    group.finish();
}

fn constrained(criterion: &mut Criterion) {
    compare(criterion, "aws-lc", &AwsLc::new());
    compare(criterion, "rustcrypto", &RustCrypto::os());
}

criterion_group!(benches, constrained);
criterion_main!(benches);
