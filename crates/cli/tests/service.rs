//! Relays and gateways as services run them: from a file, which is read again, with somebody who is told.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod ports;
mod process;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixDatagram,
    path::Path,
    process::Stdio,
    time::Duration,
};

use self::{
    ports::free_port,
    process::{Running, get, made, refused, sealway},
};

/// A folder with a certificate for this machine, whose owner believes it.
fn certified(folder: &Path) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    fs::write(folder.join("certificate.pem"), certified.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
}

fn talk(folder: &Path, more: &[&str]) {
    let listener = ["listen", "--vault", "right.vault", "--from", "left.vault.card"];
    let mut listener = Running::start(sealway(folder).args(listener).args(more));
    let opener = ["open", "--vault", "left.vault", "right.vault.card"];
    let mut opener = Running::start(sealway(folder).args(opener).args(more).stdin(Stdio::piped()));
    let mut input = opener.0.stdin.take().unwrap();
    writeln!(input, "one\ntwo").unwrap();
    assert_eq!(listener.lines().take(2).collect::<Vec<_>>(), ["one", "two"]);
    drop(input);
    assert!(opener.0.wait().unwrap().success());
    listener.stop();
}

/// What a service manager is told.
struct Manager(UnixDatagram);

impl Manager {
    fn next(&self) -> String {
        let mut told = [0; 256];
        let len = loop {
            match self.0.recv(&mut told) {
                Ok(len) => break len,
                // A process that was stopped for a moment: signal(7), of sockets with a time limit.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing is told: {error}"),
            }
        };
        String::from_utf8_lossy(&told[..len]).lines().next().unwrap_or_default().to_string()
    }
}

fn manager(folder: &Path) -> Manager {
    let socket = UnixDatagram::bind(folder.join("manager")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    Manager(socket)
}

#[test]
fn lines_go_through_a_gateway_and_over_wss() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certified(folder);
    let relay = format!("wss://127.0.0.1:{}/sealway", free_port(20_000));
    made(folder, "relay", &["--at", &relay]);
    made(folder, "left", &["--relay", "relay.vault.card"]);
    made(folder, "right", &["--relay", "relay.vault.card"]);
    let tls = ["--tls-certificate", "certificate.pem", "--tls-key", "key.pem"];
    let run = ["relay", "run", "--vault", "relay.vault", "--listen", &relay];
    let allow = ["--allow", "left.vault.card", "--allow", "right.vault.card"];
    let mut process = Running::start(sealway(folder).args(run).args(allow).args(tls));
    assert_eq!(process.lines().next().unwrap(), format!("listening on {relay}"));
    let trust = ["--tls-authority", "certificate.pem"];
    talk(folder, &trust);
    // The same, with a gateway that speaks TLS with the relay, and TCP with those behind it.
    let link = format!("tcp://127.0.0.1:{}", free_port(20_000));
    let gateway = ["gateway", "run", "--link", &link, "--uplink", &relay, "--metrics", "127.0.0.1:0"];
    let mut gateway = Running::start(sealway(folder).args(gateway).args(trust));
    let mut lines = gateway.lines();
    assert_eq!(lines.next().unwrap(), format!("devices at {link}"));
    let metrics = lines.next().unwrap();
    let place = metrics.trim_start_matches("metrics on http://").trim_end_matches("/metrics").to_string();
    talk(folder, &["--via", &link]);
    // What passes can be looked at: sealed.
    let listener = ["listen", "--vault", "right.vault", "--from", "left.vault.card", "--via", &link];
    let mut listener = Running::start(sealway(folder).args(listener).args(["--record", "right.pcapng"]));
    let opener = ["open", "--vault", "left.vault", "right.vault.card", "--via", &link];
    let mut opener = Running::start(sealway(folder).args(opener).stdin(Stdio::piped()));
    writeln!(opener.0.stdin.take().unwrap(), "what nobody else reads").unwrap();
    assert_eq!(listener.lines().next().unwrap(), "what nobody else reads");
    assert!(opener.0.wait().unwrap().success());
    listener.stop();
    let recorded = fs::read(folder.join("right.pcapng")).unwrap();
    let contains = |text: &str| recorded.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(recorded.len() > 2000 && contains(&format!("to {link}")) && !contains("nobody else"), "{}", recorded.len());
    let figures = get(&place, "/metrics");
    let carried: u64 = figure(&figures, "sealway_gateway_frames_up_total");
    assert!(carried > 5, "{figures}");
    assert!(get(&place, "/health").ends_with("ok\n"));
    gateway.stop();
    process.stop();
}

