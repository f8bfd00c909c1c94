//! The parts of the test command.

use std::time::Instant;

use serde_json::Value;

use crate::{
    controls, instructions, netlab, tidy,
    tools::{self, CLIPPY, GIT, NAMESPACES, PROXIES, PYTHON, RUSTFMT, Tool, VALGRIND, output, run},
};

struct Part {
    name: &'static str,
    needs: &'static [Tool],
    run: fn() -> Result<(), String>,
}

const PARTS: &[Part] = &[
    Part { name: "formatting", needs: &[RUSTFMT], run: || run(&["cargo", "fmt", "--all", "--check"]) },
    Part { name: "house rules", needs: &[], run: tidy::check },
    Part { name: "lints", needs: &[CLIPPY], run: lints },
    Part { name: "tests", needs: &[], run: || run(&["cargo", "test", "--workspace", "--quiet"]) },
    Part { name: "constrained pairings, 100,000 seeds", needs: &[], run: || simulate(0, SEEDS) },
    Part { name: "the vectors, by a peer in Python", needs: &[PYTHON], run: vectors },
    Part { name: "a serial line, with a peer in Python", needs: &[PYTHON], run: line },
    Part { name: "WebSockets, with proxies on their way", needs: &[PROXIES], run: proxies },
    Part { name: "two machines behind NATs, in namespaces", needs: &[NAMESPACES], run: || netlab::run_all(false) },
    Part { name: "examples", needs: &[], run: examples },
    Part { name: "the core without std", needs: &[], run: without_std },
    Part { name: "each crate alone", needs: &[], run: each_crate_alone },
    Part { name: "documentation", needs: &[], run: documentation },
    Part { name: "packages", needs: &[GIT], run: packages },
    Part { name: "the demonstrations", needs: &[], run: demonstrations },
    Part { name: "instruction counts", needs: &[VALGRIND], run: || instructions::compare(false) },
    Part { name: "each protection off, and the test that notices", needs: &[], run: controls::channel },
    Part { name: "the demonstration, with a protection off", needs: &[], run: controls::demonstration },
];

pub(crate) fn test(setup: bool, no_skip: bool) -> Result<(), String> {
    if setup {
        tools::install_all()?;
    }
    let mut skipped = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for part in PARTS {
        if let Some(missing) = part.needs.iter().find(|tool| !tool.is_there()) {
            skipped.push(format!(
                "skipped: {}, for want of {}: {}",
                part.name,
                missing.name,
                missing.install.join(" ")
            ));
            continue;
        }
        // What cannot be installed is no fault of whoever asks that nothing be skipped.
        if part.needs.iter().any(|tool| tool.name == NAMESPACES.name) && !netlab::can_be_made() {
            println!("not run: {}, for this machine lets us make none", part.name);
            refused += 1;
            continue;
        }
        println!("== {}", part.name);
        let start = Instant::now();
        (part.run)().map_err(|error| format!("{}: {error}\n{passed} passed, 1 failed", part.name))?;
        println!("== {}: {} s", part.name, start.elapsed().as_secs());
        passed += 1;
    }
    skipped.iter().for_each(|line| println!("{line}"));
    let not_run = if refused > 0 { format!(", {refused} not run, for want of rights") } else { String::new() };
    println!("{passed} passed, 0 failed, {} skipped{not_run}", skipped.len());
    if no_skip && !skipped.is_empty() { Err("parts were skipped, and --no-skip was given".into()) } else { Ok(()) }
}

