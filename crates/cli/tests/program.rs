//! The program as a person uses it: what works, and what it says when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod ports;
mod process;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
};

use tempfile::TempDir;

use self::{
    ports::free_port,
    process::{Running, get, made, refused, run, sealway, sentence},
};

/// A relay that lets `left` and `right` attach, and their vaults.
fn relay() -> (TempDir, Running) {
    relay_over("tcp")
}

fn relay_over(scheme: &str) -> (TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("{scheme}://127.0.0.1:{}", free_port(10_000));
    made(folder.path(), "relay", &["--at", &address]);
    made(folder.path(), "left", &["--relay", "relay.vault.card"]);
    made(folder.path(), "right", &["--relay", "relay.vault.card"]);
    let arguments = ["relay", "run", "--vault", "relay.vault", "--listen", &address];
    let allow = ["--allow", "left.vault.card", "--allow", "right.vault.card"];
    let mut process = Running::start(sealway(folder.path()).args(arguments).args(allow));
    assert_eq!(process.lines().next().unwrap(), format!("listening on {address}"));
    (folder, process)
}

fn listen(folder: &Path) -> Running {
    Running::start(sealway(folder).args(["listen", "--vault", "right.vault", "--from", "left.vault.card"]))
}

fn open(folder: &Path) -> Running {
    let arguments = ["open", "--vault", "left.vault", "right.vault.card"];
    Running::start(sealway(folder).args(arguments).stdin(Stdio::piped()))
}

#[cfg(unix)]
#[test]
fn lines_arrive_once_and_in_order_although_the_listener_was_away() {
    let (folder, _relay) = relay();
    let folder = folder.path();
    let mut listener = listen(folder);
    let mut opener = open(folder);
    let mut input = opener.0.stdin.take().unwrap();
    writeln!(input, "one\ntwo").unwrap();
    assert_eq!(listener.lines().take(2).collect::<Vec<_>>(), ["one", "two"]);
    listener.stop();
    writeln!(input, "three\nfour").unwrap();
    let mut listener = listen(folder);
    assert_eq!(listener.lines().take(2).collect::<Vec<_>>(), ["three", "four"]);
    // The input ends: the program waits until everything is committed, and no longer.
    drop(input);
    assert!(opener.0.wait().unwrap().success());
}

#[test]
fn lines_arrive_over_datagrams() {
    let (folder, _relay) = relay_over("udp");
    let folder = folder.path();
    let mut listener = listen(folder);
    let mut opener = open(folder);
    let mut input = opener.0.stdin.take().unwrap();
    let long = "long ".repeat(3000);
    writeln!(input, "one\n{long}").unwrap();
    assert_eq!(listener.lines().take(2).collect::<Vec<_>>(), ["one", &long]);
    drop(input);
    assert!(opener.0.wait().unwrap().success());
}

#[test]
fn a_line_of_this_machine_stands_on_no_card_and_leads_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let line = "serial:/dev/no-such-device?baud=9600";
    let (_, said) = refused(folder, &["identity", "new", "--vault", "a.vault", "--at", line]);
    assert_eq!(said, format!("{line} is a line of this machine: it means nothing on a card"));
    made(folder, "a", &["--at", "udp://127.0.0.1:7000"]);
    let (_, said) = refused(folder, &["relay", "run", "--vault", "a.vault", "--listen", line]);
    assert!(said.contains(&format!("{line} cannot be reached")), "{said}");
    let via = ["listen", "--vault", "a.vault", "--listen", "udp://127.0.0.1:0", "--via", line];
    let (_, said) = refused(folder, &via);
    assert!(said.contains("--via says where the relay of our card is, and that names none"), "{said}");
}

