//! The demonstrations. `sealway demo offline` is in [`offline`], `sealway demo kills` in [`kills`].
//!
//! `sealway demo heart-rate`: a monitor and a phone, both clients of a relay that tampers; and the same over TLS.
//!
//! The three are processes of their own. This one starts them, kills them, listens on the wire, and in the end counts, from
//! files alone: what the phone has committed against the recording, the monitor's settings against what was set, and what of
//! the readings is to be found in all that the relay has seen.

#[cfg(sealway_break)]
mod broken;
mod children;
mod files;
pub(crate) mod kills;
pub(crate) mod offline;
mod random;
mod reading;
mod roles;
mod scan;
mod tamper;
mod tls;
mod wiretap;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    process::ExitCode,
    sync::atomic::Ordering,
    time::Duration,
};

use sealway::Identity;

use self::{
    children::{Actor, Said, Stage},
    files::{Folder, lines},
    reading::{HEADER, RECORDING, Reading},
    tamper::KINDS,
    wiretap::Wiretap,
};
use crate::{
    arguments::{DemoRole, HeartRate},
    failure::Failure,
};

pub(crate) async fn run_role(role: &DemoRole) -> Result<(), Failure> {
    #[cfg(sealway_break)]
    broken::turn_off()?;
    let folder = Folder(role.folder.clone());
    match role.role.as_str() {
        "relay" => roles::relay(&folder, &role.address, role.seed).await,
        "monitor" => roles::monitor(&folder, &role.address).await,
        "phone" => roles::phone(&folder, &role.address).await,
        "sensor" => roles::writer(&folder, ("sensor", "office"), &role.address).await,
        "office" => roles::writer(&folder, ("office", "sensor"), &role.address).await,
        "tls-relay" => tls::relay(&folder, &role.address).await,
        other => Err(Failure::given(format!("no process of a demonstration is called {other}"))),
    }
}

pub(crate) async fn run(options: HeartRate) -> Result<ExitCode, Failure> {
    let (keep, folder) = folder(options.keep)?;
    let stage = Stage::new(folder.clone(), STEP);
    #[cfg(sealway_break)]
    let stage = broken::prepare(stage, &options);
    let outcome = play(&folder, stage, options.seed).await;
    keep.announce();
    outcome
}

/// The folder of a demonstration, which goes with this unless it is to be kept.
struct Keep {
    temporary: tempfile::TempDir,
    keep: bool,
}

impl Keep {
    fn announce(self) {
        if self.keep {
            println!("everything is in {}", self.temporary.keep().display());
        }
    }
}

fn folder(keep: bool) -> Result<(Keep, Folder), Failure> {
    let temporary = tempfile::Builder::new().prefix("sealway-demo-").tempdir();
    let temporary = temporary.map_err(|error| Failure::failed(format!("no temporary folder: {error}")))?;
    let folder = Folder(temporary.path().to_path_buf());
    Ok((Keep { temporary, keep }, folder))
}

/// What happened beside the messages.
#[derive(Default)]
struct Acts {
    settings: Vec<String>,
    relay_kills: u32,
    phone_absences: u32,
    monitor_absences: u32,
    /// Readings that were nowhere but on the disks of a monitor that was gone and a relay that was killed.
    kept: usize,
}

/// A step that takes longer has failed.
const STEP: Duration = Duration::from_secs(120);

async fn play(folder: &Folder, mut stage: Stage, seed: u64) -> Result<ExitCode, Failure> {
    println!(
        "monitor ──► relay ──► phone: 501 recorded beats, sealed from end to end. The relay tampers with every eighth"
    );
    println!("frame, a stranger on the wire in front of it flips bits, and all three are killed and started again.\n");
    let wiretap = Wiretap::bind(folder, "wire.seen", true).await?;
    make_identities(folder, wiretap.address, &["monitor", "phone"])?;
    let mut acts = Acts::default();
    // Who has not got what was sent to it in time has lost it: the count says so.
    if let Err(failure) = perform(folder, &mut stage, &wiretap, &mut acts, seed).await {
        let _ = failure.report();
    }
    let tls_delivered = perform_over_tls(folder, &mut stage).await?;
    conclude(folder, &acts, &wiretap, tls_delivered)
}

