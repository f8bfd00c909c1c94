//! Making constrained devices: identity, keys and pairing of each, before it has ever run.

use sealway_channel::{Provision, Role};
use sealway_identity::{Card, IdentityError, Owner, RecoveryKey};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault, Vault, VaultError};
use sealway_wire::IdentityId;
use zeroize::Zeroizing;

use crate::crypto;

/// A device that was made, and what each side is to be given.
pub struct ProvisionedDevice {
    /// Its identity.
    pub id: IdentityId,
    /// For the device's flash: its keys, and its pairing with the service. [`Provision::decode`] takes it.
    pub device: Zeroizing<Vec<u8>>,
    /// For the service: the same pairing from its side.
    pub service: Zeroizing<Vec<u8>>,
    /// The only key that can rotate the identity: for its owner to keep, and not for the device.
    pub recovery: RecoveryKey,
}

/// Makes a device that is to call the service on `service`, a card that was verified.
///
/// # Errors
/// If there is no randomness.
pub fn provision(service: &Card) -> Result<ProvisionedDevice, IdentityError> {
    let mut vault = SoftwareVault::new(crypto());
    let (owner, recovery_key) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
    let provider = vault.provider();
    let psk = provider.random_secret().map_err(VaultError::from)?;
    let recovery = provider.random_secret().map_err(VaultError::from)?;
    let of_device = Provision {
        role: Role::Initiator,
        own: owner.id(),
        peer: service.id(),
        peer_key: service.attestation().channel_key,
        psk,
        recovery,
        keys: vault.save()?,
        identity: owner.save(),
    };
    let of_service = Provision {
        role: Role::Responder,
        own: service.id(),
        peer: owner.id(),
        peer_key: owner.attestation().channel_key,
        psk: of_device.psk.clone(),
        recovery: of_device.recovery.clone(),
        keys: Zeroizing::default(),
        identity: Vec::new(),
    };
    let (device, service) = (of_device.encode(provider)?, of_service.encode(provider)?);
    Ok(ProvisionedDevice { id: owner.id(), device, service, recovery: recovery_key })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use sealway_channel::{Pairing, PairingEvent, Source};
    use sealway_identity::CardParts;
    use sealway_wire::{Timestamp, constrained::MAX_RECORD};

    use super::*;

    #[test]
    fn a_device_and_its_service_make_a_session() {
        let mut vault = SoftwareVault::new(crypto());
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let card = owner.card(&vault, &CardParts::default()).unwrap();
        let made = provision(&card).unwrap();
        let of_service = Provision::decode(&crypto(), &made.service).unwrap();
        assert_eq!(of_service.peer, made.id);
        let mut service = Pairing::new(Arc::new(vault), of_service.into_keys(owner.channel_key())).unwrap();
        let of_device = Provision::decode(&crypto(), &made.device).unwrap();
        let vault = SoftwareVault::load(crypto(), &of_device.keys).unwrap();
        let owner = Owner::load(&vault, &of_device.identity).unwrap();
        let mut device = Pairing::new(Arc::new(vault), of_device.into_keys(owner.channel_key())).unwrap();
        device.call(b"first words").unwrap();
        let mut out = [0; MAX_RECORD];
        let now = Timestamp::from_micros(1);
        for turn in 0..4 {
            let (from, to) = if turn % 2 == 0 { (&mut device, &mut service) } else { (&mut service, &mut device) };
            if let Some(state) = from.poll_state().unwrap() {
                from.written(state.version);
            }
            let len = from.poll_transmit(&mut out).unwrap().unwrap();
            to.handle_frame(now, Source::proven(1), &mut out[..len]).unwrap();
        }
        if let Some(state) = device.poll_state().unwrap() {
            device.written(state.version);
        }
        let events: Vec<PairingEvent> = std::iter::from_fn(|| service.poll_event()).collect();
        assert!(events.contains(&PairingEvent::Early(b"first words".to_vec())), "{events:?}");
        let opened = std::iter::from_fn(|| device.poll_event()).collect::<Vec<_>>();
        assert!(opened.contains(&PairingEvent::Opened { recovered: false }), "{opened:?}");
    }
}