/// The relay has the lines when it says so, and hands them over when their sender is long gone.
#[cfg(unix)]
#[test]
fn the_sender_may_be_gone_when_the_listener_comes() {
    let (folder, _relay) = relay();
    let folder = folder.path();
    let mut listener = listen(folder);
    let mut opener = open(folder);
    writeln!(opener.0.stdin.take().unwrap(), "we have met").unwrap();
    assert_eq!(listener.lines().next().unwrap(), "we have met");
    assert!(opener.0.wait().unwrap().success());
    listener.stop();
    let arguments = ["open", "--vault", "left.vault", "right.vault.card"];
    let mut opener = sealway(folder).args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(opener.stdin.take().unwrap(), "one\ntwo").unwrap();
    let said = BufReader::new(opener.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.into_iter().any(|line| line.starts_with("the relay keeps the lines")));
    opener.kill().unwrap();
    opener.wait().unwrap();
    assert_eq!(listen(folder).lines().take(2).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn frames_are_explained_or_found_malformed() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = |frame: &str| run(folder.path(), &["inspect", frame]);
    let said = |frame: &str| String::from_utf8(inspect(frame).stdout).unwrap();
    let record = format!("9c 01020304 00000005 1122334455667788 aabb {}", "cc".repeat(16));
    assert!(inspect(&record).status.success());
    for line in ["incarnation 1122334455667788", "sealed      2 octets", "to CID      01020304", "lane        live"] {
        assert!(said(&record).contains(line), "{}", said(&record));
    }
    let json: serde_json::Value =
        serde_json::from_slice(&run(folder.path(), &["inspect", "--json", &record]).stdout).unwrap();
    assert_eq!((&json["kind"], &json["to_CID"]), (&"record".into(), &"01020304".into()));
    assert!(said("0B:05:03:01").contains("Discard(Protocol)"));
    assert!(said("0800000102030303030303030303030303030303030301").contains("DEPOSIT"));
    let short = format!("b0 0a0b 05 aabbcc {}", "dd".repeat(8));
    for line in
        ["record of the constrained profile", "to CID    0a0b", "sealed    3 octets", "counter   1 octets of it"]
    {
        assert!(said(&short).contains(line), "{}", said(&short));
    }
    assert!(said(&format!("21 0102 {}", "ee".repeat(48))).contains("C1.1"));
    let wrong = [
        ("21ff", (3, "malformed: C1.1 hint: ")),
        ("", (3, "a frame of no octets")),
        ("xy", (3, "not hexadecimal at digit 1")),
        ("941", (3, "not hexadecimal at digit 3")),
        ("12ff", (3, "malformed: S1.2 CID: ")),
        ("0b0509", (3, "malformed: VERDICT verdict: ")),
        ("0840", (3, "malformed: DEPOSIT number: ")),
        ("95", (3, "malformed: octet 0: ")),
        ("b1", (3, "malformed: octet 0: ")),
    ];
    for (frame, (code, start)) in wrong {
        let (got, sentence) = sentence(&inspect(frame));
        assert!(got == code && sentence.starts_with(start), "{frame}: {sentence}");
    }
}

/// Octets that are no text, and lines that are too long, end nothing; the program waits for a listener that comes later.
#[cfg(unix)]
#[test]
fn a_bad_line_ends_nothing() {
    let (folder, relay) = relay();
    let folder = folder.path();
    let mut opener = open(folder);
    let mut input = opener.0.stdin.take().unwrap();
    input.write_all(b"early\n\xff\xfe\n").unwrap();
    input.write_all(&[vec![b'x'; 2_000_000], b"\nlast\n".to_vec()].concat()).unwrap();
    drop(input);
    let mut listener = listen(folder);
    let mut lines = listener.lines();
    assert_eq!(lines.next().unwrap(), "early");
    assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["\u{fffd}\u{fffd}", "last"]);
    assert!(opener.0.wait().unwrap().success());
    drop((listener, relay));
}

#[test]
fn a_passphrase_opens_what_it_closed_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("right"), "correct horse\n").unwrap();
    std::fs::write(folder.join("wrong"), "battery staple\n").unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    made(folder, "a", &["--passphrase-file", "right"]);
    let show = |file| ["card", "show", "--vault", "a.vault", "--passphrase-file", file];
    assert!(run(folder, &show("right")).status.success());
    let (code, said) = refused(folder, &show("wrong"));
    assert_eq!(code, 3);
    assert!(said.starts_with("the vault a.vault does not open: the passphrase or key file is not its own"), "{said}");
    assert_eq!(refused(folder, &show("empty")), (3, "the passphrase is empty; give at least one character".into()));
    let (_, said) = refused(folder, &show("missing"));
    assert!(said.starts_with("the passphrase missing cannot be read: No such file"), "{said}");
    let (_, said) = refused(folder, &["card", "show", "--vault", "a.vault", "--key-file", "right"]);
    assert_eq!(said, "right is no key file: it holds 64 hexadecimal digits");
}

