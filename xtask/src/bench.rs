//! Runs the benches, each time all of them, so that a figure and its floor take turns, and keeps every sample.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::tools::{root, run};

/// Where the samples of the last report are kept.
const KEPT: &str = "benches/samples.json";
/// Whose floor is what: within one group, and for the same size.
const FLOORS: [(&str, &str); 9] = [
    ("both sides", "its public-key operations"),
    ("seal and open", "raw AEAD in place"),
    ("direct", "rustls"),
    ("through a relay", "direct"),
    ("stream", "rustls"),
    ("stream through a relay", "stream"),
    ("messages", "boringtun"),
    ("stream", "boringtun"),
    ("send", "redb, groups"),
];

/// Nanoseconds of one iteration: of each run, its samples.
type Samples = BTreeMap<String, Vec<Vec<f64>>>;

/// Runs all benches so many times, and prints each figure beside its floor.
pub(crate) fn run_all(runs: usize, keep: bool) -> Result<(), String> {
    let mut samples = Samples::new();
    let folder = root().join("target/criterion");
    // What an earlier version has left there is not of this run.
    let _ = fs::remove_dir_all(&folder);
    for _ in 0..runs {
        run(&[
            "cargo",
            "bench",
            "--package",
            "sealway-benches",
            "--",
            "--warm-up-time",
            "1",
            "--measurement-time",
            "3",
        ])?;
        let mut files = Vec::new();
        find(&folder, &mut files);
        for file in files {
            let name = name(&folder, &file).ok_or_else(|| format!("{} is in no bench", file.display()))?;
            let taken = read(&file).ok_or_else(|| format!("{} cannot be read", file.display()))?;
            samples.entry(name).or_default().push(taken);
        }
    }
    print(&samples);
    if keep {
        let text = json!({ "unit": "ns an iteration", "runs": samples }).to_string();
        fs::write(root().join(KEPT), text + "\n").map_err(|error| format!("{KEPT}: {error}"))?;
    }
    Ok(())
}

/// The samples of each bench that criterion has written last.
fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else if path.ends_with("new/sample.json") {
            files.push(path);
        }
    }
    files.sort();
}

/// `group/function/parameter`.
fn name(folder: &Path, file: &Path) -> Option<String> {
    let bench = file.parent()?.parent()?.strip_prefix(folder).ok()?;
    Some(bench.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"))
}

fn read(file: &Path) -> Option<Vec<f64>> {
    let value: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let (iterations, times) = (value["iters"].as_array()?, value["times"].as_array()?);
    let each = iterations.iter().zip(times).map(|(count, time)| {
        // A tenth of a nanosecond says nothing.
        Some((time.as_f64()? / count.as_f64()? * 10.0).round() / 10.0)
    });
    each.collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn medians(runs: &[Vec<f64>]) -> Vec<f64> {
    runs.iter().map(|run| median(run)).collect()
}

fn print(samples: &Samples) {
    println!("{:50} {:>12} {:>25} {:>12} {:>6}", "bench", "median ns", "medians of the runs", "floor ns", "ratio");
    for (name, runs) in samples {
        let medians = medians(runs);
        let (low, high) = medians.iter().fold((f64::MAX, 0.0_f64), |(low, high), at| (low.min(*at), high.max(*at)));
        let own = median(&medians);
        let floor = FLOORS.iter().find_map(|(of, floor)| {
            let (group, rest) = name.split_once('/')?;
            let (function, size) = rest.split_once('/').unwrap_or((rest, ""));
            let beside = format!("{group}/{floor}/{size}");
            (function == *of).then(|| samples.get(beside.trim_end_matches('/')))?
        });
        let floor = floor.map(|runs| median(&self::medians(runs)));
        let ratio = floor.map_or(String::new(), |floor| format!("{floor:>12.1} {:>6.2}", own / floor));
        println!("{name:50} {own:>12.1} {:>25} {ratio}", format!("{low:.1} to {high:.1}"));
    }
}
