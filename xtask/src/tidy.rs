//! The house rules that no lint knows.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    parts::{members, metadata},
    tools::root,
};

/// Which crates of ours each crate may depend on. The direction of the arrows is the architecture.
const ARROWS: &[(&str, &[&str])] = &[
    ("sealway-wire", &[]),
    ("sealway-vault", &[]),
    ("sealway-identity", &["sealway-vault", "sealway-wire"]),
    ("sealway-channel", &["sealway-identity", "sealway-vault", "sealway-wire"]),
    ("sealway-routing", &["sealway-wire"]),
    ("sealway-link", &["sealway-wire"]),
    ("sealway-ip", &["sealway-link", "sealway-wire"]),
    ("sealway-tcp", &["sealway-ip", "sealway-link", "sealway-wire"]),
    ("sealway-serial", &["sealway-link", "sealway-repeat", "sealway-wire"]),
    ("sealway-websocket", &["sealway-ip", "sealway-link", "sealway-wire"]),
    ("sealway-udp", &["sealway-ip", "sealway-link", "sealway-wire"]),
    ("sealway-crypto-rustcrypto", &["sealway-vault"]),
    ("sealway-crypto-aws-lc", &["sealway-crypto-rustcrypto", "sealway-vault"]),
    ("sealway-vault-file", &["sealway-vault"]),
    ("sealway-store-redb", &["sealway-routing"]),
    (
        "sealway-node",
        &["sealway-channel", "sealway-identity", "sealway-link", "sealway-routing", "sealway-vault", "sealway-wire"],
    ),
    (
        "sealway",
        &[
            "sealway-channel",
            "sealway-crypto-aws-lc",
            "sealway-crypto-rustcrypto",
            "sealway-identity",
            "sealway-gateway",
            "sealway-link",
            "sealway-node",
            "sealway-recorder",
            "sealway-routing",
            "sealway-store-redb",
            "sealway-serial",
            "sealway-tcp",
            "sealway-udp",
            "sealway-websocket",
            "sealway-vault",
            "sealway-vault-file",
            "sealway-wire",
        ],
    ),
    ("sealway-recorder", &["sealway-link", "sealway-wire"]),
    ("sealway-repeat", &["sealway-link", "sealway-wire"]),
    ("sealway-gateway", &["sealway-link", "sealway-wire"]),
    ("sealway-cli", &["sealway"]),
    (
        "sealway-testkit",
        &[
            "sealway-channel",
            "sealway-crypto-rustcrypto",
            "sealway-identity",
            "sealway-link",
            "sealway-routing",
            "sealway-vault",
            "sealway-wire",
        ],
    ),
    (
        "sealway-benches",
        &[
            "sealway-channel",
            "sealway-crypto-aws-lc",
            "sealway-crypto-rustcrypto",
            "sealway-identity",
            "sealway-node",
            "sealway-routing",
            "sealway-store-redb",
            "sealway-tcp",
            "sealway-udp",
            "sealway-vault",
            "sealway-wire",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that may not need std.
const NO_STD: &[&str] = &[
    "sealway-wire",
    "sealway-vault",
    "sealway-identity",
    "sealway-channel",
    "sealway-routing",
    "sealway-link",
    "sealway-crypto-rustcrypto",
];

/// Licences that what we depend on may have; one of a choice is enough.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "BlueOak-1.0.0",
    "Unicode-3.0",
    "MPL-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSL-1.0",
];

pub(crate) fn check() -> Result<(), String> {
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        check_arrows(package, &mut wrong);
        check_source(package, &mut wrong);
    }
    check_licences(&metadata, &mut wrong);
    check_core_sources(&mut wrong);
    check_specification(&mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

fn check_arrows(package: &Value, wrong: &mut Vec<String>) {
    let name = name(package);
    let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
        wrong.push(format!("{name}: not in the list of arrows (xtask/src/tidy.rs) and in ARCHITECTURE.md"));
        return;
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let target = dependency["name"].as_str().unwrap_or_default();
        let ours = dependency["path"].is_string() && dependency["kind"].is_null();
        if ours && !allowed.contains(&target) {
            wrong.push(format!("{name} depends on {target}: that arrow points the wrong way"));
        }
    }
}

/// What must stand at the top of a crate.
fn check_source(package: &Value, wrong: &mut Vec<String>) {
    let name = name(package);
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let folder = manifest.parent().unwrap_or(manifest);
    let source = ["src/lib.rs", "src/main.rs"].iter().find_map(|file| fs::read_to_string(folder.join(file)).ok());
    let source = source.unwrap_or_default();
    let mut demand = |text: &str| {
        if !source.contains(text) {
            wrong.push(format!("{name}: its first file lacks {text}"));
        }
    };
    demand("#![forbid(unsafe_code)]");
    if NO_STD.contains(&name) {
        demand("#![no_std]");
    }
    if !fs::read_to_string(manifest).unwrap_or_default().contains("[lints]\nworkspace = true") {
        wrong.push(format!("{name}: its manifest does not take the workspace's lints"));
    }
}

fn check_licences(metadata: &Value, wrong: &mut Vec<String>) {
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let licence = package["license"].as_str().unwrap_or("none");
        let is_fine = |text: &str| LICENCES.contains(&text.trim_matches(['(', ')', ' ']));
        let choices = licence.replace('/', " OR ");
        let all = |choice: &str| choice.split(" AND ").all(is_fine);
        let any = choices.split(" OR ").any(all) || choices.split(" AND ").all(|part| part.split(" OR ").any(is_fine));
        if !any {
            wrong.push(format!("{} has the licence {licence}", name(package)));
        }
    }
}

/// The core reads no clock, starts no thread and draws no randomness of its own.
fn check_core_sources(wrong: &mut Vec<String>) {
    for krate in ["wire", "vault", "identity", "channel", "routing", "link"] {
        visit(&root().join("crates").join(krate).join("src"), &mut |path, text| {
            for word in ["Instant::now", "SystemTime", "thread::", "std::", "getrandom", "println!", "static mut"] {
                let hit = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).find(|line| {
                    let code = line.trim_start();
                    !code.starts_with("//") && code.contains(word)
                });
                if hit.is_some() {
                    wrong.push(format!("{}: {word} has no place in the core", path.display()));
                }
            }
        });
    }
}