#[test]
fn what_is_no_vault_or_no_card_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "a", &[]);
    let (code, said) = refused(folder, &["card", "show", "--vault", "none.vault"]);
    assert_eq!(code, 3);
    assert!(said.ends_with("make one with `sealway identity new --vault none.vault`"), "{said}");
    let (_, said) = refused(folder, &["identity", "new", "--vault", "a.vault"]);
    assert_eq!(said, "a.vault exists already; choose another name, or remove it");
    let (_, said) = refused(folder, &["identity", "new", "--vault", "b.vault", "--at", "tcp://192.0.2.1"]);
    assert_eq!(
        said,
        "tcp://192.0.2.1 is no address (address port: malformed): write tcp://host:port, udp://host:port, ws[s]://host:port/path or serial:device?baud=rate"
    );
    assert!(!folder.join("b.vault").exists() && !folder.join("b.vault.key").exists(), "nothing is left behind");
    let (_, said) = refused(folder, &["identity", "new", "--vault", "b.vault", "--relay", "a.vault.card"]);
    assert!(said.starts_with("a.vault.card: the card has no address to connect to"), "{said}");
    let (_, said) = refused(folder, &["open", "--vault", "a.vault", "sealway:AAAA"]);
    assert_eq!(said, "sealway:AAAA: no card: COSE_Sign1: malformed");
    let (_, said) = refused(folder, &["open", "--vault", "a.vault", "nobody.card"]);
    assert!(said.starts_with("the card nobody.card cannot be read"), "{said}");
    let (_, said) = refused(folder, &["open", "--vault", "a.vault", "a.vault.card"]);
    assert_eq!(said, "the card names no relay that this node is attached to, and no address");
    let (_, said) = refused(folder, &["listen", "--vault", "a.vault", "--from", "a.vault.card"]);
    assert!(said.starts_with("the identity has no relay: give --listen ADDRESS"), "{said}");
    // Cut off, and altered.
    let whole = std::fs::read(folder.join("a.vault")).unwrap();
    std::fs::write(folder.join("a.vault"), &whole[..30]).unwrap();
    let (_, said) = refused(folder, &["card", "show", "--vault", "a.vault"]);
    assert_eq!(said, "a.vault is no vault of this version, or was cut off (salt)");
    std::fs::write(folder.join("a.vault"), [&whole[..whole.len() - 1], &[whole[whole.len() - 1] ^ 1]].concat())
        .unwrap();
    let (_, said) = refused(folder, &["card", "show", "--vault", "a.vault"]);
    assert!(said.contains("or the file was altered"), "{said}");
}

#[test]
fn a_second_process_on_one_vault_or_store_is_told_so() {
    let (folder, _relay) = relay();
    let folder = folder.path();
    let (code, said) = refused(folder, &["card", "show", "--vault", "relay.vault"]);
    assert_eq!(code, 3);
    assert_eq!(said, "another process uses the vault relay.vault; stop it first, or use another vault");
    let arguments = ["open", "--vault", "left.vault", "right.vault.card", "--data", "relay.vault.data"];
    let (code, said) = refused(folder, &arguments);
    assert_eq!(code, 1);
    assert!(said.starts_with("relay.vault.data: another process has the store open"), "{said}");
    std::fs::write(folder.join("notes.txt"), "not a store").unwrap();
    let arguments = ["open", "--vault", "left.vault", "right.vault.card", "--data", "notes.txt"];
    let (_, said) = refused(folder, &arguments);
    assert!(said.starts_with("notes.txt: the store is damaged, or is none"), "{said}");
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", occupied.local_addr().unwrap());
    let arguments = ["listen", "--vault", "left.vault", "--listen", &address];
    let (code, said) = refused(folder, &arguments);
    assert_eq!(code, 1);
    assert!(said.contains("is in use, or no address of this machine"), "{said}");
}

