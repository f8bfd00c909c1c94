//! The primitives that the facade stands on. Which crate has them changes nothing but speed: the algorithms are the protocol's.

#[cfg(feature = "aws-lc")]
mod chosen {
    /// The crypto provider of this build: AWS-LC.
    pub type Crypto = sealway_crypto_aws_lc::AwsLc;

    /// The crypto provider of this build, over the operating system's randomness.
    #[must_use]
    pub const fn crypto() -> Crypto {
        Crypto::new()
    }
}

#[cfg(not(feature = "aws-lc"))]
mod chosen {
    use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};

    /// The crypto provider of this build: pure Rust.
    pub type Crypto = RustCrypto<OsEntropy>;

    /// The crypto provider of this build, over the operating system's randomness.
    #[must_use]
    pub const fn crypto() -> Crypto {
        RustCrypto::os()
    }
}

pub use chosen::{Crypto, crypto};
