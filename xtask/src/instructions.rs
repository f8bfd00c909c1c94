//! Instruction counts, by callgrind: the same in every run, so that a change of one part in a hundred shows.

use std::{fs, process::Command};

use serde_json::{Map, Value, json};

use crate::tools::{root, run};

const KEPT: &str = "benches/instructions.json";
/// What is counted, and how often it is done: once so often and once twice, so that the start of the program drops out.
const COUNTED: [(&str, u64); 3] = [("handshake", 5), ("record-64", 2000), ("record-1024", 2000)];
/// Parts in a hundred by which a count may differ from the one that is kept.
const TOLERANCE: u64 = 3;

/// Counts, and compares with what is kept; with `write` keeps the new counts.
pub(crate) fn compare(write: bool) -> Result<(), String> {
    let example =
        ["cargo", "build", "--quiet", "--release", "--package", "sealway-benches", "--example", "instructions"];
    run(&example)?;
    let mut counted = Map::new();
    for (what, times) in COUNTED {
        let each = (count(what, 2 * times)? - count(what, times)?) / times;
        counted.insert(what.into(), each.into());
    }
    let counted = json!({ "processor": processor(), "counts": counted });
    let path = root().join(KEPT);
    if write {
        let text = serde_json::to_string_pretty(&counted).map_err(|error| error.to_string())?;
        return fs::write(&path, text + "\n").map_err(|error| format!("{KEPT}: {error}"));
    }
    let kept = fs::read_to_string(&path).map_err(|error| format!("{KEPT}: {error}"))?;
    let kept: Value = serde_json::from_str(&kept).map_err(|error| format!("{KEPT}: {error}"))?;
    let mut wrong = Vec::new();
    for (what, _) in COUNTED {
        let number = |of: &Value| of["counts"][what].as_u64().unwrap_or(0);
        let (now, before) = (number(&counted), number(&kept));
        println!("{what}: {now} instructions, {before} are kept");
        if now > before + before * TOLERANCE / 100 {
            wrong.push(format!("{what} takes {now} instructions, {before} are kept"));
        }
    }
    if kept["processor"] != counted["processor"] {
        println!("counted on a processor with other extensions: not compared");
        return Ok(());
    }
    let advice = "; if that is meant: cargo xtask instructions --write";
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ") + advice) }
}

fn count(what: &str, times: u64) -> Result<u64, String> {
    let program = root().join("target/release/examples/instructions");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([what, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    line.and_then(|(_, number)| number.trim().parse().ok()).ok_or_else(|| format!("valgrind counted nothing: {text}"))
}

/// The extensions that the primitives choose their code by.
fn processor() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let chosen = ["aes", "avx2", "avx512f", "bmi2", "pclmulqdq", "sha_ni", "vaes"];
    let has = |name: &&&str| flags.split_whitespace().any(|flag| flag == **name);
    chosen.iter().filter(has).map(|name| (*name).to_string()).collect()
}