/// What could not be printed stays with the sender's outbox, and is printed by the next run.
#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_the_listener_and_loses_nothing() {
    let (folder, _relay) = relay();
    let folder = folder.path();
    let arguments = ["listen", "--vault", "right.vault", "--from", "left.vault.card"];
    let mut listener = sealway(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(listener.stdout.take());
    let mut opener = open(folder);
    writeln!(opener.0.stdin.take().unwrap(), "precious").unwrap();
    let (code, said) = sentence(&listener.wait_with_output().unwrap());
    assert_eq!(code, 1);
    assert!(said.starts_with("standard output: Broken pipe"), "{said}");
    let mut listener = listen(folder);
    assert_eq!(listener.lines().next().unwrap(), "precious");
    assert!(opener.0.wait().unwrap().success());
}

#[test]
fn a_relay_without_clients_says_so() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), "relay", &[]);
    let arguments = ["relay", "run", "--vault", "relay.vault", "--listen", "tcp://127.0.0.1:0"];
    let mut process = Running::start(sealway(folder.path()).args(arguments).stderr(Stdio::piped()));
    let mut warning = String::new();
    BufReader::new(process.0.stderr.as_mut().unwrap()).read_line(&mut warning).unwrap();
    assert_eq!(warning, "nobody may attach to this relay: name clients with --allow ID|CARD\n");
    assert!(process.lines().next().unwrap().starts_with("listening on tcp://127.0.0.1:"));
}

