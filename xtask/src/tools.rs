//! What the tests need beside cargo, and how it is installed.

use std::process::{Command, Stdio};

/// A tool that may be missing.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    probe: &'static [&'static str],
    pub(crate) install: &'static [&'static str],
}

pub(crate) const RUSTFMT: Tool = Tool {
    name: "rustfmt",
    probe: &["cargo", "fmt", "--version"],
    install: &["rustup", "component", "add", "rustfmt"],
};
pub(crate) const CLIPPY: Tool = Tool {
    name: "clippy",
    probe: &["cargo", "clippy", "--version"],
    install: &["rustup", "component", "add", "clippy"],
};
pub(crate) const GIT: Tool =
    Tool { name: "git", probe: &["git", "--version"], install: &["apt-get", "install", "-y", "git"] };

/// For the peer in Python that the specification's vectors are held against: libraries in an environment of the project's own.
pub(crate) const PYTHON: Tool = Tool {
    name: "python with cryptography, kyber-py, pyserial and cobs",
    probe: &["target/python/bin/python", "-c", "import cryptography, kyber_py, serial, cobs"],
    install: &[
        "sh",
        "-c",
        "(python3 -m venv target/python || (apt-get install -y python3-venv && python3 -m venv target/python)) && \
         target/python/bin/pip install --quiet -r docs/vectors/requirements.txt",
    ],
};

pub(crate) const VALGRIND: Tool = Tool {
    name: "valgrind",
    probe: &["valgrind", "--version"],
    install: &["sh", "-c", "apt-get update --quiet && apt-get install --quiet -y valgrind"],
};

pub(crate) const PROXIES: Tool = Tool {
    name: "nginx, HAProxy and tinyproxy",
    probe: &["sh", "-c", "PATH=$PATH:/usr/sbin; command -v nginx && command -v haproxy && command -v tinyproxy"],
    install: &["sh", "-c", "apt-get update --quiet && apt-get install --quiet -y nginx-light haproxy tinyproxy"],
};

pub(crate) const NAMESPACES: Tool = Tool {
    name: "iproute2 and nftables",
    probe: &["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; command -v ip && command -v nft"],
    install: &["sh", "-c", "apt-get update --quiet && apt-get install --quiet -y iproute2 nftables"],
};

/// Only for fuzzing: no part of the tests needs them.
pub(crate) const NIGHTLY: Tool = Tool {
    name: "nightly",
    probe: &["cargo", "+nightly", "--version"],
    install: &["rustup", "toolchain", "install", "nightly"],
};
pub(crate) const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    probe: &["cargo", "+nightly", "fuzz", "--version"],
    install: &["cargo", "install", "--locked", "cargo-fuzz"],
};

/// Only for the symbolic models. It is a program that is run, and no dependency: its licence is the GPL.
pub(crate) const VERIFPAL: Tool = Tool {
    name: "Verifpal 1.3.6",
    probe: &["target/verifpal/bin/verifpal", "--version"],
    install: &[
        "cargo",
        "+nightly",
        "install",
        "verifpal",
        "--version",
        "1.3.6",
        "--ignore-rust-version",
        "--locked",
        "--root",
        "target/verifpal",
        "--target-dir",
        "target/verifpal/build",
    ],
};

impl Tool {
    pub(crate) fn is_there(&self) -> bool {
        quietly(self.probe)
    }

    fn install(&self) -> bool {
        println!("installing {}: {}", self.name, self.install.join(" "));
        run(self.install).is_ok()
    }
}

/// Installs what is missing.
pub(crate) fn install_all() -> Result<(), String> {
    let missing =
        [RUSTFMT, CLIPPY, GIT, PYTHON, PROXIES, NAMESPACES, VALGRIND].into_iter().filter(|tool| !tool.is_there());
    let failed: Vec<&str> = missing.filter(|tool| !tool.install()).map(|tool| tool.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("could not be installed: {}", failed.join(", "))) }
}

fn quietly(words: &[&str]) -> bool {
    command(words).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command in the project's folder.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    match command(words).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{}` failed: {status}", words.join(" "))),
        Err(error) => Err(format!("`{}` cannot be started: {error}", words.join(" "))),
    }
}

/// Runs a command and returns its standard output.
pub(crate) fn output(words: &[&str]) -> Result<String, String> {
    let output = command(words).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("`{}` cannot be started: {error}", words.join(" ")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("`{}` failed: {}\n{text}", words.join(" "), output.status))
    }
}

fn command(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The project's folder.
pub(crate) fn root() -> &'static std::path::Path {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
