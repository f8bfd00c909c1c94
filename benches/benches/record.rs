//! Sealing and opening one record, against the raw AEAD in place over the same octets, with the same provider in the same
//! run.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealway_benches::Pair;
use sealway_channel::{PathId, Source};
use sealway_crypto_aws_lc::AwsLc;
use sealway_crypto_rustcrypto::RustCrypto;
use sealway_vault::{AeadKey, CryptoProvider, Secret};
use sealway_wire::Timestamp;

fn compare<P: CryptoProvider>(criterion: &mut Criterion, name: &str, provider: &P) {
    let pair = Pair::new(provider);
    let (mut left, mut right) = pair.endpoints();
    let channel = pair.shake(&mut left, &mut right);
    let key = P::AeadKey::new(&Secret::new([7; 32]));
    let mut group = criterion.benchmark_group(format!("record/{name}"));
    for size in [16, 64, 256, 1024, 4096, 16384] {
        group.throughput(Throughput::Bytes(size as u64));
        let body = vec![3; size];
        let mut frame = vec![0; size + 64];
        let mut now = Timestamp::from_micros(2);
        group.bench_with_input(BenchmarkId::new("seal and open", size), &body, |bencher, body| {
            bencher.iter(|| {
                now = Timestamp::from_micros(now.as_micros() + 1);
                let sealed = left.seal_datagram(now, channel, body, &mut frame).ok()?;
                let opened = right.handle_frame(now, PathId(0), Source::proven(0), &mut frame[..sealed.len]);
                opened.map(drop).ok()
            });
            // What is owed in return, or the records stay unacknowledged and their counters grow.
            let mut answer = [0; 2048];
            while let Some(outgoing) = right.poll_transmit(now, &mut answer) {
                let _ = left.handle_frame(now, PathId(0), Source::proven(0), &mut answer[..outgoing.len]);
            }
        });
        group.bench_with_input(BenchmarkId::new("raw AEAD in place", size), &body, |bencher, body| {
            let (mut nonce, mut data) = (0_u64, vec![0; body.len()]);
            bencher.iter(|| {
                nonce += 1;
                let mut octets = [0; 12];
                octets[4..].copy_from_slice(&nonce.to_be_bytes());
                data.copy_from_slice(body);
                let tag = key.seal(&octets, &[0; 13], &mut data);
                key.open(&octets, &[0; 13], &mut data, &tag)
            });
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    compare(criterion, "aws-lc", &AwsLc::new());
    compare(criterion, "rustcrypto", &RustCrypto::os());
}

criterion_group!(benches, records);
criterion_main!(benches);
