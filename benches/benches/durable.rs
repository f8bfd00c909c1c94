//! `send`: messages that are on disk before the call returns, beside what redb itself takes to commit groups of the same size.
//! Both write to one file of the system's folder for temporary files.

use std::{sync::Arc, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealway_benches::machine::{Failure, Talk};
use sealway_node::NodeError;
use sealway_routing::{Batch, Store, Table};
use sealway_store_redb::RedbStore;
use tokio::task::JoinSet;

const BODY: usize = 64;

fn durable(criterion: &mut Criterion) {
    let measured = measure(criterion);
    assert!(measured.is_ok(), "{:?}", measured.err());
}

fn measure(criterion: &mut Criterion) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let mut raw = RedbStore::open(&folder.path().join("raw"))?;
    let store = RedbStore::open(&folder.path().join("outbox"))?;
    let (from, mut to, _nodes) = runtime.block_on(Talk::direct(|sender| sender.store(store)))?.into_parts();
    let from = Arc::new(from);
    runtime.spawn(async move {
        while let Ok(Some(message)) = to.recv().await {
            message.done().await?;
        }
        Ok::<_, NodeError>(())
    });
    let mut group = criterion.benchmark_group("durable");
    group.sample_size(20);
    for senders in [1, 16, 256_u64] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("send", senders), |bencher| {
            bencher.iter_custom(|iterations| {
                let each = iterations.div_ceil(senders);
                let start = Instant::now();
                let sent = runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for _ in 0..senders {
                        let from = from.clone();
                        tasks.spawn(async move {
                            for _ in 0..each {
                                from.send(vec![7; BODY]).await?;
                            }
                            Ok::<_, NodeError>(())
                        });
                    }
                    tasks.join_all().await.into_iter().collect::<Result<Vec<()>, _>>()
                });
                assert!(sent.is_ok(), "{:?}", sent.err());
                start.elapsed().mul_f64(iterations as f64 / (each * senders) as f64)
            });
        });
        let mut next = 0_u64;
        group.bench_function(BenchmarkId::new("redb, groups", senders), |bencher| {
            bencher.iter_custom(|iterations| {
                let groups = iterations.div_ceil(senders);
                let start = Instant::now();
                for _ in 0..groups {
                    let rows = (0..senders).map(|_| {
                        let mut batch = Batch::default();
                        next += 1;
                        batch.put(Table::Outbox, next.to_be_bytes().to_vec(), vec![7; BODY]);
                        batch
                    });
                    let written = raw.commit(&rows.collect::<Vec<_>>());
                    assert!(written.is_ok(), "{:?}", written.err());
                }
                start.elapsed().mul_f64(iterations as f64 / (groups * senders) as f64)
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, durable);
criterion_main!(benches);
