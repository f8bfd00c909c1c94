//! One channel over every medium, and over several of them in a row.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod machines;

use std::path::{Path, PathBuf};

use machines::{
    Machine, TestVault,
    cable::{Cable, address},
    numbers, receive, send_all,
};
use sealway_gateway::Gateway;
use sealway_identity::{Card, CardParts, Policy};
use sealway_node::{Builder, Channel, Node, RelayConfig};
use sealway_serial::Serial;
use sealway_tcp::Tcp;
use sealway_udp::Udp;
use sealway_websocket::WebSocket;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A medium that allows S1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    Tcp,
    Udp,
    Ws,
    Wss,
    Line,
}

const ALL: [Medium; 5] = [Medium::Tcp, Medium::Udp, Medium::Ws, Medium::Wss, Medium::Line];

/// What the tests' machines have in common.
struct Scene {
    folder: tempfile::TempDir,
    websocket: WebSocket,
}

impl Scene {
    fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
        let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        let websocket = WebSocket::default().trusting(certificate.as_bytes()).unwrap();
        websocket.set_certificate(certificate.as_bytes(), key.as_bytes()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), websocket }
    }

    fn builder(&self, machine: &Machine) -> Builder<TestVault> {
        machine.builder().transport(Serial::default()).transport(self.websocket.clone())
    }

    fn end(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where `node` is reached over a medium; and the cable, if it is one.
    async fn listen(&self, node: &Node, medium: Medium) -> (String, Option<Cable>) {
        let at = match medium {
            Medium::Tcp => "tcp://127.0.0.1:0",
            Medium::Udp => "udp://127.0.0.1:0",
            Medium::Ws => "ws://127.0.0.1:0/sealway",
            Medium::Wss => "wss://127.0.0.1:0/sealway",
            Medium::Line => {
                let names = ["near", "far"].map(|name| self.end(&format!("{name} {}", node.id()).replace(' ', "-")));
                let cable = Cable::plug([&*names[0], &*names[1]]);
                node.listen(&address(&names[0])).await.unwrap();
                return (address(&names[1]), Some(cable));
            }
        };
        (node.listen(at).await.unwrap(), None)
    }
}

/// A card that says nothing about where its owner is.
fn bare_card(machine: &Machine) -> Card {
    machine.owner.card(&machine.vault, &CardParts::default()).unwrap()
}

async fn they_talk(one: &mut Channel, other: &mut Channel) {
    let messages: Vec<Vec<u8>> = [0, 1, 1000, 20_000].into_iter().map(|size| vec![6; size]).collect();
    send_all(one, &messages).await;
    assert_eq!(receive(other, messages.len()).await, messages);
    send_all(other, &messages).await;
    assert_eq!(receive(one, messages.len()).await, messages);
}

#[tokio::test]
async fn two_machines_talk_over_every_medium() {
    let scene = Scene::new();
    for medium in ALL {
        let (left, right) = (Machine::new(), Machine::new());
        let there = scene.builder(&right).accept(left.policy()).start().await.unwrap();
        let (place, _cable) = scene.listen(&there, medium).await;
        let here = scene.builder(&left).start().await.unwrap();
        let card = bare_card(&right);
        here.reach(card.id(), &place).await.unwrap();
        let mut to_right = here.open(&card, Policy::only(&card)).await.unwrap();
        send_all(&to_right, &numbers(1)).await;
        let mut to_left = there.accept().await.unwrap();
        assert_eq!(receive(&mut to_left, 1).await, numbers(1), "{medium:?}");
        they_talk(&mut to_right, &mut to_left).await;
    }
}

#[tokio::test]
async fn a_relay_joins_every_two_media() {
    let scene = Scene::new();
    for (at, one) in ALL.into_iter().enumerate() {
        for other in &ALL[at..] {
            let (relay, left, right) = (Machine::new(), Machine::new(), Machine::new());
            let mut clients = left.policy();
            clients.admit(right.owner.id());
            let builder = scene.builder(&relay).accept(clients);
            let relay_node = builder.relay(RelayConfig::default()).start().await.unwrap();
            let card = bare_card(&relay);
            let nodes = [scene.builder(&left).start().await.unwrap(), scene.builder(&right).start().await.unwrap()];
            let mut cables = Vec::new();
            for (node, medium) in nodes.iter().zip([one, *other]) {
                let (place, cable) = match (medium, cables.is_empty()) {
                    // A second line, on the same relay.
                    (Medium::Line, false) => {
                        let names = [scene.end(&format!("{}-a", node.id())), scene.end(&format!("{}-b", node.id()))];
                        let cable = Cable::plug([&*names[0], &*names[1]]);
                        relay_node.listen(&address(&names[0])).await.unwrap();
                        (address(&names[1]), Some(cable))
                    }
                    _ => scene.listen(&relay_node, medium).await,
                };
                cables.extend(cable);
                node.reach(card.id(), &place).await.unwrap();
            }
            let ends = [(&left, &card), (&right, &card)];
            let [mut to_right, mut to_left] = machines::meet(ends, [&nodes[0], &nodes[1]]).await;
            they_talk(&mut to_right, &mut to_left).await;
        }
    }
}