/// Makes a relay, and machines that are found there.
fn make_identities(folder: &Folder, relay_address: SocketAddr, clients: &[&str]) -> Result<(), Failure> {
    let make = |name: &str, addresses, relays| {
        let path = folder.path(&format!("{name}.vault"));
        let (identity, _recovery) = Identity::create(&path, Folder::unlock(), addresses, relays)?;
        let written = std::fs::write(folder.path(&format!("{name}.card")), identity.card().to_uri());
        written.map_err(Failure::failed).map(|()| identity.card().clone())
    };
    let relay = make("relay", vec![format!("tcp://{relay_address}")], vec![])?;
    clients.iter().try_for_each(|name| make(name, vec![], vec![relay.clone()]).map(drop))
}

/// A port that is free: cards are made before the relay listens.
fn free_address() -> Result<SocketAddr, Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    port.map_err(Failure::failed)
}

async fn start_relay(stage: &mut Stage, address: &str, seed: u64) -> Result<(Actor, SocketAddr), Failure> {
    let relay = stage.enter("relay", address, seed)?;
    let said = stage.wait("the relay to listen", |said| said.line.starts_with("listening on ")).await?;
    let address = said.line.trim_start_matches("listening on tcp://").parse().map_err(Failure::failed)?;
    Ok((relay, address))
}

async fn start_end(stage: &mut Stage, role: &'static str, address: &str) -> Result<Actor, Failure> {
    let actor = stage.enter(role, address, 0)?;
    stage.wait(role, |said| said.who == role && said.line == "ready").await?;
    Ok(actor)
}

/// Waits until the phone has committed `count` readings in all, and shows some of them beside what the relay sees.
async fn committed(folder: &Folder, stage: &mut Stage, count: usize) -> Result<(), Failure> {
    // From the file: what a process has said may have been lost with it.
    let have = || lines(&folder.path("phone.csv")).len();
    let done = |said: &Said| {
        let is_reading = said.who == "phone" && said.line.starts_with("reading ");
        if is_reading {
            let have = have();
            if have % 25 == 1 {
                show(folder, said);
            }
            return have >= count;
        }
        false
    };
    if have() < count {
        stage.wait(&format!("the phone to have {count} readings"), done).await?;
    }
    Ok(())
}

fn show(folder: &Folder, said: &Said) {
    let reading = said.line.trim_start_matches("reading ");
    let seen = std::fs::read(folder.path("relay.seen")).unwrap_or_default();
    let last = data_encoding::HEXLOWER.encode(&seen[seen.len().saturating_sub(24)..]);
    println!("  the phone reads  {reading:<18}    the relay sees  ..{last}");
}

async fn settled(folder: &Folder, stage: &mut Stage, acts: &Acts) -> Result<(), Failure> {
    let have = || lines(&folder.path("monitor.settings")).len();
    if have() < acts.settings.len() {
        let done =
            |said: &Said| said.who == "monitor" && said.line.starts_with("setting ") && have() >= acts.settings.len();
        stage.wait("the monitor to have its setting", done).await?;
    }
    Ok(())
}

async fn set(stage: &mut Stage, phone: &mut Actor, acts: &mut Acts) -> Result<(), Failure> {
    let text = format!("alarm below {} bpm", 40 + acts.settings.len());
    phone.order(&format!("set {text}")).await?;
    let said = format!("set {text}");
    stage.wait("the phone's setting", |line| line.line == said).await?;
    acts.settings.push(text);
    Ok(())
}

async fn send(stage: &mut Stage, monitor: &mut Actor, from: usize, to: usize) -> Result<(), Failure> {
    monitor.order(&format!("send {from} {to}")).await?;
    let last = format!("sent {}", to - 1);
    stage.wait("the monitor to send", |said| said.line == last).await.map(drop)
}

/// Has the monitor send readings, and waits until the relay has all of them on its disk.
async fn leave(stage: &mut Stage, monitor: &mut Actor, from: usize, to: usize) -> Result<usize, Failure> {
    monitor.order(&format!("send {from} {to}")).await?;
    let mut kept = BTreeSet::new();
    let all = |said: &Said| {
        let sequence = said.line.strip_prefix("kept ").and_then(|sequence| sequence.parse::<usize>().ok());
        kept.extend(sequence.filter(|sequence| said.who == "monitor" && (from..to).contains(sequence)));
        kept.len() == to - from
    };
    stage.wait("the relay to keep the monitor's readings", all).await?;
    Ok(kept.len())
}

