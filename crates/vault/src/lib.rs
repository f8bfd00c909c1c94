//! Keys by handle, and the crypto provider behind them.
//!
//! Two traits carry everything above this crate:
//!
//! * [`CryptoProvider`] is a set of primitives and the only source of randomness. It is implemented by leaf crates
//!   (`sealway-crypto-rustcrypto`), and names no algorithm that a user could choose: each method is one algorithm.
//! * [`Vault`] holds long-lived private keys. What leaves it are public keys, signatures and results of Diffie-Hellman.
//!   [`SoftwareVault`] keeps them in memory over any provider; `sealway-vault-file` seals it into a file.
//!
//! `no_std`, with `alloc`. No I/O, no clock, no randomness but the provider's.
//!
//! ```
//! use sealway_crypto_rustcrypto::RustCrypto;
//! use sealway_vault::{CryptoProvider, DhKey, KeyStore, SoftwareVault, Vault};
//!
//! let mut vault = SoftwareVault::new(RustCrypto::os());
//! let handle = vault.generate_dh()?;
//! let other = vault.provider().generate_dh()?;
//! let here = vault.dh(&handle, &other.public())?;
//! let there = other.agree(&vault.dh_public(&handle)?)?;
//! assert_eq!(here, there);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod keys;
mod provider;
mod secret;
mod software;
mod vault;

pub use error::{AgreementError, EntropyError, KemError, Rejected, VaultError};
pub use keys::{Algorithm, DhHandle, PublicKey, Signature, SigningHandle, VerifyingKey};
pub use provider::{
    AeadKey, CcmKey, CryptoProvider, DhKey, Entropy, KemKey, SHORT_TAG_LEN, Sha256, SigningKey, TAG_LEN,
};
pub use secret::Secret;
pub use software::SoftwareVault;
pub use vault::{KeyStore, Vault};
