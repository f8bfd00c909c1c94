//! Turns protections off, one by one, in builds made for it, and looks whether the test that is there for each notices.

use std::{collections::BTreeSet, process::Command};

use crate::tools::{output, run};

/// A protection, and the test that fails without it: package, file, name.
const CONTROLS: &[(&str, [&str; 3])] = &[
    ("gate", ["channel", "strangers", "without_the_card_nothing_is_computed_kept_or_answered"]),
    ("cookie", ["channel", "strangers", "under_load_an_address_that_can_be_forged_has_to_answer"]),
    ("budget", ["channel", "strangers", "what_one_source_has_us_compute_is_limited_and_others_are_served"]),
    ("recent", ["channel", "strangers", "a_first_message_is_worked_on_once"]),
    ("share", ["channel", "paired", "half_open_handshakes_are_bounded_per_source_and_in_time"]),
    ("lifetime", ["channel", "paired", "half_open_handshakes_are_bounded_per_source_and_in_time"]),
    ("proof", ["channel", "strangers", "a_third_message_without_proof_is_not_read"]),
    ("yield", ["channel", "attacks", "opening_at_once_makes_one_session"]),
    ("confirm", ["channel", "paired", "no_side_reports_open_before_it_has_opened_a_record_of_the_other"]),
    ("start", ["channel", "records", "a_lost_start_is_repeated"]),
    ("tag", ["channel", "paired", "no_bit_of_a_record_can_be_flipped"]),
    ("window", ["channel", "paired", "a_replayed_record_is_refused_and_so_is_a_reflected_one"]),
    ("width", ["channel", "paired", "a_burst_of_a_million_lost_records_does_no_harm"]),
    ("jumps", ["channel", "records", "forged_jumps_are_few"]),
    ("previous", ["channel", "records", "a_record_of_the_epoch_before_opens"]),
    ("incarnation", ["channel", "stored", "two_copies_of_one_store_never_use_a_chain_twice"]),
    ("lanes", ["channel", "constrained", "the_stored_lane_takes_typed_records_alone"]),
    ("epochs", ["channel", "constrained", "a_burst_of_lost_records_does_no_harm"]),
    ("width", ["channel", "constrained", "a_burst_of_lost_records_does_no_harm"]),
    ("window", ["channel", "constrained", "runs_of_many_seeds"]),
    ("tag", ["channel", "constrained", "runs_of_many_seeds"]),
    ("incarnation", ["channel", "constrained", "runs_of_many_seeds"]),
    ("blocks", ["channel", "constrained", "runs_of_many_seeds"]),
    ("kept-window", ["channel", "constrained", "runs_of_many_seeds"]),
    ("kept-answer", ["channel", "constrained", "runs_of_many_seeds"]),
    ("old-psk", ["channel", "constrained", "runs_of_many_seeds"]),
    ("one-answer", ["channel", "constrained", "runs_of_many_seeds"]),
    ("hint", ["channel", "constrained", "runs_of_many_seeds"]),
    ("width", ["channel", "constrained", "runs_of_many_seeds"]),
    ("lanes", ["channel", "constrained", "runs_of_many_seeds"]),
    ("epochs", ["channel", "constrained", "runs_of_many_seeds"]),
    ("write-first", ["channel", "constrained", "runs_of_many_seeds"]),
    ("one-answer", ["channel", "constrained", "two_devices_with_one_key_and_psk_are_noticed_within_two_handshakes"]),
    ("write-first", ["channel", "constrained", "nothing_is_sealed_or_sent_before_the_state_is_written"]),
    ("hint", ["channel", "constrained", "the_hints_of_each_handshake_are_its_own"]),
    ("old-psk", ["channel", "constrained", "two_devices_with_one_key_and_psk_are_noticed_within_two_handshakes"]),
    ("custody", ["routing", "custody", "custody_is_acknowledged_only_after_the_write"]),
    ("recovery", ["channel", "constrained", "a_device_that_has_lost_its_state_is_recovered_by_its_operator"]),
    ("hybrid", ["channel", "letters", "a_hybrid_prekey_takes_no_letter_without_its_ml_kem_part"]),
    ("letters", ["routing", "delivery", "what_letters_have_brought_is_remembered_as_long_as_they_can_come_again"]),
    ("path", ["channel", "records", "records_follow_a_peer_that_moves"]),
    ("padding", ["channel", "records", "padded_records_tell_the_magnitude_of_their_content"]),
];

/// What is built in this way is for nothing else, and in a folder of its own.
const BUILD: [&str; 2] = ["--target-dir", "target/broken"];
/// Set when cargo runs this program where it would run rustc.
pub(crate) const IN_PLACE_OF_RUSTC: &str = "SEALWAY_XTASK_IN_PLACE_OF_RUSTC";

/// Has cargo compile the workspace's crates by [`compile`]. The crates that they depend on are as in any other build: those
/// that are built already serve.
fn flags() -> Result<[String; 4], String> {
    let own = std::env::current_exe().map_err(|error| format!("this program does not know where it is: {error}"))?;
    Ok([
        "env".into(),
        "CARGO_BUILD_BUILD_DIR=target".into(),
        format!("{IN_PLACE_OF_RUSTC}=1"),
        format!("RUSTC_WORKSPACE_WRAPPER={}", own.display()),
    ])
}

/// Runs rustc as cargo says, with protections that can be turned off.
pub(crate) fn compile(rustc: &[&str]) -> Result<(), String> {
    let (program, arguments) = rustc.split_first().ok_or("rustc was to be named")?;
    let status = Command::new(program).args(arguments).args(["--cfg", "sealway_break"]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program} cannot be started: {error}")),
    }
}

/// Each protection of the channel off, and the test that notices.
pub(crate) fn channel() -> Result<(), String> {
    let flags = flags()?;
    let flags = flags.each_ref().map(String::as_str);
    let mut passing = BTreeSet::new();
    for (protection, [package, file, test]) in CONTROLS {
        let package = format!("sealway-{package}");
        let command = ["cargo", "test", "--quiet", "--package", &package, "--test", file, test, "--", "--exact"];
        let (options, exact) = command.split_at(command.len() - 2);
        let command = [options, &BUILD, exact].concat();
        // With everything on it passes in the same build: what fails below fails for want of the protection.
        if passing.insert((package.clone(), file, test))
            && !output(&[&flags[..], &command].concat())?.contains("1 passed")
        {
            return Err(format!("there is no test {test} in {file}"));
        }
        let off = format!("SEALWAY_BREAK={protection}");
        match output(&[&flags[..], &[&off], &command].concat()) {
            Ok(_) => return Err(format!("without the protection \"{protection}\", {test} passes all the same")),
            Err(text) if text.contains("1 failed") => println!("without {protection}: {test} fails, as it must"),
            Err(text) => return Err(format!("without the protection \"{protection}\": {text}")),
        }
    }
    Ok(())
}

/// The demonstration tells too.
pub(crate) fn demonstration() -> Result<(), String> {
    let test = ["cargo", "test", "--quiet", "--package", "sealway-cli", "--test", "broken"];
    let flags = flags()?;
    run(&[&flags.each_ref().map(String::as_str)[..], &test, &BUILD].concat())
}
