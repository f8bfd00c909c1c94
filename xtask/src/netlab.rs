//! A network in namespaces: a relay, and two machines behind a NAT each, over UDP.
//!
//! ```text
//! a ── NAT a ──┐
//!              ├── wire ── relay
//! b ── NAT b ──┘
//! ```
//!
//! Each run sends numbered lines both ways with the program `sealway`, before and after something happens, and counts what arrives, and
//! how many handshakes the relay has seen: one of each machine, whatever happens to its address meanwhile. Where the NATs let the
//! two reach each other directly they have to; where they do not, everything goes over the relay.

mod fairness;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use crate::tools::{output, root, run};

const RELAY: &str = "203.0.113.1";
const RELAY_PORT: u16 = 7001;
const FORWARDED_PORT: u16 = 7002;
/// Lines each way.
const LINES: usize = 200;
/// So long it is watched that no direct way is found where there is none.
const WATCHED: Duration = Duration::from_secs(3);
/// What the program logs when a direct way was found, and when it has ended.
const FOUND: &str = " reached without the relay ";
const LOST: &str = " not reached without the relay";
/// After so long what has not come is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a NAT chooses the port that others see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapping {
    /// The same, where it is free.
    Preserving,
    /// Another one for each flow.
    Random,
    /// One is always the machine's.
    Forwarded,
}

const MAPPINGS: [Mapping; 3] = [Mapping::Preserving, Mapping::Random, Mapping::Forwarded];

/// What happens in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incident {
    Nothing,
    /// The address that others see of one machine becomes another one.
    Moves,
    /// Nothing passes for so many seconds.
    Blackhole(u64),
    /// Nothing passes between the two machines, but to the relay it does; until everything has arrived.
    Cut,
}

#[derive(Clone, Copy)]
struct Case {
    mappings: [Mapping; 2],
    /// Packets of a hundred that are lost at each NAT, in each direction.
    loss: u8,
    mtu: u16,
    incident: Incident,
}

impl Case {
    /// Whether the two can reach each other directly: to a port that is forwarded anybody gets through, and two NATs that keep the
    /// port let in whom they have let out to. One that maps each flow to another port is seen elsewhere than the other side expects.
    fn is_direct(&self) -> bool {
        self.mappings.contains(&Mapping::Forwarded) || self.mappings == [Mapping::Preserving; 2]
    }
}

/// A run with everything as it is at home.
const PLAIN: Case = Case { mappings: [Mapping::Preserving; 2], loss: 0, mtu: 1500, incident: Incident::Nothing };

/// Everything, or what a test can wait for.
pub(crate) fn run_all(is_whole: bool) -> Result<(), String> {
    if !can_be_made() {
        return Err("network namespaces cannot be made here: root, iproute2 and nftables are needed".to_string());
    }
    run_pairs(is_whole)?;
    if is_whole { run_fairness() } else { fairness::run_all("debug", &fairness::SHORT) }
}

/// How paths are shared, alone.
pub(crate) fn run_fairness() -> Result<(), String> {
    fairness::run_all("release", &fairness::PATHS)
}

fn run_pairs(is_whole: bool) -> Result<(), String> {
    run(&["cargo", "build", "--quiet", "--package", "sealway-cli"])?;
    println!(
        "NAT a       NAT b       loss  MTU   incident       way       handshakes  arrived  lost  doubled  seconds"
    );
    let mut wrong = 0;
    for case in cases(is_whole) {
        let Counts { way, handshakes, arrived, lost, doubled, seconds } = Lab::new(case)?.run()?;
        let incident = match case.incident {
            Incident::Cut => "cut".to_string(),
            Incident::Nothing => "-".to_string(),
            Incident::Moves => "moves".to_string(),
            Incident::Blackhole(time) => format!("{time} s of nothing"),
        };
        let [a, b] = case.mappings.map(|mapping| format!("{mapping:?}").to_lowercase());
        println!(
            "{a:<11} {b:<11} {:>3} %  {:<5} {incident:<14} {way:<8}  {handshakes:>10}  {arrived:>7}  {lost:>4}  {doubled:>7}  {seconds:>7.1}",
            case.loss, case.mtu
        );
        // A hop that is silent for more than 40 s is made anew, and what is lost may be a handshake. An address that changes is no
        // reason for another one.
        let more = u64::from(matches!(case.incident, Incident::Blackhole(seconds) if seconds >= 40));
        let expected = if case.is_direct() { "directly" } else { "relay" };
        let is_wrong = lost + doubled > 0 || way != expected || (case.loss == 0 && handshakes > 2 + more);
        wrong += u32::from(is_wrong);
    }
    if wrong == 0 {
        Ok(())
    } else {
        Err(format!("{wrong} runs lost or doubled something, began anew, or went another way"))
    }
}