/// What stands between the phone and the relay, and can be taken away.
struct Proxy {
    address: String,
    connections: JoinSet<()>,
}

impl Proxy {
    /// One at `address`, which carries what comes to `relay`.
    async fn start(address: &str, relay: String) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut inner = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let relay = relay.clone();
                inner.spawn(async move {
                    let mut far = TcpStream::connect(relay).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, connections }
    }

    async fn stop(mut self) -> String {
        self.connections.shutdown().await;
        self.address
    }
}

/// The route of the next test: device, line, gateway, UDP, relay, WebSocket, proxy, phone.
struct Route {
    scene: Scene,
    relay: Machine,
    device: Machine,
    phone: Machine,
}

impl Route {
    async fn relay(&self, udp: &str, web: &str) -> (Node, String, String) {
        let mut clients = self.device.policy();
        clients.admit(self.phone.owner.id());
        let builder = self.scene.builder(&self.relay).accept(clients).relay(RelayConfig::default());
        let node = builder.start().await.unwrap();
        let (udp, web) = (node.listen(udp).await.unwrap(), node.listen(web).await.unwrap());
        (node, udp, web)
    }

    async fn gateway(&self, line: &Path, relay: &str) -> Gateway {
        let builder = Gateway::builder().transport(Tcp::default()).transport(Udp::default());
        let builder = builder.transport(Serial::default()).link(address(line)).uplink(relay);
        builder.start().await.unwrap()
    }
}

/// Sends numbered messages both ways, and takes them.
struct Talk {
    ends: [Channel; 2],
    said: u32,
}

impl Talk {
    /// Ten messages each way: they are on disk when this returns.
    async fn say(&mut self) {
        for number in self.said..self.said + 10 {
            for end in &self.ends {
                end.send(number.to_be_bytes()).await.unwrap();
            }
        }
        self.said += 10;
    }

    /// The ten that were said last have come, once and in order.
    async fn hear(&mut self) {
        let expected: Vec<_> = (self.said - 10..self.said).map(|number| number.to_be_bytes().to_vec()).collect();
        for end in &mut self.ends {
            assert_eq!(receive(end, 10).await, expected);
        }
    }
}

#[tokio::test]
async fn one_channel_over_four_media_outlives_each_of_its_links() {
    let route = Route { scene: Scene::new(), relay: Machine::new(), device: Machine::new(), phone: Machine::new() };
    let names = [route.scene.end("gateway"), route.scene.end("device")];
    let plug = || Cable::plug([&*names[0], &*names[1]]);
    let mut cable = plug();
    let (relay, udp, web) = route.relay("udp://127.0.0.1:0", "ws://127.0.0.1:0/sealway").await;
    let web_place = web.trim_start_matches("ws://").trim_end_matches("/sealway").to_string();
    let mut gateway = route.gateway(&names[0], &udp).await;
    let proxy = Proxy::start("127.0.0.1:0", web_place.clone()).await;
    let card = bare_card(&route.relay);
    let device = route.scene.builder(&route.device).start().await.unwrap();
    device.reach(card.id(), &address(&names[1])).await.unwrap();
    let phone = route.scene.builder(&route.phone).start().await.unwrap();
    phone.reach(card.id(), &format!("ws://{}/sealway", proxy.address)).await.unwrap();
    let ends = machines::meet([(&route.device, &card), (&route.phone, &card)], [&device, &phone]).await;
    let mut talk = Talk { ends, said: 0 };
    talk.say().await;
    talk.hear().await;
    // The line is unplugged.
    drop(cable);
    talk.say().await;
    cable = plug();
    talk.hear().await;
    // The gateway ends, and another one takes its place: to the relay, the device has moved.
    gateway.shutdown().await;
    talk.say().await;
    gateway = route.gateway(&names[0], &udp).await;
    talk.hear().await;
    // The proxy ends with all that goes through it.
    let place = proxy.stop().await;
    talk.say().await;
    let _proxy = Proxy::start(&place, web_place).await;
    talk.hear().await;
    // The relay starts anew, and has told its clients so.
    relay.shutdown().await;
    talk.say().await;
    let (_relay, ..) = route.relay(&udp, &web).await;
    talk.hear().await;
    talk.say().await;
    talk.hear().await;
    assert!(gateway.counts().frames_up > 0);
    drop(cable);
}