#[cfg(unix)]
#[test]
fn private_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), "a", &[]);
    for name in ["a.vault", "a.vault.key", "a.vault.recovery"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_identity_rotates_with_its_recovery_file_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "a", &["--at", "tcp://127.0.0.1:7000"]);
    made(folder, "b", &[]);
    let before = json(folder, &["identity", "show", "--vault", "a.vault", "--json"]);
    let rotate = |recovery, new| {
        ["identity", "rotate", "--json", "--vault", "a.vault", "--recovery", recovery, "--new-recovery", new]
    };
    let wrong = [
        (rotate("b.vault.recovery", "next"), (3, "is not the one that was announced")),
        (rotate("a.vault.card", "next"), (3, "a.vault.card is no recovery file")),
        (rotate("missing", "next"), (3, "the recovery file missing cannot be read")),
        (rotate("a.vault.recovery", "b.vault"), (3, "b.vault exists already")),
    ];
    for (arguments, (code, start)) in wrong {
        let (got, said) = refused(folder, &arguments);
        assert!(got == code && said.contains(start), "{said}");
        assert!(!folder.join("next").exists());
    }
    let after = json(folder, &rotate("a.vault.recovery", "next"));
    assert_eq!((&after["identity"], &after["rotations"]), (&before["identity"], &1.into()));
    assert_eq!(after["addresses"], before["addresses"]);
    assert_ne!(after["channel_key"], before["channel_key"]);
    assert_eq!(json(folder, &["card", "inspect", "a.vault.card", "--json"])["rotations"], 1);
    // The key that was announced now signs; the file that it came from is of no use any more.
    let (_, said) = refused(folder, &rotate("a.vault.recovery", "third"));
    assert!(said.contains("is not the one that was announced"), "{said}");
    assert_eq!(json(folder, &rotate("next", "third"))["rotations"], 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(folder.join("third")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// Who has the old card still reaches an identity that has rotated, and so does who has the new one.
#[cfg(unix)]
#[test]
fn the_card_from_before_a_rotation_still_works() {
    let (folder, relay) = relay();
    let folder = folder.path();
    std::fs::copy(folder.join("right.vault.card"), folder.join("old.card")).unwrap();
    let rotate = [
        "identity",
        "rotate",
        "--vault",
        "right.vault",
        "--recovery",
        "right.vault.recovery",
        "--new-recovery",
        "next",
    ];
    assert!(run(folder, &rotate).status.success());
    // By its id alone, so that it does not open the channel from its side.
    let left = json(folder, &["identity", "show", "--json", "--vault", "left.vault"])["identity"].clone();
    let mut listener = sealway(folder);
    listener.args(["listen", "--vault", "right.vault", "--from", left.as_str().unwrap()]);
    let mut listener = Running::start(&mut listener);
    let mut lines = listener.lines();
    for card in ["old.card", "right.vault.card"] {
        let mut opener = sealway(folder);
        opener.args(["open", "--vault", "left.vault", card]).stdin(Stdio::piped());
        let mut opener = Running::start(&mut opener);
        opener.0.stdin.take().unwrap().write_all(format!("with {card}\n").as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap(), format!("with {card}"));
        assert!(opener.0.wait().unwrap().success());
    }
    // Who has seen the new key does not go back to the old one.
    let (code, said) = refused(folder, &["open", "--vault", "left.vault", "old.card"]);
    assert!(code == 1 && said.contains("older than what is known"), "{said}");
    drop((listener, relay));
}

#[test]
fn a_card_is_renewed_when_a_relay_moves_or_rotates_and_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "relay", &["--at", "tcp://127.0.0.1:7000"]);
    made(folder, "a", &["--relay", "relay.vault.card"]);
    let before = json(folder, &["identity", "show", "--vault", "a.vault", "--json"]);
    std::fs::copy(folder.join("relay.vault.card"), folder.join("old.card")).unwrap();
    let moved = ["card", "renew", "--vault", "relay.vault", "--at", "tcp://[::1]:7001", "--json"];
    assert_eq!(json(folder, &moved)["addresses"][0], "tcp://[::1]:7001");
    let renew = |card| ["card", "renew", "--vault", "a.vault", "--relay", card, "--json"];
    let after = json(folder, &renew("relay.vault.card"));
    assert_eq!((&after["identity"], &after["channel_key"]), (&before["identity"], &before["channel_key"]));
    assert!(after["relays"][0].as_str().unwrap().ends_with("at tcp://[::1]:7001"), "{after}");
    assert_eq!(json(folder, &["card", "inspect", "a.vault.card", "--json"])["relays"], after["relays"]);
    assert!(before["sequence"].as_u64() < after["sequence"].as_u64(), "{after}");
    let rotate = ["identity", "rotate", "--vault", "relay.vault", "--recovery", "relay.vault.recovery"];
    assert!(run(folder, &[&rotate[..], &["--new-recovery", "next"]].concat()).status.success());
    assert!(run(folder, &renew("relay.vault.card")).status.success());
    let (code, said) = refused(folder, &renew("old.card"));
    assert!(code == 3 && said.starts_with("a newer card of the relay"), "{said}");
    let (code, said) = refused(folder, &["card", "renew", "--vault", "a.vault", "--at", "7000"]);
    assert!(code == 3 && said.starts_with("7000 is no address"), "{said}");
    assert_eq!(run(folder, &["card", "renew", "--vault", "a.vault"]).status.code(), Some(2), "nothing is named");
}

#[test]
fn cards_are_explained_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "relay", &["--at", "tcp://[::1]:7000"]);
    made(folder, "a", &["--relay", "relay.vault.card"]);
    let text = String::from_utf8(run(folder, &["card", "inspect", "a.vault.card"]).stdout).unwrap();
    assert!(text.contains("algorithm   Ed25519") && text.contains("at tcp://[::1]:7000"), "{text}");
    let drawn = String::from_utf8(run(folder, &["card", "show", "--qr", "--vault", "a.vault"]).stdout).unwrap();
    assert!(drawn.lines().count() > 20 && drawn.lines().last().unwrap().starts_with("sealway:"));
    let (code, said) = refused(folder, &["card", "inspect", "sealway:AAAA"]);
    assert!(code == 3 && said.contains("no card"), "{said}");
    let (code, said) = refused(
        folder,
        &["relay", "run", "--vault", "a.vault", "--listen", "tcp://[::1]:0", "--allow", &"AB".repeat(32)],
    );
    assert!(code == 3 && said.contains("lower-case"), "{said}");
}

