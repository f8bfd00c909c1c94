//! A process that runs for years: it says when it is ready, reads its file again, and ends.

use std::future::Future;

use crate::{failure::Failure, talk};

/// Tells the service manager, if there is one, that all is up; then has `reload` called at each SIGHUP, until SIGTERM or Ctrl-C.
/// A file that is wrong changes nothing: what is wrong is logged, and the process goes on as before.
pub(crate) async fn run<F: Future<Output = Result<(), Failure>>>(
    interrupted: impl Future<Output = Result<(), Failure>>,
    mut reload: impl FnMut() -> F,
) -> Result<(), Failure> {
    tokio::pin!(interrupted);
    let mut hangups = talk::hangups()?;
    tell(State::Ready);
    loop {
        tokio::select! {
            ended = &mut interrupted => {
                tell(State::Stopping);
                return ended;
            }
            () = hangups.next() => {
                tell(State::Reloading);
                match reload().await {
                    Ok(()) => tracing::info!("the configuration was read again"),
                    Err(failure) => tracing::error!(%failure, "the configuration stays as it was"),
                }
                tell(State::Ready);
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
fn tell(state: State) {
    use sd_notify::NotifyState;
    let states = match state {
        State::Ready => vec![NotifyState::Ready],
        State::Reloading => {
            // What it is called for is told to managers that ask when it was.
            std::iter::once(NotifyState::Reloading).chain(NotifyState::monotonic_usec_now().ok()).collect()
        }
        State::Stopping => vec![NotifyState::Stopping],
    };
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(not(unix))]
fn tell(_: State) {}
