//! From a finished handshake to the keys of a session. Protocol section 4.
//!
//! ```text
//! k1 || k2, salt h ──Extract──► PRK ──┬─"live initiator"───► chain ─► epoch keys
//!                                     ├─"live responder"───► chain
//!                                     ├─"stored initiator"─► chain
//!                                     ├─"stored responder"─► chain
//!                                     ├─"restart initiator"► restart secret, from which chains of incarnations come
//!                                     ├─"restart responder"► restart secret
//!                                     └─"exporter"─────────► exporter secret
//! ```

use alloc::vec::Vec;

use sealway_identity::label;
use sealway_vault::{CryptoProvider, Secret};
use sealway_wire::Lane;

use crate::HandshakeError;

pub(crate) const DOMAIN: &str = "S1";

/// Which side of the handshake one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sent S1.1.
    Initiator,
    /// Answered it.
    Responder,
}

impl Role {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// The pseudorandom key of a session: everything else is expanded from it, then it is wiped.
pub(crate) struct SessionKey<'p, P> {
    provider: &'p P,
    prk: Secret<32>,
}

impl<'p, P: CryptoProvider> SessionKey<'p, P> {
    /// PRK = Extract(salt = h, ikm = k1 || k2).
    pub(crate) fn extract(provider: &'p P, transcript: &[u8; 32], keys: &[u8; 64]) -> Self {
        Self { provider, prk: provider.hkdf_extract(transcript, &[keys]) }
    }

    /// The chain of the records that `sender` seals on `lane`.
    pub(crate) fn chain(&self, lane: Lane, sender: Role) -> Result<Secret<32>, HandshakeError> {
        expand_secret(
            self.provider,
            &self.prk,
            match (lane, sender) {
                (Lane::Live, Role::Initiator) => "live initiator",
                (Lane::Live, Role::Responder) => "live responder",
                (Lane::Stored, Role::Initiator) => "stored initiator",
                (Lane::Stored, Role::Responder) => "stored responder",
            },
        )
    }

    /// The secret from which `sender` takes the chains of its stored lane after a restart.
    pub(crate) fn restart(&self, sender: Role) -> Result<Secret<32>, HandshakeError> {
        expand_secret(
            self.provider,
            &self.prk,
            match sender {
                Role::Initiator => "restart initiator",
                Role::Responder => "restart responder",
            },
        )
    }

    pub(crate) fn exporter(&self) -> Result<Secret<32>, HandshakeError> {
        expand_secret(self.provider, &self.prk, "exporter")
    }
}

fn expand_secret<P: CryptoProvider>(provider: &P, prk: &Secret<32>, name: &str) -> Result<Secret<32>, HandshakeError> {
    let mut secret = Secret::zero();
    provider.hkdf_expand(prk, &[&label(DOMAIN, name)], secret.expose_mut()).map_err(|_| HandshakeError::Noise)?;
    Ok(secret)
}

/// The secret that only the exporter is expanded from.
pub(crate) fn export<P: CryptoProvider>(
    provider: &P,
    exporter: &Secret<32>,
    name: &str,
    context: &[u8],
    out: &mut [u8],
) -> bool {
    // The length of the name is written, so that name and context cannot be traded for one another.
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes();
    let info = [label(DOMAIN, "export").as_slice(), &length, name.as_bytes(), context].map(<[u8]>::to_vec);
    let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
    provider.hkdf_expand(exporter, &info, out).is_ok()
}

/// The key, the iv and the next chain of one epoch.
pub(crate) struct EpochSecrets {
    pub(crate) key: Secret<32>,
    pub(crate) iv: Secret<12>,
    pub(crate) next: Secret<32>,
}

/// key_e, iv_e and chain_{e+1} from chain_e.
pub(crate) fn epoch<P: CryptoProvider>(provider: &P, chain: &Secret<32>) -> EpochSecrets {
    let (mut key, mut iv, mut next) = (Secret::zero(), Secret::zero(), Secret::zero());
    // Expand of 32 octets at most cannot fail (RFC 5869 section 2.3: the limit is 8160).
    let _ = provider.hkdf_expand(chain, &[&label(DOMAIN, "key")], key.expose_mut());
    let _ = provider.hkdf_expand(chain, &[&label(DOMAIN, "iv")], iv.expose_mut());
    let _ = provider.hkdf_expand(chain, &[&label(DOMAIN, "chain")], next.expose_mut());
    EpochSecrets { key, iv, next }
}
