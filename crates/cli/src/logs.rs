//! Logs go to standard error, at the level that `SEALWAY_LOG` names.

use tracing_subscriber::filter::LevelFilter;

use crate::{arguments::LogFormat, failure::Failure};

pub(crate) fn start(format: LogFormat) -> Result<(), Failure> {
    let level = match std::env::var("SEALWAY_LOG").as_deref() {
        Ok("error") => LevelFilter::ERROR,
        Ok("warn") | Err(_) => LevelFilter::WARN,
        Ok("info") => LevelFilter::INFO,
        Ok("debug") => LevelFilter::DEBUG,
        Ok("trace") => LevelFilter::TRACE,
        Ok("off") => LevelFilter::OFF,
        Ok(other) => {
            let levels = "error, warn, info, debug, trace or off";
            return Err(Failure::given(format!("SEALWAY_LOG={other:.20} is no level: {levels}")));
        }
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // Only the first subscriber of a process can be set, and this is it.
    let _ = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
    };
    Ok(())
}
