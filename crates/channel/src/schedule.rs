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
//!
//! In the constrained profile, which keeps one secret instead of five:
//!
//! ```text
//! k1 || k2, salt h ──Extract──► PRK ──┬─"live initiator"───► chain
//!                                     ├─"live responder"───► chain
//!                                     ├─"psk"──────────────► psk of the next handshake
//!                                     ├─"cid"──────────────► connection ids
//!                                     └─"later"────────────► PRK of all others of the above
//! ```

use alloc::vec::Vec;

use sealway_identity::label;
use sealway_vault::{CryptoProvider, DhHandle, Secret, Vault, VaultError};
use sealway_wire::{
    Lane, ShortCid,
    danger::{self, Protection},
};

/// Domain of the labels of S1.
pub(crate) const DOMAIN: &str = "S1";

/// Which side of the handshake one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sent the first message.
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

/// The pseudorandom key of a session: everything else is expanded from it, then it is wiped. In the constrained profile some of
/// it is expanded when it is needed, from another such key that is kept.
pub(crate) struct SessionKey<'p, P> {
    provider: &'p P,
    domain: &'static str,
    prk: Secret<32>,
}

impl<'p, P: CryptoProvider> SessionKey<'p, P> {
    /// PRK = Extract(salt = h, ikm = k1 || k2).
    pub(crate) fn extract(provider: &'p P, domain: &'static str, transcript: &[u8; 32], keys: &[u8; 64]) -> Self {
        Self { provider, domain, prk: provider.hkdf_extract(transcript, &[keys]) }
    }

    /// What comes from the secret that a session has kept for [`later`](Self::later).
    pub(crate) const fn of_later(provider: &'p P, domain: &'static str, later: Secret<32>) -> Self {
        Self { provider, domain, prk: later }
    }

    /// The chain of the records that `sender` seals on `lane`.
    pub(crate) fn chain(&self, lane: Lane, sender: Role) -> Secret<32> {
        let lane = if danger::is_off(Protection::Lanes) { Lane::Live } else { lane };
        self.expand(match (lane, sender) {
            (Lane::Live, Role::Initiator) => "live initiator",
            (Lane::Live, Role::Responder) => "live responder",
            (Lane::Stored, Role::Initiator) => "stored initiator",
            (Lane::Stored, Role::Responder) => "stored responder",
        })
    }

    /// The secret from which `sender` takes the chains of its stored lane after a restart.
    pub(crate) fn restart(&self, sender: Role) -> Secret<32> {
        self.expand(match sender {
            Role::Initiator => "restart initiator",
            Role::Responder => "restart responder",
        })
    }

    pub(crate) fn exporter(&self) -> Secret<32> {
        self.expand("exporter")
    }

    /// In the constrained profile: from which stored chains, restart secrets and the exporter secret come.
    pub(crate) fn later(&self) -> Secret<32> {
        // Else what the fault is to show would be other chains, and none used twice.
        if danger::is_off(Protection::Lanes) { self.prk.clone() } else { self.expand("later") }
    }

    /// In the constrained profile: the psk of the next handshake.
    pub(crate) fn next_psk(&self) -> Secret<32> {
        self.expand("psk")
    }

    /// In the constrained profile: the connection ids of initiator and responder.
    pub(crate) fn cids(&self) -> [ShortCid; 2] {
        let [a, b, c, d, ..] = *self.expand("cid").expose();
        [ShortCid([a, b]), ShortCid([c, d])]
    }

    fn expand(&self, name: &str) -> Secret<32> {
        let mut secret = Secret::zero();
        // Expand of 32 octets cannot fail (RFC 5869 section 2.3: the limit is 8160).
        let _ = self.provider.hkdf_expand(&self.prk, &[&label(self.domain, name)], secret.expose_mut());
        secret
    }
}

/// The secret that only the exporter is expanded from.
pub(crate) fn export<P: CryptoProvider>(
    provider: &P,
    domain: &str,
    exporter: &Secret<32>,
    name: &str,
    context: &[u8],
    out: &mut [u8],
) -> bool {
    // The length of the name is written, so that name and context cannot be traded for one another.
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes();
    let info = [label(domain, "export").as_slice(), &length, name.as_bytes(), context].map(<[u8]>::to_vec);
    let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
    provider.hkdf_expand(exporter, &info, out).is_ok()
}

/// The chain of an incarnation: Expand(restart secret, label || incarnation).
pub(crate) fn incarnation<P: CryptoProvider>(
    provider: &P,
    (domain, name): (&str, &str),
    restart: &Secret<32>,
    incarnation: &[u8],
) -> Secret<32> {
    let mut chain = Secret::zero();
    // Expand of 32 octets cannot fail (RFC 5869 section 2.3: the limit is 8160).
    let _ = provider.hkdf_expand(restart, &[&label(domain, name), incarnation], chain.expose_mut());
    chain
}

/// The key of what is kept at rest. Only the holder of the channel key can compute it: from the key's agreement with itself.
pub(crate) fn state_key<V: Vault>(vault: &V, domain: &str, channel_key: &DhHandle) -> Result<Secret<32>, VaultError> {
    let provider = vault.provider();
    let agreed = vault.dh(channel_key, &vault.dh_public(channel_key)?)?;
    let prk = provider.hkdf_extract(&[0; 32], &[agreed.expose()]);
    let mut key = Secret::zero();
    let expanded = provider.hkdf_expand(&prk, &[&label(domain, "state key")], key.expose_mut());
    expanded.map_err(|_| VaultError::Malformed)?;
    Ok(key)
}

/// The key, the iv and the next chain of one epoch.
pub(crate) struct EpochSecrets {
    pub(crate) key: Secret<32>,
    /// S1 uses the first 12 octets: what Expand gives does not depend on how much is asked for.
    pub(crate) iv: Secret<13>,
    pub(crate) next: Secret<32>,
}

/// key_e, iv_e and chain_{e+1} from chain_e.
pub(crate) fn epoch<P: CryptoProvider>(provider: &P, domain: &str, chain: &Secret<32>) -> EpochSecrets {
    let (mut key, mut iv, mut next) = (Secret::zero(), Secret::zero(), Secret::zero());
    // Expand of 32 octets at most cannot fail (RFC 5869 section 2.3: the limit is 8160).
    let _ = provider.hkdf_expand(chain, &[&label(domain, "key")], key.expose_mut());
    let _ = provider.hkdf_expand(chain, &[&label(domain, "iv")], iv.expose_mut());
    let _ = provider.hkdf_expand(chain, &[&label(domain, "chain")], next.expose_mut());
    EpochSecrets { key, iv, next }
}
