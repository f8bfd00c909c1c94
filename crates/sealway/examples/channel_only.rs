//! Uses `sealway-channel` alone, in a loop of its own: two endpoints over a pair of pipes, no runtime, no node.
//!
//! Run it with `cargo run -p sealway --example channel_only`.

use std::{
    error::Error,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use sealway_channel::{Config, Endpoint, Event, MAX_RECORD, PathId, Received, Record, Source};
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_identity::{Card, CardParts, Owner, PayloadParts, Policy};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault, Vault};
use sealway_wire::{Instance, Timestamp, content::CloseReason};

type Machine = Endpoint<Arc<SoftwareVault<RustCrypto<OsEntropy>>>>;

/// The one way that leads anywhere here. A program with several links gives each a number.
const PIPE: PathId = PathId(0);

fn machine() -> Result<(Machine, Card), Box<dyn Error>> {
    let mut vault = SoftwareVault::new(RustCrypto::os());
    let (owner, _recovery) = Owner::incept(&mut vault, Algorithm::Ed25519)?;
    let card = owner.card(&vault, &CardParts::default())?;
    let config = Config::new(Instance(vault.provider().random()?));
    Ok((Endpoint::new(Arc::new(vault), owner, config), card))
}

/// Drives one endpoint until its channel has closed. Returns the datagrams that have come.
fn drive(
    mut endpoint: Machine,
    say_first: Option<&[u8]>,
    incoming: &mpsc::Receiver<Vec<u8>>,
    outgoing: &mpsc::Sender<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
    let start = Instant::now();
    let now = || Timestamp::from_micros(start.elapsed().as_micros().try_into().unwrap_or(u64::MAX));
    let mut buffer = vec![0; MAX_RECORD];
    let mut heard = Vec::new();
    loop {
        endpoint.handle_timeout(now());
        while let Some(frame) = endpoint.poll_transmit(now(), &mut buffer) {
            outgoing.send(buffer[..frame.len].to_vec())?;
        }
        while let Some(event) = endpoint.poll_event() {
            match event {
                Event::Opened { channel, .. } => {
                    if let Some(body) = say_first {
                        let frame = endpoint.seal_datagram(now(), channel, body, &mut buffer)?;
                        outgoing.send(buffer[..frame.len].to_vec())?;
                    }
                }
                Event::Closed { .. } => return Ok(heard),
                _ => {}
            }
        }
        // Wait for a frame, or for the endpoint's next deadline.
        let deadline = endpoint.poll_timeout().map_or(Duration::from_secs(1), |at| at.since(now()));
        let Ok(mut frame) = incoming.recv_timeout(deadline) else { continue };
        match endpoint.handle_frame(now(), PIPE, Source::proven(0), &mut frame) {
            Ok(Received::Record { channel, record: Record::Datagram(body), .. }) => {
                heard.push(body.to_vec());
                if say_first.is_some() {
                    endpoint.close(channel, CloseReason::Finished);
                    while let Some(frame) = endpoint.poll_transmit(now(), &mut buffer) {
                        outgoing.send(buffer[..frame.len].to_vec())?;
                    }
                    return Ok(heard);
                }
                let frame = endpoint.seal_datagram(now(), channel, b"and hello to you", &mut buffer)?;
                outgoing.send(buffer[..frame.len].to_vec())?;
            }
            Ok(_) => {}
            Err(error) => eprintln!("a frame was dropped: {error}"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut caller, caller_card) = machine()?;
    let (mut callee, callee_card) = machine()?;
    callee.admit(&Policy::only(&caller_card));
    let policy = Policy::only(&callee_card);
    caller.open(Timestamp::default(), &callee_card, &policy, PayloadParts::default(), PIPE)?;

    let (to_callee, at_callee) = mpsc::channel();
    let (to_caller, at_caller) = mpsc::channel();
    let answering = thread::spawn(move || drive(callee, None, &at_callee, &to_caller));
    let heard = drive(caller, Some(b"hello"), &at_caller, &to_callee).map_err(|error| error.to_string())?;
    let answered = answering.join().map_err(|_| "the callee panicked")?.map_err(|error| error.to_string())?;
    println!("the callee heard {:?}", String::from_utf8_lossy(&answered.concat()));
    println!("the caller heard {:?}", String::from_utf8_lossy(&heard.concat()));
    Ok(())
}