#[test]
fn shells_and_manuals_are_served() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, word) in [
        (["completions", "bash"].as_slice(), "_sealway"),
        (["completions", "zsh"].as_slice(), "#compdef sealway"),
        (["completions", "fish"].as_slice(), "complete -c sealway"),
        (["man"].as_slice(), ".TH sealway"),
    ] {
        let text = String::from_utf8(run(folder.path(), arguments).stdout).unwrap();
        assert!(text.contains(word), "{arguments:?}");
    }
    let output = sealway(folder.path()).env("SEALWAY_LOG", "loud").arg("man").output().unwrap();
    let (code, said) = sentence(&output);
    assert!(code == 3 && said.contains("SEALWAY_LOG=loud is no level"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_relay_tells_what_it_counts_and_whether_it_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "relay", &["--at", "tcp://127.0.0.1:7000"]);
    let mut command = sealway(folder);
    command.args(["--log-format", "json", "relay", "run", "--vault", "relay.vault", "--listen", "tcp://127.0.0.1:0"]);
    command.args(["--metrics", "127.0.0.1:0"]).env("SEALWAY_LOG", "debug").stderr(Stdio::piped());
    let mut relay = Running::start(&mut command);
    let mut lines = relay.lines();
    let listens = lines.next().unwrap();
    let metrics = lines.next().unwrap();
    let address = metrics.trim_start_matches("metrics on http://").trim_end_matches("/metrics").to_string();
    assert!(get(&address, "/health").ends_with("ok\n"));
    // Somebody without the card, to be counted and logged.
    let port = listens.rsplit(':').next().unwrap().to_string();
    let mut stranger = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stranger.write_all(&[&[0x04, 0xde, 0x11], [7; 1245].as_slice()].concat()).unwrap();
    let mut log = BufReader::new(relay.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = log.find(|line| line.contains("does not have our card")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"DEBUG".into(), &"a frame was refused".into()));
    let text = get(&address, "/metrics");
    assert!(text.contains("sealway_strangers_total 1") && text.contains("# TYPE sealway_links gauge"), "{text}");
    assert!(text.contains("application/openmetrics-text"), "{text}");
    relay.stop();
}

/// Octets, more than a line may have, through a relay, until both ends have said that it is all.
#[cfg(unix)]
#[test]
fn octets_are_piped() {
    let (folder, relay) = relay();
    let folder = folder.path();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    std::fs::write(folder.join("sent"), &sent).unwrap();
    let mut listener = sealway(folder);
    listener.args(["listen", "--stream", "--vault", "right.vault", "--from", "left.vault.card"]);
    listener.stdout(std::fs::File::create(folder.join("received")).unwrap());
    let mut listener = listener.spawn().unwrap();
    let mut opener = sealway(folder);
    opener.args(["open", "--stream", "--vault", "left.vault", "right.vault.card"]);
    opener.stdin(std::fs::File::open(folder.join("sent")).unwrap());
    assert!(opener.status().unwrap().success());
    assert!(listener.wait().unwrap().success());
    assert!(std::fs::read(folder.join("received")).unwrap() == sent);
    drop(relay);
}

