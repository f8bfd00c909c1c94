//! Runs the simulation of constrained pairings for many seeds: `simulate FIRST COUNT`, on as many threads as there are cores.
//!
//! A run that fails prints its seed; `simulate SEED 1` repeats it exactly.

use std::{
    panic,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use sealway_testkit::pairing::{Totals, simulate};

/// How often it is said how far it has come.
const SAID: u64 = 20_000;

fn main() -> ExitCode {
    let numbers: Option<Vec<u64>> = std::env::args().skip(1).map(|word| word.parse().ok()).collect();
    let Some([first, count]) = numbers.as_deref().and_then(|numbers| numbers.first_chunk()).copied() else {
        eprintln!("simulate FIRST COUNT");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(first);
    let end = first.saturating_add(count);
    let work = || {
        let mut totals = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break Some(totals);
            }
            // What it has found is on standard error.
            match panic::catch_unwind(|| simulate(seed)) {
                Ok(run) if run.is_a_run() => totals += run,
                outcome => {
                    let why =
                        outcome.map_or_else(|_| String::new(), |run| format!(": it has seen too little: {run:?}"));
                    eprintln!("seed {seed} has failed{why}");
                    next.store(end, Ordering::Relaxed);
                    break None;
                }
            }
            let done = seed + 1 - first;
            if done.is_multiple_of(SAID) {
                println!("{done} of {count}");
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let totals: Vec<Option<Totals>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().ok().flatten()).collect()
    });
    if totals.iter().any(Option::is_none) {
        return ExitCode::FAILURE;
    }
    let mut all = Totals::default();
    totals.into_iter().flatten().for_each(|totals| all += totals);
    println!("{count} runs: {all:?}");
    if count < 100 || all.are_varied(count) {
        ExitCode::SUCCESS
    } else {
        eprintln!("the runs have seen too little");
        ExitCode::FAILURE
    }
}