fn figure(figures: &str, name: &str) -> u64 {
    let line = figures.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_relay_takes_over_what_its_file_says_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let relay = format!("tcp://127.0.0.1:{}", free_port(20_000));
    made(folder, "relay", &["--at", &relay]);
    made(folder, "left", &["--relay", "relay.vault.card"]);
    made(folder, "right", &["--relay", "relay.vault.card"]);
    let write = |allow: &str, more: &str| {
        let text = format!("[relay]\nvault = 'relay.vault'\nlisten = ['{relay}']\nallow = [{allow}]\n{more}");
        fs::write(folder.join("sealway.toml"), text).unwrap();
    };
    write("'left.vault.card'", "");
    let manager = manager(folder);
    let mut command = sealway(folder);
    command.args(["relay", "run", "--config", "sealway.toml"]).env("NOTIFY_SOCKET", folder.join("manager"));
    let process = Running::start(command.stderr(Stdio::piped()));
    assert_eq!(manager.next(), "READY=1");
    // Who is not named yet is let in when he is.
    let listener = ["listen", "--vault", "right.vault", "--from", "left.vault.card"];
    let mut listener = Running::start(sealway(folder).args(listener));
    write("'left.vault.card', 'right.vault.card'", "");
    process.signal("HUP");
    assert_eq!([manager.next(), manager.next()], ["RELOADING=1", "READY=1"]);
    let opener = ["open", "--vault", "left.vault", "right.vault.card"];
    let mut opener = Running::start(sealway(folder).args(opener).stdin(Stdio::piped()));
    let mut input = opener.0.stdin.take().unwrap();
    writeln!(input, "one").unwrap();
    let mut heard = listener.lines();
    assert_eq!(heard.next().unwrap(), "one");
    // A file that is wrong changes nothing.
    for wrong in ["[relai]\n", "[log]\nlevel = 'loud'\n", "[web]\nkey = 'key.pem'\n"] {
        write("", wrong);
        process.signal("HUP");
        assert_eq!([manager.next(), manager.next()], ["RELOADING=1", "READY=1"], "{wrong}");
    }
    writeln!(input, "two").unwrap();
    assert_eq!(heard.next().unwrap(), "two");
    // Who is not named any more is cut off: what is sent to him waits.
    write("'left.vault.card'", "");
    process.signal("HUP");
    assert_eq!([manager.next(), manager.next()], ["RELOADING=1", "READY=1"]);
    listener.signal("KILL");
    writeln!(input, "three").unwrap();
    drop(input);
    // He comes again, and is not heard of until he is named again.
    let again = ["listen", "--vault", "right.vault", "--from", "left.vault.card"];
    let mut warned = sealway(folder);
    let mut again = Running::start(warned.args(again).stderr(Stdio::piped()));
    let mut said = std::io::BufReader::new(again.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("does it let this identity attach?") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "it ended");
    }
    write("'left.vault.card', 'right.vault.card'", "[log]\nlevel = 'info'\n");
    process.signal("HUP");
    assert_eq!([manager.next(), manager.next()], ["RELOADING=1", "READY=1"]);
    assert_eq!(again.lines().next().unwrap(), "three");
    assert!(opener.0.wait().unwrap().success());
    again.stop();
    let mut process = process;
    let mut errors = process.0.stderr.take().unwrap();
    process.stop();
    assert_eq!(manager.next(), "STOPPING=1");
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("the configuration stays as it was").count(), 3, "{text}");
    // Only since the level was raised.
    assert_eq!(text.matches("the configuration was read again").count(), 1, "{text}");
}

