//! The project's own commands. `cargo xtask` lists them.
#![forbid(unsafe_code)]

mod bench;
mod controls;
mod fuzz;
mod instructions;
mod models;
mod netlab;
mod parts;
mod tidy;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--setup] [--no-skip]   runs every check and test that this machine can run, and names those it cannot;
                                         --setup installs what is missing, --no-skip fails if anything was skipped that
                                         could be installed
cargo xtask setup                        installs what the tests need
cargo xtask ci                           what CI runs: test --setup --no-skip
cargo xtask controls                     turns protections off, one by one, and looks whether the tests notice
cargo xtask tidy                         checks the house rules alone
cargo xtask bench [--runs N]             runs the benches, each figure beside its floor; N times in turn, and then keeps all samples
                                         in benches/samples.json
cargo xtask instructions [--write]       counts instructions, and compares them with benches/instructions.json
cargo xtask vectors                      writes docs/vectors anew, and from them what fuzzers begin with
cargo xtask hostile [--long]             attacks a relay at full size, and holds the honest pair's rate against half of it
cargo xtask simulate [--long | SEED]     simulates constrained pairings, 100,000 seeds of network, clock and power; 10,000,000; or one
                                         seed again
cargo xtask netlab [fairness]            runs two machines behind NATs, in namespaces: mappings, loss, MTU, addresses that change; as root;
                                         and how flows over UDP share a path with one over TCP, which it
                                         does alone if asked for
cargo xtask model                        runs the symbolic models in docs/models with Verifpal, which it installs with nightly
cargo xtask fuzz [--seconds N]           runs every fuzz target for so long (30), with nightly and cargo-fuzz";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.split_first() {
        _ if std::env::var_os(controls::IN_PLACE_OF_RUSTC).is_some() => controls::compile(&words),
        Some((&"test", options)) if options.iter().all(|option| ["--setup", "--no-skip"].contains(option)) => {
            parts::test(options.contains(&"--setup"), options.contains(&"--no-skip"))
        }
        Some((&"ci", [])) => parts::test(true, true),
        Some((&"setup", [])) => tools::install_all(),
        Some((&"controls", [])) => controls::channel(),
        Some((&"tidy", [])) => tidy::check(),
        Some((&"bench", [])) => bench::run_all(1, false),
        Some((&"bench", ["--runs", runs])) => match runs.parse() {
            Ok(runs @ 1..=100) => bench::run_all(runs, true),
            _ => Err(format!("--runs takes a number from 1 to 100, not {runs}")),
        },
        Some((&"vectors", [])) => {
            tools::run(&["cargo", "run", "--quiet", "--package", "sealway-testkit", "--example", "vectors"])
        }
        Some((&"instructions", [])) => instructions::compare(false),
        Some((&"instructions", ["--write"])) => instructions::compare(true),
        Some((&"hostile", [])) => parts::hostile(100_000),
        Some((&"hostile", ["--long"])) => parts::hostile(1_000_000),
        Some((&"simulate", [])) => parts::simulate(0, parts::SEEDS),
        Some((&"simulate", ["--long"])) => parts::simulate(0, 10_000_000),
        Some((&"simulate", [seed])) => match seed.parse() {
            Ok(seed) => parts::simulate(seed, 1),
            Err(_) => Err(format!("simulate takes --long or a seed, not {seed}")),
        },
        Some((&"model", [])) => models::run(),
        Some((&"netlab", [])) => netlab::run_all(true),
        Some((&"netlab", ["fairness"])) => netlab::run_fairness(),
        Some((&"fuzz", [])) => fuzz::run(30),
        Some((&"fuzz", [option, seconds])) if *option == "--seconds" => match seconds.parse() {
            Ok(seconds) => fuzz::run(seconds),
            Err(_) => Err(format!("--seconds takes a number, not {seconds}")),
        },
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
