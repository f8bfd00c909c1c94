//! WebSockets behind nginx and HAProxy, and through tinyproxy, with and without TLS: each does what every link does, and is
//! still there after a silence that is longer than the proxies' patience. Needs the three programs.
//!
//! `cargo run -p sealway-websocket --example proxies`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a check fails by panicking")]

#[path = "../tests/authority/mod.rs"]
mod authority;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use authority::Authority;
use sealway_link::{FrameLink, Listener, Transport as _};
use sealway_testkit::links::{End, conform, numbered};
use sealway_websocket::{Proxy, WebSocket};
use sealway_wire::Address;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// After so many seconds of silence the proxies end a connection.
const PATIENCE: u64 = 2;

/// A program that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str]) -> Running {
    let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Running(child.unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// A port that nobody uses just now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn nginx(folder: &Path, [plain, secure, relay]: [u16; 3]) -> Running {
    let path = folder.display();
    let text = format!(
        "daemon off; master_process off; pid {path}/nginx.pid; error_log {path}/nginx.log; events {{ }}
         http {{
           access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
           uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
           server {{
             listen 127.0.0.1:{plain}; listen 127.0.0.1:{secure} ssl;
             ssl_certificate {path}/certificate.pem; ssl_certificate_key {path}/key.pem;
             location /sealway {{
               proxy_pass http://127.0.0.1:{relay}; proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
               proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
               proxy_read_timeout {PATIENCE}s; proxy_send_timeout {PATIENCE}s;
             }}
           }}
         }}"
    );
    fs::write(folder.join("nginx.conf"), text).unwrap();
    let configuration = folder.join("nginx.conf");
    start("nginx", &["-c", configuration.to_str().unwrap()])
}

fn haproxy(folder: &Path, [plain, secure, relay]: [u16; 3]) -> Running {
    let path = folder.display();
    let text = format!(
        "defaults
           mode http
           option forwardfor
           timeout connect 5s
           timeout client {PATIENCE}s
           timeout server {PATIENCE}s
           timeout tunnel {PATIENCE}s
         frontend all
           bind 127.0.0.1:{plain}
           bind 127.0.0.1:{secure} ssl crt {path}/both.pem alpn http/1.1
           default_backend relay
         backend relay
           server one 127.0.0.1:{relay}\n"
    );
    fs::write(folder.join("haproxy.cfg"), text).unwrap();
    start("haproxy", &["-db", "-f", folder.join("haproxy.cfg").to_str().unwrap()])
}

fn tinyproxy(folder: &Path, port: u16) -> Running {
    let text = format!("Port {port}\nListen 127.0.0.1\nTimeout {PATIENCE}\nBasicAuth sensor secret\nAllow 127.0.0.1\n");
    fs::write(folder.join("tinyproxy.conf"), text).unwrap();
    start("tinyproxy", &["-d", "-c", folder.join("tinyproxy.conf").to_str().unwrap()])
}

/// A link over `client` to the listener, as soon as everything on the way is up.
async fn pair(client: &WebSocket, address: &str, listener: &mut dyn Listener) -> [Box<dyn FrameLink>; 2] {
    let address = Address::parse(address).unwrap();
    let connecting = async {
        loop {
            match client.connect(&address).await {
                Ok(link) => return link,
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{address}: {error}"),
            }
        }
    };
    let both = async { tokio::join!(connecting, listener.accept()) };
    let (near, far) = timeout(Duration::from_secs(20), both).await.unwrap_or_else(|_| panic!("{address}: no link"));
    [near, far.unwrap()]
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new();
    fs::write(folder.join("certificate.pem"), &authority.certificate).unwrap();
    fs::write(folder.join("key.pem"), &authority.key).unwrap();
    fs::write(folder.join("both.pem"), format!("{}{}", authority.certificate, authority.key)).unwrap();
    let server = WebSocket::default().behind("127.0.0.1".parse().unwrap());
    let mut listener = server.listen(&Address::parse("ws://127.0.0.1:0/sealway").unwrap()).await.unwrap();
    let Some(Ok(relay)) = listener.address().rsplit(':').next().map(|end| end.replace("/sealway", "").parse()) else {
        panic!("{}", listener.address())
    };
    let [a, b, c, d, proxy] = [(); 5].map(|()| port());
    let _programs = [nginx(folder, [a, b, relay]), haproxy(folder, [c, d, relay]), tinyproxy(folder, proxy)];
    let direct = authority.transport().with_ping_interval(Duration::from_millis(500));
    let proxied = Proxy::parse(&format!("http://sensor:secret@127.0.0.1:{proxy}")).unwrap();
    let tunnelled = direct.clone().through(proxied);
    let mut silent = JoinSet::new();
    for (name, client, scheme, port) in [
        ("nginx", &direct, "ws", a),
        ("nginx", &direct, "wss", b),
        ("HAProxy", &direct, "ws", c),
        ("HAProxy", &direct, "wss", d),
        ("tinyproxy", &tunnelled, "ws", relay),
        ("tinyproxy and nginx", &tunnelled, "wss", b),
        ("tinyproxy and HAProxy", &tunnelled, "wss", d),
    ] {
        let address = format!("{scheme}://127.0.0.1:{port}/sealway");
        conform(async || pair(client, &address, &mut *listener).await).await;
        let ends = pair(client, &address, &mut *listener).await.map(End::new);
        silent.spawn(keep_silence(format!("{scheme} {name}"), ends));
    }
    while let Some(kept) = silent.join_next().await {
        println!("{}: all sizes, both directions, an end, and {} s of silence", kept.unwrap(), 3 * PATIENCE);
    }
}

/// Both ends are there, or pings would not be answered; then frames pass as before.
async fn keep_silence(name: String, [mut near, mut far]: [End; 2]) -> String {
    let silence = async { tokio::join!(near.recv(), far.recv()) };
    let ended = timeout(Duration::from_secs(3 * PATIENCE), silence).await;
    assert!(ended.is_err(), "{name}: the link has ended in a silence: {ended:?}");
    let frame = numbered(1, 1000);
    near.send(&frame).await.unwrap();
    assert_eq!(far.recv().await, Ok(Some(frame.clone())), "{name}");
    far.send(&frame).await.unwrap();
    assert_eq!(near.recv().await, Ok(Some(frame)), "{name}");
    name
}