fn lints() -> Result<(), String> {
    run(&["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])
}

/// What the tests do on a small scale, at full size and in release: `half_open` handshakes are begun and left.
pub(crate) fn hostile(half_open: u32) -> Result<(), String> {
    let half_open = format!("SEALWAY_HOSTILE_HALF_OPEN={half_open}");
    let test = ["cargo", "test", "--quiet", "--release", "--package", "sealway-cli", "--test", "hostile"];
    let options = ["--", "--nocapture", "--test-threads", "1"];
    let environment = ["env", "SEALWAY_HOSTILE_SCALE=10", "SEALWAY_HOSTILE_RATE=1", &half_open];
    run(&[&environment[..], &test, &options].concat())
}

/// As many runs are part of the test command: some minutes of two cores.
pub(crate) const SEEDS: u64 = 100_000;

/// Runs of constrained pairings, from `first` on, in release.
pub(crate) fn simulate(first: u64, count: u64) -> Result<(), String> {
    let (first, count) = (first.to_string(), count.to_string());
    let program =
        ["cargo", "run", "--quiet", "--release", "--package", "sealway-testkit", "--example", "simulate", "--"];
    run(&[&program[..], &[&first, &count]].concat())
}

fn vectors() -> Result<(), String> {
    run(&["target/python/bin/python", "docs/vectors/check.py"])?;
    // The tables of the comparison, from the frames of the vectors: each line of them has to be on that page.
    let tables = output(&["target/python/bin/python", "docs/vectors/airtime.py"])?;
    let page = std::fs::read_to_string(tools::root().join("docs/comparison.md")).map_err(|error| error.to_string())?;
    match tables.lines().find(|line| !page.lines().any(|told| told == *line)) {
        Some(line) => Err(format!("docs/comparison.md lacks what docs/vectors/airtime.py says: {line}")),
        None => Ok(()),
    }
}

fn line() -> Result<(), String> {
    run(&["cargo", "build", "--quiet", "--package", "sealway-serial", "--example", "echo"])?;
    run(&["target/python/bin/python", "docs/vectors/line.py", "target/debug/examples/echo"])
}

fn proxies() -> Result<(), String> {
    run(&["cargo", "run", "--quiet", "--package", "sealway-websocket", "--example", "proxies"])
}

fn examples() -> Result<(), String> {
    for example in ["identity_only", "channel_only", "constrained_device", "two_nodes"] {
        output(&["cargo", "run", "--quiet", "--package", "sealway", "--example", example])?;
    }
    Ok(())
}

/// Links the core into a static library with a panic handler of its own. With std anywhere in it, that fails.
fn without_std() -> Result<(), String> {
    run(&["cargo", "build", "--quiet", "--manifest-path", "xtask/bare/Cargo.toml", "--target-dir", "target/bare"])
}

/// Packages and their features, from cargo's metadata.
pub(crate) fn metadata() -> Result<Value, String> {
    let text = output(&["cargo", "metadata", "--format-version", "1", "--locked"])?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

pub(crate) fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids = metadata["workspace_members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().filter(|package| ids.contains(&package["id"]))
}

fn each_crate_alone() -> Result<(), String> {
    let metadata = metadata()?;
    for package in members(&metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let check = ["cargo", "check", "--quiet", "--package", name];
        run(&check)?;
        let features = package["features"].as_object();
        let features = features.into_iter().flat_map(|features| features.keys()).filter(|name| *name != "default");
        for (index, feature) in features.enumerate() {
            if index == 0 {
                run(&[&check[..], &["--no-default-features"]].concat())?;
            }
            run(&[&check[..], &["--no-default-features", "--features", feature]].concat())?;
        }
    }
    Ok(())
}

fn documentation() -> Result<(), String> {
    run(&["env", "RUSTDOCFLAGS=--deny warnings", "cargo", "doc", "--workspace", "--no-deps", "--quiet"])
}

/// Packs each crate, and builds what was packed: with the crates of the workspace as they are in their packages, and with
/// those that were built for the tests.
fn packages() -> Result<(), String> {
    let folder = "target/packages";
    let path = tools::root().join(folder);
    let _ = std::fs::remove_dir_all(&path);
    run(&["cargo", "package", "--workspace", "--quiet", "--allow-dirty", "--no-verify", "--target-dir", folder])?;
    let metadata = metadata()?;
    let mut patches = String::new();
    for package in members(&metadata) {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let (name, packed) = (field("name"), format!("{}-{}", field("name"), field("version")));
        run(&["tar", "-xzf", &format!("{folder}/package/{packed}.crate"), "-C", folder])?;
        patches += &format!("{name} = {{ path = \"{packed}\" }}\n");
    }
    let own = std::fs::read_to_string(tools::root().join("Cargo.toml")).map_err(|error| error.to_string())?;
    let profiles = own.find("[profile.").and_then(|start| own.get(start..)).unwrap_or_default();
    let manifest =
        format!("[workspace]\nresolver = \"3\"\nmembers = [\"*-*.*.*\"]\n\n[patch.crates-io]\n{patches}\n{profiles}");
    std::fs::write(path.join("Cargo.toml"), manifest).map_err(|error| error.to_string())?;
    std::fs::copy(tools::root().join("Cargo.lock"), path.join("Cargo.lock")).map_err(|error| error.to_string())?;
    let manifest = format!("{folder}/Cargo.toml");
    let build = ["cargo", "build", "--workspace", "--quiet", "--manifest-path", &manifest, "--target-dir", folder];
    run(&[&["env", "CARGO_BUILD_BUILD_DIR=target"], &build[..]].concat())
}

/// Runs the demonstrations; their exit codes say whether the last line is as it must be. What they show does not depend on speed:
/// the program that the tests have built will do.
fn demonstrations() -> Result<(), String> {
    for name in ["heart-rate", "offline", "kills"] {
        let text = output(&["cargo", "run", "--quiet", "--package", "sealway-cli", "--", "demo", name])?;
        println!("{}", text.lines().last().unwrap_or_default());
    }
    Ok(())
}
