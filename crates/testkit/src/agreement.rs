//! X25519 as a simulation needs it: what a seed's public key is, and what two keys agree upon, is computed once in a world. The
//! other end, and the same machine after a restart, would compute the very same: it is half of a simulation's time.

use std::{cell::RefCell, collections::HashMap, sync::OnceLock};

use sealway_vault::{AgreementError, CryptoProvider, DhKey, PublicKey, Secret};

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

#[derive(Default)]
struct Known {
    /// By seed.
    publics: HashMap<[u8; 32], PublicKey>,
    /// By both public keys, the lower one first.
    shared: HashMap<[PublicKey; 2], [u8; 32]>,
}

/// Forgets everything.
pub(crate) fn begin() {
    KNOWN.with_borrow_mut(|known| *known = Known::default());
}

/// A key of the provider `P`, which is asked for what is not known.
pub struct RememberedKey<P: CryptoProvider> {
    provider: P,
    seed: Secret<32>,
    public: PublicKey,
    key: OnceLock<P::DhKey>,
}

impl<P: CryptoProvider> RememberedKey<P> {
    pub(crate) fn new(provider: &P, seed: &Secret<32>) -> Self {
        let key = OnceLock::new();
        let known = KNOWN.with_borrow(|known| known.publics.get(seed.expose()).copied());
        let public = known.unwrap_or_else(|| {
            let public = key.get_or_init(|| provider.load_dh(seed)).public();
            KNOWN.with_borrow_mut(|known| known.publics.insert(*seed.expose(), public));
            public
        });
        Self { provider: provider.clone(), seed: seed.clone(), public, key }
    }
}

impl<P: CryptoProvider> DhKey for RememberedKey<P> {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, AgreementError> {
        let mut both = [self.public, *peer];
        both.sort_unstable();
        if let Some(shared) = KNOWN.with_borrow(|known| known.shared.get(&both).copied()) {
            return Ok(Secret::new(shared));
        }
        let shared = self.key.get_or_init(|| self.provider.load_dh(&self.seed)).agree(peer)?;
        KNOWN.with_borrow_mut(|known| known.shared.insert(both, *shared.expose()));
        Ok(shared)
    }
}
