//! The same demonstration with one protection turned off: its last line has to tell. In test builds only.

use std::time::Duration;

use sealway::danger::{Protection, turn_off as without};

use super::children::Stage;
use crate::{arguments::HeartRate, failure::Failure};

/// How the processes of the demonstration are told.
const VARIABLE: &str = "SEALWAY_BREAK";
/// What is lost is not waited for as long as what is only late.
const STEP: Duration = Duration::from_secs(20);

/// Has the processes of a stage run without the protection.
pub(super) fn prepare(mut stage: Stage, options: &HeartRate) -> Stage {
    if let Some(protection) = &options.broken {
        stage.environment.push((VARIABLE, protection.clone()));
        stage.step = STEP;
    }
    stage
}

/// Turns off in this process what the one that has started it says.
pub(super) fn turn_off() -> Result<(), Failure> {
    match std::env::var(VARIABLE).as_deref() {
        Ok("window") => without(Protection::Window),
        Ok("tag") => without(Protection::Tag),
        Ok("ack") => without(Protection::Ack),
        Ok(other) => return Err(Failure::given(format!("no protection is called {other}: window, tag or ack"))),
        Err(_) => {}
    }
    Ok(())
}
