//! `doctor`: what on this machine, or on the way to its relays, stands in the way.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use sealway::{Address, Card, HopState, Transport};
use serde_json::json;

use crate::{
    arguments::{Doctor, Web},
    diagnose::{Scout, explain},
    failure::Failure,
    identity,
    media::Media,
    report, talk,
};

/// What is looked at until it does not get better, so that longer datagrams have been tried.
const SEARCH: u32 = 20;

/// A path that does not carry the length of datagrams with which every link begins: 1200 octets, less what is around a frame.
const NARROW: usize = 1100;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Doubtful,
    Wrong,
}

struct Finding {
    subject: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, subject: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Finding { subject, verdict, detail: detail.into() });
    }

    fn fine(&mut self, subject: &'static str, detail: impl Into<String>) {
        self.add(subject, Verdict::Fine, detail);
    }

    fn doubtful(&mut self, subject: &'static str, detail: impl Into<String>) {
        self.add(subject, Verdict::Doubtful, detail);
    }

    fn wrong(&mut self, subject: &'static str, detail: impl Into<String>) {
        self.add(subject, Verdict::Wrong, detail);
    }

    fn print(&self, as_json: bool) -> Result<(), Failure> {
        let word = |verdict| match verdict {
            Verdict::Fine => "fine",
            Verdict::Doubtful => "doubtful",
            Verdict::Wrong => "wrong",
        };
        let line = |finding: &Finding| match as_json {
            true => json!({"subject": finding.subject, "verdict": word(finding.verdict), "detail": finding.detail})
                .to_string(),
            false => format!("{:<9} {:<12} {}", word(finding.verdict), finding.subject, finding.detail),
        };
        let text: String = self.0.iter().map(|finding| line(finding) + "\n").collect();
        report::print(text.as_bytes())
    }
}

/// Looks at everything, and fails if anything is wrong.
pub(crate) async fn run(options: &Doctor) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let vault = &options.look.vault;
    look_at_files(&mut findings, options);
    look_at_clock(&mut findings, &vault.vault);
    let limit = Duration::from_secs(options.look.limit.into());
    match identity::open(vault) {
        Err(failure) => findings.wrong("vault", failure.to_string()),
        Ok(identity) => {
            findings.fine("vault", format!("{} opens: identity {}", vault.vault.display(), identity.id().short()));
            let relays = identity.relays().to_vec();
            let addresses = identity.card().addresses().len();
            drop(identity);
            if relays.is_empty() && addresses == 0 {
                findings.doubtful("card", "it names neither a relay nor an address: nobody can begin with us");
            }
            look_at_ways(&mut findings, options, &relays).await;
            look_at_relays(&mut findings, options, limit).await;
        }
    }
    findings.print(options.look.json)?;
    match findings.0.iter().filter(|finding| finding.verdict == Verdict::Wrong).count() {
        0 => Ok(()),
        1 => Err(Failure::failed("one thing is wrong")),
        count => Err(Failure::failed(format!("{count} things are wrong"))),
    }
}

fn look_at_files(findings: &mut Findings, options: &Doctor) {
    let vault = &options.look.vault.vault;
    let key = options.look.vault.key_file.clone().unwrap_or_else(|| identity::beside(vault, ".key"));
    let data = identity::beside(vault, ".data");
    for path in [vault.clone(), key, data.clone()].into_iter().chain(options.look.vault.passphrase_file.clone()) {
        if let Ok(metadata) = std::fs::metadata(&path) {
            look_at_mode(findings, &path, &metadata);
        }
    }
    if data.exists() {
        match talk::store(&options.look.vault, None) {
            Ok(_) => findings.fine("data", format!("{} can be read and written", data.display())),
            Err(failure) => findings.wrong("data", failure.to_string()),
        }
    }
}

#[cfg(unix)]
fn look_at_mode(findings: &mut Findings, path: &Path, metadata: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    let shown = path.display();
    match mode & 0o077 {
        0 => findings.fine("permissions", format!("{shown} is for its owner alone")),
        _ => findings.wrong("permissions", format!("{shown} has mode {mode:o}: others may use it; chmod 600 {shown}")),
    }
}

#[cfg(not(unix))]
fn look_at_mode(_: &mut Findings, _: &Path, _: &std::fs::Metadata) {}

