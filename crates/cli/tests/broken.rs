//! With a protection turned off, the demonstration's last line tells. Run by `cargo xtask test`, with
//! `--cfg sealway_break`.
#![cfg(sealway_break)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

/// The number behind `name=` in the last line of a demonstration without `protection`.
fn told(protection: &str, name: &str) -> u32 {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_sealway"));
    demo.args(["demo", "heart-rate", "--break", protection]);
    let output = demo.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{line}");
    let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn without_windows_readings_come_twice() {
    assert!(told("window", "duplicated") > 0);
}

#[test]
fn without_tags_forged_readings_are_accepted() {
    assert!(told("tag", "forged_accepted") > 0);
}

#[test]
fn without_acknowledgements_readings_are_lost() {
    assert!(told("ack", "lost") > 0);
}