async fn perform(
    folder: &Folder,
    stage: &mut Stage,
    wiretap: &Wiretap,
    acts: &mut Acts,
    seed: u64,
) -> Result<(), Failure> {
    let (relay, address) = start_relay(stage, "127.0.0.1:0", seed).await?;
    wiretap.carry_to(address);
    let mut monitor = start_end(stage, "monitor", "127.0.0.2").await?;
    let mut phone = start_end(stage, "phone", "127.0.0.3").await?;

    println!("1. Everybody is there.");
    set(stage, &mut phone, acts).await?;
    send(stage, &mut monitor, 0, 100).await?;
    committed(folder, stage, 100).await?;
    settled(folder, stage, acts).await?;

    println!("2. The phone is killed in the middle, and comes back at another address.");
    send(stage, &mut monitor, 100, 150).await?;
    phone.kill().await?;
    acts.phone_absences += 1;
    send(stage, &mut monitor, 150, 200).await?;
    let mut phone = start_end(stage, "phone", "127.0.0.5").await?;
    set(stage, &mut phone, acts).await?;
    committed(folder, stage, 200).await?;
    settled(folder, stage, acts).await?;

    println!("3. The monitor is killed with readings on the way, and comes back at another address.");
    send(stage, &mut monitor, 200, 260).await?;
    monitor.kill().await?;
    acts.monitor_absences += 1;
    set(stage, &mut phone, acts).await?;
    let mut monitor = start_end(stage, "monitor", "127.0.0.4").await?;
    send(stage, &mut monitor, 260, 300).await?;
    committed(folder, stage, 300).await?;
    settled(folder, stage, acts).await?;

    println!("4. The relay is killed, and started again.");
    send(stage, &mut monitor, 300, 350).await?;
    relay.kill().await?;
    acts.relay_kills += 1;
    send(stage, &mut monitor, 350, 400).await?;
    set(stage, &mut phone, acts).await?;
    let (relay, _) = start_relay(stage, &address.to_string(), seed + 1).await?;
    committed(folder, stage, 400).await?;
    settled(folder, stage, acts).await?;

    println!("5. They are never there at the same time: the relay keeps what they leave, and is killed meanwhile.");
    phone.kill().await?;
    acts.phone_absences += 1;
    acts.kept = leave(stage, &mut monitor, 400, 450).await?;
    monitor.kill().await?;
    acts.monitor_absences += 1;
    relay.kill().await?;
    acts.relay_kills += 1;
    let (relay, _) = start_relay(stage, &address.to_string(), seed + 2).await?;
    let mut phone = start_end(stage, "phone", "127.0.0.3").await?;
    committed(folder, stage, 450).await?;
    set(stage, &mut phone, acts).await?;
    let kept = format!("kept {}", acts.settings.last().map_or("", String::as_str));
    stage.wait("the relay to keep the phone's setting", |said| said.line == kept).await?;
    phone.kill().await?;
    acts.phone_absences += 1;
    let mut monitor = start_end(stage, "monitor", "127.0.0.2").await?;
    settled(folder, stage, acts).await?;
    let mut phone = start_end(stage, "phone", "127.0.0.5").await?;

    println!("6. Everybody is there.");
    set(stage, &mut phone, acts).await?;
    send(stage, &mut monitor, 450, 501).await?;
    committed(folder, stage, 501).await?;
    settled(folder, stage, acts).await?;
    // What the relay still holds back or repeats has until the end of these processes to do harm.
    for actor in [monitor, phone, relay] {
        actor.kill().await?;
    }
    Ok(())
}

async fn perform_over_tls(folder: &Folder, stage: &mut Stage) -> Result<usize, Failure> {
    println!("7. The same beats over TLS: monitor ──TLS──► relay ──TLS──► phone.");
    let relay = stage.enter("tls-relay", "127.0.0.1:0", 0)?;
    let said = stage.wait("the TLS relay to listen", |said| said.who == "tls-relay").await?;
    let address = said.line.trim_start_matches("listening on ").parse().map_err(Failure::failed)?;
    let delivered = tls::exchange(folder, address).await?;
    relay.kill().await?;
    Ok(delivered)
}

