//! How flows over UDP and one over TCP share a narrow path, in namespaces.
//!
//! ```text
//! source ── router ── sink        a queue in front of a slow link
//! ```

use std::process::Command;

use super::{Running, named, within};
use crate::tools::{root, run};

const SPACES: [&str; 3] = ["source", "router", "sink"];
const PLACE: &str = "10.9.2.2:7000";

/// A path, and who is on it.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// Megabits a second.
    rate: u32,
    /// Milliseconds that the queue holds.
    queue: u32,
    /// Flows over UDP.
    flows: usize,
    seconds: u32,
}

/// What is run: slow and fast, short and long, one and two beside one of TCP's.
pub(super) const PATHS: [Path; 4] = [
    Path { rate: 5, queue: 100, flows: 1, seconds: 60 },
    Path { rate: 20, queue: 50, flows: 1, seconds: 60 },
    Path { rate: 100, queue: 20, flows: 1, seconds: 60 },
    Path { rate: 20, queue: 50, flows: 2, seconds: 60 },
];
/// What a test can wait for, at a rate that a build without optimisation keeps up with.
pub(super) const SHORT: [Path; 1] = [Path { rate: 20, queue: 50, flows: 2, seconds: 20 }];
/// A flow that takes so many times what another one takes is unfair. In a minute two are apart by two now and then; without a
/// controller it would be tens.
const UNFAIR: f64 = 4.0;

/// The namespaces. They are gone when this is.
struct Lab;

impl Drop for Lab {
    fn drop(&mut self) {
        for space in SPACES {
            let delete = ["netns", "delete", &named(space)];
            let _ = Command::new("ip").args(delete).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Lab {
    fn new(path: Path) -> Result<Self, String> {
        drop(Self);
        for space in SPACES {
            run(&["ip", "netns", "add", &named(space)])?;
            within(space, "ip link set lo up")?;
        }
        let lab = Self;
        for (side, number) in [("source", 1), ("sink", 2)] {
            let (here, there) = (named(side), named("router"));
            run(&["ip", "link", "add", "outside", "netns", &here, "type", "veth", "peer", side, "netns", &there])?;
            within(side, &format!("ip address add 10.9.{number}.2/24 dev outside"))?;
            within("router", &format!("ip address add 10.9.{number}.1/24 dev {side}"))?;
            // A wire carries packets, not the 64 KiB that TCP hands to a device at once.
            within(side, "ip link set outside gso_max_segs 1 up")?;
            within("router", &format!("ip link set {side} up"))?;
            within(side, &format!("ip route add default via 10.9.{number}.1"))?;
        }
        within("router", "sysctl -q -w net.ipv4.ip_forward=1")?;
        let Path { rate, queue, .. } = path;
        within("router", &format!("tc qdisc add dev sink root tbf rate {rate}mbit burst 16k latency {queue}ms"))?;
        Ok(lab)
    }
}

fn share(space: &str, profile: &str, arguments: &[&str]) -> Result<Running, String> {
    let program = root().join("target").join(profile).join("examples/share");
    let mut command = Command::new("ip");
    Running::start(command.args(["netns", "exec", &named(space)]).arg(program).args(arguments))
}

/// Runs a path, and prints what each flow got. `false`: it was not fair.
fn run_one(profile: &str, path: Path) -> Result<bool, String> {
    let _lab = Lab::new(path)?;
    let (flows, seconds) = (path.flows.to_string(), path.seconds.to_string());
    let mut sink = share("sink", profile, &["sink", PLACE, &flows])?;
    sink.expect("ready")?;
    let _source = share("source", profile, &["source", PLACE, &flows, &seconds])?;
    let line = sink.next_line()?;
    let octets: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (most, least) =
        octets.iter().fold((0.0_f64, f64::MAX), |(most, least), octets| (most.max(*octets), least.min(*octets)));
    let ratio = most / least.max(1.0);
    let rates: Vec<String> =
        octets.iter().map(|octets| format!("{:.1}", octets * 8e-6 / f64::from(path.seconds))).collect();
    let Path { rate, queue, .. } = path;
    println!("{rate:>4} Mbit/s  {queue:>4} ms  {:<20}  {ratio:.2}", rates.join("  "));
    Ok(octets.len() == path.flows + 1 && ratio < UNFAIR)
}

/// Runs all of them, with the example in a profile's build: `debug` or `release`.
pub(super) fn run_all(profile: &str, paths: &[Path]) -> Result<(), String> {
    let optimised = (profile == "release").then_some("--release");
    let build = ["cargo", "build", "--quiet", "--package", "sealway-udp", "--example", "share"];
    run(&build.into_iter().chain(optimised).collect::<Vec<_>>())?;
    println!("\nrate         queue    Mbit/s over UDP, TCP  most / least");
    let mut unfair = 0;
    for path in paths {
        unfair += u32::from(!run_one(profile, *path)?);
    }
    if unfair == 0 { Ok(()) } else { Err(format!("{unfair} paths were not shared fairly")) }
}