fn cases(is_whole: bool) -> Vec<Case> {
    if !is_whole {
        let lossy = Case { mappings: [Mapping::Random, Mapping::Preserving], loss: 5, ..PLAIN };
        let moves = Case { incident: Incident::Moves, ..PLAIN };
        return vec![moves, lossy, Case { mtu: 1280, ..PLAIN }, Case { incident: Incident::Cut, ..PLAIN }];
    }
    let mut all = Vec::new();
    for a in MAPPINGS {
        for b in MAPPINGS {
            for loss in [0, 5, 20] {
                all.push(Case { mappings: [a, b], loss, ..PLAIN });
            }
            all.push(Case { mappings: [a, b], incident: Incident::Moves, ..PLAIN });
        }
    }
    all.extend([576, 1280, 9000].map(|mtu| Case { mtu, ..PLAIN }));
    all.extend([Incident::Cut, Incident::Blackhole(60)].map(|incident| Case { incident, ..PLAIN }));
    all
}

/// Whether this machine lets us make namespaces.
pub(crate) fn can_be_made() -> bool {
    let probe = "PATH=$PATH:/usr/sbin:/sbin; command -v nft && ip netns add sealway-probe && ip netns exec sealway-probe nft list ruleset; \
                 outcome=$?; ip netns delete sealway-probe; exit $outcome";
    let quiet = Command::new("sh").args(["-c", probe]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// What came of a run.
struct Counts {
    way: &'static str,
    handshakes: u64,
    arrived: usize,
    lost: usize,
    doubled: usize,
    seconds: f64,
}

/// The network. It is gone when this is.
struct Lab {
    case: Case,
    folder: PathBuf,
}

const SPACES: [&str; 6] = ["relay", "wire", "nat-a", "nat-b", "a", "b"];

impl Drop for Lab {
    fn drop(&mut self) {
        for space in SPACES {
            let _ = Command::new("ip").args(["netns", "delete", &named(space)]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn named(space: &str) -> String {
    format!("sealway-{space}")
}

/// Runs a line of words in a namespace.
fn within(space: &str, line: &str) -> Result<(), String> {
    let space = named(space);
    let words: Vec<&str> = ["ip", "netns", "exec", &space].into_iter().chain(line.split_whitespace()).collect();
    output(&words).map(drop)
}

fn rules(space: &str, text: &str) -> Result<(), String> {
    let file = root().join("target").join(format!("netlab-{space}.nft"));
    fs::write(&file, text).map_err(|error| error.to_string())?;
    let outcome = within(space, &format!("nft -f {}", file.display()));
    let _ = fs::remove_file(&file);
    outcome
}

impl Lab {
    fn new(case: Case) -> Result<Self, String> {
        let folder = root().join("target/netlab");
        let lab = Self { case, folder };
        // What an earlier run has left, if it was killed.
        drop(Self { case, folder: lab.folder.clone() });
        fs::create_dir_all(&lab.folder).map_err(|error| error.to_string())?;
        for space in SPACES {
            run(&["ip", "netns", "add", &named(space)])?;
            within(space, "ip link set lo up")?;
        }
        within("wire", "ip link add name bridge type bridge")?;
        within("wire", &format!("ip link set bridge mtu {} up", case.mtu.max(1500)))?;
        // What is too long for the relay's link is dropped before it: nothing tells the others so.
        lab.plug("relay", "outside", RELAY, case.mtu)?;
        for (side, number, mapping) in [("a", 1, case.mappings[0]), ("b", 2, case.mappings[1])] {
            lab.side(side, number, mapping)?;
        }
        Ok(lab)
    }

    /// A namespace on the wire.
    fn plug(&self, space: &str, device: &str, address: &str, mtu: u16) -> Result<(), String> {
        let (here, wire) = (named(space), named("wire"));
        run(&["ip", "link", "add", device, "netns", &here, "type", "veth", "peer", "name", space, "netns", &wire])?;
        within("wire", &format!("ip link set {space} mtu {} master bridge up", mtu.max(1500)))?;
        within(space, &format!("ip address add {address}/24 dev {device}"))?;
        within(space, &format!("ip link set {device} mtu {mtu} up"))
    }

    fn side(&self, side: &str, number: u8, mapping: Mapping) -> Result<(), String> {
        let nat = format!("nat-{side}");
        let (here, there) = (named(side), named(&nat));
        self.plug(&nat, "outside", &format!("203.0.113.{number}0"), self.case.mtu.max(1500))?;
        run(&[
            "ip", "link", "add", "outside", "netns", &here, "type", "veth", "peer", "name", "inside", "netns", &there,
        ])?;
        // Long packets have to get through here too.
        let mtu = self.case.mtu.max(1500);
        within(&nat, &format!("ip link set inside mtu {mtu}"))?;
        within(side, &format!("ip link set outside mtu {mtu}"))?;
        within(&nat, &format!("ip address add 10.0.{number}.1/24 dev inside"))?;
        within(&nat, "ip link set inside up")?;
        within(&nat, "sysctl -q -w net.ipv4.ip_forward=1")?;
        within(side, &format!("ip address add 10.0.{number}.2/24 dev outside"))?;
        within(side, "ip link set outside up")?;
        within(side, &format!("ip route add default via 10.0.{number}.1"))?;
        let mapped = match mapping {
            Mapping::Random => "masquerade fully-random",
            Mapping::Preserving | Mapping::Forwarded => "masquerade",
        };
        let forwarded = match mapping {
            Mapping::Forwarded => format!("iifname outside udp dport {FORWARDED_PORT} dnat to 10.0.{number}.2"),
            _ => String::new(),
        };
        let loss = match self.case.loss {
            0 => String::new(),
            loss => format!("numgen random mod 100 < {loss} drop"),
        };
        rules(
            &nat,
            &format!(
                "table ip lab {{
                   chain own {{ type filter hook input priority filter; iifname outside drop; }}
                   chain out {{ type nat hook postrouting priority srcnat; oifname outside {mapped}; }}
                   chain in {{ type nat hook prerouting priority dstnat; {forwarded}; }}
                   chain through {{ type filter hook forward priority filter; {loss}; }}
                   chain hole {{ type filter hook forward priority filter; }}
                 }}"
            ),
        )
    }

    /// The program, in a namespace.
    fn sealway(&self, space: &str, arguments: &[&str]) -> Command {
        let program = root().join("target/debug/sealway");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &named(space)]).arg(program).args(arguments);
        command.current_dir(&self.folder).env_remove("SEALWAY_LOG").stderr(Stdio::null());
        command
    }

    /// One of the two machines, and what it logs in a file.
    fn machine(&self, side: &str, peer: &str) -> Result<Running, String> {
        let (vault, card) = (format!("{side}.vault"), format!("{peer}.vault.card"));
        let mapping = self.case.mappings[usize::from(side == "b")];
        let port = (mapping == Mapping::Forwarded).then(|| format!("--udp-port={FORWARDED_PORT}"));
        let words = ["open", "--vault", &vault, &card].into_iter().chain(port.as_deref());
        let mut command = self.sealway(side, &words.collect::<Vec<_>>());
        let log = fs::File::create(self.log_of(side)).map_err(|error| error.to_string())?;
        Running::start(command.env("SEALWAY_LOG", "info").stderr(log))
    }

    fn log_of(&self, side: &str) -> PathBuf {
        self.folder.join(format!("{side}.log"))
    }

    /// Waits until both machines send to each other directly, where there is such a way, and watches that they do not where there is
    /// none. Returns which way the two send.
    fn way(&self) -> Result<&'static str, String> {
        let began = Instant::now();
        let limit = if self.case.is_direct() { PATIENCE } else { WATCHED };
        while began.elapsed() < limit {
            if self.is_direct("a")? && self.is_direct("b")? {
                return Ok("directly");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok("relay")
    }

    /// Whether what a machine has logged last is that it has found the direct way.
    fn is_direct(&self, side: &str) -> Result<bool, String> {
        let log = fs::read_to_string(self.log_of(side)).map_err(|error| error.to_string())?;
        let last = log.lines().rev().find(|line| line.contains(FOUND) || line.contains(LOST));
        Ok(last.is_some_and(|line| !line.contains(LOST)))
    }

    fn identity(&self, name: &str, more: &[&str]) -> Result<(), String> {
        let vault = format!("{name}.vault");
        let new = ["identity", "new", "--vault", &vault];
        let made = self.sealway("relay", &[&new[..], more].concat()).stdout(Stdio::null()).status();
        if made.is_ok_and(|status| status.success()) { Ok(()) } else { Err(format!("no identity for {name}")) }
    }

    fn run(self) -> Result<Counts, String> {
        let address = format!("udp://{RELAY}:{RELAY_PORT}");
        self.identity("relay", &["--at", &address])?;
        let behind = ["--relay", "relay.vault.card"];
        self.identity("a", &behind)?;
        self.identity("b", &behind)?;
        let arguments = ["relay", "run", "--vault", "relay.vault", "--listen", &address, "--metrics"];
        let allow = ["--allow", "a.vault.card", "--allow", "b.vault.card"];
        let mut relay = Running::start(&mut self.sealway("relay", &[&arguments[..], &allow].concat()))?;
        relay.expect("metrics on")?;
        let began = Instant::now();
        // Both open: each is there when the other one begins.
        let mut ends = [self.machine("a", "b")?, self.machine("b", "a")?];
        let half = LINES / 2;
        ends.iter_mut().try_for_each(|end| end.say(0..half))?;
        let mut came = [BTreeMap::new(), BTreeMap::new()];
        let [a, b] = &mut ends;
        a.hear(&mut came[0], half, began)?;
        b.hear(&mut came[1], half, began)?;
        let mut way = self.way()?;
        self.happen()?;
        let [a, b] = &mut ends;
        [&mut *a, &mut *b].into_iter().try_for_each(|end| end.say(half..LINES))?;
        a.hear(&mut came[0], LINES, began)?;
        b.hear(&mut came[1], LINES, began)?;
        let seconds = began.elapsed().as_secs_f64();
        // What is doubled may be what came last.
        a.hear_more(&mut came[0])?;
        b.hear_more(&mut came[1])?;
        if self.case.incident == Incident::Cut {
            if self.is_direct("a")? || self.is_direct("b")? {
                return Err("a way that is cut is taken for one".to_string());
            }
            within("nat-a", "nft flush chain ip lab hole")?;
        }
        // It is found again, and one that was not there has not come about.
        if way == "directly" {
            way = self.way()?;
        }
        let handshakes = self.handshakes()?;
        let arrived: usize = came.iter().map(BTreeMap::len).sum();
        let doubled = came.iter().flat_map(BTreeMap::values).map(|times| times - 1).sum();
        Ok(Counts { way, handshakes, arrived, lost: 2 * LINES - arrived, doubled, seconds })
    }

    fn happen(&self) -> Result<(), String> {
        match self.case.incident {
            Incident::Nothing => Ok(()),
            Incident::Moves => {
                within("nat-a", "ip address delete 203.0.113.10/24 dev outside")?;
                within("nat-a", "ip address add 203.0.113.11/24 dev outside")
            }
            Incident::Cut => {
                within("nat-a", "nft add rule ip lab hole ip daddr 203.0.113.20 drop")?;
                within("nat-a", "nft add rule ip lab hole ip saddr 203.0.113.20 drop")
            }
            Incident::Blackhole(seconds) => {
                within("nat-a", "nft add rule ip lab hole drop")?;
                thread::sleep(Duration::from_secs(seconds));
                within("nat-a", "nft flush chain ip lab hole")
            }
        }
    }

    /// Sessions that the relay has made with its clients.
    fn handshakes(&self) -> Result<u64, String> {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let text = output(&["ip", "netns", "exec", &named("relay"), "bash", "-c", ask])?;
        let line = text.lines().find(|line| line.starts_with("sealway_sessions_total "));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.ok_or_else(|| "the relay does not tell of its sessions".to_string())
    }
}

/// A process that ends with us, and its lines.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self, String> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }

    fn expect(&mut self, start: &str) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(start) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(format!("a process has not said `{start}`")),
            }
        }
    }

    fn say(&mut self, numbers: std::ops::Range<usize>) -> Result<(), String> {
        let Some(input) = &mut self.child.stdin else { return Err("a process takes no lines".into()) };
        let text: String = numbers.map(|number| format!("line {number} {}\n", "x".repeat(number % 100))).collect();
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).map_err(|error| error.to_string())
    }

    fn next_line(&self) -> Result<String, String> {
        self.lines.recv_timeout(PATIENCE).map_err(|_| "a process says nothing".to_string())
    }

    /// Counts lines until there are so many different ones, or the time is over.
    fn hear(&self, came: &mut BTreeMap<String, usize>, wanted: usize, began: Instant) -> Result<(), String> {
        while came.len() < wanted {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
                Ok(line) => *came.entry(line).or_default() += 1,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err("a process has ended".into()),
            }
        }
        Ok(())
    }
}

impl Running {
    /// Counts what still comes, until nothing has for a second.
    fn hear_more(&self, came: &mut BTreeMap<String, usize>) -> Result<(), String> {
        loop {
            match self.lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => *came.entry(line).or_default() += 1,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err("a process has ended".into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
