//! A process that runs for years: it says when it is ready, reads its file again, and ends.

use std::future::Future;

use crate::{failure::Failure, talk::Hangups};

/// Tells the service manager, if there is one, that all is up; then has `reload` called at each SIGHUP, until SIGTERM or Ctrl-C.
/// A file that is wrong changes nothing: what is wrong is logged, and the process goes on as before.
///
/// The signals were asked for before anything else was done: who is told that we are there may send them at once.
pub(crate) async fn run<F: Future<Output = Result<(), Failure>>>(
    interrupted: impl Future<Output = Result<(), Failure>>,
    mut hangups: Hangups,
    mut reload: impl FnMut() -> F,
) -> Result<(), Failure> {
    tokio::pin!(interrupted);
    tell(State::Ready, "");
    loop {
        tokio::select! {
            ended = &mut interrupted => {
                tell(State::Stopping, "");
                return ended;
            }
            () = hangups.next() => {
                tell(State::Reloading, "");
                let status = match reload().await {
                    Ok(()) => {
                        tracing::info!("the configuration was read again");
                        "runs with the newest configuration".to_string()
                    }
                    Err(failure) => {
                        tracing::error!(%failure, "the configuration stays as it was");
                        format!("the configuration stays as it was: {failure}")
                    }
                };
                tell(State::Ready, &status);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum State {
    Ready,
    Reloading,
    Stopping,
}

#[cfg(unix)]
fn tell(state: State, status: &str) {
    use sd_notify::NotifyState;
    let mut states = match state {
        State::Ready => vec![NotifyState::Ready],
        State::Reloading => {
            // What it is called for is told to managers that ask when it was.
            std::iter::once(NotifyState::Reloading).chain(NotifyState::monotonic_usec_now().ok()).collect()
        }
        State::Stopping => vec![NotifyState::Stopping],
    };
    if !status.is_empty() {
        states.push(NotifyState::Status(status));
    }
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(not(unix))]
fn tell(_: State, _: &str) {}