/// Cards and prekeys have dates; nothing that protects a channel does.
fn look_at_clock(findings: &mut Findings, vault: &Path) {
    let written = std::fs::metadata(vault).and_then(|metadata| metadata.modified());
    let now = SystemTime::now();
    match written {
        Ok(written) if written.duration_since(now).is_ok_and(|ahead| ahead > Duration::from_secs(60)) => {
            findings.wrong(
                "clock",
                "it stands before the time at which the vault was written: what has a date is misjudged",
            );
        }
        Err(error) => findings.wrong("vault", format!("{}: {error}", vault.display())),
        Ok(_) => findings.fine("clock", "it stands behind the time at which the vault was written"),
    }
    // Where systemd keeps the time, it says in this way that it has it from somewhere.
    if Path::new("/run/systemd/timesync").is_dir() && !Path::new("/run/systemd/timesync/synchronized").exists() {
        findings.doubtful("clock", "it is not set by the network: systemd-timesyncd has reached no server yet");
    }
}

/// Each address of our relays, one by one: a card's addresses are tried in turn, and one that works hides the others.
async fn look_at_ways(findings: &mut Findings, options: &Doctor, relays: &[Card]) {
    let media = match Media::new(&Web { authority: options.look.authority.clone(), ..Web::default() }, None) {
        Ok(media) => media,
        Err(failure) => return findings.wrong("proxy", failure.to_string()),
    };
    let transports = media.transports();
    let via = options.look.via.iter();
    for text in via.chain(relays.iter().flat_map(|relay| relay.addresses())) {
        let address = match Address::parse(text) {
            Ok(address) => address,
            Err(error) => {
                findings.wrong("address", format!("{text} is no address ({error})"));
                continue;
            }
        };
        let Some(transport) = transports.iter().find(|transport| transport.supports(&address)) else { continue };
        match transport.connect(&address).await {
            Ok(_) if text.starts_with("udp") => findings.fine("address", format!("{text} can be sent to")),
            Ok(_) if text.starts_with("serial") => findings.fine("address", format!("{text} can be opened")),
            Ok(_) => findings.fine("address", format!("{text} takes a connection")),
            Err(error) => findings.wrong("address", error.to_string()),
        }
    }
}

/// Whether each relay, and the peer if one is named, answers us; and how long the datagrams are that get through.
async fn look_at_relays(findings: &mut Findings, options: &Doctor, limit: Duration) {
    let peer = match options.peer.as_deref().map(identity::card).transpose() {
        Ok(peer) => peer,
        Err(failure) => return findings.wrong("card", failure.to_string()),
    };
    let scout = match Scout::start(&options.look, peer.as_ref()).await {
        Ok(scout) => scout,
        Err(failure) => return findings.wrong("node", failure.to_string()),
    };
    for relay in scout.relays.clone() {
        let name = format!("the relay {}", relay.id().short());
        if let Err(error) = scout.node.stay_attached(&relay).await {
            findings.wrong("relay", format!("{name}: {error}"));
            continue;
        }
        match scout.ask(relay.id(), limit).await {
            Err(hop) => findings.wrong("relay", explain(hop.as_ref(), &name)),
            Ok(answer) => {
                let time = answer.round_trip.as_secs_f64() * 1e3;
                for _ in 0..SEARCH {
                    if scout.ask(relay.id(), limit).await.is_err() {
                        break;
                    }
                }
                let route = scout.node.route(relay.id()).await.unwrap_or_default();
                let hop = route.into_iter().find(|hop| hop.id == relay.id());
                let place = hop.as_ref().and_then(|hop| hop.place.clone()).unwrap_or_default();
                findings.fine("relay", format!("{name} answers over {place} in {time:.3} ms"));
                match hop.and_then(|hop| hop.unit).filter(|_| place.starts_with("udp")) {
                    Some(unit) if unit < NARROW => findings.doubtful(
                        "mtu",
                        format!(
                            "a datagram to {place} carries frames of {unit} octets: something on the way is narrow"
                        ),
                    ),
                    Some(unit) => {
                        findings.fine("mtu", format!("a datagram to {place} carries frames of {unit} octets"))
                    }
                    None => {}
                }
            }
        }
    }
    if let Some(peer) = peer {
        let name = format!("the peer {}", peer.id().short());
        match scout.node.open(&peer, sealway::Policy::only(&peer)).await {
            Err(error) => findings.wrong("peer", format!("{name}: {error}")),
            Ok(_channel) => match scout.ask(peer.id(), limit).await {
                Ok(answer) => {
                    let time = answer.round_trip.as_secs_f64() * 1e3;
                    findings.fine("peer", format!("{name} answers in {time:.3} ms"));
                }
                // It may be away: that is no fault.
                Err(Some(hop)) if hop.state == HopState::Away => {
                    findings.doubtful("peer", explain(Some(&hop), &name));
                }
                Err(hop) => findings.wrong("peer", explain(hop.as_ref(), &name)),
            },
        }
    }
    scout.node.shutdown().await;
}