#[test]
fn a_file_that_is_wrong_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    made(folder, "relay", &[]);
    let relay = "[relay]\nvault = 'relay.vault'\n";
    for (command, text, expected) in [
        ("relay", "", "sealway.toml: there is no [relay]"),
        ("relay", "[gateway]\nlink = []\nuplink = []\n", "sealway.toml: there is no [relay]"),
        ("gateway", relay, "missing field `listen`"),
        ("relay", "[relay]\nlisten = []\n", "missing field `vault`"),
        ("relay", &format!("{relay}listen = []\n"), "relay.listen names no address"),
        ("relay", &format!("{relay}listen = ['tcp://127.0.0.1']\n"), "address port: malformed"),
        ("relay", &format!("{relay}listen = ['wss://127.0.0.1:0']\n"), "no certificate was given"),
        (
            "relay",
            &format!("{relay}listen = ['tcp://127.0.0.1:0']\nclient-rate = 7\n"),
            "relay.client-rate is below 1024",
        ),
        ("relay", &format!("{relay}listen = ['tcp://127.0.0.1:0']\nallow = ['no.card']\n"), "no.card"),
        ("relay", &format!("{relay}listen = ['tcp://127.0.0.1:0']\nusers = 7\n"), "unknown field `users`"),
        ("relay", "[relay\n", "line 1"),
        (
            "gateway",
            "[gateway]\nlink = []\nuplink = ['tcp://127.0.0.1:1']\n",
            "at least one address at which devices are",
        ),
        ("gateway", "[gateway]\nlink = ['tcp://127.0.0.1:0']\nuplink = []\n", "at least one address of a relay"),
        (
            "gateway",
            "[gateway]\nlink = ['udp://127.0.0.1:0']\nuplink = ['tcp://127.0.0.1:1']\n",
            "sources of datagrams can be forged",
        ),
        ("gateway", "[gateway]\nlink = ['lora://x']\nuplink = ['tcp://127.0.0.1:1']\n", "address scheme: malformed"),
    ] {
        fs::write(folder.join("sealway.toml"), text).unwrap();
        let output = process::run(folder, &[command, "run", "--config", "sealway.toml"]);
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(said.contains(expected), "{text}: {said}");
        assert!(matches!(output.status.code(), Some(1 | 3)), "{said}");
    }
    for arguments in [
        &["relay", "run", "--config", "sealway.toml", "--allow", "x"][..],
        &["relay", "run", "--config", "sealway.toml", "--vault", "relay.vault"],
        &["relay", "run", "--listen", "tcp://127.0.0.1:0"],
        &["relay", "run", "--vault", "relay.vault"],
        &["gateway", "run", "--link", "tcp://127.0.0.1:0"],
        &["relay", "run", "--vault", "relay.vault", "--listen", "wss://127.0.0.1:0", "--tls-key", "key.pem"],
    ] {
        assert_eq!(process::run(folder, arguments).status.code(), Some(2), "{arguments:?}");
    }
    let (code, said) = refused(folder, &["relay", "run", "--config", "none.toml"]);
    assert_eq!((code, said.starts_with("none.toml: No such file")), (3, true), "{said}");
    let with = ["relay", "run", "--vault", "relay.vault", "--listen", "wss://127.0.0.1:0"];
    let (code, said) =
        refused(folder, &[&with[..], &["--tls-key", "key.pem", "--tls-certificate", "none.pem"]].concat());
    assert_eq!((code, said.starts_with("none.pem: No such file")), (3, true), "{said}");
}

/// The example is one that works, and names everything that there is.
#[test]
fn the_example_of_a_file_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/sealway.toml")).unwrap();
    fs::write(folder.join("sealway.toml"), &example).unwrap();
    // It is understood; what it names is not on this machine.
    let (_, said) = refused(folder, &["relay", "run", "--config", "sealway.toml"]);
    assert!(said.contains("/etc/sealway/fullchain.pem"), "{said}");
    let all = ["passphrase-file", "key-file", "data", "authority"].map(|name| format!("# {name} = "));
    assert!(all.iter().all(|line| example.contains(line.as_str())), "what may be left out is named");
}
