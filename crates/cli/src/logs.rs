//! Logs go to standard error, at the level that `SEALWAY_LOG` names, or a file.

use std::sync::OnceLock;

use serde::Deserialize;
use tracing_subscriber::{
    Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::{arguments::LogFormat, failure::Failure};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

/// What a file says about logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Log {
    pub(crate) level: Level,
    pub(crate) format: LogFormat,
}

impl Level {
    /// What the environment asks for: that goes before what a file says.
    fn of_environment() -> Result<Option<Self>, Failure> {
        let text = std::env::var("SEALWAY_LOG");
        Ok(Some(match text.as_deref() {
            Err(_) => return Ok(None),
            Ok("error") => Self::Error,
            Ok("warn") => Self::Warn,
            Ok("info") => Self::Info,
            Ok("debug") => Self::Debug,
            Ok("trace") => Self::Trace,
            Ok("off") => Self::Off,
            Ok(other) => {
                let levels = "error, warn, info, debug, trace or off";
                return Err(Failure::given(format!("SEALWAY_LOG={other:.20} is no level: {levels}")));
            }
        }))
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::OFF,
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Logs from now on.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    let level = Level::of_environment()?.unwrap_or(log.level);
    let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // Only the first subscriber of a process can be set, and this is it.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    let _ = LEVEL.set(handle);
    Ok(())
}

/// Takes over how much a file that was read again wants logged.
pub(crate) fn set_level(level: Level) {
    let asked = Level::of_environment().ok().flatten().unwrap_or(level);
    if let Some(handle) = LEVEL.get() {
        // It fails only where there is no subscriber any more.
        let _ = handle.reload(LevelFilter::from(asked));
    }
}
