//! What fuzzers begin with: every octet string of the vectors goes to the target that takes it, and the state machines get
//! schedules from seeds.

use std::time::Duration;

use sealway_vault::Entropy;
use sealway_wire::Lane;
use serde_json::Value;

use crate::{entropy::Seeded, network::Network, targets::ALL, vectors};

/// A file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The target that takes it.
    pub target: &'static str,
    /// Its name, which says where it is from.
    pub name: String,
    /// Its octets.
    pub octets: Vec<u8>,
}

/// The targets that are driven by a schedule, of which any octets are one.
const MACHINES: [&str; 6] = ["endpoint", "relay", "delivery", "frame_buffer", "link", "pairing"];
const SCHEDULES: u64 = 4;

/// All files, in the order of the vectors.
///
/// # Panics
/// Never, as long as the vectors can be made.
#[must_use]
pub fn generate() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (file, value) in vectors::generate() {
        collect(file.trim_end_matches(".json"), "", &value, &mut seeds);
    }
    for (name, text) in ADDRESSES {
        seeds.push(Seed { target: "address", name: name.into(), octets: text.into() });
    }
    seeds.extend(saved_states());
    for target in ALL.map(|(name, _)| name).into_iter().filter(|name| MACHINES.contains(name)) {
        for seed in 0..SCHEDULES {
            let random = Seeded::new(seed);
            let mut octets = vec![0; 200 + usize::try_from(random.below(400)).unwrap_or(0)];
            random.fill(&mut octets).expect("seeds do not fail");
            seeds.push(Seed { target, name: format!("schedule-{seed}"), octets });
        }
    }
    seeds
}

const ADDRESSES: [(&str, &str); 3] =
    [("ipv4", "tcp://127.0.0.1:1"), ("ipv6", "tcp://[2001:db8::1]:65535"), ("name", "tcp://relay.example:7001")];

/// What is written of a session, but for its last bit: in form it is genuine.
fn saved_states() -> impl Iterator<Item = Seed> {
    let mut network = Network::pair(1);
    network.open(0, 1);
    network.run(Duration::from_secs(2));
    network.send_message(0, 1, Lane::Stored, 0, b"stored");
    let states: Vec<Vec<u8>> = network.machines[1].disk.values().cloned().collect();
    states.into_iter().enumerate().map(|(number, mut octets)| {
        octets.last_mut().into_iter().for_each(|last| *last ^= 1);
        Seed { target: "saved_state", name: format!("session-{number}"), octets }
    })
}

/// Which target takes the value under `key` of a file of vectors.
fn target(file: &str, key: &str) -> Option<&'static str> {
    match (file, key) {
        ("contents", "octets") => Some("content"),
        ("hop", "octets") => Some("hop_frame"),
        ("session", "frame") => Some("frame"),
        ("session", key) if key.starts_with("S1.") => Some("frame"),
        ("constrained", "frame" | "C1.1" | "C1.2") => Some("short_frame"),
        ("letter", "letter") => Some("letter"),
        ("letter", "published") => Some("prekey"),
        (_, "card" | "card_uri") => Some("card"),
        (_, "payload" | "payload_with_box" | "identity_payload") => Some("payload"),
        _ => None,
    }
}

fn collect(file: &str, path: &str, value: &Value, seeds: &mut Vec<Seed>) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}-{key}") };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = below(key);
                match (target(file, key), value) {
                    (Some(target), Value::String(text)) => {
                        let is_text = key == "card_uri";
                        let octets = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().filter(|_| !is_text);
                        let octets = octets.unwrap_or_else(|| text.clone().into_bytes());
                        let name = format!("{file}-{path}").replace([' ', '_'], "-");
                        seeds.push(Seed { target, name, octets });
                    }
                    _ => collect(file, &path, value, seeds),
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                collect(file, &below(&index.to_string()), value, seeds);
            }
        }
        _ => {}
    }
}
