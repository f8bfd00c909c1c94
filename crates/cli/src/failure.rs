//! One sentence that says what is wrong and what to do, and an exit code.

use std::{fmt, process::ExitCode};

/// Why the program ends without having done what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// The other side, the network or the disk did not do it.
    pub(crate) fn failed(sentence: impl fmt::Display) -> Self {
        Self { sentence: sentence.to_string(), code: 1 }
    }

    /// What was given is not what it must be.
    pub(crate) fn given(sentence: impl fmt::Display) -> Self {
        Self { sentence: sentence.to_string(), code: 3 }
    }

    /// The same, naming the file that it is about.
    pub(crate) fn about(self, path: &std::path::Path) -> Self {
        Self { sentence: format!("{}: {}", path.display(), self.sentence), ..self }
    }

    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("sealway: {}", self.sentence);
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<sealway::IdentityFileError> for Failure {
    fn from(error: sealway::IdentityFileError) -> Self {
        Self::given(error)
    }
}

impl From<sealway::NodeError> for Failure {
    fn from(error: sealway::NodeError) -> Self {
        Self::failed(error)
    }
}

impl From<sealway::StoreError> for Failure {
    fn from(error: sealway::StoreError) -> Self {
        let advice = match error.kind {
            sealway::StoreErrorKind::Locked => "; stop it first, or give another --data",
            sealway::StoreErrorKind::Full => "; make room and try again",
            sealway::StoreErrorKind::Corrupt => "; give another --data, or restore it from a backup",
            _ => "",
        };
        Self::failed(format!("{error}{advice}"))
    }
}
