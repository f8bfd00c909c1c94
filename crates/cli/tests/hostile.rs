//! A relay process under clients that mean it no good: it stays within its bounds, goes on serving two that are honest, and
//! counts what it has refused.
//!
//! Numbers are small enough for every run. `cargo xtask hostile` runs the same in release, larger, and holds the honest
//! pair's rate under attack against its rate without; `--long` makes it a million half-open handshakes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod ports;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sealway_channel::{ChannelId, Config, Endpoint, PathId, Received, Record, Source};
use sealway_crypto_rustcrypto::{OsEntropy, RustCrypto};
use sealway_identity::{Card, Owner, PayloadParts, Policy, UnverifiedCard};
use sealway_vault::{Algorithm, CryptoProvider, SoftwareVault};
use sealway_wire::{
    BoxName, Hop, HopFrame, IdentityId, Instance, Route, Timestamp, VarInt,
    hop::{Label, Senders},
};
use tempfile::TempDir;

use self::ports::free_port;

/// The most that the relay may take in memory, whatever is done to it.
const MEMORY_LIMIT: u64 = 160 << 20;
/// Lines that the honest pair exchanges during each attack.
const LINES: usize = 300;

fn scale() -> usize {
    std::env::var("SEALWAY_HOSTILE_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

type TestVault = Arc<SoftwareVault<RustCrypto<OsEntropy>>>;

fn sealway(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealway"));
    command.current_dir(folder).env_remove("SEALWAY_PASSPHRASE").env("SEALWAY_LOG", "off").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The relay, with an honest pair that talks through it.
struct World {
    _folder: TempDir,
    relay: Running,
    _listener: Running,
    opener: Running,
    received: std::io::Lines<BufReader<std::process::ChildStdout>>,
    address: String,
    metrics: String,
    card: Card,
    attacker: (TestVault, Owner),
    sent: usize,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let address = format!("127.0.0.1:{}", free_port(20_000));
        let made = |name: &str, more: &[&str]| {
            let vault = format!("{name}.vault");
            assert!(sealway(path).args(["identity", "new", "--vault", &vault]).args(more).status().unwrap().success());
        };
        made("relay", &["--at", &format!("tcp://{address}")]);
        made("left", &["--relay", "relay.vault.card"]);
        made("right", &["--relay", "relay.vault.card"]);
        // One of the clients is not what it seems.
        let mut vault = SoftwareVault::new(RustCrypto::os());
        let (owner, _) = Owner::incept(&mut vault, Algorithm::Ed25519).unwrap();
        let mut relay = sealway(path);
        relay.args(["relay", "run", "--vault", "relay.vault", "--listen", &format!("tcp://{address}")]);
        relay.args(["--metrics", "127.0.0.1:0", "--allow", "left.vault.card", "--allow", "right.vault.card"]);
        relay.args(["--allow", &owner.id().to_string()]);
        let mut relay = Running(relay.spawn().unwrap());
        let mut lines = BufReader::new(relay.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.next().unwrap();
        let metrics =
            lines.next().unwrap().trim_start_matches("metrics on http://").trim_end_matches("/metrics").to_string();
        let listen = ["listen", "--vault", "right.vault", "--from", "left.vault.card"];
        let mut listener = Running(sealway(path).args(listen).spawn().unwrap());
        let received = BufReader::new(listener.0.stdout.take().unwrap()).lines();
        let mut open = sealway(path);
        let opener = Running(
            open.args(["open", "--vault", "left.vault", "right.vault.card"]).stdin(Stdio::piped()).spawn().unwrap(),
        );
        let uri = std::fs::read_to_string(path.join("relay.vault.card")).unwrap();
        let card = UnverifiedCard::from_uri(&uri).unwrap().verify(&RustCrypto::os()).unwrap();
        let attacker = (Arc::new(vault), owner);
        let mut world = Self {
            _folder: folder,
            relay,
            _listener: listener,
            opener,
            received,
            address,
            metrics,
            card,
            attacker,
            sent: 0,
        };
        world.talk(LINES);
        world
    }

    /// The honest pair exchanges lines, each of which arrives once and in order. Returns how long it took.
    fn talk(&mut self, count: usize) -> Duration {
        let start = Instant::now();
        let input = self.opener.0.stdin.as_mut().unwrap();
        let lines: String = (self.sent..self.sent + count).map(|number| format!("line {number}\n")).collect();
        input.write_all(lines.as_bytes()).unwrap();
        for number in self.sent..self.sent + count {
            assert_eq!(self.received.next().unwrap().unwrap(), format!("line {number}"));
        }
        self.sent += count;
        start.elapsed()
    }

    fn statistics(&self) -> BTreeMap<String, u64> {
        let mut connection = TcpStream::connect(&self.metrics).unwrap();
        write!(connection, "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        let figure = |line: &str| {
            let (name, value) = line.strip_prefix("sealway_")?.split_once(' ')?;
            Some((name.trim_end_matches("_total").to_string(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(figure).collect()
    }

    /// The most memory that the relay has taken so far, in octets.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.relay.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Runs an attack while the honest pair talks, until it is over, and once more while what it has left behind is held
    /// open; then everything holds.
    fn under<T: Send + 'static>(&mut self, name: &str, attack: impl FnOnce() -> T + Send + 'static) {
        let alone = self.talk(LINES);
        let before = self.statistics();
        let attacker = thread::spawn(attack);
        let (mut rounds, mut taken) = (1_u32, Duration::ZERO);
        while !attacker.is_finished() {
            taken += self.talk(LINES);
            rounds += 1;
        }
        let left_behind = attacker.join().unwrap();
        taken += self.talk(LINES);
        drop(left_behind);
        let after = self.statistics();
        let changed: Vec<String> = after
            .iter()
            .filter_map(|(name, value)| {
                let more = value.checked_sub(before.get(name).copied().unwrap_or(0)).filter(|more| *more > 0)?;
                Some(format!("{name} +{more}"))
            })
            .collect();
        let ratio = alone.as_secs_f64() / (taken / rounds).as_secs_f64();
        let peak = self.peak();
        println!(
            "{name}: honest pair at {ratio:.2} of its rate, relay's peak {} MiB; {}",
            peak >> 20,
            changed.join(", ")
        );
        assert!(peak < MEMORY_LIMIT, "{name}: {peak} octets");
        if std::env::var_os("SEALWAY_HOSTILE_RATE").is_some() {
            assert!(ratio >= 0.5, "{name}: the honest pair is slowed down to {ratio:.2}");
        }
    }

    fn grown(&self, name: &str, before: &BTreeMap<String, u64>) -> u64 {
        self.statistics()[name] - before.get(name).copied().unwrap_or(0)
    }
}

/// A frame on TCP: its length in two octets, and it.
fn framed(frame: &[u8]) -> Vec<u8> {
    [&u16::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat()
}

fn now(start: Instant) -> Timestamp {
    Timestamp::from_micros(1 + u64::try_from(start.elapsed().as_micros()).unwrap())
}

/// First messages, each of a handshake of its own, genuine but for what follows them: nothing.
fn first_messages(attacker: &(TestVault, Owner), card: &Card, count: usize) -> Vec<Vec<u8>> {
    let mut out = vec![0; 2048];
    let one = |_| {
        let mut endpoint = Endpoint::new(attacker.0.clone(), attacker.1.clone(), Config::new(Instance([0; 4])));
        let now = Timestamp::from_micros(1);
        endpoint.open(now, card, &Policy::only(card), PayloadParts::default(), PathId(0)).unwrap();
        let len = endpoint.poll_transmit(now, &mut out).unwrap().len;
        out[..len].to_vec()
    };
    (0..count).map(one).collect()
}

/// A client that the relay lets attach, driven by hand.
struct Client {
    start: Instant,
    endpoint: Endpoint<TestVault>,
    stream: TcpStream,
    channel: ChannelId,
    out: Vec<u8>,
}

impl Client {
    fn attach(world: &World) -> Self {
        Self::attach_to(&world.address, &world.card, &world.attacker)
    }

    fn attach_to(address: &str, card: &Card, attacker: &(TestVault, Owner)) -> Self {
        let (start, stream) = (Instant::now(), TcpStream::connect(address).unwrap());
        stream.set_nodelay(true).unwrap();
        let (vault, owner) = attacker.clone();
        let mut endpoint = Endpoint::new(vault, owner, Config::new(Instance([0; 4])));
        let policy = Policy::only(card);
        let channel = endpoint.open(now(start), card, &policy, PayloadParts::default(), PathId(0)).unwrap();
        endpoint.set_hop_channel(channel);
        let mut client = Self { start, endpoint, stream, channel, out: vec![0; 40_000] };
        while !client.endpoint.is_open(channel) {
            client.flush();
            client.receive();
        }
        client.flush();
        client
    }

    fn flush(&mut self) {
        while let Some(outgoing) = self.endpoint.poll_transmit(now(self.start), &mut self.out) {
            self.stream.write_all(&framed(&self.out[..outgoing.len])).unwrap();
        }
    }

    /// One frame of the relay, and what it carries.
    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut frame).unwrap();
        match self.endpoint.handle_frame(now(self.start), PathId(0), Source::proven(0), &mut frame) {
            Ok(Received::Record { record: Record::Datagram(body), .. }) => body.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Sends octets as the content of a hop frame. `false`: the relay has closed the connection.
    fn send(&mut self, content: &[u8]) -> bool {
        let mut out = std::mem::take(&mut self.out);
        let sealed = self.endpoint.seal_datagram(now(self.start), self.channel, content, &mut out);
        let sent = sealed.is_ok_and(|sealed| self.stream.write_all(&framed(&out[..sealed.len])).is_ok());
        self.out = out;
        sent
    }

    /// Has the relay open a box, and waits until it has.
    fn register(&mut self, name: BoxName) -> bool {
        let sent = self.send_frame(&HopFrame::Register { name, senders: Senders::Attached });
        while !self.receive().starts_with(&[7]) {}
        sent
    }

    fn send_frame(&mut self, frame: &HopFrame<'_>) -> bool {
        let mut content = vec![0; 20_000];
        let len = frame.encode(&mut content).unwrap();
        self.send(&content[..len])
    }
}

/// Octets of no protocol, from a generator that is its own.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = u64::try_from(seed).unwrap() | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn random_octets_and_lengths_that_there_are_not() {
    let mut world = World::new();
    let address = world.address.clone();
    let before = world.statistics();
    world.under("random octets, odd lengths", move || {
        for seed in 0..200 * scale() {
            let mut stream = TcpStream::connect(&address).unwrap();
            let octets = match seed % 4 {
                0 => noise(seed, 5000),
                1 => [&[0xff, 0xff], noise(seed, 3000).as_slice()].concat(),
                2 => vec![0; 1000],
                _ => (0..40).flat_map(|index| framed(&noise(seed + index, 1 + index * 30))).collect(),
            };
            // The relay may close before all of it is sent.
            let _ = stream.write_all(&octets);
        }
    });
    assert!(world.grown("refused_frames", &before) > 100);
}

#[test]
fn first_messages_without_the_card_and_with_it() {
    let mut world = World::new();
    let address = world.address.clone();
    let before = world.statistics();
    let genuine = first_messages(&world.attacker, &world.card, 1).remove(0);
    let forged = genuine.clone();
    let flood = 20_000 * scale();
    world.under("first messages without the card", move || {
        let mut stream = TcpStream::connect(&address).unwrap();
        for index in 0..flood {
            let mut frame = forged.clone();
            frame[1..9].copy_from_slice(&u64::try_from(index).unwrap().to_be_bytes());
            if stream.write_all(&framed(&frame)).is_err() {
                stream = TcpStream::connect(&address).unwrap();
            }
        }
    });
    assert!(world.grown("strangers", &before) > 1000);
    // Handshakes that are begun and left, all of them genuine, from ever new addresses of this machine. Made beforehand: what
    // the attacker computes is not to be taken for what it costs the relay. What comes again after so many others is as good
    // as new.
    let address = world.address.clone();
    let before = world.statistics();
    let half_open = match std::env::var("SEALWAY_HOSTILE_HALF_OPEN") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 3000 * scale(),
    };
    let messages = first_messages(&world.attacker, &world.card, half_open.min(20_000));
    world.under("half-open handshakes", move || {
        let mut messages = messages.iter().cycle().take(half_open).peekable();
        let mut connection = 0_usize;
        while messages.peek().is_some() {
            let octets: Vec<u8> = messages.by_ref().take(8).flat_map(|frame| framed(frame)).collect();
            let source = [connection / 250 % 250, 2 + connection % 250].map(|part| u8::try_from(part).unwrap());
            connection += 1;
            if let Some(mut stream) = socket_from([127, 0, source[0], source[1]], &address) {
                let _ = stream.write_all(&octets);
            }
        }
    });
    let after = world.statistics();
    assert!((1..=1024).contains(&after["half_open_handshakes"]), "{after:?}");
    assert_eq!(after["refused_peers"], before["refused_peers"]);
    // The same one again and again.
    let address = world.address.clone();
    let before = world.statistics();
    world.under("one first message, repeated", move || {
        let mut stream = TcpStream::connect(&address).unwrap();
        for _ in 0..5000 * scale() {
            if stream.write_all(&framed(&genuine)).is_err() {
                stream = TcpStream::connect(&address).unwrap();
            }
        }
    });
    assert!(world.grown("throttled_handshakes", &before) + world.statistics()["half_open_handshakes"] > 0);
}

/// A connection from one of the addresses of the loopback interface.
fn socket_from(local: [u8; 4], to: &str) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&std::net::SocketAddr::from((local, 0)).into()).ok()?;
    socket.connect(&to.parse::<std::net::SocketAddr>().unwrap().into()).ok()?;
    Some(socket.into())
}

#[test]
fn connections_that_say_next_to_nothing() {
    let mut world = World::new();
    let address = world.address.clone();
    let before = world.statistics();
    let (card, attacker) = (world.card.clone(), world.attacker.clone());
    world.under("slow loris", move || {
        // Half a length, half a frame, or nothing at all, from sixteen addresses, held open.
        let mut held = Vec::new();
        for index in 0..1000 {
            let source = u8::try_from(2 + index % 16).unwrap();
            let Some(mut stream) = socket_from([127, 0, 9, source], &address) else { continue };
            let _ = stream.write_all(&[4_u8, 0xde, 0x11][..index % 4]);
            held.push(stream);
        }
        // Who is honest still gets in.
        let mut client = Client::attach_to(&address, &card, &attacker);
        assert!(client.register(BoxName([5; 16])));
        (held, client)
    });
    assert!(world.grown("sessions", &before) >= 1);
}

#[test]
fn an_attached_client_that_does_what_it_likes() {
    let mut world = World::new();
    let before = world.statistics();
    let mut client = Client::attach(&world);
    world.under("huge routes, label storms, frames of nothing", move || {
        let box_of_nobody = BoxName([9; 16]);
        let hops: Vec<Hop> = (0..8).map(|index| Hop::Relay(IdentityId([index; 32]))).collect();
        for index in 0..20_000 * u32::try_from(scale()).unwrap() {
            let label = Label::new(index % (1 << 29)).unwrap();
            let sent = match index % 5 {
                0 => client.send_frame(&HopFrame::Forward { label, frame: b"x" }),
                1 => {
                    client.send_frame(&HopFrame::Routed { back: label, route: Route::new(&hops).unwrap(), frame: b"x" })
                }
                2 => client.send_frame(&HopFrame::Routed {
                    back: label,
                    route: Route::to_box(box_of_nobody),
                    frame: b"x",
                }),
                3 => client.send_frame(&HopFrame::Assign { back: label, label }),
                _ => client.send_frame(&HopFrame::Unknown { label }),
            };
            assert!(sent);
            // What is answered comes after all of it: the relay's queue to us does not overflow, and a connection that ends takes
            // nothing along.
            assert!(index % 1000 != 999 || client.register(BoxName([6; 16])));
        }
        // What is none of the hop protocol: a route with a hop twice, nine hops, a kind that there is not.
        let twice = [2, 1, 2, 2, 7, 7].map(|octet| octet);
        for content in [vec![0xee; 100], vec![], twice.to_vec(), [vec![2, 1, 9], vec![1; 9 * 33]].concat()] {
            client.send(&content);
        }
        assert!(client.register(BoxName([6; 16])));
    });
    assert!(world.grown("unknown_labels", &before) > 1000 && world.grown("refused_routes", &before) > 1000);
}

#[test]
fn a_client_that_deposits_without_end_and_one_that_never_reads() {
    let mut world = World::new();
    let before = world.statistics();
    let name = BoxName(RustCrypto::os().random().unwrap());
    let mut client = Client::attach(&world);
    assert!(client.register(name));
    // Into its own box, far beyond what a box, and a depositor in one box, may hold; and it never reads what is pushed.
    world.under("deposits without end, never read", move || {
        let body = vec![7; 16_000];
        for number in 0..1500 {
            let number = VarInt::from_u32(number);
            let frame =
                HopFrame::Deposit { number, seconds: VarInt::from_u32(0), route: Route::to_box(name), frame: &body };
            // A relay whose own queue to us is full may close: that is its right.
            if !client.send_frame(&frame) {
                break;
            }
        }
    });
    assert!(world.grown("refused_deposits", &before) > 0 || world.grown("dropped_frames", &before) > 0);
    // The share of one depositor in a box.
    assert!(world.statistics()["octets_in_custody"] <= 4 << 20);
}
