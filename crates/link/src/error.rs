//! How a medium fails.

use alloc::boxed::Box;
use core::{error::Error, fmt};

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkErrorKind {
    /// Nobody listens at the address. Retry later.
    Refused,
    /// The address could not be reached or resolved. Retry later.
    Unreachable,
    /// It took longer than the limit. Retry later.
    TimedOut,
    /// The address is in use, or is not one of this machine: the configuration is wrong.
    AddressUnavailable,
    /// The operating system does not permit it.
    Denied,
    /// The link has ended in the middle of a frame, or was reset. Connect again.
    Lost,
    /// The peer sent what is no frame: its length is zero or beyond the limit. Connect again, or not.
    Framing,
    /// No transport here speaks the address's scheme: the configuration is wrong.
    Unsupported,
    /// Anything else.
    Other,
}

/// A failure of a medium: what, where, and the system's own words.
#[derive(Debug)]
pub struct LinkError {
    /// What has failed.
    pub kind: LinkErrorKind,
    /// The address, or what else names the place.
    pub place: Box<str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl LinkError {
    /// A failure at `place`.
    #[must_use]
    pub fn new(kind: LinkErrorKind, place: impl fmt::Display) -> Self {
        Self { kind, place: alloc::format!("{place}").into(), source: None }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Whether trying again later may help without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self.kind, LinkErrorKind::AddressUnavailable | LinkErrorKind::Denied | LinkErrorKind::Unsupported)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match self.kind {
            LinkErrorKind::Refused => write!(f, "nobody listens at {place}"),
            LinkErrorKind::Unreachable => write!(f, "{place} cannot be reached"),
            LinkErrorKind::TimedOut => write!(f, "{place} did not answer in time"),
            LinkErrorKind::AddressUnavailable => write!(f, "{place} is in use, or no address of this machine"),
            LinkErrorKind::Denied => write!(f, "this user may not use {place}"),
            LinkErrorKind::Lost => write!(f, "the link to {place} was lost"),
            LinkErrorKind::Framing => write!(f, "{place} sent a frame of a length that is not allowed"),
            LinkErrorKind::Unsupported => write!(f, "no transport is set up for {place}"),
            LinkErrorKind::Other => write!(f, "the link to {place} failed"),
        }?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