/// Every MUST of the specification has a number of its own, and a test that names it.
fn check_specification(wrong: &mut Vec<String>) {
    let text = fs::read_to_string(root().join("docs/protocol.md")).unwrap_or_default();
    // What the words mean is said first; the rules come after it.
    let rules = text.split_once("## 1.").map_or("", |(_, rules)| rules);
    let introduction = text.len() - rules.len();
    let mut cited = String::new();
    for folder in ["crates", "transports"] {
        visit(&root().join(folder), &mut |_, text| {
            let tests = text.lines().filter(|line| line.trim_start().starts_with("// Specification: "));
            tests.for_each(|line| cited.push_str(line));
        });
    }
    let mut numbers = Vec::new();
    for (at, _) in text.match_indices("MUST") {
        let before = text[..at].trim_end().strip_suffix(']').and_then(|before| before.rsplit_once("[M"));
        match before.and_then(|(_, number)| number.parse::<u32>().ok()) {
            Some(number) => numbers.push(number),
            None if at < introduction && text[at..].starts_with("MUST and") || text[..at].ends_with("and ") => {}
            None => wrong.push(format!("docs/protocol.md, octet {at}: a MUST without a number")),
        }
    }
    numbers.sort_unstable();
    if numbers.iter().zip(1..).any(|(number, expected)| *number != expected) || numbers.is_empty() {
        wrong.push("docs/protocol.md: the numbers of its rules are not 1, 2, 3.. each once".into());
    }
    for number in numbers.iter().filter(|number| !cited.contains(&format!("[M{number}]"))) {
        wrong.push(format!("docs/protocol.md: no test names [M{number}]"));
    }
}

fn visit(folder: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &fs::read_to_string(&path).unwrap_or_default());
        }
    }
}