fn conclude(folder: &Folder, acts: &Acts, wiretap: &Wiretap, tls_delivered: usize) -> Result<ExitCode, Failure> {
    let readings = Reading::recorded();
    let expected: Vec<&str> = RECORDING.lines().skip(1).collect();
    let committed = lines(&folder.path("phone.csv"));
    let (delivered, duplicated, forged) = compare(&committed, &expected);
    let settings = lines(&folder.path("monitor.settings"));
    let wanted: Vec<&str> = acts.settings.iter().map(String::as_str).collect();
    let (commands_delivered, commands_duplicated, commands_forged) = compare(&settings, &wanted);
    let in_order = std::iter::once(HEADER).chain(committed.iter().map(String::as_str)).eq(RECORDING.lines());

    let bodies: Vec<Vec<u8>> = readings.iter().map(|reading| reading.encode().to_vec()).collect();
    let relay_files = ["relay.seen", "relay.log", "relay.data", "wire.seen"].map(|name| folder.path(name));
    let plaintext = scan::count(&bodies, &relay_files)?;
    let plaintext_tls = scan::count(&bodies, &[folder.path("tls-relay.seen")])?;
    let names = scan::count(&identifying(folder)?, &[folder.path("wire.seen")])?;
    let mut damage: HashMap<String, u32> = HashMap::new();
    for kind in lines(&folder.path("relay.damage")) {
        *damage.entry(kind).or_default() += 1;
    }
    let damage = KINDS.map(|kind| damage.get(kind).copied().unwrap_or(0));
    let [flipped, dropped, by_relay, reordered, replayed, injected] = damage;
    let on_the_wire = wiretap.flipped.load(Ordering::Relaxed);

    println!("\nThe phone's file is the recording, octet by octet: {}.", if in_order { "yes" } else { "NO" });
    println!("Readings that only the relay could hand over, because monitor and phone never met: {}.", acts.kept);
    println!("Over TLS {tls_delivered} of {} readings arrived; its relay read every one.", readings.len());
    println!(
        "Bits flipped on the wire in front of the relay: {on_the_wire}. Identities, keys, cards and names of the two"
    );
    println!("ends found in the capture from there: {names}.\n");
    let lost = expected.len() - delivered;
    let duplicated = duplicated + commands_duplicated;
    let forged = forged + commands_forged;
    println!(
        "sent={} delivered={delivered} lost={lost} duplicated={duplicated} commands_sent={} commands_delivered={commands_delivered} forged_accepted={forged} plaintext_seen_by_relay={plaintext} plaintext_seen_by_tls_relay={plaintext_tls} flipped={flipped} dropped={dropped} duplicated_by_relay={by_relay} reordered={reordered} replayed={replayed} injected={injected} relay_kills={} phone_absences={} monitor_absences={}",
        expected.len(),
        wanted.len(),
        acts.relay_kills,
        acts.phone_absences,
        acts.monitor_absences
    );
    let zeros = lost + duplicated + forged + plaintext + names == 0;
    let all = in_order && commands_delivered == wanted.len() && plaintext_tls == expected.len();
    let all = all && acts.kept > 0;
    let damaged = damage.iter().all(|count| *count > 0) && on_the_wire > 0;
    Ok(if zeros && all && damaged { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many of the expected lines are there, how many come again, and how many were never sent.
fn compare(found: &[String], expected: &[&str]) -> (usize, usize, usize) {
    let mut counts: HashMap<&str, usize> = expected.iter().map(|line| (*line, 0)).collect();
    let mut forged = 0;
    for line in found {
        match counts.get_mut(line.as_str()) {
            Some(count) => *count += 1,
            None => forged += 1,
        }
    }
    let delivered = counts.values().filter(|count| **count > 0).count();
    let again = counts.values().map(|count| count.saturating_sub(1)).sum();
    (delivered, again, forged)
}

/// What would tell a listener on the wire who the two ends are.
fn identifying(folder: &Folder) -> Result<Vec<Vec<u8>>, Failure> {
    let mut secrets = vec![];
    for name in ["monitor", "phone"] {
        let card = folder.card(name)?;
        secrets.push(card.id().0.to_vec());
        secrets.push(card.attestation().channel_key.to_vec());
        secrets.push(card.as_bytes().to_vec());
        secrets.push(card.as_bytes()[..64].to_vec());
        secrets.push(format!("{name}.vault").into_bytes());
    }
    Ok(secrets)
}
