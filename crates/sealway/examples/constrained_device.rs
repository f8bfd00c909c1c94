//! Uses the constrained profile alone: a sensor and its application, each with a state in a file, over a link of 51 octets.
//!
//! What a machine has made in a handshake is on its disk before anything leaves that depends on it; the one rule of a shell is
//! here: write what `poll_state` gives, say so with `written`, and only then send what `poll_transmit` gives.
//!
//! Run it with `cargo run -p sealway --example constrained_device`.

use std::{
    error::Error,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use sealway_channel::{ConstrainedRecord, Pairing, PairingEvent, PairingKeys, Role, Source};
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_vault::{CryptoProvider, KeyStore, SoftwareVault, Vault};
use sealway_wire::{IdentityId, Timestamp, constrained::MAX_RECORD};

type TheVault = Arc<SoftwareVault<RustCrypto<OsEntropy>>>;

/// One machine: its vault and keys outlive the program, its state lies in a file.
struct Machine {
    vault: TheVault,
    keys: PairingKeys,
    file: PathBuf,
    pairing: Pairing<TheVault>,
}

impl Machine {
    fn start(vault: TheVault, keys: PairingKeys, file: PathBuf) -> Result<Self, Box<dyn Error>> {
        let pairing = match fs::read(&file) {
            Ok(state) => Pairing::restore(vault.clone(), keys.clone(), NOW, &state)?,
            Err(_) => Pairing::new(vault.clone(), keys.clone())?,
        };
        Ok(Self { vault, keys, file, pairing })
    }

    /// The program ends and starts again.
    fn restart(self) -> Result<Self, Box<dyn Error>> {
        Self::start(self.vault, self.keys, self.file)
    }

    /// Writes what has changed: the whole file, under another name first, and to the disk before it counts.
    fn save(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(state) = self.pairing.poll_state()? else { return Ok(()) };
        let new = self.file.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&state.octets)?;
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        self.pairing.written(state.version);
        Ok(())
    }

    /// What has to be sent now.
    fn outgoing(&mut self) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        self.save()?;
        let mut out = [0; MAX_RECORD];
        let mut frames = Vec::new();
        while let Some(len) = self.pairing.poll_transmit(&mut out)? {
            frames.push(out[..len].to_vec());
        }
        Ok(frames)
    }

    fn take(&mut self, name: &str, mut frame: Vec<u8>) -> Result<(), Box<dyn Error>> {
        println!("{name:11} receives {:3} octets", frame.len());
        match self.pairing.handle_frame(NOW, Source::proven(1), &mut frame)? {
            ConstrainedRecord::Datagram(body) => println!("{name:11} reads \"{}\"", String::from_utf8_lossy(body)),
            // A shell with an outbox and an inbox hands these to them.
            ConstrainedRecord::Typed(lane, _) => println!("{name:11} has a typed record of the {lane:?} lane"),
            _ => {}
        }
        self.save()?;
        while let Some(event) = self.pairing.poll_event() {
            match event {
                PairingEvent::Early(body) => {
                    println!("{name:11} reads \"{}\", early", String::from_utf8_lossy(&body));
                }
                PairingEvent::Reply(body) => {
                    println!("{name:11} reads \"{}\", the reply", String::from_utf8_lossy(&body));
                }
                other => println!("{name:11} {other:?}"),
            }
        }
        Ok(())
    }
}

/// A clock is asked for nothing but to limit forgeries, and for the age of a session.
const NOW: Timestamp = Timestamp::from_micros(0);

/// Everything that the two have to say to each other arrives.
fn talk(sensor: &mut Machine, application: &mut Machine) -> Result<(), Box<dyn Error>> {
    loop {
        let (up, down) = (sensor.outgoing()?, application.outgoing()?);
        if up.is_empty() && down.is_empty() {
            return Ok(());
        }
        up.into_iter().try_for_each(|frame| application.take("application", frame))?;
        down.into_iter().try_for_each(|frame| sensor.take("sensor", frame))?;
    }
}

fn pair(folder: &Path) -> Result<[Machine; 2], Box<dyn Error>> {
    let provider = RustCrypto::os();
    let (mut sensor, mut application) = (SoftwareVault::new(RustCrypto::os()), SoftwareVault::new(RustCrypto::os()));
    let (sensor_key, application_key) = (sensor.generate_dh()?, application.generate_dh()?);
    let (psk, recovery) = (provider.random_secret()?, provider.random_secret()?);
    let of_sensor = PairingKeys {
        role: Role::Initiator,
        own: IdentityId(provider.random()?),
        channel_key: sensor_key,
        earlier_key: None,
        peer: IdentityId(provider.random()?),
        peer_key: application.dh_public(&application_key)?,
        psk,
        recovery,
    };
    let of_application = PairingKeys {
        role: Role::Responder,
        own: of_sensor.peer,
        channel_key: application_key,
        earlier_key: None,
        peer: of_sensor.own,
        peer_key: sensor.dh_public(&sensor_key)?,
        ..of_sensor.clone()
    };
    Ok([
        Machine::start(Arc::new(sensor), of_sensor, folder.join("sensor"))?,
        Machine::start(Arc::new(application), of_application, folder.join("application"))?,
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("sealway-constrained-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let [mut sensor, mut application] = pair(&folder)?;
    application.pairing.set_reply(b"every 15 min")?;
    sensor.pairing.call(b"river 3.21 m")?;
    talk(&mut sensor, &mut application)?;
    // The sensor sleeps: what it needs is in its file.
    sensor = sensor.restart()?;
    sensor.save()?;
    let mut out = [0; MAX_RECORD];
    let len = sensor.pairing.seal_datagram(b"river 3.24 m", &mut out)?;
    application.take("application", out[..len].to_vec())?;
    println!("the sensor keeps {} octets", fs::metadata(&sensor.file)?.len());
    fs::remove_dir_all(&folder)?;
    Ok(())
}