/// What was provisioned is a pairing: the two sides make a session.
#[test]
fn provisioned_devices_and_their_service_have_a_pairing() {
    use sealway_channel::{Pairing, PairingEvent, Provision, Source};
    use sealway_crypto_rustcrypto::RustCrypto;
    use sealway_identity::Owner;
    use sealway_vault::{KeyStore, SoftwareVault};
    use sealway_wire::{Timestamp, constrained::MAX_RECORD};

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "service", &[]);
    std::fs::write(folder.join("list.csv"), "name,place\nriver-1,bridge\n\"river-2\",weir\n").unwrap();
    let arguments = ["provision", "--for", "service.vault.card", "--out", "devices", "--list", "list.csv", "--header"];
    let output = run(folder, &[&arguments[..], &["--labels", "--json", "river-3"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |name: &str| std::fs::read_to_string(folder.join("devices").join(name)).unwrap();
    let pairings = text("pairings.csv");
    let rows: Vec<Vec<&str>> = pairings.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["river-3", "river-1", "river-2"]);
    for row in rows {
        let [name, device, pairing] = row[..] else { panic!("three columns") };
        let blob = std::fs::read(folder.join("devices").join(format!("{name}.bin"))).unwrap();
        assert!(text(&format!("{name}.h")).contains(&format!("#define SEALWAY_PROVISION_LEN {}\n", blob.len())));
        assert!(text(&format!("{name}.svg")).contains(name));
        let provider = RustCrypto::os();
        let of_device = Provision::decode(&provider, &blob).unwrap();
        assert_eq!(of_device.own.to_string(), device);
        assert_eq!(of_device.peer, card_id(folder, "service.vault.card"));
        let vault = std::sync::Arc::new(SoftwareVault::load(RustCrypto::os(), &of_device.keys).unwrap());
        let owner = Owner::load(&vault, &of_device.identity).unwrap();
        assert_eq!(owner.id(), of_device.own);
        let mut device = Pairing::new(vault, of_device.into_keys(owner.channel_key())).unwrap();
        let pairing = data_encoding::BASE64URL_NOPAD.decode(pairing.as_bytes()).unwrap();
        let of_service = Provision::decode(&provider, &pairing).unwrap();
        assert_eq!((of_service.peer, of_service.peer_key), (owner.id(), owner.channel_key().0));
        // The service's own key stays in its vault: here another one stands for it, and the device must not believe it.
        let mut stranger = SoftwareVault::new(RustCrypto::os());
        let key = stranger.generate_dh().unwrap();
        let mut service = Pairing::new(std::sync::Arc::new(stranger), of_service.into_keys(key)).unwrap();
        device.call(b"first words").unwrap();
        let state = device.poll_state().unwrap().unwrap();
        device.written(state.version);
        let mut out = [0; MAX_RECORD];
        let len = device.poll_transmit(&mut out).unwrap().unwrap();
        let refused = service.handle_frame(Timestamp::from_micros(1), Source::proven(1), &mut out[..len]);
        assert!(refused.is_err() && service.poll_event() != Some(PairingEvent::Early(b"first words".to_vec())));
    }
    let (code, said) = refused(folder, &["provision", "--for", "service.vault.card", "--out", "devices", "again"]);
    assert_eq!(code, 3);
    assert!(said.contains("is not empty"), "{said}");
    for (name, wrong) in [("../up", "is no name"), ("", "is no name"), ("a b", "is no name"), (".hidden", "is no name")]
    {
        let (code, said) = refused(folder, &["provision", "--for", "service.vault.card", "--out", "other", name]);
        assert_eq!(code, 3, "{name}");
        assert!(said.contains(wrong), "{said}");
    }
    let (_, said) = refused(folder, &["provision", "--for", "service.vault.card", "--out", "other", "a", "A"]);
    assert!(said.contains("two devices"), "{said}");
    let (_, said) = refused(folder, &["provision", "--for", "service.vault.card", "--out", "other"]);
    assert!(said.contains("no device"), "{said}");
}

fn card_id(folder: &Path, card: &str) -> sealway_wire::IdentityId {
    let text = std::fs::read_to_string(folder.join(card)).unwrap();
    let card = sealway_identity::UnverifiedCard::from_uri(text.trim()).unwrap();
    let provider = sealway_crypto_rustcrypto::RustCrypto::os();
    card.verify(&provider).unwrap().id()
}

/// Objects, a line each.
fn objects(output: &std::process::Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[cfg(unix)]
#[test]
fn the_way_to_a_peer_is_measured_and_where_it_is_lost_is_told() {
    let (folder, relay) = relay_over("udp");
    let folder = folder.path();
    let listener = listen(folder);
    let whom = ["--vault", "left.vault", "right.vault.card", "--json"];
    let ping = [&["ping", "--route", "--count", "2", "--interval", "10"], &whom[..]].concat();
    let answers = run(folder, &ping);
    assert!(answers.status.success(), "{}", String::from_utf8_lossy(&answers.stderr));
    let told = objects(&answers);
    let hops: Vec<_> = told.iter().filter_map(|object| object["hop"].as_str()).collect();
    assert_eq!(hops, ["relay", "peer", "relay", "peer"]);
    let last = told.last().unwrap();
    assert_eq!((&last["sent"], &last["answered"]), (&2.into(), &2.into()));
    assert!(told[0]["milliseconds"].as_f64().unwrap() > 0.0);
    let trace = [&["trace", "--limit", "20"], &whom[..]].concat();
    let told = objects(&run(folder, &trace));
    assert_eq!((&told[0]["kind"], &told[1]["kind"]), (&"relay".into(), &"peer".into()));
    assert!(told[0]["place"].as_str().unwrap().starts_with("udp://127.0.0.1:"));
    assert!(told[0]["unit"].as_u64().unwrap() >= 508);
    let doctor = ["doctor", "--vault", "left.vault", "right.vault.card", "--json", "--limit", "20"];
    let found = run(folder, &doctor);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
    let subjects: Vec<_> =
        objects(&found).iter().map(|object| object["subject"].as_str().unwrap().to_string()).collect();
    for subject in ["permissions", "clock", "vault", "address", "relay", "mtu", "peer"] {
        assert!(subjects.iter().any(|found| found == subject), "{subject}: {subjects:?}");
    }
    // Nobody is there any more, at the end or at the beginning of the way.
    listener.stop();
    let short = |command: &'static str| [&[command, "--limit", "3"], &whom[..]].concat();
    let lost = run(folder, &short("trace"));
    assert_eq!(sentence(&lost).0, 1);
    assert!(sentence(&lost).1.contains("is not attached to its relay"), "{}", sentence(&lost).1);
    assert!(objects(&lost)[1]["lost"].is_string());
    // One that does not let us in, and says nothing.
    let others = ["listen", "--vault", "right.vault", "--from", "relay.vault.card"];
    let stranger = Running::start(sealway(folder).args(others));
    let (code, said) = sentence(&run(folder, &[&short("ping")[..], &["--count", "1"]].concat()));
    assert_eq!(
        (code, said.contains("does it let this identity in?") || said.contains("let us write")),
        (1, true),
        "{said}"
    );
    stranger.stop();
    drop(relay);
    let (code, said) = sentence(&run(folder, &short("trace")));
    assert_eq!((code, said.contains("does not answer at udp")), (1, true), "{said}");
}

#[cfg(unix)]
#[test]
fn a_doctor_finds_what_is_wrong() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "relay", &["--at", "tcp://127.0.0.1:1"]);
    made(folder, "left", &["--relay", "relay.vault.card"]);
    std::fs::set_permissions(folder.join("left.vault.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    std::fs::File::options().write(true).open(folder.join("left.vault")).unwrap().set_modified(future).unwrap();
    let via = "serial:/dev/no-such-device?baud=9600";
    let output = run(folder, &["doctor", "--vault", "left.vault", "--limit", "1", "--json", "--via", via]);
    assert_eq!(output.status.code(), Some(1));
    let wrong: Vec<_> = objects(&output).into_iter().filter(|object| object["verdict"] == "wrong").collect();
    for (subject, detail) in [
        ("permissions", "left.vault.key has mode 644"),
        ("clock", "before the time at which the vault was written"),
        ("address", "nobody listens at tcp://127.0.0.1:1"),
        ("address", "serial:/dev/no-such-device?baud=9600 cannot be reached"),
        ("relay", "is not reached"),
    ] {
        let is_it = |object: &&serde_json::Value| {
            object["subject"] == subject && object["detail"].as_str().unwrap().contains(detail)
        };
        assert!(wrong.iter().any(|object| is_it(&object)), "{subject}: {detail}: {wrong:?}");
    }
    let (code, said) = refused(folder, &["doctor", "--vault", "none.vault"]);
    assert_eq!((code, said.contains("wrong")), (1, true), "{said}");
}
