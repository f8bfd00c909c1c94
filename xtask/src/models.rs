//! Runs the symbolic models in `docs/models` with Verifpal.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Instant,
};

use crate::tools::{self, NIGHTLY, VERIFPAL};

/// As many run at a time.
const TOGETHER: usize = 2;

/// A model, and whether an attack has to be found on each of its queries, or on none.
struct Model {
    path: PathBuf,
    is_broken: bool,
}

pub(crate) fn run() -> Result<(), String> {
    if !VERIFPAL.is_there() {
        if !NIGHTLY.is_there() {
            return Err(format!("{} is missing: {}", NIGHTLY.name, NIGHTLY.install.join(" ")));
        }
        println!("installing {}, into target/verifpal", VERIFPAL.name);
        tools::run(VERIFPAL.install)?;
    }
    let folder = tools::root().join("docs/models");
    let mut models = models_in(&folder, false)?;
    models.extend(models_in(&folder.join("broken"), true)?);
    if !models.iter().any(|model| model.is_broken) || models.iter().all(|model| model.is_broken) {
        return Err("docs/models lacks its models".into());
    }
    let count = models.len();
    let (queue, failures) = (Mutex::new(models), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = queue.lock().ok().and_then(|mut queue| queue.pop());
            let Some(model) = next else { break };
            let start = Instant::now();
            let outcome = check(&model);
            let name = model.path.strip_prefix(&folder).unwrap_or(&model.path).display().to_string();
            let seconds = start.elapsed().as_secs_f32();
            match outcome {
                Ok(code) => println!("{name:<40} {code:<24} {seconds:>6.1} s"),
                Err(error) => {
                    println!("{name:<40} FAILED                   {seconds:>6.1} s");
                    failures.lock().into_iter().for_each(|mut failures| failures.push(format!("{name}: {error}")));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().map_err(|error| error.to_string())?;
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    println!("{count} models: no attack within two sessions on what must hold, one on each query that must fail");
    Ok(())
}

fn models_in(folder: &Path, is_broken: bool) -> Result<Vec<Model>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "vp") {
            models.push(Model { path, is_broken });
        }
    }
    models.sort_unstable_by(|a, b| b.path.cmp(&a.path));
    Ok(models)
}

/// The code that Verifpal gives: a letter and 0 or 1 for each query, 1 for an attack.
fn check(model: &Model) -> Result<String, String> {
    let program = tools::root().join("target/verifpal/bin/verifpal");
    let output = Command::new(program)
        .arg("verify")
        .arg(&model.path)
        .args(["--fail-on-attack", "--result-code", "--color", "never"])
        .output();
    let output = output.map_err(|error| format!("Verifpal cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let code = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_string();
    let errors = String::from_utf8_lossy(&output.stderr);
    let (status, digit) = if model.is_broken { (2, '1') } else { (0, '0') };
    let (letters, digits): (String, String) = code.chars().partition(char::is_ascii_alphabetic);
    let is_whole = !code.is_empty() && letters.len() == digits.len() && digits.chars().all(|found| found == digit);
    // A search that was cut short has found nothing, and says nothing.
    let is_cut = !model.is_broken && text.contains("search truncated");
    if output.status.code() == Some(status) && is_whole && !is_cut {
        Ok(code)
    } else {
        Err(format!(
            "{}, code {code:?}{} {errors}",
            output.status,
            if is_cut { ", the search was cut short" } else { "" }
        ))
    }
}
