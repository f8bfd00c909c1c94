//! Logs go to standard error, at the level that `SEALWAY_LOG` names.

use tracing_subscriber::filter::LevelFilter;

pub(crate) fn start() {
    let level = match std::env::var("SEALWAY_LOG").as_deref() {
        Ok("error") => LevelFilter::ERROR,
        Ok("info") => LevelFilter::INFO,
        Ok("debug") => LevelFilter::DEBUG,
        Ok("trace") => LevelFilter::TRACE,
        Ok("off") => LevelFilter::OFF,
        _ => LevelFilter::WARN,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // Only the first subscriber of a process can be set, and this is it.
    let _ = subscriber.try_init();
}
