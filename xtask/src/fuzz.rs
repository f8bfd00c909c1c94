//! Runs the fuzz targets with libFuzzer.

use crate::tools::{self, CARGO_FUZZ, NIGHTLY, output};

/// Runs every target for `seconds`. Fails at the first that finds something.
pub(crate) fn run(seconds: u32) -> Result<(), String> {
    for tool in [NIGHTLY, CARGO_FUZZ] {
        if !tool.is_there() {
            return Err(format!("{} is missing: {}", tool.name, tool.install.join(" ")));
        }
    }
    let targets = output(&["cargo", "+nightly", "fuzz", "list"])?;
    let limit = format!("-max_total_time={seconds}");
    for target in targets.lines() {
        println!("== {target}");
        // What it finds on the way goes to a folder of its own: the kept corpora are written by hand.
        let found = tools::root().join("fuzz/target/found").join(target);
        std::fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let (found, kept) = (found.display().to_string(), format!("fuzz/corpus/{target}"));
        let fuzz = ["cargo", "+nightly", "fuzz", "run", target, &found, &kept, "--", &limit, "-max_len=4096"];
        tools::run(&fuzz)?;
    }
    Ok(())
}
